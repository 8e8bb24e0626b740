//! How a close begins, what is still sent after that, and what it does last.

use std::io::{self, ErrorKind};
use std::sync::Arc;

use super::{Life, Role, Runner, Step};
use crate::base::clock;
use crate::base::error::{CloseReason, Error, LimitReached, Wait};
use crate::base::panic::guard;
use crate::connection::input::End;
use crate::connection::mailbox::Command;
use crate::connection::{Connection, Shared};
use crate::io::stream::Stream;
use crate::pure::slab::Token;
use crate::pure::task::{Events, Run};

/// What a close does last, outside of the cell: `on_disconnect`, then the reactor closes the
/// socket.
pub(super) fn end(mut run: Run<'_, Runner>, shared: &Arc<Shared>) {
    let reason = run.reason.take().map_or(CloseReason::Local, |reason| *reason);
    log::debug!("connection {shared}: {reason}");
    shared.tell_gone();
    run.let_go();
    let is_reset = shared.task.word.events().has_any(Events::RESET);
    let is_over = is_reset
        || match reason {
            CloseReason::Reset | CloseReason::Truncated => true,
            // After the end that a filter tells of, the peer may send more.
            CloseReason::Peer => !shared.output.is_filtered(),
            _ => false,
        };
    if !is_over && shared.output.is_empty() {
        let in_pieces = shared.task.word.events().has_any(Events::IN_PIECES);
        shared.output.discard_unread(in_pieces);
    }
    let mut relay = None;
    let service = match std::mem::take(&mut run.role) {
        Role::Service(service) => Some(service),
        Role::Relay(mut side) => {
            let service = side.service.take();
            relay = Some(side);
            service
        }
        Role::Callbacks(callbacks) => {
            // This may be the last reference to the user's callbacks, and what they captured.
            guard("the release of callbacks", || drop(callbacks)).ok();
            None
        }
        Role::Greeting(greeting) => {
            greeting.fail(Error::Closed);
            None
        }
        Role::None => None,
    };
    let is_read_out = run.life == Life::Closing { is_read_out: true };
    if !is_reset && (!is_read_out || shared.close_is_put_off(service.as_deref())) {
        // The close of the socket sends the FIN, too. But it sends a reset where a peer that still
        // sends has sent more, and the FIN must not wait for the user's `on_disconnect`.
        shared.output.end_stream();
    }
    if let Some(service) = service {
        service.disconnect(&reason);
    }
    shared.extras.close(&shared.task.word);
    run.close();
    shared.finish();
    if let Some(side) = relay {
        let by_force = shared.task.word.events().has_any(Events::ABORT);
        side.end(reason, by_force);
    }
}

impl Runner {
    /// The close has begun: nothing more is received, and nothing more is written.
    fn let_go(&mut self) {
        let Some(connection) = self.connection.take() else {
            if !matches!(self.life, Life::Closing { .. }) {
                self.life = Life::Closing { is_read_out: false };
            }
            return;
        };
        if let Some(filtered) = connection.shared.filtered() {
            filtered.end_handshake(&connection.shared);
        }
        self.life = Life::Closing { is_read_out: connection.is_read_out() };
        guard("the release of lent memory", || connection.leave()).ok();
    }

    /// Begins an orderly close: what was accepted is still sent, within the linger time.
    pub(super) fn begin_close(&mut self, shared: &Arc<Shared>, reason: CloseReason) -> Step {
        if shared.task.word.events().has_any(Events::RESET) {
            // The reset was asked for while a callback ran: a FIN would overtake it.
            return self.end_at_once(reason);
        }
        if matches!(reason, CloseReason::Timeout(Wait::Write)) {
            // The peer had the write timeout to take what is left, and did not.
            return self.end_at_once(reason);
        }
        self.reason.get_or_insert_with(|| Box::new(reason));
        self.let_go();
        shared.catch_up();
        let (is_all_sent, next) = shared.output.seal();
        shared.tell_if_gone();
        if is_all_sent {
            return Step::Closed;
        }
        if !next.is_none() {
            shared.task.word.note(shared.go_on_later(next));
        }
        let deadline = clock::now().checked_add(shared.group.limits().linger);
        let armed = match (shared.token(), deadline) {
            (Token::NONE, _) => Err(()),
            (token, Some(at)) => shared.reactor.post(Command::Linger(token, at)).map_err(drop),
            (_, None) => Ok(()),
        };
        // Without a reactor nothing sends the rest of the output.
        if armed.is_ok() { Step::Wait } else { Step::Closed }
    }

