//! Which thread has written bytes to a connection that are not flushed: so that a message which the
//! same thread then sends by a handle does not overtake them.
//!
//! ```text
//!     Nothing ── a write ──► the thread's number ── its send, its close ──► Deferring
//!        ▲                         │                                            │
//!        └──────── a flush ────────┴────────────────────────────────────────────┘
//! ```
//! Written bytes are the owner's alone, and a handle can't reach them. So the handle puts its
//! message into the output as *deferred*, and the owner passes both on in their order: when it
//! flushes, before it writes on, and when the callback returns.
//!
//! It changes with each first write after a flush, without a lock, and goes back under the lock of
//! the output. What the output has deferred stands in its queue; this word only tells the owner.

use crate::base::sync::{AtomicU16, Ordering};
use crate::base::thread_number;

const NOTHING: u16 = 0;
const DEFERRING: u16 = u16::MAX;

/// See the module. No other memory depends on it, so it needs no order with respect to others.
#[derive(Debug)]
pub(crate) struct Unflushed(AtomicU16);

impl Unflushed {
    pub(crate) fn nothing() -> Self {
        Self(AtomicU16::new(NOTHING))
    }

    /// This thread writes. `false`: something waits for the owner to pass on what it has written
    /// before, and then the write is to be noted again. Of two threads that write one after the
    /// other, the second is kept: the first has passed the connection on.
    #[inline]
    pub(crate) fn note(&self) -> bool {
        let (by, number) = (self.0.load(Ordering::Relaxed), thread_number::current());
        if by == number {
            return true;
        }
        if by == NOTHING && number != thread_number::NONE {
            self.0.store(number, Ordering::Relaxed);
            return true;
        }
        self.note_anew(by)
    }

    #[cold]
    fn note_anew(&self, by: u16) -> bool {
        if by != DEFERRING {
            // Without a number the order is not kept: there are more threads than numbers, or this
            // one ends.
            self.0.store(thread_number::assign().unwrap_or(NOTHING), Ordering::Relaxed);
        }
        by != DEFERRING
    }

    /// Whether this thread wrote last, and did not flush.
    #[inline]
    pub(crate) fn is_mine(&self) -> bool {
        let by = self.0.load(Ordering::Relaxed);
        by != NOTHING && by == thread_number::current()
    }

    /// Whether there may be written bytes, or deferred messages behind them.
    #[inline]
    pub(crate) fn is_any(&self) -> bool {
        self.0.load(Ordering::Relaxed) != NOTHING
    }

    /// Something waits for the owner to pass on what it has written.
    #[inline]
    pub(crate) fn is_deferring(&self) -> bool {
        self.0.load(Ordering::Relaxed) == DEFERRING
    }

    pub(crate) fn defer(&self) {
        self.0.store(DEFERRING, Ordering::Relaxed);
    }

    /// All that was written was flushed or dropped.
    #[inline]
    pub(crate) fn clear(&self) {
        self.0.store(NOTHING, Ordering::Relaxed);
    }
}
