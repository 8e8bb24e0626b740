//! The epoll driver: every descriptor is registered once, edge-triggered, and never modified,
//! but a datagram socket, which is registered for room while it is awaited.
//!
//! ```text
//!   what epoll carries for each descriptor, beside the flags:
//!    63 ......... 32  31  30  29 ......... 0
//!   [ generation    ][ L ][ D ][ slot       ]
//! ```
//! L marks a listener and D a stream that was dialled: no slab has so many slots. So the event of
//! an accepted stream costs no look-up here. The eventfd carries a token with every bit set.

use std::collections::{HashMap, HashSet, VecDeque};
use std::io::{self, ErrorKind};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use super::datagram::DatagramSocket;
use super::driver::{Driver, DriverEvents, Event};
use super::listener::{self, Listener};
use super::readiness::{Readiness, StreamEvent};
use super::stream::Stream;
use crate::pure::slab::Token;
use crate::sys::epoll::{EpollFd, RawEvent, RawFlags};
use crate::sys::eventfd::EventFd;
use crate::sys::planned::{self, Call};

/// How many connections a listener may accept in one wait, so that a flood of them does not starve
/// the streams of the same loop.
const ACCEPTS_PER_WAIT: usize = 64;
/// How many connections in a row may be gone before they are accepted. One more, and the listener
/// itself is taken to be at fault.
const FAILURES_IN_A_ROW: usize = 16;
/// The event array starts here, and doubles whenever a wait fills it.
const EVENTS_AT_FIRST: usize = 128;
const EVENTS_AT_MOST: usize = 8192;

/// See the module.
const LISTENER: u64 = 1 << 31;
const DIALLED: u64 = 1 << 30;

/// See the module.
#[derive(Debug)]
pub(crate) struct Epoll {
    epoll: EpollFd,
    raw: Vec<RawEvent>,
    /// The dialled streams that are still on their way.
    connecting: HashSet<Token>,
    listeners: HashMap<Token, Listening>,
    /// The last wait found a connection in a listener's queue.
    accepting: bool,
}

/// A listener, as the driver accepts on it.
#[derive(Debug)]
struct Listening {
    listener: Arc<Listener>,
    /// Whether epoll watches it.
    watched: bool,
    /// Other epoll instances watch it, too, and one of them is enough.
    exclusive: bool,
    /// This wait found a connection in its queue.
    ready: bool,
    /// How many connections the reactor takes in a wait.
    room: usize,
    /// How many accepts to try in the next wait that finds a connection in the queue. It doubles
    /// with each such wait in a row. Where the queue held less, it becomes what the queue held;
    /// after a wait that found none, it becomes 1. So a single connection costs one accept, not a
    /// second one that finds the queue empty, and a burst soon comes in batches.
    batch: usize,
    failures: usize,
}

impl Epoll {
    /// A driver whose waits end when `event` is signalled.
    pub(crate) fn new(event: &EventFd) -> io::Result<Self> {
        let epoll = EpollFd::new()?;
        epoll.add(event.as_fd(), RawFlags::EPOLLIN, Token::NONE.to_u64())?;
        Ok(Self {
            epoll,
            raw: vec![RawEvent::empty(); EVENTS_AT_FIRST],
            connecting: HashSet::new(),
            listeners: HashMap::new(),
            accepting: false,
        })
    }

    fn add(&self, stream: &Stream, data: u64) -> io::Result<()> {
        let flags =
            RawFlags::EPOLLIN | RawFlags::EPOLLOUT | RawFlags::EPOLLRDHUP | RawFlags::EPOLLPRI;
        self.epoll.add(stream.as_fd(), flags, data)
    }

    /// Hands out what has happened to streams; says whether a listener's queue has a connection.
    fn translate(&mut self, count: usize, events: &mut DriverEvents) -> bool {
        let mut found = false;
        let Self { raw, connecting, listeners, .. } = self;
        for raw in &raw[..count] {
            if raw.data() & (LISTENER | DIALLED) == 0 {
                let (token, readiness) = (Token::from_u64(raw.data()), readiness(raw.events()));
                events.streams.push_back(StreamEvent { token, readiness });
            } else if raw.data() & LISTENER == 0 {
                translate_dialled(raw, connecting, events);
            } else {
                let token = Token::from_u64(raw.data() & !(LISTENER | DIALLED));
                if let Some(listener) = listeners.get_mut(&token) {
                    (listener.ready, found) = (true, true);
                } // else it is the eventfd
            }
        }
        found
    }

