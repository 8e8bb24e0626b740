//! What the owner of a connection works with, and the right to touch its socket.
//!
//! ```text
//!     between runs             during a run: Connection
//!     ┌───────┐                ┌───────┐     ┌──────────────────────────────────┐
//!     │ Owner │    ───────►    │ Owner │  +  │ Desk  input: what has arrived    │
//!     └───────┘    ◄───────    └───────┘     │       staged: what was written   │
//!                                            └──────────────────────────────────┘
//!                                              from this thread, which keeps one
//! ```
//! Few connections have unread input between two runs, and none has unflushed output: so the desk
//! is the thread's, and stays in its cache, however many connections take turns at it. One that
//! leaves something on it keeps it.

use std::cell::Cell;
use std::fmt;
use std::ops::Deref;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use netpoll_buffer::LinkBuffer;

use super::input::Input;
use super::shared::{Shared, schedule};
use crate::socket::Stream;
use crate::sync::Ordering;
use crate::task::Events;

thread_local! {
    /// The desk at which nobody sits.
    static FREE: Cell<Option<Box<Desk>>> = const { Cell::new(None) };
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Desk {
    pub(crate) input: Input,
    /// Written, not flushed.
    pub(crate) staged: LinkBuffer,
}

impl Desk {
    /// This thread's, or a new one.
    pub(crate) fn take() -> Box<Self> {
        FREE.try_with(Cell::take).ok().flatten().unwrap_or_default()
    }

    /// Whether there is nothing on it.
    #[inline]
    pub(crate) fn is_clear(&mut self) -> bool {
        self.staged.is_new() && self.input.is_new()
    }

    /// Drops what is on it.
    pub(crate) fn clear(&mut self) {
        self.staged.clear();
        self.staged = LinkBuffer::new(); // what it has learnt to expect goes as well
        self.input.clear();
    }

    /// Leaves it, clear, to the next.
    #[inline]
    pub(crate) fn leave(mut self: Box<Self>) {
        debug_assert!(self.is_clear(), "what one connection left would reach another");
        // A thread that ends keeps none.
        if let Ok(Some(second)) = FREE.try_with(|free| free.replace(Some(self))) {
            drop(second);
        }
    }
}

/// A connection's owner: whoever has it may receive from the socket.
pub(crate) struct Owner {
    shared: Arc<Shared>,
    stream: Arc<Stream>,
}

impl Owner {
    /// The runners of its task.
    pub(crate) fn runner(shared: Arc<Shared>, stream: Arc<Stream>) -> Self {
        Self { shared, stream }
    }

    /// The caller that dialled it: with it the connection ends.
    pub(crate) fn caller(shared: Arc<Shared>, stream: Arc<Stream>) -> Self {
        shared.is_callers.store(true, Ordering::Relaxed);
        Self { shared, stream }
    }

    /// Leaves driving the connection, and closing it, to others; says whether it was the caller's.
    pub(crate) fn disown(&mut self) -> bool {
        self.shared.is_callers.swap(false, Ordering::Relaxed)
    }

    pub(crate) fn stream(&self) -> &Stream {
        &self.stream
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        if self.shared.is_callers.load(Ordering::Relaxed) {
            self.shared.task.word.hand_over(Events::CLOSE | Events::STARTED);
            schedule(&self.shared);
        }
    }
}

impl Deref for Owner {
    type Target = Arc<Shared>;

    fn deref(&self) -> &Arc<Shared> {
        &self.shared
    }
}

impl AsFd for Owner {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

impl fmt::Debug for Owner {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.shared.fmt(out)
    }
}
