//! Where a served connection came from: its addresses, and the listener that counts it.

use std::fmt;
use std::sync::Arc;

use crate::base::address::Address;
use crate::base::proxy::Header;
use crate::io::filter::FilterServer;

/// A listener as its connections know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenerInfo {
    /// Its index among the listeners that were passed to `serve`, from 0.
    pub index: usize,
    /// Its name, or its address if it was given no name.
    pub name: Box<str>,
    /// The address that it listens on.
    pub address: Address,
}

/// Counts the connections of a listener.
///
/// There is one for each listener, not for each connection: a connection passes the peer's address
/// to [`release`](Self::release), and nothing else is needed.
pub trait Release: Send + Sync {
    /// The listener.
    fn info(&self) -> &ListenerInfo;

    /// What makes the filters of its connections; `None`, the default: they have none.
    fn filter(&self) -> Option<&Arc<dyn FilterServer>> {
        None
    }

    /// The socket of a connection from `peer` has closed. Any thread calls this, once for each
    /// [`Origin`] that was passed to [`admit`](crate::admit). It must not block.
    fn release(&self, peer: &Address);
}

/// Where an admitted stream came from, as its acceptor knows it.
#[derive(Debug)]
pub struct Origin {
    /// The listener that accepted the stream, which counts it until its socket has closed.
    pub listener: Arc<dyn Release>,
    /// The address of the socket's peer: the client's, or its proxy's.
    pub peer: Address,
    /// What a trusted proxy said of the client that it speaks for.
    pub proxied: Option<Header>,
}

impl Origin {
    /// The client's address: the one that the proxy named, else the peer's.
    pub fn client(&self) -> &Address {
        self.proxied.as_ref().and_then(Header::source).unwrap_or(&self.peer)
    }
}

impl fmt::Debug for dyn Release {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_tuple("Release").field(self.info()).finish()
    }
}
