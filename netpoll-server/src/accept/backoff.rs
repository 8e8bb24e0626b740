//! The pauses of a listener that cannot accept, because descriptors or memory have run out.

use std::io;
use std::time::{Duration, Instant};

use netpoll_core::{OncePer, clock};

/// How long a listener pauses at first; each further failure doubles it, a success resets it.
pub(super) const PAUSE_AT_FIRST: Duration = Duration::from_millis(5);
const PAUSE_AT_MOST: Duration = Duration::from_secs(1);
/// At most one line of log in this time says that accepting fails: a peer must not fill the disk.
const LOG_PERIOD: Duration = Duration::from_secs(5);

/// When a listener may accept again, and what it has logged.
#[derive(Debug)]
pub(super) struct Backoff {
    /// The last pause.
    pause: Option<Duration>,
    /// When the pause that is under way ends.
    until: Option<Instant>,
    /// The last pause has passed and no descriptor has come free.
    stuck: bool,
    /// How many places had come free before the pause: one more, and a descriptor has come free.
    returned: u64,
    log: OncePer,
}

impl Default for Backoff {
    fn default() -> Self {
        let log = OncePer::new(LOG_PERIOD);
        Self { pause: None, until: None, stuck: false, returned: 0, log }
    }
}

impl Backoff {
    /// When the pause ends, if it is still under way. It ends early when a place comes free:
    /// `returned` tells how many have.
    pub(super) fn pausing_until(&mut self, returned: impl FnOnce() -> u64) -> Option<Instant> {
        let until = self.until?;
        let now = clock::now();
        if now < until && returned() == self.returned {
            return Some(until);
        }
        self.until = None;
        self.stuck = now >= until;
        None
    }

    /// Remembers how many places have come free before the next accept.
    pub(super) fn note_returned(&mut self, returned: u64) {
        self.returned = returned;
    }

    /// Whether a whole pause did not help.
    pub(super) fn is_stuck(&self) -> bool {
        self.stuck
    }

    /// An accept has succeeded since the last failure.
    pub(super) fn reset(&mut self) {
        (self.pause, self.stuck) = (None, false);
    }

    /// An accept failed: begins a pause.
    pub(super) fn failed(&mut self, error: &io::Error) {
        let now = clock::now();
        self.until = Some(now + self.next_pause(error, now));
    }

    fn next_pause(&mut self, error: &io::Error, now: Instant) -> Duration {
        let pause = self.pause.map_or(PAUSE_AT_FIRST, |pause| (pause * 2).min(PAUSE_AT_MOST));
        self.pause = Some(pause);
        if let Some(before) = self.log.pass(now, 1) {
            log::warn!(
                "cannot accept: {error}; the listener pauses, connections go on ({before} more \
                 times since the last such line); raise the limit (ulimit -n) or close connections"
            );
        }
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_second_and_log_once_a_period() {
        let (mut backoff, start) = (Backoff::default(), Instant::now());
        let error = io::Error::from_raw_os_error(24);
        let pauses: Vec<_> =
            (0..10).map(|_| backoff.next_pause(&error, start).as_millis()).collect();
        assert_eq!(pauses, [5, 10, 20, 40, 80, 160, 320, 640, 1000, 1000]);
        assert_eq!(backoff.log.pass(start + LOG_PERIOD, 1), Some(9));
    }
}
