//! A pool of threads that run callbacks which may block.
//!
//! A connection is in the queue at most once, since its task is scheduled at most once. The queue
//! is bounded; a reactor that finds it full keeps the connection and is woken when a worker has
//! made room, so nobody waits in a submit and nothing spins.
//!
//! The pool grows by two rules. Up to one thread a core, a job that finds no idle worker starts
//! one. Beyond that a *standby* thread decides: while jobs wait it looks once a millisecond, and
//! where no job was taken since its last look, all workers are inside callbacks that block, and it
//! starts a quarter more, up to `max_threads`. A worker, or a standby, without work for `idle`
//! ends.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, TrySendError};

use crate::connection::{Shared, schedule};
use crate::dispatch::PoolOptions;
use crate::reactor::Remote;
use crate::runner::{self, Outcome};
use crate::sync::{
    AtomicBool, AtomicU64, AtomicUsize, Condvar, Mutex, MutexGuard, Ordering, lock, wait_until,
};

/// How long no job must be taken from a waiting queue before the standby starts more workers.
const STUCK: Duration = Duration::from_millis(1);
/// How seldom, at the most, the standby looks at a pool that moves.
const MOVING: Duration = Duration::from_millis(16);

/// See the module.
pub(crate) struct Workers {
    options: PoolOptions,
    /// Workers that are started without asking the standby.
    at_once: usize,
    submit: Sender<Job>,
    queue: Receiver<Job>,
    /// Workers that wait for a job.
    idle: AtomicUsize,
    /// As in `staff`, to be read without its lock.
    hired: AtomicUsize,
    /// Jobs taken so far: the standby's sign that the pool moves.
    taken: AtomicU64,
    /// The standby looks, or there is no use for one: no need to call it.
    watched: AtomicBool,
    stopping: AtomicBool,
    /// A reactor waits for room.
    crowded: AtomicBool,
    waiting: Mutex<Vec<Arc<Remote>>>,
    staff: Mutex<Staff>,
    changed: Condvar,
}

#[derive(Default)]
struct Staff {
    workers: HashSet<ThreadId>,
    standby: bool,
    started: u64,
    complained: bool,
}

enum Job {
    Run(Arc<Shared>),
    Leave,
}

impl Workers {
    /// A pool without a thread: the first job starts one.
    pub(crate) fn new(options: PoolOptions) -> Arc<Self> {
        let cores = thread::available_parallelism().map_or(1, usize::from);
        let at_once = cores.min(options.max_threads);
        let (submit, queue) = crossbeam_channel::bounded(options.queue);
        Arc::new(Self {
            options,
            at_once,
            submit,
            queue,
            idle: AtomicUsize::new(0),
            hired: AtomicUsize::new(0),
            taken: AtomicU64::new(0),
            watched: AtomicBool::new(options.max_threads <= at_once),
            stopping: AtomicBool::new(false),
            crowded: AtomicBool::new(false),
            waiting: Mutex::new(Vec::new()),
            staff: Mutex::new(Staff::default()),
            changed: Condvar::new(),
        })
    }

    /// Passes a connection to a worker, or gives it back: the queue is full, or the pool stopped.
    pub(crate) fn submit(self: &Arc<Self>, shared: Arc<Shared>) -> Result<(), Arc<Shared>> {
        if self.is_stopping() {
            return Err(shared);
        }
        match self.submit.try_send(Job::Run(shared)) {
            Ok(()) => {
                self.staff_up();
                Ok(())
            }
            Err(
                TrySendError::Full(Job::Run(shared)) | TrySendError::Disconnected(Job::Run(shared)),
            ) => Err(shared),
            Err(_) => Ok(()),
        }
    }

    /// As `submit`; after an `Err` the reactor of `remote` is woken when there is room.
    pub(crate) fn submit_or_wait(
        self: &Arc<Self>,
        shared: Arc<Shared>,
        remote: &Arc<Remote>,
    ) -> Result<(), Arc<Shared>> {
        let Err(shared) = self.submit(shared) else {
            return Ok(());
        };
        lock(&self.waiting).push(remote.clone());
        self.crowded.store(true, Ordering::SeqCst);
        // A worker may have made room before it could see the flag.
        self.submit(shared)
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }

    /// Ends the threads: those without work at once, those inside a callback with it, for which it
    /// waits `patience`. Returns how many are left. A worker that calls it does not wait for
    /// itself.
    pub(crate) fn stop(&self, patience: Duration) -> usize {
        let deadline = Instant::now() + patience;
        self.stopping.store(true, Ordering::SeqCst);
        let mut staff = lock(&self.staff);
        self.changed.notify_all();
        for _ in 0..staff.workers.len() {
            // A full queue has jobs for all, after which they see that we stop.
            let _ = self.submit.try_send(Job::Leave);
        }
        let own = usize::from(staff.workers.contains(&thread::current().id()));
        let mut late = false;
        while staff.workers.len() + usize::from(staff.standby) > own && !late {
            (staff, late) = wait_until(&self.changed, staff, Some(deadline));
        }
        let left = staff.workers.len();
        drop(staff);
        for job in self.queue.try_iter() {
            if let Job::Run(shared) = job {
                // Submitted while we stopped; nobody else would ever end it.
                shared.abort();
                runner::run_to_end(&shared);
            }
        }
        left
    }

