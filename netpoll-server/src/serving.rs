//! One `serve`, from the opening of the doors to the last connection's end.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use netpoll_core::{
    Dispatcher, Error, Group, ListenerInfo, OnLoop, PollManager, Prepare, Reactor, Remote, Result,
    socket,
};

use crate::acceptor::{Acceptor, Front, turn_away_newcomers};
use crate::event_loop::{Report, Settings};
use crate::gate::{Door, Gate};
use crate::listener::Listener;
use crate::seat::Seat;

/// How long connections that are aborted at the deadline may take to run their `on_disconnect`, and
/// threads to end; those that take longer are inside a callback, and are left behind.
const GRACE: Duration = Duration::from_millis(200);

/// What runs while an event loop serves.
pub(crate) struct Serving {
    manager: Arc<PollManager>,
    dispatcher: Dispatcher,
    reactor: Mutex<Option<Reactor>>,
    front: Arc<Front>,
    doors: Arc<Doors>,
}

/// What is accepted on.
#[derive(Default)]
pub(crate) struct Doors {
    /// The listeners that one reactor accepts on, and which.
    kept: Mutex<Vec<Kept>>,
    /// The sockets that loops accept on by themselves. A loop that has retired has closed its own.
    per_loop: Mutex<Vec<Socket>>,
    /// Another process has them as well, and goes on with them.
    left_open: AtomicBool,
}

type Kept = (Listener, Arc<Seat>);

struct Socket {
    fd: Weak<OwnedFd>,
    home: Weak<Remote>,
    listener: Arc<ListenerInfo>,
    door: Arc<Door>,
}

impl Serving {
    pub(crate) fn new(settings: &Settings, callbacks: Arc<dyn Prepare>) -> Result<Self> {
        let manager = match &settings.manager {
            Some(manager) => manager.clone(),
            None => Arc::new(PollManager::new(settings.loops, settings.balance.clone())?),
        };
        let dispatcher = Dispatcher::new(settings.dispatch)?;
        let group = Group::served(settings.limits, dispatcher.clone())?;
        group.watch_callbacks(settings.slow_callback);
        let reactor = Reactor::new()?;
        let gate = Gate::new(settings.gate.clone());
        let front = Front::new(group, callbacks, manager.clone(), gate, reactor.remote());
        let (reactor, doors) = (Mutex::new(Some(reactor)), Arc::default());
        Ok(Self { manager, dispatcher, reactor, front, doors })
    }

    pub(crate) fn group(&self) -> Arc<Group> {
        self.front.group.clone()
    }

    pub(crate) fn doors(&self) -> Arc<Doors> {
        self.doors.clone()
    }

    pub(crate) fn manager(&self) -> Weak<PollManager> {
        Arc::downgrade(&self.manager)
    }

    pub(crate) fn main(&self) -> Arc<Remote> {
        self.front.main.clone()
    }

    /// Accepts until the main reactor is stopped; an error is a listener's.
    pub(crate) fn accept(&self, listeners: Vec<Listener>) -> Result<()> {
        // All or none: the first that can't be served ends it.
        let infos = listeners.iter().enumerate().map(|(index, it)| it.prepare(index));
        let infos: Vec<_> = infos.collect::<Result<_>>()?;
        let mut each_loop = Vec::new();
        for (listener, info) in listeners.into_iter().zip(infos) {
            log::info!("serving {} on {}", info.name, info.address);
            let door = Door::new(listener.service.max_connections, listener.service.proxy);
            if listener.is_per_loop() {
                each_loop.push(self.listen_on_each_loop(listener, info, door));
            } else {
                let seat = Seat::new(&self.front, info, door, listener.socket());
                each_loop.push(seat.open(&self.manager));
                lock(&self.doors.kept).push((listener, seat));
            }
        }
        if let Some(reactor) = lock(&self.reactor).take() {
            reactor.run();
        }
        // No further loop is looked at from here on.
        drop(each_loop);
        match self.front.take_failure() {
            Some(error) => Err(broken(&error)),
            None => Ok(()),
        }
    }

