//! A datagram socket: what datagrams are received from and sent to, several at once.
//!
//! ```text
//!   sendmmsg ◄── messages of [datagram, datagram, …] of one size to one peer
//!                  │ refused in segments?  one by one, and remembered: `Segments`
//!   recvmmsg ──► places: a block each, with one datagram, or several that the kernel has joined
//! ```
//! Both happen on the caller's own thread, and neither waits.

mod places;
mod sending;

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use crate::base::address::Address;
use crate::base::sync::{AtomicBool, Ordering};
use crate::sys;
use crate::sys::ancillary::Fault;
use crate::sys::datagram::{self, Outgoing, Slot};
use crate::sys::datagram_options::{self, Granted};
use sending::Outlet;

pub(crate) use crate::sys::datagram::{Failure, TOO_LONG, failure};
pub use crate::sys::datagram_options::DatagramOptions;
pub(crate) use places::{Brought, MOST_PLACES, Place, Places};
pub(crate) use sending::{Envelopes, Message, Segments, Sent};

/// A datagram socket, non-blocking: bound, or connected to one peer. It closes with its last
/// holder; the file of a bound Unix socket is then removed, if it is still that of this socket.
pub struct DatagramSocket {
    fd: OwnedFd,
    granted: Granted,
    segments: Arc<Segments>,
    no_batches: AtomicBool,
    file: Option<File>,
}

/// The file of a Unix socket, and which one it is: its device and inode.
struct File {
    path: Arc<Path>,
    identity: (u64, u64),
}

impl DatagramSocket {
    /// Opens a socket that is bound to `local`; [`Address::Unnamed`] is a Unix socket that only
    /// sends. A Unix socket's path is taken over from a socket behind which no process is any more,
    /// and from nothing else.
    ///
    /// # Errors
    /// The system's: `AddrInUse`, `AddrNotAvailable`, `PermissionDenied`, …
    pub fn bind(local: &Address, options: &DatagramOptions) -> io::Result<Self> {
        let (fd, granted) = datagram_options::bind(local, options)?;
        Self::new(fd, granted, Some(local))
    }

    /// Opens a socket that is connected to `peer`: it receives from that alone. It is bound to
    /// `local`, or to what the system chooses.
    ///
    /// # Errors
    /// The system's: `NetworkUnreachable`, `NotFound`, …
    pub fn connect(
        peer: &Address,
        local: Option<&Address>,
        options: &DatagramOptions,
    ) -> io::Result<Self> {
        let (fd, granted) = datagram_options::connect(peer, local, options)?;
        Self::new(fd, granted, local)
    }

    fn new(fd: OwnedFd, granted: Granted, local: Option<&Address>) -> io::Result<Self> {
        let file = match local {
            Some(Address::Path(path)) => {
                let identity = sys::binding::identity(path)?;
                Some(File { path: path.clone(), identity })
            }
            _ => None,
        };
        let segments = Arc::new(Segments::new(granted.splits));
        Ok(Self { fd, granted, segments, no_batches: AtomicBool::new(false), file })
    }

    /// The address of this end.
    ///
    /// # Errors
    /// The system's.
    pub fn local_address(&self) -> io::Result<Address> {
        sys::stream::local_address(self.as_fd())
    }

    /// Whether it is connected to one peer.
    pub fn is_connected(&self) -> bool {
        self.granted.is_connected
    }

    /// Whether it is a Unix socket.
    pub fn is_unix(&self) -> bool {
        self.granted.is_unix
    }

    /// Joins a multicast group on the interface of that number; 0 is the system's choice.
    ///
    /// # Errors
    /// The system's: `AddrInUse` where it is a member, `NoSuchDevice`, …
    pub fn join(&self, group: IpAddr, interface: u32) -> io::Result<()> {
        datagram_options::join(self.as_fd(), group, interface)
    }

