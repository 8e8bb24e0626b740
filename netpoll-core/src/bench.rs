//! Access for `benches/` to parts that no other crate sees. Nothing else may use this.

use std::time::Instant;

use crate::pure::task::{Events, Task};
use crate::pure::timer::{self, TimerKey};

/// The timing wheel of a reactor.
#[derive(Debug)]
pub struct Timers(timer::Timers<usize>);

/// Names a timer.
#[derive(Debug, Clone, Copy)]
pub struct Key(TimerKey);

impl Timers {
    /// An empty wheel, at this time.
    pub fn new(now: Instant) -> Self {
        Self(timer::Timers::new(now))
    }

    /// Arms a timer: `what` is due at `at`.
    pub fn arm(&mut self, at: Instant, what: usize) -> Key {
        Key(self.0.arm(at, what))
    }

    /// Cancels a timer; `None` if it has fired.
    pub fn cancel(&mut self, key: Key) -> Option<usize> {
        self.0.cancel(key.0)
    }

    /// The next timer that is due at `now`.
    pub fn fire(&mut self, now: Instant) -> Option<usize> {
        self.0.fire(now)
    }
}

/// The task of a connection, with a counter in its cell.
#[derive(Debug)]
pub struct Word(Task<u64>);

impl Default for Word {
    /// An idle task.
    fn default() -> Self {
        let task = Task::new(0);
        if let Some(run) = task.begin() {
            drop(run.release());
        }
        Self(task)
    }
}

impl Word {
    /// An event that finds its connection idle: the task is scheduled, begun, and idle again.
    pub fn turn(&self) -> bool {
        self.0.word.notify(Events::READABLE)
            && self.0.begin_and_look().is_some_and(|(mut run, _)| {
                *run += 1;
                run.release().is_ok()
            })
    }

    /// An event. Returns `false` if the task was scheduled already, so the caller need not begin
    /// it.
    pub fn notify_again(&self) -> bool {
        self.0.word.notify(Events::READABLE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_measured_is_a_whole_turn() {
        let word = Word::default();
        assert!(word.turn() && word.turn());
        assert!(word.notify_again(), "it was idle");
        assert!(!word.notify_again(), "it was scheduled");
        assert!(!word.turn(), "another thread is to begin it");
    }
}
