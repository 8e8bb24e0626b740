//! A listening socket: what a driver accepts on, and what a server does to it beside that.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

#[cfg(all(test, not(loom)))]
use super::memory::network;
use super::stream::Stream;
use crate::base::address::Address;
use crate::sys::listener::{self as sys, SocketOptions};
use crate::sys::sock_diag::{self, Handshake};
use crate::sys::stream;

/// A listening socket. It closes with its last holder.
#[derive(Debug)]
pub struct Listener(ListenerKind);

/// What a listener is made of.
#[derive(Debug)]
enum ListenerKind {
    Socket(OwnedFd),
    #[cfg(all(test, not(loom)))]
    Memory(network::Queue),
}

impl Listener {
    /// Opens a listening socket, non-blocking and closed on exec. A Unix socket's path is taken
    /// over from a socket behind which no process listens any more, and from nothing else.
    ///
    /// # Errors
    /// The system's: `AddrInUse`, `AddrNotAvailable`, `PermissionDenied`, …
    pub fn open(address: &Address, options: &SocketOptions) -> io::Result<Self> {
        sys::listen(address, options).map(Self::from)
    }

    /// Makes a listener that was opened elsewhere fit for a reactor: non-blocking. A TCP
    /// listener with `foreign` options gets `TCP_NODELAY`; ours have it unless their options say
    /// otherwise.
    ///
    /// # Errors
    /// The system's; `InvalidInput` for what is no listening stream socket.
    pub fn adopt(&self, foreign: bool) -> io::Result<()> {
        let fd = self.socket()?;
        if !sys::is_listener(fd)? {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        stream::set_nonblocking(fd)?;
        if foreign && !self.local_address()?.is_unix() { stream::set_nodelay(fd) } else { Ok(()) }
    }

    /// Takes one connection out of the queue.
    ///
    /// # Errors
    /// The system's; `WouldBlock` where none waits.
    pub fn accept(&self) -> io::Result<(Stream, Address)> {
        match &self.0 {
            ListenerKind::Socket(fd) => {
                let (socket, peer) = sys::accept(fd.as_fd())?;
                Ok((Stream::new(socket), peer))
            }
            #[cfg(all(test, not(loom)))]
            ListenerKind::Memory(queue) => {
                let (end, peer) = queue.accept()?;
                Ok((Stream::in_memory(end), peer))
            }
        }
    }

    /// Whether it still listens.
    pub fn is_listening(&self) -> bool {
        self.socket().and_then(sys::is_listener).unwrap_or(false)
    }

    /// The address that it is bound to.
    ///
    /// # Errors
    /// The system's.
    pub fn local_address(&self) -> io::Result<Address> {
        stream::local_address(self.socket()?)
    }

    /// Lets no further connection begin on a TCP listener; those that have begun reach its queue.
    ///
    /// # Errors
    /// The system's.
    pub fn turn_away_newcomers(&self) -> io::Result<()> {
        sys::turn_away_newcomers(self.socket()?)
    }

    /// The handshakes with the port of a TCP listener that have begun and are not complete: asked
    /// of the kernel by `sock_diag(7)`, which costs a walk of its table of connections.
    ///
    /// Those of other sockets on the same port are among them.
    ///
    /// # Errors
    /// The system's, where it has no such table or does not show it.
    pub fn handshakes(&self) -> io::Result<Vec<Handshake>> {
        sock_diag::of_port(self.socket()?)
    }

    /// Closes the port, whatever other descriptors of it there are; connections in its queue are
    /// reset.
    ///
    /// # Errors
    /// The system's.
    pub fn stop_listening(&self) -> io::Result<()> {
        sys::stop_listening(self.socket()?)
    }

    #[cfg(all(test, not(loom)))]
    pub(crate) fn in_memory(queue: network::Queue) -> Self {
        Self(ListenerKind::Memory(queue))
    }

    #[cfg(all(test, not(loom)))]
    pub(crate) fn memory(&self) -> Option<&network::Queue> {
        match &self.0 {
            ListenerKind::Memory(queue) => Some(queue),
            ListenerKind::Socket(_) => None,
        }
    }

    /// The descriptor, for what only a socket has.
    #[cfg_attr(
        not(all(test, not(loom))),
        expect(clippy::unnecessary_wraps, reason = "a listener in memory has none")
    )]
    fn socket(&self) -> io::Result<BorrowedFd<'_>> {
        match &self.0 {
            ListenerKind::Socket(fd) => Ok(fd.as_fd()),
            #[cfg(all(test, not(loom)))]
            ListenerKind::Memory(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }
}

/// Whether a failure to accept is about the one connection, so that the next may be tried at once.
pub fn is_of_one_connection(error: &io::Error) -> bool {
    sys::is_of_one_connection(error)
}

/// Whether the process, or the system, has no descriptors left.
pub fn is_out_of_descriptors(error: &io::Error) -> bool {
    sys::is_out_of_descriptors(error)
}

/// Whether a failure to accept says that the listener itself is beyond repair.
pub fn is_listener_dead(error: &io::Error) -> bool {
    sys::is_of_a_dead_listener(error)
}

impl From<OwnedFd> for Listener {
    fn from(fd: OwnedFd) -> Self {
        Self(ListenerKind::Socket(fd))
    }
}

/// For the user's own options, for a hand-over, and for the driver of sockets.
impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.0 {
            ListenerKind::Socket(fd) => fd.as_fd(),
            #[cfg(all(test, not(loom)))]
            ListenerKind::Memory(_) => panic!("a listener in memory has no descriptor"),
        }
    }
}
