//! The queue of the workers, in two classes: jobs of connections whose callbacks have shown that
//! they return, and unproven ones. Some workers are kept for the first class, so that slow peers,
//! however many, do not get all.
//!
//! ```text
//!     jobs ──► proven ───────────────────────────────────────────► any worker
//!         └──► unproven ──► while fewer than `open` are at work ──► any worker
//!                      └──► put off ──► when one of them is done ──┘
//! ```
//!
//! Workers take the oldest job that may be taken. Jobs stand in one channel of `crossbeam`; a
//! worker that finds no place for an unproven job puts it into a second channel, which comes first
//! when there is a place again.
//!
//! Each job that was put off is taken in the end. A worker reserves a place before it looks whether
//! a job was put off, and meanwhile another worker may find no place. The first one then gives the
//! place back and looks at the queue again, as it does after each job and before it parks.

use crate::base::sync::channel::{self, Receiver, Sender};
use crate::base::sync::{AtomicUsize, Ordering};

/// See the module.
pub(super) struct Queue<T> {
    jobs: Channel<(Class, T)>,
    put_off: Channel<T>,
    /// Jobs that wait, of each class.
    proven: AtomicUsize,
    unproven: AtomicUsize,
    /// Unproven jobs at work, and places that a worker has reserved for one.
    at_work: AtomicUsize,
    /// How many of them there may be.
    open: AtomicUsize,
    /// How many jobs of each class may wait.
    capacity: usize,
}

/// Which workers may take a job: any, or only as many as there are places for such jobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    Proven,
    Unproven,
}

impl<T> Queue<T> {
    /// An empty queue for `capacity` jobs of each class, with `open` places for unproven ones.
    pub(super) fn new(capacity: usize, open: usize) -> Self {
        Self {
            jobs: Channel::new(),
            put_off: Channel::new(),
            proven: AtomicUsize::new(0),
            unproven: AtomicUsize::new(0),
            at_work: AtomicUsize::new(0),
            open: AtomicUsize::new(open),
            capacity,
        }
    }

    /// Queues a job, unless as many of its class wait as may.
    pub(super) fn push(&self, class: Class, job: T) -> Result<(), T> {
        if self.waiting(class).fetch_add(1, Ordering::Relaxed) >= self.capacity {
            self.left(class);
            return Err(job);
        }
        self.jobs.push((class, job));
        Ok(())
    }

    /// The next job, for a worker.
    pub(super) fn take(&self) -> Option<(Class, T)> {
        if let Some(job) = self.take_put_off() {
            self.left(Class::Unproven);
            return Some((Class::Unproven, job));
        }
        while let Some((class, job)) = self.jobs.take() {
            if class == Class::Proven || self.reserve() {
                self.left(class);
                return Some((class, job));
            }
            self.put_off.push(job);
        }
        None
    }

    /// A job is done: its worker takes another, or looks at the queue once more before it parks.
    pub(super) fn done(&self, class: Class) {
        if class == Class::Unproven {
            self.at_work.fetch_sub(1, Ordering::SeqCst);
        }
    }

    /// Sets how many unproven jobs may be at work; says whether that is more than before.
    pub(super) fn open(&self, places: usize) -> bool {
        self.open.swap(places, Ordering::SeqCst) < places
    }

    /// A job, whether or not a worker could take it: for a thread that does without workers.
    pub(super) fn take_back(&self) -> Option<T> {
        let put_off = self.put_off.take().map(|job| (Class::Unproven, job));
        let (class, job) = put_off.or_else(|| self.jobs.take())?;
        self.left(class);
        Some(job)
    }

    /// How many jobs wait.
    pub(super) fn len(&self) -> usize {
        self.proven.load(Ordering::Relaxed) + self.unproven.load(Ordering::Relaxed)
    }

    /// How many jobs a worker could take now, or put off. Of a thread that queues a job and then
    /// looks whether a worker searches, and a worker that says that it does not and then reads
    /// this, one sees the other: both are sequentially consistent.
    pub(super) fn ready(&self) -> usize {
        self.jobs.len() + self.put_off.len().min(self.places())
    }

    /// How many jobs wait until another unproven one is done.
    pub(super) fn starved(&self) -> usize {
        self.put_off.len().saturating_sub(self.places())
    }

    fn take_put_off(&self) -> Option<T> {
        if self.put_off.len() == 0 || !self.reserve() {
            return None;
        }
        let job = self.put_off.take();
        if job.is_none() {
            self.done(Class::Unproven);
        }
        job
    }

    /// Takes a place for an unproven job, if one is free.
    fn reserve(&self) -> bool {
        let open = self.open.load(Ordering::SeqCst);
        let next = |at_work| (at_work < open).then_some(at_work + 1);
        self.at_work.fetch_update(Ordering::SeqCst, Ordering::SeqCst, next).is_ok()
    }

    fn places(&self) -> usize {
        let open = self.open.load(Ordering::SeqCst);
        open.saturating_sub(self.at_work.load(Ordering::SeqCst))
    }

    fn waiting(&self, class: Class) -> &AtomicUsize {
        match class {
            Class::Proven => &self.proven,
            Class::Unproven => &self.unproven,
        }
    }

    /// A job waits no more.
    fn left(&self, class: Class) {
        self.waiting(class).fetch_sub(1, Ordering::Relaxed);
    }
}

struct Channel<T> {
    sender: Sender<T>,
    receiver: Receiver<T>,
}

impl<T> Channel<T> {
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
#[path = "queue_tests.rs"]
mod tests;
