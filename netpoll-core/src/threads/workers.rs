//! A pool of threads that run callbacks which may block.
//!
//! A connection is in the queue at most once, since its task is scheduled at most once. The queue
//! is bounded; a reactor that finds it full keeps the connection, and is told when a worker has
//! made room, so nobody waits in a submit and nothing spins. Its two [lanes](lanes) keep some
//! workers for connections whose callbacks have shown that they return.
//!
//! The pool grows by two rules. Up to one thread a core, a job that finds no idle worker starts
//! one. Beyond that a *standby* thread decides. While jobs wait and no worker is idle it looks
//! every few milliseconds; where all the workers that it looks at are asleep inside callbacks, it
//! starts a quarter more, up to `max_threads`. Workers that compute are not asleep, and more of
//! them would only get in each other's way. A worker, or a standby, without work for `idle` ends.
//! Where there are as many as may be, or the system refuses more, the standby ends the
//! [waits](crate::base::waits) that have made no progress for longest.

mod lanes;
mod lobby;
mod staff;
mod stopwatch;

use std::fmt;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use super::hand_off;
use crate::base::clock;
use crate::base::stats::WorkerStats;
use crate::base::sync::{
    AtomicBool, AtomicU64, AtomicUsize, Condvar, Mutex, MutexGuard, Ordering, lock, wait_until,
};
use crate::base::waits::{Listing, Waits};
use crate::connection::mailbox::Remote;
use crate::connection::run::{self, Outcome};
use crate::connection::schedule::{Schedule, kept_of};
use crate::connection::{Shared, schedule};
use crate::threads::dispatch::PoolOptions;
use crate::threads::starter::Starter;
use lanes::{Lane, Lanes};
use lobby::{Lobby, Seat};
use staff::Staff;
use stopwatch::Stopwatch;

/// Workers that are kept idle where most callbacks block: with fewer, one that doesn't waits until
/// the standby has looked.
const READY: usize = 4;
/// How soon the standby looks again after it started workers, or when jobs have just begun to wait.
const SOON: Duration = Duration::from_millis(1);
/// How seldom, at the most, it looks at a pool that moves.
const SELDOM: Duration = Duration::from_millis(16);
/// The same where only few workers are idle: by the next look jobs may wait.
const RELAXED: Duration = Duration::from_millis(4);
/// After the system has refused a thread the standby asks for no other one for this long.
const BARRED: Duration = Duration::from_millis(100);
/// Where no job was taken for this long, workers are started whatever those that are there do.
const STUCK: Duration = Duration::from_millis(50);

/// See the module.
pub(crate) struct Workers {
    options: PoolOptions,
    /// Workers that are started without asking the standby.
    at_once: usize,
    /// Workers that should be idle while others are inside callbacks that block.
    ready: usize,
    /// For callbacks whose behaviour is noted: from when on they count as blocking.
    threshold: Option<Duration>,
    queue: Lanes<Arc<Shared>>,
    lobby: Lobby,
    /// Those of its workers.
    waits: Arc<Waits>,
    /// As in `staff`, to be read without its lock.
    hired: AtomicUsize,
    /// Jobs taken so far: a sign that the pool moves.
    taken: AtomicU64,
    /// The standby is awake: a submit need not call it.
    watched: AtomicBool,
    stopping: AtomicBool,
    /// Reactors that keep connections for which there was no room; `crowded` says that there are
    /// any.
    waiting: Mutex<Vec<Arc<Remote>>>,
    crowded: AtomicBool,
    staff: Mutex<Staff>,
    starter: Starter,
    /// The system has refused a worker, and since then none was started.
    limited: AtomicBool,
    changed: Condvar,
}

