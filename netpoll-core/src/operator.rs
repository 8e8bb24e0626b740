//! What a reactor knows of one descriptor.

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Instant;

use crate::address::Address;
use crate::connection::Shared;

/// What stands behind a token (netpoll's name for it).
pub(crate) enum FdOperator {
    /// A connected stream, or one on its way.
    Stream(Arc<Shared>),
    /// A listener, and what to do with what it accepts.
    Listener(Arc<OwnedFd>, Box<dyn Accept>),
}

/// Takes what a listener accepts. It runs on the thread of the listener's reactor, and everything
/// on that reactor waits while it runs.
pub trait Accept: Send {
    /// How many connections may be taken out of the queue now. Asked before each wait; where it is
    /// none, the others of the loop go on, and those who wish to connect wait in the kernel.
    fn room(&mut self) -> Room;

    /// A connection: non-blocking, closed on exec, not registered anywhere.
    fn accepted(&mut self, stream: OwnedFd, peer: Address);

    /// Accepting failed, and not because of the one connection: descriptors or memory have run out,
    /// or the listener is dead. Returns whether to go on with it; `room` says when.
    fn failed(&mut self, error: &io::Error) -> bool;

    /// The listener can't be watched, or was given up: nothing more will be accepted.
    fn given_up(self: Box<Self>, error: io::Error);

    /// The loop takes no more connections: who waits in the queue is to be served elsewhere.
    fn retired(self: Box<Self>);
}

/// What an acceptor has room for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// So many connections.
    pub count: usize,
    /// Where that is none: when to ask again, unless a wake comes first. `None`: at a wake.
    pub again: Option<Instant>,
}

impl Room {
    /// Room for any number.
    pub const ANY: Self = Self { count: usize::MAX, again: None };
}

impl fmt::Debug for dyn Accept {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Accept")
    }
}

impl fmt::Debug for FdOperator {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stream(shared) => out.debug_tuple("Stream").field(shared).finish(),
            Self::Listener(..) => out.write_str("Listener"),
        }
    }
}
