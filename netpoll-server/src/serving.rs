//! One `serve`, from the opening of the doors to the last connection's end.

use std::io;
use std::iter;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use netpoll_core::{
    Dispatcher, Error, Group, ListenerInfo, OnLoop, PollManager, Prepare, Reactor, Remote, Result,
};

use crate::acceptor::{Acceptor, Front};
use crate::event_loop::{Report, Settings};
use crate::gate::{Door, Gate};
use crate::listener::Listener;
use crate::seat::Seat;

/// How long connections that are aborted at the deadline may take to run their `on_disconnect`, and
/// threads to end; those that take longer are inside a callback, and are left behind.
const GRACE: Duration = Duration::from_millis(200);
/// How long closing doors wait for handshakes that have begun: longer than a round trip takes, not
/// so long that who never completes one holds up the shutdown.
const HANDSHAKES: Duration = Duration::from_millis(500);
const GLANCE: Duration = Duration::from_millis(1);

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
    /// The listeners that are one socket for all loops.
    kept: Mutex<Vec<Kept>>,
    /// The sockets of the others, each of which was opened for a loop.
    per_loop: Mutex<PerLoop>,
    /// Another process has them as well, and goes on with them.
    left_open: AtomicBool,
}

type Kept = (Listener, Arc<Seat>);

#[derive(Default)]
struct PerLoop {
    seats: Vec<Arc<Seat>>,
    /// None is opened any more.
    closed: bool,
}

impl Serving {
    pub(crate) fn new(settings: &Settings, callbacks: Arc<dyn Prepare>) -> Result<Self> {
        let manager = if let Some(manager) = &settings.manager {
            manager.clone()
        } else {
            let balance = settings.balance.clone();
            Arc::new(PollManager::with_spin(settings.loops, balance, settings.spin)?)
        };
        let dispatcher = Dispatcher::new(settings.dispatch)?;
        let group = Group::served(settings.limits, dispatcher.clone())?;
        group.watch_callbacks(settings.slow_callback);
        let reactor = Reactor::new()?;
        let gate = Gate::new(settings.gate.clone());
        let front = Front::new(group, callbacks, Arc::downgrade(&manager), gate, reactor.remote());
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
            let (limit, proxy) = (listener.service.max_connections, listener.service.proxy);
            let door = Door::new(&self.front.gate, &info, limit, proxy);
            if listener.is_per_loop() {
                each_loop.push(self.listen_on_each_loop(listener, info, door));
            } else {
                let seat = Seat::new(&self.front, info, door, listener.socket().clone());
                each_loop.push(seat.open(&self.manager));
                lock(&self.doors.kept).push((listener, seat));
            }
        }
        let reactor = lock(&self.reactor).take();
        let ended = reactor.map_or(Ok(()), Reactor::run);
        // No further loop is looked at from here on.
        drop(each_loop);
        if let Some(error) = self.front.take_failure() {
            return Err(broken(&error));
        }
        ended.map_err(|error| {
            let text = format!("the loop that accepts has ended: {error}");
            Error::Io(io::Error::new(error.kind(), text))
        })
    }

    /// Gives each loop a socket of its own, those that are started later among them: one that a
    /// retired loop has left, or a further one.
    fn listen_on_each_loop(
        &self,
        listener: Listener,
        info: Arc<ListenerInfo>,
        door: Arc<Door>,
    ) -> Arc<OnLoop> {
        let (front, doors) = (self.front.clone(), self.doors.clone());
        let is_shared = listener.is_shared();
        let (first, again) = listener.into_parts();
        let own = door.clone();
        let first = Seat::new(&front, info.clone(), door.clone(), first);
        if is_shared {
            first.share();
        }
        let open = move || match again() {
            Ok(socket) => Some(Seat::new(&front, info.clone(), door.clone(), socket)),
            Err(error) => {
                front.fail(error);
                None
            }
        };
        // All listen before the first of them accepts, so that who comes from then on is spread.
        let further = (1..self.manager.loops()).map_while(|_| open());
        let seats: Vec<_> = iter::once(first).chain(further).collect();
        lock(&doors.per_loop).seats.extend(seats.iter().cloned());
        let on_loop: Arc<OnLoop> = Arc::new(move |home: &Arc<Remote>| {
            if doors.has_place_for(home, &own) {
                return;
            }
            // Not under the lock: it runs the user's `before_bind`.
            let Some(seat) = open() else { return };
            let mut per_loop = lock(&doors.per_loop);
            if per_loop.closed {
                drop(per_loop); // before the socket
            } else {
                seat.take(home);
                per_loop.seats.push(seat);
            }
        });
        self.manager.on_each_loop(&on_loop);
        for seat in &seats {
            // Where a loop has retired meanwhile.
            seat.leave_to_main();
        }
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

    /// Admits everybody who has connected, or is about to have, and closes the listeners. Nobody
    /// who had connected is reset by it.
    fn close_doors(&self, deadline: Instant) {
        for remote in self.manager.remotes() {
            // Ahead of the end of accepting, which is waited for: so they are admitted before that.
            remote.end_preambles(&self.front.group);
        }
        let Leaving { closing, shared } = self.doors.leave();
        close_when_empty(&closing, deadline.min(Instant::now() + HANDSHAKES));
        self.front.wait_alone(deadline.max(Instant::now() + GRACE));
        let left_open = self.doors.left_open.load(Ordering::SeqCst);
        for seat in shared.iter().chain(&closing) {
            let mut last = seat.acceptor(None);
            if seat.is_shared() && !left_open {
                // Whoever has it as well may not accept.
                last.empty_queue();
            }
            // Whom loops took out of the queue last is left to whoever accepts next.
            last.let_in_early(usize::MAX, true);
        }
        self.front.close();
    }
}