    /// Gives each loop a socket of its own, those that are started later among them.
    fn listen_on_each_loop(
        &self,
        listener: Listener,
        info: Arc<ListenerInfo>,
        door: Arc<Door>,
    ) -> Arc<OnLoop> {
        let (front, doors) = (self.front.clone(), self.doors.clone());
        let (first, again) = listener.into_parts();
        let first = Mutex::new(Some(first));
        let on_loop: Arc<OnLoop> = Arc::new(move |home: &Arc<Remote>| {
            // The one that is open already is the first loop's.
            let fd = match lock(&first).take() {
                Some(fd) => fd,
                None => match again() {
                    Ok(fd) => fd,
                    Err(error) => return front.fail(error),
                },
            };
            let acceptor = Acceptor::new(&front, &info, &door, &fd, Some(home.clone()));
            let (listener, door) = (info.clone(), door.clone());
            let (weak, at) = (Arc::downgrade(&fd), Arc::downgrade(home));
            lock(&doors.per_loop).push(Socket { fd: weak, home: at, listener, door });
            home.listen(fd, Box::new(acceptor));
        });
        self.manager.on_each_loop(&on_loop);
        on_loop
    }

    /// Parts from everybody: closes the doors behind those who wait at them, then ends connections,
    /// in order until the deadline, then by force.
    pub(crate) fn part(self, deadline: Instant) -> Report {
        self.close_doors(deadline);
        let Self { manager, dispatcher, front, .. } = self;
        let group = front.group.clone();
        let open = group.live();
        let remotes = manager.remotes();
        for remote in &remotes {
            remote.drain(&group);
        }
        let aborted = group.wait_empty(deadline);
        if aborted > 0 {
            for remote in &remotes {
                remote.abort(&group);
            }
            let left = group.wait_empty(Instant::now() + GRACE);
            log::warn!("{aborted} connections were closed by force, {left} are inside a callback");
        }
        let drained = open.saturating_sub(aborted);
        let report = Report { drained, aborted, refused: group.refused() as usize };
        log::info!("shut down: {drained} connections drained, {aborted} aborted");
        dispatcher.stop(GRACE);
        drop((front, remotes));
        if let Some(own) = Arc::into_inner(manager) {
            own.close(GRACE);
        }
        report
    }

    /// Admits everybody who is in a kernel's queue, and closes the listeners. Nobody who had
    /// connected is reset by it.
    fn close_doors(&self, deadline: Instant) {
        let left_open = self.doors.left_open.load(Ordering::SeqCst);
        for (mut listener, seat) in std::mem::take(&mut *lock(&self.doors.kept)) {
            let fd = listener.socket().clone();
            seat.close();
            if left_open {
                listener.keep_path();
                continue;
            }
            let is_shared = listener.is_shared();
            // The path goes first: who comes now is refused, and does not wait in vain.
            drop(listener);
            if !is_shared {
                // The filter stays on the socket, and whoever goes on with it would wait in vain.
                turn_away_newcomers(&fd);
            }
            seat.acceptor(None).empty_queue();
            // A loop that is inside a callback lets go of the socket late.
            if !is_shared && let Err(error) = socket::stop_listening(&fd) {
                log::debug!("cannot close the port before the loop does: {error}");
            }
        }
        for Socket { fd, home, listener, door } in std::mem::take(&mut *lock(&self.doors.per_loop))
        {
            let Some(fd) = fd.upgrade() else { continue };
            if let Some(home) = home.upgrade() {
                home.unlisten(&fd);
            }
            if left_open {
                continue;
            }
            turn_away_newcomers(&fd);
            Acceptor::new(&self.front, &listener, &door, &fd, None).empty_queue();
        }
        self.front.wait_alone(deadline.max(Instant::now() + GRACE));
        self.front.close();
    }
}

impl Doors {
    /// The sockets, with their names, to be given to somebody else.
    pub(crate) fn sockets(&self) -> Vec<(String, Arc<OwnedFd>)> {
        let kept = lock(&self.kept);
        let kept = kept.iter().map(|(it, seat)| (seat.info.name.to_string(), it.share().clone()));
        let per_loop = lock(&self.per_loop);
        let open = |it: &Socket| Some((it.listener.name.to_string(), it.fd.upgrade()?));
        kept.chain(per_loop.iter().filter_map(open)).collect()
    }

    /// Has the end of the serving leave the queues and the paths alone.
    pub(crate) fn leave_open(&self) {
        self.left_open.store(true, Ordering::SeqCst);
    }
}

fn broken(error: &io::Error) -> Error {
    let text = format!("the listener can accept no more, was it closed? {error}");
    Error::Io(io::Error::new(error.kind(), text))
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
