//! What a reactor has to do later: a timing wheel. It has no clock: it is given the time.

use std::fmt;
use std::time::{Duration, Instant};

use self::wheel::{LAST, Wheel};
use crate::pure::slab::Token;

mod list;
#[cfg(test)]
mod tests;
mod wheel;

/// Things that fall due, in the order of their deadlines; those of the same tick in the order of
/// their arming.
///
/// A tick is a millisecond. Nothing fires early: a deadline within a tick is due when the tick is
/// over. A deadline that has passed when it is armed counts as the current tick, so it is due at
/// once, after what was due before.
///
/// Arming and cancelling cost O(1) and allocate nothing, once there were as many timers as there
/// are now; the memory is that of the most that ever were, and it is not given back. A timer may be
/// moved once per level of the wheel before it fires (`timer/wheel.rs` has the picture), however
/// far the time jumps. Deadlines may be 8 900 years away; those beyond fire then.
pub(crate) struct Timers<T> {
    /// Where tick 0 begins.
    origin: Instant,
    wheel: Wheel<T>,
}

/// Names one timer. Once that has fired or was cancelled, the key finds nothing, though its place
/// is taken again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct TimerKey(Token);

impl<T> Timers<T> {
    /// `now` may be any instant that has passed: it is the earliest that can be told from others.
    pub(crate) fn new(now: Instant) -> Self {
        Self { origin: now, wheel: Wheel::new() }
    }

    pub(crate) fn arm(&mut self, at: Instant, what: T) -> TimerKey {
        let tick = ticks_up(at.saturating_duration_since(self.origin));
        TimerKey(self.wheel.insert(tick, what))
    }

    /// Takes back what was armed; `None` if it has fired or was cancelled.
    pub(crate) fn cancel(&mut self, key: TimerKey) -> Option<T> {
        self.wheel.remove(key.0)
    }

    /// The next thing that is due at `now`.
    ///
    /// To be called until it is `None`; the first call moves all that has become due. What is armed
    /// in between and has passed comes after everything that was due at `now`. The time does not go
    /// back: an earlier `now` than before counts as that.
    pub(crate) fn fire(&mut self, now: Instant) -> Option<T> {
        self.wheel.advance(ticks_down(now.saturating_duration_since(self.origin)));
        self.wheel.pop_due()
    }

    /// How long to wait before the next [`Timers::fire`]; `None` while there is nothing to fire.
    ///
    /// Never longer than until the next deadline is due. It may be shorter, by so much that timers
    /// must move to a finer level: at most once per level for each deadline.
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

/// The ticks that are over at a time since the origin. A tick is a millisecond.
fn ticks_down(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).map_or(LAST, |ticks| ticks.min(LAST))
}

/// The tick at which a deadline is over, so that nothing is early.
fn ticks_up(deadline: Duration) -> u64 {
    const SHORT_OF_A_TICK: Duration = Duration::from_nanos(999_999);
    ticks_down(deadline.saturating_add(SHORT_OF_A_TICK))
}
