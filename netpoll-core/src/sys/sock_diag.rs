//! Asks the kernel which handshakes are under way on a port: `sock_diag(7)`.

use std::io::{self, Error, ErrorKind, Read};
use std::os::fd::BorrowedFd;

use nix::libc;
use socket2::{Domain, Protocol, SockRef, Socket, Type};

/// The kernel numbers the state `SYN_RECV` so, and means by it requests as well.
const SYN_RECV: u32 = 1 << 3;
const BY_FAMILY: u16 = 20;
/// The length of a `nlmsghdr`.
const HEADER: usize = 16;

/// A handshake that is under way: the port and the address of the peer, as the kernel writes them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Handshake([u8; 18]);

/// The handshakes on the port of this TCP listener.
pub(crate) fn of_port(listener: BorrowedFd<'_>) -> io::Result<Vec<Handshake>> {
    let Some(address) = SockRef::from(&listener).local_addr()?.as_socket() else {
        return Err(ErrorKind::Unsupported.into());
    };
    let family = if address.is_ipv6() { libc::AF_INET6 } else { libc::AF_INET };
    let protocol = Protocol::from(libc::NETLINK_SOCK_DIAG);
    let socket = Socket::new(Domain::from(libc::AF_NETLINK), Type::RAW, Some(protocol))?;
    socket.send(&question(family, address.port()))?;
    let (mut found, mut answer) = (Vec::new(), vec![0; 32 * 1024]);
    loop {
        let length = (&socket).read(&mut answer)?;
        if understand(answer.get(..length).unwrap_or_default(), &mut found)? {
            return Ok(found);
        }
    }
}

/// ```text
///   nlmsghdr           length u32 · type u16 · flags u16 · sequence u32 · sender u32
///   inet_diag_req_v2   family u8 · protocol u8 · extensions u8 · 0 · states u32
///   inet_diag_sockid   our port u16, big-endian · 46 bytes that are 0 for any
/// ```
fn question(family: i32, port: u16) -> Vec<u8> {
    const LENGTH: u32 = 16 + 8 + 48;
    let mut bytes = Vec::with_capacity(LENGTH as usize);
    bytes.extend(LENGTH.to_ne_bytes());
    bytes.extend(BY_FAMILY.to_ne_bytes());
    bytes.extend(((libc::NLM_F_REQUEST | libc::NLM_F_DUMP) as u16).to_ne_bytes());
    bytes.extend([0; 8]);
    let [family, protocol] = [family, libc::IPPROTO_TCP].map(|it| it.to_le_bytes()[0]);
    bytes.extend([family, protocol, 0, 0]);
    bytes.extend(SYN_RECV.to_ne_bytes());
    bytes.extend(port.to_be_bytes());
    bytes.resize(LENGTH as usize, 0);
    bytes
}

/// Adds what the messages of one datagram tell; says whether they are the last.
///
/// ```text
///   nlmsghdr           as above, padded to 4 bytes
///   inet_diag_msg      family u8 · state u8 · timer u8 · retransmissions u8
///   inet_diag_sockid   our port u16 · their port u16 · our address 16 · their address 16 · …
/// ```
fn understand(mut answer: &[u8], found: &mut Vec<Handshake>) -> io::Result<bool> {
    const PORT: usize = HEADER + 4 + 2;
    const ADDRESS: usize = HEADER + 4 + 4 + 16;
    while !answer.is_empty() {
        let kind = u16::from_ne_bytes(chunk(answer, 4)?);
        match i32::from(kind) {
            libc::NLMSG_DONE => return Ok(true),
            libc::NLMSG_ERROR => {
                return Err(Error::from_raw_os_error(-i32::from_ne_bytes(chunk(answer, HEADER)?)));
            }
            _ => {}
        }
        if kind == BY_FAMILY {
            let (port, address): ([u8; 2], [u8; 16]) =
                (chunk(answer, PORT)?, chunk(answer, ADDRESS)?);
            let mut peer = [0; 18];
            peer[..2].copy_from_slice(&port);
            peer[2..].copy_from_slice(&address);
            found.push(Handshake(peer));
        }
        let length = (u32::from_ne_bytes(chunk(answer, 0)?) as usize).max(HEADER);
        answer = answer.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(false)
}

fn chunk<const N: usize>(of: &[u8], at: usize) -> io::Result<[u8; N]> {
    let chunk = of.get(at..).and_then(<[u8]>::first_chunk);
    chunk.copied().ok_or_else(|| ErrorKind::UnexpectedEof.into())
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
    use std::os::fd::AsFd;
    use std::time::Duration;

    use super::*;
    use crate::sys::listener::{SocketOptions, accept, listen};

    #[test]
    fn a_handshake_is_seen_while_it_is_under_way() {
        // So it is complete for the client only, until that sends something.
        let options =
            SocketOptions { defer_accept: Some(Duration::from_secs(5)), ..Default::default() };
        for ip in [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()] {
            let Ok(listener) = listen(&SocketAddr::new(ip, 0).into(), &options) else { continue };
            let under_way = || of_port(listener.as_fd()).expect("an answer").len();
            assert_eq!(under_way(), 0);
            let address = SockRef::from(&listener).local_addr().expect("its address");
            let address = address.as_socket().expect("TCP");
            let mut client = TcpStream::connect(address).expect("a listener");
            assert_eq!(under_way(), 1);
            client.write_all(b"hello").expect("room");
            // The kernel may take a moment to pass it on.
            while accept(listener.as_fd()).is_err() {
                std::thread::yield_now();
            }
            let first = of_port(listener.as_fd()).expect("an answer");
            let _second = TcpStream::connect(address).expect("a listener");
            let second = of_port(listener.as_fd()).expect("an answer");
            assert_eq!((first.len(), second.len()), (0, 1));
        }
    }

    /// A message with nothing but its head and `rest`.
    fn message(kind: u16, rest: &[u8]) -> Vec<u8> {
        let length = (HEADER + rest.len()) as u32;
        [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), &[0; 10], rest].concat()
    }

    #[test]
    fn all_messages_of_an_answer_are_understood() {
        let answer = |it: u8| message(BY_FAMILY, &[it; 56]);
        let mut found = Vec::new();
        assert!(!understand(&[answer(1), answer(2)].concat(), &mut found).expect("two"));
        assert!(understand(&[answer(3), message(3, &[])].concat(), &mut found).expect("the end"));
        assert_eq!(found, [1, 2, 3].map(|it| Handshake([it; 18])));
    }

    #[test]
    fn what_cannot_be_understood_is_an_error() {
        let error = |answer: &[u8]| understand(answer, &mut Vec::new()).expect_err("no answer");
        let refused = message(2, &(-libc::EPERM).to_ne_bytes());
        assert_eq!(error(&refused).raw_os_error(), Some(libc::EPERM));
        for short in [&[1, 2, 3][..], &message(2, &[1]), &message(BY_FAMILY, &[0; 30])] {
            assert_eq!(error(short).kind(), ErrorKind::UnexpectedEof);
        }
        // A length of 0 does not hold it up.
        assert!(!understand(&[0; 64], &mut Vec::new()).expect("nothing"));
    }
}
