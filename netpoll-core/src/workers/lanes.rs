//! The queue of a pool, in two lanes: connections that have shown that their callbacks return, and
//! others. Some workers are kept for the first, so that slow peers, however many, don't get all.
//!
//! ```text
//!     proven ─────────────────────────────────────────► any worker
//!     others ──► while fewer than `open` are at work ──► any worker
//! ```
//!
//! Of the jobs that may be taken the oldest is. A worker says that it has done a job before it
//! takes the next, so no job is left lying for want of a place that has come free.

use std::collections::VecDeque;

use crate::sync::{AtomicUsize, Mutex, Ordering, lock};

/// See the module.
pub(super) struct Lanes<T> {
    queue: Mutex<Queue<T>>,
    /// Jobs that a worker could take now, to be read without the lock.
    ready: AtomicUsize,
    /// Jobs that wait for a place among the others.
    starved: AtomicUsize,
    /// How many may wait in each lane.
    room: usize,
}

struct Queue<T> {
    /// With the number of each job, which tells its age.
    proven: VecDeque<(u64, T)>,
    others: VecDeque<(u64, T)>,
    queued: u64,
    /// Others' jobs at work.
    at_work: usize,
    /// How many of them there may be.
    open: usize,
}

/// A lane, and a job's place in it while the job is at work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lane {
    Proven,
    Others,
}

impl<T> Lanes<T> {
    pub(super) fn new(room: usize, open: usize) -> Self {
        let (proven, others) = (VecDeque::new(), VecDeque::new());
        Self {
            queue: Mutex::new(Queue { proven, others, queued: 0, at_work: 0, open }),
            ready: AtomicUsize::new(0),
            starved: AtomicUsize::new(0),
            room,
        }
    }

    /// Queues a job, unless its lane is full.
    pub(super) fn push(&self, lane: Lane, job: T) -> Result<(), T> {
        let mut queue = lock(&self.queue);
        let Queue { proven, others, queued, .. } = &mut *queue;
        let jobs = if lane == Lane::Proven { proven } else { others };
        if jobs.len() >= self.room {
            return Err(job);
        }
        *queued += 1;
        jobs.push_back((*queued, job));
        self.count(&queue);
        Ok(())
    }

    /// The next job, for a worker.
    pub(super) fn take(&self) -> Option<(Lane, T)> {
        if self.ready() == 0 {
            return None;
        }
        let mut queue = lock(&self.queue);
        let age = |jobs: &VecDeque<(u64, T)>| jobs.front().map(|(number, _)| *number);
        let others = age(&queue.others).filter(|_| queue.at_work < queue.open);
        let is_others = others.is_some_and(|other| age(&queue.proven).is_none_or(|it| other < it));
        let taken = if is_others {
            queue.at_work += 1;
            queue.others.pop_front().map(|(_, job)| (Lane::Others, job))
        } else {
            queue.proven.pop_front().map(|(_, job)| (Lane::Proven, job))
        };
        self.count(&queue);
        taken
    }

    /// Sets how many of the others' jobs may be at work; says whether that is more than before.
    pub(super) fn open(&self, places: usize) -> bool {
        let mut queue = lock(&self.queue);
        let before = std::mem::replace(&mut queue.open, places);
        self.count(&queue);
        before < places
    }

    /// A job is done: the worker takes another, or looks once more before it parks.
    pub(super) fn done(&self, lane: Lane) {
        if lane == Lane::Others {
            let mut queue = lock(&self.queue);
            queue.at_work -= 1;
            self.count(&queue);
        }
    }

    /// A job that came late, whether or not a worker could take it: for who does without workers.
    pub(super) fn take_back(&self) -> Option<T> {
        let mut queue = lock(&self.queue);
        let job = queue.others.pop_back().or_else(|| queue.proven.pop_back());
        self.count(&queue);
        job.map(|(_, job)| job)
    }

    /// How many jobs wait.
    pub(super) fn len(&self) -> usize {
        self.ready() + self.starved()
    }

    /// Whether there is a job that a worker could take now. Of one who queues a job and then looks
    /// whether a worker searches, and a worker that says that it does not and then asks this, one
    /// sees the other: both go through the lock.
    pub(super) fn is_ready(&self) -> bool {
        let _queue = lock(&self.queue);
        self.ready() > 0
    }

    /// How many jobs a worker could take now.
    pub(super) fn ready(&self) -> usize {
        self.ready.load(Ordering::SeqCst)
    }

    /// How many jobs wait for another of the others' to be done.
    pub(super) fn starved(&self) -> usize {
        self.starved.load(Ordering::SeqCst)
    }

    fn count(&self, queue: &Queue<T>) {
        let places = queue.open.saturating_sub(queue.at_work);
        let open = queue.others.len().min(places);
        self.ready.store(queue.proven.len() + open, Ordering::SeqCst);
        self.starved.store(queue.others.len() - open, Ordering::SeqCst);
    }
}

#[cfg(test)]
#[path = "lanes_tests.rs"]
mod tests;
