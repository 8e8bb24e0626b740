//! The backlog of an output: what the socket has not taken, the messages that are deferred behind
//! bytes of the owner, and the blocks and receipts that leave it.

use netpoll_buffer::LinkBuffer;

use super::receipt::{self, Receipt, Receipts, Settled};
use crate::base::memory::{Memory, Tally};
use crate::base::panic::guard;
use crate::base::thread_number;

/// A message of at most this many bytes is copied behind the queued ones. In a block of its own it
/// would hold 4 KiB, so a peer that doesn't read could make a queue of tiny answers hold thousands
/// of times the bytes that the water marks count.
pub(super) const COALESCED: usize = 1 << 10;

/// The bytes that an output has accepted and that the socket has not taken. It exists only while
/// there are some.
#[derive(Debug)]
pub(super) struct Backlog {
    pub(super) bytes: LinkBuffer,
    /// The receipts of the queued messages.
    pub(super) receipts: Receipts,
    /// Counts the bytes, if there is a budget.
    tally: Option<Tally>,
    deferred: Option<Box<Deferred>>,
}

/// Accepted messages behind bytes that the owner has written and not flushed.
#[derive(Debug)]
struct Deferred {
    /// The number of the thread that wrote those bytes and sent the first of these messages.
    by: u16,
    /// The places of its receipts count from its first byte.
    messages: Backlog,
}

impl Backlog {
    pub(super) fn new(memory: &Memory) -> Self {
        let (bytes, receipts) = (LinkBuffer::new(), Receipts::default());
        Self { bytes, receipts, tally: memory.open_tally(), deferred: None }
    }

    /// The number of bytes, deferred ones as well.
    #[inline]
    pub(super) fn len(&self) -> usize {
        self.bytes.len() + self.deferred.as_ref().map_or(0, |it| it.messages.bytes.len())
    }

    /// Whether neither bytes nor messages are left.
    pub(super) fn is_done(&self) -> bool {
        self.bytes.is_empty() && self.deferred.is_none()
    }

    /// Whether messages are deferred.
    #[inline]
    pub(super) fn defers(&self) -> bool {
        self.deferred.is_some()
    }

    /// Whether messages are deferred behind bytes of this thread.
    pub(super) fn defers_here(&self) -> bool {
        self.deferred.as_ref().is_some_and(|it| it.by == thread_number::current())
    }

    /// Returns the deferred messages: none if this is the first time since a flush.
    pub(super) fn begin_to_defer(&mut self, memory: &Memory) -> &mut Self {
        let new = || Deferred { by: thread_number::current(), messages: Self::new(memory) };
        &mut self.deferred.get_or_insert_with(|| Box::new(new())).messages
    }

    /// Adds a message behind those that are deferred.
    pub(super) fn defer(
        &mut self,
        message: &mut LinkBuffer,
        receipt: &mut Option<Receipt>,
        memory: &Memory,
        spent: &mut Spent,
    ) {
        let messages = self.begin_to_defer(memory);
        if let Some(receipt) = receipt.take() {
            messages.receipts.push(messages.bytes.len() as u64, message.len(), receipt);
        }
        messages.append(message, memory, spent);
    }

    /// Queues the deferred messages behind the bytes, the first of which is the one after `sent`.
    pub(super) fn release(&mut self, sent: u64) {
        let Some(deferred) = self.deferred.take() else { return };
        let Deferred { mut messages, .. } = *deferred;
        let start = sent + self.bytes.len() as u64;
        self.receipts.append(std::mem::take(&mut messages.receipts), start);
        if let Some(tally) = &self.tally {
            tally.add(&mut messages.bytes);
        }
        self.bytes.append(std::mem::take(&mut messages.bytes));
        self.bytes.flush();
        self.count();
    }

    /// Moves the bytes into less memory, if copies of its own are enough for that.
    pub(super) fn compact(&mut self) {
        self.bytes.compact();
        if let Some(deferred) = &mut self.deferred {
            deferred.messages.bytes.compact();
        }
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
            tally.update(&mut self.bytes);
        }
    }

    /// The memory that it holds, without blocks that are counted elsewhere already.
    pub(super) fn held(&self) -> usize {
        let deferred = self.deferred.as_ref().map_or(0, |it| it.messages.held());
        self.tally.as_ref().map_or(0, Tally::held) + deferred
    }
}

/// Blocks that were sent or given up, and receipts that are due, until the lock is released. Their
/// drop and the receipts run the user's code, which may panic or call this connection's handle.
///
/// It is declared before the guard of the lock, so that it is dropped after the guard.
#[derive(Default)]
pub(super) struct Spent {
    blocks: LinkBuffer,
    /// Few messages have a receipt, so mostly there is no list, and none to be dropped.
    settled: Option<Vec<Settled>>,
}

impl Spent {
    /// Where receipts that are due go.
    pub(super) fn settled(&mut self) -> &mut Vec<Settled> {
        self.settled.get_or_insert_default()
    }

    #[expect(clippy::inline_always, reason = "each send")]
    #[inline(always)]
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
            // Cheaper than an append, and mostly there is nothing yet.
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
        if let Some(settled) = self.settled.take() {
            receipt::tell(settled);
        }
    }
}
