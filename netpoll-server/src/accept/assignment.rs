//! Which reactor accepts on a listening socket.
//!
//! ```text
//!   one socket for all loops
//!     one loop             that loop, for itself: no other thread has to run for a new connection
//!     several loops        the main reactor, so that none of them works for the others; it takes
//!                          over when a second loop is started, and keeps it
//!   one socket for all loops, and the idle one accepts
//!     any number           each loop, for itself; one that is started later joins them
//!     a loop retires       the others; the main reactor where none is left, until one is started
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
    /// To loops, at least one, which accept for themselves: to several where the idle one accepts.
    Loops(Vec<Arc<Remote>>),
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
        if manager.loops() > 1 && !self.socket.idle_loop_accepts {
            *lock(&self.assigned) = Assigned::Main;
            self.listen(self.main(), None);
        }
        let assignment = self.clone();
        let on_loop: Arc<OnLoop> = Arc::new(move |reactor: &Arc<Remote>| assignment.see(reactor));
        manager.on_each_loop(&on_loop);
        self.leave_to_main(); // if every loop has just retired
        on_loop
    }

    /// Assigns the socket to a loop, unless another loop has it; says whether it was free.
    pub(crate) fn take(self: &Arc<Self>, reactor: &Arc<Remote>) -> bool {
        let mut assigned = lock(&self.assigned);
        match &*assigned {
            Assigned::NotYet => {}
            Assigned::Main => self.main().unlisten(&self.socket.listener),
            Assigned::Loops(_) | Assigned::Closed => return false,
        }
        *assigned = self.listen_on(reactor);
        true
    }

    /// Assigns the socket to the main reactor, unless a reactor has it.
    pub(crate) fn leave_to_main(self: &Arc<Self>) {
        let mut assigned = lock(&self.assigned);
        if matches!(*assigned, Assigned::NotYet) {
            *assigned = self.listen_on_main();
        }
    }

    /// Ends accepting, except by the [`last_acceptor`](Self::last_acceptor).
    pub(crate) fn close(&self) {
        match std::mem::replace(&mut *lock(&self.assigned), Assigned::Closed) {
            Assigned::Loops(loops) => {
                for reactor in loops {
                    reactor.unlisten(&self.socket.listener);
                }
            }
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
        if self.socket.idle_loop_accepts {
            return self.join(&mut assigned, reactor);
        }
        let next = match &*assigned {
            Assigned::NotYet => self.listen_on(reactor),
            Assigned::Loops(loops) => {
                for only in loops {
                    only.unlisten(&self.socket.listener);
                }
                self.listen_on_main()
            }
            Assigned::Main | Assigned::Closed => return,
        };
        *assigned = next;
    }

    /// A loop joins those that accept on the socket, unless it has just ended.
    fn join(self: &Arc<Self>, assigned: &mut Assigned, reactor: &Arc<Remote>) {
        if matches!(assigned, Assigned::Closed) || !self.listen(reactor, Some(reactor.clone())) {
            return;
        }
        match assigned {
            Assigned::Loops(loops) => return loops.push(reactor.clone()),
            Assigned::Main => self.main().unlisten(&self.socket.listener),
            Assigned::NotYet | Assigned::Closed => {}
        }
        *assigned = Assigned::Loops(vec![reactor.clone()]);
    }

    /// A loop that accepted has retired: the other loops accept or, if there is none, the main
    /// reactor.
    fn give_back(self: &Arc<Self>, reactor: &Arc<Remote>) {
        let mut assigned = lock(&self.assigned);
        let Assigned::Loops(loops) = &mut *assigned else { return };
        let before = loops.len();
        loops.retain(|it| !Arc::ptr_eq(it, reactor));
        if loops.len() == before {
            return; // it was given back already, by another acceptor of the loop
        }
        while let Some(next) = loops.first() {
            // A connection that has woken only the loop that leaves may be in the queue. It is
            // reported again to a loop that begins anew to watch the socket.
            next.unlisten(&self.socket.listener);
            if self.listen(next, Some(next.clone())) {
                return;
            }
            loops.remove(0);
        }
        *assigned = self.listen_on_main();
    }

    /// Makes a loop accept for itself or, if the loop has just ended, the main reactor for all.
    fn listen_on(self: &Arc<Self>, reactor: &Arc<Remote>) -> Assigned {
        if self.listen(reactor, Some(reactor.clone())) {
            return Assigned::Loops(vec![reactor.clone()]);
        }
        self.listen_on_main()
    }

    fn listen_on_main(self: &Arc<Self>) -> Assigned {
        self.listen(self.main(), None);
        Assigned::Main
    }

    fn listen(self: &Arc<Self>, reactor: &Remote, own: Option<Arc<Remote>>) -> bool {
        let (assignment, retiring) = (self.clone(), own.clone());
        let on_retired: OnRetired = Box::new(move || {
            if let Some(reactor) = retiring {
                assignment.give_back(&reactor);
            }
        });
        let acceptor = Acceptor::new(self.socket.clone(), own, Some(on_retired));
        reactor.listen(self.socket.listener.clone(), Box::new(acceptor))
    }

    fn main(&self) -> &Arc<Remote> {
        &self.socket.context.main
    }
}
