//! The system calls of connected streams, and the socket options that streams and listeners share.

use std::io::{self, ErrorKind, IoSlice, IoSliceMut};
use std::net::SocketAddr;
use std::num::NonZeroI32;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Duration;

use nix::libc;
use nix::sys::socket::{MsgFlags, sockopt::PeerCredentials};
use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, Type};

use super::{raw, repeat};
use crate::base::address::Address;

/// The most blocks that one `readv` or `sendmsg` is given; the kernel's own limit is 1 024.
pub(crate) const MAX_SLICES: usize = 64;

/// The errno of a socket that is not connected.
pub(crate) const NOT_CONNECTED: i32 = libc::ENOTCONN;

/// The errno of a peer that broke a protocol.
pub(crate) const PROTOCOL: NonZeroI32 = NonZeroI32::new(libc::EPROTO).unwrap();

/// The errno of an error that has none of the system's.
pub(crate) const UNKNOWN: NonZeroI32 = NonZeroI32::new(libc::EIO).unwrap();

/// Receives into several slices: one `readv`.
///
/// A single one is one `recvfrom`: it saves the kernel the import of the list, and, other than a
/// `read`, what is done for files.
#[inline]
pub(crate) fn receive(fd: BorrowedFd<'_>, into: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
    match into {
        [single] => repeat(|| raw::receive(fd, single)),
        several => repeat(|| Ok(nix::sys::uio::readv(fd, several)?)),
    }
}

/// Reads without taking.
pub(crate) fn peek(fd: BorrowedFd<'_>, into: &mut [u8]) -> io::Result<usize> {
    repeat(|| Ok(nix::sys::socket::recv(fd.as_raw_fd(), into, MsgFlags::MSG_PEEK)?))
}

/// Sends several slices: one `sendmsg`, which must not raise SIGPIPE in the program that uses this
/// crate.
pub(crate) fn send(fd: BorrowedFd<'_>, from: &[IoSlice<'_>]) -> io::Result<usize> {
    repeat(|| SockRef::from(&fd).send_vectored_with_flags(from, libc::MSG_NOSIGNAL))
}

/// Sends one slice.
#[inline]
pub(crate) fn send_one(fd: BorrowedFd<'_>, from: &[u8]) -> io::Result<usize> {
    repeat(|| raw::send(fd, from))
}

/// Sends urgent data.
#[cfg(all(test, not(loom)))]
pub(crate) fn send_urgent(to: &impl std::os::fd::AsFd, from: &[u8]) -> io::Result<usize> {
    repeat(|| SockRef::from(to).send_out_of_band(from))
}

/// Makes the coming close a reset: the peer must not take the bytes that it got for the whole.
pub(crate) fn reset_on_close(fd: BorrowedFd<'_>) -> io::Result<()> {
    SockRef::from(&fd).set_linger(Some(Duration::ZERO))
}

/// Ends our stream towards the peer (FIN). A peer that is gone already is no error.
pub(crate) fn shutdown_write(fd: BorrowedFd<'_>) -> io::Result<()> {
    match SockRef::from(&fd).shutdown(std::net::Shutdown::Write) {
        Err(error) if error.kind() == ErrorKind::NotConnected => Ok(()),
        other => other,
    }
}

/// The error that the socket holds, of a connect that failed or later. Reading takes it out.
pub(crate) fn take_error(fd: BorrowedFd<'_>) -> io::Result<()> {
    match SockRef::from(&fd).take_error()? {
        None => Ok(()),
        Some(error) => Err(error),
    }
}

/// The address of our end.
pub(crate) fn local_address(fd: BorrowedFd<'_>) -> io::Result<Address> {
    address_of(&SockRef::from(&fd).local_addr()?)
}

/// The process, user and group that opened the other end of a unix socket.
pub(crate) fn peer_credentials(fd: BorrowedFd<'_>) -> io::Result<(i32, u32, u32)> {
    if !local_address(fd)?.is_unix() {
        return Err(ErrorKind::Unsupported.into());
    }
    let credentials = nix::sys::socket::getsockopt(&fd, PeerCredentials)?;
    Ok((credentials.pid(), credentials.uid(), credentials.gid()))
}

/// Makes a socket that was opened elsewhere fit for a reactor.
pub(crate) fn set_nonblocking(fd: BorrowedFd<'_>) -> io::Result<()> {
    SockRef::from(&fd).set_nonblocking(true)
}

/// As [`set_nonblocking`], for a connected stream socket. Returns the address of its peer.
pub(crate) fn make_ready(fd: BorrowedFd<'_>) -> io::Result<Address> {
    let socket = SockRef::from(&fd);
    if socket.r#type()? != Type::STREAM {
        return Err(ErrorKind::InvalidInput.into());
    }
    let peer = address_of(&socket.peer_addr()?)?;
    socket.set_nonblocking(true)?;
    socket.set_cloexec(true)?;
    Ok(peer)
}

/// Sends small writes at once instead of waiting to fill a segment.
pub(crate) fn set_nodelay(fd: BorrowedFd<'_>) -> io::Result<()> {
    SockRef::from(&fd).set_tcp_nodelay(true)
}

/// An address as this crate has it.
pub(super) fn address_of(address: &SockAddr) -> io::Result<Address> {
    if let Some(inet) = address.as_socket() {
        return Ok(Address::Inet(inet));
    }
    if let Some(path) = address.as_pathname() {
        return Ok(Address::Path(path.into()));
    }
    if let Some(name) = address.as_abstract_namespace() {
        return Ok(Address::Abstract(name.into()));
    }
    if address.is_unix() { Ok(Address::Unnamed) } else { Err(ErrorKind::Unsupported.into()) }
}

/// A new TCP socket, non-blocking and closed on exec.
pub(super) fn tcp_socket(address: SocketAddr) -> io::Result<Socket> {
    let kind = Type::STREAM.nonblocking().cloexec();
    Socket::new(Domain::for_address(address), kind, Some(Protocol::TCP))
}
