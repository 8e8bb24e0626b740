//! How far a callback may write ahead of its peer: messages from the writing to the reading side.
//!
//! ```text
//!   Writer ── staged bytes, or "the queue is congested" ──► Pace ──► Reader
//!          ◄───────────── "flush before you write on" ───── Pace ◄── a read that may wait
//! ```
//! A callback that answers requests in a loop returns when a read has no bytes for it. A peer that
//! sends faster than the callback answers would keep it in the loop for ever, and nothing would be
//! flushed. So the reading side checks how much is written and not flushed; it can't see the staged
//! bytes themselves, which the writing side has borrowed.

use crate::base::sync::{AtomicBool, AtomicUsize, Ordering};

/// Stands for the number of staged bytes after a flush that left the queue above its high-water
/// mark.
const CONGESTED: usize = usize::MAX;

/// The messages between the two sides of one connection. Only the owner uses it; the atomics are
/// there to keep a connection `Sync`.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    ahead: AtomicUsize,
    asked: AtomicBool,
}

/// How much a callback has written ahead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ahead {
    /// The number of staged bytes.
    Staged(usize),
    /// The last flush has left the queue above its high-water mark.
    Congested,
}

impl Pace {
    /// Below this many staged bytes the sides exchange no messages, whatever the high-water mark
    /// is. A usual callback stays below it and pays for one comparison.
    pub(crate) const QUIET_BELOW: usize = 64 << 10;

    /// Whether so many bytes are staged that the reading side must know.
    #[inline]
    pub(crate) fn must_hear_of(staged: usize) -> bool {
        staged >= Self::QUIET_BELOW
    }

    /// Tells the reading side how many bytes are staged.
    pub(crate) fn tell_staged(&self, staged: usize) {
        self.ahead.store(staged, Ordering::Relaxed);
    }

    /// Tells the reading side that the queue is above its high-water mark.
    pub(crate) fn tell_congested(&self) {
        self.ahead.store(CONGESTED, Ordering::Relaxed);
    }

    /// Tells the reading side that nothing is staged.
    #[inline]
    pub(crate) fn clear(&self) {
        self.ahead.store(0, Ordering::Relaxed);
    }

    /// Whether a read must look at [`ahead`](Self::ahead).
    #[inline]
    pub(crate) fn is_ahead(&self) -> bool {
        self.ahead.load(Ordering::Relaxed) >= Self::QUIET_BELOW
    }

    /// The last message of the writing side.
    pub(crate) fn ahead(&self) -> Ahead {
        match self.ahead.load(Ordering::Relaxed) {
            CONGESTED => Ahead::Congested,
            staged => Ahead::Staged(staged),
        }
    }

    /// Has the next write flush first, since the reading side can't flush.
    pub(crate) fn ask_for_flush(&self) {
        self.asked.store(true, Ordering::Relaxed);
    }

    /// Whether the reading side has asked for a flush since the last call.
    pub(crate) fn take_asked(&self) -> bool {
        self.asked.swap(false, Ordering::Relaxed)
    }
}