    /// Ends at once, because the time watch found a timeout or deadline passed.
    pub(super) fn expire(&mut self, shared: &Arc<Shared>) -> Step {
        let wait = shared.extras.expired();
        if self.life == Life::Handshaking {
            shared.group.count_refusal();
        }
        let events = shared.task.word.events();
        if wait == Some(Wait::Handshake) && events.has_any(Events::SHUTDOWN) {
            return self.begin_close(shared, reason_shutting_down(events));
        }
        self.end_at_once(wait.map_or(CloseReason::Local, CloseReason::Timeout))
    }

    /// Ends at once, because of an abort.
    pub(super) fn give_up(&mut self, shared: &Shared) -> Step {
        let meant = shared.task.word.events().has_any(Events::RESET);
        let reason = if meant { reason_local(shared) } else { CloseReason::Shutdown };
        self.end_at_once(shared.output.failure().map_or(reason, CloseReason::of_socket))
    }

    /// Drops what is left to send; where there is some, the peer gets a reset.
    fn end_at_once(&mut self, reason: CloseReason) -> Step {
        self.reason.get_or_insert_with(|| Box::new(reason));
        self.let_go();
        Step::Closed
    }
}

/// Why this side ended it.
pub(super) fn reason_local(shared: &Shared) -> CloseReason {
    let events = shared.task.word.events();
    if shared.output.is_detached() {
        return CloseReason::Detached;
    }
    if shared.group.polls_futures() && events.has_any(Events::SHUTDOWN) {
        return reason_shutting_down(events);
    }
    CloseReason::Local
}

/// Why a connection ends that had nothing left to serve when a shutdown or its age came.
pub(super) fn reason_shutting_down(events: Events) -> CloseReason {
    let is_aged = events.has_any(Events::AGED);
    if is_aged { CloseReason::Timeout(Wait::Age) } else { CloseReason::Shutdown }
}

/// Why the peer's stream ended; a send may have met the reset first, and taken it.
pub(crate) fn reason_of(end: End, shared: &Shared) -> CloseReason {
    match (end, shared.output.failure()) {
        (End::Failed(errno), _) => CloseReason::of_socket(io::Error::from_raw_os_error(errno)),
        (_, Some(error)) => CloseReason::of_socket(error),
        (End::Finished, None) => CloseReason::Peer,
        (End::Truncated, None) => CloseReason::Truncated,
        (End::Refused, None) => CloseReason::Local,
    }
}

/// Why the peer is gone, where its stream was not read to its end.
pub(super) fn reason_unread(shared: &Shared) -> CloseReason {
    failure(shared).map_or(CloseReason::Peer, CloseReason::of_socket)
}

/// The error that the socket holds, or that a send has met.
pub(crate) fn failure(shared: &Shared) -> Option<io::Error> {
    let pending = shared.output.with_stream(Stream::take_error).and_then(Result::err);
    pending.or_else(|| shared.output.failure())
}

/// The reason behind an error that a callback returned, where the callback only passed on the error
/// of a read or a flush.
pub(super) fn passed_on(
    error: &Error,
    connection: &Connection,
    shared: &Shared,
) -> Option<CloseReason> {
    match error {
        Error::TimedOut(wait) => return Some(CloseReason::Timeout(*wait)),
        Error::InputLimit { .. } => return Some(CloseReason::Limit(LimitReached::Input)),
        Error::Full => return Some(CloseReason::Limit(LimitReached::Output)),
        Error::NoThread => return Some(CloseReason::Limit(LimitReached::Threads)),
        Error::Filter(error) => return Some(CloseReason::Filter(error.clone())),
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
