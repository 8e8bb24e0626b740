//! A pool of threads that run callbacks which may block.
//!
//! A connection is in the queue at most once, since its task is scheduled at most once. The queue
//! is bounded; a reactor that finds it full keeps the connection, and is told when a worker has
//! made room, so nobody waits in a submit and nothing spins.
//!
//! The pool grows by two rules. Up to one thread a core, a job that finds no idle worker starts
//! one. Beyond that a *standby* thread decides. While jobs wait and no worker is idle it looks
//! every few milliseconds; where all the workers that it looks at are asleep inside callbacks, it
//! starts a quarter more, up to `max_threads`. Workers that compute are not asleep, and more of
//! them would only get in each other's way. A worker, or a standby, without work for `idle` ends.

mod lobby;
mod staff;

use std::fmt;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, TrySendError};

use crate::connection::{Shared, schedule};
use crate::dispatch::PoolOptions;
use crate::hand_off::{self, Stopwatch};
use crate::reactor::Remote;
use crate::runner::{self, Outcome};
use crate::starter::Starter;
use crate::sync::{
    AtomicBool, AtomicU64, AtomicUsize, Condvar, Mutex, MutexGuard, Ordering, lock, wait_until,
};
use lobby::{Lobby, Seat};
use staff::Staff;

/// Workers that are kept idle where most callbacks block: with fewer, one that doesn't waits until
/// the standby has looked.
const READY: usize = 4;
/// How soon the standby looks again after it started workers, or when jobs have just begun to wait.
const SOON: Duration = Duration::from_millis(1);
/// How seldom, at the most, it looks at a pool that moves.
const SELDOM: Duration = Duration::from_millis(16);
/// The same where only few workers are idle: by the next look jobs may wait.
const RELAXED: Duration = Duration::from_millis(4);
/// Where no job was taken for this long, workers are started whatever those that are there do.
const STUCK: Duration = Duration::from_millis(50);

/// See the module.
pub(crate) struct Workers {
    options: PoolOptions,
    /// Workers that are started without asking the standby.
    at_once: usize,
    /// Workers that should be idle while others are inside callbacks that block.
    ready: usize,
    /// For callbacks whose conduct is noted: from when on they count as blocking.
    threshold: Option<Duration>,
    submit: Sender<Arc<Shared>>,
    queue: Receiver<Arc<Shared>>,
    lobby: Lobby,
    /// As in `staff`, to be read without its lock.
    hired: AtomicUsize,
    /// Jobs taken so far: a sign that the pool moves.
    taken: AtomicU64,
    /// The standby is awake, or there is no use for one: a submit need not call it.
    watched: AtomicBool,
    stopping: AtomicBool,
    /// Reactors that keep connections for which there was no room; `crowded` says that there are
    /// any.
    waiting: Mutex<Vec<Arc<Remote>>>,
    crowded: AtomicBool,
    staff: Mutex<Staff>,
    starter: Starter,
    changed: Condvar,
}

impl Workers {
    /// A pool without a thread: the first job starts one.
    pub(crate) fn new(options: PoolOptions) -> Arc<Self> {
        Self::with(options, 0, None)
    }

    /// A pool for callbacks that are expected to block, which notes whether they do.
    pub(crate) fn that_learn(options: PoolOptions, threshold: Duration) -> Arc<Self> {
        Self::with(options, READY, Some(threshold))
    }

    fn with(options: PoolOptions, ready: usize, threshold: Option<Duration>) -> Arc<Self> {
        let cores = thread::available_parallelism().map_or(1, usize::from);
        let at_once = (cores + ready).min(options.max_threads);
        let (submit, queue) = crossbeam_channel::bounded(options.queue);
        Arc::new(Self {
            options,
            at_once,
            ready,
            threshold,
            submit,
            queue,
            lobby: Lobby::new(),
            hired: AtomicUsize::new(0),
            taken: AtomicU64::new(0),
            watched: AtomicBool::new(options.max_threads <= at_once),
            stopping: AtomicBool::new(false),
            waiting: Mutex::new(Vec::new()),
            crowded: AtomicBool::new(false),
            staff: Mutex::new(Staff::default()),
            starter: Starter::new("a worker, so callbacks wait for those there are"),
            changed: Condvar::new(),
        })
    }

