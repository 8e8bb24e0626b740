//! Which reactor accepts on a listening socket.
//!
//! ```text
//!   one socket for all loops
//!     one loop             that loop, for itself: no other thread has to run for who comes
//!     several loops        the main reactor, so that none of them works for the others; it takes
//!                          over where a second loop is started, and keeps it
//!   a socket for each loop
//!     its loop             for itself
//!     its loop retires     the main reactor, until a loop that is started later takes it over
//! ```
//! A socket closes with its listener and not with a loop: a close resets whoever the kernel has
//! promised to this socket, and a handshake may be under way at any moment.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use netpoll_core::socket::{self, Handshake};
use netpoll_core::{Address, ListenerInfo, OnLoop, PollManager, Remote};

use crate::acceptor::{Acceptor, Front};
use crate::gate::Door;

/// The place of a socket's one acceptor.
pub(crate) struct Seat {
    pub(crate) front: Arc<Front>,
    pub(crate) info: Arc<ListenerInfo>,
    pub(crate) door: Arc<Door>,
    pub(crate) socket: Arc<OwnedFd>,
    held: Mutex<Held>,
    early: Mutex<Early>,
    /// Somebody else may have a descriptor of the socket.
    shared: AtomicBool,
    /// A loop has watched it.
    watched: AtomicBool,
}

/// Accepted when the last place had just been taken on another loop: they wait for theirs here, so
/// that whoever accepts next knows of them.
pub(crate) type Early = VecDeque<(OwnedFd, Address)>;

enum Held {
    Nobody,
    /// By a loop, for itself.
    Loop(Arc<Remote>),
    /// By the main reactor, for all.
    Main,
    /// By nobody any more.
    Closed,
}

impl Seat {
    pub(crate) fn new(
        front: &Arc<Front>,
        info: &Arc<ListenerInfo>,
        door: &Arc<Door>,
        socket: Arc<OwnedFd>,
    ) -> Arc<Self> {
        let (info, door) = (info.clone(), door.clone());
        let (held, early) = (Mutex::new(Held::Nobody), Mutex::default());
        let (front, shared, watched) = (front.clone(), AtomicBool::new(false), false.into());
        front.opening.expect_one();
        Arc::new(Self { front, info, door, socket, held, early, shared, watched })
    }

    /// Begins to accept for all loops. Those that are started later are looked at while somebody
    /// holds what it returns.
    pub(crate) fn open(self: &Arc<Self>, manager: &PollManager) -> Arc<OnLoop> {
        if manager.loops() > 1 {
            *lock(&self.held) = Held::Main;
            self.listen(&self.front.main, None);
        }
        let seat = self.clone();
        let on_loop: Arc<OnLoop> = Arc::new(move |home: &Arc<Remote>| seat.see(home));
        manager.on_each_loop(&on_loop);
        on_loop
    }

    /// Has a loop accept for itself, unless another does; says whether it was free.
    pub(crate) fn take(self: &Arc<Self>, home: &Arc<Remote>) -> bool {
        let mut held = lock(&self.held);
        match &*held {
            Held::Nobody => {}
            Held::Main => self.front.main.unlisten(&self.socket),
            Held::Loop(_) | Held::Closed => return false,
        }
        *held = self.listen_on(home);
        true
    }

    /// The loop that accepted does so no more: the main reactor does.
    pub(crate) fn give_back(self: &Arc<Self>) {
        self.leave_to_main_if(|held| matches!(held, Held::Loop(_)));
    }

    /// Has the main reactor accept, unless somebody does.
    pub(crate) fn leave_to_main(self: &Arc<Self>) {
        self.leave_to_main_if(|held| matches!(held, Held::Nobody));
    }

    /// Ends accepting, but for what [`acceptor`](Self::acceptor) is told to do.
    pub(crate) fn close(&self) {
        match std::mem::replace(&mut *lock(&self.held), Held::Closed) {
            Held::Loop(home) => home.unlisten(&self.socket),
            Held::Main => self.front.main.unlisten(&self.socket),
            Held::Nobody | Held::Closed => {}
        }
    }

    /// The socket, for somebody who may go on with it whatever happens here.
    pub(crate) fn share(&self) -> &Arc<OwnedFd> {
        self.shared.store(true, Ordering::SeqCst);
        &self.socket
    }

    /// Whether somebody else may have a descriptor of the socket, and go on with it.
    pub(crate) fn is_shared(&self) -> bool {
        self.shared.load(Ordering::SeqCst)
    }

    /// A loop watches it.
    pub(crate) fn watched(&self) {
        if !self.watched.swap(true, Ordering::SeqCst) {
            self.front.opening.watched();
        }
    }

    /// Has nobody else begin to connect, and returns who has begun and is not in the queue yet.
    /// Best effort: Unix sockets can't, and have no handshakes.
    pub(crate) fn turn_away_newcomers(&self) -> Vec<Handshake> {
        if self.info.address.is_unix() {
            return Vec::new();
        }
        if let Err(error) = socket::turn_away_newcomers(&self.socket) {
            log::debug!("cannot filter those who come to a closing listener: {error}");
        }
        self.handshakes()
    }

    /// Whether one of these handshakes is still under way.
    pub(crate) fn awaits(&self, begun: &[Handshake]) -> bool {
        !begun.is_empty() && self.handshakes().iter().any(|it| begun.contains(it))
    }

    /// None where nobody knows.
    fn handshakes(&self) -> Vec<Handshake> {
        socket::handshakes(&self.socket).unwrap_or_else(|error| {
            log::debug!("cannot ask for handshakes on {}: {error}", self.info.address);
            Vec::new()
        })
    }

    /// Closes the port, though a loop that is inside a callback lets go of the socket late.
    pub(crate) fn stop_listening(&self) {
        if let Err(error) = socket::stop_listening(&self.socket) {
            log::debug!("cannot close the port before the loop does: {error}");
        }
    }

    /// An acceptor for the caller, or for a loop, `own` if that keeps what it accepts.
    pub(crate) fn acceptor(self: &Arc<Self>, own: Option<Arc<Remote>>) -> Acceptor {
        Acceptor::new(self, own)
    }

    pub(crate) fn early(&self) -> MutexGuard<'_, Early> {
        lock(&self.early)
    }

    /// There is this loop, one of those that the socket is for.
    fn see(self: &Arc<Self>, home: &Arc<Remote>) {
        let mut held = lock(&self.held);
        let next = match &*held {
            Held::Nobody => self.listen_on(home),
            Held::Loop(only) => {
                only.unlisten(&self.socket);
                self.listen(&self.front.main, None);
                Held::Main
            }
            Held::Main | Held::Closed => return,
        };
        *held = next;
    }

    fn leave_to_main_if(self: &Arc<Self>, is_so: impl Fn(&Held) -> bool) {
        let mut held = lock(&self.held);
        if is_so(&held) {
            self.listen(&self.front.main, None);
            *held = Held::Main;
        }
    }

    /// Has a loop accept for itself or, where it has ended just now, the main reactor for all.
    fn listen_on(self: &Arc<Self>, home: &Arc<Remote>) -> Held {
        if self.listen(home, Some(home.clone())) {
            return Held::Loop(home.clone());
        }
        self.listen(&self.front.main, None);
        Held::Main
    }

    fn listen(self: &Arc<Self>, home: &Remote, own: Option<Arc<Remote>>) -> bool {
        home.listen(self.socket.clone(), Box::new(self.acceptor(own)))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
