//! One scheduled run of a connection: from the moment a thread owns it until it gives it back.
//!
//! ```text
//!     run ──► begin_and_look ──► step ──► again, while there is more and the turn allows it
//!                                 │
//!              handshake.rs   the handshake of a filter, before `on_connect`
//!              step.rs    which callback is due ──► connect, a job, shutdown, high water, drain,
//!                         or one receive ──► on_request ──► flush of what the callback wrote
//!              close.rs   how a close begins, and what it does last
//! ```
//! The same code runs on a reactor, on a worker, and on any other thread of a dispatch mode.

mod close;
mod handshake;
mod relaying;
mod step;

use std::sync::Arc;

use super::callbacks::{Prepare, Service};
use super::greeting::Greeting;
use super::relay::Side;
use super::watchdog::Slow;
use super::{Connection, Shared};
use crate::base::error::CloseReason;
use crate::base::panic::{Panicked, guard};
use crate::base::stats::Work;
use crate::pure::task::Events;

pub(crate) use close::{failure, reason_of};

/// What stands in the cell of a connection's task: what its owner owns.
#[derive(Default)]
pub(crate) struct Runner {
    /// Gone once a close has begun; a dialled one was never here.
    connection: Option<Connection>,
    role: Role,
    life: Life,
    reason: Option<Box<CloseReason>>,
    told: Told,
    /// Callbacks since the last report.
    calls: u32,
    /// A job has run last: what else is due comes before the next one.
    ran_job: bool,
}

/// What calls back.
#[derive(Default)]
enum Role {
    /// Nothing: the caller that dialled the connection drives it.
    #[default]
    None,
    /// What makes the service, until it has.
    Callbacks(Arc<dyn Prepare>),
    Service(Box<dyn Service>),
    /// A relay, in place of callbacks.
    Relay(Box<Side>),
    /// A dialler, which gets the connection back after the handshake.
    Greeting(Arc<Greeting>),
}

/// The life of a connection, as its callbacks see it.
///
/// ```text
///     New ── on_connect ──► Open ── on_shutdown ──► ShuttingDown
///      └─► Handshaking ──────┘ on_connect
///      │                     │                        │
///      └─────────────────────┴── a close of any kind ─┴──► Closing ── on_disconnect ──► ended
/// ```
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Life {
    /// Neither `on_prepare` nor `on_connect` has run.
    #[default]
    New,
    /// `on_prepare` has run, and the handshake of a filter is under way.
    Handshaking,
    Open,
    /// As `Open`; a shutdown has begun, and the callback was told so.
    ShuttingDown,
    /// No more callbacks but `on_disconnect`; the output sends what it has accepted.
    Closing {
        /// The stream from the peer was read to its end.
        is_read_out: bool,
    },
}

/// What the callbacks have been told, and need not be told again.
#[derive(Debug, Default)]
struct Told {
    /// The peer is gone, and the buffer full.
    end: bool,
    /// The output went above its high-water mark; `on_drain` is due when it is not any more.
    high_water: bool,
}

/// Why a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Given back, or ended, or begun by another thread: nothing to do.
    Done,
    /// Used up its rounds and is still scheduled: to be run again when others had their turn.
    Again,
}

enum Step {
    /// There may be more to do at once.
    More,
    /// Nothing to do until something happens.
    Wait,
    /// The close is complete.
    Closed,
    /// The caller that dialled drives the connection from now on.
    Returned,
}

/// Runs a scheduled connection, on a thread that does not hold its reactor's core.
pub(crate) fn run(shared: &Arc<Shared>) -> Outcome {
    run_and_tell(shared, |work| shared.reactor.traffic.add(work))
}

/// Runs a scheduled connection, and says what it did: for a thread that holds its reactor's core,
/// or will when it takes it up again, and adds that to the reactor's own counters.
pub(crate) fn run_counted(shared: &Arc<Shared>) -> (Outcome, Work) {
    let mut all = Work::default();
    let outcome = run_and_tell(shared, |work| all = all + work);
    (outcome, all)
}

/// Runs a scheduled connection; `tell` is called with what it did before it lets go of it.
fn run_and_tell(shared: &Arc<Shared>, mut tell: impl FnMut(Work)) -> Outcome {
    let Some((mut run, mut events)) = shared.task.begin_and_look() else { return Outcome::Done };
    let start = shared.received();
    // Up to here it is reported.
    let mut received = start;
    let mut rounds = 1;
    loop {
        // Callbacks have their own guard. What may panic beside them is the release of memory that
        // the user lent to a buffer; it ends the connection as well, and no more than that.
        let watch = shared.group.watchdog().begin();
        let step = guard("the release of lent memory", || run.step_and_rest(shared, events));
        if let Some(watch) = watch
            && let Some(slow) = shared.group.watchdog().end(watch, &shared.reactor.traffic)
        {
            log_slow(shared, &slow);
        }
        match step.unwrap_or_else(|Panicked| run.begin_close(shared, CloseReason::Panic)) {
            Step::More => {}
            Step::Wait => {
                run.report(shared, received, &mut tell);
                match run.release() {
                    Ok(()) => return Outcome::Done,
                    Err(notified) => run = notified,
                }
                received = shared.received();
            }
            Step::Closed => {
                run.report(shared, received, &mut tell);
                close::end(run, shared);
                return Outcome::Done;
            }
            Step::Returned => {
                run.report(shared, received, &mut tell);
                handshake::give_back(run);
                return Outcome::Done;
            }
        }
        let turn = &shared.group.limits().turn;
        if rounds == turn.rounds || shared.received() - start >= turn.bytes as u64 {
            break;
        }
        rounds += 1;
        events = run.look();
    }
    run.report(shared, received, &mut tell);
    run.reschedule();
    Outcome::Again
}

/// Runs a connection that no other thread will run again: after an abort this ends it.
pub(crate) fn run_to_end(shared: &Arc<Shared>) {
    while run(shared) == Outcome::Again {}
}

impl Runner {
    /// What the cell of a served connection holds.
    pub(crate) fn serving(connection: Connection, callbacks: Arc<dyn Prepare>) -> Self {
        Self { connection: Some(connection), role: Role::Callbacks(callbacks), ..Self::default() }
    }

    /// Tells what this run did since as much was `received`.
    fn report(&mut self, shared: &Shared, received: u64, tell: &mut impl FnMut(Work)) {
        let callbacks = u64::from(std::mem::take(&mut self.calls));
        let received = shared.received() - received;
        if callbacks > 0 || received > 0 {
            tell(Work { received, sent: shared.sent_since(), callbacks });
        }
    }

    /// One step; before it lets go, the connection leaves its scratch.
    fn step_and_rest(&mut self, shared: &Arc<Shared>, events: Events) -> Step {
        let step = self.step(shared, events);
        if let (Step::Wait, Some(connection)) = (&step, &mut self.connection) {
            connection.rest();
        }
        step
    }
}

#[cold]
fn log_slow(shared: &Shared, Slow { took, limit, unlogged }: &Slow) {
    log::warn!(
        "a callback took {took:?}, longer than {limit:?}: connection {shared} ({unlogged} more \
         since the last such line)",
    );
}
