//! What the owner of a connection works with.
//!
//! ```text
//!     between runs             during a run: Connection
//!     ┌───────┐                ┌───────┐     ┌──────────────────────────────────┐
//!     │ Owner │    ───────►    │ Owner │  +  │ Scratch  input: what has arrived    │
//!     └───────┘    ◄───────    └───────┘     │       staged: what was written   │
//!                                            └──────────────────────────────────┘
//!                                              from this thread, which keeps one
//! ```
//! Few connections have unread input between two runs, and none has unflushed output: so the
//! scratch is the thread's, and stays in its cache, however many connections take turns at it. One
//! that leaves something on it keeps it.

use std::cell::Cell;

use netpoll_buffer::LinkBuffer;

use super::input::Input;
use super::pace::Pace;

thread_local! {
    /// The scratch at which nobody sits.
    static FREE: Cell<Option<Box<Scratch>>> = const { Cell::new(None) };
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    pub(crate) input: Input,
    /// Written, not flushed.
    pub(crate) staged: LinkBuffer,
    /// What the two sides tell each other.
    pub(crate) pace: Pace,
}

impl Scratch {
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
        self.pace = Pace::default();
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
