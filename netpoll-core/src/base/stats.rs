//! What loops, the threads behind them and workers count, and the statistics that users read.

use std::ops::Add;
use std::time::Duration;

use crate::base::sync::{AtomicU64, Ordering};

/// What one loop has done so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct LoopStats {
    /// Connections registered now.
    pub connections: u64,
    /// Turns: waits for events.
    pub turns: u64,
    /// Turns that ended before the loop had to sleep, since it spun; see
    /// [`Spin`](crate::Spin).
    pub spun: u64,
    /// Events that the waits returned.
    pub events: u64,
    /// Events for connections that were closed before the event was delivered; they were dropped.
    pub stale_events: u64,
    /// Connections that its listeners accepted.
    pub accepted: u64,
    /// Connections that were gone before they could be accepted.
    pub lost: u64,
    /// Times that accepting failed because descriptors or memory had run out, or the listener was
    /// dead.
    pub accept_failures: u64,
    /// Bytes that its connections received.
    pub received: u64,
    /// Bytes that they sent. What goes out between callbacks is counted with the next one, or at
    /// the close.
    pub sent: u64,
    /// Callbacks that ran.
    pub callbacks: u64,
    /// Callbacks that took longer than `slow_callback` allows.
    pub slow_callbacks: u64,
    /// Connections that wait for their turn on the loop, or for a worker.
    pub queued: u64,
    /// Callbacks that were sent to a worker because they were expected to block.
    pub to_workers: u64,
    /// Callbacks that ran on the loop's thread though they were a worker's, since the system
    /// refused even the first worker. Such a callback that has to wait fails with
    /// [`Error::NoThread`](crate::Error::NoThread) unless the loop can be handed over.
    pub without_worker: u64,
    /// Times that the reactor went on with another thread because a callback waited in a read, a
    /// flush or a dial of ours.
    pub handed_off_waiting: u64,
    /// The same, because a callback called [`block_in_place`](crate::block_in_place).
    pub handed_off_in_place: u64,
    /// The same, because the monitor found a callback asleep.
    pub handed_off_blocked: u64,
    /// The same, because the monitor found a callback computing for long.
    pub handed_off_computing: u64,
    /// The longest that one callback held the reactor up, as far as the monitor saw.
    pub longest_stall: Duration,
}

/// The threads behind the loops of one manager, which go on with a loop when its thread is inside a
/// callback that blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct HandOffStats {
    /// Threads now: those that turn loops, those inside callbacks that have lost their loop, and
    /// those parked.
    pub threads: usize,
    /// The most that there were.
    pub threads_peak: usize,
    /// Threads parked, ready to take over.
    pub parked: usize,
    /// Threads inside callbacks that have lost their loop.
    pub away: usize,
    /// Times that no thread was there to take a loop over. A callback that was about to wait in one
    /// of our calls then fails with [`Error::NoThread`](crate::Error::NoThread); for another the
    /// loop stands still.
    pub stalls: u64,
    /// Waits of callbacks that had lost their loop which were ended, as if they had timed out,
    /// because others had no thread.
    pub waits_ended: u64,
    /// How often the monitor has looked.
    pub monitor_looks: u64,
    /// Threads that turn loops; fewer than loops where one thread turns several.
    pub turning: usize,
    /// How often loops were given to other threads, so that fewer or more threads turn them.
    pub regrouped: u64,
}

/// The workers of one event loop: all of them under `Dispatch::Pool`, under `Dispatch::HandOff`
/// those for callbacks that are expected to block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct WorkerStats {
    /// Threads now.
    pub threads: usize,
    /// The threads of these that have no job.
    pub idle: usize,
    /// Connections that wait for a worker.
    pub queued: usize,
    /// Waits of callbacks that were ended, as if they had timed out, because others waited for a
    /// thread.
    pub waits_ended: u64,
}

/// The counters of one reactor. The thread that holds its core is the one writer, so an addition is
/// a load and a store; any thread reads them.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) turns: Counter,
    pub(crate) spun: Counter,
    pub(crate) events: Counter,
    pub(crate) stale: Counter,
    pub(crate) connections: Counter,
    pub(crate) queued: Counter,
    pub(crate) accepted: Counter,
    pub(crate) lost: Counter,
    pub(crate) accept_failures: Counter,
    pub(crate) to_workers: Counter,
    pub(crate) without_worker: Counter,
    pub(crate) waited: Counter,
    pub(crate) in_place: Counter,
    pub(crate) blocked: Counter,
    pub(crate) computed: Counter,
    pub(crate) longest_stall: Counter,
    received: Counter,
    sent: Counter,
    callbacks: Counter,
}

