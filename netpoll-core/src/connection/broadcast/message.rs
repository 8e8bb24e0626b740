//! One message of a broadcast, and what has become of it.

use std::sync::Arc;

use bytes::Bytes;

use crate::base::blocking::Forbidden;
use crate::base::panic::guard;
use crate::base::sync::{AtomicU64, AtomicUsize, Mutex, Ordering, lock};

/// What became of one message, for
/// [`Group::broadcast_with`](crate::broadcast::Group::broadcast_with). A member that was closing or
/// had left is in no count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Broadcast {
    /// Members that it was accepted for, by their outputs.
    pub sent: usize,
    /// Members that were above their high-water mark, and were not sent it.
    pub skipped: usize,
    /// Members of those that were dropped for it.
    pub dropped: usize,
}

/// What a group has sent in all.
#[derive(Debug, Default)]
pub(super) struct Totals {
    pub(super) broadcasts: AtomicU64,
    pub(super) sent: AtomicU64,
    pub(super) skipped: AtomicU64,
    pub(super) dropped: AtomicU64,
}

type Receipt = Box<dyn FnOnce(Broadcast) + Send>;

/// The log and the passes share it. The last of them to drop it calls the receipt.
pub(super) struct Message {
    pub(super) bytes: Bytes,
    /// The id of a connection that is not sent it.
    pub(super) except: Option<u64>,
    sent: AtomicUsize,
    skipped: AtomicUsize,
    dropped: AtomicUsize,
    totals: Arc<Totals>,
    receipt: Mutex<Option<Receipt>>,
}

impl Message {
    pub(super) fn new(bytes: Bytes, totals: &Arc<Totals>) -> Self {
        let count = || AtomicUsize::new(0);
        let (sent, skipped, dropped) = (count(), count(), count());
        let (totals, receipt) = (totals.clone(), Mutex::new(None));
        Self { bytes, except: None, sent, skipped, dropped, totals, receipt }
    }

    pub(super) fn without(mut self, id: u64) -> Self {
        self.except = Some(id);
        self
    }

    pub(super) fn with_receipt(self, receipt: Receipt) -> Self {
        *lock(&self.receipt) = Some(receipt);
        self
    }

    /// How much it counts in the log.
    pub(super) fn weight(&self) -> usize {
        self.bytes.len().saturating_add(size_of::<Self>())
    }

    pub(super) fn count_sent(&self, members: usize) {
        self.sent.fetch_add(members, Ordering::Relaxed);
        self.totals.sent.fetch_add(members as u64, Ordering::Relaxed);
    }

    pub(super) fn count_skipped(&self) {
        self.skipped.fetch_add(1, Ordering::Relaxed);
        self.totals.skipped.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn count_dropped(&self) {
        self.dropped.fetch_add(1, Ordering::Relaxed);
        self.totals.dropped.fetch_add(1, Ordering::Relaxed);
    }

    /// Drops it without a call of the receipt: it was refused.
    pub(super) fn forget(self) {
        let receipt = lock(&self.receipt).take();
        drop(receipt);
    }
}

impl Drop for Message {
    fn drop(&mut self) {
        let receipt = lock(&self.receipt).take();
        let bytes = std::mem::take(&mut self.bytes);
        let read = |count: &AtomicUsize| count.load(Ordering::Relaxed);
        let (sent, skipped, dropped) = (read(&self.sent), read(&self.skipped), read(&self.dropped));
        // Both are the user's, and this may be the thread of a loop.
        let _forbidden = Forbidden::here();
        guard("the release of a broadcast message", || drop(bytes)).ok();
        if let Some(receipt) = receipt {
            let told = Broadcast { sent, skipped, dropped };
            guard("the receipt of a broadcast", || receipt(told)).ok();
        }
    }
}
