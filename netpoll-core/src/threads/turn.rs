//! What a thread does with a loop: it turns the loop, and runs each scheduled task where the
//! mode of its group says, until the loop ends or another thread has taken it over.
//!
//! ```text
//!     Core::next ──► run ─┬─ Inline ────────────────────► here, the core held
//!         ▲               ├─ HandOff, expected to return ► here, the core put down (hand_off.rs)
//!         │               └─ HandOff, Pool ─────────────► a worker
//!         └── the core, unless another thread has it now
//! ```
//! This is the one place that knows the modes.

use std::io;
use std::sync::Arc;

use super::hand_off::{self, Entered};
use super::options::{Dispatch, HandOffOptions};
use super::pool::Next;
use super::regroup;
use super::scheduling::Scheduling;
use super::takeover::{self, Loop, Takeover};
use super::workers::Workers;
use crate::base::blocking::Forbidden;
use crate::base::error::Result;
use crate::base::panic::{Panicked, guard};
use crate::connection::mailbox::Remote;
use crate::connection::run::Outcome;
use crate::connection::schedule::{Dispatcher, Mode, Schedule, Terms};
use crate::connection::scheduled::Scheduled;
use crate::pure::baton::{Baton, Held};
use crate::pure::placement::Placement;
use crate::pure::spin::Spin;
use crate::reactor::Core;
use crate::tasks::current::forget_place;

/// A reactor that no thread turns yet, and that needs no manager.
#[derive(Debug)]
pub struct Reactor {
    core: Core,
}

impl Reactor {
    /// Opens the driver that a reactor needs.
    ///
    /// # Errors
    /// The system's: out of descriptors, out of memory.
    pub fn new() -> io::Result<Self> {
        Ok(Self { core: Core::new(0, Spin::Never)? })
    }

    /// What other threads need to reach it.
    pub fn remote(&self) -> Arc<Remote> {
        self.core.remote().clone()
    }

    /// Turns the loop on this thread until the reactor is stopped. Without a manager's threads
    /// behind it, it stays on this thread whatever a callback does. It never spins.
    ///
    /// # Errors
    /// Why it ended though nothing stopped it: the system's wait for events failed, or code outside
    /// of callbacks panicked.
    pub fn run(self) -> io::Result<()> {
        let remote = self.remote();
        turn(Baton::held(Loop::of(self.core, Takeover::default())));
        remote.take_failure().map_or(Ok(()), Err)
    }
}

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

/// Turns a reactor on this thread until it ends, or until another thread has taken it over; and
/// those that are gathered with it.
pub(crate) fn turn(held: Held<Loop>) -> Next {
    let mut left = Left::With(held);
    loop {
        left = match left {
            Left::With(held) => turn_one(held),
            Left::Lost => return Next::Park,
            Left::Nothing => return Next::Leave,
        };
    }
}

/// What a thread has after it has turned a baton's loops.
enum Left {
    /// Other threads have what it had.
    Lost,
    /// What it had has ended.
    Nothing,
    /// A baton.
    With(Held<Loop>),
}

fn turn_one(held: Held<Loop>) -> Left {
    let (_entered, baton) = (Entered::with(&held), held.baton().clone());
    guard("a loop, outside of callbacks", || go_on(held)).unwrap_or_else(|Panicked| {
        // What the core in hand was about to do is not known, so its connections end.
        let Some(held) = baton.take_abandoned() else { return Left::Lost };
        end_one(held, |core| core.fail(io::Error::other("a panic outside of callbacks")))
    })
}

fn go_on(mut held: Held<Loop>) -> Left {
    let baton = held.baton().clone();
    held.takeover.begin_hold();
    regroup::begin(&mut held);
    let mut scheduling = Scheduling::new();
    loop {
        while let Some(scheduled) = held.next(|| {
            scheduling.end_turn();
            forget_place();
        }) {
            match run_where_due(held, &mut scheduling, scheduled) {
                Some(kept) => held = kept,
                None => return Left::Lost,
            }
        }
        if !held.core.take_pause() {
            drop(scheduling);
            return end_one(held, Core::end);
        }
        match regroup::obey(held) {
            Some(kept) if Arc::ptr_eq(kept.baton(), &baton) => held = kept,
            Some(other) => return Left::With(other),
            None => return Left::Lost,
        }
    }
}

/// Ends the core in hand. Those that are gathered with it go on, here or on another thread.
fn end_one(held: Held<Loop>, end: impl FnOnce(Core)) -> Left {
    let (ended, others) = regroup::leave(held);
    let Some(ended) = ended else { return Left::Nothing };
    let Some(others) = others else {
        end(ended);
        return Left::Nothing;
    };
    match hand_off::aside(others, || end(ended)).and_then(regroup::obey) {
        Some(others) => Left::With(others),
        None => Left::Lost,
    }
}

/// Runs what is scheduled where its mode says, from its reactor. Returns the core
/// to go on with, unless another thread has it.
fn run_where_due(
    mut held: Held<Loop>,
    scheduling: &mut Scheduling,
    scheduled: Scheduled,
) -> Option<Held<Loop>> {
    match &scheduled.dispatcher().mode {
        Mode::Inline => {
            scheduling.runs_here();
            run_here(&mut held.core, scheduled, Forbidden::here());
            Some(held)
        }
        Mode::Pool(workers) => {
            scheduling.sent();
            send(held, scheduling, &workers.clone(), scheduled)
        }
        Mode::HandOff(workers, terms) => {
            scheduling.runs_here();
            let (place, terms) = (scheduled.place(), *terms);
            if place == Placement::Reactor {
                if takeover::may_run(&mut held, terms, &scheduled) {
                    return hand_off::run(held, scheduled);
                }
                held.takeover.want_thread();
            }
            held.core.remote().counters.to_workers.add(1);
            send(held, scheduling, &workers.clone(), scheduled)
        }
    }
}

fn run_here(core: &mut Core, scheduled: Scheduled, forbidden: Forbidden) {
    let (scheduled, outcome, work) = scheduled.run_counted();
    drop(forbidden);
    core.remote().counters.add(work);
    if outcome == Outcome::Again {
        core.run_again(scheduled, work.received);
    }
}

fn send(
    mut held: Held<Loop>,
    scheduling: &mut Scheduling,
    workers: &Arc<dyn Schedule>,
    scheduled: Scheduled,
) -> Option<Held<Loop>> {
    match workers.clone().submit_or_wait(scheduled, held.core.remote()) {
        Ok(()) => {}
        Err(kept) if workers.is_stopping() => {
            // Without workers no callback may run any more but `on_disconnect`.
            kept.abort();
            scheduling.runs_here();
            run_here(&mut held.core, kept, Forbidden::here());
        }
        Err(kept) if workers.is_deserted() => {
            scheduling.runs_here();
            return run_without_worker(held, kept);
        }
        Err(kept) => held.core.run_when_there_is_capacity(kept),
    }
    Some(held)
}

/// Runs what no worker will run, since the system refuses even the first one: a server
/// that is slow serves more than one that waits for threads.
#[cold]
fn run_without_worker(mut held: Held<Loop>, scheduled: Scheduled) -> Option<Held<Loop>> {
    held.core.remote().counters.without_worker.add(1);
    if held.takeover.is_watched() {
        return hand_off::run(held, scheduled);
    }
    run_here(&mut held.core, scheduled, Forbidden::for_want_of_threads());
    Some(held)
}
