//! What the flows of a server have done.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// What the flows of datagram servers have done so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct FlowStats {
    /// Flows that there are now.
    pub open: usize,
    /// Flows that have begun.
    pub begun: u64,
    /// Runs of datagrams that were dropped since their flow would have been one too many.
    pub refused_at_limit: u64,
    /// Runs of datagrams that were dropped since `on_open` refused their flow.
    pub refused: u64,
    /// Flows that ended since nothing had come for too long.
    pub expired: u64,
    /// Flows that made room for others.
    pub evicted: u64,
}

/// The counters of all loops. A flow costs some additions in its life, a datagram none.
#[derive(Debug, Default)]
pub(crate) struct FlowCounters {
    pub(super) open: AtomicUsize,
    pub(super) begun: AtomicU64,
    pub(super) refused_at_limit: AtomicU64,
    pub(super) refused: AtomicU64,
    pub(super) expired: AtomicU64,
    pub(super) evicted: AtomicU64,
}

impl FlowCounters {
    /// Adds them to `stats`.
    pub(crate) fn add_to(&self, stats: &mut FlowStats) {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        stats.open += self.open.load(Ordering::Relaxed);
        stats.begun += of(&self.begun);
        stats.refused_at_limit += of(&self.refused_at_limit);
        stats.refused += of(&self.refused);
        stats.expired += of(&self.expired);
        stats.evicted += of(&self.evicted);
    }
}

impl FlowCounters {
    /// Takes one of `most` places for a flow; says whether there was one.
    pub(super) fn enter(&self, most: usize) -> bool {
        let one_more = |open| (open < most).then_some(open + 1);
        self.open.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).is_ok()
    }

    pub(super) fn is_full(&self, most: usize) -> bool {
        self.open.load(Ordering::Relaxed) >= most
    }

    /// Gives a place back.
    pub(super) fn leave(&self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Counts one more.
pub(super) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}
