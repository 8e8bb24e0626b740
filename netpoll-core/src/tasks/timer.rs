//! A timer of a future, on the wheel of a loop.

use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use crate::connection::mailbox::{Command, Remote};
use crate::pure::timer_entry::{Phase, TimerEntry};

/// A timer that wakes a future, on the wheel of a loop: it is armed from any thread, and cancelled
/// by its drop.
///
/// It costs one allocation and a command to the loop; a [`reset`](Self::reset) to a later time
/// costs a lock.
#[derive(Debug)]
pub struct LoopTimer {
    entry: Arc<TimerEntry>,
    remote: Arc<Remote>,
}

/// How the wait of a [`LoopTimer`] has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expiry {
    /// The time has come.
    Due,
    /// The loop has ended before: another one is needed.
    LoopEnded,
}

impl LoopTimer {
    /// Wakes `waker` at that time, or where the loop ends before. Never blocks.
    pub fn start(remote: Arc<Remote>, at: Instant, waker: &Waker) -> Self {
        let timer = Self { entry: TimerEntry::posted(at, waker.clone()), remote };
        timer.post();
        timer
    }

    /// Whether its wait has ended; while it lasts, the last waker is woken.
    pub fn poll(&self, context: &Context<'_>) -> Poll<Expiry> {
        self.entry.poll(context).map(|phase| match phase {
            Phase::Fired => Expiry::Due,
            Phase::Orphaned | Phase::Waiting | Phase::Cancelled => Expiry::LoopEnded,
        })
    }

    /// Waits until `at` instead. `false`: the wait has ended, and another timer is needed.
    pub fn reset(&self, at: Instant) -> bool {
        let reset = self.entry.reset(at);
        if reset == Some(true) {
            self.post();
        }
        reset.is_some()
    }

    fn post(&self) {
        if self.remote.post(Command::Timer(self.entry.clone())).is_err()
            && let Some(waker) = self.entry.orphan()
        {
            waker.wake();
        }
    }
}

impl Drop for LoopTimer {
    fn drop(&mut self) {
        if self.entry.cancel() {
            // An ended loop has no wheel any more.
            drop(self.remote.post(Command::Timer(self.entry.clone())));
        }
    }
}
