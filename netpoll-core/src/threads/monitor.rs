//! The monitor: one thread that sees which reactor has stood still for too long, and has another
//! thread take it over.
//!
//! It looks at the batons of all reactors of a manager. A baton that lies in the same epoch as at
//! an earlier look has spent all the time between in one callback. Only the system knows whether
//! that callback *blocks*:
//!
//! ```text
//!     the thread of the callback     is looked at again     and loses its core
//!     sleeps                         after a threshold      if it sleeps still; at once where
//!                                                           others have blocked just now
//!     runs, or waits for a           after ten              if it has computed for so long
//!     processor
//! ```
//! A thread that waits for a processor keeps its core, since its successor would wait just so. What
//! is known of one thread is judged in [`sighting`], and how the system is asked stands in
//! [`asleep`](super::asleep).
//!
//! # How often it looks
//!
//! A look costs about 15 µs: two changes of threads, and, where it takes a processor from a
//! reactor, what the caches lose by them. At `r` take-overs a second, a pause of `t` makes each
//! blocking callback be seen `t / 2` late on average, and its reactor stands still for that time.
//! The sum of both in each second, `15 µs / t + r · t / 2`, is least at `t = sqrt(2 · 15 µs / r)`.
//! That is the pause, between 50 µs and 10 ms, where `r` is what was taken over within the last
//! quarter of a second or so. After a sleep it begins with 50 µs and doubles from there (as Go's
//! `sysmon` does). Where all reactors wait for events it sleeps, and the first that runs a callback
//! wakes it.

mod cadence;
mod look;
mod sighting;

use std::fmt;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use super::pool::Starter;
use crate::base::clock;
use crate::base::panic::join;
use crate::base::sync::{
    AtomicBool, AtomicU64, Condvar, Mutex, MutexGuard, Ordering, lock, wait_until,
};
use crate::pure::baton::Baton;
use crate::sys::TimerSlack;
use cadence::{Cadence, LONGEST};
pub(crate) use look::{Activity, SpareThreads};
use look::{All, Watched};
pub(crate) use sighting::COMPUTING;
use sighting::Look;

/// Where take-overs come more often than this, in a second, a thread that sleeps is expected to
/// sleep for long.
const OFTEN: f64 = 1.0;

/// See the module.
pub(crate) struct Monitor<T> {
    state: Mutex<State<T>>,
    changed: Condvar,
    /// It sleeps until a reactor wakes it.
    asleep: AtomicBool,
    looks: AtomicU64,
    starter: Starter,
}

struct State<T> {
    /// Batons that are watched from the next look on.
    added: Vec<Watched<T>>,
    /// The least that was asked for.
    threshold: Duration,
    thread: Option<JoinHandle<()>>,
    stopping: bool,
}

impl<T: Send + 'static> Monitor<T> {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State {
                added: Vec::new(),
                threshold: Duration::MAX,
                thread: None,
                stopping: false,
            }),
            changed: Condvar::new(),
            asleep: AtomicBool::new(false),
            looks: AtomicU64::new(0),
            starter: Starter::new("the monitor, so all callbacks go to workers"),
        })
    }

    /// Watches a baton from now on, so that no callback keeps it for longer than `threshold`: then
    /// `threads` take it over. `false`: there is no thread to watch it.
    pub(crate) fn enroll(
        self: &Arc<Self>,
        threads: &Arc<impl SpareThreads<T>>,
        baton: &Arc<Baton<T>>,
        activity: &Arc<Activity>,
        threshold: Duration,
    ) -> bool {
        let mut state = lock(&self.state);
        if state.stopping || !self.has_thread(&mut state, threads) {
            drop(state);
            self.starter.tell();
            return false;
        }
        state.threshold = state.threshold.min(threshold);
        state.added.push(Watched::new(baton.clone(), activity.clone()));
        drop(state);
        self.wake();
        true
    }

    /// For a reactor that runs its first callback after a wait. Costs a load while the monitor is
    /// awake.
    pub(crate) fn wake(&self) {
        if self.asleep.load(Ordering::SeqCst) && self.asleep.swap(false, Ordering::SeqCst) {
            drop(lock(&self.state));
            self.changed.notify_all();
        }
    }

    /// How often it has looked.
    pub(crate) fn looks(&self) -> u64 {
        self.looks.load(Ordering::Relaxed)
    }

    /// Ends the thread and waits for it.
    pub(crate) fn stop(&self) {
        let thread = {
            let mut state = lock(&self.state);
            state.stopping = true;
            state.thread.take()
        };
        self.changed.notify_all();
        if let Some(thread) = thread {
            join(thread);
        }
    }

    /// Starts the thread if there is none; says whether there is one.
    fn has_thread(
        self: &Arc<Self>,
        state: &mut State<T>,
        threads: &Arc<impl SpareThreads<T>>,
    ) -> bool {
        if state.thread.is_none() && !self.starter.is_refused() {
            let (monitor, threads) = (self.clone(), threads.clone());
            let watch = move || monitor.watch(&*threads);
            state.thread = self.starter.start("netpoll-monitor".into(), watch).ok();
        }
        state.thread.is_some()
    }

    /// The life of its thread.
    fn watch(&self, threads: &impl SpareThreads<T>) {
        TimerSlack::LEAST.set();
        let mut due = clock::now();
        let mut cadence = Cadence::new(due);
        let mut all = All::new();
        loop {
            let threshold = {
                let mut state = lock(&self.state);
                all.add(state.added.drain(..));
                state.threshold
            };
            // Without the lock: it may start threads and write to the log.
            let now = clock::now();
            let regular = now >= due;
            let look = Look { now, regular, often: cadence.rate >= OFTEN, threshold };
            let found = all.look(threads, look);
            self.looks.fetch_add(1, Ordering::Relaxed);
            if found.taken > 0 {
                // Not before the core has its thread.
                threads.keep_one_ready();
            }
            let mut pause = LONGEST;
            if regular || found.taken > 0 {
                pause = cadence.pause(now, found.taken);
                due = now + pause;
            }
            let state = lock(&self.state);
            if state.stopping {
                return;
            }
            if found.quiet && regular && pause >= LONGEST {
                self.sleep(state, &mut all);
                due = clock::now();
                cadence = Cadence::new(due);
            } else {
                let soon = found.soon.and_then(|soon| now.checked_add(soon));
                let next = soon.map_or(due, |soon| due.min(soon));
                drop(wait_until(&self.changed, state, Some(next)));
            }
        }
    }

    /// Sleeps until a reactor wakes it, unless one has gone on meanwhile: a reactor says so before
    /// it looks whether the monitor sleeps, and the monitor says that it sleeps before it looks at
    /// the reactors.
    fn sleep(&self, mut state: MutexGuard<'_, State<T>>, all: &mut All<T>) {
        self.asleep.store(true, Ordering::SeqCst);
        if state.added.is_empty() && all.are_idle() {
            all.close_files();
            while self.asleep.load(Ordering::SeqCst) && !state.stopping {
                state = wait_until(&self.changed, state, None).0;
            }
        }
        self.asleep.store(false, Ordering::SeqCst);
    }
}

impl<T> fmt::Debug for Monitor<T> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Monitor")
            .field("asleep", &self.asleep.load(Ordering::Relaxed))
            .field("looks", &self.looks.load(Ordering::Relaxed))
            .finish_non_exhaustive()
    }
}