/// See [`Counters`].
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, n: usize) {
        self.0.store(self.read().wrapping_add(n as u64), Ordering::Relaxed);
    }

    pub(crate) fn set(&self, n: usize) {
        self.0.store(n as u64, Ordering::Relaxed);
    }

    pub(crate) fn read(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What a run of a connection did.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Work {
    pub(crate) received: u64,
    pub(crate) sent: u64,
    pub(crate) callbacks: u64,
}

impl Add for Work {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            received: self.received + other.received,
            sent: self.sent + other.sent,
            callbacks: self.callbacks + other.callbacks,
        }
    }
}

/// What the connections of one reactor did on threads that did not hold its core; what they did on
/// the thread that held it stands in its [`Counters`]. An addition is an atomic operation.
#[derive(Debug, Default)]
pub(crate) struct Traffic {
    received: AtomicU64,
    sent: AtomicU64,
    callbacks: AtomicU64,
    pub(crate) slow: AtomicU64,
}

impl Traffic {
    /// Adds what a run did; most runs do one or two of the three.
    pub(crate) fn add(&self, work: Work) {
        let Work { received, sent, callbacks } = work;
        let pairs = [(&self.received, received), (&self.sent, sent), (&self.callbacks, callbacks)];
        for (counter, n) in pairs {
            if n > 0 {
                counter.fetch_add(n, Ordering::Relaxed);
            }
        }
    }

    /// What runs did on other threads.
    pub(crate) fn work(&self) -> Work {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Work { received: of(&self.received), sent: of(&self.sent), callbacks: of(&self.callbacks) }
    }
}

/// Why a core changed threads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cause {
    /// The callback waited in one of our calls.
    Waited,
    /// It said that it would block.
    InPlace,
    /// It blocked elsewhere.
    Blocked,
    /// It computed for long.
    Computed,
}

impl Counters {
    /// Adds what runs did on the thread that holds the core.
    pub(crate) fn add(&self, work: Work) {
        self.received.add(work.received as usize);
        self.sent.add(work.sent as usize);
        self.callbacks.add(work.callbacks as usize);
    }

    /// What runs did on the threads that held the core.
    pub(crate) fn work(&self) -> Work {
        Work {
            received: self.received.read(),
            sent: self.sent.read(),
            callbacks: self.callbacks.read(),
        }
    }

    /// Take-overs because the monitor saw a callback take long.
    pub(crate) fn steals(&self) -> u64 {
        self.blocked.read().wrapping_add(self.computed.read())
    }

    pub(crate) fn hand_off(&self, cause: Cause, stalled: Duration) {
        let counter = match cause {
            Cause::Waited => &self.waited,
            Cause::InPlace => &self.in_place,
            Cause::Blocked => &self.blocked,
            Cause::Computed => &self.computed,
        };
        counter.add(1);
        let stalled = stalled.as_micros() as usize;
        if stalled as u64 > self.longest_stall.read() {
            self.longest_stall.set(stalled);
        }
    }

    pub(crate) fn snapshot(&self, traffic: &Traffic) -> LoopStats {
        let Work { received, sent, callbacks } = self.work() + traffic.work();
        LoopStats {
            received,
            sent,
            callbacks,
            slow_callbacks: traffic.slow.load(Ordering::Relaxed),
            queued: self.queued.read(),
            connections: self.connections.read(),
            turns: self.turns.read(),
            spun: self.spun.read(),
            events: self.events.read(),
            stale_events: self.stale.read(),
            accepted: self.accepted.read(),
            lost: self.lost.read(),
            accept_failures: self.accept_failures.read(),
            to_workers: self.to_workers.read(),
            without_worker: self.without_worker.read(),
            handed_off_waiting: self.waited.read(),
            handed_off_in_place: self.in_place.read(),
            handed_off_blocked: self.blocked.read(),
            handed_off_computing: self.computed.read(),
            longest_stall: Duration::from_micros(self.longest_stall.read()),
        }
    }
}
