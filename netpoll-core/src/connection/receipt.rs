//! Receipts: what became of a message that another thread sent.
//!
//! ```text
//!   bytes of the stream   0 ─────── sent ──────────── accepted
//!                              taken by    queued
//!                            the socket
//!   receipts                          [start, end) [start, end) …   in order of the queue
//! ```
//! One is due when `sent` reaches its end, or when nothing more will be sent. It leaves the queue
//! at that moment, under the output's lock, which is why it is told exactly once.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::{fmt, io};

use crate::base::blocking::Forbidden;
use crate::base::error::Error;
use crate::base::panic::guard;

/// What became of a message: [`Handle::send_with`](crate::Handle::send_with) tells it once.
pub type Delivery = Result<(), Undelivered>;

/// A message that was not sent, or not to its end.
#[derive(Debug)]
#[non_exhaustive]
pub struct Undelivered {
    /// How many of its first bytes the socket has taken; whether the peer got them is not known.
    pub written: usize,
    /// Why no more: [`Error::Closed`], or the socket's error.
    pub error: Error,
}

impl fmt::Display for Undelivered {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "sent no more than {} bytes of the message: {}", self.written, self.error)
    }
}

impl std::error::Error for Undelivered {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.error)
    }
}

/// Whom to tell.
pub(crate) type Receipt = Box<dyn FnOnce(Delivery) + Send>;

/// Who waits to be told, in order of the queue.
#[derive(Default)]
pub(crate) struct Receipts(VecDeque<Pending>);

struct Pending {
    start: u64,
    end: u64,
    receipt: Receipt,
}

thread_local! {
    /// Receipts that are to be told on this thread when the one that is being told has returned.
    static NEXT: RefCell<Option<VecDeque<Settled>>> = const { RefCell::new(None) };
}

/// A receipt that is due, to be told outside of the lock.
pub(crate) struct Settled {
    receipt: Receipt,
    delivery: Delivery,
}

impl Receipts {
    /// For the next `len` bytes from `start`, behind all others.
    pub(crate) fn push(&mut self, start: u64, len: usize, receipt: Receipt) {
        let pending = Pending { start, end: start + len as u64, receipt };
        self.0.push_back(pending);
    }

    /// The socket has taken the first `sent` bytes of the stream.
    pub(crate) fn settle_to(&mut self, sent: u64, settled: &mut Vec<Settled>) {
        while self.0.front().is_some_and(|pending| pending.end <= sent) {
            let receipts = self.0.pop_front().map(|pending| pending.receipt);
            settled.extend(receipts.map(|receipt| Settled { receipt, delivery: Ok(()) }));
        }
    }

    /// It will take no more than the first `sent` bytes, for that errno or because of a close.
    pub(crate) fn settle_all(&mut self, sent: u64, errno: Option<i32>, settled: &mut Vec<Settled>) {
        self.settle_to(sent, settled);
        for Pending { start, end, receipt } in self.0.drain(..) {
            let written = sent.saturating_sub(start) as usize;
            settled.push(Settled::new(receipt, written, (end - start) as usize, errno));
        }
    }
}

impl Settled {
    /// What became of a message of `len` bytes of which `written` were taken; the errno says why it
    /// wasn't more, if it wasn't a close.
    pub(crate) fn new(receipt: Receipt, written: usize, len: usize, errno: Option<i32>) -> Self {
        let why =
            || errno.map_or(Error::Closed, |errno| io::Error::from_raw_os_error(errno).into());
        let delivery = if written == len && errno.is_none() {
            Ok(())
        } else {
            Err(Undelivered { written, error: why() })
        };
        Self { receipt, delivery }
    }
}

/// Tells them, in order; a panic in one is logged, and ends there. A receipt may send, and so make
/// others due: they are told after it, not within it, or a chain of them would use up the stack.
pub(crate) fn tell(settled: Vec<Settled>) {
    if settled.is_empty() {
        return;
    }
    let mut due = VecDeque::from(settled);
    let is_telling = NEXT.try_with(|next| {
        let mut next = next.borrow_mut();
        let is_telling = next.is_some();
        next.get_or_insert_default().append(&mut due);
        is_telling
    });
    if is_telling == Ok(true) {
        return;
    }
    // This may be a reactor's thread, and what a receipt would wait for that reactor's to do.
    let _forbidden = Forbidden::here();
    // A thread that ends has lost its list: all stand in `due`, and nested ones are told within.
    while let Some(Settled { receipt, delivery }) = due.pop_front().or_else(next_due) {
        guard("a receipt", || receipt(delivery)).ok();
    }
    let _ = NEXT.try_with(|next| next.take());
}

fn next_due() -> Option<Settled> {
    NEXT.try_with(|next| next.borrow_mut().as_mut()?.pop_front()).ok().flatten()
}

impl fmt::Debug for Receipts {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} receipts", self.0.len())
    }
}
