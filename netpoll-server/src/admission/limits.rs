//! The limits of one event loop at work: its counts, and the acceptors that wait for room.

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Instant;

use netpoll_core::{Address, ListenerInfo, Remote, Room, clock};

use super::policy::{AcceptLimit, AdmissionOptions, AtLimit, Verdict};
use super::rate::Bucket;
use crate::sync::lock;

/// What an event loop counts to hold its limits. Connections keep it alive, through the count of
/// their listener.
pub(crate) struct Admission {
    options: AdmissionOptions,
    pub(super) open: OpenCount,
    pub(super) sources: Mutex<HashMap<IpAddr, usize>>,
    bucket: Mutex<Bucket>,
    /// An acceptor had no room, and must be woken when there is some.
    waiting: AtomicBool,
    acceptors: Mutex<Vec<Weak<Remote>>>,
    /// How many places have come free again; so many descriptors have, too.
    returned: AtomicU64,
    /// How many connections `on_accept` has refused.
    unwanted: AtomicU64,
}

/// How many connections are open, or about to be, and how many may be.
#[derive(Debug)]
pub(super) struct OpenCount {
    open: AtomicUsize,
    limit: Option<usize>,
}

impl Admission {
    pub(crate) fn new(options: AdmissionOptions) -> Arc<Self> {
        let burst = options.rate.map_or(0, |(_, burst)| burst);
        Arc::new(Self {
            open: OpenCount::new(options.connections),
            options,
            sources: Mutex::default(),
            bucket: Mutex::new(Bucket::full(burst, clock::now())),
            waiting: AtomicBool::new(false),
            acceptors: Mutex::default(),
            returned: AtomicU64::new(0),
            unwanted: AtomicU64::new(0),
        })
    }

    pub(crate) fn at_limit(&self) -> &AtLimit {
        &self.options.at_limit
    }

    /// What becomes of a connection by `on_accept`, before it is counted anywhere.
    pub(crate) fn judge(&self, peer: &Address, listener: &ListenerInfo) -> Verdict {
        let verdict = self.options.on_accept.judge(peer, listener);
        if verdict != Verdict::Admit {
            self.unwanted.fetch_add(1, Ordering::Relaxed);
        }
        verdict
    }

    /// How many connections `on_accept` has refused.
    pub(crate) fn unwanted(&self) -> u64 {
        self.unwanted.load(Ordering::Relaxed)
    }

    /// From here on this loop is woken when there is room again.
    pub(crate) fn add_acceptor(&self, remote: &Arc<Remote>) {
        let (mut acceptors, remote) = (lock(&self.acceptors), Arc::downgrade(remote));
        acceptors.retain(|it| it.strong_count() > 0 && !it.ptr_eq(&remote));
        acceptors.push(remote);
    }

    /// How many places have come free again so far.
    pub(crate) fn returned(&self) -> u64 {
        self.returned.load(Ordering::SeqCst)
    }

    /// Marks that an acceptor waits for a place to come free.
    pub(crate) fn mark_waiting(&self) {
        self.waiting.store(true, Ordering::SeqCst);
    }

    /// Makes all acceptors look again whether there is room.
    pub(crate) fn wake(&self) {
        lock(&self.acceptors).iter().filter_map(Weak::upgrade).for_each(|it| {
            it.tell_of_accept_room();
        });
    }

    /// How many sockets may be taken out of the kernel's queue now for the listener that `of`
    /// counts.
    pub(super) fn room(&self, of: &OpenCount, now: impl FnOnce() -> Instant) -> Room {
        if !matches!(self.options.at_limit, AtLimit::Queue) {
            return Room::ANY;
        }
        let left = self.left(of);
        let left = if left == 0 {
            // The mark comes before the last look: a place that comes free after that look finds
            // the mark, and wakes this acceptor.
            self.mark_waiting();
            self.left(of)
        } else {
            left
        };
        if left == 0 {
            return Room { count: 0, again: None };
        }
        match self.options.rate {
            None => Room { count: left, again: None },
            Some(rate) => {
                let (mut bucket, now) = (lock(&self.bucket), now());
                let tokens = bucket.fill(rate, now);
                let again = (tokens == 0).then(|| now + bucket.next(rate));
                Room { count: tokens.min(left), again }
            }
        }
    }

