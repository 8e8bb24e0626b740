//! A tick: a closure of the user that a loop calls once a period.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::base::clock::later;
use crate::base::panic::guard;

/// The tick of one loop. The loop's thread runs it.
pub(crate) struct Tick {
    number: usize,
    period: Duration,
    call: Arc<dyn Fn(usize) + Send + Sync>,
}

impl Tick {
    pub(crate) fn new(
        number: usize,
        period: Duration,
        call: Arc<dyn Fn(usize) + Send + Sync>,
    ) -> Self {
        Self { number, period, call }
    }

    /// When the first call is due.
    pub(crate) fn first(&self, now: Instant) -> Instant {
        later(now, self.period)
    }

    /// Calls the closure, and returns when the next call is due.
    pub(crate) fn run(self: Arc<Self>, now: Instant) -> Instant {
        guard("a tick", || (self.call)(self.number)).ok();
        let next = later(now, self.period);
        // This may be the last reference to what the user's closure captured.
        guard("the release of a tick", || drop(self)).ok();
        next
    }
}

impl fmt::Debug for Tick {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Tick of loop {}, every {:?}", self.number, self.period)
    }
}
