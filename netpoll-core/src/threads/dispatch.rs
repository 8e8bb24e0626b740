//! Where a callback runs: the one place that knows the modes.

use std::sync::Arc;

use super::hand_off;
use super::options::{Dispatch, HandOffOptions};
use super::takeover::{self, Loop};
use super::workers::Workers;
use crate::base::blocking::Forbidden;
use crate::base::error::Result;
use crate::connection::Shared;
use crate::connection::run::{self, Outcome};
use crate::connection::schedule::{Dispatcher, Mode, Schedule, Terms};
use crate::pure::baton::Held;
use crate::pure::placement::Placement;
use crate::reactor::Core;

impl Dispatcher {
    /// Starts what the mode needs.
    ///
    /// # Errors
    /// [`Error::Config`](crate::Error::Config) where an option can't be used.
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

/// Runs a scheduled connection where the mode of its group says, from its reactor. Returns the core
/// to go on with, unless another thread has it.
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
                if takeover::may_run(&mut held, terms, &shared) {
                    return hand_off::run(held, shared);
                }
                held.takeover.want_thread();
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
        Err(kept) if workers.is_deserted() => return run_without_worker(held, kept),
        Err(kept) => held.core.run_when_there_is_capacity(kept),
    }
    Some(held)
}

/// Runs a connection that no worker will run, since the system refuses even the first one: a server
/// that is slow serves more than one that waits for threads.
#[cold]
fn run_without_worker(mut held: Held<Loop>, shared: Arc<Shared>) -> Option<Held<Loop>> {
    held.core.remote().counters.without_worker.add(1);
    if held.takeover.is_watched() {
        return hand_off::run(held, shared);
    }
    run_here(&mut held.core, shared, Forbidden::for_want_of_threads());
    Some(held)
}
