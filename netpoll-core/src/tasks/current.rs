//! What a thread knows of the task that it polls: where it belongs, so that what it spawns goes
//! there, too; and how much it may still do in this poll.

use std::cell::Cell;
use std::sync::Arc;
use std::task::{Context, Poll};

use crate::connection::spawned::Place;

/// So many of our futures may be ready in one poll of a task. Then one is pending that could be
/// ready, so that the task gives way: a task whose channel is never empty does not keep its loop.
const READY_PER_POLL: u32 = 128;

thread_local! {
    static CURRENT: Cell<Option<Arc<Place>>> = const { Cell::new(None) };
    /// What is left of `READY_PER_POLL`; outside of a task there is no bound.
    static BUDGET: Cell<u32> = const { Cell::new(u32::MAX) };
}

/// The place of the task that this thread polls.
pub fn current_place() -> Option<Arc<Place>> {
    // There is none on a thread that ends, where destructors of thread-locals still spawn.
    CURRENT.try_with(with_current).ok().flatten()
}

fn with_current(current: &Cell<Option<Arc<Place>>>) -> Option<Arc<Place>> {
    let place = current.take();
    current.set(place.clone());
    place
}

/// For a future that is about to be ready: pending, and woken at once, where the task that is being
/// polled has to give way to others.
pub fn poll_budget(context: &Context<'_>) -> Poll<()> {
    match BUDGET.get() {
        0 => {
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        u32::MAX => {}
        left => BUDGET.set(left - 1),
    }
    Poll::Ready(())
}

/// While it lives, this thread polls a task of that place. Restores what was before.
#[derive(Debug)]
#[must_use = "the place is left when this is dropped"]
pub struct InPlace {
    before: Option<Arc<Place>>,
    budget_before: u32,
}

impl InPlace {
    /// Enters a place.
    pub fn enter(place: Arc<Place>) -> Self {
        let before = CURRENT.try_with(|current| current.replace(Some(place))).ok().flatten();
        Self { before, budget_before: BUDGET.replace(READY_PER_POLL) }
    }
}

impl Drop for InPlace {
    fn drop(&mut self) {
        BUDGET.set(self.budget_before);
        let before = self.before.take();
        // What it replaces is not the last reference to a place: the task has one.
        let _ = CURRENT.try_with(|current| current.set(before));
    }
}
