//! Where datagrams are received to: places with a block each, that are used again and again.

use std::io;
use std::os::fd::BorrowedFd;

use netpoll_buffer::ReceiveBlock;

use crate::base::address::Address;
use crate::sys::ancillary::Ancillary;
use crate::sys::datagram::{self, Slot};

/// How many places a receive has at the most. On loopback 64 are slower than 16 for single
/// datagrams, and with joined ones 16 bring 1 MiB.
pub(crate) const MOST_PLACES: usize = 16;

/// One place of a receive: a block, and what came into it.
pub(crate) struct Place {
    slot: Slot,
    pub(crate) block: ReceiveBlock,
    /// The payload's sender.
    pub(crate) peer: Address,
    /// Its name as the kernel wrote it, where it is a Unix socket.
    named: Vec<u8>,
    pub(crate) ancillary: Ancillary,
    pub(crate) is_truncated: bool,
    /// The block was charged to an account.
    pub(crate) is_charged: bool,
}

/// The places of a receive. They keep their blocks as long as nothing else has a piece of them.
#[derive(Default)]
pub(crate) struct Places {
    all: Vec<Place>,
    used: usize,
}

impl Places {
    /// What came.
    #[inline]
    pub(crate) fn used(&self) -> &[Place] {
        &self.all[..self.used]
    }

    #[inline]
    pub(crate) fn used_mut(&mut self) -> &mut [Place] {
        &mut self.all[..self.used]
    }

    /// Forgets what came.
    pub(crate) fn clear(&mut self) {
        self.used = 0;
    }

    /// Gives the memory of all places but so many back to the pool.
    pub(crate) fn keep(&mut self, places: usize) {
        self.all.truncate(places);
    }

    /// Receives to up to `wanted` places, with room for `room` bytes each; returns how many it
    /// filled.
    ///
    /// # Errors
    /// The system's; `WouldBlock` where nothing has come.
    pub(crate) fn receive(
        &mut self,
        from: BorrowedFd<'_>,
        wanted: usize,
        room: usize,
    ) -> io::Result<usize> {
        let ready = self.prepare(wanted, room);
        let came = datagram::receive(from, ready, |place| {
            let all = place.block.room();
            let end = all.len().min(room);
            (&mut place.slot, &mut all[..end])
        })?;
        for place in &mut ready[..came] {
            place.take();
        }
        self.used = came;
        Ok(came)
    }

    /// Makes `count` places ready, each with `room` bytes at least.
    fn prepare(&mut self, count: usize, room: usize) -> &mut [Place] {
        self.used = 0;
        for place in self.all.iter_mut().take(count) {
            let fits = place.block.capacity() >= room && !place.is_charged;
            if !fits || !place.block.reclaim() {
                place.block = ReceiveBlock::new(room);
                place.is_charged = false;
            }
        }
        while self.all.len() < count {
            self.all.push(Place::new(room));
        }
        &mut self.all[..count]
    }
}

impl Place {
    fn new(room: usize) -> Self {
        Self {
            slot: Slot::new(),
            block: ReceiveBlock::new(room),
            peer: Address::Unnamed,
            named: Vec::new(),
            ancillary: Ancillary::default(),
            is_truncated: false,
            is_charged: false,
        }
    }

    /// How long each of its datagrams is, but the last; 0 only where the one that it has is empty.
    #[inline]
    pub(crate) fn stride(&self) -> usize {
        let len = self.block.bytes().len();
        self.ancillary.stride.map_or(len, |it| usize::from(it.get()).min(len))
    }

    /// How many datagrams it has.
    #[inline]
    pub(crate) fn count(&self) -> usize {
        self.block.bytes().len().div_ceil(self.stride().max(1)).max(1)
    }

    fn take(&mut self) {
        self.block.commit(self.slot.len());
        self.is_truncated = self.slot.is_truncated();
        self.ancillary = self.slot.ancillary();
        let name = self.slot.name();
        // An allocation for the path of a Unix peer is worth a comparison.
        if self.peer.is_unix() && name == self.named && !name.is_empty() {
            return;
        }
        self.peer = datagram::address_of(name);
        self.named.clear();
        if self.peer.is_unix() {
            self.named.extend_from_slice(name);
        }
    }
}

/// What a receive brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Brought {
    /// How many places it filled; each has one datagram at least.
    pub(crate) places: usize,
    /// Nothing was left behind it.
    pub(crate) drained: bool,
}