/// Admits everybody who has begun to connect before it closes the port; those whose handshake takes
/// longer than until `late` are reset.
fn close_when_empty(closing: &[Arc<Seat>], late: Instant) {
    let mut last: Vec<_> = closing.iter().map(|seat| seat.acceptor(None)).collect();
    let begun: Vec<_> = closing.iter().map(|seat| seat.turn_away_newcomers()).collect();
    loop {
        let is_over = Instant::now() >= late
            || !closing.iter().zip(&begun).any(|(seat, begun)| seat.awaits(begun));
        // After each look, since those who were not found are in the queue by then; and each time,
        // since a full queue takes no handshake's end.
        last.iter_mut().for_each(Acceptor::empty_queue);
        if is_over {
            break;
        }
        // sleep: no event tells that a handshake is over
        std::thread::sleep(GLANCE);
    }
    for seat in closing {
        seat.stop_listening();
    }
}

/// What nobody accepts on any more.
struct Leaving {
    /// Sockets that close.
    closing: Vec<Arc<Seat>>,
    /// Sockets that somebody else has too, and may go on with.
    shared: Vec<Arc<Seat>>,
}

impl Doors {
    /// Whether this loop needs no further socket of that door: it has taken one that was free, or
    /// none is opened any more.
    fn has_place_for(&self, home: &Arc<Remote>, door: &Arc<Door>) -> bool {
        let per_loop = lock(&self.per_loop);
        let mut seats = per_loop.seats.iter().filter(|it| Arc::ptr_eq(&it.door, door));
        per_loop.closed || seats.any(|it| it.take(home))
    }

    /// The sockets, with their names, to be given to somebody else.
    pub(crate) fn sockets(&self) -> Vec<(String, Arc<OwnedFd>)> {
        let kept = lock(&self.kept);
        let kept = kept.iter().map(|(it, seat)| (seat.info.name.to_string(), it.share().clone()));
        let per_loop = lock(&self.per_loop);
        let open = |it: &Arc<Seat>| (it.info.name.to_string(), it.share().clone());
        kept.chain(per_loop.seats.iter().map(open)).collect()
    }

    /// Ends accepting by any reactor.
    fn leave(&self) -> Leaving {
        let left_open = self.left_open.load(Ordering::SeqCst);
        let mut seats = Vec::new();
        for (mut listener, seat) in std::mem::take(&mut *lock(&self.kept)) {
            if left_open {
                listener.keep_path();
            }
            if listener.is_shared() {
                seat.share();
            }
            // The path goes first: who comes now is refused, and does not wait in vain.
            drop(listener);
            seats.push(seat);
        }
        let mut per_loop = lock(&self.per_loop);
        per_loop.closed = true;
        seats.append(&mut per_loop.seats);
        for seat in &seats {
            seat.close();
        }
        // A filter would stay on a shared one, and shut out whoever goes on with it.
        let (shared, closing) = seats.into_iter().partition(|seat| seat.is_shared());
        Leaving { closing, shared }
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
