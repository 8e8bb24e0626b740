//! What a thread knows of the task that it polls: where it belongs, so that what it spawns goes
//! there, too; and how much it may still do in this poll.

use std::cell::Cell;
use std::mem;
use std::sync::Arc;
use std::task::{Context, Poll};

use crate::connection::mailbox::Remote;
use crate::connection::spawned::Place;

/// So many of our futures may be ready in one poll of a task. Then one is pending that could be
/// ready, so that the task gives way: a task whose channel is never empty does not keep its loop.
const READY_PER_POLL: u32 = 128;

thread_local! {
    /// The place of the task that this thread polls, or has polled last.
    static CURRENT: Cell<Option<Arc<Place>>> = const { Cell::new(None) };
    static IS_IN_TASK: Cell<bool> = const { Cell::new(false) };
    /// The thread may keep a place between two polls, and does.
    static KEEPS: Cell<bool> = const { Cell::new(false) };
    static HAS_KEPT: Cell<bool> = const { Cell::new(false) };
    /// What is left of `READY_PER_POLL`; outside of a task there is no bound.
    static BUDGET: Cell<u32> = const { Cell::new(u32::MAX) };
}

/// The place of the task that this thread polls.
pub fn current_place() -> Option<Arc<Place>> {
    if !IS_IN_TASK.get() {
        return None;
    }
    // There is none on a thread that ends, where destructors of thread-locals still spawn.
    let take = |current: &Cell<Option<Arc<Place>>>| {
        let place = current.take();
        current.set(place.clone());
        place
    };
    CURRENT.try_with(take).ok().flatten()
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

/// Whether this thread, which turns a loop, may keep the place of the task that it has polled last:
/// the next one is mostly of the same place, and then no count changes. A loop forgets it before it
/// waits.
pub(crate) fn keep_place(keeps: bool) {
    KEEPS.set(keeps);
    forget_place();
}

/// Forgets a place that was kept.
#[inline]
pub(crate) fn forget_place() {
    if HAS_KEPT.get() {
        forget_kept_place();
    }
}

#[cold] // so that the check, of each turn, is inlined
fn forget_kept_place() {
    HAS_KEPT.set(false);
    let _ = CURRENT.try_with(Cell::take);
}

/// The place that this thread polls a task of, lent for a moment in which no code of the user runs:
/// so no count of it changes.
pub(crate) struct LentPlace(Option<Arc<Place>>);

impl LentPlace {
    /// The place of the task that this thread polls, or has polled last, if it is on that loop.
    #[inline]
    pub(crate) fn on(remote: &Arc<Remote>) -> Option<Self> {
        let lent = Self(CURRENT.try_with(Cell::take).ok().flatten());
        lent.0.as_ref().is_some_and(|place| Arc::ptr_eq(&place.remote, remote)).then_some(lent)
    }

    pub(crate) fn remote(&self) -> &Remote {
        &self.0.as_ref().expect("it is there until the drop").remote
    }
}

impl Drop for LentPlace {
    fn drop(&mut self) {
        let place = self.0.take();
        let _ = CURRENT.try_with(|current| current.set(place));
    }
}

/// While it lives, this thread polls a task of that place. Restores what was before.
#[derive(Debug)]
#[must_use = "the place is left when this is dropped"]
pub struct InPlace {
    before: Before,
    budget: u32,
}

#[derive(Debug)]
enum Before {
    /// The thread was in no task.
    Nothing,
    /// It was in a task, of that place.
    Task(Option<Arc<Place>>),
}

impl InPlace {
    /// Enters a place.
    pub fn enter(place: &Arc<Place>) -> Self {
        let replace = |current: &Cell<Option<Arc<Place>>>| {
            let before = current.take();
            let is_same = before.as_ref().is_some_and(|before| Arc::ptr_eq(before, place));
            if is_same {
                current.set(before);
                return None;
            }
            current.set(Some(place.clone()));
            before
        };
        let before = CURRENT.try_with(replace).ok().flatten();
        HAS_KEPT.set(false);
        let was_in_task = IS_IN_TASK.replace(true);
        let before = if was_in_task { Before::Task(before) } else { Before::Nothing };
        Self { before, budget: BUDGET.replace(READY_PER_POLL) }
    }
}

impl Drop for InPlace {
    fn drop(&mut self) {
        BUDGET.set(self.budget);
        match mem::replace(&mut self.before, Before::Nothing) {
            Before::Nothing => {
                IS_IN_TASK.set(false);
                HAS_KEPT.set(true);
                if !KEEPS.get() {
                    forget_place();
                }
            }
            // Of the same place: it is still there.
            Before::Task(None) => {}
            Before::Task(before) => drop(CURRENT.try_with(|current| current.set(before))),
        }
    }
}
