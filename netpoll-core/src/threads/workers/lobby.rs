//! The lobby: where workers without a job wait, and who of them is called.
//!
//! To wake a thread costs more than most callbacks, and on a busy core it comes too late to help.
//! So a queued job calls a worker only if none is *searching*, awake and without a job, and a
//! searcher that finds one calls the next if more jobs wait. A worker that blocks so has a
//! successor under way, and one that doesn't goes on through the queue by itself. It is the rule of
//! Go's scheduler (Vyukov, 2012), and of tokio's.
//!
//! ```text
//!              call: nobody searches                  found
//!     parked ────────────────────────► searching ───────────────► at work
//!       ▲                                  │  ▲                      │
//!       └───────── finds nothing ──────────┘  └── the queue is empty ┘
//! ```
//!
//! No job is left lying: who finds nothing parks, says that it searches no more, *and then* looks
//! at the queue once more; who queues a job looks *after that* whether somebody searches, and
//! whether anybody is parked. One of them sees the other.

use std::sync::Arc;
use std::time::Duration;

use crate::base::sync::{AtomicUsize, Ordering};
use crate::threads::berths::{Berth, Berths, Order};

/// See the module.
pub(super) struct Lobby {
    berths: Berths<()>,
    searching: AtomicUsize,
}

/// One worker, as the lobby knows it.
pub(super) struct Seat {
    berth: Arc<Berth<()>>,
    /// It counts among those who search.
    searches: bool,
}

impl Lobby {
    pub(super) fn new() -> Self {
        Self { berths: Berths::new(), searching: AtomicUsize::new(0) }
    }

    /// A place for a worker that begins. It has no job, so it searches.
    pub(super) fn enter(&self) -> Seat {
        self.searching.fetch_add(1, Ordering::SeqCst);
        Seat { berth: Arc::new(Berth::new()), searches: true }
    }

    /// How many workers have no job.
    pub(super) fn idle(&self) -> usize {
        self.berths.parked() + self.searching.load(Ordering::SeqCst)
    }

    /// Sees to it that somebody looks for the job that was just queued, if anybody is parked.
    pub(super) fn call(&self, is_queued: impl Fn() -> bool) {
        while self.berths.parked() > 0
            && self.searching.compare_exchange(0, 1, Ordering::SeqCst, Ordering::SeqCst).is_ok()
        {
            if let Some(berth) = self.berths.reserve() {
                return berth.give(Order::Go(()));
            }
            // The last was called by somebody else. Meanwhile others may have left their job to
            // the searcher that there isn't.
            self.searching.fetch_sub(1, Ordering::SeqCst);
            if !is_queued() {
                return;
            }
        }
    }

    /// For a worker that has taken a job.
    pub(super) fn found(&self, seat: &mut Seat) {
        if std::mem::take(&mut seat.searches) {
            self.searching.fetch_sub(1, Ordering::SeqCst);
        }
    }

    /// For a worker that has found nothing: waits until it is called, for `idle` at the most.
    /// `true`: it searches; `false`: it is to leave, after a last look at the queue.
    pub(super) fn wait(
        &self,
        seat: &mut Seat,
        idle: Option<Duration>,
        is_queued: impl Fn() -> bool,
    ) -> bool {
        let may_stay = self.berths.park(&seat.berth);
        self.found(seat);
        if !may_stay {
            return false;
        }
        if is_queued() && self.berths.withdraw(&seat.berth) {
            self.searching.fetch_add(1, Ordering::SeqCst);
        } else if self.berths.wait(&seat.berth, idle).is_none() {
            return false;
        }
        seat.searches = true; // counted by whoever called it, or above
        true
    }

    /// Sends all away who wait, and from now on who would.
    pub(super) fn close(&self) {
        self.berths.close();
    }
}

#[cfg(test)]
#[path = "lobby_tests.rs"]
mod tests;