    /// Passes a connection to a worker. What comes back, that connection or another, is the
    /// caller's to run or to keep: the queue is full, no thread can be had, or the pool has
    /// stopped.
    pub(crate) fn submit(self: &Arc<Self>, shared: Arc<Shared>) -> Result<(), Arc<Shared>> {
        if self.is_stopping() {
            return Err(shared);
        }
        self.submit.try_send(shared).map_err(TrySendError::into_inner)?;
        self.lobby.call(|| !self.queue.is_empty());
        self.staff_up();
        // Nobody is there to take it, or it came after the last worker had left for good.
        if self.is_deserted() || self.is_stopping() {
            return self.queue.try_recv().map_or(Ok(()), Err);
        }
        Ok(())
    }

    /// As `submit`; after an `Err` the reactor of `remote` is told when there is room.
    pub(crate) fn submit_or_wait(
        self: &Arc<Self>,
        shared: Arc<Shared>,
        remote: &Arc<Remote>,
    ) -> Result<(), Arc<Shared>> {
        let Err(shared) = self.submit(shared) else { return Ok(()) };
        let mut waiting = lock(&self.waiting);
        if !waiting.iter().any(|each| Arc::ptr_eq(each, remote)) {
            waiting.push(remote.clone());
        }
        drop(waiting);
        self.crowded.store(true, Ordering::SeqCst);
        // A worker may have made room before it could see the flag.
        self.submit(shared)
    }

    /// Whether it has no thread, not even after a submit.
    pub(crate) fn is_deserted(&self) -> bool {
        self.hired.load(Ordering::SeqCst) == 0
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }

    /// Ends the threads: those without work at once, those inside a callback with it, for which it
    /// waits `patience`. Returns how many are left. A worker that calls it does not wait for
    /// itself.
    pub(crate) fn stop(&self, patience: Duration) -> usize {
        let deadline = Instant::now().checked_add(patience);
        self.stopping.store(true, Ordering::SeqCst);
        self.changed.notify_all();
        self.lobby.close();
        let mut staff = lock(&self.staff);
        let own = usize::from(staff.has_this_thread());
        let mut late = false;
        while staff.present() > own && !late {
            (staff, late) = wait_until(&self.changed, staff, deadline);
        }
        let left = staff.present() - own;
        staff.join_those_who_left();
        drop(staff);
        self.make_room_known();
        for shared in self.queue.try_iter() {
            // Submitted while we stopped; nobody else would ever end it.
            shared.abort();
            runner::run_to_end(&shared);
        }
        left
    }

    /// Sees to it that somebody takes the job that was just queued.
    fn staff_up(self: &Arc<Self>) {
        if self.lobby.idle() >= self.ready.max(1) {
            return;
        }
        let few = self.hired.load(Ordering::SeqCst) < self.at_once;
        if !few && self.watched.load(Ordering::SeqCst) {
            return;
        }
        let mut staff = lock(&self.staff);
        if self.is_stopping() {
            return;
        }
        if staff.workers() < self.at_once {
            self.hire(&mut staff);
        }
        if !self.watched.swap(true, Ordering::SeqCst) && !self.call_standby(&mut staff) {
            self.watched.store(false, Ordering::SeqCst);
        }
        drop(staff);
        self.starter.tell();
    }

    fn hire(self: &Arc<Self>, staff: &mut MutexGuard<'_, Staff>) {
        if staff.workers() < self.options.max_threads && !self.starter.is_refused() {
            let pool = self.clone();
            staff.hire(&self.starter, move || pool.work());
            self.hired.store(staff.workers(), Ordering::SeqCst);
        }
    }

    /// Wakes the standby, or starts one; says whether there is one.
    fn call_standby(self: &Arc<Self>, staff: &mut MutexGuard<'_, Staff>) -> bool {
        if staff.has_standby() {
            self.changed.notify_all();
            return true;
        }
        let pool = self.clone();
        !self.starter.is_refused() && staff.appoint_standby(&self.starter, move || pool.stand_by())
    }

    fn work(self: &Arc<Self>) {
        let mut working = Working { pool: self, seat: self.lobby.enter() };
        lock(&self.staff).arrived();
        let mut stopwatch = self.threshold.map(Stopwatch::new);
        while let Some(shared) = self.next(&mut working.seat, &mut stopwatch) {
            let outcome = hand_off::run_for(&shared.home, || match &mut stopwatch {
                Some(stopwatch) => stopwatch.run(&shared),
                None => hand_off::run_on_pool(&shared),
            });
            if outcome == Outcome::Again {
                schedule(&shared);
            }
        }
    }

