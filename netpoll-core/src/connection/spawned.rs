//! Tasks without a connection: what a loop knows of them, and the group that they share.
//!
//! ```text
//!     Remote ─► registry: the tasks of this loop that have not ended
//!                   │
//!     task ─► Place ┼─► Remote        the loop that runs it, for as long as it lives
//!                   └─► TaskGroup     where its polls run; how many tasks live
//! ```

use std::fmt;
use std::sync::{Arc, Weak};
use std::time::Instant;

use super::mailbox::Remote;
use super::schedule::Dispatcher;
use super::scheduled::Runnable;
use crate::base::sync::{AtomicBool, AtomicUsize, Condvar, Mutex, Ordering, lock, wait_until};
use crate::pure::slab::Token;

/// A task that its loop ends when the loop ends, as nothing else may ever run it.
pub(crate) trait Spawned: Runnable {
    /// The loop knows the task by this token.
    fn set_token(&self, token: Token);

    /// Which group and which loop it belongs to.
    fn place(&self) -> &Arc<Place>;

    /// Has the next run end it. `true`: the caller makes sure that there is one.
    fn note_abort(&self) -> bool;
}

/// A loop and a group: what tasks that are spawned together have in common.
#[derive(Debug)]
pub struct Place {
    pub(crate) remote: Arc<Remote>,
    pub(crate) group: Arc<TaskGroup>,
}

impl Place {
    /// The group of the tasks there.
    pub fn group(&self) -> &Arc<TaskGroup> {
        &self.group
    }
}

/// Tasks that one shutdown ends, and where their polls run.
///
/// The tasks hold it, so it lives as long as the last of them.
pub struct TaskGroup {
    dispatcher: Dispatcher,
    live: AtomicUsize,
    /// Threads in `wait_empty`: a wake costs a system call even where none waits.
    waiting: AtomicUsize,
    empty: (Mutex<()>, Condvar),
    /// No task is added any more.
    closed: AtomicBool,
    /// One for each loop that has tasks of the group.
    places: Mutex<Vec<Weak<Place>>>,
}

impl TaskGroup {
    /// Makes a group of tasks that are polled where `dispatcher` says.
    pub fn new(dispatcher: Dispatcher) -> Arc<Self> {
        Arc::new(Self {
            dispatcher,
            live: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
            empty: (Mutex::new(()), Condvar::new()),
            closed: AtomicBool::new(false),
            places: Mutex::new(Vec::new()),
        })
    }

    /// Where its tasks are polled.
    pub fn dispatcher(&self) -> &Dispatcher {
        &self.dispatcher
    }

    /// Its place on that loop.
    pub fn place_on(self: &Arc<Self>, remote: &Arc<Remote>) -> Arc<Place> {
        let mut places = lock(&self.places);
        let known = places.iter().filter_map(Weak::upgrade);
        if let Some(place) = known.into_iter().find(|it| Arc::ptr_eq(&it.remote, remote)) {
            return place;
        }
        let place = Arc::new(Place { remote: remote.clone(), group: self.clone() });
        places.retain(|it| it.strong_count() > 0);
        places.push(Arc::downgrade(&place));
        place
    }

    /// How many of its tasks have not ended.
    pub fn live(&self) -> usize {
        self.live.load(Ordering::SeqCst)
    }

    /// Cancels its tasks; from here on each one is refused that is spawned into the group.
    pub fn cancel(self: &Arc<Self>) {
        self.closed.store(true, Ordering::SeqCst);
        // Each task holds its place. A thread that spawns looks at `closed` under the lock under
        // which each loop is looked through here: either sees what the other has done.
        let places: Vec<_> = lock(&self.places).iter().filter_map(Weak::upgrade).collect();
        for place in places {
            place.remote.abort_tasks(self);
        }
    }

    /// Whether it takes no more tasks.
    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }

    /// Blocks until none of its tasks lives or `deadline` has passed; returns how many are left.
    pub fn wait_empty(&self, deadline: Option<Instant>) -> usize {
        self.waiting.fetch_add(1, Ordering::SeqCst);
        let (mutex, empty) = &self.empty;
        let mut guard = lock(mutex);
        let mut late = false;
        while self.live() > 0 && !late {
            (guard, late) = wait_until(empty, guard, deadline);
        }
        drop(guard);
        self.waiting.fetch_sub(1, Ordering::SeqCst);
        self.live()
    }

    /// Counts one more task, until it [leaves](Self::leave).
    pub(crate) fn enter(&self) {
        self.live.fetch_add(1, Ordering::SeqCst);
    }

    /// A task has ended.
    pub(crate) fn leave(&self) {
        let before = self.live.fetch_sub(1, Ordering::SeqCst);
        // The one that waits says so before it reads the count.
        if before == 1 && self.waiting.load(Ordering::SeqCst) > 0 {
            drop(lock(&self.empty.0));
            self.empty.1.notify_all();
        }
    }
}

impl fmt::Debug for TaskGroup {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("TaskGroup")
            .field("dispatcher", &self.dispatcher)
            .field("live", &self.live())
            .finish_non_exhaustive()
    }
}
