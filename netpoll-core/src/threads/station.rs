//! Where a thread that turns loops is reached by the gatherer and by other such threads.
//!
//! ```text
//!     the gatherer        thread of station 1          thread of station 2
//!     order: join 2 ────► pauses, closes its station
//!                         its cores ─────────────────► arrivals; pauses, takes them into its nest
//!                         parks
//!
//!     order: part with 1 ────────────────────────────► pauses, takes a core out of its nest
//!                         thread of station 3 ◄─────── reserves a thread, gives the core to it
//! ```
//! A station belongs to one baton, from its begin to its end. Orders and cores come by it while its
//! thread is anywhere; the thread looks when a loop of it pauses, which is between two turns, where
//! each core is whole ([`Command::Pause`](crate::connection::mailbox::Command::Pause)). A station
//! closes before its baton is gone, and what has arrived by then is taken along: so a core is
//! always in a baton, in a nest of one, or in an open station, and a thread looks there before it
//! ends. If a thread is refused, the cores stay where they are.

use std::sync::{Arc, Weak};

use super::monitor::Activity;
use crate::base::sync::{Mutex, lock};
use crate::connection::mailbox::Remote;
use crate::io::driver_set::DriverSet;
use crate::reactor::Core;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Station {
    pub(super) activity: Arc<Activity>,
    post: Mutex<Post>,
}

#[derive(Debug, Default)]
struct Post {
    /// The loops that are turned here, or will be.
    loops: Vec<Weak<Remote>>,
    order: Option<Order>,
    arrivals: Option<Batch>,
    closed: bool,
}

/// What the thread of a station is to do.
#[derive(Debug)]
pub(crate) enum Order {
    /// Give all cores to that station, which may need the set, and park.
    Join(Arc<Station>, DriverSet),
    /// Give so many of the cores to another thread, which needs the set if they are several.
    Part(usize, DriverSet),
}

/// Cores on their way; never empty.
#[derive(Debug)]
pub(crate) struct Batch {
    pub(super) cores: Vec<Core>,
    pub(super) set: DriverSet,
}

impl Station {
    /// Gives an order; says whether a loop is there to look at it.
    pub(super) fn order(&self, order: Order) -> bool {
        lock(&self.post).order = Some(order);
        self.rouse()
    }

    /// Whether an order or a core waits here.
    pub(super) fn is_busy(&self) -> bool {
        let post = lock(&self.post);
        post.order.is_some() || post.arrivals.is_some()
    }

    /// The loops that are turned here.
    pub(super) fn loops(&self) -> Vec<Arc<Remote>> {
        lock(&self.post).loops.iter().filter_map(Weak::upgrade).collect()
    }

    /// Has the thread look here. One loop that pauses is enough.
    fn rouse(&self) -> bool {
        self.loops().iter().any(|remote| remote.pause())
    }

    /// Leaves cores here. They come back where the station is closed.
    pub(super) fn push(&self, batch: Batch) -> Result<(), Batch> {
        let mut post = lock(&self.post);
        if post.closed {
            return Err(batch);
        }
        post.loops.extend(batch.cores.iter().map(|core| Arc::downgrade(core.remote())));
        match &mut post.arrivals {
            Some(before) => before.cores.extend(batch.cores),
            none => *none = Some(batch),
        }
        drop(post);
        // If no loop is left there, the thread is about to close the station, and finds them.
        self.rouse();
        Ok(())
    }

    pub(super) fn take(&self) -> (Option<Batch>, Option<Order>) {
        let mut post = lock(&self.post);
        (post.arrivals.take(), post.order.take())
    }

    /// Closes it, unless cores have arrived: then it stays open, and returns them.
    pub(super) fn close(&self) -> Option<Batch> {
        let mut post = lock(&self.post);
        let arrived = post.arrivals.take();
        if arrived.is_none() {
            post.closed = true;
            post.order = None;
            post.loops.clear();
        }
        arrived
    }

    pub(super) fn reopen(&self) {
        lock(&self.post).closed = false;
    }

    /// These are turned here from now on, and what has arrived will be.
    pub(super) fn show(&self, mut loops: Vec<Weak<Remote>>) {
        let mut post = lock(&self.post);
        let arrived = post.arrivals.iter().flat_map(|batch| &batch.cores);
        loops.extend(arrived.map(|core| Arc::downgrade(core.remote())));
        post.loops = loops;
    }
}
