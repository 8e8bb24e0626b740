//! One scheduled run of a connection: from the moment a thread owns it until it gives it back.
//!
//! The same code runs on a reactor, on a worker, and wherever else a dispatch mode may run it: it
//! looks at what happened, receives, calls back, flushes, and closes.

use std::io::{self, ErrorKind};
use std::sync::Arc;

use super::mailbox::Command;
use crate::base::clock;
use crate::base::error::{CloseReason, Error, LimitReached, Wait};
use crate::base::panic::{Panicked, guard};
use crate::base::stats::Work;
use crate::connection::callbacks::{Prepare, Service, verdict};
use crate::connection::input::{End, Received};
use crate::connection::watchdog::Slow;
use crate::connection::{Connection, Shared};
use crate::io::socket::Stream;
use crate::pure::slab::Token;
use crate::pure::task::{Events, Run};

/// What makes another round worth its while after a callback.
const WORTH_A_LOOK: Events = Events::PEER_GONE
    .or(Events::WAKE)
    .or(Events::OVER)
    .or(Events::SHUTDOWN)
    .or(Events::JOBS)
    .or(Events::HIGH_WATER)
    .or(Events::RESUMED);

/// What comes before a receive.
const BEFORE_RECEIVING: Events = Events::JOBS.or(Events::SHUTDOWN).or(Events::HIGH_WATER);

/// What stands in the cell of a connection's task: what its owner owns.
#[derive(Default)]
pub(crate) struct Runner {
    /// Gone once a close has begun; a dialled one was never here.
    connection: Option<Connection>,
    role: Role,
    stage: Stage,
    reason: Option<Box<CloseReason>>,
    /// The peer is gone, the buffer full, and the callback was told so.
    told: bool,
    /// Callbacks since the last report.
    calls: u32,
    /// The output went above its high-water mark, and the callback was told so.
    above: bool,
    /// A job has run last: what else is due comes before the next one.
    ran_job: bool,
}

/// Who calls back.
#[derive(Default)]
enum Role {
    /// Nobody: a dialled one's caller drives it.
    #[default]
    None,
    /// What makes the service, until it has.
    Callbacks(Arc<dyn Prepare>),
    Service(Box<dyn Service>),
}

#[derive(Default, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Neither `on_prepare` nor `on_connect` has run.
    #[default]
    New,
    Open,
    /// As `Open`; a shutdown has begun, and the callback was told so.
    ShuttingDown,
    /// No more callbacks but `on_disconnect`; the output sends what it has accepted.
    Closing,
}

/// Why a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Given back, or ended, or somebody else's already: nothing to do.
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
                end(run, shared);
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

#[cold]
fn log_slow(shared: &Shared, Slow { took, limit, unlogged }: &Slow) {
    log::warn!(
        "a callback took {took:?}, longer than {limit:?}: connection {} from {} ({unlogged} more \
         since the last such line)",
        shared.token().to_u64(),
        shared.peer(),
    );
}

/// Runs a connection that nobody else will run again: after an abort this ends it.
pub(crate) fn run_to_end(shared: &Arc<Shared>) {
    while run(shared) == Outcome::Again {}
}

/// The last acts, each outside of the cell: `on_disconnect`, then the reactor closes the socket.
fn end(mut run: Run<'_, Runner>, shared: &Arc<Shared>) {
    let reason = run.reason.take().map_or(CloseReason::Local, |reason| *reason);
    log::debug!("connection from {}: {reason}", shared.peer());
    run.let_go(shared);
    let is_reset = shared.task.word.events().has_any(Events::RESET);
    let is_over = is_reset || matches!(reason, CloseReason::Peer | CloseReason::Reset);
    if !is_over && shared.output.is_empty() {
        shared.output.discard_unread(shared.kind);
    }
    let service = match std::mem::take(&mut run.role) {
        Role::Service(service) => Some(service),
        Role::Callbacks(callbacks) => {
            // They may be the last, and hold what is the user's.
            guard("the release of callbacks", || drop(callbacks)).ok();
            None
        }
        Role::None => None,
    };
    let is_read_out = shared.task.word.events().has_any(Events::READ_OUT);
    if !is_reset && (!is_read_out || shared.close_is_put_off(service.as_deref())) {
        // The close of the socket sends the FIN as well. But it sends a reset instead where more
        // has come from a peer that still sends, and none of them must wait for the user.
        shared.output.end_stream();
    }
    if let Some(service) = service {
        service.disconnect(&reason);
    }
    shared.extras.close();
    run.close();
    shared.finish();
}

