//! What becomes of the streams that a listener accepts, and of a listener that can't accept.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use netpoll_core::{Accept, Address, Error, Group, PollManager, Prepare, Remote, Room, socket};

use crate::gate::{AtLimit, Gate, Limit, Ticket};
use crate::greeting::Greeting;
use crate::guest::{Guest, refuse};
use crate::opening::Opening;
use crate::seat::Seat;

/// How long a listener pauses at first when descriptors or memory have run out; each further
/// failure doubles it, a success resets it.
const PAUSE_AT_FIRST: Duration = Duration::from_millis(5);
const PAUSE_AT_MOST: Duration = Duration::from_secs(1);
/// At most one line of log in this time says that accepting fails: a peer must not fill the disk.
const LOG_PERIOD: Duration = Duration::from_secs(5);

/// What the acceptors of one event loop have in common.
pub(crate) struct Front {
    pub(crate) group: Arc<Group>,
    pub(crate) callbacks: Arc<dyn Prepare>,
    /// Weak, since those who wait to be let in know the front: with the last of them the manager
    /// would end on one of its own loops.
    pub(crate) manager: Weak<PollManager>,
    pub(crate) gate: Arc<Gate>,
    /// The main reactor; it ends with the first listener that breaks.
    pub(crate) main: Arc<Remote>,
    pub(crate) opening: Arc<Opening>,
    state: Mutex<State>,
    gone: Condvar,
}

#[derive(Default)]
struct State {
    failure: Option<Error>,
    /// Acceptors that a loop may still call.
    acceptors: usize,
    /// Connections that are being admitted just now.
    admissions: usize,
    /// `serve` is about to return: nothing more may be admitted.
    closed: bool,
}

/// Hands the streams that one socket accepts to the loops of a manager.
pub(crate) struct Acceptor {
    /// Before `counted`, so that whoever waits for that finds the socket let go.
    seat: Arc<Seat>,
    /// The loop that it runs on and accepts for, where it does not accept for all.
    own: Option<Arc<Remote>>,
    trouble: Trouble,
    /// Given up for a moment where descriptors have run out, to tell one client by closing it.
    spare: Option<OwnedFd>,
    counted: Counted,
}

/// How badly accepting goes.
#[derive(Debug, Default)]
struct Trouble {
    pause: Option<Duration>,
    until: Option<Instant>,
    /// The last pause went by without a descriptor's coming free.
    stuck: bool,
    /// How many tickets had come back before it: one more, and a descriptor has come free.
    returned: u64,
    logged: Option<Instant>,
    unlogged: u64,
}

impl Front {
    pub(crate) fn new(
        group: Arc<Group>,
        callbacks: Arc<dyn Prepare>,
        manager: Weak<PollManager>,
        gate: Arc<Gate>,
        main: Arc<Remote>,
        opening: Arc<Opening>,
    ) -> Arc<Self> {
        let (state, gone) = (Mutex::default(), Condvar::new());
        Arc::new(Self { group, callbacks, manager, gate, main, opening, state, gone })
    }

    /// Why it can't go on, if it can't.
    pub(crate) fn take_failure(&self) -> Option<Error> {
        self.state().failure.take()
    }

    /// Ends `serve` with this error.
    pub(crate) fn fail(&self, error: Error) {
        self.opening.end();
        self.state().failure.get_or_insert(error);
        self.main.stop(Duration::ZERO);
    }

