//! The sockets that the server and the client open: listeners, accepted and dialled streams.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use netpoll_buffer::{Filled, LinkBuffer};

use crate::address::Address;
use crate::error::{Error, Result};
use crate::sys;

pub use crate::sys::connect::{BeforeConnect, ConnectOptions, Keepalive};

/// A connected stream: what a connection pulls its input from and pushes its output to.
///
/// With epoll both are a system call on the caller's own thread. It is closed by whoever drops it
/// last, the connection or the lane, so no operation can reach the next owner of its number.
#[derive(Debug)]
pub(crate) struct Stream(OwnedFd);

/// What a send did.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sent {
    pub(crate) bytes: usize,
    /// Whether the socket took all that it was offered, and so may take more.
    pub(crate) all_offered: bool,
}

impl Stream {
    pub(crate) fn new(fd: OwnedFd) -> Self {
        Self(fd)
    }

    /// Pulls at most `max` bytes into `input`: one `readv`.
    pub(crate) fn receive(&self, input: &mut LinkBuffer, max: usize) -> io::Result<Filled> {
        input.fill(max, |slices| sys::receive(self.0.as_fd(), slices))
    }

    /// Pushes what stands readable in `output`, once: one `sendmsg`. It consumes nothing.
    pub(crate) fn send(&self, output: &LinkBuffer) -> io::Result<Sent> {
        let mut slices = [io::IoSlice::new(&[]); sys::MAX_SLICES];
        let count = output.gather(&mut slices);
        let offered: usize = slices[..count].iter().map(|slice| slice.len()).sum();
        let bytes = sys::send(self.0.as_fd(), &slices[..count])?;
        Ok(Sent { bytes, all_offered: bytes == offered })
    }

    pub(crate) fn shutdown_write(&self) -> io::Result<()> {
        sys::shutdown_write(self.0.as_fd())
    }

    /// Makes the coming close a reset.
    pub(crate) fn reset_on_close(&self) -> io::Result<()> {
        sys::reset_on_close(self.0.as_fd())
    }

    /// The error that the socket holds, if any; it is taken out.
    pub(crate) fn take_error(&self) -> io::Result<()> {
        sys::take_error(self.0.as_fd())
    }

    pub(crate) fn local_address(&self) -> io::Result<Address> {
        sys::local_address(self.0.as_fd())
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The addresses behind `host:port`, those of the network's family alone: all for `"tcp"`, IPv4 for
/// `"tcp4"`, IPv6 for `"tcp6"`. Names are asked for on this thread, which waits for the answer.
///
/// # Errors
/// [`Error::Config`] for another network, an address without a port, or a name without an address
/// of that family; [`Error::Address`] where the resolver fails. `doing` says for what, as in
/// "listen on".
pub fn resolve(doing: &'static str, network: &str, address: &str) -> Result<Vec<SocketAddr>> {
    let fits: fn(&SocketAddr) -> bool = match network {
        "tcp" => |_| true,
        "tcp4" => SocketAddr::is_ipv4,
        "tcp6" => SocketAddr::is_ipv6,
        _ => {
            return Err(Error::config(format!(
                "cannot {doing} {network} {address}: the network must be tcp, tcp4 or tcp6"
            )));
        }
    };
    let all = address.to_socket_addrs().map_err(|error| match error.kind() {
        io::ErrorKind::InvalidInput => Error::config(format!(
            "cannot {doing} {network} {address}: {error}; write it as host:port or [v6]:port"
        )),
        _ => Error::address(doing, network, address, error),
    })?;
    let fitting: Vec<_> = all.filter(fits).collect();
    if fitting.is_empty() {
        return Err(Error::config(format!(
            "cannot {doing} {network} {address}: it has no address of that family"
        )));
    }
    Ok(fitting)
}

/// Whether a failure to accept says that the listener itself is beyond repair.
pub fn is_listener_dead(error: &io::Error) -> bool {
    sys::is_of_a_dead_listener(error)
}

/// Opens a listening TCP socket, non-blocking, with `SO_REUSEADDR` and `TCP_NODELAY`.
///
/// # Errors
/// The system's: `AddrInUse`, `AddrNotAvailable`, `PermissionDenied`, …
pub fn listen_tcp(address: SocketAddr, backlog: i32) -> io::Result<OwnedFd> {
    sys::listen_tcp(address, backlog)
}

/// Makes a listener that somebody else opened fit for a reactor: non-blocking, `TCP_NODELAY`.
///
/// # Errors
/// The system's.
pub fn adopt_listener(listener: &impl AsFd) -> io::Result<()> {
    sys::set_nonblocking(listener.as_fd())?;
    sys::set_nodelay(listener.as_fd())
}

/// The address a socket is bound to.
///
/// # Errors
/// The system's, and `Unsupported` for a socket that is not of the internet.
pub fn local_address(socket: &impl AsFd) -> io::Result<SocketAddr> {
    sys::local_address(socket.as_fd())?.inet().ok_or_else(|| io::ErrorKind::Unsupported.into())
}
