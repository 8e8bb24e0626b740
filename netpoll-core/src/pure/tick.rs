//! What a loop calls again and again.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::base::clock::later;
use crate::base::panic::guard;

/// What one loop does.
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

    /// When it ticks for the first time.
    pub(crate) fn first(&self, now: Instant) -> Instant {
        later(now, self.period)
    }

    /// Ticks, and says when next.
    pub(crate) fn run(self: Arc<Self>, now: Instant) -> Instant {
        guard("a tick", || (self.call)(self.number)).ok();
        let next = later(now, self.period);
        // This may be the last hold of what the user's closure captured.
        guard("the release of a tick", || drop(self)).ok();
        next
    }
}

impl fmt::Debug for Tick {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Tick of loop {}, every {:?}", self.number, self.period)
    }
}
