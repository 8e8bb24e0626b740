//! Whether the growth thread watches: of a job that is queued and a watch that ends, one sees the
//! other.
//!
//! ```text
//!     a submit: queues its job, then claims ──► first: wakes the thread
//!                                          └──► not the first: the thread sees the job
//!     the thread: ends its watch, then looks ──► a job, and no submit has claimed: it goes on
//! ```

use crate::base::sync::{AtomicBool, Ordering};

/// See the module.
pub(super) struct Watching(AtomicBool);

impl Watching {
    pub(super) fn new() -> Self {
        Self(AtomicBool::new(false))
    }

    pub(super) fn is_claimed(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }

    /// Claims a watch; `true`: the caller has to begin it, or to [`release`](Self::release) it.
    pub(super) fn claim(&self) -> bool {
        !self.0.swap(true, Ordering::SeqCst)
    }

    pub(super) fn release(&self) {
        // Not a store: it reads the claim of a submit that came before, and so sees that job.
        self.0.swap(false, Ordering::SeqCst);
    }

    /// For the thread that watches, when it has seen all that it was claimed for. `true`: it goes
    /// on, since it is needed again and no submit has begun another watch.
    pub(super) fn goes_on(&self, is_needed: impl FnOnce() -> bool) -> bool {
        self.release();
        is_needed() && self.claim()
    }
}

#[cfg(all(test, loom))]
mod loom_models {
    use std::sync::Arc;

    use loom::thread;

    use super::*;
    use crate::base::sync::AtomicUsize;

    struct World {
        watching: Watching,
        jobs: AtomicUsize,
        watches: AtomicUsize,
    }

    impl World {
        fn submit(&self) {
            self.jobs.fetch_add(1, Ordering::SeqCst);
            if self.watching.claim() {
                self.watch();
            }
        }

        /// What the growth thread does; here the claiming thread stands for it.
        fn watch(&self) {
            loop {
                assert_eq!(self.watches.fetch_add(1, Ordering::SeqCst), 0, "two watch at once");
                self.jobs.store(0, Ordering::SeqCst);
                self.watches.fetch_sub(1, Ordering::SeqCst);
                if !self.watching.goes_on(|| self.jobs.load(Ordering::SeqCst) > 0) {
                    return;
                }
            }
        }
    }

    /// Three threads submit a job each: whichever of them claims, each job is seen, and by one
    /// watch at a time.
    #[test]
    fn loom_each_job_is_seen_by_a_watch() {
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound = builder.preemption_bound.or(Some(3));
        builder.check(|| {
            let world = Arc::new(World {
                watching: Watching::new(),
                jobs: AtomicUsize::new(0),
                watches: AtomicUsize::new(0),
            });
            let submitters = [0; 2].map(|_| {
                let world = world.clone();
                thread::spawn(move || world.submit())
            });
            world.submit();
            for submitter in submitters {
                submitter.join().expect("the model's thread");
            }
            assert_eq!(world.jobs.load(Ordering::SeqCst), 0, "a job that no watch has seen");
        });
    }
}
