//! The queue of a pool, in two lanes: connections that have shown that their callbacks return, and
//! others. Some workers are kept for the first, so that slow peers, however many, don't get all.
//!
//! ```text
//!     jobs ──► proven ─────────────────────────────────────────► any worker
//!         └──► others ──► while fewer than `open` are at work ──► any worker
//!                    └──► put off ──► when one of them is done ──┘
//! ```
//!
//! Of the jobs that may be taken the oldest is. Jobs stand in one channel of `crossbeam`; a worker
//! that finds no place for one of the others puts it into a second, which comes first when there is
//! a place again.
//!
//! No job is left lying for want of a place. A worker reserves a place before it looks whether a
//! job was put off, and another worker may find that place taken meanwhile. The first one gives it
//! back and then looks at the queue again, as it does after each job and before it parks.

use crate::base::sync::channel::{self, Receiver, Sender};
use crate::base::sync::{AtomicUsize, Ordering};

/// See the module.
pub(super) struct Lanes<T> {
    jobs: Jobs<(Lane, T)>,
    put_off: Jobs<T>,
    /// Jobs that wait, in each lane.
    proven: AtomicUsize,
    others: AtomicUsize,
    /// Others' jobs at work, and places that a worker has reserved for one.
    at_work: AtomicUsize,
    /// How many of them there may be.
    open: AtomicUsize,
    /// How many jobs may wait in each lane.
    room: usize,
}

struct Jobs<T> {
    sender: Sender<T>,
    receiver: Receiver<T>,
}

/// A lane, and a job's place in it while the job is at work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lane {
    Proven,
    Others,
}

impl<T> Lanes<T> {
    pub(super) fn new(room: usize, open: usize) -> Self {
        Self {
            jobs: Jobs::new(),
            put_off: Jobs::new(),
            proven: AtomicUsize::new(0),
            others: AtomicUsize::new(0),
            at_work: AtomicUsize::new(0),
            open: AtomicUsize::new(open),
            room,
        }
    }

    /// Queues a job, unless its lane is full.
    pub(super) fn push(&self, lane: Lane, job: T) -> Result<(), T> {
        if self.waiting(lane).fetch_add(1, Ordering::Relaxed) >= self.room {
            self.left(lane);
            return Err(job);
        }
        self.jobs.push((lane, job));
        Ok(())
    }

    /// The next job, for a worker.
    pub(super) fn take(&self) -> Option<(Lane, T)> {
        if let Some(job) = self.take_put_off() {
            self.left(Lane::Others);
            return Some((Lane::Others, job));
        }
        while let Some((lane, job)) = self.jobs.take() {
            if lane == Lane::Proven || self.reserve() {
                self.left(lane);
                return Some((lane, job));
            }
            self.put_off.push(job);
        }
        None
    }

    fn take_put_off(&self) -> Option<T> {
        if self.put_off.len() == 0 || !self.reserve() {
            return None;
        }
        let job = self.put_off.take();
        if job.is_none() {
            self.done(Lane::Others);
        }
        job
    }

    /// Takes a place for one of the others' jobs, if one is free.
    fn reserve(&self) -> bool {
        let open = self.open.load(Ordering::SeqCst);
        let next = |at_work| (at_work < open).then_some(at_work + 1);
        self.at_work.fetch_update(Ordering::SeqCst, Ordering::SeqCst, next).is_ok()
    }

    /// Sets how many of the others' jobs may be at work; says whether that is more than before.
    pub(super) fn open(&self, places: usize) -> bool {
        self.open.swap(places, Ordering::SeqCst) < places
    }

    /// A job is done: the worker takes another, or looks once more before it parks.
    pub(super) fn done(&self, lane: Lane) {
        if lane == Lane::Others {
            self.at_work.fetch_sub(1, Ordering::SeqCst);
        }
    }

    /// A job, whether or not a worker could take it: for a thread that does without workers.
    pub(super) fn take_back(&self) -> Option<T> {
        let put_off = self.put_off.take().map(|job| (Lane::Others, job));
        let (lane, job) = put_off.or_else(|| self.jobs.take())?;
        self.left(lane);
        Some(job)
    }

    /// How many jobs wait.
    pub(super) fn len(&self) -> usize {
        self.proven.load(Ordering::Relaxed) + self.others.load(Ordering::Relaxed)
    }

    /// How many jobs a worker could take now, or put off. Of a thread that queues a job and then
    /// looks whether a worker searches, and a worker that says that it does not and then asks this,
    /// one sees the other: both are sequentially consistent.
    pub(super) fn ready(&self) -> usize {
        self.jobs.len() + self.put_off.len().min(self.places())
    }

    /// How many jobs wait for another of the others' to be done.
    pub(super) fn starved(&self) -> usize {
        self.put_off.len().saturating_sub(self.places())
    }

    fn places(&self) -> usize {
        let open = self.open.load(Ordering::SeqCst);
        open.saturating_sub(self.at_work.load(Ordering::SeqCst))
    }

    fn waiting(&self, lane: Lane) -> &AtomicUsize {
        match lane {
            Lane::Proven => &self.proven,
            Lane::Others => &self.others,
        }
    }

    /// A job waits no more.
    fn left(&self, lane: Lane) {
        self.waiting(lane).fetch_sub(1, Ordering::Relaxed);
    }
}

impl<T> Jobs<T> {
    fn new() -> Self {
        let (sender, receiver) = channel::unbounded();
        Self { sender, receiver }
    }

    fn push(&self, job: T) {
        // It fails where no receiver is left, and there is one as long as there is a sender.
        let _ = self.sender.send(job);
    }

    fn take(&self) -> Option<T> {
        self.receiver.try_recv().ok()
    }

    fn len(&self) -> usize {
        self.receiver.len()
    }
}

#[cfg(test)]
#[path = "lanes_tests.rs"]
mod tests;
