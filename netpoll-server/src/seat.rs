//! Which reactor accepts on a listener that is one socket for all loops.
//!
//! ```text
//!   one loop        that loop, for itself: no other thread has to run for who comes
//!   several loops   the main reactor, so that none of them works for the others
//! ```
//! Where a second loop is started, the main reactor takes over, for good. Both have the same queue.

use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use netpoll_core::{ListenerInfo, OnLoop, PollManager, Remote};

use crate::acceptor::{Acceptor, Front};
use crate::gate::Door;

/// The place of a listener's one acceptor.
pub(crate) struct Seat {
    front: Arc<Front>,
    pub(crate) info: Arc<ListenerInfo>,
    door: Arc<Door>,
    socket: Arc<OwnedFd>,
    held: Mutex<Held>,
}

enum Held {
    Nobody,
    /// By the only loop.
    OnlyLoop(Arc<Remote>),
    /// For good, by the main reactor; or by nobody, since the listener closes.
    Main,
}

impl Seat {
    pub(crate) fn new(
        front: &Arc<Front>,
        info: Arc<ListenerInfo>,
        door: Arc<Door>,
        socket: &Arc<OwnedFd>,
    ) -> Arc<Self> {
        let (front, socket) = (front.clone(), socket.clone());
        Arc::new(Self { front, info, door, socket, held: Mutex::new(Held::Nobody) })
    }

    /// Begins to accept. Loops that are started later are looked at while somebody holds what it
    /// returns.
    pub(crate) fn open(self: &Arc<Self>, manager: &PollManager) -> Arc<OnLoop> {
        if manager.loops() > 1 {
            *self.held() = Held::Main;
            self.listen(&self.front.main, None);
        }
        let seat = self.clone();
        let on_loop: Arc<OnLoop> = Arc::new(move |home: &Arc<Remote>| seat.see(home));
        manager.on_each_loop(&on_loop);
        on_loop
    }

    /// Ends accepting, but for what [`acceptor`](Self::acceptor) is told to do.
    pub(crate) fn close(&self) {
        if let Held::OnlyLoop(only) = std::mem::replace(&mut *self.held(), Held::Main) {
            only.unlisten(&self.socket);
        }
    }

    /// An acceptor for the caller, or for a loop, `own` if that keeps what it accepts.
    pub(crate) fn acceptor(&self, own: Option<Arc<Remote>>) -> Acceptor {
        Acceptor::new(&self.front, &self.info, &self.door, &self.socket, own)
    }

    /// There is this loop.
    fn see(&self, home: &Arc<Remote>) {
        let mut held = self.held();
        let next = match &*held {
            Held::Nobody => {
                self.listen(home, Some(home.clone()));
                Held::OnlyLoop(home.clone())
            }
            Held::OnlyLoop(only) => {
                only.unlisten(&self.socket);
                self.listen(&self.front.main, None);
                Held::Main
            }
            Held::Main => return,
        };
        *held = next;
    }

    fn listen(&self, home: &Remote, own: Option<Arc<Remote>>) {
        home.listen(self.socket.clone(), Box::new(self.acceptor(own)));
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
