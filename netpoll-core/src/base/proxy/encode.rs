//! PROXY headers as bytes, for a proxy that dials.

use std::net::{IpAddr, SocketAddr};
use std::os::unix::ffi::OsStrExt;

use super::header::Header;
use super::{HEAD, PATH_MAX, SIGNATURE_2, tlv};
use crate::base::address::Address;
use crate::base::error::{Error, Result};

/// A version of the PROXY protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// A line of text: addresses of TCP, and nothing else.
    V1,
    /// Binary: also Unix addresses, extensions, and whether the proxy speaks for itself.
    V2,
}

/// The addresses as a header has them: both of one family.
enum Ends<'a> {
    V4([u8; 4], [u8; 4], u16, u16),
    V6([u8; 16], [u8; 16], u16, u16),
    Unix(&'a Address, &'a Address),
    Unknown,
}

impl Header {
    /// The bytes of this header. What a version can't say is left out: version 1 says `UNKNOWN` for
    /// Unix sockets and for a proxy that speaks for itself, and has no extensions; a proxy that
    /// speaks for itself has none in version 2 either. Where one address is of IPv4 and the other
    /// of IPv6, both are written as IPv6.
    ///
    /// # Errors
    /// [`Error::Config`] for more than 65 535 bytes behind the head of version 2, and for a Unix
    /// address of more than 108 bytes.
    pub fn encode(&self, version: Version) -> Result<Vec<u8>> {
        match version {
            Version::V1 => Ok(self.line()),
            Version::V2 => self.binary(),
        }
    }

    fn line(&self) -> Vec<u8> {
        match self.families() {
            Ends::V4(source, target, from, to) => {
                let (source, target) = (IpAddr::from(source), IpAddr::from(target));
                format!("PROXY TCP4 {source} {target} {from} {to}\r\n").into_bytes()
            }
            Ends::V6(source, target, from, to) => {
                let (source, target) = (IpAddr::from(source), IpAddr::from(target));
                format!("PROXY TCP6 {source} {target} {from} {to}\r\n").into_bytes()
            }
            Ends::Unix(..) | Ends::Unknown => b"PROXY UNKNOWN\r\n".to_vec(),
        }
    }

    fn binary(&self) -> Result<Vec<u8>> {
        let command = if self.is_local { 0x20 } else { 0x21 };
        let (family, mut payload) = match self.families() {
            Ends::V4(source, target, from, to) => (0x11, inet(&source, &target, from, to)),
            Ends::V6(source, target, from, to) => (0x21, inet(&source, &target, from, to)),
            Ends::Unix(source, target) => (0x31, [unix(source)?, unix(target)?].concat()),
            Ends::Unknown => (0x00, Vec::new()),
        };
        let extensions = HEAD + payload.len();
        if !self.is_local {
            payload.extend(&self.tlvs);
        }
        let len = u16::try_from(payload.len()).ok().filter(|_| !self.is_too_long);
        let Some(len) = len else {
            return Err(Error::config(
                "a PROXY header has 65 535 bytes of addresses and extensions at the most",
            ));
        };
        let mut bytes = [SIGNATURE_2, &[command, family], &len.to_be_bytes(), &payload].concat();
        fill_checksum(&mut bytes, extensions);
        Ok(bytes)
    }

    fn families(&self) -> Ends<'_> {
        match &self.ends {
            _ if self.is_local => Ends::Unknown,
            Some((Address::Inet(source), Address::Inet(target))) => inets(*source, *target),
            Some((source, target)) if source.is_unix() && target.is_unix() => {
                Ends::Unix(source, target)
            }
            _ => Ends::Unknown,
        }
    }
}

fn inets(source: SocketAddr, target: SocketAddr) -> Ends<'static> {
    let v6 = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
        IpAddr::V6(ip) => ip.octets(),
    };
    let (from, to) = (source.port(), target.port());
    match (source.ip().to_canonical(), target.ip().to_canonical()) {
        (IpAddr::V4(source), IpAddr::V4(target)) => {
            Ends::V4(source.octets(), target.octets(), from, to)
        }
        (source, target) => Ends::V6(v6(source), v6(target), from, to),
    }
}

fn inet(source: &[u8], target: &[u8], from: u16, to: u16) -> Vec<u8> {
    [source, target, &from.to_be_bytes(), &to.to_be_bytes()].concat()
}

