//! Callbacks that take too long: counted, and logged at a bounded rate.

use std::time::{Duration, Instant};

use crate::base::clock;
use crate::base::sync::{AtomicU64, Mutex, Ordering, lock};
use crate::connection::Shared;

/// At most one line of log in this time.
const LOG_PERIOD: Duration = Duration::from_secs(1);

/// The limit of one group, and when it was last logged that it was passed.
#[derive(Debug, Default)]
pub(crate) struct Watchdog {
    /// In nanoseconds; 0 is off.
    limit: AtomicU64,
    logged: Mutex<Log>,
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

    /// Ends what `begin` began.
    pub(crate) fn end(&self, shared: &Shared, (begun, limit): (Instant, Duration)) {
        let now = clock::now();
        let took = now.duration_since(begun);
        if took < limit {
            return;
        }
        shared.reactor.traffic.slow.fetch_add(1, Ordering::Relaxed);
        let mut log = lock(&self.logged);
        if log.last.is_some_and(|last| now.duration_since(last) < LOG_PERIOD) {
            log.unlogged += 1;
            return;
        }
        log.last = Some(now);
        let before = std::mem::take(&mut log.unlogged);
        drop(log);
        log::warn!(
            "a callback took {took:?}, longer than {limit:?}: connection {} from {} ({before} more \
             since the last such line)",
            shared.token().to_u64(),
            shared.peer(),
        );
    }
}
