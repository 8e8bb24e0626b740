//! Spare threads: who takes a reactor's core over when its thread is busy.
//!
//! They park on a stack and are reused newest first, so that the caches of the last are warm and
//! the first grow old and leave. Whoever wants one *reserves* it before it takes a core away: a
//! core must have a thread at once, or its reactor stands still.
//!
//! ```text
//!                reserve               go(work)
//!     parked ─────────────► reserved ───────────► at work ──► parked again, or gone
//!       │ ▲      not used │  ▲
//!       │ └───────────────┘  └── started, where none was parked
//!       └── gone, after a while without work
//! ```

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle, ThreadId};
use std::time::{Duration, Instant};

use crate::base::panic::join;
use crate::base::sync::{AtomicUsize, Condvar, Mutex, Ordering, lock, wait_until};
use crate::sys::TimerSlack;
use crate::threads::berths::{Berth, Berths, Order};
use crate::threads::starter::Starter;

/// How long a spare without work stays.
const IDLE: Duration = Duration::from_secs(10);

/// What a thread of these does.
pub(crate) type Work = Box<dyn FnOnce() -> Next + Send>;

/// What it does when that is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    Park,
    Leave,
}

/// See the module.
pub(crate) struct Spares {
    berths: Berths<Work>,
    roster: Mutex<Roster>,
    changed: Condvar,
    /// As in the roster, to be read without its lock.
    threads: AtomicUsize,
    peak: AtomicUsize,
    starter: Starter,
    /// For all of them, and for whatever threads callbacks start: the monitor's, which starts some
    /// of them, would have each of a thousand sleeping callbacks woken by an interrupt of its own.
    slack: TimerSlack,
}

/// A thread that waits for one order.
#[must_use = "it waits for its order"]
pub(crate) struct Spare<'a> {
    berths: &'a Berths<Work>,
    berth: Option<Arc<Berth<Work>>>,
}

impl Spares {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            berths: Berths::new(),
            roster: Mutex::new(Roster::default()),
            changed: Condvar::new(),
            threads: AtomicUsize::new(0),
            peak: AtomicUsize::new(0),
            starter: Starter::new("a spare thread, so callbacks that wait may fail"),
            slack: TimerSlack::here(),
        })
    }

    /// The thread that parked last, or a new one. `None` where the system has no more threads, and
    /// after `stop`.
    pub(crate) fn reserve(self: &Arc<Self>) -> Option<Spare<'_>> {
        let berth = self.berths.reserve().or_else(|| {
            if self.starter.is_refused() {
                return None;
            }
            let berth = Arc::new(Berth::new());
            let name = |number| format!("netpoll-spare-{number}");
            self.add(name, berth.clone(), None).ok().map(|()| berth)
        });
        berth.map(|berth| Spare { berths: &self.berths, berth: Some(berth) })
    }

    /// Starts a thread at this work.
    ///
    /// # Errors
    /// The system's, where it has no more threads.
    pub(crate) fn start(self: &Arc<Self>, name: String, work: Work) -> io::Result<()> {
        self.add(|_| name, Arc::new(Berth::new()), Some(work))
    }

    /// Sees to it that a thread is parked, so that the next hand-off need not start one.
    pub(crate) fn keep_one_ready(self: &Arc<Self>) {
        if self.berths.parked() == 0 {
            drop(self.reserve());
        }
    }

    /// Ends the threads: the parked at once, those at work with it, for which it waits until
    /// `deadline`. Returns how many are left. A thread of these that calls it does not wait for
    /// itself.
    pub(crate) fn stop(&self, deadline: Option<Instant>) -> usize {
        self.berths.close();
        let mut roster = lock(&self.roster);
        roster.closed = true;
        let own = usize::from(roster.has_this_thread());
        let mut late = false;
        while roster.present.len() > own && !late {
            (roster, late) = wait_until(&self.changed, roster, deadline);
        }
        let left = roster.present.len() - own;
        let gone = std::mem::take(&mut roster.gone);
        drop(roster);
        for thread in gone {
            if thread.thread().id() != thread::current().id() {
                join(thread);
            }
        }
        left
    }

    /// Threads there are now, at work and parked.
    pub(crate) fn threads(&self) -> usize {
        self.threads.load(Ordering::Relaxed)
    }

    /// The most threads that there were.
    pub(crate) fn peak(&self) -> usize {
        self.peak.load(Ordering::Relaxed)
    }

    /// Whether the system has refused a thread just now, and none is parked.
    pub(crate) fn is_refused(&self) -> bool {
        self.starter.is_refused() && self.parked() == 0
    }

    /// From now on the system refuses threads, or does so no more.
    #[cfg(all(test, not(loom)))]
    pub(crate) fn deny(&self, denies: bool) {
        self.starter.denies.store(denies, Ordering::SeqCst);
    }

    /// Threads that wait for work.
    pub(crate) fn parked(&self) -> usize {
        self.berths.parked()
    }

    fn add(
        self: &Arc<Self>,
        name: impl FnOnce(u64) -> String,
        berth: Arc<Berth<Work>>,
        work: Option<Work>,
    ) -> io::Result<()> {
        let mut roster = lock(&self.roster);
        if roster.closed {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        roster.gone.retain(|thread| !thread.is_finished());
        roster.started += 1;
        let spares = self.clone();
        let body = move || spares.live(&berth, work);
        let outcome = self.starter.start(name(roster.started), body).map(|thread| {
            roster.present.insert(thread.thread().id(), thread);
            self.threads.store(roster.present.len(), Ordering::Relaxed);
            self.peak.fetch_max(roster.present.len(), Ordering::Relaxed);
        });
        drop(roster);
        self.starter.tell();
        outcome
    }

    /// A thread's life.
    fn live(&self, berth: &Arc<Berth<Work>>, mut work: Option<Work>) {
        let _gone = Leaving(self);
        self.slack.set();
        while let Some(now) = work.take().or_else(|| self.berths.wait(berth, Some(IDLE))) {
            if now() == Next::Leave || !self.berths.park(berth) {
                return;
            }
        }
    }
}

/// Takes a thread off the roster as its last act, even should it panic.
struct Leaving<'a>(&'a Spares);

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        let mut roster = lock(&self.0.roster);
        let own = roster.present.remove(&thread::current().id());
        roster.gone.extend(own);
        self.0.threads.store(roster.present.len(), Ordering::Relaxed);
        drop(roster);
        self.0.changed.notify_all();
    }
}

impl Spare<'_> {
    /// Gives it its order.
    pub(crate) fn go(mut self, work: Work) {
        if let Some(berth) = self.berth.take() {
            berth.give(Order::Go(work));
        }
    }
}

impl Drop for Spare<'_> {
    /// It was not needed after all.
    fn drop(&mut self) {
        if let Some(berth) = self.berth.take() {
            self.berths.give_back(&berth);
        }
    }
}

#[derive(Default)]
struct Roster {
    present: HashMap<ThreadId, JoinHandle<()>>,
    /// Threads that have no more to do than to end.
    gone: Vec<JoinHandle<()>>,
    started: u64,
    closed: bool,
}

impl Roster {
    fn has_this_thread(&self) -> bool {
        self.present.contains_key(&thread::current().id())
    }
}

impl fmt::Debug for Spares {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Spares")
            .field("threads", &self.threads())
            .field("parked", &self.parked())
            .finish_non_exhaustive()
    }
}

#[cfg(all(test, not(loom)))]
#[path = "spares_tests.rs"]
mod tests;
