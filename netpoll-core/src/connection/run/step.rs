//! One step of a run: which callback is due, the receive before it, the flush after it.

use std::sync::Arc;

use netpoll_buffer::LinkBuffer;

use super::close::{
    failure, passed_on, reason_local, reason_of, reason_shutting_down, reason_unread,
};
use super::{Life, Role, Runner, Step};
use crate::base::error::{CloseReason, LimitReached};
use crate::base::panic::guard;
use crate::connection::callbacks::{Moment, verdict};
use crate::connection::input::{End, Received};
use crate::connection::mailbox::Command;
use crate::connection::{Connection, Shared};
use crate::pure::task::Events;

/// What comes before a receive.
const BEFORE_RECEIVING: Events = Events::JOBS.or(Events::SHUTDOWN).or(Events::HIGH_WATER);

/// What makes another round useful after a callback.
pub(super) const WORTH_A_LOOK: Events = Events::PEER_GONE
    .or(Events::WAKE)
    .or(Events::OVER)
    .or(Events::SHUTDOWN)
    .or(Events::JOBS)
    .or(Events::HIGH_WATER)
    .or(Events::RESUMED);

impl Runner {
    pub(super) fn step(&mut self, shared: &Arc<Shared>, events: Events) -> Step {
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
        match self.life {
            Life::Closing { .. } => {
                let is_done = events.has_any(Events::LINGERED) || shared.output.is_empty();
                if is_done { Step::Closed } else { Step::Wait }
            }
            _ if events.has_any(Events::CLOSE) => self.begin_close(shared, reason_local(shared)),
            _ if events.has_any(Events::EXPIRED) => self.expire(shared),
            Life::New => self.prepare(shared),
            Life::Handshaking => self.shake_hands(shared, events),
            Life::Open | Life::ShuttingDown => match self.role {
                Role::Relay(_) => self.relay(shared, events),
                _ => self.serve(shared, events),
            },
        }
    }

    fn prepare(&mut self, shared: &Arc<Shared>) -> Step {
        self.life = Life::Open;
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
        match shared.filtered() {
            Some(filtered) => self.begin_handshake(shared, filtered),
            None => self.connect(shared),
        }
    }

    pub(super) fn connect(&mut self, shared: &Arc<Shared>) -> Step {
        if let Role::Greeting(_) = &self.role {
            return Step::Returned;
        }
        let (Some(connection), Role::Service(service)) = (&mut self.connection, &mut self.role)
        else {
            // A dialled connection that its caller dropped.
            return self.begin_close(shared, CloseReason::Local);
        };
        let verdict = service.call(Moment::Connect, connection);
        self.after_callback(shared, verdict)
    }