    /// Accepts where the wait `found` a connection. Where it is the first that found none, notes
    /// that.
    fn accept(&mut self, found: bool, events: &mut VecDeque<Event>) {
        if std::mem::replace(&mut self.accepting, found) || found {
            for (&token, listener) in &mut self.listeners {
                if std::mem::take(&mut listener.ready) {
                    listener.accept(token, events);
                } else {
                    listener.batch = 1;
                }
            }
        }
    }
}

/// Hands out what has happened to a stream that was dialled.
#[inline(never)] // so that the loop over the other streams stays small
fn translate_dialled(raw: &RawEvent, connecting: &mut HashSet<Token>, events: &mut DriverEvents) {
    let token = Token::from_u64(raw.data() & !DIALLED);
    let readiness = readiness(raw.events());
    events.streams.push_back(StreamEvent { token, readiness });
    // Empty nearly always: then an event of a stream that is connected costs no look-up either.
    if readiness.sendable && !connecting.is_empty() && connecting.remove(&token) {
        events.others.push_back(Event::Connected { token });
    }
}

impl Listening {
    fn accept(&mut self, token: Token, events: &mut VecDeque<Event>) {
        for accepted in 0..self.batch.min(self.room) {
            match self.listener.accept() {
                Ok((stream, peer)) => {
                    self.failures = 0;
                    events.push_back(Event::Accepted { listener: token, stream, peer });
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.batch = accepted.max(1);
                    return;
                }
                Err(error) => {
                    self.failures += 1;
                    let skipped =
                        listener::is_of_one_connection(&error) && self.failures < FAILURES_IN_A_ROW;
                    events.push_back(Event::Failed { listener: token, error, skipped });
                    if !skipped {
                        self.failures = 0;
                        return;
                    }
                }
            }
        }
        self.batch = (self.batch * 2).min(ACCEPTS_PER_WAIT);
    }
}

impl Driver for Epoll {
    fn watch(&mut self, stream: &Stream, token: Token) -> io::Result<()> {
        self.add(stream, token.to_u64())
    }

    fn connect(&mut self, stream: &Stream, token: Token) -> io::Result<()> {
        self.add(stream, token.to_u64() | DIALLED)?;
        self.connecting.insert(token);
        Ok(())
    }

    fn forget(&mut self, stream: &Stream, token: Token) -> io::Result<()> {
        self.connecting.remove(&token);
        self.epoll.remove(stream.as_fd())
    }

    fn watch_datagrams(&mut self, socket: &DatagramSocket, token: Token) -> io::Result<()> {
        planned::next(socket.as_fd(), Call::Watch)?;
        self.epoll.add(socket.as_fd(), RawFlags::EPOLLIN, token.to_u64())
    }

    fn watch_room(
        &mut self,
        socket: &DatagramSocket,
        token: Token,
        is_awaited: bool,
    ) -> io::Result<()> {
        planned::next(socket.as_fd(), Call::Watch)?;
        let room = if is_awaited { RawFlags::EPOLLOUT } else { RawFlags::empty() };
        self.epoll.modify(socket.as_fd(), RawFlags::EPOLLIN | room, token.to_u64())
    }

    fn forget_datagrams(&mut self, socket: &DatagramSocket, _: Token) -> io::Result<()> {
        self.epoll.remove(socket.as_fd())
    }

    fn closing(&mut self, token: Token) {
        // The kernel drops a registration with the last descriptor of its socket.
        if !self.connecting.is_empty() {
            self.connecting.remove(&token);
        }
    }

    fn listen(&mut self, listener: Arc<Listener>, token: Token, exclusive: bool) {
        let (watched, ready, room, batch, failures) = (false, false, 0, 1, 0);
        let fresh = Listening { listener, watched, exclusive, ready, room, batch, failures };
        self.listeners.insert(token, fresh);
    }

    fn set_room(&mut self, token: Token, count: usize) -> io::Result<()> {
        let Some(it) = self.listeners.get_mut(&token) else { return Ok(()) };
        it.room = count;
        let watch = count > 0;
        if watch != it.watched {
            if watch {
                let data = token.to_u64() | LISTENER;
                self.epoll.add_listener(it.listener.as_fd(), data, it.exclusive)?;
            } else {
                self.epoll.remove(it.listener.as_fd())?;
            }
            it.watched = watch;
        }
        Ok(())
    }

