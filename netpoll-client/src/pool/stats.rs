//! What a pool counts.

use std::sync::atomic::{AtomicU64, Ordering};

/// What a pool has, over all addresses, and what it has done since it was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PoolStats {
    /// Connections that are idle, handed out, or being dialled.
    pub open: usize,
    /// Connections that wait to be handed out.
    pub idle: usize,
    /// Threads that wait for a connection.
    pub waiting: usize,
    /// Dials that succeeded.
    pub dialled: u64,
    /// Dials that failed.
    pub dials_failed: u64,
    /// Times that a connection was handed out again.
    pub reused: u64,
    /// Waits that ended without a connection.
    pub timed_out: u64,
    /// Closed because the peer or this side had closed or reset it.
    pub closed_dead: u64,
    /// Closed because bytes were unread or unsent.
    pub closed_dirty: u64,
    /// Closed because a read or a flush had failed on it.
    pub closed_failed: u64,
    /// Closed because nothing had arrived since bytes were sent.
    pub closed_unanswered: u64,
    /// Closed because its caller's thread panicked.
    pub closed_panicked: u64,
    /// Closed because its caller discarded it, or gave another connection back in its place.
    pub closed_discarded: u64,
    /// Closed because it was idle, or alive, for too long.
    pub closed_expired: u64,
    /// Closed because enough others were idle.
    pub closed_surplus: u64,
}

/// See [`PoolStats`], which is read from it.
#[derive(Default)]
pub(super) struct Counters {
    pub(super) dialled: AtomicU64,
    pub(super) dials_failed: AtomicU64,
    pub(super) reused: AtomicU64,
    pub(super) timed_out: AtomicU64,
    pub(super) dead: AtomicU64,
    pub(super) dirty: AtomicU64,
    pub(super) failed: AtomicU64,
    pub(super) unanswered: AtomicU64,
    pub(super) panicked: AtomicU64,
    pub(super) discarded: AtomicU64,
    pub(super) expired: AtomicU64,
    pub(super) surplus: AtomicU64,
}

impl Counters {
    /// All of them. The three figures of the present are 0: the addresses have them.
    pub(super) fn read(&self) -> PoolStats {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        PoolStats {
            open: 0,
            idle: 0,
            waiting: 0,
            dialled: read(&self.dialled),
            dials_failed: read(&self.dials_failed),
            reused: read(&self.reused),
            timed_out: read(&self.timed_out),
            closed_dead: read(&self.dead),
            closed_dirty: read(&self.dirty),
            closed_failed: read(&self.failed),
            closed_unanswered: read(&self.unanswered),
            closed_panicked: read(&self.panicked),
            closed_discarded: read(&self.discarded),
            closed_expired: read(&self.expired),
            closed_surplus: read(&self.surplus),
        }
    }
}
