//! Somebody who has come in by a listener, and is to be admitted or refused.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use netpoll_core::{Address, ListenerInfo, Origin, Remote, admit, guard, socket};

use crate::acceptor::Front;
use crate::gate::{AtLimit, Limit, Refusal, Ticket};

/// A stream with a ticket.
pub(crate) struct Guest {
    pub(crate) front: Arc<Front>,
    pub(crate) listener: Arc<ListenerInfo>,
    /// The loop that accepted it and keeps it; else the balance chooses one.
    pub(crate) own: Option<Arc<Remote>>,
    pub(crate) stream: OwnedFd,
    pub(crate) peer: Address,
    pub(crate) local: Option<Address>,
    pub(crate) ticket: Ticket,
}

impl Guest {
    /// Makes it a connection.
    pub(crate) fn admit(self) {
        let Self { front, own, stream, peer, local, ticket, .. } = self;
        let Some(home) = own.or_else(|| Some(front.manager.upgrade()?.pick(peer.ip()))) else {
            return log::debug!("{peer} came when the serving had ended");
        };
        front.while_open(|| {
            // From here on the connection has the place that the ticket was for.
            let origin = Origin { listener: ticket.redeem(), peer, local };
            admit(stream, origin, &front.group, &front.callbacks, &home);
        });
    }

    pub(crate) fn refuse(self, limit: Limit) {
        refuse(&self.front, self.stream, &self.peer, &self.listener, limit);
    }
}

/// Closes a stream that met a limit, with the words that are set for that.
pub(crate) fn refuse(
    front: &Front,
    stream: OwnedFd,
    peer: &Address,
    listener: &ListenerInfo,
    limit: Limit,
) {
    front.group.count_refusal();
    log::debug!("{peer} is refused at the limit {limit:?}");
    let words = match front.gate.at_limit() {
        AtLimit::Tell(on_refuse) => {
            let refusal = Refusal { peer, listener, limit };
            guard("on_refuse", || on_refuse(&refusal)).unwrap_or_default()
        }
        _ => Vec::new(),
    };
    socket::part_with(stream, &words);
}
