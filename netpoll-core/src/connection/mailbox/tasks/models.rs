//! Models: a task that is woken against a reactor that goes to sleep.

use std::collections::VecDeque;
use std::sync::Arc;

use loom::thread;

use super::super::Remote;
use crate::base::stats::Work;
use crate::base::sync::explore;
use crate::connection::run::Outcome;
use crate::connection::schedule::Dispatcher;
use crate::connection::scheduled::{Runnable, Scheduled};
use crate::pure::placement::History;

/// What is wrong in a model that has to fail.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Bug {
    None,
    /// The reactor takes no commands after an answer, and so not the lock: a task that was queued
    /// behind the call, by a thread that has seen it, is not seen.
    TakesNoLock,
}

/// A task that the model queues and never runs.
#[derive(Debug)]
struct OnlyQueued;

impl Runnable for OnlyQueued {
    fn reactor(&self) -> &Arc<Remote> {
        unreachable!("it is not run")
    }

    fn dispatcher(&self) -> &Dispatcher {
        unreachable!("it is not run")
    }

    fn history(&self) -> &History {
        unreachable!("it is not run")
    }

    fn run(self: Arc<Self>) -> (Arc<dyn Runnable>, Outcome, Work) {
        unreachable!("it is not run")
    }

    fn abort(&self) {}
}

/// Turns until the reactor sleeps, as `Core::next` and `Core::lie_down`; returns how many tasks it
/// has taken.
fn turn(remote: &Remote, bug: Bug) -> usize {
    let mut taken = 0;
    let mut take = || {
        let mut woken = VecDeque::new();
        if remote.has_woken() {
            remote.take_woken(&mut woken);
        }
        taken += woken.len();
    };
    loop {
        if remote.waker().answer() && bug != Bug::TakesNoLock {
            remote.swap_commands(&mut VecDeque::new());
        }
        take();
        if !remote.has_woken() && remote.waker().going_to_sleep() {
            return taken;
        }
        thread::yield_now();
    }
}

/// Two threads wake a task each. A reactor that sleeps, and that none has called, has taken all.
fn wakes_against_a_sleep(bug: Bug) {
    explore(move || {
        let remote = Remote::alone();
        let wake = |remote: &Remote| {
            let queued = remote.run_task(Scheduled::Task(Arc::new(OnlyQueued)));
            assert!(queued.is_ok(), "the reactor lives");
        };
        let other = remote.clone();
        let others = thread::spawn(move || wake(&other));
        let reactor = remote.clone();
        let turns = thread::spawn(move || turn(&reactor, bug));
        wake(&remote);
        others.join().unwrap();
        let taken = turns.join().unwrap();
        if !remote.waker().is_called() {
            assert_eq!(taken, 2, "a wake was lost: the reactor sleeps");
        }
    });
}

#[test]
fn loom_no_wake_of_a_task_is_lost_to_a_sleep() {
    wakes_against_a_sleep(Bug::None);
}

#[test]
#[should_panic(expected = "a wake was lost")]
fn loom_finds_a_reactor_that_takes_no_lock_after_its_answer() {
    wakes_against_a_sleep(Bug::TakesNoLock);
}
