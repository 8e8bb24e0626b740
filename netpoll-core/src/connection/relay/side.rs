//! One side of a relay: what it does in a run of its connection, in place of callbacks.

use std::sync::Arc;

use super::{Pair, Place};
use crate::base::error::{CloseReason, Error};
use crate::base::sync::Ordering;
use crate::connection::callbacks::Service;
use crate::connection::input::{End, Received};
use crate::connection::mailbox::Command;
use crate::connection::run::{failure, reason_of};
use crate::connection::{Connection, Handle, Shared};
use crate::pure::task::Events;

/// The most that is received and sent at once. The bytes leave before the next ones come, so a
/// small block stays in the processor's cache; and a send of 256 KiB fills the buffers of the other
/// end at once, so that both ends then wait for each other.
const PIECE: usize = 32 << 10;

/// See the module.
pub(crate) struct Side {
    pair: Arc<Pair>,
    index: usize,
    /// What was called back before the relay: it is still told of the disconnect.
    pub(crate) service: Option<Box<dyn Service>>,
}

/// What became of one step.
pub(crate) enum Flow {
    /// Bytes were passed on: there may be more.
    Moved,
    /// Nothing is left to do until something happens.
    Wait,
    /// This end closes for that reason.
    End(CloseReason),
}

impl Side {
    pub(super) fn new(pair: &Arc<Pair>, index: usize) -> Self {
        Self { pair: pair.clone(), index, service: None }
    }

    /// Receives once, if the other end takes bytes, and passes on what has come.
    pub(crate) fn step(
        &self,
        connection: &mut Connection,
        shared: &Arc<Shared>,
        events: Events,
    ) -> Flow {
        let (own, other) = (self.own(), self.other());
        let mut is_quiet = own.is_finished();
        if !is_quiet && !events.has_any(Events::PAUSED) && !other.shared.output.is_congested() {
            match receive(connection, shared, events) {
                Received::Bytes => return self.pass_on(connection),
                Received::Silent => return Flow::Moved,
                Received::End(End::Finished) => {
                    self.pass_end_on();
                    is_quiet = true;
                }
                Received::End(end) => return Flow::End(reason_of(end, shared)),
                Received::Nothing | Received::Full => is_quiet = true,
            }
        }
        let is_over = own.is_finished() && other.is_finished();
        if is_over && shared.output.is_empty() {
            return Flow::End(CloseReason::Peer);
        }
        if events.has_any(Events::FAILED)
            && let Some(error) = failure(shared)
        {
            return Flow::End(CloseReason::of_socket(error));
        }
        if is_over {
            // When all is sent, that tells this end to look again.
            shared.close_output();
            return Flow::Wait;
        }
        self.stop(shared, events, is_quiet)
    }

    /// The other end's output has drained: this one tells it to receive again.
    pub(crate) fn relieve(&self) {
        self.other().wake();
    }

    /// The connection has ended.
    pub(crate) fn end(&self, reason: CloseReason, by_force: bool) {
        self.pair.ended(self.index, reason, by_force);
    }

    fn pass_on(&self, connection: &mut Connection) -> Flow {
        let mut reader = connection.reader();
        let sent = reader
            .slice(reader.len())
            .and_then(|bytes| Handle::new(self.other().shared.clone()).send_buffer(bytes));
        match sent {
            Ok(()) => Flow::Moved,
            // The other end ends for this reason, and ends this one.
            Err(Error::Io(_)) => Flow::Wait,
            // It ends, too, or a shutdown has sealed it; or its user has ended its stream.
            Err(_) => {
                let other = &self.other().shared;
                let is_ending = other.is_interrupted() || other.task.word.is_closed();
                let is_stopping = self.pair.stopping.load(Ordering::SeqCst);
                if is_ending || is_stopping { Flow::Wait } else { Flow::End(CloseReason::Local) }
            }
        }
    }

    /// The end of the peer's stream was read. Where the other stream has ended before, the other
    /// end closes: its close says that its stream ends, too.
    fn pass_end_on(&self) {
        self.own().finished.store(true, Ordering::SeqCst);
        if self.other().is_finished() {
            self.other().wake();
        } else {
            self.other().end_stream();
        }
    }

    /// In a shutdown: closes when nothing is on the way in either direction.
    fn stop(&self, shared: &Shared, events: Events, is_quiet: bool) -> Flow {
        let (pair, own, other) = (&*self.pair, self.own(), self.other());
        if events.has_any(Events::SHUTDOWN) && !pair.stopping.swap(true, Ordering::SeqCst) {
            other.wake();
        }
        if !pair.stopping.load(Ordering::SeqCst) {
            return Flow::Wait;
        }
        if pair.is_gone(1 - self.index) {
            return Flow::End(CloseReason::Shutdown);
        }
        if is_quiet && !own.quiet.swap(true, Ordering::SeqCst) {
            other.wake();
        }
        if !own.quiet.load(Ordering::SeqCst) || !other.quiet.load(Ordering::SeqCst) {
            return Flow::Wait;
        }
        // Each output tells its own end when it is empty, and that end then looks here.
        shared.close_output();
        if shared.output.is_empty() && other.shared.output.is_empty() {
            return Flow::End(CloseReason::Shutdown);
        }
        Flow::Wait
    }

    fn own(&self) -> &Place {
        &self.pair.ends[self.index]
    }

    fn other(&self) -> &Place {
        &self.pair.ends[1 - self.index]
    }
}

/// A side that was never installed, or whose connection has ended before: the other end ends.
impl Drop for Side {
    fn drop(&mut self) {
        self.pair.ended(self.index, CloseReason::Local, true);
    }
}

/// What was received before and not read comes first.
fn receive(connection: &mut Connection, shared: &Arc<Shared>, events: Events) -> Received {
    let input = &mut connection.scratch().input;
    if !input.buffer.is_empty() {
        return Received::Bytes;
    }
    if !input.may_receive(shared, events) {
        drop(shared.reactor.post(Command::Retry(shared.token())));
        return Received::Nothing;
    }
    connection.receive_up_to(PIECE)
}
