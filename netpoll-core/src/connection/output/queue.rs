//! The data under the output's lock: the backlog, the output's hold of the socket, and the error
//! that ended sending.

use std::num::NonZeroI32;
use std::sync::Arc;

use netpoll_buffer::LinkBuffer;

use crate::base::notify::Notify;
use crate::connection::backlog::{Backlog, Spent};
use crate::connection::socket::OutputHold;

/// The data that the output's lock guards.
#[derive(Debug)]
pub(super) struct Queue {
    /// What the socket has not taken; allocated only then, since it mostly takes all.
    pub(super) backlog: Option<Box<Backlog>>,
    /// `None` when the output has released the socket.
    pub(super) hold: Option<OutputHold>,
    /// The errno that ended sending.
    pub(super) failure: Option<NonZeroI32>,
    /// Woken when a dialled stream is connected or has failed.
    pub(super) notify: Option<Arc<Notify>>,
    /// How many threads wait, those of the owner and of handles: a wake is a system call even if
    /// none waits.
    pub(super) waiting: u16,
}

impl Queue {
    pub(super) fn errno(&self) -> Option<i32> {
        self.failure.map(NonZeroI32::get)
    }

    /// The number of bytes that are accepted and that the socket has not taken.
    #[inline]
    pub(super) fn pending(&self) -> usize {
        self.backlog.as_ref().map_or(0, |backlog| backlog.bytes.len())
    }

    /// Gives up what is queued, for a close or a detach: settles all receipts, and returns the
    /// unsent bytes.
    pub(super) fn give_up(&mut self, sent: u64, spent: &mut Spent) -> LinkBuffer {
        let Some(mut backlog) = self.backlog.take() else { return LinkBuffer::new() };
        backlog.receipts.settle_all(sent, None, spent.settled());
        backlog.bytes
    }
}
