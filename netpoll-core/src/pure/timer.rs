//! What a reactor has to do later: a timing wheel. It has no clock: the caller passes the time in.

mod list;
#[cfg(test)]
mod tests;
mod wheel;

use std::fmt;
use std::time::{Duration, Instant};

use crate::pure::slab::Token;
use wheel::{LAST, Wheel};

/// Timers, which fire in the order of their deadlines; those of the same tick fire in the order in
/// which they were armed.
///
/// A tick is a millisecond. No timer fires early: a deadline within a tick is due when the tick is
/// over. A deadline that has passed when it is armed counts as the current tick, so it is due at
/// once, after the timers that were due before.
///
/// Arming and cancelling cost O(1). Arming allocates only when there are more timers than ever
/// before; the memory is not given back. A timer moves at most once per level of the wheel before
/// it fires (`timer/wheel.rs` has the picture), however far the time jumps. Deadlines may be 8 900
/// years away; later ones fire then.
pub(crate) struct Timers<T> {
    /// Where tick 0 begins.
    origin: Instant,
    wheel: Wheel<T>,
}

/// Names one timer. When that has fired or was cancelled, the key finds nothing, even if another
/// timer has its slot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct TimerKey(Token);

impl<T> Timers<T> {
    /// Makes an empty set of timers. `now` is where tick 0 begins; deadlines before it all count
    /// as that.
    pub(crate) fn new(now: Instant) -> Self {
        Self { origin: now, wheel: Wheel::new() }
    }

    pub(crate) fn arm(&mut self, at: Instant, what: T) -> TimerKey {
        let tick = ticks_up(at.saturating_duration_since(self.origin));
        TimerKey(self.wheel.insert(tick, what))
    }

    /// Cancels a timer; `None` if it has fired or was cancelled.
    pub(crate) fn cancel(&mut self, key: TimerKey) -> Option<T> {
        self.wheel.remove(key.0)
    }

    /// The next timer that is due at `now`.
    ///
    /// The caller repeats the call until it returns `None`; the first call moves all timers that
    /// have become due. A timer that is armed in between with a deadline that has passed fires
    /// after all that were due at `now`. Time does not go back: a `now` earlier than the last
    /// counts as the last.
    pub(crate) fn fire(&mut self, now: Instant) -> Option<T> {
        self.wheel.advance(ticks_down(now.saturating_duration_since(self.origin)));
        self.wheel.pop_due()
    }

    /// The next timer, whether it is due or not: for a loop that ends. Time stands at its end then.
    pub(crate) fn take_next(&mut self) -> Option<T> {
        self.wheel.advance(LAST);
        self.wheel.pop_due()
    }

    /// How long to wait before the next [`Timers::fire`]; `None` if no timer is armed.
    ///
    /// The wait never ends after the next deadline is due. It may end earlier, when timers must
    /// move to a finer level: at most once per level for each deadline.
    #[inline]
    pub(crate) fn wait(&self, now: impl FnOnce() -> Instant) -> Option<Duration> {
        let tick = self.wheel.next_tick()?;
        let from_origin = Duration::from_millis(tick);
        Some(from_origin.saturating_sub(now().saturating_duration_since(self.origin)))
    }

    pub(crate) fn len(&self) -> usize {
        self.wheel.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<T> fmt::Debug for Timers<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let next = self.wheel.next_tick();
        f.debug_struct("Timers")
            .field("len", &self.len())
            .field("next_tick", &next)
            .finish_non_exhaustive()
    }
}

/// The number of ticks that are over at a time since the origin. A tick is a millisecond.
fn ticks_down(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).map_or(LAST, |ticks| ticks.min(LAST))
}

/// The tick at which a deadline is due, rounded up, so that no timer is early.
fn ticks_up(deadline: Duration) -> u64 {
    const SHORT_OF_A_TICK: Duration = Duration::from_nanos(999_999);
    ticks_down(deadline.saturating_add(SHORT_OF_A_TICK))
}
