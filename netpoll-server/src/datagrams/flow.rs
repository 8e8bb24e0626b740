//! What the callbacks of a flow get: its datagrams, and what can be done with it.

use std::cell::Cell;
use std::iter::Take;
use std::net::IpAddr;

use bytes::Bytes;
use netpoll_core::{Address, Datagram, DatagramBatch, DatagramHandle, DatagramIter, Result};

use super::flow_table::FlowKey;

/// Datagrams of one flow that came one behind the other, in their order.
#[derive(Debug)]
pub struct FlowBatch<'a> {
    pub(super) key: &'a FlowKey,
    pub(super) batch: &'a DatagramBatch<'a>,
    pub(super) datagrams: Take<DatagramIter<'a>>,
    pub(super) wishes: Cell<Wishes>,
}

/// What a callback asks for, done when it returns.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Wishes {
    pub(super) confirm: bool,
    pub(super) end: bool,
}

/// A flow, as any thread sends on it.
///
/// It keeps nothing open: what is sent after the end of the flow reaches the peer all the same, and
/// after the end of the socket it is an error.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct FlowHandle {
    key: FlowKey,
    /// The address that what is sent leaves from.
    source: Option<IpAddr>,
    socket: DatagramHandle,
}

impl<'a> FlowBatch<'a> {
    /// How many datagrams there are, at least one.
    #[expect(clippy::len_without_is_empty, reason = "it is never empty")]
    pub fn len(&self) -> usize {
        self.datagrams.len()
    }

    /// The datagrams.
    pub fn iter(&self) -> Take<DatagramIter<'a>> {
        self.datagrams.clone()
    }

    /// The peer of the flow.
    pub fn peer(&self) -> &Address {
        &self.key.peer
    }

    /// The address that the peer sends to, where the socket is bound to several.
    pub fn local(&self) -> Option<IpAddr> {
        self.key.local
    }

    /// Sends to the peer of the flow, behind what is gathered already, as [`Datagram::reply`] does.
    ///
    /// # Errors
    /// Those of `reply`.
    pub fn reply(&self, payload: &[u8]) -> Result<()> {
        match self.iter().next() {
            Some(datagram) => datagram.reply(payload),
            None => self.batch.send_to(&self.key.peer, payload),
        }
    }

    /// The flow, for other threads and for later.
    pub fn handle(&self) -> FlowHandle {
        let source = self.iter().next().and_then(|it| it.source());
        FlowHandle { key: self.key.clone(), source, socket: self.batch.handle() }
    }

    /// Says that the peer receives at its address, for example since it has sent back a secret that
    /// was sent there: so the address is not forged. Where room is needed, flows of which this is
    /// not known are dropped first.
    pub fn confirm(&self) {
        self.wishes.update(|it| Wishes { confirm: true, ..it });
    }

    /// Ends the flow when the callback returns. What the peer sends later begins a new one.
    pub fn end(&self) {
        self.wishes.update(|it| Wishes { end: true, ..it });
    }
}

impl<'a> IntoIterator for &FlowBatch<'a> {
    type Item = Datagram<'a>;
    type IntoIter = Take<DatagramIter<'a>>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl FlowHandle {
    /// Sends to the peer, from the address that the flow came to; see
    /// [`DatagramHandle::send_to`].
    ///
    /// # Errors
    /// Those of `send_to`.
    pub fn send(&self, payload: impl Into<Bytes>) -> Result<()> {
        self.socket.send_from(self.source, &self.key.peer, payload)
    }

    /// The peer of the flow.
    pub fn peer(&self) -> &Address {
        &self.key.peer
    }

    /// The address that the peer sends to, where the socket is bound to several.
    pub fn local(&self) -> Option<IpAddr> {
        self.key.local
    }

    /// The socket that the flow came to.
    pub fn socket(&self) -> &DatagramHandle {
        &self.socket
    }
}
