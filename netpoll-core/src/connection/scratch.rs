//! The scratch: the buffers that the owner of a connection works with during a run.
//!
//! ```text
//!     between runs             during a run: Connection
//!     ┌───────┐                ┌───────┐     ┌─────────────────────────────────────┐
//!     │ Owner │    ───────►    │ Owner │  +  │ Scratch  input: received, not read  │
//!     └───────┘    ◄───────    └───────┘     │          staged: written, not       │
//!                                            │                  flushed            │
//!                                            │          pace                       │
//!                                            └─────────────────────────────────────┘
//!                                              lent by this thread, which keeps one
//! ```
//! Few connections have unread input between two runs, and none has unflushed output. So a thread
//! has one scratch, which stays in its cache, and lends it to one connection after another. A
//! connection that has something left in the scratch keeps it.

use std::cell::Cell;

use netpoll_buffer::LinkBuffer;

use super::input::Input;
use super::pace::Pace;

thread_local! {
    /// The scratch of this thread, while no connection has it.
    static FREE: Cell<Option<Box<Scratch>>> = const { Cell::new(None) };
}

/// The buffers of one run.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    pub(crate) input: Input,
    /// Bytes that are written and not flushed.
    pub(crate) staged: LinkBuffer,
    /// Messages between the reading and the writing side.
    pub(crate) pace: Pace,
}

impl Scratch {
    /// Takes this thread's scratch, or makes a new one.
    pub(crate) fn take() -> Box<Self> {
        FREE.try_with(Cell::take).ok().flatten().unwrap_or_default()
    }

    /// Whether nothing is in it.
    #[inline]
    pub(crate) fn is_clear(&mut self) -> bool {
        self.staged.is_new() && self.input.is_new()
    }

    /// Drops what is in it.
    pub(crate) fn clear(&mut self) {
        self.staged.clear();
        self.staged = LinkBuffer::new(); // without what the old one has learnt to expect
        self.input.clear();
        self.pace = Pace::default();
    }

    /// Gives it, clear, back to the thread.
    #[inline]
    pub(crate) fn leave(mut self: Box<Self>) {
        debug_assert!(self.is_clear(), "what one connection left would reach another");
        // A thread that ends has no place for it.
        if let Ok(Some(second)) = FREE.try_with(|free| free.replace(Some(self))) {
            drop(second);
        }
    }
}
