//! Events that are not of a connected stream, and what the reactor tells connections by itself.

use std::sync::Arc;

use super::registry::{FdOperator, StreamOperator};
use super::{Core, shutdown};
use crate::connection::group::ConnectionGroup;
use crate::io::driver::Event;
use crate::io::readiness::Readiness;
use crate::pure::slab::Token;

impl Core {
    /// Tells what is no stream what happened, unless the token is a stale one.
    pub(super) fn deliver_to_others(&mut self, token: Token, readiness: Readiness) {
        match self.operators.find_mut(token) {
            Some(FdOperator::Source(_)) => self.deliver_to_source(token, readiness),
            _ => self.deliver_to_preamble(token, readiness),
        }
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

    /// Tells the connections of a group that a shutdown has begun.
    pub(super) fn shut_down(&mut self, group: &Arc<ConnectionGroup>) {
        self.end_preambles(|it| it.is_of(group));
        self.tell(group, shutdown());
        self.shut_down_sources(group);
    }

    /// Another go at sending what a connection has queued: others had their turn.
    pub(super) fn transmit(&mut self, token: Token) {
        self.transmit_source(token);
        if let Some(FdOperator::Stream(StreamOperator { shared, .. })) =
            self.operators.find_mut(token)
            && let Some(events) = shared.writable()
        {
            if shared.task.word.notify(events) {
                self.ready.push_back(shared.clone().into());
            }
            shared.tell_if_gone();
        }
    }

    /// Tells an acceptor what became of an accept, or a dialled connection that it stands.
    pub(super) fn deliver_other(&mut self, event: Event) {
        match event {
            Event::Accepted { listener, stream, peer } => {
                if let Some(FdOperator::Listener(it)) = self.operators.find_mut(listener) {
                    self.remote.counters.accepted.add(1);
                    it.accept.accepted(stream, peer);
                }
            }
            Event::Failed { listener, error, skipped } => {
                self.not_accepted(listener, error, skipped);
            }
            Event::Connected { token } => self.connected(token),
        }
    }

    fn connected(&mut self, token: Token) {
        let Some(FdOperator::Stream(StreamOperator { shared, .. })) =
            self.operators.find_mut(token)
        else {
            return self.remote.counters.stale.add(1);
        };
        shared.output.connected();
    }
}
