//! Names in `/etc/hosts`: their addresses are known without asking a server.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::{IpAddr, SocketAddr};

use netpoll_core::socket::literal;

const PATH: &str = "/etc/hosts";

/// The addresses of `host` in `/etc/hosts`, IPv6 first; none if the file does not name it. Reads
/// the whole file each time, since it may have changed.
pub(crate) fn look_up(host: &str) -> Vec<SocketAddr> {
    File::open(PATH).map_or_else(|_| Vec::new(), |file| find(host, BufReader::new(file)))
}

/// Lines are an address and its names, as in `127.0.0.1 localhost localhost.localdomain # ours`.
fn find(host: &str, mut file: impl BufRead) -> Vec<SocketAddr> {
    let (mut line, mut found) = (Vec::new(), Vec::new());
    while file.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
        if let Ok(text) = std::str::from_utf8(&line) {
            found.extend(address_of(host, text).filter(|it| !found.contains(it)));
        }
        line.clear();
    }
    // As RFC 6724 sorts them. If the machine lacks a family, a connect over it fails at once.
    found.sort_by_key(|address: &SocketAddr| address.is_ipv4());
    found
}

fn address_of(host: &str, line: &str) -> Option<SocketAddr> {
    let mut words = line.split('#').next()?.split_ascii_whitespace();
    let address = words.next()?;
    if !words.any(|name| name.eq_ignore_ascii_case(host)) {
        return None;
    }
    // A mapped address stands for the IPv4 address.
    let mut address = literal(address, 0)?;
    if let IpAddr::V4(v4) = address.ip().to_canonical() {
        address.set_ip(v4.into());
    }
    Some(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOSTS: &str = "# a comment localhost\n\
        127.0.0.1\tlocalhost  Printer # other\n\
        ::1 localhost\r\n\
        \n\
        192.0.2.7 a.name b.name\n\
        192.0.2.7 a.name\n\
        ::ffff:192.0.2.8 mapped\n\
        nonsense a.name\n\
        192.0.2.9";

    fn found(host: &str) -> Vec<String> {
        let file = [HOSTS.as_bytes(), b" last \xff\n192.0.2.10 odd"].concat();
        find(host, &file[..]).iter().map(|it| it.ip().to_string()).collect()
    }

    #[test]
    fn a_name_has_the_addresses_of_its_lines() {
        assert_eq!(found("localhost"), ["::1", "127.0.0.1"]);
        assert_eq!(found("LOCALHOST"), found("localhost"));
        assert_eq!(found("printer"), ["127.0.0.1"]);
        assert_eq!((found("a.name"), found("b.name")), (vec!["192.0.2.7".into()], found("a.name")));
        assert_eq!(found("mapped"), ["192.0.2.8"]);
        assert_eq!(found("odd"), ["192.0.2.10"], "behind a line that is no text");
        for none in ["other", "a", "127.0.0.1", "last", "#", ""] {
            assert_eq!(found(none), [""; 0], "{none}");
        }
    }
}