    /// Sees to it that somebody takes the job that was just queued.
    fn staff_up(self: &Arc<Self>) {
        if self.idle.load(Ordering::SeqCst) > 0 {
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
        if staff.workers.len() < self.at_once {
            self.hire(&mut staff);
        }
        if !self.watched.swap(true, Ordering::SeqCst) {
            self.call_standby(&mut staff);
        }
    }

    /// Starts a worker. It enters the staff by itself, under the lock that the caller holds.
    fn hire(self: &Arc<Self>, staff: &mut MutexGuard<'_, Staff>) {
        if staff.workers.len() >= self.options.max_threads {
            return;
        }
        staff.started += 1;
        let (pool, name) = (self.clone(), format!("netpoll-work-{}", staff.started));
        match thread::Builder::new().name(name).spawn(move || pool.work()) {
            Ok(worker) => {
                staff.workers.insert(worker.thread().id());
                self.hired.store(staff.workers.len(), Ordering::SeqCst);
            }
            Err(error) => complain(staff, &error),
        }
    }

    fn call_standby(self: &Arc<Self>, staff: &mut MutexGuard<'_, Staff>) {
        if staff.standby {
            return self.changed.notify_all();
        }
        let pool = self.clone();
        match thread::Builder::new().name("netpoll-standby".into()).spawn(move || pool.stand_by()) {
            Ok(_) => staff.standby = true,
            Err(error) => {
                self.watched.store(false, Ordering::SeqCst);
                complain(staff, &error);
            }
        }
    }

    fn work(self: &Arc<Self>) {
        while let Some(shared) = self.next() {
            if runner::run(&shared) == Outcome::Again {
                schedule(&shared);
            }
        }
        let mut staff = lock(&self.staff);
        staff.workers.remove(&thread::current().id());
        self.hired.store(staff.workers.len(), Ordering::SeqCst);
        self.changed.notify_all();
    }

    fn next(self: &Arc<Self>) -> Option<Arc<Shared>> {
        let job = self.queue.try_recv().ok().or_else(|| self.wait())?;
        self.taken.fetch_add(1, Ordering::Relaxed);
        if self.crowded.swap(false, Ordering::SeqCst) {
            for remote in lock(&self.waiting).drain(..) {
                remote.wake();
            }
        }
        if !self.queue.is_empty() {
            // Two submits may have counted on the same idle worker: this one.
            self.staff_up();
        }
        match job {
            Job::Run(shared) => Some(shared),
            Job::Leave => None,
        }
    }

    fn wait(&self) -> Option<Job> {
        if self.is_stopping() {
            return None;
        }
        self.idle.fetch_add(1, Ordering::SeqCst);
        let job = self.queue.recv_timeout(self.options.idle);
        self.idle.fetch_sub(1, Ordering::SeqCst);
        // A submit that still counted on this worker has queued its job before that.
        job.ok().or_else(|| self.queue.try_recv().ok())
    }

    /// The standby's life: asleep until a job finds no idle worker, then watching.
    fn stand_by(self: &Arc<Self>) {
        loop {
            self.watch();
            let mut staff = lock(&self.staff);
            self.watched.store(false, Ordering::SeqCst);
            let deadline = Instant::now() + self.options.idle;
            let mut late = false;
            while !self.is_stopping() && !self.watched.load(Ordering::SeqCst) && !late {
                if self.is_short_of_hands() {
                    self.watched.store(true, Ordering::SeqCst);
                    break;
                }
                (staff, late) = wait_until(&self.changed, staff, Some(deadline));
            }
            if late || self.is_stopping() {
                staff.standby = false;
                self.changed.notify_all();
                return;
            }
        }
    }

    /// Looks, while jobs wait, whether the pool moves: every millisecond where it doesn't, less
    /// often where it does.
    fn watch(self: &Arc<Self>) {
        let mut pause = STUCK;
        let mut before = self.taken.load(Ordering::Relaxed);
        while self.is_short_of_hands() && !self.is_stopping() {
            thread::sleep(pause); // sleep: what is looked for is that nothing happens for a while
            let now = self.taken.load(Ordering::Relaxed);
            if now != before {
                pause = (pause * 2).min(MOVING);
            } else if self.is_short_of_hands() {
                pause = STUCK;
                let mut staff = lock(&self.staff);
                for _ in 0..1 + staff.workers.len() / 4 {
                    self.hire(&mut staff);
                }
            }
            before = now;
        }
    }

    fn is_short_of_hands(&self) -> bool {
        !self.queue.is_empty() && self.idle.load(Ordering::SeqCst) == 0
    }
}

/// Says once that threads can't be had; the pool goes on with those it has.
fn complain(staff: &mut Staff, error: &std::io::Error) {
    if !staff.complained {
        staff.complained = true;
        log::warn!("cannot start a worker, going on with {}: {error}", staff.workers.len());
    }
}

impl fmt::Debug for Workers {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Workers")
            .field("hired", &self.hired.load(Ordering::Relaxed))
            .field("idle", &self.idle.load(Ordering::Relaxed))
            .field("queued", &self.queue.len())
            .finish_non_exhaustive()
    }
}
