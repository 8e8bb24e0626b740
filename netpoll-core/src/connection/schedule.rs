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
use super::run::run_to_end;
use super::shared::Shared;
use crate::base::stats::WorkerStats;
use crate::pure::placement::Placement;

/// A pool of threads that run scheduled connections.
pub(crate) trait Schedule: Send + Sync + fmt::Debug {
    /// Passes a connection to a thread of the pool. If that fails, the caller must run or keep the
    /// connection that comes back, which may be another one: the queue is full, no thread can be
    /// started, or the pool has stopped.
    fn submit(self: Arc<Self>, shared: Arc<Shared>) -> Result<(), Arc<Shared>>;

    /// As [`submit`](Self::submit). After an `Err` the pool tells `remote` when it has capacity.
    fn submit_or_wait(
        self: Arc<Self>,
        shared: Arc<Shared>,
        remote: &Arc<Remote>,
    ) -> Result<(), Arc<Shared>>;

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

    /// Passes a scheduled connection on, from a thread other than its reactor's. An `Err` is for
    /// the reactor to run.
    fn submit(&self, shared: Arc<Shared>) -> Result<(), Arc<Shared>> {
        match &self.mode {
            Mode::Pool(workers) => workers.clone().submit(shared),
            Mode::HandOff(workers, _) if shared.place() == Placement::Worker => {
                workers.clone().submit(shared)
            }
            Mode::Inline | Mode::HandOff(..) => Err(shared),
        }
    }
}

/// Makes sure that a thread begins a scheduled connection. For threads other than its reactor's.
pub(crate) fn schedule(shared: &Arc<Shared>) {
    let Err(shared) = shared.group.dispatcher().submit(shared.clone()) else {
        return;
    };
    if let Err(Command::Run(shared)) = shared.reactor.clone().post(Command::Run(shared)) {
        // The reactor has ended, so this thread ends the connection.
        shared.abort();
        run_to_end(&shared);
    }
}
