//! How many workers there are.
//!
//! Up to about one thread a processor, a job that finds no idle worker starts one. Beyond that the
//! *growth thread* decides (`netpoll-standby`). It sleeps until a job finds no idle worker. Then,
//! while jobs wait and no worker is idle, it looks every few milliseconds:
//!
//! ```text
//!     all workers that it looks at sleep      ─► it starts a quarter more, up to `max_threads`
//!     they compute                            ─► nothing: more would be in each other's way
//!     no job was taken for a while            ─► it starts more, whatever the workers do
//!     there are as many as may be, or the
//!       system refuses more                   ─► it ends the waits that have made no progress for
//!                                                longest (see `base/waits.rs`)
//! ```
//! A worker without work for `idle` ends, and so does the growth thread.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use super::Workers;
use super::watching::Watching;
use crate::base::clock;
use crate::base::sync::{AtomicBool, AtomicU64, Mutex, MutexGuard, Ordering, lock};
use crate::connection::schedule::{Schedule, kept_of};
use crate::threads::options::PoolOptions;
use crate::threads::pool::{Next, ThreadPool, ThreadPoolOptions};

/// Workers that are kept idle where most callbacks block: with fewer, a callback that does not
/// block waits until the growth thread has looked.
pub(super) const READY: usize = 4;
/// How soon the growth thread looks again after it started workers, or when jobs have just begun to
/// wait.
const SOON: Duration = Duration::from_millis(1);
/// The longest pause between two looks at workers that take jobs.
const SELDOM: Duration = Duration::from_millis(16);
/// The same where only few workers are idle: by the next look jobs may wait.
const RELAXED: Duration = Duration::from_millis(4);
/// After the system has refused a thread the growth thread asks for no other one for this long.
const BARRED: Duration = Duration::from_millis(100);
/// Where no job was taken for this long, workers are started whatever the present ones do.
const STUCK: Duration = Duration::from_millis(50);

/// See the module.
pub(super) struct Growth {
    /// Workers that are started without asking the growth thread.
    at_once: usize,
    /// Workers that should be idle while others are inside callbacks that block.
    ready: usize,
    /// The growth thread: a pool in which one runs at a time.
    thread: Arc<ThreadPool>,
    /// Whether it is awake: then a submit need not wake it.
    watching: Watching,
    /// The system has refused a worker, and since then none was started.
    limited: AtomicBool,
    /// Jobs taken so far: they show that the workers make progress.
    taken: AtomicU64,
    /// Held while a thread is started; in it, the pause that the last look has chosen.
    deciding: Mutex<Duration>,
}

impl Growth {
    pub(super) fn new(pool: &ThreadPool<()>, options: PoolOptions, ready: usize) -> Self {
        let processors = thread::available_parallelism().map_or(1, usize::from);
        let own = ThreadPoolOptions {
            name: |_| "netpoll-standby".to_owned(),
            max_threads: usize::MAX,
            idle: options.idle,
            ..pool.options()
        };
        Self {
            at_once: (processors + ready).min(options.max_threads),
            ready,
            thread: ThreadPool::with_starter(own, pool.starter().clone()),
            watching: Watching::new(),
            limited: AtomicBool::new(false),
            taken: AtomicU64::new(0),
            deciding: Mutex::new(SOON),
        }
    }

    /// Runs `change` while no thread is being started.
    pub(super) fn while_deciding(&self, change: impl FnOnce()) {
        let _deciding = lock(&self.deciding);
        change();
    }

    pub(super) fn stop(&self, deadline: Option<Instant>) -> usize {
        self.thread.stop(deadline)
    }

    /// For a worker that has taken a job.
    pub(super) fn count_job(&self) {
        self.taken.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn keeps_some_idle(&self) -> bool {
        self.ready > 0
    }
}

/// How many of so many workers may be at unproven jobs. Where there can't be more, one is kept of
/// few as well.
pub(super) fn places(workers: usize, are_all: bool) -> usize {
    let least = usize::from(are_all && workers > 1);
    workers - kept_of(workers).max(least)
}

impl Workers {
    /// Makes sure that a thread takes the job that was just queued. `false`: jobs wait, and the
    /// system refuses the growth thread, which would look after them.
    pub(super) fn attend(self: &Arc<Self>) -> bool {
        let growth = &self.growth;
        if self.pool.parking.idle() >= growth.ready.max(1) && self.queue.starved() == 0 {
            return true;
        }
        let few = self.pool.threads() < growth.at_once;
        if !few && growth.watching.is_claimed() {
            return true;
        }
        let deciding = lock(&growth.deciding);
        if self.is_stopping() {
            return true;
        }
        if self.pool.threads() < growth.at_once {
            self.start_one(&deciding);
        }
        let is_attended = !growth.watching.claim() || self.wake_growth();
        if !is_attended {
            growth.watching.release();
        }
        drop(deciding);
        self.pool.tell();
        is_attended || !self.is_overrun()
    }

