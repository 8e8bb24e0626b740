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
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use crate::base::address::Address;
use crate::base::sync::{AtomicBool, Ordering};
use crate::sys;
use crate::sys::ancillary::Fault;
use crate::sys::connect::ConnectOptions;
use crate::sys::datagram::{self, Outgoing, Slot};
use crate::sys::datagram_features::{self, DatagramFeatures, Granted};
use crate::sys::datagram_open::{self as open, DatagramSocketOptions, Membership};
use crate::sys::poll;
use sending::Outlet;

pub(crate) use crate::sys::datagram::{Failure, TOO_LONG, failure};
pub(crate) use crate::sys::poll::{Readied, Ready};
pub(crate) use places::{Brought, MOST_PLACES, Place, Places};
pub(crate) use sending::{Envelopes, Message, Segments, Sent};

/// A datagram socket, non-blocking: bound, or connected to one peer. It closes with its last
/// holder.
pub struct DatagramSocket {
    fd: OwnedFd,
    granted: Granted,
    segments: Arc<Segments>,
    no_batches: AtomicBool,
}

impl DatagramSocket {
    /// Opens a socket that is bound to `local`. A Unix socket's path is taken over from a socket
    /// behind which no process is any more, and from nothing else.
    ///
    /// # Errors
    /// The system's: `AddrInUse`, `AddrNotAvailable`, `PermissionDenied`, `NotFound` for an
    /// interface that is not there, …
    pub fn bind(local: &Address, options: &DatagramSocketOptions) -> io::Result<Self> {
        open::bind(local, options).map(|(fd, granted)| Self::new(fd, granted))
    }

    /// Opens one more socket on the address of one that [shares its port](Self::share_port). What
    /// is sent to a group or to all hosts does not reach it.
    ///
    /// # Errors
    /// As [`bind`](Self::bind).
    pub fn bind_further(local: &Address, options: &DatagramSocketOptions) -> io::Result<Self> {
        open::bind_further(local, options).map(|(fd, granted)| Self::new(fd, granted))
    }

    /// Opens a socket that is connected to `peer`: it receives from that alone. A Unix socket gets
    /// a name that the system chooses.
    ///
    /// # Errors
    /// The system's: `NetworkUnreachable`, `NotFound`, …
    pub fn connect(
        peer: &Address,
        options: &ConnectOptions,
        features: DatagramFeatures,
    ) -> io::Result<Self> {
        open::connect(peer, options, features).map(|(fd, granted)| Self::new(fd, granted))
    }

    /// Adopts a socket that was opened elsewhere.
    ///
    /// # Errors
    /// The system's; `InvalidInput` for what is no socket of datagrams.
    pub fn adopt(fd: OwnedFd, features: DatagramFeatures) -> io::Result<Self> {
        let granted = open::adopt(fd.as_fd(), features)?;
        Ok(Self::new(fd, granted))
    }

    fn new(fd: OwnedFd, granted: Granted) -> Self {
        let segments = Arc::new(Segments::new(granted.splits));
        Self { fd, granted, segments, no_batches: AtomicBool::new(false) }
    }

    /// Lets [further](Self::bind_further) sockets be bound to its address.
    ///
    /// # Errors
    /// The system's.
    pub fn share_port(&self) -> io::Result<()> {
        open::share_port(self.as_fd())
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

    /// Joins a multicast group.
    ///
    /// # Errors
    /// The system's: `AddrInUse` where it is a member, `NotFound` where the interface is not there,
    /// …
    pub fn join(&self, membership: &Membership) -> io::Result<()> {
        open::join(self.as_fd(), membership)
    }

    /// Ends a membership.
    ///
    /// # Errors
    /// The system's: `AddrNotAvailable` where it is no member.
    pub fn leave(&self, membership: &Membership) -> io::Result<()> {
        open::leave(self.as_fd(), membership)
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

    /// Waits until it may be received from, or sent to, or has an error; at most for `timeout`. The
    /// calling thread sleeps.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn wait(&self, ready: Ready, timeout: Option<Duration>) -> io::Result<Readied> {
        poll::wait(self.as_fd(), ready, timeout)
    }

    /// The error that the socket holds. Reading takes it out.
    pub(crate) fn take_error(&self) -> io::Result<()> {
        sys::stream::take_error(self.as_fd())
    }

    /// Takes the next entry out of the error queue.
    pub(crate) fn take_fault(&self) -> Option<Fault> {
        let fault = self.granted.has_errors.then(|| datagram::receive_fault(self.as_fd()));
        fault?.ok().flatten()
    }

    /// How many bytes of memory what it has received may take.
    pub(crate) fn receive_buffer(&self) -> usize {
        datagram_features::receive_buffer(self.as_fd()).unwrap_or(0)
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

impl fmt::Debug for DatagramSocket {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("DatagramSocket")
            .field("fd", &self.fd)
            .field("granted", &self.granted)
            .field("segments", &self.segments)
            .finish_non_exhaustive()
    }
}
