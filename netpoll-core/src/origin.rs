//! Where a served connection came from: its listener, its addresses, and the ticket that its
//! acceptor wants back.

use std::any::Any;
use std::sync::Arc;

use crate::address::Address;

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

/// What an acceptor says of a stream that it admits.
#[derive(Debug)]
pub struct Origin {
    /// The listener that it came by.
    pub listener: Arc<ListenerInfo>,
    /// The peer: who connected, or whom a trusted proxy spoke for.
    pub peer: Address,
    /// The address that the peer connected to, where a proxy has told; else it is the socket's.
    pub local: Option<Address>,
    /// Dropped when the connection's socket has closed: so limits count it until then.
    pub ticket: Option<Ticket>,
}

/// Anything whose drop tells its maker that a connection is over.
pub type Ticket = Box<dyn Any + Send + Sync>;
