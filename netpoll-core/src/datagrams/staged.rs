//! The answers of a callback, until it returns.
//!
//! ```text
//!   reply(part of a joined place) ──► Entry { Place, start..end } ─┐ one behind the other, to one
//!   reply(any other bytes) ──copy──► Entry { Copied, start..end } ─┤ peer, of one size: one entry
//!   reply_bytes(large) ────────────► Entry { Shared } ─────────────┘
//! ```
//! An entry is a message that one send of the kernel takes, in segments where it is several
//! datagrams. So answers are merged as they are gathered, and nothing is allocated for one.

use std::net::IpAddr;
use std::ops::Range;

use bytes::Bytes;

use crate::base::address::Address;
use crate::base::panic::drop_each;
use crate::io::datagram::{Message, Place};

/// So many entries, or bytes that were copied, are sent before the callback returns.
const MOST_ENTRIES: usize = 128;
const MOST_COPIED: usize = 256 << 10;

/// The longest `Bytes` that is copied, so that it can be joined to its neighbours.
const COPIED: usize = 4 << 10;

/// See the module.
#[derive(Default)]
pub(super) struct Staged {
    entries: Vec<Entry>,
    copied: Vec<u8>,
    shared: Vec<Bytes>,
}

/// Datagrams of one size to one peer.
struct Entry {
    to: To,
    held: Held,
    range: Range<usize>,
    /// The size of each but the last.
    size: usize,
    count: usize,
    /// How many of that size it may have.
    most: usize,
}

/// Where an answer goes.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum To {
    /// To the sender of what this place received, from the address that it was sent to.
    Place(usize),
    /// To a peer; `None` is that which the socket is connected to.
    Peer(Option<Address>),
}

/// Where the bytes of an entry stand.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Held {
    Copied,
    Place(usize),
    Shared(usize),
}

impl Staged {
    pub(super) fn clear(&mut self) {
        self.entries.clear();
        self.copied.clear();
        self.shared.clear();
        self.copied.shrink_to(MOST_COPIED);
    }

    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    #[inline]
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether it is to be sent before more is added.
    #[inline]
    pub(super) fn is_full(&self) -> bool {
        self.entries.len() >= MOST_ENTRIES || self.copied.len() >= MOST_COPIED
    }

    /// Forgets what was sent. The code of the owners of shared `Bytes` runs here.
    pub(super) fn release(&mut self) {
        let mut shared = std::mem::take(&mut self.shared);
        self.clear();
        drop_each("the release of lent memory", shared.drain(..));
        shared.shrink_to(MOST_ENTRIES);
        self.shared = shared;
    }

    /// Adds a datagram; `most` says how many of its size may be one message. A payload that is a
    /// part of a place with several is not copied.
    #[inline]
    pub(super) fn add(
        &mut self,
        places: &[Place],
        to: To,
        payload: &[u8],
        most: impl FnOnce(usize) -> usize,
    ) {
        let (held, start) = match to {
            To::Place(at) => within(&places[at], payload).map(|start| (Held::Place(at), start)),
            To::Peer(_) => None,
        }
        .unwrap_or((Held::Copied, self.copied.len()));
        if held == Held::Copied {
            self.copied.extend_from_slice(payload);
        }
        self.push(places, to, held, start..start + payload.len(), most);
    }

    /// Adds a datagram, without a copy if it is long.
    pub(super) fn add_shared(
        &mut self,
        places: &[Place],
        to: To,
        payload: Bytes,
        most: impl FnOnce(usize) -> usize,
    ) {
        if payload.len() <= COPIED {
            self.add(places, to, &payload, most);
            // Its owner's code runs at its end, so not here.
            self.shared.push(payload);
            return;
        }
        let (held, range) = (Held::Shared(self.shared.len()), 0..payload.len());
        self.shared.push(payload);
        self.push(places, to, held, range, |_| 1);
    }

    #[inline]
    fn push(
        &mut self,
        places: &[Place],
        to: To,
        held: Held,
        range: Range<usize>,
        most: impl FnOnce(usize) -> usize,
    ) {
        if let Some(last) = self.entries.last_mut()
            && last.held == held
            && last.range.end == range.start
            && last.takes(range.len())
            && is_same(places, &last.to, &to)
        {
            last.range.end = range.end;
            last.count += 1;
            return;
        }
        let size = range.len();
        self.entries.push(Entry { to, held, range, size, count: 1, most: most(size) });
    }

    /// One of the messages.
    #[inline]
    pub(super) fn message<'a>(&'a self, places: &'a [Place], at: usize) -> Message<'a> {
        let entry = &self.entries[at];
        let all = match entry.held {
            Held::Copied => &self.copied[..],
            Held::Place(at) => places[at].block.bytes(),
            Held::Shared(at) => &self.shared[at][..],
        };
        let (peer, source) = match &entry.to {
            To::Place(at) => (Some(&places[*at].peer), source_of(&places[*at])),
            To::Peer(peer) => (peer.as_ref(), None),
        };
        Message { peer, source, payload: &all[entry.range.clone()], size: entry.size }
    }

    /// The bytes of a message, shared where that costs no copy.
    pub(super) fn bytes_of(&self, places: &[Place], at: usize) -> Bytes {
        match self.entries[at].held {
            Held::Shared(shared) => self.shared[shared].clone(),
            _ => Bytes::copy_from_slice(self.message(places, at).payload),
        }
    }
}

impl Entry {
    /// Whether a datagram of so many bytes may follow: only the last may be shorter.
    #[inline]
    fn takes(&self, bytes: usize) -> bool {
        bytes > 0
            && bytes <= self.size
            && self.count < self.most
            && self.range.len() == self.size * self.count
    }
}

/// Where a payload begins in a place that has several datagrams, if it is a part of it.
#[inline]
fn within(place: &Place, payload: &[u8]) -> Option<usize> {
    let all = place.block.bytes();
    let has_several = place.stride() < all.len();
    let start = payload.as_ptr().addr().wrapping_sub(all.as_ptr().addr());
    (has_several && start < all.len() && payload.len() <= all.len() - start).then_some(start)
}

/// The address that an answer comes from.
#[inline]
fn source_of(place: &Place) -> Option<IpAddr> {
    place.ancillary.source
}

#[inline]
fn is_same(places: &[Place], one: &To, other: &To) -> bool {
    match (one, other) {
        (To::Place(one), To::Place(other)) => {
            let (a, b) = (&places[*one], &places[*other]);
            one == other || a.peer == b.peer && source_of(a) == source_of(b)
        }
        (To::Peer(one), To::Peer(other)) => one == other,
        _ => false,
    }
}
