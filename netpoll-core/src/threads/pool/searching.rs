//! Which parked thread is woken for a job in a queue, and when none is.
//!
//! To wake a thread costs more than most callbacks, and on a busy processor it comes too late to
//! help. So a queued job wakes a thread only if none is *searching*, that is awake and without a
//! job, and a searching thread that finds a job wakes the next one if more jobs wait. A thread that
//! blocks in its job then has a successor already, and one that does not block goes on through the
//! queue by itself. It is the rule of Go's scheduler (Vyukov, 2012), and of tokio's.
//!
//! ```text
//!              wake_one: none searches                found
//!     parked ────────────────────────► searching ───────────────► at work
//!       ▲                                  │  ▲                      │
//!       └───────── finds nothing ──────────┘  └── the queue is empty ┘
//! ```
//!
//! Each queued job is taken: a thread that finds nothing parks, counts as searching no more, *and
//! then* looks at the queue once more; a thread that queues a job looks *after that* whether one
//! searches, and whether one is parked. One of the two sees the other.

use std::sync::Arc;
use std::time::Duration;

use super::parking::{Order, Parking, Slot};
use crate::base::sync::{AtomicUsize, Ordering};

/// A thread that takes its jobs from a queue.
pub(crate) struct Searcher {
    slot: Arc<Slot<()>>,
    /// It counts among those that search.
    searches: bool,
}

impl Parking<()> {
    /// For a new thread. It has no job, so it searches.
    pub(crate) fn begin_search(&self) -> Searcher {
        self.searching.fetch_add(1, Ordering::SeqCst);
        Searcher { slot: Arc::new(Slot::new()), searches: true }
    }

    /// How many threads have no job: parked and searching ones.
    pub(crate) fn idle(&self) -> usize {
        self.parked() + self.searching.load(Ordering::SeqCst)
    }

    /// Wakes a parked thread for a job that was just queued, unless one searches already.
    pub(crate) fn wake_one(&self, is_queued: impl Fn() -> bool) {
        while self.parked() > 0 && claim_first(&self.searching) {
            if let Some(slot) = self.reserve() {
                return slot.give(Order::Run(()));
            }
            // Another thread has woken the last parked one. Meanwhile threads with a job may have
            // relied on the search that was counted here and does not take place.
            self.searching.fetch_sub(1, Ordering::SeqCst);
            if !is_queued() {
                return;
            }
        }
    }

    /// For a thread that has taken a job.
    pub(crate) fn found(&self, searcher: &mut Searcher) {
        if std::mem::take(&mut searcher.searches) {
            self.searching.fetch_sub(1, Ordering::SeqCst);
        }
    }

    /// For a thread that has found nothing: waits until it is woken, for `idle` at the most.
    /// `true`: it searches; `false`: it has to leave, after a last look at the queue.
    pub(crate) fn wait_for_job(
        &self,
        searcher: &mut Searcher,
        idle: Option<Duration>,
        is_queued: impl Fn() -> bool,
    ) -> bool {
        let may_stay = self.park(&searcher.slot);
        self.found(searcher);
        if !may_stay {
            return false;
        }
        if is_queued() && self.withdraw(&searcher.slot) {
            self.searching.fetch_add(1, Ordering::SeqCst);
        } else if self.wait(&searcher.slot, idle).is_none() {
            return false;
        }
        searcher.searches = true; // counted by `wake_one`, or above
        true
    }
}

/// Counts the first searching thread; `false`: there is one.
fn claim_first(searching: &AtomicUsize) -> bool {
    searching.compare_exchange(0, 1, Ordering::SeqCst, Ordering::SeqCst).is_ok()
}

#[cfg(test)]
#[path = "searching_tests.rs"]
mod tests;
