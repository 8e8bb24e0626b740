//! Sockets: opened without waiting, from as many source addresses as the ports of one don't reach.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream};
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::resource::{Resource, getrlimit, rlim_t, setrlimit};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrIn, SockaddrStorage, bind, connect, setsockopt,
    socket, sockopt,
};

/// How long the server has to take a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Connections per source address: the kernel's range has 28 232 ports, and a closed connection
/// keeps its port for a minute.
const PORTS_PER_SOURCE: u64 = 20_000;
/// Source addresses, all of the loopback device.
const SOURCES: u64 = 250;

/// File descriptors that are not connections.
const OTHER_DESCRIPTORS: rlim_t = 64;

/// Raises the limit of file descriptors as far as the connections need.
///
/// # Errors
///
/// If the hard limit is too low.
pub(crate) fn allow_descriptors(connections: u32) -> io::Result<()> {
    // A limit has 32 bits where pointers have.
    let needed = rlim_t::from(connections) + OTHER_DESCRIPTORS;
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if hard < needed {
        return Err(io::Error::other(format!(
            "{connections} connections need {needed} file descriptors, and the limit is {hard}; \
             raise it with `ulimit -Hn`"
        )));
    }
    Ok(setrlimit(Resource::RLIMIT_NOFILE, soft.max(needed), hard)?)
}

/// Connects, and waits until it has.
pub(crate) fn open(address: SocketAddr, serial: u64) -> io::Result<TcpStream> {
    let stream = start(address, serial)?;
    let millis = u16::try_from(CONNECT_TIMEOUT.as_millis()).unwrap_or(u16::MAX);
    let mut wanted = [PollFd::new(stream.as_fd(), PollFlags::POLLOUT)];
    loop {
        match poll(&mut wanted, PollTimeout::from(millis)) {
            Ok(0) => return Err(io::ErrorKind::TimedOut.into()),
            Ok(_) => break,
            Err(Errno::EINTR) => {} // a signal that is ignored, such as of a resized window
            Err(errno) => return Err(errno.into()),
        }
    }
    match stream.take_error()? {
        Some(error) => Err(error),
        None => Ok(stream),
    }
}

/// Begins to connect: a socket that does not block and takes data once it is connected. `serial`
/// counts the connections that were ever opened.
pub(crate) fn start(address: SocketAddr, serial: u64) -> io::Result<TcpStream> {
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let socket = socket(family, SockType::Stream, flags, None)?;
    if let Some(source) = source(address, std::process::id().into(), serial) {
        // The port is chosen by connect, which looks at both ends, and not by bind.
        setsockopt(&socket, sockopt::IpBindAddressNoPort, &true)?;
        bind(socket.as_raw_fd(), &SockaddrIn::from(SocketAddrV4::new(source, 0)))?;
    }
    match connect(socket.as_raw_fd(), &SockaddrStorage::from(address)) {
        Ok(()) | Err(Errno::EINPROGRESS) => {}
        Err(errno) => return Err(errno.into()),
    }
    let stream = TcpStream::from(socket);
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// The address to connect from; `None` leaves it to the kernel. Only the loopback device has more
/// than one without setup. Each process begins with another one, so that it does not search for
/// ports among those that the last process has just left.
fn source(address: SocketAddr, process: u64, serial: u64) -> Option<Ipv4Addr> {
    let loopback = address.is_ipv4() && address.ip().is_loopback();
    let index = ((process + serial / PORTS_PER_SOURCE) % SOURCES) as u8;
    loopback.then(|| Ipv4Addr::new(127, 0, 0, index + 2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_connections_come_from_many_addresses() {
        let loopback = SocketAddr::from(([127, 0, 0, 1], 80));
        let from = |last| Some(Ipv4Addr::new(127, 0, 0, last));
        assert_eq!(source(loopback, 0, 0), from(2));
        assert_eq!(source(loopback, 0, 19_999), from(2));
        assert_eq!(source(loopback, 0, 20_000), from(3));
        assert_eq!(source(loopback, 0, 4_999_999), from(251));
        assert_eq!(source(loopback, 0, 5_000_000), from(2));
        assert_eq!(source(loopback, 251, 0), from(3));
        assert_eq!(source(([10, 0, 0, 1], 80).into(), 0, 20_000), None);
    }
}