    fn unlisten(&mut self, token: Token) -> io::Result<()> {
        match self.listeners.remove(&token) {
            Some(it) if it.watched => self.epoll.remove(it.listener.as_fd()),
            _ => Ok(()),
        }
    }

    fn wait(&mut self, timeout: Option<Duration>, events: &mut DriverEvents) -> io::Result<()> {
        let count = self.epoll.wait(&mut self.raw, timeout)?;
        let found = self.translate(count, events);
        self.accept(found, &mut events.others);
        if count == self.raw.len() && count < EVENTS_AT_MOST {
            self.raw.resize(count * 2, RawEvent::empty());
        }
        Ok(())
    }

    fn epoll(&self) -> Option<&EpollFd> {
        Some(&self.epoll)
    }
}

/// The meaning of every combination of epoll's bits. A pull fetches whatever is wrong with a
/// socket, so all bits but OUT make it receivable. OUT makes it sendable, and so do the bits after
/// which a push would fail at once. After urgent data reads end at its mark, wherever that is.
fn readiness(flags: RawFlags) -> Readiness {
    let failure = RawFlags::EPOLLERR | RawFlags::EPOLLHUP;
    let end = RawFlags::EPOLLRDHUP | RawFlags::EPOLLHUP;
    let arrival = RawFlags::EPOLLIN | RawFlags::EPOLLPRI;
    Readiness {
        receivable: flags.intersects(arrival | end | failure),
        sendable: flags.intersects(RawFlags::EPOLLOUT | failure),
        peer_closed: flags.intersects(end),
        failed: flags.intersects(failure),
        in_pieces: flags.intersects(RawFlags::EPOLLPRI),
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::io::driver_set::DriverSet;

    #[test]
    fn every_mask_has_a_meaning() {
        let names = [
            RawFlags::EPOLLIN,
            RawFlags::EPOLLOUT,
            RawFlags::EPOLLERR,
            RawFlags::EPOLLHUP,
            RawFlags::EPOLLRDHUP,
            RawFlags::EPOLLPRI,
        ];
        for mask in 1..64u32 {
            let mut flags = RawFlags::empty();
            for (bit, name) in names.into_iter().enumerate() {
                flags.set(name, mask & (1 << bit) != 0);
            }
            let ready = readiness(flags);
            assert!(ready.receivable || ready.sendable, "{flags:?} would be lost");
            assert_eq!(ready.receivable, flags != RawFlags::EPOLLOUT, "{flags:?}");
            assert!(!ready.failed || ready.receivable, "{flags:?}: a failure must be fetched");
        }
    }

    #[test]
    fn a_set_reports_a_driver_until_its_own_wait_has_taken_all() {
        let events: Vec<_> = (0..2).map(|_| EventFd::new().unwrap()).collect();
        let mut drivers: Vec<_> = events.iter().map(|it| Epoll::new(it).unwrap()).collect();
        let mut set = DriverSet::new().unwrap();
        for (place, driver) in drivers.iter().enumerate() {
            set.add(driver, place + 5).unwrap();
        }
        let ready = |set: &mut DriverSet| {
            let mut places = Vec::new();
            set.wait(Some(Duration::ZERO), |place| places.push(place)).unwrap();
            places
        };
        assert!(ready(&mut set).is_empty());
        events[1].signal().unwrap();
        assert_eq!((ready(&mut set), ready(&mut set)), (vec![6], vec![6]));
        drivers[1].wait(Some(Duration::ZERO), &mut DriverEvents::default()).unwrap();
        assert!(ready(&mut set).is_empty());
        set.remove(&drivers[1]).unwrap();
        for event in &events {
            event.signal().unwrap();
        }
        assert_eq!(ready(&mut set), [5]);
        drop(drivers); // as when a loop ends
        assert!(ready(&mut set).is_empty());
    }

    #[test]
    fn a_wake_leaves_no_event() {
        let event = EventFd::new().unwrap();
        let mut epoll = Epoll::new(&event).unwrap();
        let mut events = DriverEvents::default();
        event.signal().unwrap();
        epoll.wait(None, &mut events).unwrap();
        assert!(events.is_empty());
        event.signal().unwrap(); // an edge again, though nothing reads the counter
        epoll.wait(None, &mut events).unwrap();
        assert!(events.is_empty());
    }
}
