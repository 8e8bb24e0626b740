//! What all servers share, and what is not measured: the command line, the listener, and requests
//! that block.

mod blocking;
mod udp;
#[cfg(feature = "web")]
pub mod web;

use std::collections::HashMap;
use std::fmt::Display;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::process::exit;
use std::str::FromStr;

use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, listen, socket_with, sockopt};

pub use blocking::Blocking;
pub use udp::{Serve, Sink};

/// Bytes that one read may bring, where all connections of a thread share a buffer.
pub const SHARED_BUFFER: usize = 64 << 10;
/// Bytes that one read may bring, where each connection has a buffer of its own, and its
/// framework's documents recommend no other size.
pub const OWN_BUFFER: usize = 16 << 10;

/// Bytes that a datagram may have.
pub const DATAGRAM_MAX: usize = 64 << 10;

/// The largest piece of a download.
const PIECE_MAX: u32 = 16 << 20;

/// Connections that may wait to be accepted: the kernel's own limit on common machines.
const BACKLOG: i32 = 4096;

/// `PORT THREADS [--option VALUE]...`; port 0 takes any that is free.
#[derive(Debug)]
pub struct Arguments {
    pub port: u16,
    pub threads: usize,
    options: HashMap<String, String>,
}

impl Arguments {
    /// Reads the command line of a server that knows the options `known`. What it does not
    /// understand ends the process with status 2.
    pub fn read(known: &[&str]) -> Self {
        let mut arguments = std::env::args();
        let program = arguments.next().unwrap_or_default();
        Self::parse(arguments, known).unwrap_or_else(|sentence| {
            let options: String = known.iter().map(|name| format!(" [{name} VALUE]")).collect();
            eprintln!("{sentence}\nusage: {program} PORT THREADS{options}");
            exit(2)
        })
    }

    fn parse(mut arguments: impl Iterator<Item = String>, known: &[&str]) -> Result<Self, String> {
        let port = arguments.next().ok_or("PORT is missing.")?;
        let threads = arguments.next().ok_or("THREADS is missing.")?;
        let (port, threads) = (number("PORT", &port)?, number("THREADS", &threads)?);
        if threads == 0 {
            return Err("Nobody would serve with 0 THREADS.".into());
        }
        let mut options = HashMap::new();
        while let Some(name) = arguments.next() {
            if !known.contains(&name.as_str()) {
                return Err(format!("There is no option `{name}` here."));
            }
            let value = arguments.next().ok_or(format!("{name} needs a value."))?;
            options.insert(name, value);
        }
        Ok(Self { port, threads, options })
    }

    /// The value of an option.
    pub fn option(&self, name: &str) -> Option<&str> {
        self.options.get(name).map(String::as_str)
    }

    /// One of several ways that an option offers, the first if it was not given. Anything else
    /// ends the process with status 2.
    pub fn choice<T: Copy>(&self, name: &str, ways: &[(&str, T)]) -> T {
        let Some(given) = self.option(name) else {
            return ways[0].1;
        };
        let found = ways.iter().find(|(way, _)| *way == given);
        found.map(|(_, value)| *value).unwrap_or_else(|| {
            let ways: Vec<&str> = ways.iter().map(|(way, _)| *way).collect();
            eprintln!("{name} is one of {}, not `{given}`.", ways.join(", "));
            exit(2)
        })
    }

    /// A number that an option gives, or the default. Anything else ends the process with status 2.
    pub fn number(&self, name: &str, default: usize) -> usize {
        let given = self.option(name).map(|text| number(name, text));
        given.unwrap_or(Ok(default)).unwrap_or_else(|sentence| {
            eprintln!("{sentence}");
            exit(2)
        })
    }

    /// A listener on the loopback device, which says where it listens.
    pub fn listen(&self) -> TcpListener {
        let listener = listener(self.port, false);
        announce(&listener);
        listener
    }

