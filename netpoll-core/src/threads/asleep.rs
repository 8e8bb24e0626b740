//! Whether another thread sleeps: it neither runs nor waits for a processor.
//!
//! ```text
//!     StateReader  the state in procfs
//!         │ can't be read: no /proc, that of another namespace, no descriptor left
//!         ▼
//!     ThreadClock  for how long the thread has had a processor: a clock that has stood still is
//!                  that of a thread that sleeps, or that waits for a processor
//! ```
//! The pool's growth and the monitor both look at threads this way.

use std::io;
use std::time::{Duration, Instant};

use crate::sys::StateFile;

/// Reads the state of threads, and keeps the file of the last one open.
#[derive(Debug, Default)]
pub(crate) struct StateReader {
    file: Option<StateFile>,
}

impl StateReader {
    /// Whether the thread with this number sleeps.
    ///
    /// # Errors
    /// The system's: the state can't be read, so that a [`ThreadClock`] has to tell.
    pub(crate) fn is_asleep(&mut self, number: i32) -> io::Result<bool> {
        let file = match self.file.take() {
            Some(file) if file.number() == number => file,
            _ => StateFile::open(number)?,
        };
        let is_asleep = file.is_asleep()?;
        self.file = Some(file);
        Ok(is_asleep)
    }

    /// Closes the file that it keeps.
    pub(crate) fn close(&mut self) {
        self.file = None;
    }
}

/// What was seen of the clock of one thread.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct ThreadClock {
    /// For how long the thread had had a processor at the last look, and since which look it was
    /// no more.
    seen: Option<(Duration, Instant)>,
}

/// What a look at the clock of a thread has found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Clock {
    /// The system does not show it.
    Hidden,
    /// It was the first look.
    Unknown,
    /// It has gone on since the last look.
    Runs,
    /// It has stood still since that look.
    Still(Instant),
}

impl ThreadClock {
    /// Compares what the thread has `computed` by now with what it had at the last look.
    pub(crate) fn look(&mut self, computed: Option<Duration>, now: Instant) -> Clock {
        match (computed, self.seen) {
            (None, _) => {
                self.seen = None;
                Clock::Hidden
            }
            (Some(computed), Some((before, since))) if computed == before => Clock::Still(since),
            (Some(computed), before) => {
                self.seen = Some((computed, now));
                if before.is_none() { Clock::Unknown } else { Clock::Runs }
            }
        }
    }
}

impl Clock {
    pub(crate) fn is_still(self) -> bool {
        matches!(self, Self::Still(_))
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_clock_is_still_from_the_second_look_on_that_finds_it_so() {
        let (now, second) = (Instant::now(), Duration::from_secs(1));
        let mut clock = ThreadClock::default();
        assert_eq!(clock.look(None, now), Clock::Hidden);
        assert_eq!(clock.look(Some(second), now), Clock::Unknown);
        assert_eq!(clock.look(Some(second), now + second), Clock::Still(now));
        assert_eq!(clock.look(Some(second * 2), now + second), Clock::Runs);
        assert_eq!(clock.look(Some(second * 2), now + second * 3), Clock::Still(now + second));
    }
}