    /// Leaves a group that was joined on that interface.
    ///
    /// # Errors
    /// The system's: `AddrNotAvailable` where it is no member.
    pub fn leave(&self, group: IpAddr, interface: u32) -> io::Result<()> {
        datagram_options::leave(self.as_fd(), group, interface)
    }

    /// Receives one datagram of a connected socket, without a wait: how long it is, and whether it
    /// was longer than `into`.
    ///
    /// # Errors
    /// The system's; `WouldBlock` where none has come, `ConnectionRefused` and the like where ICMP
    /// has said so of an earlier one that was sent.
    pub fn receive_one(&self, into: &mut [u8]) -> io::Result<(usize, bool)> {
        let mut slot = Slot::new();
        datagram::receive(self.as_fd(), &mut [(&mut slot, into)], |(slot, into)| (slot, into))?;
        Ok((slot.len(), slot.is_truncated()))
    }

    /// Sends one datagram, without a wait: to `peer`, or to that which it is connected to.
    ///
    /// # Errors
    /// The system's; `WouldBlock` where its buffer is full.
    pub fn send_one(&self, peer: Option<&Address>, payload: &[u8]) -> io::Result<()> {
        let name = sending::name_of(peer, self.granted)?;
        let slices = [io::IoSlice::new(payload)];
        let message = Outgoing { name: name.bytes(), slices: &slices, control: &[] };
        datagram::send(self.as_fd(), &[message]).map(|_| ())
    }

    /// Takes the next entry out of the error queue.
    pub(crate) fn take_fault(&self) -> Option<Fault> {
        let fault = self.granted.has_errors.then(|| datagram::receive_fault(self.as_fd()));
        fault?.ok().flatten()
    }

    /// How many bytes of memory what it has received may take.
    pub(crate) fn receive_buffer(&self) -> usize {
        datagram_options::receive_buffer(self.as_fd()).unwrap_or(0)
    }

    /// How datagrams may be joined.
    pub(crate) fn segments(&self) -> Arc<Segments> {
        self.segments.clone()
    }

    /// Receives to up to `wanted` places, with room for datagrams of up to `longest` bytes.
    ///
    /// # Errors
    /// The system's; `WouldBlock` where nothing has come.
    pub(crate) fn receive(
        &self,
        places: &mut Places,
        wanted: usize,
        longest: usize,
    ) -> io::Result<Brought> {
        const JOINED: usize = 64 << 10;
        let no_batches = self.no_batches.load(Ordering::Relaxed);
        let wanted = if no_batches { 1 } else { wanted.clamp(1, MOST_PLACES) };
        // A shorter room would cut what the kernel has joined.
        let room = if self.granted.joins { longest.max(JOINED) } else { longest };
        match places.receive(self.as_fd(), wanted, room) {
            Ok(came) => Ok(Brought { places: came, drained: came < wanted }),
            Err(error) if failure(&error) == Failure::NotInBatches && wanted > 1 => {
                self.no_batches.store(true, Ordering::Relaxed);
                self.receive(places, 1, longest)
            }
            Err(error) => Err(error),
        }
    }

    /// Sends `count` messages, until the socket takes no more.
    pub(crate) fn send<'a>(
        &self,
        envelopes: &mut Envelopes,
        count: usize,
        message: impl Fn(usize) -> Message<'a>,
    ) -> Sent {
        let (fd, granted, segments) = (self.as_fd(), self.granted, &*self.segments);
        Outlet { fd, granted, segments }.send(envelopes, count, message)
    }
}

/// For the driver, and for the user's own options.
impl AsFd for DatagramSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for DatagramSocket {
    fn drop(&mut self) {
        if let Some(File { path, identity }) = &self.file {
            // Nothing to do about a file that can't be removed: the next bind replaces it.
            let _ = sys::binding::remove_own(path, *identity);
        }
    }
}

impl fmt::Debug for DatagramSocket {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("DatagramSocket")
            .field("fd", &self.fd)
            .field("granted", &self.granted)
            .field("segments", &self.segments)
            .finish_non_exhaustive()
    }
}
