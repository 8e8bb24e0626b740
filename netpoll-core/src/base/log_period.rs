//! A line of log at most once in a period, so that a peer can't fill the disk.

use std::time::{Duration, Instant};

use crate::base::sync::{Mutex, lock};

/// Events of one kind, of which one in each period is logged.
#[derive(Debug)]
pub struct OncePer {
    period: Duration,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    logged: Option<Instant>,
    unlogged: u64,
}

impl OncePer {
    /// Lets the first event be logged, and then one in each `period`.
    pub fn new(period: Duration) -> Self {
        Self { period, state: Mutex::new(State::default()) }
    }

    /// Counts so many events. Where they are to be logged: how many before them were not.
    pub fn pass(&self, now: Instant, events: usize) -> Option<u64> {
        let mut state = lock(&self.state);
        if state.logged.is_some_and(|last| now.duration_since(last) < self.period) {
            state.unlogged += events as u64;
            return None;
        }
        state.logged = Some(now);
        Some(std::mem::take(&mut state.unlogged))
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn one_event_in_a_period_is_logged_and_says_how_many_were_not() {
        let (log, now, period) = (OncePer::new(Duration::from_secs(1)), Instant::now(), 1000);
        let after = |millis| log.pass(now + Duration::from_millis(millis), 1);
        let passed = [after(0), after(1), after(period - 1), after(period), after(2 * period)];
        assert_eq!(passed, [Some(0), None, None, Some(2), Some(0)]);
    }
}
