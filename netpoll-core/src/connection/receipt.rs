//! Receipts: they report whether a message that another thread sent was sent to its end.
//!
//! ```text
//!   bytes of the stream   0 ─────── sent ──────────── accepted
//!                              taken by    queued
//!                            the socket
//!   receipts                          [start, end) [start, end) …   in order of the queue
//! ```
//! A receipt is due when `sent` reaches its end, or when nothing more will be sent. It leaves the
//! queue at that moment, under the output's lock, so it is called exactly once.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::{fmt, io};

use crate::base::blocking::Forbidden;
use crate::base::error::Error;
use crate::base::panic::guard;

/// Whether a message was sent: [`Handle::send_with`](crate::Handle::send_with) reports it once.
pub type Delivery = Result<(), Undelivered>;

/// Why a message was not sent, or not to its end.
#[derive(Debug)]
#[non_exhaustive]
pub struct Undelivered {
    /// How many of its first bytes the socket has taken. Whether the peer got them is not known.
    pub written: usize,
    /// Why no more were taken: [`Error::Closed`], or the socket's error.
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

/// The user's callback for one message.
pub(crate) type Receipt = Box<dyn FnOnce(Delivery) + Send>;

/// The receipts of the queued messages, in the order of the queue.
#[derive(Default)]
pub(crate) struct Receipts(VecDeque<Pending>);

struct Pending {
    start: u64,
    end: u64,
    receipt: Receipt,
}

thread_local! {
    /// Receipts that are due on this thread while one runs there.
    static NEXT: RefCell<Option<VecDeque<Settled>>> = const { RefCell::new(None) };
}

/// A receipt that is due. It is called without the output's lock.
pub(crate) struct Settled {
    receipt: Receipt,
    delivery: Delivery,
}

impl Receipts {
    /// Adds a receipt for the `len` bytes from `start`, behind all others.
    pub(crate) fn push(&mut self, start: u64, len: usize, receipt: Receipt) {
        let pending = Pending { start, end: start + len as u64, receipt };
        self.0.push_back(pending);
    }

    /// Adds receipts behind all others. Their places counted from 0, which is `start` here.
    pub(crate) fn append(&mut self, others: Self, start: u64) {
        for pending in others.0 {
            let (from, to) = (start + pending.start, start + pending.end);
            self.0.push_back(Pending { start: from, end: to, receipt: pending.receipt });
        }
    }

    /// Settles receipts after the socket has taken the first `sent` bytes of the stream.
    pub(crate) fn settle_to(&mut self, sent: u64, settled: &mut Vec<Settled>) {
        while self.0.front().is_some_and(|pending| pending.end <= sent) {
            let receipts = self.0.pop_front().map(|pending| pending.receipt);
            settled.extend(receipts.map(|receipt| Settled { receipt, delivery: Ok(()) }));
        }
    }

    /// Settles all receipts: the socket will take no more than the first `sent` bytes, because of
    /// this errno or of a close.
    pub(crate) fn settle_all(&mut self, sent: u64, errno: Option<i32>, settled: &mut Vec<Settled>) {
        self.settle_to(sent, settled);
        for Pending { start, end, receipt } in self.0.drain(..) {
            let written = sent.saturating_sub(start) as usize;
            settled.push(Settled::new(receipt, written, (end - start) as usize, errno));
        }
    }
}

impl Settled {
    /// Settles a message of `len` bytes of which `written` were taken. The errno says why not more;
    /// `None` is a close.
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

/// Calls the receipts in order; a panic in one is logged and goes no further. A receipt may send
/// and so make others due. They are called after it, not inside it: a chain of nested calls would
/// use up the stack.
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
    // This may be a reactor's thread, and that reactor may have to end the receipt's wait.
    let _forbidden = Forbidden::here();
    // A thread that ends has lost its list: then all are in `due`, and nested ones run inside.
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
