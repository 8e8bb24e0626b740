//! How far a callback may write ahead of its peer: what the writing side tells the reading side.
//!
//! ```text
//!   Writer ── staged bytes, or "the queue is congested" ──► Pace ──► Reader
//!          ◄───────────── "flush before you write on" ───── Pace ◄── a read that may wait
//! ```
//! A callback that answers in a loop ends when a read has nothing for it. A peer that sends faster
//! than the loop answers would keep it there for ever, and nothing would be flushed. So the reading
//! side looks at what is written and not flushed, which the borrow of the writing side hides.

use crate::base::sync::{AtomicBool, AtomicUsize, Ordering};

/// In the place of the number of staged bytes: a flush has left the queue above its high-water
/// mark.
const CONGESTED: usize = usize::MAX;

/// See the module. The atomics keep a connection `Sync`; it is touched by the owner alone.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    ahead: AtomicUsize,
    asked: AtomicBool,
}

/// What a callback has written ahead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ahead {
    /// So many bytes are staged.
    Staged(usize),
    /// The last flush has left the queue above its high-water mark.
    Congested,
}

impl Pace {
    /// Below this many staged bytes the sides tell each other nothing, whatever the high-water mark
    /// is: the usual callback stays below it and pays no more than a comparison.
    pub(crate) const QUIET_BELOW: usize = 64 << 10;

    /// Whether as many bytes are staged that the reading side must be told.
    #[inline]
    pub(crate) fn must_hear_of(staged: usize) -> bool {
        staged >= Self::QUIET_BELOW
    }

    /// So many bytes are staged.
    pub(crate) fn tell_staged(&self, staged: usize) {
        self.ahead.store(staged, Ordering::Relaxed);
    }

    /// The queue stands above its high-water mark.
    pub(crate) fn tell_congested(&self) {
        self.ahead.store(CONGESTED, Ordering::Relaxed);
    }

    /// Nothing is staged, as far as the reading side must know.
    #[inline]
    pub(crate) fn clear(&self) {
        self.ahead.store(0, Ordering::Relaxed);
    }

    /// Whether a read must look.
    #[inline]
    pub(crate) fn is_ahead(&self) -> bool {
        self.ahead.load(Ordering::Relaxed) >= Self::QUIET_BELOW
    }

    /// What the writing side has told last.
    pub(crate) fn ahead(&self) -> Ahead {
        match self.ahead.load(Ordering::Relaxed) {
            CONGESTED => Ahead::Congested,
            staged => Ahead::Staged(staged),
        }
    }

    /// Has the next write flush first: the reading side cannot.
    pub(crate) fn ask_for_flush(&self) {
        self.asked.store(true, Ordering::Relaxed);
    }

    /// Whether the reading side has asked for a flush since the last call.
    pub(crate) fn take_asked(&self) -> bool {
        self.asked.swap(false, Ordering::Relaxed)
    }
}