impl Runner {
    /// What the cell of a served connection holds.
    pub(crate) fn serving(connection: Connection, callbacks: Arc<dyn Prepare>) -> Self {
        Self { connection: Some(connection), role: Role::Callbacks(callbacks), ..Self::default() }
    }

    /// Nothing more is received, and nothing more is written.
    fn let_go(&mut self, shared: &Shared) {
        let Some(connection) = self.connection.take() else { return };
        if connection.end().is_some() {
            shared.task.word.note(Events::READ_OUT);
        }
        guard("the release of lent memory", || connection.leave()).ok();
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

    fn step(&mut self, shared: &Arc<Shared>, events: Events) -> Step {
        if events.has_any(Events::READABLE)
            && let Some(connection) = &mut self.connection
        {
            connection.scratch().input.announced();
        }
        if !events.has_any(Events::STARTED | Events::ABORT) {
            return Step::Wait;
        }
        if events.has_any(Events::ABORT) {
            return self.give_up(shared);
        }
        match self.stage {
            Stage::New | Stage::Open | Stage::ShuttingDown if events.has_any(Events::CLOSE) => {
                self.begin_close(shared, reason_local(shared))
            }
            Stage::New | Stage::Open | Stage::ShuttingDown if events.has_any(Events::EXPIRED) => {
                self.expire(shared)
            }
            Stage::New => self.connect(shared),
            Stage::Open | Stage::ShuttingDown => self.serve(shared, events),
            Stage::Closing if events.has_any(Events::LINGERED) || shared.output.is_empty() => {
                Step::Closed
            }
            Stage::Closing => Step::Wait,
        }
    }

    fn connect(&mut self, shared: &Arc<Shared>) -> Step {
        self.stage = Stage::Open;
        if let Role::Callbacks(callbacks) = &self.role
            && let Some(connection) = &self.connection
        {
            match callbacks.clone().prepare(connection) {
                Ok(service) => self.role = Role::Service(service),
                Err(error) => {
                    shared.group.count_refusal();
                    return self.begin_close(shared, CloseReason::Callback(error));
                }
            }
            if shared.is_interrupted() {
                return Step::More;
            }
        }
        let (Some(connection), Role::Service(service)) = (&mut self.connection, &mut self.role)
        else {
            // A dialled connection that its caller dropped.
            return self.begin_close(shared, CloseReason::Local);
        };
        let verdict = service.connect(connection);
        self.after_callback(shared, verdict)
    }

    /// Runs the callback that is due, receiving once if none was before that.
    fn serve(&mut self, shared: &Arc<Shared>, events: Events) -> Step {
        let is_plain = !events.has_any(BEFORE_RECEIVING);
        if is_plain && !self.above && !shared.output.is_congested() {
            return self.receive(shared, events);
        }
        let ran_job = std::mem::replace(&mut self.ran_job, false);
        let next = if ran_job { events.without(Events::JOBS) } else { events };
        match self.serve_first(shared, next).unwrap_or_else(|| self.receive(shared, next)) {
            // The job that was put off has been announced already.
            Step::Wait if ran_job && events.has_any(Events::JOBS) => Step::More,
            step => step,
        }
    }

    /// Runs the callback that comes before a receive, if one does, or puts the receive off.
    fn serve_first(&mut self, shared: &Arc<Shared>, events: Events) -> Option<Step> {
        let (Some(connection), Role::Service(service)) = (&mut self.connection, &mut self.role)
        else {
            return None;
        };
        let word = &shared.task.word;
        let verdict = if word.clear(events.and(Events::JOBS)) != Events::NONE
            && let Some((job, more)) = shared.extras.pop_job()
        {
            if more {
                word.note(Events::JOBS);
            }
            self.ran_job = true;
            verdict(guard("a job", || job.run(connection)))
        } else if events.has_any(Events::SHUTDOWN) && self.stage == Stage::Open {
            self.stage = Stage::ShuttingDown;
            service.shutdown(connection)
        } else if word.clear(events.and(Events::HIGH_WATER)) != Events::NONE && !self.above {
            self.above = true;
            shared.watch_output();
            service.high_water(connection)
        } else if shared.output.is_congested() {
            // DRAINED will tell. Until then the peer's bytes stay in the kernel.
            return (!shared.group.reads_when_congested()).then_some(Step::Wait);
        } else if std::mem::replace(&mut self.above, false) {
            // Whoever stopped in the middle of its input because of the queue goes on with it.
            word.note(Events::RESUMED);
            service.drained(connection)
        } else {
            return None;
        };
        Some(self.after_callback(shared, verdict))
    }

    /// Receives once and calls back if that is due.
    fn receive(&mut self, shared: &Arc<Shared>, events: Events) -> Step {
        let (Some(connection), Role::Service(service)) = (&mut self.connection, &mut self.role)
        else {
            return self.begin_close(shared, CloseReason::Local);
        };
        let word = &shared.task.word;
        let half_open = shared.group.limits().half_open;
        let ended_before = connection.scratch().input.end().is_some();
        let paused = events.has_any(Events::PAUSED);
        let received = if paused {
            Received::Nothing
        } else if connection.scratch().input.may_receive(shared, events) {
            connection.receive()
        } else if connection.scratch().input.wait_for_memory(shared) {
            return self.begin_close(shared, CloseReason::Limit(LimitReached::Memory));
        } else {
            drop(shared.reactor.post(Command::Retry(shared.token())));
            Received::Nothing
        };
        // What the callback left as it paused is served again: no edge announces it.
        let resumed = !paused
            && word.clear(events.and(Events::RESUMED)) != Events::NONE
            && !connection.scratch().input.buffer.is_empty();
        let woken = word.clear(Events::WAKE) != Events::NONE;
        let full = received == Received::Full && events.has_any(Events::PEER_GONE);
        let told_before = std::mem::replace(&mut self.told, full);
        let due = match received {
            Received::Bytes => true,
            // The last call for what was left unread: now it is known that nothing follows.
            Received::End(_) => {
                !ended_before && (half_open || !connection.scratch().input.buffer.is_empty())
            }
            // The last call as well, unless it makes room: the end stands behind bytes that nobody
            // takes, and no edge will come any more.
            Received::Full => full && !told_before,
            Received::Nothing => false,
        };
        if due || resumed || woken {
            let verdict = service.request(connection);
            return self.after_callback(shared, verdict);
        }
        if let Received::End(end) = received {
            let over = Events::WRITE_ENDED | Events::FAILED | Events::SHUTDOWN;
            if half_open && end == End::Finished && !events.has_any(over) {
                return Step::Wait;
            }
            let failed = half_open && events.has_any(Events::FAILED);
            let reason = if failed { reason_unread(shared) } else { reason_of(end, shared) };
            return self.begin_close(shared, reason);
        }
        if full {
            return self.begin_close(shared, reason_unread(shared));
        }
        if let (Received::Nothing, true) = (received, events.has_any(Events::FAILED)) {
            // Only a send met it, or the peer has reset and nobody receives.
            if let Some(error) = failure(shared) {
                return self.begin_close(shared, CloseReason::of_socket(error));
            }
        }
        if events.has_any(Events::SHUTDOWN) && connection.scratch().input.buffer.is_empty() {
            return self.begin_close(shared, CloseReason::Shutdown);
        }
        Step::Wait
    }

    /// Flushes what the callback left, or closes as it said.
    fn after_callback(&mut self, shared: &Arc<Shared>, verdict: Result<(), CloseReason>) -> Step {
        self.calls += 1;
        let Some(connection) = &mut self.connection else {
            return Step::Closed;
        };
        let verdict = verdict.map_err(|reason| match &reason {
            CloseReason::Callback(error) => passed_on(error, connection, shared).unwrap_or(reason),
            _ => reason,
        });
        // A callback that reads until the end of the stream ends by that error, and what it wrote
        // on the way is as good as any; what another error or a panic cut short is not.
        let scratch = connection.scratch();
        scratch.input.end_pulls();
        scratch.pace.clear();
        let failed = verdict.as_ref().is_err_and(|reason| !matches!(reason, CloseReason::Peer));
        if failed || shared.is_interrupted() {
            scratch.staged.clear();
        }
        scratch.staged.flush();
        if !scratch.staged.is_empty() && shared.task.word.events().has_any(Events::WRITE_ENDED) {
            log::debug!("what was written to {} after shutdown_write is dropped", shared.peer());
            scratch.staged.clear();
        }
        if !scratch.staged.is_empty() && shared.send(&mut scratch.staged).is_err() {
            let failure = shared.output.failure();
            let reason = failure.map_or(CloseReason::Local, CloseReason::of_socket);
            return self.begin_close(shared, reason);
        }
        if let Err(reason) = verdict {
            return self.begin_close(shared, reason);
        }
        // The buffer may be empty and the peer gone, or the next request may stand in the socket.
        // The output may have drained before the callback heard that it was high.
        let events = shared.task.word.events();
        let again = events.has_any(WORTH_A_LOOK)
            || scratch.input.is_promising(shared, events)
            || scratch.input.end().is_some()
            || (self.above && !shared.output.is_congested());
        if again { Step::More } else { Step::Wait }
    }

    /// Begins an orderly close: what was accepted is still sent, within the linger time.
    fn begin_close(&mut self, shared: &Arc<Shared>, reason: CloseReason) -> Step {
        if shared.task.word.events().has_any(Events::RESET) {
            // It came while a callback ran: a FIN would overtake the reset.
            return self.end_at_once(shared, reason);
        }
        if matches!(reason, CloseReason::Timeout(Wait::Write)) {
            // The peer had that time to take what is left, and did not.
            return self.end_at_once(shared, reason);
        }
        self.stage = Stage::Closing;
        self.reason.get_or_insert_with(|| Box::new(reason));
        self.let_go(shared);
        if shared.output.seal() {
            return Step::Closed;
        }
        let deadline = clock::now().checked_add(shared.group.limits().linger);
        let armed = match (shared.token(), deadline) {
            (Token::NONE, _) => Err(()),
            (token, Some(at)) => shared.reactor.post(Command::Linger(token, at)).map_err(drop),
            (_, None) => Ok(()),
        };
        // Without a reactor nobody drains the output.
        if armed.is_ok() { Step::Wait } else { Step::Closed }
    }

    /// Ends at once, because the watch found something to be over.
    fn expire(&mut self, shared: &Shared) -> Step {
        let wait = shared.extras.expired();
        self.end_at_once(shared, wait.map_or(CloseReason::Local, CloseReason::Timeout))
    }

    /// Ends at once, because somebody said so.
    fn give_up(&mut self, shared: &Shared) -> Step {
        let meant = shared.task.word.events().has_any(Events::RESET);
        let reason = if meant { reason_local(shared) } else { CloseReason::Shutdown };
        self.end_at_once(shared, shared.output.failure().map_or(reason, CloseReason::of_socket))
    }

    /// Whatever is left to send is dropped; if something is, the peer is told by a reset.
    fn end_at_once(&mut self, shared: &Shared, reason: CloseReason) -> Step {
        self.stage = Stage::Closing;
        self.reason.get_or_insert_with(|| Box::new(reason));
        self.let_go(shared);
        Step::Closed
    }
}

/// Why we ended it.
fn reason_local(shared: &Shared) -> CloseReason {
    if shared.output.is_detached() { CloseReason::Detached } else { CloseReason::Local }
}

/// Why the peer's stream ended; a send may have met the reset first, and taken it.
fn reason_of(end: End, shared: &Shared) -> CloseReason {
    match (end, shared.output.failure()) {
        (End::Failed(errno), _) => CloseReason::of_socket(io::Error::from_raw_os_error(errno)),
        (End::Finished, Some(error)) => CloseReason::of_socket(error),
        (End::Finished, None) => CloseReason::Peer,
    }
}

/// Why a peer is gone whose stream was not read to its end.
fn reason_unread(shared: &Shared) -> CloseReason {
    failure(shared).map_or(CloseReason::Peer, CloseReason::of_socket)
}

/// The error that the socket holds, or that a send has met.
fn failure(shared: &Shared) -> Option<io::Error> {
    let pending = shared.output.with_stream(Stream::take_error).and_then(Result::err);
    pending.or_else(|| shared.output.failure())
}

/// The reason behind an error that a callback returned, where it only passed on what a read or a
/// flush had told it.
fn passed_on(error: &Error, connection: &Connection, shared: &Shared) -> Option<CloseReason> {
    match error {
        Error::TimedOut(wait) => return Some(CloseReason::Timeout(*wait)),
        Error::InputLimit { .. } => return Some(CloseReason::Limit(LimitReached::Input)),
        Error::Full => return Some(CloseReason::Limit(LimitReached::Output)),
        Error::NoThread => return Some(CloseReason::Limit(LimitReached::Threads)),
        Error::NoMemory => return Some(CloseReason::Limit(LimitReached::Memory)),
        _ => {}
    }
    let end = connection.end();
    match error.kind() {
        ErrorKind::UnexpectedEof => end.map(|end| reason_of(end, shared)),
        ErrorKind::ConnectionReset | ErrorKind::ConnectionAborted | ErrorKind::BrokenPipe => {
            (end.is_some() || shared.output.failure().is_some()).then_some(CloseReason::Reset)
        }
        ErrorKind::NotConnected => {
            let events = shared.task.word.events();
            if events.has_any(Events::ABORT) && !events.has_any(Events::RESET) {
                return Some(CloseReason::Shutdown);
            }
            events.has_any(Events::CLOSE | Events::RESET).then_some(CloseReason::Local)
        }
        _ => None,
    }
}
