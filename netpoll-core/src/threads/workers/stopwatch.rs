//! Whether a callback that a worker ran has blocked.

use std::time::Duration;

use crate::base::{blocking, clock};
use crate::connection::run::Outcome;
use crate::connection::scheduled::Scheduled;
use crate::pure::placement::Behaviour;
use crate::sys::{self, Usage};
use crate::threads::monitor::COMPUTING;

/// After so many callbacks in a row the mark is renewed: together they must not look like one that
/// computes for long, and each of them takes less than a threshold.
const RUNS_PER_MARK: u32 = COMPUTING;

/// Runs a task on a worker of a pool, and notes whether it waited in one of our calls, which
/// shows the connections that wait for slow peers.
pub(super) fn run_on_pool(scheduled: &Scheduled) -> Outcome {
    let outcome = scheduled.run();
    let behaviour = if blocking::take_waited() { Behaviour::Waited } else { Behaviour::Returned };
    scheduled.note_alone(behaviour);
    outcome
}

/// Times the callbacks of a worker. It tells a callback that blocked from one that waited for a
/// processor.
#[derive(Debug)]
pub(super) struct Stopwatch {
    threshold: Duration,
    mark: Usage,
    runs: u32,
}

impl Stopwatch {
    pub(super) fn new(threshold: Duration) -> Self {
        Self { threshold, mark: sys::usage(), runs: 0 }
    }

    /// The worker has slept until there was something to do.
    pub(super) fn slept(&mut self) {
        self.mark = sys::usage();
        self.runs = 0;
    }

    /// Runs a task, and notes what its callback did.
    pub(super) fn run(&mut self, scheduled: &Scheduled) -> Outcome {
        self.runs += 1;
        if self.runs >= RUNS_PER_MARK {
            self.slept();
        }
        let begun = clock::now();
        let outcome = scheduled.run();
        let behaviour = if blocking::take_waited() {
            Behaviour::Waited
        } else {
            self.judge(clock::now().duration_since(begun))
        };
        scheduled.note(behaviour);
        outcome
    }

    fn judge(&mut self, took: Duration) -> Behaviour {
        if took < self.threshold {
            return Behaviour::Returned;
        }
        let before = self.mark;
        self.slept();
        let computed = self.mark.computed.saturating_sub(before.computed);
        let computes = computed >= self.threshold.saturating_mul(COMPUTING);
        if computes || self.mark.waits > before.waits {
            Behaviour::Blocked
        } else {
            Behaviour::Returned
        }
    }
}
