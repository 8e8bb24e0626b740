//! One `serve`, from the opening of the doors to the last connection's end.

use std::io;
use std::iter;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use netpoll_core::{
    Dispatcher, Error, Group, ListenerInfo, OnLoop, PollManager, Prepare, Reactor, Remote, Result,
    socket,
};

use crate::acceptor::{Acceptor, Front};
use crate::doors::{Doors, Kept, Leaving};
use crate::event_loop::{Report, Settings};
use crate::gate::{Door, Gate};
use crate::listener::{Again, Listener};
use crate::opening::Opening;
use crate::seat::Seat;
use crate::succession::{Participant, Succession};

/// How long connections that are aborted at the deadline may take to run their `on_disconnect`, and
/// threads to end; those that take longer are inside a callback, and are left behind.
const GRACE: Duration = Duration::from_millis(200);
/// How long closing doors wait for handshakes that have begun: longer than a round trip takes, not
/// so long that who never completes one holds up the shutdown.
const HANDSHAKES: Duration = Duration::from_millis(500);
/// How many descriptors must be left to a process that takes listeners over.
const SPARE_AT_LEAST: usize = 8;
const GLANCE: Duration = Duration::from_millis(1);

/// What runs while an event loop serves.
pub(crate) struct Serving {
    manager: Arc<PollManager>,
    dispatcher: Dispatcher,
    reactor: Mutex<Option<Reactor>>,
    front: Arc<Front>,
    doors: Arc<Doors>,
}

impl Serving {
    pub(crate) fn new(
        settings: &Settings,
        callbacks: Arc<dyn Prepare>,
        opening: Arc<Opening>,
    ) -> Result<Self> {
        let manager = if let Some(manager) = &settings.manager {
            manager.check_process()?;
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
        let (weak, main) = (Arc::downgrade(&manager), reactor.remote());
        let front = Front::new(group, callbacks, weak, gate, main, opening);
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
        let successions = successions(&listeners);
        let mut each_loop = Vec::new();
        for (mut listener, info) in listeners.into_iter().zip(infos) {
            listener.serve();
            log::info!("serving {} on {}", info.name, info.address);
            let (limit, proxy) = (listener.service.max_connections, listener.service.proxy);
            let door = Door::new(&self.front.gate, &info, limit, proxy);
            let seat = |it: &Arc<OwnedFd>| Seat::new(&self.front, &info, &door, it.clone());
            let mut seats: Vec<_> = listener.sockets().map(seat).collect();
            if listener.is_shared() {
                for seat in &seats {
                    seat.share();
                }
            }
            if let Some(again) = listener.again() {
                let seats = std::mem::take(&mut seats);
                each_loop.push(self.listen_on_each_loop(seats, again.clone(), &info, &door));
            } else {
                each_loop.extend(seats.iter().map(|it| it.open(&self.manager)));
            }
            lock(&self.doors.kept).push(Kept { listener, door, seats });
        }
        self.open(successions);
        let reactor = lock(&self.reactor).take();
        let ended = reactor.map_or(Ok(()), Reactor::run);
        // No further loop is looked at from here on.
        drop(each_loop);
        if let Some(error) = self.front.take_failure() {
            return Err(error);
        }
        ended.map_err(|error| {
            let text = format!("the loop that accepts has ended: {error}");
            Error::Io(io::Error::new(error.kind(), text))
        })
    }

    /// Serves as soon as all sockets are watched, and the processes that had them before know.
    fn open(&self, successions: Vec<(Arc<Succession>, usize)>) {
        let (front, doors) = (self.front.clone(), self.doors.clone());
        self.front.opening.when_watched(move || {
            // A process that follows another one must not follow it into a shortage.
            let needed = if successions.is_empty() { 1 } else { SPARE_AT_LEAST };
            let spare = iter::repeat_with(socket::spare_descriptor).take(needed);
            if let Err(error) = spare.collect::<io::Result<Vec<_>>>() {
                let text = format!(
                    "too few descriptors are left to accept connections with: {error}; raise the \
                     limit (ulimit -n)"
                );
                return front.fail(Error::Io(io::Error::new(error.kind(), text)));
            }
            let hold = front.opening.hold();
            for (succession, count) in successions {
                let (front, doors, hold) = (front.clone(), doors.clone(), Some(hold.clone()));
                succession.served(count, Participant { front, doors, hold });
            }
        });
    }

    /// Gives each loop a socket of its own, those that are started later among them: one of
    /// `seats`, one that a retired loop has left, or a further one.
    fn listen_on_each_loop(
        &self,
        mut seats: Vec<Arc<Seat>>,
        again: Arc<Again>,
        info: &Arc<ListenerInfo>,
        door: &Arc<Door>,
    ) -> Arc<OnLoop> {
        let (front, doors) = (self.front.clone(), self.doors.clone());
        let (info, own) = (info.clone(), door.clone());
        let at_fault = front.clone();
        let open = move || Ok(Seat::new(&front, &info, &own, again.open()?));
        // All listen before the first of them accepts, so that who comes from then on is spread.
        for _ in seats.len()..self.manager.loops() {
            match open() {
                Ok(seat) => seats.push(seat),
                Err(error) => {
                    at_fault.fail(Error::Io(error));
                    break;
                }
            }
        }
        lock(&doors.per_loop).seats.extend(seats.iter().cloned());
        let own = door.clone();
        let on_loop: Arc<OnLoop> = Arc::new(move |home: &Arc<Remote>| {
            if doors.has_place_for(home, &own) {
                return;
            }
            // Not under the lock: it runs the user's `before_bind`.
            let seat = match open() {
                Ok(seat) => seat,
                // The others go on; it serves what they accept for all, if one does.
                Err(error) => return log::warn!("a loop accepts nothing for itself: {error}"),
            };
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
            remote.shut_down(&group);
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
        let left_open = self.doors.are_left_open();
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

/// From which other processes the listeners come, and how many of them from each.
fn successions(listeners: &[Listener]) -> Vec<(Arc<Succession>, usize)> {
    let mut all: Vec<(Arc<Succession>, usize)> = Vec::new();
    for share in listeners.iter().filter_map(Listener::share_of_succession) {
        match all.iter_mut().find(|(it, _)| share.is_of(it)) {
            Some((_, count)) => *count += 1,
            None => all.push((share.succession().clone(), 1)),
        }
    }
    all
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
