//! Which reactor accepts on a listening socket.
//!
//! ```text
//!   one socket for all loops
//!     one loop             that loop, for itself: no other thread has to run for a new connection
//!     several loops        the main reactor, so that none of them works for the others; it takes
//!                          over when a second loop is started, and keeps it
//!   a socket for each loop
//!     its loop             for itself
//!     its loop retires     the main reactor, until a loop that is started later takes it over
//! ```
//! A socket closes with its listener and not with a loop: a close resets the clients that the
//! kernel has put into its queue, and a handshake may be under way at any moment.

use std::sync::{Arc, Mutex};

use netpoll_core::{OnLoop, PollManager, Remote};

use super::acceptor::{Acceptor, OnRetired};
use super::listening_socket::ListeningSocket;
use crate::admission::ListenerCount;
use crate::sync::lock;

/// A listening socket, and the reactor that accepts on it.
pub(crate) struct Assignment {
    pub(crate) socket: Arc<ListeningSocket>,
    assigned: Mutex<Assigned>,
}

enum Assigned {
    NotYet,
    /// To a loop, which accepts for itself.
    Loop(Arc<Remote>),
    /// To the main reactor, which accepts for all.
    Main,
    /// To no reactor any more.
    Closed,
}

impl Assignment {
    pub(crate) fn new(socket: Arc<ListeningSocket>) -> Arc<Self> {
        Arc::new(Self { socket, assigned: Mutex::new(Assigned::NotYet) })
    }

    /// Begins to accept for all loops. Loops that are started later are taken into account as long
    /// as the caller holds the answer.
    pub(crate) fn open(self: &Arc<Self>, manager: &PollManager) -> Arc<OnLoop> {
        if manager.loops() > 1 {
            *lock(&self.assigned) = Assigned::Main;
            self.listen(self.main(), None);
        }
        let assignment = self.clone();
        let on_loop: Arc<OnLoop> = Arc::new(move |reactor: &Arc<Remote>| assignment.see(reactor));
        manager.on_each_loop(&on_loop);
        on_loop
    }

    /// Assigns the socket to a loop, unless another loop has it; says whether it was free.
    pub(crate) fn take(self: &Arc<Self>, reactor: &Arc<Remote>) -> bool {
        let mut assigned = lock(&self.assigned);
        match &*assigned {
            Assigned::NotYet => {}
            Assigned::Main => self.main().unlisten(&self.socket.listener),
            Assigned::Loop(_) | Assigned::Closed => return false,
        }
        *assigned = self.listen_on(reactor);
        true
    }

    /// Assigns the socket to the main reactor, unless a reactor has it.
    pub(crate) fn leave_to_main(self: &Arc<Self>) {
        self.leave_to_main_if(|assigned| matches!(assigned, Assigned::NotYet));
    }

    /// Ends accepting, except by the [`last_acceptor`](Self::last_acceptor).
    pub(crate) fn close(&self) {
        match std::mem::replace(&mut *lock(&self.assigned), Assigned::Closed) {
            Assigned::Loop(reactor) => reactor.unlisten(&self.socket.listener),
            Assigned::Main => self.main().unlisten(&self.socket.listener),
            Assigned::NotYet | Assigned::Closed => {}
        }
    }

    /// An acceptor for the calling thread, to empty the queue before the socket closes.
    pub(crate) fn last_acceptor(&self) -> Acceptor {
        Acceptor::new(self.socket.clone(), None, None)
    }

    /// Whether the count of the socket's listener is this one.
    pub(crate) fn is_counted_by(&self, count: &Arc<ListenerCount>) -> bool {
        Arc::ptr_eq(&self.socket.count, count)
    }

    /// This is one of the loops that the socket is for.
    fn see(self: &Arc<Self>, reactor: &Arc<Remote>) {
        let mut assigned = lock(&self.assigned);
        let next = match &*assigned {
            Assigned::NotYet => self.listen_on(reactor),
            Assigned::Loop(only) => {
                only.unlisten(&self.socket.listener);
                self.listen(self.main(), None);
                Assigned::Main
            }
            Assigned::Main | Assigned::Closed => return,
        };
        *assigned = next;
    }

    /// The loop that accepted has retired: the main reactor accepts.
    fn give_back(self: &Arc<Self>) {
        self.leave_to_main_if(|assigned| matches!(assigned, Assigned::Loop(_)));
    }

    fn leave_to_main_if(self: &Arc<Self>, is_so: impl Fn(&Assigned) -> bool) {
        let mut assigned = lock(&self.assigned);
        if is_so(&assigned) {
            self.listen(self.main(), None);
            *assigned = Assigned::Main;
        }
    }

    /// Makes a loop accept for itself or, if the loop has just ended, the main reactor for all.
    fn listen_on(self: &Arc<Self>, reactor: &Arc<Remote>) -> Assigned {
        if self.listen(reactor, Some(reactor.clone())) {
            return Assigned::Loop(reactor.clone());
        }
        self.listen(self.main(), None);
        Assigned::Main
    }

    fn listen(self: &Arc<Self>, reactor: &Remote, own: Option<Arc<Remote>>) -> bool {
        let assignment = self.clone();
        let on_retired: OnRetired = Box::new(move || assignment.give_back());
        let acceptor = Acceptor::new(self.socket.clone(), own, Some(on_retired));
        reactor.listen(self.socket.listener.clone(), Box::new(acceptor))
    }

    fn main(&self) -> &Arc<Remote> {
        &self.socket.context.main
    }
}
