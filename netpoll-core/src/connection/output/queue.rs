//! The data under the output's lock: the backlog, the output's hold of the socket, the error that
//! ended sending, and what few outputs have.

use std::io;
use std::num::NonZeroI32;
use std::sync::Arc;

use netpoll_buffer::LinkBuffer;

use super::sealing::Sealing;
use crate::base::error::Error;
use crate::base::notify::Notify;
use crate::connection::backlog::{Backlog, Spent};
use crate::connection::socket::OutputHold;

/// The data that the output's lock guards.
#[derive(Debug)]
pub(super) struct Queue {
    /// What the socket has not taken, and what is deferred; allocated only then, since the socket
    /// mostly takes all.
    pub(super) backlog: Option<Box<Backlog>>,
    /// `None` when the output has released the socket.
    pub(super) hold: Option<OutputHold>,
    /// The errno that ended sending.
    pub(super) failure: Option<NonZeroI32>,
    /// What few outputs have.
    pub(super) rare: Option<Box<Rare>>,
    /// How many threads wait, those of the owner and of handles: a wake is a system call even if
    /// none waits.
    pub(super) waiting: u16,
}

/// What few outputs have, in one block of memory.
#[derive(Debug, Default)]
pub(super) struct Rare {
    /// Woken when a dialled stream is connected or has failed.
    pub(super) notify: Option<Arc<Notify>>,
    /// The send half of a filter.
    pub(super) sealing: Option<Box<Sealing>>,
}

impl Queue {
    /// The send half of the filter, if there is one.
    pub(super) fn sealing(&mut self) -> Option<&mut Sealing> {
        self.rare.as_mut()?.sealing.as_deref_mut()
    }

    /// Takes what a dial waits with: it is woken once, when its stream is connected or has failed.
    pub(super) fn take_notify(&mut self) -> Option<Arc<Notify>> {
        let rare = self.rare.as_mut()?;
        let notify = rare.notify.take();
        if rare.sealing.is_none() {
            self.rare = None;
        }
        notify
    }

    /// Whether nothing is left to send: neither accepted bytes nor what a filter has made of them.
    #[inline]
    pub(super) fn is_drained(&self) -> bool {
        self.backlog.is_none() && self.rare.as_ref().is_none_or(|rare| rare.is_drained())
    }

    /// The send half of the filter, for the end of the connection.
    pub(super) fn take_sealing(&mut self) -> Option<Box<Sealing>> {
        self.rare.as_mut()?.sealing.take()
    }

    /// The error that ended sending.
    pub(super) fn error(&self) -> Option<io::Error> {
        let failure = self.failure?;
        let rare = self.rare.as_ref();
        match rare.and_then(|rare| rare.sealing.as_ref()?.error()) {
            Some(error) => Some(Error::Filter(error).into()),
            None => Some(io::Error::from_raw_os_error(failure.get())),
        }
    }

    pub(super) fn errno(&self) -> Option<i32> {
        self.failure.map(NonZeroI32::get)
    }

    /// The number of bytes that are accepted and that the socket has not taken.
    #[inline]
    pub(super) fn pending(&self) -> usize {
        self.backlog.as_ref().map_or(0, |backlog| backlog.len())
    }

    /// Whether messages are deferred behind bytes of the owner.
    #[inline]
    pub(super) fn defers(&self) -> bool {
        self.backlog.as_ref().is_some_and(|backlog| backlog.defers())
    }

    /// Gives up what is queued, for a close or a detach: settles all receipts, and returns the
    /// unsent bytes.
    pub(super) fn give_up(&mut self, sent: u64, spent: &mut Spent) -> LinkBuffer {
        if let Some(sealing) = self.sealing() {
            sealing.forget_plain();
        }
        let Some(mut backlog) = self.backlog.take() else { return LinkBuffer::new() };
        backlog.release(sent);
        backlog.receipts.settle_all(sent, None, spent.settled());
        backlog.bytes
    }
}

impl Rare {
    fn is_drained(&self) -> bool {
        self.sealing.as_ref().is_none_or(|sealing| sealing.is_drained())
    }

    /// The memory of what a filter has made for the socket.
    pub(super) fn held(&self) -> usize {
        self.sealing.as_ref().map_or(0, |sealing| sealing.held())
    }
}