/// How many of so many workers may be at the jobs of connections that have not shown that their
/// callbacks return. Where there can't be more, one is kept of few as well.
fn places(workers: usize, are_all: bool) -> usize {
    let least = usize::from(are_all && workers > 1);
    workers - kept_of(workers).max(least)
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
        Arc::new(Self {
            options,
            at_once,
            ready,
            threshold,
            queue: Lanes::new(options.queue, places(options.max_threads, false)),
            lobby: Lobby::new(),
            waits: Waits::new(),
            hired: AtomicUsize::new(0),
            taken: AtomicU64::new(0),
            watched: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
            waiting: Mutex::new(Vec::new()),
            crowded: AtomicBool::new(false),
            staff: Mutex::new(Staff::default()),
            starter: Starter::new("a worker, so callbacks wait for those there are"),
            limited: AtomicBool::new(false),
            changed: Condvar::new(),
        })
    }

    /// Sees to it that somebody takes the job that was just queued. `false`: jobs wait, and the
    /// system refuses the standby that would look after them.
    fn staff_up(self: &Arc<Self>) -> bool {
        if self.lobby.idle() >= self.ready.max(1) && self.queue.starved() == 0 {
            return true;
        }
        let few = self.hired.load(Ordering::SeqCst) < self.at_once;
        if !few && self.watched.load(Ordering::SeqCst) {
            return true;
        }
        let mut staff = lock(&self.staff);
        if self.is_stopping() {
            return true;
        }
        if staff.workers() < self.at_once {
            self.hire(&mut staff);
        }
        let is_attended =
            self.watched.swap(true, Ordering::SeqCst) || self.call_standby(&mut staff);
        if !is_attended {
            self.watched.store(false, Ordering::SeqCst);
        }
        drop(staff);
        self.starter.tell();
        is_attended || !self.is_overrun()
    }

    fn hire(self: &Arc<Self>, staff: &mut MutexGuard<'_, Staff>) {
        if staff.workers() < self.options.max_threads && !self.starter.is_refused() {
            let pool = self.clone();
            let before = staff.workers();
            staff.hire(&self.starter, move || pool.work());
            self.hired.store(staff.workers(), Ordering::SeqCst);
            self.open_places(staff.workers(), staff.workers() == before);
        }
    }

    /// Some workers are kept of those that there are, where the system refuses more.
    fn open_places(&self, workers: usize, is_refused: bool) {
        if is_refused || self.limited.load(Ordering::SeqCst) {
            self.limited.store(is_refused, Ordering::SeqCst);
            let most = if is_refused { workers } else { self.options.max_threads };
            if self.queue.open(places(most, is_refused)) {
                self.lobby.call(|| self.queue.ready() > 0);
            }
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
        let _listing = Listing::at(Some(&self.waits));
        let mut working = Working { pool: self, seat: self.lobby.enter(), lane: Lane::Proven };
        lock(&self.staff).arrived();
        let mut stopwatch = self.threshold.map(Stopwatch::new);
        while let Some(shared) = self.next(&mut working, &mut stopwatch) {
            let outcome = hand_off::run_for(&shared.reactor, || match &mut stopwatch {
                Some(stopwatch) => stopwatch.run(&shared),
                None => stopwatch::run_on_pool(&shared),
            });
            if outcome == Outcome::Again {
                schedule(&shared);
            }
        }
    }

    fn next(
        self: &Arc<Self>,
        working: &mut Working<'_>,
        stopwatch: &mut Option<Stopwatch>,
    ) -> Option<Arc<Shared>> {
        let is_queued = || self.queue.ready() > 0;
        working.done();
        let mut may_stay = true;
        let (lane, shared) = loop {
            match self.queue.take() {
                Some(job) => break job,
                None if !may_stay || self.is_stopping() => return None,
                None => {}
            }
            if self.queue.starved() > 0 {
                // It has put a job off, which its submit could not know: the standby sees to that.
                self.staff_up();
            }
            may_stay = self.lobby.wait(&mut working.seat, Some(self.options.idle), is_queued);
            stopwatch.iter_mut().for_each(Stopwatch::slept);
        };
        working.lane = lane;
        self.lobby.found(&mut working.seat);
        self.taken.fetch_add(1, Ordering::Relaxed);
        self.make_room_known();
        if is_queued() {
            self.lobby.call(is_queued);
        }
        if self.queue.ready() > 0 || self.ready > 0 || self.queue.starved() > 0 {
            // Two submits may have counted on the same idle worker: this one.
            self.staff_up();
        }
        Some(shared)
    }

    fn make_room_known(&self) {
        if self.crowded.load(Ordering::SeqCst) && self.crowded.swap(false, Ordering::SeqCst) {
            for remote in lock(&self.waiting).drain(..) {
                remote.tell_of_capacity();
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
            let deadline = clock::now().checked_add(self.options.idle);
            let mut late = false;
            while !self.is_stopping() && !self.watched.load(Ordering::SeqCst) && !late {
                if self.is_short_of_hands() || self.is_overrun() {
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
        let mut moved = (self.taken.load(Ordering::Relaxed), clock::now());
        let mut barred = moved.1;
        if self.is_jammed() {
            *pause = SOON;
        }
        while (self.is_short_of_hands() || self.is_overrun()) && !self.is_stopping() {
            thread::sleep(*pause); // sleep: what is looked for is that nothing happens for a while
            let taken = self.taken.load(Ordering::Relaxed);
            if taken != moved.0 {
                moved = (taken, clock::now());
            }
            let now = clock::now();
            let stuck = now.duration_since(moved.1) >= STUCK && self.queue.ready() > 0;
            // A look at the workers is dear, and of no use where no more can be had.
            let is_full = self.hired.load(Ordering::SeqCst) >= self.options.max_threads;
            let may_try = now >= barred && !is_full;
            let may_help = self.is_short_of_hands() || self.limited.load(Ordering::SeqCst);
            if may_help && may_try && self.hire_more(stuck) {
                *pause = SOON;
                moved.1 = clock::now();
            } else {
                if self.starter.is_refused() {
                    barred = now + BARRED;
                }
                *pause = (*pause * 2).min(if self.is_overrun() { SELDOM } else { RELAXED });
            }
            if self.is_overrun() && !self.may_hire() && self.end_waits() {
                *pause = SOON;
            }
        }
    }

    /// Starts a quarter more, if all are asleep that it looks at; says whether there are more.
    fn hire_more(self: &Arc<Self>, whatever_they_do: bool) -> bool {
        let mut staff = lock(&self.staff);
        let before = staff.workers();
        if staff.all_asleep() || whatever_they_do {
            for _ in 0..=before / 4 {
                self.hire(&mut staff);
            }
        }
        let after = staff.workers();
        drop(staff);
        self.starter.tell();
        after > before
    }

    /// Ends as many waits as there are jobs that wait for a worker; says whether it ended any.
    fn end_waits(&self) -> bool {
        let waiting = self.queue.len();
        self.waits.end_longest(waiting, waiting, self.hired.load(Ordering::SeqCst)) > 0
    }

    /// Whether more workers could help, and could be had.
    fn may_hire(&self) -> bool {
        let is_full = self.hired.load(Ordering::SeqCst) >= self.options.max_threads;
        !is_full && self.queue.starved() == 0 && !self.limited.load(Ordering::SeqCst)
    }

    fn is_short_of_hands(&self) -> bool {
        let idle = self.lobby.idle();
        let hired = self.hired.load(Ordering::SeqCst);
        let too_few_ready = idle < self.ready && idle < hired && hired < self.options.max_threads;
        too_few_ready || self.is_jammed()
    }

    /// Whether jobs wait that any worker could take.
    fn is_jammed(&self) -> bool {
        self.queue.ready() > 0 && self.lobby.idle() == 0
    }

    /// Whether jobs wait, and some of them perhaps for as long as others like.
    fn is_overrun(&self) -> bool {
        self.is_jammed() || self.queue.starved() > 0
    }
}

impl Schedule for Workers {
    /// Passes a connection to a worker. What comes back, that connection or another, is the
    /// caller's to run or to keep: the queue is full, no thread can be had, or the pool has
    /// stopped.
    fn submit(self: Arc<Self>, shared: Arc<Shared>) -> Result<(), Arc<Shared>> {
        if self.is_stopping() {
            return Err(shared);
        }
        let lane = if shared.is_proven() { Lane::Proven } else { Lane::Others };
        self.queue.push(lane, shared)?;
        self.lobby.call(|| self.queue.ready() > 0);
        let is_attended = self.staff_up();
        if !is_attended {
            self.waits.want_one();
        }
        // Nobody is there to take it, or to see that it waits, or it came after the last worker had
        // left for good.
        if !is_attended || self.is_deserted() || self.is_stopping() {
            return self.queue.take_back().map_or(Ok(()), Err);
        }
        Ok(())
    }

    /// As `submit`; after an `Err` the reactor of `remote` is told when there is room.
    fn submit_or_wait(
        self: Arc<Self>,
        shared: Arc<Shared>,
        remote: &Arc<Remote>,
    ) -> Result<(), Arc<Shared>> {
        let Err(shared) = self.clone().submit(shared) else { return Ok(()) };
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
    fn is_deserted(&self) -> bool {
        self.hired.load(Ordering::SeqCst) == 0
    }

    fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }

    /// Ends the threads: those without work at once, those inside a callback with it, for which it
    /// waits `patience`. Returns how many are left. A worker that calls it does not wait for
    /// itself.
    fn stop(&self, patience: Duration) -> usize {
        let deadline = clock::now().checked_add(patience);
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
        while let Some(shared) = self.queue.take_back() {
            // Submitted while we stopped; nobody else would ever end it.
            shared.abort();
            run::run_to_end(&shared);
        }
        left
    }

    fn stats(&self) -> WorkerStats {
        WorkerStats {
            threads: self.hired.load(Ordering::Relaxed),
            idle: self.lobby.idle(),
            queued: self.queue.len(),
            waits_ended: self.waits.ended(),
        }
    }
}

/// A worker's place in the pool: given up as its last act, even should it panic, or a dead worker
/// would count for ever as one that takes jobs.
struct Working<'a> {
    pool: &'a Arc<Workers>,
    seat: Seat,
    /// That of the job that it is at, or the one that costs no place.
    lane: Lane,
}

impl Working<'_> {
    /// The job that it was at is done.
    fn done(&mut self) {
        self.pool.queue.done(std::mem::replace(&mut self.lane, Lane::Proven));
    }
}

impl Drop for Working<'_> {
    fn drop(&mut self) {
        let pool = self.pool;
        self.done();
        pool.lobby.found(&mut self.seat);
        let mut staff = lock(&pool.staff);
        staff.leave();
        pool.hired.store(staff.workers(), Ordering::SeqCst);
        drop(staff);
        pool.changed.notify_all();
        if pool.queue.ready() > 0 && !pool.is_stopping() {
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
