//! The kernel seam: what a reactor asks of a driver, and what it gets back.
//!
//! The seam is completion-shaped. The reactor names what it wants watched; the driver accepts by
//! itself and hands out accepted sockets, and says of a stream only that its owner may now pull
//! input or push output. How bytes move stays below: epoll's driver lets the owner make the system
//! call on its own thread ([`Stream`](crate::io::socket::Stream)), io_uring's would hand out blocks
//! that the ring has filled. Nothing above knows which driver runs.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use crate::base::address::Address;
use crate::io::waker::Waker;
use crate::pure::slab::Token;

use super::epoll::Epoll;

/// A driver of one reactor. It is owned by the reactor's core and moves between threads with it.
pub(crate) trait Poll: Send + fmt::Debug {
    /// Watches a stream in both directions until it is closed. The registration is never changed.
    fn add_stream(&mut self, stream: BorrowedFd<'_>, token: Token) -> io::Result<()>;

    /// Stops watching a stream, which its close does by itself unless a duplicate of its descriptor
    /// lives on: that would keep the registration alive and deliver events for the dead.
    fn remove_stream(&mut self, stream: BorrowedFd<'_>) -> io::Result<()>;

    /// Will accept on a listener, as much as [`set_room`](Self::set_room) allows: at first nothing.
    fn add_listener(&mut self, listener: Arc<OwnedFd>, token: Token);

    /// Allows a listener so many connections in each wait from now on; none stops watching it.
    fn set_room(&mut self, token: Token, count: usize) -> io::Result<()>;

    /// Stops accepting, and closes the listener unless somebody else holds it.
    fn remove_listener(&mut self, token: Token) -> io::Result<()>;

    /// Whether one thread may wait for what another has asked for. With epoll it may. What a thread
    /// has armed with io_uring stays with that thread: it is completed late while the thread
    /// is stuck, and cancelled when it ends.
    fn may_change_threads(&self) -> bool;

    /// Waits for events, at most `timeout`, and appends them to `events`. A wake ends the wait and
    /// leaves no event.
    fn wait(&mut self, timeout: Option<Duration>, events: &mut PollEvents) -> io::Result<()>;
}

/// What a driver has reported and the reactor has not taken. Streams come first.
#[derive(Debug, Default)]
pub(crate) struct PollEvents {
    /// Apart from the others since they are small and many: one for nearly each request.
    pub(crate) streams: VecDeque<PollEvent>,
    pub(crate) accepts: VecDeque<AcceptEvent>,
}

impl PollEvents {
    pub(crate) fn is_empty(&self) -> bool {
        self.streams.is_empty() && self.accepts.is_empty()
    }
}

/// Something changed about a stream.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PollEvent {
    /// Which stream.
    pub(crate) token: Token,
    /// What may be tried now.
    pub(crate) readiness: Readiness,
}

/// What became of an accept.
#[derive(Debug)]
pub(crate) enum AcceptEvent {
    /// A listener took a connection out of the kernel's queue.
    Accepted {
        /// Which listener.
        listener: Token,
        /// Non-blocking and closed on exec.
        stream: OwnedFd,
        /// The other end's.
        peer: Address,
    },
    /// A listener failed to.
    Failed {
        /// Which listener.
        listener: Token,
        /// Why.
        error: io::Error,
        /// Whether only the one connection is lost by it.
        skipped: bool,
    },
}

/// What has become possible on a stream, or known of it. Hints: a try may still find nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Readiness {
    /// A receive will not wait: there are bytes, the end, or an error to fetch.
    pub(crate) receivable: bool,
    /// The socket takes bytes again.
    pub(crate) sendable: bool,
    /// The peer has ended its stream.
    pub(crate) peer_closed: bool,
    /// The socket has failed, or both directions are shut.
    pub(crate) failed: bool,
    /// Urgent data has come. Reads end at its mark, wherever that is.
    pub(crate) urgent: bool,
}

/// The driver of this system.
pub(crate) fn driver(waker: &Waker) -> io::Result<Box<dyn Poll>> {
    Ok(Box::new(Epoll::new(waker.as_fd())?))
}
