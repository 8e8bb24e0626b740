//! The workers: threads that run callbacks which may block.
//!
//! ```text
//!     a reactor ─► submit ─► queue ─────────────────► next ─► a worker runs the connection
//!                     │      two classes              ▲
//!                     └────► attend: wakes or starts ─┘
//!                            a worker (growth)
//! ```
//! A connection is in the queue at most once, since its task is scheduled at most once. The
//! [queue] is bounded; a reactor that finds it full keeps the connection, and is told when a worker
//! has made room. So no submit waits, and nothing spins. How many workers there are is decided in
//! [`growth`].

mod growth;
mod queue;
mod stopwatch;
mod watching;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::hand_off;
use super::options::PoolOptions;
use super::pool::searching::Searcher;
use super::pool::{Membership, ThreadPool, ThreadPoolOptions};
use crate::base::clock;
use crate::base::stats::WorkerStats;
use crate::base::sync::{AtomicBool, Mutex, Ordering, lock};
use crate::base::waits::{Listing, Waits};
use crate::connection::mailbox::Remote;
use crate::connection::run::Outcome;
use crate::connection::schedule::{Schedule, pass_on};
use crate::connection::scheduled::Scheduled;
use growth::Growth;
use queue::{Class, Queue};
use stopwatch::Stopwatch;

/// See the module.
pub(crate) struct Workers {
    options: PoolOptions,
    /// For callbacks whose behaviour is noted: from when on they count as blocking.
    threshold: Option<Duration>,
    queue: Queue<Scheduled>,
    pool: Arc<ThreadPool<()>>,
    growth: Growth,
    /// The waits of callbacks on workers.
    waits: Arc<Waits>,
    stopping: AtomicBool,
    /// Reactors that keep connections for which the queue had no capacity; `crowded` says whether
    /// there are any.
    waiting: Mutex<Vec<Arc<Remote>>>,
    crowded: AtomicBool,
}

impl Workers {
    /// Workers without a thread: the first job starts one.
    pub(crate) fn new(options: PoolOptions) -> Arc<Self> {
        Self::with(options, 0, None)
    }

    /// Workers for callbacks that are expected to block; they note whether the callbacks do.
    pub(crate) fn that_learn(options: PoolOptions, threshold: Duration) -> Arc<Self> {
        Self::with(options, growth::READY, Some(threshold))
    }

    fn with(options: PoolOptions, ready: usize, threshold: Option<Duration>) -> Arc<Self> {
        let PoolOptions { max_threads, queue, idle } = options;
        let pool = ThreadPool::new(ThreadPoolOptions {
            name: |number| format!("netpoll-work-{number}"),
            what: "a worker, so callbacks wait for those there are",
            max_threads,
            idle,
        });
        Arc::new(Self {
            options,
            threshold,
            queue: Queue::new(queue, growth::places(max_threads, false)),
            growth: Growth::new(&pool, options, ready),
            pool,
            waits: Waits::new(),
            stopping: AtomicBool::new(false),
            waiting: Mutex::new(Vec::new()),
            crowded: AtomicBool::new(false),
        })
    }

    /// A worker's life.
    fn work(self: Arc<Self>, membership: Membership<()>) {
        let _listing = Listing::at(Some(&self.waits));
        membership.show_number();
        let mut worker = Worker {
            searcher: self.pool.parking.begin_search(),
            workers: &self,
            membership: Some(membership),
            class: Class::Proven,
        };
        let mut stopwatch = self.threshold.map(Stopwatch::new);
        while let Some(scheduled) = worker.next(&mut stopwatch) {
            let outcome = hand_off::run_for(scheduled.reactor(), || match &mut stopwatch {
                Some(stopwatch) => stopwatch.run(&scheduled),
                None => stopwatch::run_on_pool(&scheduled),
            });
            if outcome == Outcome::Again {
                pass_on(scheduled);
            }
        }
    }

    /// Wakes a worker for the job that was just queued, if one is parked and none searches.
    fn wake_one(&self) {
        self.pool.parking.wake_one(|| self.queue.ready() > 0);
    }

    /// Tells the reactors that keep connections that the queue has capacity.
    fn tell_of_capacity(&self) {
        if self.crowded.load(Ordering::SeqCst) && self.crowded.swap(false, Ordering::SeqCst) {
            for remote in lock(&self.waiting).drain(..) {
                remote.tell_of_capacity();
            }
        }
    }
}

