//! Ticks: a closure of the user that loops call once a period.
//!
//! ```text
//!     the wheel of loop 0 ──► Tick 0 ─┐
//!     the wheel of loop 1 ──► Tick 1 ─┼──► Series ──► the closure, until it is cancelled
//!                          the user's ┘           ──► what starts a tick on further loops
//! ```
//! The wheels own their ticks, so a series lasts as long as a loop that has one.

use std::any::Any;
use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use crate::base::clock::later;
use crate::base::panic::guard;
use crate::base::sync::{Mutex, lock};

/// What a tick calls, with the number of its loop.
pub(crate) type Call = Arc<dyn Fn(usize) + Send + Sync>;

/// The ticks of all loops of one manager that call the same closure.
pub(crate) struct Series {
    period: Duration,
    /// Taken out when the series is cancelled, so that what it captured is dropped then.
    call: Mutex<Option<Call>>,
    /// What must live as long as the series.
    keeps: OnceLock<Box<dyn Any + Send + Sync>>,
}

/// The tick of one loop. The loop's thread runs it.
pub(crate) struct Tick {
    number: usize,
    series: Arc<Series>,
}

impl Series {
    pub(crate) fn new(period: Duration, call: Call) -> Arc<Self> {
        Arc::new(Self { period, call: Mutex::new(Some(call)), keeps: OnceLock::new() })
    }

    /// Keeps `what` until the series has ended. For its maker, once.
    pub(crate) fn keep(&self, what: impl Any + Send + Sync) {
        let _ = self.keeps.set(Box::new(what));
    }

    /// No tick begins from here on. One that runs goes on, and drops what the closure captured.
    pub(crate) fn cancel(&self) {
        let call = lock(&self.call).take();
        guard("the release of a tick", || drop(call)).ok();
    }

    /// The closure, unless the series is cancelled.
    fn call(&self) -> Option<Call> {
        lock(&self.call).clone()
    }
}

/// The last reference may be that of a loop that ends.
impl Drop for Series {
    fn drop(&mut self) {
        self.cancel();
    }
}

impl Tick {
    /// The tick of loop `number`; `None` if the series is cancelled.
    pub(crate) fn of(series: &Arc<Series>, number: usize) -> Option<Self> {
        series.call().map(|call| {
            guard("the release of a tick", || drop(call)).ok();
            Self { number, series: series.clone() }
        })
    }

    /// When the first call is due.
    pub(crate) fn first(&self, now: Instant) -> Instant {
        later(now, self.series.period)
    }

    /// Calls the closure, and returns when the next call is due; `None` if the series is cancelled.
    pub(crate) fn run(&self, now: Instant) -> Option<Instant> {
        let call = self.series.call()?;
        guard("a tick", || call(self.number)).ok();
        // It may have been cancelled meanwhile, and this be the last reference to the closure.
        guard("the release of a tick", || drop(call)).ok();
        Some(later(now, self.series.period))
    }
}

impl fmt::Debug for Series {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Series, every {:?}", self.period)
    }
}

impl fmt::Debug for Tick {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Tick of loop {}, every {:?}", self.number, self.series.period)
    }
}
