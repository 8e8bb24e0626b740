//! What a datagram socket has done: one counter for each way that a datagram can take.

use std::ops::Add;

use crate::base::sync::{AtomicU64, Ordering};

/// What a datagram socket has done so far. A datagram that arrives is received, or dropped by the
/// kernel; one that is given to it is sent, refused, dropped, or still queued.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct DatagramStats {
    /// Datagrams received.
    pub received: u64,
    /// Bytes of their payloads.
    pub received_bytes: u64,
    /// Of the received ones, those that were longer than
    /// [`longest`](crate::DatagramLimits::longest) and cut.
    pub truncated: u64,
    /// Packets that the kernel dropped because the receive buffer was full (`SO_RXQ_OVFL`). Several
    /// datagrams that the kernel had joined are one packet. It is known from the next datagram on.
    pub dropped_by_kernel: u64,
    /// System calls that received something.
    pub receives: u64,
    /// Receives that failed: what ICMP said of datagrams that were sent, or memory.
    pub receive_errors: u64,
    /// Datagrams that the kernel has taken.
    pub sent: u64,
    /// Bytes of their payloads.
    pub sent_bytes: u64,
    /// Datagrams that the kernel refused: too long, without a route, by a firewall, to a Unix peer
    /// with a full queue, …
    pub refused: u64,
    /// Datagrams that were dropped because the queue was full, or when the socket closed.
    pub dropped: u64,
    /// Datagrams that wait now.
    pub queued: usize,
    /// Bytes of their payloads.
    pub queued_bytes: usize,
    /// Callbacks.
    pub callbacks: u64,
    /// Callbacks that returned an error.
    pub callback_errors: u64,
    /// Callbacks that panicked.
    pub panics: u64,
}

/// What several sockets have done.
impl Add for DatagramStats {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            received: self.received + other.received,
            received_bytes: self.received_bytes + other.received_bytes,
            truncated: self.truncated + other.truncated,
            dropped_by_kernel: self.dropped_by_kernel + other.dropped_by_kernel,
            receives: self.receives + other.receives,
            receive_errors: self.receive_errors + other.receive_errors,
            sent: self.sent + other.sent,
            sent_bytes: self.sent_bytes + other.sent_bytes,
            refused: self.refused + other.refused,
            dropped: self.dropped + other.dropped,
            queued: self.queued + other.queued,
            queued_bytes: self.queued_bytes + other.queued_bytes,
            callbacks: self.callbacks + other.callbacks,
            callback_errors: self.callback_errors + other.callback_errors,
            panics: self.panics + other.panics,
        }
    }
}

/// The counters of one socket. A batch adds to each once.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) received: Counter,
    pub(super) received_bytes: Counter,
    pub(super) truncated: Counter,
    pub(super) dropped_by_kernel: Counter,
    pub(super) receives: Counter,
    pub(super) receive_errors: Counter,
    pub(super) sent: Counter,
    pub(super) sent_bytes: Counter,
    pub(super) refused: Counter,
    pub(super) dropped: Counter,
    pub(super) callbacks: Counter,
    pub(super) callback_errors: Counter,
    pub(super) panics: Counter,
}

/// See [`Counters`].
#[derive(Debug, Default)]
pub(super) struct Counter(AtomicU64);

impl Counter {
    /// Adds from any thread.
    pub(super) fn add(&self, n: usize) {
        if n > 0 {
            self.0.fetch_add(n as u64, Ordering::Relaxed);
        }
    }

    /// Adds from the task's owner, which alone writes it.
    #[inline]
    pub(super) fn add_alone(&self, n: usize) {
        self.0.store(self.read().wrapping_add(n as u64), Ordering::Relaxed);
    }

    pub(super) fn read(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Counters {
    pub(super) fn snapshot(&self, queued: usize, queued_bytes: usize) -> DatagramStats {
        DatagramStats {
            received: self.received.read(),
            received_bytes: self.received_bytes.read(),
            truncated: self.truncated.read(),
            dropped_by_kernel: self.dropped_by_kernel.read(),
            receives: self.receives.read(),
            receive_errors: self.receive_errors.read(),
            sent: self.sent.read(),
            sent_bytes: self.sent_bytes.read(),
            refused: self.refused.read(),
            dropped: self.dropped.read(),
            queued,
            queued_bytes,
            callbacks: self.callbacks.read(),
            callback_errors: self.callback_errors.read(),
            panics: self.panics.read(),
        }
    }
}
