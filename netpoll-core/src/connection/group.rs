//! The connections of one event loop, or of one dialer: what they have in common, and how many
//! live.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::schedule::Dispatcher;
use crate::base::error::Result;
use crate::base::limits::Limits;
use crate::base::memory::{Memory, MemoryStats};
use crate::base::sync::{AtomicBool, AtomicU64, Condvar, Mutex, Ordering, lock, wait_until};
use crate::connection::watchdog::Watchdog;

/// How many times the high-water mark one callback may queue before its flushes wait.
const STREAMED: usize = 4;

/// See the module. Connections hold it, so it lives as long as the last of them.
pub struct Group {
    limits: Limits,
    pub(crate) memory: Memory,
    dispatcher: Dispatcher,
    may_wait: bool,
    is_dialled: bool,
    reads_when_congested: bool,
    live: Mutex<Live>,
    empty: Condvar,
    refused: AtomicU64,
    draining: AtomicBool,
    watchdog: Watchdog,
}

#[derive(Default)]
struct Live {
    connections: usize,
    /// Threads in `wait_empty`: to wake nobody is a system call all the same.
    waiting: usize,
}

impl Group {
    /// A group whose callbacks run as `dispatcher` says.
    ///
    /// # Errors
    /// [`Error::Config`](crate::Error::Config) where an option can't be used.
    pub fn served(limits: Limits, dispatcher: Dispatcher) -> Result<Arc<Self>> {
        let may_wait = dispatcher.may_wait();
        Ok(Arc::new(Self::new(limits, dispatcher, may_wait)?))
    }

    /// As [`served`](Self::served), for connections that ask and whose peers answer: they are read
    /// even while their peer takes no more, since it may be waiting for its answers to be taken.
    /// What is read must be bounded by what was asked.
    ///
    /// # Errors
    /// As there.
    pub fn asking(limits: Limits, dispatcher: Dispatcher) -> Result<Arc<Self>> {
        let may_wait = dispatcher.may_wait();
        let group = Self::new(limits, dispatcher, may_wait)?;
        Ok(Arc::new(Self { reads_when_congested: true, ..group }))
    }

    /// A group of connections that callers drive on their own threads.
    ///
    /// # Errors
    /// [`Error::Config`](crate::Error::Config) where an option can't be used.
    pub fn dialled(limits: Limits) -> Result<Arc<Self>> {
        // What is left to do when the caller has dropped one never waits: the reactor does it.
        let group = Self::new(limits, Dispatcher::inline(), true)?;
        Ok(Arc::new(Self { is_dialled: true, ..group }))
    }

    fn new(limits: Limits, dispatcher: Dispatcher, may_wait: bool) -> Result<Self> {
        limits.validate()?;
        Ok(Self {
            memory: Memory::new(&limits),
            limits,
            dispatcher,
            may_wait,
            is_dialled: false,
            reads_when_congested: false,
            live: Mutex::new(Live::default()),
            empty: Condvar::new(),
            refused: AtomicU64::new(0),
            draining: AtomicBool::new(false),
            watchdog: Watchdog::default(),
        })
    }

    /// The limits of its connections.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// How many of its connections are not closed yet.
    pub fn live(&self) -> usize {
        lock(&self.live).connections
    }

    /// What its connections hold of memory.
    pub fn memory(&self) -> MemoryStats {
        self.memory.stats()
    }

    /// How many connections were turned away: accepted, and closed before their session was made.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Says that a shutdown has begun, to whoever asks; the connections are told by
    /// [`Remote::drain`](crate::Remote::drain).
    pub fn begin_shutdown(&self) {
        self.draining.store(true, Ordering::Release);
    }

    pub(crate) fn is_shutting_down(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    /// Has callbacks that take longer than `limit` counted and, now and then, logged.
    pub fn watch_callbacks(&self, limit: Option<Duration>) {
        self.watchdog.set(limit);
    }

    pub(crate) fn watchdog(&self) -> &Watchdog {
        &self.watchdog
    }

    /// Counts one that was turned away.
    pub fn count_refusal(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    /// Waits until none of its connections lives, or `deadline`; says how many are left.
    pub fn wait_empty(&self, deadline: Instant) -> usize {
        let mut live = lock(&self.live);
        let mut late = false;
        while live.connections > 0 && !late {
            live.waiting += 1;
            (live, late) = wait_until(&self.empty, live, Some(deadline));
            live.waiting -= 1;
        }
        live.connections
    }

    /// Where its callbacks run.
    pub fn dispatcher(&self) -> &Dispatcher {
        &self.dispatcher
    }

    /// Whether its connections' owners may wait for the network on their threads.
    pub(crate) fn may_wait(&self) -> bool {
        self.may_wait
    }

    /// How many queued bytes make a flush wait. The caller of a dialled connection has nothing else
    /// that stops it; a callback is not called while the queue stands above its high-water mark, so
    /// it waits only if it alone adds several times as much.
    pub(crate) fn waits_above(&self) -> usize {
        let high = self.limits.output.high;
        if self.is_dialled { high } else { high.saturating_mul(STREAMED) }
    }

    /// Whether callers drive its connections, not callbacks.
    pub(crate) fn is_dialled(&self) -> bool {
        self.is_dialled
    }

    /// Whether its connections are read while their output is above its high-water mark.
    pub(crate) fn reads_when_congested(&self) -> bool {
        self.reads_when_congested
    }

    pub(crate) fn enter(&self) {
        lock(&self.live).connections += 1;
    }

    pub(crate) fn leave(&self) {
        let mut live = lock(&self.live);
        live.connections -= 1;
        if live.connections == 0 && live.waiting > 0 {
            self.empty.notify_all();
        }
    }
}

impl fmt::Debug for Group {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Group")
            .field("limits", &self.limits)
            .field("dispatcher", &self.dispatcher)
            .field("live", &self.live())
            .finish_non_exhaustive()
    }
}
