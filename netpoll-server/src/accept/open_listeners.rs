//! The listeners that an event loop accepts on, and its sockets of datagrams, until they are closed
//! or another process has them.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex};

use netpoll_core::{DatagramSocket, Error, Remote, Result, socket};

use super::assignment::Assignment;
use crate::admission::ListenerCount;
use crate::datagrams::open::OpenDatagrams;
use crate::handover::manifest::Entry;
use crate::handover::succession::Succession;
use crate::listener::Listener;
use crate::sync::lock;

/// See the module.
#[derive(Default)]
pub(crate) struct OpenListeners {
    pub(crate) datagrams: OpenDatagrams,
    listeners: Mutex<Vec<OpenListener>>,
    /// The sockets that were opened for one loop each.
    per_loop: Mutex<PerLoop>,
    custody: Mutex<Custody>,
}

/// A listener, and those of its sockets that are for all loops.
pub(crate) struct OpenListener {
    pub(crate) listener: Listener,
    pub(crate) count: Arc<ListenerCount>,
    pub(crate) assignments: Vec<Arc<Assignment>>,
}

#[derive(Default)]
struct PerLoop {
    assignments: Vec<Arc<Assignment>>,
    /// No further socket is opened.
    closed: bool,
}

/// Which process goes on with the sockets when this one has closed them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Custody {
    /// No other process: they close.
    #[default]
    Ours,
    /// Another process has the sockets, and has not said yet that it serves.
    Offered,
    /// Another process, which serves.
    Theirs,
}

/// The sockets of listeners that no reactor accepts on any more.
pub(crate) struct Leaving {
    /// Sockets that close.
    pub(crate) closing: Vec<Arc<Assignment>>,
    /// Sockets that another process may have too, and go on with.
    pub(crate) shared: Vec<Arc<Assignment>>,
}

/// The sockets on their way to another process. A drop without a commit takes them back.
pub(crate) struct Offer {
    pub(crate) entries: Vec<Entry>,
    datagrams: Vec<Arc<DatagramSocket>>,
    sockets: Vec<Arc<socket::Listener>>,
    listeners: Arc<OpenListeners>,
    before: Custody,
}

impl OpenListeners {
    pub(crate) fn add(&self, listener: OpenListener) {
        lock(&self.listeners).push(listener);
    }

    /// Adds sockets of which each is for one loop.
    pub(crate) fn add_per_loop(&self, assignments: &[Arc<Assignment>]) {
        lock(&self.per_loop).assignments.extend_from_slice(assignments);
    }

    /// Assigns a further socket to a loop, unless the listeners are closed.
    pub(crate) fn add_for(&self, reactor: &Arc<Remote>, assignment: Arc<Assignment>) {
        let mut per_loop = lock(&self.per_loop);
        if per_loop.closed {
            drop(per_loop); // before the socket
        } else {
            assignment.take(reactor);
            per_loop.assignments.push(assignment);
        }
    }

    /// Whether this loop needs no further socket of the listener that `count` is of: it has taken
    /// one that was free, or no further socket is opened.
    pub(crate) fn has_place_for(&self, reactor: &Arc<Remote>, count: &Arc<ListenerCount>) -> bool {
        let per_loop = lock(&self.per_loop);
        let mut assignments = per_loop.assignments.iter().filter(|it| it.is_counted_by(count));
        per_loop.closed || assignments.any(|it| it.take(reactor))
    }

    /// The sockets, with the entries that describe them, to be given to another process.
    ///
    /// # Errors
    /// [`Error::Config`] while the sockets are given to another process.
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
        let (mut entries, mut datagrams, mut sockets) = (Vec::new(), Vec::new(), Vec::new());
        for (entry, mut all) in self.datagrams.offered() {
            entries.push(entry);
            datagrams.append(&mut all);
        }
        for OpenListener { listener, count, assignments } in &*lock(&self.listeners) {
            let per_loop = lock(&self.per_loop);
            let own = per_loop.assignments.iter().filter(|it| it.is_counted_by(count));
            let all: Vec<_> =
                assignments.iter().chain(own).map(|it| it.socket.share().clone()).collect();
            entries.push(listener.entry(all.len()));
            sockets.extend(all);
        }
        Ok(Offer { entries, datagrams, sockets, listeners: self, before })
    }

    /// From here on this process owns the paths of the listeners that came by this succession.
    pub(crate) fn own_paths(&self, of: &Arc<Succession>) {
        for OpenListener { listener, .. } in &mut *lock(&self.listeners) {
            if listener.share_of_succession().is_some_and(|it| it.is_of(of)) {
                listener.own_path();
            }
        }
        self.datagrams.own_paths(of);
    }

    /// Whether another process goes on with the sockets, or is about to.
    pub(crate) fn are_left_open(&self) -> bool {
        *lock(&self.custody) != Custody::Ours
    }

    /// Whether another process serves on the sockets, in place of this one.
    pub(crate) fn are_given_away(&self) -> bool {
        *lock(&self.custody) == Custody::Theirs
    }

    /// Ends accepting by all reactors.
    pub(crate) fn leave(&self) -> Leaving {
        let left_open = self.are_left_open();
        self.datagrams.leave(left_open);
        let mut all = Vec::new();
        // Not under the lock: a listener that can't remove its path logs that as it is dropped.
        let listeners = std::mem::take(&mut *lock(&self.listeners));
        for OpenListener { mut listener, mut assignments, .. } in listeners {
            if left_open {
                listener.keep_path();
            }
            // The path goes first: a client that comes now is refused, and does not wait.
            drop(listener);
            all.append(&mut assignments);
        }
        let mut per_loop = lock(&self.per_loop);
        per_loop.closed = true;
        all.append(&mut per_loop.assignments);
        for assignment in &all {
            assignment.close();
        }
        // A filter would stay on a shared socket, and refuse clients that another process accepts.
        let (shared, closing) = all.into_iter().partition(|it| it.socket.is_shared());
        Leaving { closing, shared }
    }
}

impl Offer {
    /// The descriptors, in the order of the entries.
    pub(crate) fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        let datagrams = self.datagrams.iter().map(|it| it.as_fd());
        datagrams.chain(self.sockets.iter().map(|it| it.as_fd())).collect()
    }

    /// The other process is about to receive the datagrams that come from here on.
    pub(crate) fn stop_receiving(&self) {
        self.listeners.datagrams.stop_receiving();
    }

    /// The other process serves. From here on it has the queues and the paths.
    pub(crate) fn commit(mut self) {
        self.before = Custody::Theirs;
    }
}

impl Drop for Offer {
    fn drop(&mut self) {
        *lock(&self.listeners.custody) = self.before;
        if self.before == Custody::Ours {
            self.listeners.datagrams.go_on_receiving();
        }
    }
}
