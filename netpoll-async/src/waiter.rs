//! Which task waits for one side of a connection.

use std::mem;
use std::task::Waker;

/// See the module.
#[derive(Debug, Default)]
pub(crate) enum Waiter {
    #[default]
    None,
    /// The future of the connection, which the callbacks poll.
    Own,
    /// Another task: one of an executor inside that future, or of another thread.
    Other(Waker),
}

impl Waiter {
    /// Notes which task waits. Returns the waker that was stored before, for the caller to drop
    /// without a lock: its drop is foreign code.
    #[must_use]
    pub(crate) fn wait(&mut self, waker: &Waker, is_own: bool) -> Self {
        match self {
            Self::Own if is_own => return Self::None,
            Self::Other(stored) if !is_own && stored.will_wake(waker) => return Self::None,
            _ => {}
        }
        let now = if is_own { Self::Own } else { Self::Other(waker.clone()) };
        mem::replace(self, now)
    }

    pub(crate) fn take(&mut self) -> Self {
        mem::take(self)
    }

    pub(crate) fn is_waiting(&self) -> bool {
        !matches!(self, Self::None)
    }
}
