//! Where the callbacks of a group run, as far as its connections know.
//!
//! ```text
//!     threads/    turn: runs what a reactor scheduled          workers: implement `Schedule`
//!                     │ reads the mode                              ▲
//!     connection/ Dispatcher { mode } ◄── ConnectionGroup ◄── Shared ──► schedule()
//! ```
//! A connection names no `Core` and no pool: its group holds the `Dispatcher`. (In the same way a
//! trait `Schedule` separates the tasks of tokio from its schedulers.)

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::mailbox::{Command, Remote};
use super::scheduled::{Runnable, Scheduled};
use super::shared::Shared;
use crate::base::stats::WorkerStats;
use crate::pure::placement::Placement;

/// A pool of threads that run what is scheduled.
pub(crate) trait Schedule: Send + Sync + fmt::Debug {
    /// Passes what is scheduled to a thread of the pool. If that fails, the caller must run or keep
    /// what comes back, which may be another one: the queue is full, no thread can be started, or
    /// the pool has stopped.
    fn submit(self: Arc<Self>, scheduled: Scheduled) -> Result<(), Scheduled>;

    /// As [`submit`](Self::submit). After an `Err` the pool tells `remote` when it has capacity.
    fn submit_or_wait(
        self: Arc<Self>,
        scheduled: Scheduled,
        remote: &Arc<Remote>,
    ) -> Result<(), Scheduled>;

    /// Whether it has no thread, not even after a submit.
    fn is_deserted(&self) -> bool;

    /// Whether it runs no more callbacks.
    fn is_stopping(&self) -> bool;

    /// Ends the threads; see [`Dispatcher::stop`].
    fn stop(&self, patience: Duration) -> usize;

    /// The counters of the pool.
    fn stats(&self) -> WorkerStats;
}

/// A dispatch mode, with the threads that it has started.
#[derive(Debug, Clone)]
pub struct Dispatcher {
    pub(crate) mode: Mode,
}

/// The mode of a [`Dispatcher`].
#[derive(Debug, Clone)]
pub(crate) enum Mode {
    Inline,
    Pool(Arc<dyn Schedule>),
    HandOff(Arc<dyn Schedule>, Terms),
}

/// The limits of one event loop for handing over its reactors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Terms {
    /// How long a callback may block before its core is taken away.
    pub(crate) threshold: Duration,
    /// How many callbacks may be away from their reactors at once; more go to the workers.
    pub(crate) away_at_most: usize,
    /// The same limit for the callbacks of connections that have not shown that they return.
    pub(crate) away_unproven: usize,
}

impl Terms {
    pub(crate) fn new(threshold: Duration, max_threads: usize) -> Self {
        let away_unproven = max_threads - kept_of(max_threads);
        Self { threshold, away_at_most: max_threads, away_unproven }
    }
}

/// How many of so many threads are kept for callbacks of connections that have shown that they
/// return. Slow peers never get these threads, however many there are.
pub(crate) const fn kept_of(max_threads: usize) -> usize {
    max_threads / 8
}

impl Dispatcher {
    pub(crate) fn inline() -> Self {
        Self { mode: Mode::Inline }
    }

    /// Whether a callback may wait for the network on its thread.
    pub(crate) fn may_wait(&self) -> bool {
        matches!(self.mode, Mode::Pool(_) | Mode::HandOff(..))
    }

    /// The counters of its workers; all zero if it has none.
    pub fn stats(&self) -> WorkerStats {
        match &self.mode {
            Mode::Inline => WorkerStats::default(),
            Mode::Pool(workers) | Mode::HandOff(workers, _) => workers.stats(),
        }
    }

    /// Ends the mode's threads, and waits up to `patience` for those that are inside a callback.
    /// Returns how many are still there; they end with their callback.
    pub fn stop(&self, patience: Duration) -> usize {
        match &self.mode {
            Mode::Inline => 0,
            Mode::Pool(workers) | Mode::HandOff(workers, _) => workers.stop(patience),
        }
    }

    /// The threads that run the task next, unless its reactor does.
    fn pool_for(&self, scheduled: &Scheduled) -> Option<Arc<dyn Schedule>> {
        match &self.mode {
            Mode::Inline => None,
            Mode::Pool(workers) => Some(workers.clone()),
            Mode::HandOff(workers, _) => {
                (scheduled.place() == Placement::Worker).then(|| workers.clone())
            }
        }
    }
}

/// Makes sure that a thread begins a scheduled connection. For threads other than its reactor's.
pub(crate) fn schedule(shared: &Arc<Shared>) {
    pass_on(Scheduled::Connection(shared.clone()));
}

/// As [`schedule`], for another task.
pub(crate) fn schedule_task(task: Arc<dyn Runnable>) {
    pass_on(Scheduled::Task(task));
}

/// Makes sure that a thread begins what is scheduled. For threads other than its reactor's.
pub(crate) fn pass_on(scheduled: Scheduled) {
    if let Some(scheduled) = left_by_pool(scheduled) {
        schedule_on_reactor(scheduled);
    }
}

/// Has the reactor of what is scheduled run it.
pub(crate) fn schedule_on_reactor(scheduled: Scheduled) {
    let reactor = scheduled.reactor().clone();
    let refused = match scheduled {
        Scheduled::Connection(shared) => match reactor.post(Command::Run(shared)) {
            Err(Command::Run(shared)) => Some(Scheduled::Connection(shared)),
            _ => None,
        },
        task @ Scheduled::Task(_) => reactor.run_task(task).err(),
    };
    if let Some(scheduled) = refused {
        // The reactor has ended, so this thread ends the task.
        scheduled.end();
    }
}

/// Passes what is scheduled to the threads that run it next. Returns it, or another one, where its
/// reactor is to run it.
pub(crate) fn left_by_pool(scheduled: Scheduled) -> Option<Scheduled> {
    match scheduled.dispatcher().pool_for(&scheduled) {
        Some(pool) => pool.submit(scheduled).err(),
        None => Some(scheduled),
    }
}
