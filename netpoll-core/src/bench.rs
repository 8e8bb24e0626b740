//! What `benches/` measures of the parts that no other crate sees. Nothing else is to use it.

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

    /// Has `what` fall due at `at`.
    pub fn arm(&mut self, at: Instant, what: usize) -> Key {
        Key(self.0.arm(at, what))
    }

    /// Takes it back, unless it was due.
    pub fn cancel(&mut self, key: Key) -> Option<usize> {
        self.0.cancel(key.0)
    }

    /// What is due at `now`, one at a time.
    pub fn fire(&mut self, now: Instant) -> Option<usize> {
        self.0.fire(now)
    }
}

/// The word of a connection with its cell: a counter here.
#[derive(Debug)]
pub struct Word(Task<u64>);

impl Default for Word {
    /// An idle one.
    fn default() -> Self {
        let task = Task::new(0);
        if let Some(run) = task.begin() {
            drop(run.release());
        }
        Self(task)
    }
}

impl Word {
    /// What an event costs that finds its connection idle: it is scheduled, begun, and idle again.
    pub fn turn(&self) -> bool {
        self.0.word.notify(Events::READABLE)
            && self.0.begin_and_look().is_some_and(|(mut run, _)| {
                *run += 1;
                run.release().is_ok()
            })
    }

    /// What an event costs that finds it scheduled; `false`, since nobody has to begin it.
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
        assert!(!word.turn(), "somebody else is to begin it");
    }
}