    /// Runs the callback that is due, receiving once if none was before that.
    #[inline]
    fn serve(&mut self, shared: &Arc<Shared>, events: Events) -> Step {
        let is_plain = !events.has_any(BEFORE_RECEIVING);
        if is_plain && !self.told.high_water && !shared.output.is_congested() {
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
        if let Some(step) = self.run_job(shared, events) {
            return Some(step);
        }
        let (Some(connection), Role::Service(service)) = (&mut self.connection, &mut self.role)
        else {
            return None;
        };
        let word = &shared.task.word;
        let verdict = if events.has_any(Events::SHUTDOWN) && self.life == Life::Open {
            self.life = Life::ShuttingDown;
            service.call(Moment::Shutdown, connection)
        } else if word.clear(events.and(Events::HIGH_WATER)) != Events::NONE
            && !self.told.high_water
        {
            self.told.high_water = true;
            shared.watch_output();
            service.call(Moment::HighWater, connection)
        } else if shared.output.is_congested() {
            // The output wakes the task when that is over. Until then the peer's bytes stay in the
            // kernel.
            return (!shared.group.reads_when_congested()).then_some(Step::Wait);
        } else if std::mem::replace(&mut self.told.high_water, false) {
            // A callback that stopped in the middle of its input because of the queue goes on.
            word.note(Events::RESUMED);
            if word.clear(Events::AWAITS_ROOM) != Events::NONE {
                word.note(Events::WAKE);
            }
            service.call(Moment::Drain, connection)
        } else {
            return None;
        };
        Some(self.after_callback(shared, verdict))
    }

    /// Runs the next job, if there is one.
    pub(super) fn run_job(&mut self, shared: &Arc<Shared>, events: Events) -> Option<Step> {
        let (word, connection) = (&shared.task.word, self.connection.as_mut()?);
        if word.clear(events.and(Events::JOBS)) == Events::NONE {
            return None;
        }
        let (job, more) = shared.extras.pop_job()?;
        if more {
            word.note(Events::JOBS);
        }
        self.ran_job = true;
        let service = match &mut self.role {
            Role::Service(service) => Some(service),
            Role::Relay(side) => side.service.as_mut(),
            Role::Callbacks(_) | Role::Greeting(_) | Role::None => None,
        };
        let session = service.map(|service| service.session());
        let verdict = verdict(guard("a job", || job.run(connection, session)));
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
        let paused = events.has_any(Events::NOT_READ);
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
        // A callback that paused left bytes in the buffer. They are served again, since no event
        // announces them.
        let resumed = !paused
            && word.clear(events.and(Events::RESUMED)) != Events::NONE
            && !connection.scratch().input.buffer.is_empty();
        let woken = word.clear(Events::WAKE) != Events::NONE;
        let full = received == Received::Full && events.has_any(Events::PEER_GONE);
        let told_before = std::mem::replace(&mut self.told.end, full);
        let due = match received {
            Received::Bytes => true,
            // The last call, for bytes that were left unread: nothing follows them.
            Received::End(_) => {
                !ended_before && (half_open || !connection.scratch().input.buffer.is_empty())
            }
            // A last call, too, unless it makes room: the end stands behind bytes that no callback
            // takes, and no further event will come.
            Received::Full => full && !told_before,
            Received::Nothing | Received::Silent => false,
        };
        // A future that is always woken must not keep a connection that has failed.
        if woken
            && !due
            && let Some(reason) = lost(shared, events, received, ended_before)
        {
            return self.begin_close(shared, reason);
        }
        if due || resumed || woken {
            let verdict = service.call(Moment::Request, connection);
            return self.after_callback(shared, verdict);
        }
        self.without_callback(shared, events, received, full)
    }

    /// No callback was due after a receive: waits, or closes.
    #[inline(never)] // so that a receive that calls back stays small
    fn without_callback(
        &mut self,
        shared: &Arc<Shared>,
        events: Events,
        received: Received,
        full: bool,
    ) -> Step {
        let half_open = shared.group.limits().half_open;
        // The end of a hold has the connection look again, and a future ends it by itself.
        let is_held = events.has_any(Events::HELD) || shared.group.polls_futures();
        if received == Received::End(End::Finished) && shared.group.polls_futures() {
            return self.outlive_end(shared, events);
        }
        if let Received::End(end) = received {
            let is_over = shared.output.is_sealed() || events.has_any(Events::FAILED);
            let is_kept = is_held || (half_open && !events.has_any(Events::SHUTDOWN));
            if is_kept && end == End::Finished && !is_over {
                return Step::Wait;
            }
            let outlived_end = end == End::Finished && (half_open || is_held);
            let reason = if outlived_end && events.has_any(Events::FAILED) {
                reason_unread(shared)
            } else {
                reason_of(end, shared)
            };
            return self.begin_close(shared, reason);
        }
        if full && is_held && !events.has_any(Events::FAILED) {
            return Step::Wait;
        }
        if full {
            return self.begin_close(shared, reason_unread(shared));
        }
        let is_promising = |it: &mut Connection| it.scratch().input.is_promising(shared, events);
        if received == Received::Silent && self.connection.as_mut().is_some_and(is_promising) {
            return Step::More;
        }
        if !matches!(received, Received::Full) && events.has_any(Events::FAILED) {
            // Only a send met the error, or the peer has reset and no receive asked for it.
            if let Some(error) = failure(shared) {
                return self.begin_close(shared, CloseReason::of_socket(error));
            }
        }
        let is_shutting_down = events.has_any(Events::SHUTDOWN) && !is_held;
        let is_empty = |connection: &mut Connection| connection.scratch().input.buffer.is_empty();
        if is_shutting_down
            && self.connection.as_mut().is_some_and(is_empty)
            && !shared.filtered().is_some_and(|it| it.is_expecting(shared))
        {
            return self.begin_close(shared, reason_shutting_down(events));
        }
        Step::Wait
    }

    /// The peer has ended its stream, and a future decides when the connection ends. The end of
    /// both streams is reported as a failure, too, but no error is behind it.
    #[cold]
    fn outlive_end(&mut self, shared: &Arc<Shared>, events: Events) -> Step {
        let error = if events.has_any(Events::FAILED) { failure(shared) } else { None };
        match error {
            Some(error) => self.begin_close(shared, CloseReason::of_socket(error)),
            None => Step::Wait,
        }
    }

    /// Flushes what the callback left, or closes for the reason that it returned.
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
        // is sent. After another error or a panic it is not: it may be half a message.
        let scratch = connection.scratch();
        scratch.input.end_pulls();
        scratch.pace.clear();
        let failed = verdict.as_ref().is_err_and(|reason| !matches!(reason, CloseReason::Peer));
        if failed || shared.is_interrupted() {
            drop_staged(&mut scratch.staged, shared, failed);
        }
        scratch.staged.flush();
        let is_any = !scratch.staged.is_empty() || shared.unflushed.is_any();
        if is_any && shared.send_in_order(&mut scratch.staged).is_err() {
            if let Some(error) = shared.output.failure() {
                return self.begin_close(shared, CloseReason::of_socket(error));
            }
            if shared.is_interrupted() {
                return self.begin_close(shared, CloseReason::Local);
            }
            log_dropped(shared);
            scratch.staged.clear();
        }
        if let Err(reason) = verdict {
            return self.begin_close(shared, reason);
        }
        // The buffer may be empty and the peer gone, or the next request may stand in the socket.
        // The output may have drained before `on_high_water` ran.
        let events = shared.task.word.events();
        if events.has_any(Events::RELAYED) {
            self.begin_relay(shared);
            return Step::More;
        }
        let again = events.has_any(WORTH_A_LOOK)
            || scratch.input.is_promising(shared, events)
            || scratch.input.end().is_some()
            || (self.told.high_water && !shared.output.is_congested());
        if again { Step::More } else { Step::Wait }
    }
}

