//! What an event loop accepts on, until it leaves: to nobody, or to the process that follows it.

use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use netpoll_core::{Error, Remote, Result};

use crate::gate::Door;
use crate::listener::Listener;
use crate::manifest::Entry;
use crate::seat::Seat;
use crate::succession::Succession;

/// What is accepted on.
#[derive(Default)]
pub(crate) struct Doors {
    pub(crate) kept: Mutex<Vec<Kept>>,
    /// The sockets that were opened for one loop each.
    pub(crate) per_loop: Mutex<PerLoop>,
    custody: Mutex<Custody>,
}

/// A listener, and those of its sockets that are for all loops.
pub(crate) struct Kept {
    pub(crate) listener: Listener,
    pub(crate) door: Arc<Door>,
    pub(crate) seats: Vec<Arc<Seat>>,
}

#[derive(Default)]
pub(crate) struct PerLoop {
    pub(crate) seats: Vec<Arc<Seat>>,
    /// None is opened any more.
    pub(crate) closed: bool,
}

/// Which process is to be found behind the doors when this one has left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Custody {
    /// None.
    #[default]
    Ours,
    /// Another one has the sockets, and has not said yet that it serves.
    Offered,
    /// Another one.
    Theirs,
}

/// What nobody accepts on any more.
pub(crate) struct Leaving {
    /// Sockets that close.
    pub(crate) closing: Vec<Arc<Seat>>,
    /// Sockets that another process may have too, and go on with.
    pub(crate) shared: Vec<Arc<Seat>>,
}

/// The sockets on their way to another process. Its drop without a commit takes them back.
pub(crate) struct Offer {
    pub(crate) entries: Vec<Entry>,
    pub(crate) sockets: Vec<Arc<OwnedFd>>,
    doors: Arc<Doors>,
    before: Custody,
}

impl Doors {
    /// Whether this loop needs no further socket of that door: it has taken one that was free, or
    /// none is opened any more.
    pub(crate) fn has_place_for(&self, home: &Arc<Remote>, door: &Arc<Door>) -> bool {
        let per_loop = lock(&self.per_loop);
        let mut seats = per_loop.seats.iter().filter(|it| Arc::ptr_eq(&it.door, door));
        per_loop.closed || seats.any(|it| it.take(home))
    }

    /// The sockets, with what is to be said of them, to be given to another process.
    ///
    /// # Errors
    /// [`Error::Config`] while another one is given them.
    pub(crate) fn offer(self: Arc<Self>) -> Result<Offer> {
        let before = {
            let mut custody = lock(&self.custody);
            if *custody == Custody::Offered {
                return Err(Error::config(
                    "hand_over was called while another process is given the sockets",
                ));
            }
            std::mem::replace(&mut *custody, Custody::Offered)
        };
        let (mut entries, mut sockets) = (Vec::new(), Vec::new());
        for Kept { listener, door, seats } in &*lock(&self.kept) {
            let per_loop = lock(&self.per_loop);
            let own = per_loop.seats.iter().filter(|it| Arc::ptr_eq(&it.door, door));
            let all: Vec<_> = seats.iter().chain(own).map(|it| it.share().clone()).collect();
            entries.push(listener.entry(all.len()));
            sockets.extend(all);
        }
        Ok(Offer { entries, sockets, doors: self, before })
    }

    /// The paths of the listeners that came by this succession are this process's.
    pub(crate) fn own_paths(&self, of: &Arc<Succession>) {
        for Kept { listener, .. } in &mut *lock(&self.kept) {
            if listener.share_of_succession().is_some_and(|it| it.is_of(of)) {
                listener.own_path();
            }
        }
    }

    /// Whether another process goes on with the sockets, or is about to.
    pub(crate) fn are_left_open(&self) -> bool {
        *lock(&self.custody) != Custody::Ours
    }

    /// Ends accepting by any reactor.
    pub(crate) fn leave(&self) -> Leaving {
        let left_open = self.are_left_open();
        let mut all = Vec::new();
        // Not under the lock: a listener that can't remove its path logs that as it is dropped.
        let kept = std::mem::take(&mut *lock(&self.kept));
        for Kept { mut listener, mut seats, .. } in kept {
            if left_open {
                listener.keep_path();
            }
            // The path goes first: a client that comes now is refused, and does not wait.
            drop(listener);
            all.append(&mut seats);
        }
        let mut per_loop = lock(&self.per_loop);
        per_loop.closed = true;
        all.append(&mut per_loop.seats);
        for seat in &all {
            seat.close();
        }
        // A filter would stay on a shared one, and shut out whoever goes on with it.
        let (shared, closing) = all.into_iter().partition(|seat| seat.is_shared());
        Leaving { closing, shared }
    }
}

impl Offer {
    /// The other process serves. From here on it has the queues and the paths.
    pub(crate) fn commit(mut self) {
        self.before = Custody::Theirs;
    }
}

impl Drop for Offer {
    fn drop(&mut self) {
        *lock(&self.doors.custody) = self.before;
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