    /// A listener for each thread, all on one port, over which the kernel spreads the connections.
    pub fn listen_on_each(&self) -> Vec<TcpListener> {
        let first = listener(self.port, true);
        let port = first.local_addr().expect("it is bound").port();
        let others = (1..self.threads).map(|_| listener(port, true));
        let all = std::iter::once(first).chain(others).collect::<Vec<_>>();
        announce(&all[0]);
        all
    }

    /// The port, found if it was 0, for frameworks that make their own listeners with
    /// `SO_REUSEPORT`. It stays found as long as the socket is kept, which does not listen.
    pub fn reserve(&self) -> (TcpListener, SocketAddr) {
        let socket = TcpListener::from(bound(self.port, SocketType::STREAM, true));
        let address = socket.local_addr().expect("it is bound");
        (socket, address)
    }
}

/// What a download repeats: byte `i` is `i` modulo 251, as the load generator compares it. A size
/// beyond its largest is cut to that.
pub fn piece(size: u32) -> Vec<u8> {
    (0..size.clamp(1, PIECE_MAX)).map(|i| (i % 251) as u8).collect()
}

/// Prints where a server listens.
pub fn announce(listener: &TcpListener) {
    println!("listening on {}", listener.local_addr().expect("it is bound"));
}

fn listener(port: u16, shared: bool) -> TcpListener {
    let socket = bound(port, SocketType::STREAM, shared);
    listen(&socket, BACKLOG).expect("a bound socket listens");
    socket.into()
}

/// A socket of datagrams on the loopback device, which shares its port.
fn datagram_socket(port: u16) -> UdpSocket {
    bound(port, SocketType::DGRAM, true).into()
}

fn bound(port: u16, kind: SocketType, shared: bool) -> OwnedFd {
    let socket = socket_with(AddressFamily::INET, kind, SocketFlags::CLOEXEC, None);
    let socket = socket.expect("a descriptor");
    sockopt::set_socket_reuseaddr(&socket, true).expect("a socket has this option");
    sockopt::set_socket_reuseport(&socket, shared).expect("a socket has this option");
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    bind(&socket, &address).unwrap_or_else(|error| panic!("cannot bind {address}: {error}"));
    socket
}

fn number<T: FromStr>(name: &str, text: &str) -> Result<T, String>
where
    T::Err: Display,
{
    text.parse().map_err(|error| format!("{name} is a number, not `{text}`: {error}."))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Arguments, String> {
        Arguments::parse(line.split_whitespace().map(str::to_owned), &["--dispatch"])
    }

    #[test]
    fn a_port_and_threads_are_enough() {
        let arguments = parse("7000 2").unwrap();
        assert_eq!((arguments.port, arguments.threads), (7000, 2));
        assert_eq!(arguments.choice("--dispatch", &[("pool", 1), ("inline", 2)]), 1);
        let arguments = parse("0 1 --dispatch inline").unwrap();
        assert_eq!(arguments.choice("--dispatch", &[("pool", 1), ("inline", 2)]), 2);
    }

    #[test]
    fn wrong_arguments_get_a_sentence() {
        for (line, part) in [
            ("", "PORT is missing"),
            ("7000", "THREADS is missing"),
            ("70000 1", "PORT is a number, not `70000`"),
            ("7000 0", "0 THREADS"),
            ("7000 1 --speed 9", "no option `--speed`"),
            ("7000 1 --dispatch", "--dispatch needs a value"),
        ] {
            let error = parse(line).unwrap_err();
            assert!(error.contains(part), "{line}: {error}");
        }
    }

    #[test]
    fn listeners_share_a_port_and_say_which() {
        let arguments = parse("0 3").unwrap();
        let ports = arguments.listen_on_each().into_iter().map(|each| each.local_addr().unwrap());
        let ports: Vec<SocketAddr> = ports.collect();
        assert_eq!(ports.len(), 3);
        assert!(ports.iter().all(|port| *port == ports[0] && port.port() != 0));
    }
}