impl Schedule for Workers {
    /// Passes a task to a worker. What comes back, that task or another, is the caller's to run or
    /// to keep: the queue is full, no thread can be started, or the workers have
    /// stopped.
    fn submit(self: Arc<Self>, scheduled: Scheduled) -> Result<(), Scheduled> {
        if self.is_stopping() {
            return Err(scheduled);
        }
        let class = if scheduled.is_proven() { Class::Proven } else { Class::Unproven };
        self.queue.push(class, scheduled)?;
        self.wake_one();
        let is_attended = self.attend();
        if !is_attended {
            self.waits.want_one();
        }
        // No thread is there to take it, or to see that it waits, or it came after the last worker
        // had left for good.
        if !is_attended || self.is_deserted() || self.is_stopping() {
            return self.queue.take_back().map_or(Ok(()), Err);
        }
        Ok(())
    }

    /// As `submit`; after an `Err` the reactor of `remote` is told when there is capacity.
    fn submit_or_wait(
        self: Arc<Self>,
        scheduled: Scheduled,
        remote: &Arc<Remote>,
    ) -> Result<(), Scheduled> {
        let Err(scheduled) = self.clone().submit(scheduled) else { return Ok(()) };
        let mut waiting = lock(&self.waiting);
        if !waiting.iter().any(|each| Arc::ptr_eq(each, remote)) {
            waiting.push(remote.clone());
        }
        drop(waiting);
        self.crowded.store(true, Ordering::SeqCst);
        // A worker may have taken a job before it could see the flag.
        self.submit(scheduled)
    }

    fn is_deserted(&self) -> bool {
        self.pool.threads() == 0
    }

    fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }

    /// Ends the threads: those without work at once, those inside a callback with it, for which it
    /// waits `patience`. Returns how many are left. A worker that calls it does not wait for
    /// itself.
    fn stop(&self, patience: Duration) -> usize {
        let deadline = clock::now().checked_add(patience);
        self.growth.while_deciding(|| self.stopping.store(true, Ordering::SeqCst));
        let left = self.pool.stop(deadline) + self.growth.stop(deadline);
        self.tell_of_capacity();
        while let Some(scheduled) = self.queue.take_back() {
            // Submitted during the stop; no other thread would ever end it.
            scheduled.end();
        }
        left
    }

    fn stats(&self) -> WorkerStats {
        WorkerStats {
            threads: self.pool.threads(),
            idle: self.pool.parking.idle(),
            queued: self.queue.len(),
            waits_ended: self.waits.ended(),
        }
    }
}

/// What a worker's thread has of the workers. It gives that up as its last act, even in a panic,
/// since a thread that has died must not count as one that takes jobs.
struct Worker<'a> {
    workers: &'a Arc<Workers>,
    searcher: Searcher,
    membership: Option<Membership<()>>,
    /// That of the job that it is at; between two jobs the one that takes no place.
    class: Class,
}

impl Worker<'_> {
    /// The next job; `None`: the thread has to leave.
    fn next(&mut self, stopwatch: &mut Option<Stopwatch>) -> Option<Scheduled> {
        let Workers { queue, pool, growth, options, .. } = &**self.workers;
        let is_queued = || queue.ready() > 0;
        self.done();
        let mut may_stay = true;
        let (class, scheduled) = loop {
            match queue.take() {
                Some(job) => break job,
                None if !may_stay || self.workers.is_stopping() => return None,
                None => {}
            }
            if queue.starved() > 0 {
                // It has put a job off, which the submit of that job could not know.
                self.workers.attend();
            }
            let (searcher, idle) = (&mut self.searcher, Some(options.idle));
            may_stay = pool.parking.wait_for_job(searcher, idle, is_queued);
            stopwatch.iter_mut().for_each(Stopwatch::slept);
        };
        self.class = class;
        pool.parking.found(&mut self.searcher);
        growth.count_job();
        self.workers.tell_of_capacity();
        if is_queued() {
            self.workers.wake_one();
        }
        if is_queued() || growth.keeps_some_idle() || queue.starved() > 0 {
            // Two submits may have counted on the same idle worker: this one.
            self.workers.attend();
        }
        Some(scheduled)
    }

    /// The job that it was at is done.
    fn done(&mut self) {
        self.workers.queue.done(std::mem::replace(&mut self.class, Class::Proven));
    }
}

impl Drop for Worker<'_> {
    fn drop(&mut self) {
        let workers = self.workers;
        self.done();
        workers.pool.parking.found(&mut self.searcher);
        drop(self.membership.take());
        if workers.queue.ready() > 0 && !workers.is_stopping() {
            // A job came when this worker had looked for the last time, and still counted.
            workers.attend();
        }
    }
}

impl fmt::Debug for Workers {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Workers")
            .field("threads", &self.pool.threads())
            .field("idle", &self.pool.parking.idle())
            .field("queued", &self.queue.len())
            .finish_non_exhaustive()
    }
}