    /// Counts one more connection, of the event loop and of the listener that `of` counts.
    pub(super) fn count_in(&self, of: &OpenCount) -> Result<(), AcceptLimit> {
        if !self.open.add() {
            return Err(AcceptLimit::Connections);
        }
        if !of.add() {
            self.open.subtract();
            // Another acceptor may have seen no room just because this one was counted.
            self.wake_waiting();
            return Err(AcceptLimit::Listener);
        }
        Ok(())
    }

    /// Counts one more from the source of this address; returns the source that was counted.
    pub(super) fn count_source(
        &self,
        address: Option<IpAddr>,
    ) -> Result<Option<IpAddr>, AcceptLimit> {
        let Some(limit) = self.options.per_source else { return Ok(None) };
        let Some(source) = self.options.source(address) else { return Ok(None) };
        let mut sources = lock(&self.sources);
        let open = sources.entry(source).or_insert(0);
        if *open >= limit {
            return Err(AcceptLimit::Source);
        }
        *open += 1;
        Ok(Some(source))
    }

    /// Takes a token, where the rate is limited.
    pub(super) fn take_token(&self, now: impl FnOnce() -> Instant) -> Result<(), AcceptLimit> {
        match self.options.rate {
            Some(rate) if !lock(&self.bucket).take(rate, now()) => Err(AcceptLimit::Rate),
            _ => Ok(()),
        }
    }

    /// Counts one less: undoes [`count_in`](Self::count_in), and
    /// [`count_source`](Self::count_source) if `source` was counted.
    pub(super) fn count_out(&self, of: &OpenCount, source: Option<IpAddr>) {
        if let Some(source) = source {
            let mut sources = lock(&self.sources);
            if let Some(open) = sources.get_mut(&source) {
                *open -= 1;
                if *open == 0 {
                    sources.remove(&source);
                }
            }
        }
        of.subtract();
        self.open.subtract();
        self.returned.fetch_add(1, Ordering::SeqCst);
        self.wake_waiting();
    }

    /// The source by which an open connection of this peer is counted, if sources are.
    pub(super) fn source(&self, address: Option<IpAddr>) -> Option<IpAddr> {
        self.options.source(address)
    }

    fn left(&self, of: &OpenCount) -> usize {
        self.open.left().min(of.left())
    }

    /// Wakes the acceptors if one of them had no room.
    fn wake_waiting(&self) {
        if self.waiting.swap(false, Ordering::SeqCst) {
            self.wake();
        }
    }
}

impl OpenCount {
    pub(super) fn new(limit: Option<usize>) -> Self {
        Self { open: AtomicUsize::new(0), limit }
    }

    /// How many are open.
    #[cfg(test)]
    pub(super) fn open(&self) -> usize {
        self.open.load(Ordering::SeqCst)
    }

    fn left(&self) -> usize {
        let open = || self.open.load(Ordering::SeqCst);
        self.limit.map_or(usize::MAX, |it| it.saturating_sub(open()))
    }

    /// Counts one more, unless that would be above the limit.
    fn add(&self) -> bool {
        let limit = self.limit.unwrap_or(usize::MAX);
        let more = |open: usize| (open < limit).then_some(open + 1);
        self.open.fetch_update(Ordering::SeqCst, Ordering::SeqCst, more).is_ok()
    }

    fn subtract(&self) {
        self.open.fetch_sub(1, Ordering::SeqCst);
    }
}

impl fmt::Debug for Admission {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Admission")
            .field("options", &self.options)
            .field("open", &self.open)
            .finish_non_exhaustive()
    }
}
