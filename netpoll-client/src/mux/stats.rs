//! What a multiplexer counts.

use std::sync::atomic::{AtomicU64, Ordering};

/// What a multiplexer has done since it was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct MuxStats {
    /// Calls that wait for their response now.
    pub waiting: usize,
    /// Responses that found their call.
    pub answered: u64,
    /// Responses that came after their call had given up.
    pub late: u64,
    /// Responses to a call that was answered already.
    pub duplicate: u64,
    /// Responses that no call had asked for.
    pub unknown: u64,
    /// How often queued requests were handed to a socket: with many threads that is less often than
    /// calls are made.
    pub flushes: u64,
    /// Dials that succeeded.
    pub dialled: u64,
    /// Dials that failed.
    pub dials_failed: u64,
    /// Connections that were given up because calls timed out and no byte came.
    pub given_up: u64,
}

#[derive(Debug, Default)]
pub(super) struct Counter(AtomicU64);

#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) answered: Counter,
    pub(super) late: Counter,
    pub(super) duplicate: Counter,
    pub(super) unknown: Counter,
    pub(super) flushes: Counter,
    pub(super) dialled: Counter,
    pub(super) dials_failed: Counter,
    pub(super) given_up: Counter,
}

impl Counter {
    pub(super) fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    fn read(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Counters {
    /// All of them; how many calls wait is not counted here.
    pub(super) fn read(&self) -> MuxStats {
        MuxStats {
            waiting: 0,
            answered: self.answered.read(),
            late: self.late.read(),
            duplicate: self.duplicate.read(),
            unknown: self.unknown.read(),
            flushes: self.flushes.read(),
            dialled: self.dialled.read(),
            dials_failed: self.dials_failed.read(),
            given_up: self.given_up.read(),
        }
    }

    pub(super) fn count_dial(&self, succeeded: bool) {
        if succeeded { &self.dialled } else { &self.dials_failed }.add(1);
    }
}
