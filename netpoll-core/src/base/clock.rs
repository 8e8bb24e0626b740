//! The clock of reactors and connections, and times that lie ahead.
//!
//! It stands on the ground floor because the waits of `sync` need it. Nothing else
//! asks the system for the time, so a simulation has one place to answer.

use std::time::{Duration, Instant};

/// The time now.
#[inline]
pub fn now() -> Instant {
    Instant::now()
}

/// The time that lies `delay` after `now`, for a delay of any length: a century stands for all that
/// are longer.
pub fn later(now: Instant, delay: Duration) -> Instant {
    now + delay.min(Duration::from_secs(100 * 365 * 86_400))
}
