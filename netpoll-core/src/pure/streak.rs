//! How many turns a connection has in a row, where several have more bytes than a turn takes.
//!
//! Where each gets one turn after the other, none is ever read empty: what a peer sends waits until
//! the loop comes round, and each receive only opens the window for some more. A connection that
//! is read until it is empty takes bytes as they come. So one of those that wait for another turn
//! has several in a row, for [`TURNS`] and about [`TIME`] at the most, and then the next one has.
//! Between two waits there are as many turns as connections that wait for one, whichever they are
//! of: an event does not wait for longer than if each had its turn.

use std::time::{Duration, Instant};

/// The most turns in a row.
const TURNS: u32 = 16;
/// A turn that ends so long after the first one is the last.
const TIME: Duration = Duration::from_millis(1);

/// The connection that has turns in a row, if one has. It is told what runs.
#[derive(Debug, Default)]
pub(crate) struct Streak {
    /// The connection's id.
    of: Option<u64>,
    turns: u32,
    /// When the first turn had ended.
    since: Option<Instant>,
}

impl Streak {
    /// A connection that has waited for its next turn has it now.
    #[inline]
    pub(crate) fn begins_turn(&mut self, id: u64) {
        if self.of != Some(id) {
            *self = Self { of: Some(id), turns: 0, since: None };
        }
    }

    /// A connection has used up its turn. Whether the next turn is its own again.
    pub(crate) fn goes_on(&mut self, id: u64, now: impl FnOnce() -> Instant) -> bool {
        if self.of != Some(id) {
            return false;
        }
        let now = now();
        let since = *self.since.get_or_insert(now);
        self.turns += 1;
        let goes_on = self.turns < TURNS && now.duration_since(since) < TIME;
        if !goes_on {
            self.end();
        }
        goes_on
    }

    /// Something else is to have its turn next.
    #[inline]
    pub(crate) fn end(&mut self) {
        self.of = None;
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    /// How many turns a connection has in a row if each takes so long.
    fn turns_of(streak: &mut Streak, id: u64, each: Duration) -> u32 {
        let (mut turns, mut now) = (0, Instant::now());
        loop {
            streak.begins_turn(id);
            (turns, now) = (turns + 1, now + each);
            if !streak.goes_on(id, || now) {
                return turns;
            }
        }
    }

    #[test]
    fn quick_turns_come_in_a_row_up_to_a_limit() {
        let mut streak = Streak::default();
        for id in 0..3 {
            assert_eq!(turns_of(&mut streak, id, Duration::from_micros(10)), TURNS);
            // The same again, since no other connection has waited.
            assert_eq!(turns_of(&mut streak, id, Duration::ZERO), TURNS);
        }
    }

    #[test]
    fn slow_turns_are_two_at_the_most() {
        let mut streak = Streak::default();
        assert_eq!(turns_of(&mut streak, 1, Duration::from_micros(250)), 5);
        assert_eq!(turns_of(&mut streak, 2, TIME), 2);
        assert_eq!(turns_of(&mut streak, 3, Duration::from_secs(1)), 2);
    }

    #[test]
    fn only_a_connection_that_has_waited_goes_on() {
        let (mut streak, now) = (Streak::default(), Instant::now());
        assert!(!streak.goes_on(1, || now));
        streak.begins_turn(1);
        assert!(!streak.goes_on(2, || unreachable!("it asks for the time")));
        assert!(streak.goes_on(1, || now));
        streak.end();
        assert!(!streak.goes_on(1, || now));
    }
}
