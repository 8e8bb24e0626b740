//! An accepted stream that becomes a connection when its PROXY header has come.

use std::sync::Arc;

use netpoll_core::proxy::Header;
use netpoll_core::{Address, ConnectionGroup, ListenerInfo, Remote, Stream};

use super::context::AcceptContext;
use crate::admission::Permit;
use crate::proxy::handshake::Proxied;

/// See the module.
pub(super) struct Pending {
    pub(super) context: Arc<AcceptContext>,
    pub(super) listener: Arc<ListenerInfo>,
    /// The loop that accepted it and keeps it; without one the balance chooses.
    pub(super) own: Option<Arc<Remote>>,
    pub(super) stream: Stream,
    /// The proxy's address.
    pub(super) peer: Address,
    pub(super) permit: Permit,
}

impl Proxied for Pending {
    fn stream(&self) -> &Stream {
        &self.stream
    }

    fn peer(&self) -> &Address {
        &self.peer
    }

    fn is_of(&self, group: &Arc<ConnectionGroup>) -> bool {
        Arc::ptr_eq(&self.context.group, group)
    }

    fn proceed(self, header: Header) {
        let Self { context, listener, own, stream, peer, mut permit } = self;
        let client = header.source().unwrap_or(&peer);
        let Some(stream) = context.ask(stream, client, &listener) else { return };
        match permit.count_source(client.ip()) {
            // What refuses it has closed it, and says so.
            Ok(()) => drop(context.admit(stream, peer, Some(header), own, permit)),
            Err(limit) => context.refuse(stream, client, &listener, limit),
        }
    }

    fn give_up(self) {
        self.context.group.count_refusal();
    }
}
