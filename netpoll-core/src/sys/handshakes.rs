//! Asks the kernel whether a handshake is under way on a port: `sock_diag(7)`.

use std::io::{self, Error, ErrorKind, Read};
use std::os::fd::BorrowedFd;

use nix::libc;
use socket2::{Domain, Protocol, SockRef, Socket, Type};

/// The kernel numbers the state `SYN_RECV` so, and means by it requests as well.
const SYN_RECV: u32 = 1 << 3;
const BY_FAMILY: u16 = 20;

/// Whether one is under way on the port of this TCP listener.
pub(crate) fn any(listener: BorrowedFd<'_>) -> io::Result<bool> {
    let Some(address) = SockRef::from(&listener).local_addr()?.as_socket() else {
        return Err(ErrorKind::Unsupported.into());
    };
    let family = if address.is_ipv6() { libc::AF_INET6 } else { libc::AF_INET };
    let protocol = Protocol::from(libc::NETLINK_SOCK_DIAG);
    let socket = Socket::new(Domain::from(libc::AF_NETLINK), Type::RAW, Some(protocol))?;
    socket.send(&question(family, address.port()))?;
    let mut answer = [0; 8 * 1024];
    let length = (&socket).read(&mut answer)?;
    understand(answer.get(..length).unwrap_or_default())
}

/// ```text
///   nlmsghdr           length u32 · type u16 · flags u16 · sequence u32 · sender u32
///   inet_diag_req_v2   family u8 · protocol u8 · extensions u8 · 0 · states u32
///   inet_diag_sockid   port u16, big-endian · 46 bytes that are 0 for any
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

/// The first message of the answer says enough: it is about a connection, or there is none.
fn understand(answer: &[u8]) -> io::Result<bool> {
    let Some((&[first, second], rest)) = answer.get(4..).and_then(<[u8]>::split_first_chunk) else {
        return Err(ErrorKind::UnexpectedEof.into());
    };
    match i32::from(u16::from_ne_bytes([first, second])) {
        libc::NLMSG_DONE => Ok(false),
        libc::NLMSG_ERROR => match rest.get(10..).and_then(<[u8]>::first_chunk) {
            Some(code) => Err(Error::from_raw_os_error(-i32::from_ne_bytes(*code))),
            None => Err(ErrorKind::UnexpectedEof.into()),
        },
        _ => Ok(true),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
    use std::os::fd::AsFd;
    use std::time::Duration;

    use super::*;
    use crate::sys::accept;
    use crate::sys::listener::{SocketOptions, listen};

    #[test]
    fn a_handshake_is_seen_while_it_is_under_way() {
        // So it is complete for the client only, until that sends something.
        let options =
            SocketOptions { defer_accept: Some(Duration::from_secs(5)), ..Default::default() };
        for ip in [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()] {
            let Ok(listener) = listen(&SocketAddr::new(ip, 0).into(), &options) else { continue };
            assert!(!any(listener.as_fd()).expect("an answer"), "nobody is there");
            let address = SockRef::from(&listener).local_addr().expect("its address");
            let mut client =
                TcpStream::connect(address.as_socket().expect("TCP")).expect("a listener");
            assert!(any(listener.as_fd()).expect("an answer"));
            client.write_all(b"hello").expect("room");
            // The kernel may take a moment to pass it on.
            while accept(listener.as_fd()).is_err() {
                std::thread::yield_now();
            }
            assert!(!any(listener.as_fd()).expect("an answer"));
        }
    }

    #[test]
    fn what_cannot_be_asked_is_an_error() {
        let of = |kind: u8, rest: &[u8]| {
            let mut bytes = vec![0; 4];
            bytes.extend(u16::from(kind).to_ne_bytes());
            bytes.extend([0; 10]);
            bytes.extend(rest);
            understand(&bytes)
        };
        assert!(!of(3, &[]).expect("none"));
        assert!(of(20, &[]).expect("one"));
        let refused = of(2, &(-libc::EPERM).to_ne_bytes()).expect_err("refused");
        assert_eq!(refused.raw_os_error(), Some(libc::EPERM));
        of(2, &[1]).expect_err("cut short");
        understand(&[1, 2, 3, 4, 5]).expect_err("cut short");
    }
}
