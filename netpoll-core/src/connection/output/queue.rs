//! What stands behind the output's lock: the backlog, who sends it, and in which phase the stream
//! is.

use std::num::NonZeroI32;
use std::sync::Arc;

use netpoll_buffer::LinkBuffer;

use crate::base::notify::Notify;
use crate::connection::backlog::{Backlog, Spent};
use crate::connection::socket::OutputHold;

/// What the output's lock guards.
#[derive(Debug)]
pub(super) struct Queue {
    /// What the socket has not taken; allocated when it doesn't take all, for it mostly does.
    pub(super) backlog: Option<Box<Backlog>>,
    /// Gone when the socket is to be closed.
    pub(super) hold: Option<OutputHold>,
    /// The errno that ended sending.
    pub(super) failure: Option<NonZeroI32>,
    /// Rung when a dialled stream is not on its way any more.
    pub(super) notify: Option<Arc<Notify>>,
    /// How many threads wait, the owner's and those of handles: to wake nobody is a system call all
    /// the same.
    pub(super) waiting: u16,
}

impl Queue {
    pub(super) fn errno(&self) -> Option<i32> {
        self.failure.map(NonZeroI32::get)
    }

    /// Bytes accepted and not yet taken by the socket.
    #[inline]
    pub(super) fn pending(&self) -> usize {
        self.backlog.as_ref().map_or(0, |backlog| backlog.bytes.len())
    }

    /// Nothing more will be sent than was, for a close or a detach: tells all who wait for a
    /// receipt, and returns what was queued.
    pub(super) fn give_up(&mut self, sent: u64, spent: &mut Spent) -> LinkBuffer {
        let Some(mut backlog) = self.backlog.take() else { return LinkBuffer::new() };
        backlog.receipts.settle_all(sent, None, &mut spent.settled);
        backlog.bytes
    }
}