    /// Waits until no acceptor is left but those of the caller, or `deadline`.
    pub(crate) fn wait_alone(&self, deadline: Instant) {
        let mut state = self.state();
        while state.acceptors > 0 {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                drop(state);
                return log::warn!("a loop still accepts: a callback on it doesn't return");
            }
            let woken = self.gone.wait_timeout(state, left);
            state = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// From here on nobody is admitted. Waits for those that are being admitted just now.
    pub(crate) fn close(&self) {
        let mut state = self.state();
        state.closed = true;
        while state.admissions > 0 {
            state = self.gone.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Runs `admit` unless nobody is admitted any more. A connection that is admitted is there when
    /// the shutdown looks for connections. Not under the lock, since it may write to the log.
    pub(crate) fn while_open(&self, admit: impl FnOnce()) {
        {
            let mut state = self.state();
            if state.closed {
                return;
            }
            state.admissions += 1;
        }
        let _admission = Admission(self);
        admit();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Acceptor {
    /// An acceptor for a loop, `own` if it is to keep what it accepts, or for the caller.
    pub(crate) fn new(seat: &Arc<Seat>, own: Option<Arc<Remote>>) -> Self {
        let front = &seat.front;
        let counted = Counted::new(front);
        front.gate.add_acceptor(own.as_ref().unwrap_or(&front.main));
        let spare = socket::spare_descriptor().ok();
        Self { seat: seat.clone(), own, trouble: Trouble::default(), spare, counted }
    }

    /// Admits or refuses everybody who is in the kernel's queue, or was taken out of it too early.
    pub(crate) fn empty_queue(&mut self) {
        self.let_in_early(usize::MAX, true);
        loop {
            match socket::accept(&self.seat.socket) {
                Ok((stream, peer)) => self.let_in(stream, peer, true),
                Err(error) if socket::is_of_one_connection(&error) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) => return log::warn!("cannot accept those who wait: {error}"),
            }
        }
    }

    /// Asks again for those who were accepted too early, as many as there may be `room` for.
    pub(crate) fn let_in_early(&mut self, room: usize, last: bool) {
        let mut early = self.seat.early();
        let count = early.len().min(room);
        let some: Vec<_> = early.drain(..count).collect();
        drop(early);
        for (stream, peer) in some {
            self.let_in(stream, peer, last);
        }
    }

    /// Admits a stream or, above a limit, refuses it. Where it could wait in the kernel's queue but
    /// for its having been accepted already, it waits here, unless it is the `last` chance.
    fn let_in(&mut self, stream: OwnedFd, peer: Address, last: bool) {
        let Seat { front, door, info, .. } = &*self.seat;
        let gate = &front.gate;
        // Behind a proxy the source is known only when it has told.
        let source = if door.proxy.is_some() { None } else { peer.ip() };
        match gate.enter(door, source, Instant::now) {
            Ok(ticket) => {
                let guest = self.guest(stream, peer, ticket);
                match door.proxy {
                    Some(proxy) => Greeting::begin(guest, proxy, last),
                    None => guest.admit(),
                }
            }
            Err(limit)
                if matches!(gate.at_limit(), AtLimit::Queue) && limit != Limit::Source && !last =>
            {
                self.seat.early().push_back((stream, peer));
            }
            Err(limit) => refuse(front, stream, &peer, info, limit),
        }
    }

    fn guest(&self, stream: OwnedFd, peer: Address, ticket: Ticket) -> Guest {
        let (front, listener) = (self.seat.front.clone(), self.seat.info.clone());
        Guest { front, listener, own: self.own.clone(), stream, peer, local: None, ticket }
    }

    /// Gives up the spare descriptor to accept and close one client, who so knows at once.
    fn turn_one_away(&mut self) {
        if self.spare.take().is_some()
            && let Ok((stream, peer)) = socket::accept(&self.seat.socket)
        {
            self.seat.front.group.count_refusal();
            log::debug!("{peer} is refused: no descriptor is left");
            drop(stream);
        }
        self.spare = socket::spare_descriptor().ok();
    }
}

impl Accept for Acceptor {
    fn watched(&mut self) {
        self.seat.watched();
    }

    fn room(&mut self) -> Room {
        let gate = &self.seat.front.gate;
        if let Some(until) = self.trouble.until {
            let now = Instant::now();
            // It ends at once when a connection does.
            if now < until && gate.returned() == self.trouble.returned {
                return Room { count: 0, again: Some(until) };
            }
            self.trouble.until = None;
            self.trouble.stuck = now >= until;
        }
        let room = gate.room(&self.seat.door, Instant::now);
        self.trouble.returned = gate.returned();
        if self.seat.early().is_empty() {
            return room;
        }
        // Nobody is tried in vain: what that counts for a moment, others take for no room, and its
        // undoing would wake them, and us, without end.
        self.let_in_early(room.count, false);
        if self.seat.early().is_empty() {
            return self.seat.front.gate.room(&self.seat.door, Instant::now);
        }
        // Where there was room, there was too little, or others were faster.
        let soon = (room.count > 0).then(|| Instant::now() + PAUSE_AT_FIRST);
        Room { count: 0, again: room.again.or(soon) }
    }

    fn accepted(&mut self, stream: OwnedFd, peer: Address) {
        (self.trouble.pause, self.trouble.stuck) = (None, false);
        self.let_in(stream, peer, false);
    }

    fn failed(&mut self, error: &io::Error) -> bool {
        if socket::is_listener_dead(error) && !socket::is_listening(&self.seat.socket) {
            return false;
        }
        if self.trouble.stuck && socket::is_out_of_descriptors(error) {
            self.turn_one_away();
        }
        let now = Instant::now();
        let pause = self.trouble.next_pause(error, now);
        self.trouble.until = Some(now + pause);
        let gate = &self.seat.front.gate;
        self.trouble.returned = gate.returned();
        gate.wait();
        true
    }

    fn given_up(self: Box<Self>, error: io::Error) {
        let text = format!("the listener can accept no more, was it closed? {error}");
        self.seat.front.fail(Error::Io(io::Error::new(error.kind(), text)));
    }

    fn retired(self: Box<Self>) {
        self.seat.give_back();
    }
}

impl Drop for Acceptor {
    fn drop(&mut self) {
        if !self.seat.early().is_empty() {
            // Who accepts next may have looked before the last of them came.
            self.counted.0.gate.wake();
        }
    }
}

/// Counts one connection that is being admitted.
struct Admission<'a>(&'a Front);

impl Drop for Admission<'_> {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.admissions -= 1;
        let is_last = state.closed && state.admissions == 0;
        drop(state);
        if is_last {
            self.0.gone.notify_all();
        }
    }
}

/// Counts one acceptor.
struct Counted(Arc<Front>);

impl Counted {
    fn new(front: &Arc<Front>) -> Self {
        front.state().acceptors += 1;
        Self(front.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.state().acceptors -= 1;
        self.0.gone.notify_all();
    }
}

impl Trouble {
    fn next_pause(&mut self, error: &io::Error, now: Instant) -> Duration {
        let pause = self.pause.map_or(PAUSE_AT_FIRST, |pause| (pause * 2).min(PAUSE_AT_MOST));
        self.pause = Some(pause);
        if self.logged.is_none_or(|logged| now.duration_since(logged) >= LOG_PERIOD) {
            let before = std::mem::take(&mut self.unlogged);
            log::warn!(
                "cannot accept: {error}; the listener pauses, connections go on ({before} more \
                 times since the last such line); raise the limit (ulimit -n) or close connections"
            );
            self.logged = Some(now);
        } else {
            self.unlogged += 1;
        }
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_second_and_log_once_a_period() {
        let (mut trouble, start) = (Trouble::default(), Instant::now());
        let error = io::Error::from_raw_os_error(24);
        let pauses: Vec<_> =
            (0..10).map(|_| trouble.next_pause(&error, start).as_millis()).collect();
        assert_eq!(pauses, [5, 10, 20, 40, 80, 160, 320, 640, 1000, 1000]);
        assert_eq!(trouble.unlogged, 9);
        trouble.next_pause(&error, start + LOG_PERIOD);
        assert_eq!(trouble.unlogged, 0);
    }
}
