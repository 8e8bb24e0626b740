//! How an event reaches its connection, or the acceptor.

use std::sync::Arc;

use super::Core;
use super::registry::{FdOperator, StreamOperator};
use crate::connection::Shared;
use crate::io::driver::{AcceptEvent, PollEvent, Readiness};
use crate::pure::slab::Token;
use crate::pure::task::Events;

impl Core {
    /// Tells the connection what happened. Returns it if it is to be run.
    #[inline]
    pub(super) fn deliver(&mut self, event: PollEvent) -> Option<Arc<Shared>> {
        let PollEvent { token, readiness } = event;
        let Some(FdOperator::Stream(StreamOperator { shared, .. })) =
            self.operators.find_mut(token)
        else {
            self.deliver_to_preamble(token, readiness);
            return None;
        };
        let events = events_of(readiness, shared)?;
        shared.task.word.notify(events).then(|| shared.clone())
    }

    /// Tells a preamble what happened to its stream, unless the token is a stale one. After the end
    /// of the peer's stream, or a failure, no more can come: a preamble ends then, complete or not.
    fn deliver_to_preamble(&mut self, token: Token, readiness: Readiness) {
        let is_over = readiness.peer_closed || readiness.failed;
        match self.operators.find_mut(token) {
            Some(FdOperator::Preamble(preamble)) => {
                if is_over || preamble.is_complete() {
                    self.end_preamble(token);
                }
            }
            _ => self.remote.counters.stale.add(1),
        }
    }

    /// Another go at sending what a connection has queued: others had their turn.
    pub(super) fn transmit(&mut self, token: Token) {
        if let Some(FdOperator::Stream(StreamOperator { shared, .. })) =
            self.operators.find_mut(token)
            && let Some(events) = shared.writable()
            && shared.task.word.notify(events)
        {
            self.ready.push_back(shared.clone());
        }
    }

    /// Tells the acceptor what became of an accept.
    pub(super) fn deliver_to_acceptor(&mut self, event: AcceptEvent) {
        match event {
            AcceptEvent::Accepted { listener, stream, peer } => {
                if let Some(FdOperator::Listener(it)) = self.operators.find_mut(listener) {
                    self.remote.counters.accepted.add(1);
                    it.accept.accepted(stream, peer);
                }
            }
            AcceptEvent::Failed { listener, error, skipped } => {
                self.not_accepted(listener, error, skipped);
            }
        }
    }
}

/// What the connection is to be told of a readiness; `None` where it need not look. What is
/// writable first goes to its output, which tells more only if the owner waits for it.
#[inline]
fn events_of(readiness: Readiness, shared: &Shared) -> Option<Events> {
    let of_output = if readiness.sendable { shared.writable() } else { None };
    let mut events = of_output.unwrap_or(Events::NONE);
    if readiness.receivable {
        events = events | Events::READABLE;
    }
    if readiness.peer_closed {
        events = events | Events::PEER_CLOSED;
    }
    if readiness.failed {
        events = events | Events::FAILED;
    }
    if readiness.urgent {
        events = events | Events::URGENT;
    }
    (of_output.is_some() || events != Events::NONE).then_some(events)
}
