//! Where callbacks run: the modes that users choose from, and the one place that knows them.

use std::sync::Arc;
use std::time::Duration;

use super::hand_off::{self, Loop};
use super::workers::Workers;
use crate::base::blocking::Forbidden;
use crate::base::error::{Error, Result};
use crate::connection::Shared;
use crate::connection::run::{self, Outcome};
use crate::connection::schedule::{Dispatcher, Mode, Schedule, Terms};
use crate::pure::baton::Held;
use crate::pure::placement::Placement;
use crate::reactor::Core;

/// Where the callbacks of an event loop run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Dispatch {
    /// On a pool of worker threads: callbacks may block.
    Pool(PoolOptions),
    /// On the reactor's thread, without a change of threads: the fastest, for callbacks that never
    /// block. Under it a read that lacks bytes returns `WouldBlock`, and so does a flush where a
    /// callback has queued several times the high-water mark.
    Inline,
    /// On the reactor's thread, and they may block: when one does, another thread goes on with the
    /// reactor. Callbacks that are expected to block, from what the last ones of their connection
    /// did, go to workers at once. See `docs/hand-off.md`. The default.
    HandOff(HandOffOptions),
}

/// How long a callback may hold its reactor up, and where those go that are expected to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HandOffOptions {
    /// How long a callback may block before another thread goes on with its reactor, unless others
    /// have blocked just now; one that computes may take ten times as long. Default 50 µs: a change
    /// of threads costs some 10 µs.
    /// Of several event loops on one manager the least holds for all.
    pub threshold: Duration,
    /// The workers for callbacks that are expected to block. As many again may be away from their
    /// reactors, and one thread a loop is beside both.
    pub workers: PoolOptions,
}

/// The limits of a pool of workers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolOptions {
    /// Threads at the most, reached only while callbacks block. Default 256: as many callbacks may
    /// block at once before further ones wait, but an eighth of them is kept for connections that
    /// have shown that their callbacks return.
    pub max_threads: usize,
    /// Connections that may wait for a worker, of those that have shown that and of others; more
    /// wait at their reactors. Default 4 096, at the most 65 536, since the queue is made for all.
    pub queue: usize,
    /// How long a worker without work stays. Default 10 s.
    pub idle: Duration,
}

impl Default for Dispatch {
    fn default() -> Self {
        Self::HandOff(HandOffOptions::default())
    }
}

impl Default for HandOffOptions {
    fn default() -> Self {
        Self { threshold: Duration::from_micros(50), workers: PoolOptions::default() }
    }
}

impl Default for PoolOptions {
    fn default() -> Self {
        Self { max_threads: 256, queue: 4096, idle: Duration::from_secs(10) }
    }
}

impl PoolOptions {
    /// With a queue that there is memory for.
    fn within_reason(self) -> Self {
        Self { queue: self.queue.min(1 << 16), ..self }
    }
}

impl Dispatch {
    /// Checks the mode's options.
    ///
    /// # Errors
    /// [`Error::Config`], one sentence that names the first option that can't be used.
    pub fn validate(&self) -> Result<()> {
        let options = match self {
            Self::Inline => return Ok(()),
            Self::Pool(options) => options,
            Self::HandOff(HandOffOptions { threshold, .. }) if threshold.is_zero() => {
                return Err(Error::config(
                    "threshold is 0, so every callback would lose its reactor; 50 µs is usual",
                ));
            }
            Self::HandOff(HandOffOptions { workers, .. }) => workers,
        };
        if options.max_threads == 0 {
            return Err(Error::config("max_threads is 0, so no callback could ever run"));
        }
        if options.queue == 0 {
            return Err(Error::config("queue is 0, so no connection could reach a worker"));
        }
        if options.idle.is_zero() {
            return Err(Error::config(
                "idle is 0, so every worker would end with its first callback",
            ));
        }
        Ok(())
    }
}

impl Dispatcher {
    /// Starts what the mode needs.
    ///
    /// # Errors
    /// [`Error::Config`] where an option can't be used.
    pub fn new(dispatch: Dispatch) -> Result<Self> {
        dispatch.validate()?;
        let mode = match dispatch {
            Dispatch::Inline => Mode::Inline,
            Dispatch::Pool(options) => Mode::Pool(Workers::new(options.within_reason())),
            Dispatch::HandOff(HandOffOptions { threshold, workers }) => Mode::HandOff(
                Workers::that_learn(workers.within_reason(), threshold),
                Terms::new(threshold, workers.max_threads),
            ),
        };
        Ok(Self { mode })
    }
}

/// Runs a scheduled connection where its group says, from its reactor. Returns the core to go on
/// with, unless another thread does.
pub(crate) fn run(mut held: Held<Loop>, shared: Arc<Shared>) -> Option<Held<Loop>> {
    match &shared.group.dispatcher().mode {
        Mode::Inline => {
            run_here(&mut held.core, shared, Forbidden::here());
            Some(held)
        }
        Mode::Pool(workers) => send(held, &workers.clone(), shared),
        Mode::HandOff(workers, terms) => {
            let (place, terms) = (shared.place(), *terms);
            if place == Placement::Reactor {
                if hand_off::may_run(&mut held, terms, &shared) {
                    return hand_off::run(held, shared);
                }
                hand_off::want_thread(&held);
            }
            held.core.remote().counters.to_workers.add(1);
            send(held, &workers.clone(), shared)
        }
    }
}

fn run_here(core: &mut Core, shared: Arc<Shared>, forbidden: Forbidden) {
    let (outcome, work) = run::run_counted(&shared);
    drop(forbidden);
    core.remote().counters.add(work);
    if outcome == Outcome::Again {
        core.run_again(shared);
    }
}

fn send(
    mut held: Held<Loop>,
    workers: &Arc<dyn Schedule>,
    shared: Arc<Shared>,
) -> Option<Held<Loop>> {
    match workers.clone().submit_or_wait(shared, held.core.remote()) {
        Ok(()) => {}
        Err(kept) if workers.is_stopping() => {
            // Without workers no callback may run any more but `on_disconnect`.
            kept.abort();
            run_here(&mut held.core, kept, Forbidden::here());
        }
        Err(kept) if workers.is_deserted() => return run_for_want_of_threads(held, kept),
        Err(kept) => held.core.run_when_there_is_capacity(kept),
    }
    Some(held)
}

/// Runs what no worker will run, since the system refuses even the first: a server that is slow
/// serves more than one that waits for threads.
#[cold]
fn run_for_want_of_threads(mut held: Held<Loop>, shared: Arc<Shared>) -> Option<Held<Loop>> {
    held.core.remote().counters.without_worker.add(1);
    if hand_off::is_watched(&held) {
        return hand_off::run(held, shared);
    }
    run_here(&mut held.core, shared, Forbidden::for_want_of_threads());
    Some(held)
}
