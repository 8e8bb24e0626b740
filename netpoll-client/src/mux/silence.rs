//! Whether a connection is silent: how many calls in a row timed out without a byte.
//!
//! ```text
//!   sent ──────── timeout                          counted: 1
//!        sent ──────── timeout                     not: it began before the first had ended
//!                      sent ──────── timeout       counted: 2
//!                                         byte     0
//! ```
//! Calls of many threads that begin and time out together count as one call does. The caller passes
//! the time in.

use std::time::{Duration, Instant};

/// A shorter silence does not count, however many calls time out in it: servers pause.
const LEAST: Duration = Duration::from_secs(1);

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Silence {
    row: Option<Row>,
}

#[derive(Debug)]
struct Row {
    /// How many bytes had come.
    heard: u64,
    timeouts: u32,
    /// When the first call began.
    since: Instant,
    /// When the last call that counts had timed out.
    last: Instant,
}

impl Silence {
    /// A call that began at `began` has timed out `now`; `heard` and `heard_now` bytes had come by
    /// these times. Returns how many timeouts in a row the silence has lasted, and 0 while it is
    /// shorter than [`LEAST`].
    pub(super) fn timed_out(
        &mut self,
        began: Instant,
        heard: u64,
        now: Instant,
        heard_now: u64,
    ) -> u32 {
        if heard != heard_now {
            self.row = None;
            return 0;
        }
        let new = Row { heard, timeouts: 0, since: began, last: began };
        let row = match &mut self.row {
            Some(row) if row.heard == heard => row,
            row => row.insert(new),
        };
        if began >= row.last {
            row.timeouts = row.timeouts.saturating_add(1);
            row.last = now;
        }
        if now.saturating_duration_since(row.since) < LEAST { 0 } else { row.timeouts }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_calls_that_follow_each_other_count() {
        let (mut silence, start) = (Silence::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(silence.timed_out(at(0), 7, at(2), 7), 1);
        assert_eq!(silence.timed_out(at(1), 7, at(3), 7), 1, "it began before the first ended");
        assert_eq!(silence.timed_out(at(0), 7, at(3), 7), 1);
        assert_eq!(silence.timed_out(at(2), 7, at(4), 7), 2);
        assert_eq!(silence.timed_out(at(9), 7, at(10), 7), 3);
    }

    #[test]
    fn a_byte_ends_the_row() {
        let (mut silence, start) = (Silence::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(silence.timed_out(at(0), 7, at(2), 7), 1);
        assert_eq!(silence.timed_out(at(2), 7, at(4), 8), 0, "it came during the call");
        assert_eq!(silence.timed_out(at(4), 8, at(6), 8), 1);
        assert_eq!(silence.timed_out(at(7), 9, at(9), 9), 1, "it came between two calls");
    }

    #[test]
    fn a_short_silence_is_none() {
        let (mut silence, start) = (Silence::default(), Instant::now());
        let at = |millis| start + Duration::from_millis(millis);
        for turn in 0..9 {
            assert_eq!(silence.timed_out(at(turn * 100), 0, at(turn * 100 + 99), 0), 0);
        }
        assert_eq!(silence.timed_out(at(900), 0, at(1000), 0), 10);
    }
}
