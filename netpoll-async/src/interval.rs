//! Ticks: the same wait again and again.

use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use netpoll_core::clock::{later, now};

use crate::sleep::{Sleep, sleep_until};

/// The least period: the wheels of the loops turn in milliseconds.
const SHORTEST: Duration = Duration::from_millis(1);

/// What becomes of ticks that were due while nothing waited for one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum MissedTicks {
    /// They are left out: the next tick is due at the next multiple of the period.
    #[default]
    Skip,
    /// They come at once, one after the other, until all were made up for.
    Burst,
    /// The next tick comes one period after the late one.
    Delay,
}

/// Ticks each `period`: at once for the first time, and then at multiples of the period from now
/// on. A period under a millisecond counts as one.
///
/// ```
/// use std::time::{Duration, Instant};
/// use netpoll_async::{block_on, interval};
///
/// let start = Instant::now();
/// block_on(async {
///     let mut ticks = interval(Duration::from_millis(2));
///     for _ in 0..3 {
///         ticks.tick().await;
///     }
/// });
/// assert!(start.elapsed() >= Duration::from_millis(4));
/// ```
pub fn interval(period: Duration) -> Interval {
    interval_at(now(), period)
}

/// As [`interval`], with the first tick at `start`.
pub fn interval_at(start: Instant, period: Duration) -> Interval {
    let (sleep, missed) = (sleep_until(start), MissedTicks::default());
    Interval { sleep, period: period.max(SHORTEST), missed }
}

/// See [`interval`]. A tick that nothing waits for costs nothing; the timer is that of one
/// [`Sleep`].
pub struct Interval {
    sleep: Sleep,
    period: Duration,
    missed: MissedTicks,
}

impl Interval {
    /// What becomes of ticks that come late; [`MissedTicks::Skip`] by default.
    #[must_use]
    pub fn missed_ticks(mut self, missed: MissedTicks) -> Self {
        self.missed = missed;
        self
    }

    /// Waits for the next tick, and returns when it was due. Dropping the future loses no tick.
    pub async fn tick(&mut self) -> Instant {
        poll_fn(|context| self.poll_tick(context)).await
    }

    /// As [`tick`](Self::tick), for a future of one's own.
    pub fn poll_tick(&mut self, context: &mut Context<'_>) -> Poll<Instant> {
        ready!(Pin::new(&mut self.sleep).poll(context));
        let due = self.sleep.deadline();
        self.sleep.reset(next(due, now(), self.period, self.missed));
        Poll::Ready(due)
    }

    /// The time between two ticks.
    pub fn period(&self) -> Duration {
        self.period
    }

    /// Starts again: the next tick comes one period from now.
    pub fn reset(&mut self) {
        self.sleep.reset(later(now(), self.period));
    }
}

/// When the next tick is due, after one that was due at `due` was taken at `now`.
fn next(due: Instant, now: Instant, period: Duration, missed: MissedTicks) -> Instant {
    let next = later(due, period);
    if next > now {
        return next;
    }
    match missed {
        MissedTicks::Burst => next,
        MissedTicks::Delay => later(now, period),
        MissedTicks::Skip => {
            let since = now.saturating_duration_since(due).as_nanos() % period.as_nanos();
            // Less than the period, which is a number of nanoseconds of this size.
            let into = Duration::from_nanos(u64::try_from(since).unwrap_or(u64::MAX));
            later(now, period.saturating_sub(into))
        }
    }
}

impl fmt::Debug for Interval {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Interval")
            .field("next", &self.sleep.deadline())
            .field("period", &self.period)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn late_ticks_are_skipped_made_up_for_or_put_off() {
        let ms = Duration::from_millis;
        let start = now();
        let at = |missed, taken| next(start, start + ms(taken), ms(10), missed) - start;
        for missed in [MissedTicks::Skip, MissedTicks::Burst, MissedTicks::Delay] {
            assert_eq!(at(missed, 9), ms(10), "{missed:?}: it is in time");
        }
        assert_eq!(at(MissedTicks::Skip, 10), ms(20));
        assert_eq!(at(MissedTicks::Skip, 35), ms(40));
        assert_eq!(at(MissedTicks::Burst, 35), ms(10));
        assert_eq!(at(MissedTicks::Delay, 35), ms(45));
    }
}
