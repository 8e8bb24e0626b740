//! What a reactor knows of one descriptor.

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use crate::address::Address;
use crate::connection::Shared;

/// What stands behind a token (netpoll's name for it).
pub(crate) enum FdOperator {
    /// A connected stream, or one on its way.
    Stream(Arc<Shared>),
    /// A listener, and what to do with what it accepts.
    Listener(Box<dyn Accept>),
}

/// Takes what a listener accepts. It runs on the thread of the listener's reactor, and everything
/// on that reactor waits while it runs.
pub trait Accept: Send {
    /// A connection: non-blocking, closed on exec, not registered anywhere.
    fn accepted(&mut self, stream: OwnedFd, peer: Address);

    /// Accepting failed, and not because of the one connection: descriptors or memory have run out,
    /// or the listener is dead. Returns how long to pause, or `None` to give the listener up.
    fn failed(&mut self, error: &io::Error) -> Option<Duration>;

    /// The listener can't be watched, or was given up: nothing more will be accepted.
    fn given_up(self: Box<Self>, error: io::Error);
}

impl fmt::Debug for FdOperator {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stream(shared) => out.debug_tuple("Stream").field(shared).finish(),
            Self::Listener(_) => out.write_str("Listener"),
        }
    }
}