    /// Starts a worker, if there may be one more and the system has not refused one just now.
    fn start_one(self: &Arc<Self>, _deciding: &MutexGuard<'_, Duration>) {
        if !self.is_full() && !self.is_stopping() && !self.pool.is_refused() {
            let workers = self.clone();
            let is_refused = self.pool.start_member(move |member| workers.work(member)).is_err();
            self.open_places(is_refused);
        }
    }

    /// Keeps some workers for proven jobs: of those that there are, where the system refuses more.
    fn open_places(&self, is_refused: bool) {
        if is_refused || self.growth.limited.load(Ordering::SeqCst) {
            self.growth.limited.store(is_refused, Ordering::SeqCst);
            let workers = self.pool.threads();
            let most = if is_refused { workers } else { self.options.max_threads };
            if self.queue.open(places(most, is_refused)) {
                self.wake_one();
            }
        }
    }

    /// Wakes the growth thread, or starts it; says whether there is one. For the caller that has
    /// claimed the watch.
    fn wake_growth(self: &Arc<Self>) -> bool {
        let workers = self.clone();
        let work = move || {
            let mut pause = *lock(&workers.growth.deciding);
            workers.watch(&mut pause);
            *lock(&workers.growth.deciding) = pause;
            // Parked first: the next caller that claims the watch needs no other thread for it.
            Next::ParkAndLook(Box::new(move || workers.end_watch()))
        };
        let Growth { thread, .. } = &self.growth;
        !thread.is_exhausted() && thread.run(work).is_ok()
    }

    /// Ends the watch of the growth thread, which is parked, unless it is needed again.
    fn end_watch(self: &Arc<Self>) {
        let watching = &self.growth.watching;
        let is_needed = || !self.is_stopping() && self.needs_growth();
        if watching.goes_on(is_needed) && !self.wake_growth() {
            watching.release();
        }
    }

    /// Looks, while jobs wait or few workers are idle, whether more workers would help. Where they
    /// did not at the last looks the pause before the next is longer.
    fn watch(self: &Arc<Self>, pause: &mut Duration) {
        let mut moved = (self.growth.taken.load(Ordering::Relaxed), clock::now());
        let mut barred = moved.1;
        if self.is_jammed() {
            *pause = SOON;
        }
        while self.needs_growth() && !self.is_stopping() {
            thread::sleep(*pause); // sleep: what is looked for is that nothing happens for a while
            let taken = self.growth.taken.load(Ordering::Relaxed);
            if taken != moved.0 {
                moved = (taken, clock::now());
            }
            let now = clock::now();
            let stuck = now.duration_since(moved.1) >= STUCK && self.queue.ready() > 0;
            // A look at the workers is dear, and of no use where there can be no more.
            let may_try = now >= barred && !self.is_full();
            let may_help = self.has_too_few_idle() || self.growth.limited.load(Ordering::SeqCst);
            if may_help && may_try && self.start_more(stuck) {
                *pause = SOON;
                moved.1 = clock::now();
            } else {
                if self.pool.is_refused() {
                    barred = now + BARRED;
                }
                *pause = (*pause * 2).min(if self.is_overrun() { SELDOM } else { RELAXED });
            }
            if self.is_overrun() && !self.may_grow() && self.end_waits() {
                *pause = SOON;
            }
        }
    }

    /// Starts a quarter more, if all workers that it looks at sleep or that does not matter; says
    /// whether there are more.
    fn start_more(self: &Arc<Self>, whatever_they_do: bool) -> bool {
        let deciding = lock(&self.growth.deciding);
        let before = self.pool.threads();
        if self.pool.all_asleep() || whatever_they_do {
            for _ in 0..=before / 4 {
                self.start_one(&deciding);
            }
        }
        let after = self.pool.threads();
        drop(deciding);
        self.pool.tell();
        after > before
    }

    /// Ends as many waits as there are jobs that wait for a worker; says whether it ended any.
    fn end_waits(&self) -> bool {
        let waiting = self.queue.len();
        self.waits.end_longest(waiting, waiting, self.pool.threads()) > 0
    }

    fn needs_growth(&self) -> bool {
        self.has_too_few_idle() || self.is_overrun()
    }

    fn is_full(&self) -> bool {
        self.pool.threads() >= self.options.max_threads
    }

    /// Whether more workers could help, and could be started.
    fn may_grow(&self) -> bool {
        let is_limited = self.growth.limited.load(Ordering::SeqCst);
        !self.is_full() && self.queue.starved() == 0 && !is_limited
    }

    /// Whether fewer workers are idle than should be.
    fn has_too_few_idle(&self) -> bool {
        let (idle, threads) = (self.pool.parking.idle(), self.pool.threads());
        let too_few = idle < self.growth.ready && idle < threads && !self.is_full();
        too_few || self.is_jammed()
    }

    /// Whether jobs wait that any worker could take.
    fn is_jammed(&self) -> bool {
        self.queue.ready() > 0 && self.pool.parking.idle() == 0
    }

    /// Whether jobs wait, some of them perhaps without a limit of time.
    fn is_overrun(&self) -> bool {
        self.is_jammed() || self.queue.starved() > 0
    }
}