/// Why a connection is over with which no callback has anything to do: it has failed, and the
/// callback has been called with what it had received.
#[inline]
fn lost(
    shared: &Shared,
    events: Events,
    received: Received,
    ended_before: bool,
) -> Option<CloseReason> {
    match received {
        Received::End(End::Finished) | Received::Nothing | Received::Silent
            if events.has_any(Events::FAILED) =>
        {
            failure(shared).map(CloseReason::of_socket)
        }
        Received::End(End::Finished) => None,
        Received::End(end) if ended_before => Some(reason_of(end, shared)),
        _ => None,
    }
}

#[cold]
fn log_dropped(shared: &Shared) {
    log::debug!("connection {shared}: what was written after shutdown_write is dropped");
}

/// Drops what a callback has written and not flushed, because it has failed or the connection is
/// closed. What it wrote before it sent or closed by a handle is sent, unless it has failed.
#[cold]
fn drop_staged(staged: &mut LinkBuffer, shared: &Shared, failed: bool) {
    let events = shared.task.word.events();
    let is_cut = failed || events.has_any(Events::ABORT | Events::EXPIRED);
    if shared.unflushed.is_deferring() && !is_cut {
        staged.flush();
        // If this fails, the output keeps the cause.
        let _ = shared.send(staged);
    }
    shared.unflushed.clear();
    staged.clear();
}