    fn next(
        self: &Arc<Self>,
        seat: &mut Seat,
        stopwatch: &mut Option<Stopwatch>,
    ) -> Option<Arc<Shared>> {
        let is_queued = || !self.queue.is_empty();
        let mut may_stay = true;
        let shared = loop {
            match self.queue.try_recv() {
                Ok(shared) => break shared,
                Err(_) if !may_stay || self.is_stopping() => return None,
                Err(_) => {}
            }
            may_stay = self.lobby.wait(seat, Some(self.options.idle), is_queued);
            stopwatch.iter_mut().for_each(Stopwatch::slept);
        };
        self.lobby.found(seat);
        self.taken.fetch_add(1, Ordering::Relaxed);
        self.make_room_known();
        if is_queued() {
            self.lobby.call(is_queued);
        }
        if is_queued() || self.ready > 0 {
            // Two submits may have counted on the same idle worker: this one.
            self.staff_up();
        }
        Some(shared)
    }

    fn make_room_known(&self) {
        if self.crowded.load(Ordering::SeqCst) && self.crowded.swap(false, Ordering::SeqCst) {
            for remote in lock(&self.waiting).drain(..) {
                remote.tell_of_room();
            }
        }
    }

    /// The standby's life: asleep until a job finds no idle worker, then watching.
    fn stand_by(self: &Arc<Self>) {
        let mut pause = SOON;
        loop {
            self.watch(&mut pause);
            let mut staff = lock(&self.staff);
            self.watched.store(false, Ordering::SeqCst);
            let deadline = Instant::now().checked_add(self.options.idle);
            let mut late = false;
            while !self.is_stopping() && !self.watched.load(Ordering::SeqCst) && !late {
                if self.is_short_of_hands() {
                    self.watched.store(true, Ordering::SeqCst);
                    break;
                }
                (staff, late) = wait_until(&self.changed, staff, deadline);
            }
            if self.is_stopping() || (late && !self.watched.load(Ordering::SeqCst)) {
                staff.dismiss_standby();
                drop(staff);
                return self.changed.notify_all();
            }
        }
    }

    /// Looks, while jobs wait or few workers are idle, whether more would help. Where they did not
    /// at the last looks it takes its time with the next.
    fn watch(self: &Arc<Self>, pause: &mut Duration) {
        let mut moved = (self.taken.load(Ordering::Relaxed), Instant::now());
        if self.is_jammed() {
            *pause = SOON;
        }
        while self.is_short_of_hands() && !self.is_stopping() {
            thread::sleep(*pause); // sleep: what is looked for is that nothing happens for a while
            let taken = self.taken.load(Ordering::Relaxed);
            if taken != moved.0 {
                moved = (taken, Instant::now());
            }
            let mut staff = lock(&self.staff);
            let stuck = moved.1.elapsed() >= STUCK && !self.queue.is_empty();
            if self.is_short_of_hands() && (staff.all_asleep() || stuck) {
                for _ in 0..=staff.workers() / 4 {
                    self.hire(&mut staff);
                }
                drop(staff);
                self.starter.tell();
                *pause = SOON;
                moved.1 = Instant::now();
            } else {
                *pause = (*pause * 2).min(if self.is_jammed() { SELDOM } else { RELAXED });
            }
        }
    }

    fn is_short_of_hands(&self) -> bool {
        let idle = self.lobby.idle();
        let hired = self.hired.load(Ordering::SeqCst);
        let too_few_ready = idle < self.ready && idle < hired && hired < self.options.max_threads;
        too_few_ready || self.is_jammed()
    }

    fn is_jammed(&self) -> bool {
        !self.queue.is_empty() && self.lobby.idle() == 0
    }
}

/// A worker's place in the pool: given up as its last act, even should it panic, or a dead worker
/// would count for ever as one that takes jobs.
struct Working<'a> {
    pool: &'a Arc<Workers>,
    seat: Seat,
}

impl Drop for Working<'_> {
    fn drop(&mut self) {
        let pool = self.pool;
        pool.lobby.found(&mut self.seat);
        let mut staff = lock(&pool.staff);
        staff.leave();
        pool.hired.store(staff.workers(), Ordering::SeqCst);
        drop(staff);
        pool.changed.notify_all();
        if !pool.queue.is_empty() && !pool.is_stopping() {
            // A job came when this worker had looked for the last time, and still counted as hired.
            pool.staff_up();
        }
    }
}

impl fmt::Debug for Workers {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Workers")
            .field("hired", &self.hired.load(Ordering::Relaxed))
            .field("idle", &self.lobby.idle())
            .field("queued", &self.queue.len())
            .finish_non_exhaustive()
    }
}
