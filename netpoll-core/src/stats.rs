//! What a reactor counts. Written by its own thread, readable by all.

use crate::sync::{AtomicU64, Ordering};

/// The counters of one reactor: one writer, so an addition is a load and a store.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) turns: Counter,
    pub(crate) events: Counter,
    pub(crate) stale: Counter,
    pub(crate) connections: Counter,
    pub(crate) accepted: Counter,
    pub(crate) lost: Counter,
    pub(crate) accept_failures: Counter,
}

/// See [`Counters`].
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, n: usize) {
        self.0.store(self.read().wrapping_add(n as u64), Ordering::Relaxed);
    }

    pub(crate) fn set(&self, n: usize) {
        self.0.store(n as u64, Ordering::Relaxed);
    }

    pub(crate) fn read(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What one loop has done so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct LoopStats {
    /// Connections registered now.
    pub connections: u64,
    /// Turns: waits for events.
    pub turns: u64,
    /// Events that the waits returned.
    pub events: u64,
    /// Events for connections that were closed before the event was delivered; they were dropped.
    pub stale_events: u64,
    /// Connections that its listeners accepted.
    pub accepted: u64,
    /// Connections that were gone before they could be accepted.
    pub lost: u64,
    /// Times that accepting failed because descriptors or memory had run out, or the listener was
    /// dead.
    pub accept_failures: u64,
}

impl Counters {
    pub(crate) fn snapshot(&self) -> LoopStats {
        LoopStats {
            connections: self.connections.read(),
            turns: self.turns.read(),
            events: self.events.read(),
            stale_events: self.stale.read(),
            accepted: self.accepted.read(),
            lost: self.lost.read(),
            accept_failures: self.accept_failures.read(),
        }
    }
}