/// A Unix address as it stands in a `sockaddr_un`.
fn unix(address: &Address) -> Result<Vec<u8>> {
    let mut field = match address {
        Address::Path(path) => path.as_os_str().as_bytes().to_vec(),
        Address::Abstract(name) => [&[0], &**name].concat(),
        Address::Inet(_) | Address::Unnamed => Vec::new(),
    };
    if field.len() > PATH_MAX {
        return Err(Error::config(format!(
            "{address} is too long for a PROXY header: a Unix address has {PATH_MAX} bytes"
        )));
    }
    field.resize(PATH_MAX, 0);
    Ok(field)
}

/// Computes the checksum of a header, where it has one; its extensions begin at `start`.
fn fill_checksum(bytes: &mut [u8], start: usize) {
    let places: Vec<_> = tlv::checksums(&bytes[start..]).filter(|(_, len)| *len == 4).collect();
    let fields: Vec<_> = places.iter().map(|(at, len)| start + at..start + at + len).collect();
    for field in &fields {
        bytes[field.clone()].fill(0);
    }
    let sum = tlv::crc32c(bytes, 0).to_be_bytes();
    for field in fields.into_iter().take(1) {
        bytes[field].copy_from_slice(&sum);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::base::proxy::{Tls, parse};

    fn header(source: &str, target: &str) -> Header {
        let address = |text: &str| text.parse::<SocketAddr>().expect("an address");
        Header::between(address(source), address(target))
    }

    #[test]
    fn lines_are_as_the_specification_has_them() {
        let line = |header: Header| String::from_utf8(header.encode(Version::V1).unwrap()).unwrap();
        assert_eq!(line(header("192.0.2.1:1", "[::ffff:192.0.2.2]:65535")), {
            "PROXY TCP4 192.0.2.1 192.0.2.2 1 65535\r\n"
        });
        assert_eq!(line(header("[2001:db8::1]:80", "192.0.2.2:0")), {
            "PROXY TCP6 2001:db8::1 ::ffff:192.0.2.2 80 0\r\n"
        });
        let unix = Header::between(Address::Unnamed, Address::unix("/run/it"));
        for unknown in [Header::unknown().with_alpn(b"h2"), Header::local(), unix] {
            assert_eq!(line(unknown), "PROXY UNKNOWN\r\n");
        }
    }

    #[test]
    fn what_does_not_fit_is_refused_by_name() {
        let refused = |header: Header| header.encode(Version::V2).unwrap_err().to_string();
        let full = header("192.0.2.1:1", "192.0.2.2:2").with_tlv(0xE0, &vec![0; 0xFFFF - 12 - 3]);
        assert_eq!(full.encode(Version::V2).unwrap().len(), HEAD + 0xFFFF);
        assert!(refused(full.with_tlv(tlv::NOOP, b"")).contains("65 535"));
        assert!(refused(Header::unknown().with_tlv(0xE0, &vec![0; 0x1_0000])).contains("65 535"));
        let long = Tls::new().with_common_name(&"x".repeat(0x1_0000));
        assert!(refused(Header::unknown().with_tls(&long)).contains("65 535"));
        let fits = |text: &str| Header::between(Address::Unnamed, Address::unix(text));
        let path = "/".repeat(PATH_MAX);
        assert!(fits(&path).encode(Version::V2).is_ok());
        assert!(refused(fits(&format!("{path}x"))).contains("108"));
        assert!(refused(fits(&format!("@{path}"))).contains("108"));
    }

    #[test]
    fn a_checksum_is_computed_and_a_header_with_a_wrong_one_is_refused() {
        let header = header("192.0.2.1:1", "192.0.2.2:2").with_checksum().with_alpn(b"h2");
        let bytes = header.encode(Version::V2).unwrap();
        let (read, _) = parse(&bytes, 4096).unwrap().unwrap();
        assert_ne!(read.tlv(tlv::CRC32C), Some(&[0; 4][..]));
        // What was read is written as it was.
        assert_eq!(read.encode(Version::V2).unwrap(), bytes);
        for at in HEAD..bytes.len() {
            let mut wrong = bytes.clone();
            wrong[at] ^= 1;
            assert!(
                !matches!(parse(&wrong, 4096), Ok(Some((it, _))) if it.tlv(3).is_some()),
                "{at}"
            );
        }
    }
}
