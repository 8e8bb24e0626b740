//! Where the task that this thread polls belongs: what it spawns goes there, too.

use std::cell::Cell;
use std::sync::Arc;

use crate::connection::spawned::Place;

thread_local! {
    static CURRENT: Cell<Option<Arc<Place>>> = const { Cell::new(None) };
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

/// While it lives, this thread polls a task of that place. Restores what was before.
#[derive(Debug)]
#[must_use = "the place is left when this is dropped"]
pub struct InPlace {
    before: Option<Arc<Place>>,
}

impl InPlace {
    /// Enters a place.
    pub fn enter(place: Arc<Place>) -> Self {
        Self { before: CURRENT.try_with(|current| current.replace(Some(place))).ok().flatten() }
    }
}

impl Drop for InPlace {
    fn drop(&mut self) {
        let before = self.before.take();
        // What it replaces is not the last reference to a place: the task has one.
        let _ = CURRENT.try_with(|current| current.set(before));
    }
}
