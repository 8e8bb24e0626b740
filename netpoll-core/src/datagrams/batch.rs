//! What a callback gets: the datagrams of one receive, and the ways to answer them.

use std::cell::RefCell;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;

use super::handle::DatagramHandle;
use super::staged::{Staged, To};
use super::task::DatagramTask;
use crate::base::address::Address;
use crate::base::error::Result;
use crate::io::datagram::Place;

/// The datagrams that one receive brought, in the order in which they came.
///
/// It is lent to a callback, and its memory is used again afterwards: [`Datagram::bytes`] shares
/// what is to be kept.
///
/// ```
/// # use netpoll_core::{DatagramBatch, Result};
/// fn on_datagrams(seen: &mut u64, batch: &DatagramBatch<'_>) -> Result<()> {
///     *seen += batch.len() as u64;
///     for datagram in batch {
///         datagram.reply(datagram.payload())?;
///     }
///     Ok(())
/// }
/// ```
pub struct DatagramBatch<'a> {
    task: &'a Arc<DatagramTask>,
    places: &'a [Place],
    staged: &'a RefCell<Staged>,
    len: usize,
}

/// One datagram of a batch.
#[derive(Clone, Copy)]
pub struct Datagram<'a> {
    batch: &'a DatagramBatch<'a>,
    place: usize,
    start: usize,
    payload: &'a [u8],
    is_last: bool,
}

impl<'a> DatagramBatch<'a> {
    pub(super) fn new(
        task: &'a Arc<DatagramTask>,
        places: &'a [Place],
        staged: &'a RefCell<Staged>,
    ) -> Self {
        let len = places.iter().map(Place::count).sum();
        Self { task, places, staged, len }
    }

    /// How many datagrams there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is none, as where the callback was woken.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The datagrams.
    pub fn iter(&self) -> Iter<'_> {
        Iter { batch: self, place: 0, start: 0, left: self.len }
    }

    /// Sends a datagram to a peer. It is copied and gathered as a [reply](Datagram::reply) is.
    ///
    /// # Errors
    /// Those of [`Datagram::reply`].
    pub fn send_to(&self, peer: &Address, payload: &[u8]) -> Result<()> {
        self.task.check_length(Some(peer), payload.len())?;
        self.add(To::Peer(Some(peer.clone())), payload);
        Ok(())
    }

    /// Sends a datagram to the peer that the socket is connected to.
    ///
    /// # Errors
    /// Those of [`Datagram::reply`].
    pub fn send(&self, payload: &[u8]) -> Result<()> {
        self.task.check_length(None, payload.len())?;
        self.add(To::Peer(None), payload);
        Ok(())
    }

    /// A handle of the socket, for any thread.
    pub fn handle(&self) -> DatagramHandle {
        DatagramHandle::new(self.task.clone())
    }

    #[inline]
    fn add(&self, to: To, payload: &[u8]) {
        let mut staged = self.staged.borrow_mut();
        staged.add(self.places, to, payload, |size| self.task.most_joined(size));
        if staged.is_full() {
            self.task.send_staged(self.places, &mut staged);
        }
    }
}

