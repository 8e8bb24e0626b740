//! What a output holds while the socket is full, and what leaves it.

use netpoll_buffer::LinkBuffer;

use super::receipt::{self, Receipts, Settled};
use crate::base::memory::{Memory, Tally};
use crate::base::panic::guard;

/// Messages of this many bytes and fewer are copied behind what is queued already: each in a block
/// of its own would hold 4 KiB, and a peer that doesn't read could make a queue of tiny answers
/// hold thousands of times what the water marks count.
pub(super) const COALESCED: usize = 1 << 10;

/// What a output has accepted and the socket has not taken. It is there while there are bytes in
/// it.
#[derive(Debug)]
pub(super) struct Backlog {
    pub(super) bytes: LinkBuffer,
    /// Who wants to know what becomes of a message.
    pub(super) receipts: Receipts,
    /// Counts the bytes, where there is a budget.
    tally: Option<Tally>,
}

impl Backlog {
    pub(super) fn new(memory: &Memory) -> Self {
        let (bytes, receipts) = (LinkBuffer::new(), Receipts::default());
        Self { bytes, receipts, tally: memory.open_tally() }
    }

    pub(super) fn append(&mut self, bytes: &mut LinkBuffer, memory: &Memory, spent: &mut Spent) {
        if let Some(tally) = &self.tally {
            if memory.is_short() {
                bytes.compact();
            }
            tally.add(bytes);
        }
        if bytes.len() <= COALESCED && !self.bytes.is_empty() {
            bytes.chunks().for_each(|chunk| self.bytes.write_bytes(chunk));
            spent.take_all(bytes);
        } else {
            self.bytes.append(std::mem::take(bytes));
        }
        self.bytes.flush();
        self.count();
    }

    pub(super) fn count(&mut self) {
        if let Some(tally) = &mut self.tally {
            tally.update(&self.bytes);
        }
    }

    /// Memory that it holds, as far as it is counted and not another's already.
    pub(super) fn held(&self) -> usize {
        self.tally.as_ref().map_or(0, Tally::held)
    }
}

/// Blocks that were sent or given up, and receipts that are due, on their way out of the lock: the
/// memory and the callbacks are the user's, and may do anything, call this connection's handle or
/// panic.
///
/// It is declared before the guard of the lock, so that it is dropped after it.
#[derive(Default)]
pub(super) struct Spent {
    blocks: LinkBuffer,
    pub(super) settled: Vec<Settled>,
}

impl Spent {
    #[inline]
    pub(super) fn take(&mut self, from: &mut LinkBuffer, n: usize) {
        if n == from.len() {
            self.take_all(from);
        } else if let Ok(sent) = from.slice(n) {
            self.blocks.append(sent);
            self.blocks.flush();
        }
    }

    #[inline]
    pub(super) fn take_all(&mut self, from: &mut LinkBuffer) {
        if self.blocks.is_empty() {
            // Cheaper than to append, and mostly there is nothing yet.
            std::mem::swap(&mut self.blocks, from);
        } else {
            self.blocks.append(std::mem::take(from));
            self.blocks.flush();
        }
    }
}

impl Drop for Spent {
    #[inline]
    fn drop(&mut self) {
        if !self.blocks.is_empty() {
            guard("the release of sent memory", || self.blocks.clear()).ok();
        }
        if !self.settled.is_empty() {
            receipt::tell(std::mem::take(&mut self.settled));
        }
    }
}
