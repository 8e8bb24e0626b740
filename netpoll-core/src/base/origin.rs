//! Where a served connection came from: its addresses, and its listener, which counts it.

use std::fmt;
use std::sync::Arc;

use crate::base::address::Address;

/// A listener as its connections know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenerInfo {
    /// Its place among those that `serve` was given, from 0.
    pub index: usize,
    /// The name that it was given, or its address.
    pub name: Box<str>,
    /// What it listens on.
    pub address: Address,
}

/// What counts the connections that came by a listener. There is one for each listener, not one for
/// each connection: what it needs to know when a connection leaves, the connection knows anyway.
pub trait Release: Send + Sync {
    /// The listener.
    fn info(&self) -> &ListenerInfo;

    /// The socket of a connection that came from `peer` has closed. Called once for each
    /// [`Origin`] that [`admit`](crate::admit) was given, from any thread; it must not block.
    fn release(&self, peer: &Address);
}

/// What an acceptor says of a stream that it admits.
#[derive(Debug)]
pub struct Origin {
    /// What it came by, and is counted by until its socket has closed.
    pub listener: Arc<dyn Release>,
    /// The peer: who connected, or whom a trusted proxy spoke for.
    pub peer: Address,
    /// The address that the peer connected to, where a proxy has told; else it is the socket's.
    pub local: Option<Address>,
}

impl fmt::Debug for dyn Release {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_tuple("Release").field(self.info()).finish()
    }
}