impl<'a> Datagram<'a> {
    /// The payload. It may be empty.
    #[inline]
    pub fn payload(&self) -> &'a [u8] {
        self.payload
    }

    /// The payload, for as long as it is needed: it shares the block that the batch was received
    /// to, or is a copy where it would keep more than 64 times its size. An allocation, and for the
    /// former the next receive takes another block.
    pub fn bytes(&self) -> Bytes {
        self.batch.places[self.place].block.slice(self.start..self.start + self.payload.len())
    }

    /// Its sender; [`Address::Unnamed`] for a Unix socket without a name, to which there is no
    /// answer.
    #[inline]
    pub fn peer(&self) -> &'a Address {
        &self.batch.places[self.place].peer
    }

    /// The address that it was sent to, where the socket is bound to all addresses or was asked to
    /// say so. Of a multicast or broadcast datagram it is that of the group.
    pub fn local(&self) -> Option<IpAddr> {
        self.batch.places[self.place].ancillary.destination.map(|it| it.to_canonical())
    }

    /// The address that an answer comes from: [`local`](Self::local), but for a datagram to a group
    /// or to all hosts that of the interface, or `None`, where the system chooses.
    pub fn source(&self) -> Option<IpAddr> {
        self.batch.places[self.place].ancillary.source
    }

    /// The number of the interface on which it came; known where [`local`](Self::local) is.
    pub fn interface(&self) -> Option<u32> {
        self.batch.places[self.place].ancillary.interface
    }

    /// The TOS byte of IPv4, or the traffic class of IPv6, where the socket was asked to say it.
    pub fn tos(&self) -> Option<u8> {
        self.batch.places[self.place].ancillary.tos
    }

    /// The two bits of explicit congestion notification, the low ones of [`tos`](Self::tos): 0 is
    /// not capable, 1 and 2 are capable, 3 says that congestion was met.
    pub fn ecn(&self) -> Option<u8> {
        self.tos().map(|tos| tos & 0b11)
    }

    /// Whether it was longer than [`longest`](crate::DatagramLimits::longest): its end is lost.
    pub fn is_truncated(&self) -> bool {
        self.is_last && self.batch.places[self.place].is_truncated
    }

    /// When the kernel received it, where the socket was asked to say so. Datagrams that the kernel
    /// has joined have the time of the first.
    pub fn time(&self) -> Option<SystemTime> {
        self.batch.places[self.place].ancillary.time
    }

    /// Answers it, from the address that it was sent to.
    ///
    /// The answers of a callback are gathered, those of one size to one peer as one message of the
    /// kernel, and leave when the callback returns, or before that when they are many. They are
    /// copied, but for a part of this payload that came joined. Where the kernel takes no more they
    /// wait, within [`DatagramLimits`](crate::DatagramLimits); what became of them is
    /// [counted](crate::DatagramStats).
    ///
    /// # Errors
    /// `EMSGSIZE`, as an [`Error::Io`](crate::Error::Io), where the payload is longer than any
    /// datagram of UDP; `InvalidInput` where the peer has no name.
    #[inline]
    pub fn reply(&self, payload: &[u8]) -> Result<()> {
        self.batch.task.check_length(Some(self.peer()), payload.len())?;
        self.batch.add(To::Place(self.place), payload);
        Ok(())
    }

    /// As [`reply`](Self::reply), without a copy of a payload that is long.
    ///
    /// # Errors
    /// Those of `reply`.
    pub fn reply_bytes(&self, payload: Bytes) -> Result<()> {
        let DatagramBatch { task, places, staged, .. } = self.batch;
        task.check_length(Some(self.peer()), payload.len())?;
        let mut staged = staged.borrow_mut();
        let to = To::Place(self.place);
        staged.add_shared(places, to, payload, |size| task.most_joined(size));
        if staged.is_full() {
            task.send_staged(places, &mut staged);
        }
        Ok(())
    }
}

/// The datagrams of a batch, one after the other.
#[derive(Clone)]
pub struct Iter<'a> {
    batch: &'a DatagramBatch<'a>,
    place: usize,
    start: usize,
    left: usize,
}

impl<'a> Iterator for Iter<'a> {
    type Item = Datagram<'a>;

    #[inline]
    fn next(&mut self) -> Option<Datagram<'a>> {
        let place = self.batch.places.get(self.place)?;
        let (all, start, at) = (place.block.bytes(), self.start, self.place);
        let end = (start + place.stride()).min(all.len());
        let is_last = end == all.len();
        if is_last {
            (self.place, self.start) = (at + 1, 0);
        } else {
            self.start = end;
        }
        self.left -= 1;
        let payload = &all[start..end];
        Some(Datagram { batch: self.batch, place: at, start, payload, is_last })
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl ExactSizeIterator for Iter<'_> {}

impl<'a> IntoIterator for &'a DatagramBatch<'_> {
    type Item = Datagram<'a>;
    type IntoIter = Iter<'a>;

    fn into_iter(self) -> Iter<'a> {
        self.iter()
    }
}

impl std::fmt::Debug for DatagramBatch<'_> {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_list().entries(self).finish()
    }
}

impl std::fmt::Debug for Datagram<'_> {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Datagram")
            .field("peer", self.peer())
            .field("len", &self.payload.len())
            .finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Iter<'_> {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Iter").field("left", &self.left).finish_non_exhaustive()
    }
}
