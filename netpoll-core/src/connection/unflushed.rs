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
//! One bit says that the connection is a member of a group. It is not equal to a thread's number
//! then, so its writes take a slower path, which notes the first after a flush for the broadcasts
//! of its thread (`written_members.rs`); the writes of other connections pay nothing for that.
//!
//! It changes with each first write after a flush, without a lock, and goes back under the lock of
//! the output. What the output has deferred stands in its queue; this word only tells the owner.

use crate::base::sync::{AtomicU16, Ordering};
use crate::base::thread_number;

/// The bit of a member.
const MEMBER: u16 = 1 << 15;
const NOTHING: u16 = 0;
const DEFERRING: u16 = MEMBER - 1;

/// What a write finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Noted {
    /// It is noted.
    Yes,
    /// The same, and it is the first of this thread to a member of a group since a flush.
    OfMember,
    /// It is not: something waits for the owner to pass on what it has written before.
    Deferring,
}

/// See the module. No other memory depends on it, so it needs no order with respect to others.
#[derive(Debug)]
pub(crate) struct Unflushed(AtomicU16);

impl Unflushed {
    pub(crate) fn nothing() -> Self {
        Self(AtomicU16::new(NOTHING))
    }

    /// This thread writes. `false`: [`note_anew`](Self::note_anew) must note it.
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
        false
    }

    /// This thread writes. Of two threads that write one after the other, the second is kept: the
    /// first has passed the connection on.
    #[cold]
    pub(crate) fn note_anew(&self) -> Noted {
        let now = self.0.load(Ordering::Relaxed);
        let (by, member) = (now & !MEMBER, now & MEMBER);
        if by == DEFERRING {
            return Noted::Deferring;
        }
        // Without a number the order is not kept: there are more threads than numbers, or this one
        // ends.
        let number = thread_number::assign().unwrap_or(NOTHING);
        if by == number {
            return Noted::Yes;
        }
        self.0.store(number | member, Ordering::Relaxed);
        if member == 0 { Noted::Yes } else { Noted::OfMember }
    }

    /// It is a member of a group. Where another thread writes at this moment, that write may hide
    /// it until this is called again, at the next flush: nothing says which of the two came first.
    pub(crate) fn join(&self) {
        if self.0.load(Ordering::Relaxed) & MEMBER == 0 {
            self.0.fetch_or(MEMBER, Ordering::Relaxed);
        }
    }

    /// Whether this thread wrote last, and did not flush.
    #[inline]
    pub(crate) fn is_mine(&self) -> bool {
        let by = self.0.load(Ordering::Relaxed) & !MEMBER;
        by != NOTHING && by == thread_number::current()
    }

    /// Whether there may be written bytes, or deferred messages behind them.
    #[inline]
    pub(crate) fn is_any(&self) -> bool {
        self.0.load(Ordering::Relaxed) & !MEMBER != NOTHING
    }

    /// Something waits for the owner to pass on what it has written.
    #[inline]
    pub(crate) fn is_deferring(&self) -> bool {
        self.0.load(Ordering::Relaxed) & !MEMBER == DEFERRING
    }

    pub(crate) fn defer(&self) {
        self.change(DEFERRING);
    }

    /// All that was written was flushed or dropped.
    #[inline]
    pub(crate) fn clear(&self) {
        self.change(NOTHING);
    }

    #[inline]
    fn change(&self, by: u16) {
        let member = self.0.load(Ordering::Relaxed) & MEMBER;
        self.0.store(by | member, Ordering::Relaxed);
    }
}
