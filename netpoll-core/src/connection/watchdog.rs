//! The watchdog: counts callbacks that take too long, and logs them at a bounded rate.

use std::time::{Duration, Instant};

use crate::base::clock;
use crate::base::log_period::OncePer;
use crate::base::stats::Traffic;
use crate::base::sync::{AtomicU64, Ordering};

/// At most one line is logged in this time.
const LOG_PERIOD: Duration = Duration::from_secs(1);

/// The limit of one group, and when a callback above it was last logged.
#[derive(Debug)]
pub(crate) struct Watchdog {
    /// In nanoseconds; 0 is off.
    limit: AtomicU64,
    log: OncePer,
}

/// A callback that took too long, for the log.
#[derive(Debug)]
pub(crate) struct Slow {
    pub(crate) took: Duration,
    pub(crate) limit: Duration,
    /// How many were not logged since the last line.
    pub(crate) unlogged: u64,
}

impl Default for Watchdog {
    fn default() -> Self {
        Self { limit: AtomicU64::new(0), log: OncePer::new(LOG_PERIOD) }
    }
}

impl Watchdog {
    pub(crate) fn set(&self, limit: Option<Duration>) {
        let nanos = limit.map_or(0, |it| u64::try_from(it.as_nanos()).unwrap_or(u64::MAX));
        self.limit.store(nanos, Ordering::Relaxed);
    }

    /// Begins to watch one round of a connection; without a limit it reads no clock.
    pub(crate) fn begin(&self) -> Option<(Instant, Duration)> {
        match self.limit.load(Ordering::Relaxed) {
            0 => None,
            nanos => Some((clock::now(), Duration::from_nanos(nanos))),
        }
    }

    /// Ends what `begin` began, and counts the callback if it took too long. Returns what to log,
    /// if a line is due.
    pub(crate) fn end(
        &self,
        (begun, limit): (Instant, Duration),
        traffic: &Traffic,
    ) -> Option<Slow> {
        let now = clock::now();
        let took = now.duration_since(begun);
        if took < limit {
            return None;
        }
        traffic.slow.fetch_add(1, Ordering::Relaxed);
        Some(Slow { took, limit, unlogged: self.log.pass(now, 1)? })
    }
}
