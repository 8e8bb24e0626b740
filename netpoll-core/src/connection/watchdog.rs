//! Callbacks that take too long: counted, and logged at a bounded rate.

use std::time::{Duration, Instant};

use crate::base::clock;
use crate::base::stats::Traffic;
use crate::base::sync::{AtomicU64, Mutex, Ordering, lock};

/// At most one line of log in this time.
const LOG_PERIOD: Duration = Duration::from_secs(1);

/// The limit of one group, and when it was last logged that it was passed.
#[derive(Debug, Default)]
pub(crate) struct Watchdog {
    /// In nanoseconds; 0 is off.
    limit: AtomicU64,
    logged: Mutex<Log>,
}

/// A callback that took too long, for the log.
#[derive(Debug)]
pub(crate) struct Slow {
    pub(crate) took: Duration,
    pub(crate) limit: Duration,
    /// How many were not logged since the last one was.
    pub(crate) unlogged: u64,
}

#[derive(Debug, Default)]
struct Log {
    last: Option<Instant>,
    unlogged: u64,
}

impl Watchdog {
    pub(crate) fn set(&self, limit: Option<Duration>) {
        let nanos = limit.map_or(0, |it| u64::try_from(it.as_nanos()).unwrap_or(u64::MAX));
        self.limit.store(nanos, Ordering::Relaxed);
    }

    /// Begins to watch one round of a connection, unless it is off: then it reads no clock.
    pub(crate) fn begin(&self) -> Option<(Instant, Duration)> {
        match self.limit.load(Ordering::Relaxed) {
            0 => None,
            nanos => Some((clock::now(), Duration::from_nanos(nanos))),
        }
    }

    /// Ends what `begin` began, and counts it where it took too long. Returns what the log is to
    /// say, now and then.
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
        let mut log = lock(&self.logged);
        if log.last.is_some_and(|last| now.duration_since(last) < LOG_PERIOD) {
            log.unlogged += 1;
            return None;
        }
        log.last = Some(now);
        Some(Slow { took, limit, unlogged: std::mem::take(&mut log.unlogged) })
    }
}
