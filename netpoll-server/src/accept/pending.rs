//! An accepted stream that is not a connection yet: it is admitted to a loop, or refused.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use netpoll_core::{Address, Group, ListenerInfo, Origin, Remote, admit, guard, socket};

use super::context::AcceptContext;
use crate::admission::{AcceptLimit, AtLimit, Permit, Refusal};
use crate::proxy::handshake::Proxied;

/// A stream with a permit.
pub(super) struct Pending {
    pub(super) context: Arc<AcceptContext>,
    pub(super) listener: Arc<ListenerInfo>,
    /// The loop that accepted it and keeps it; without one the balance chooses.
    pub(super) own: Option<Arc<Remote>>,
    pub(super) stream: OwnedFd,
    pub(super) peer: Address,
    pub(super) local: Option<Address>,
    pub(super) permit: Permit,
}

impl Pending {
    /// Makes it a connection.
    pub(super) fn admit(self) {
        let Self { context, own, stream, peer, local, permit, .. } = self;
        let Some((reactor, _admitting)) = context.place(own, &peer) else {
            return log::debug!("{peer} came when the serving had ended");
        };
        // From here on the connection has the place that the permit was for.
        let origin = Origin { listener: permit.redeem(), peer, local };
        admit(stream, origin, &context.group, &context.callbacks, &reactor);
    }
}

impl Proxied for Pending {
    fn stream(&self) -> &OwnedFd {
        &self.stream
    }

    fn peer(&self) -> &Address {
        &self.peer
    }

    fn is_of(&self, group: &Arc<Group>) -> bool {
        Arc::ptr_eq(&self.context.group, group)
    }

    fn proceed(mut self, addresses: Option<(Address, Address)>) {
        if let Some((peer, local)) = addresses {
            (self.peer, self.local) = (peer, Some(local));
        }
        match self.permit.count_source(self.peer.ip()) {
            Ok(()) => self.admit(),
            Err(limit) => refuse(&self.context, self.stream, &self.peer, &self.listener, limit),
        }
    }

    fn give_up(self) {
        self.context.group.count_refusal();
    }
}

/// Closes a stream that met a limit, after what `at_limit` says to send.
pub(super) fn refuse(
    context: &AcceptContext,
    stream: OwnedFd,
    peer: &Address,
    listener: &ListenerInfo,
    limit: AcceptLimit,
) {
    context.group.count_refusal();
    log::debug!("{peer} is refused at the limit {limit:?}");
    let words = match context.admission.at_limit() {
        AtLimit::Tell(on_refuse) => {
            let refusal = Refusal { peer, listener, limit };
            guard("on_refuse", || on_refuse(&refusal)).unwrap_or_default()
        }
        _ => Vec::new(),
    };
    socket::part_with(stream, &words);
}
