//! The epoll driver: every descriptor registered once, edge-triggered, and never modified.

use std::collections::{HashMap, VecDeque};
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use super::driver::{AcceptEvent, Poll, PollEvent, PollEvents, Readiness};
use crate::pure::slab::Token;
use crate::sys::{self, EpollFd, RawEvent, RawFlags};

/// How many connections a listener may accept in one wait, so that a flood of them does not starve
/// the streams of the same loop.
const ACCEPTS_PER_WAIT: usize = 64;
/// So many connections in a row may be gone before they are accepted; then it is the listener that
/// is ill.
const FAILURES_IN_A_ROW: usize = 16;
/// The event array starts here, and doubles whenever a wait fills it.
const EVENTS_AT_FIRST: usize = 128;
const EVENTS_AT_MOST: usize = 8192;

/// See the module.
#[derive(Debug)]
pub(crate) struct Epoll {
    epoll: EpollFd,
    raw: Vec<RawEvent>,
    listeners: HashMap<Token, Listener>,
    /// The last wait found somebody in a listener's queue.
    accepting: bool,
}

/// Marks the token of a listener in what epoll carries: no slab has so many slots. So an event of a
/// stream costs no look at the listeners, and a turn without newcomers none either.
const LISTENER: u64 = 1 << 31;

#[derive(Debug)]
struct Listener {
    fd: Arc<OwnedFd>,
    /// Whether epoll watches it.
    watched: bool,
    /// This wait found somebody in its queue.
    ready: bool,
    /// How many connections the reactor takes in a wait.
    room: usize,
    /// How many to try for in the next wait that finds somebody in the queue. It doubles while wait
    /// after wait does, is what the queue held when that was less, and 1 again after a wait that
    /// found nobody. So who comes alone costs one accept, not a second one that finds nobody, and a
    /// burst soon comes in batches.
    batch: usize,
    failures: usize,
}

impl Epoll {
    /// A driver whose waits end when `bell` rings.
    pub(crate) fn new(bell: BorrowedFd<'_>) -> io::Result<Self> {
        let epoll = EpollFd::new()?;
        epoll.add(bell, RawFlags::EPOLLIN, Token::NONE.to_u64())?;
        let raw = vec![RawEvent::empty(); EVENTS_AT_FIRST];
        Ok(Self { epoll, raw, listeners: HashMap::new(), accepting: false })
    }

    /// Hands out what has happened to streams; says whether somebody is in a listener's queue.
    fn translate(&mut self, count: usize, events: &mut VecDeque<PollEvent>) -> bool {
        let mut found = false;
        for raw in &self.raw[..count] {
            let token = Token::from_u64(raw.data() & !LISTENER);
            if raw.data() & LISTENER == 0 {
                let readiness = readiness(raw.events());
                events.push_back(PollEvent { token, readiness });
            } else if let Some(listener) = self.listeners.get_mut(&token) {
                (listener.ready, found) = (true, true);
            } // else it is the bell, which has every bit set
        }
        found
    }

    /// Accepts where the wait `found` somebody, and notes it where this wait is the first that
    /// found nobody.
    fn accept(&mut self, found: bool, events: &mut VecDeque<AcceptEvent>) {
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

impl Listener {
    fn accept(&mut self, token: Token, events: &mut VecDeque<AcceptEvent>) {
        for accepted in 0..self.batch.min(self.room) {
            match sys::accept(self.fd.as_fd()) {
                Ok((stream, peer)) => {
                    self.failures = 0;
                    events.push_back(AcceptEvent::Accepted { listener: token, stream, peer });
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.batch = accepted.max(1);
                    return;
                }
                Err(error) => {
                    self.failures += 1;
                    let skipped =
                        sys::is_of_one_connection(&error) && self.failures < FAILURES_IN_A_ROW;
                    events.push_back(AcceptEvent::Failed { listener: token, error, skipped });
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

impl Poll for Epoll {
    fn add_stream(&mut self, stream: BorrowedFd<'_>, token: Token) -> io::Result<()> {
        let flags =
            RawFlags::EPOLLIN | RawFlags::EPOLLOUT | RawFlags::EPOLLRDHUP | RawFlags::EPOLLPRI;
        self.epoll.add(stream, flags, token.to_u64())
    }

    fn remove_stream(&mut self, stream: BorrowedFd<'_>) -> io::Result<()> {
        self.epoll.remove(stream)
    }

    fn add_listener(&mut self, listener: Arc<OwnedFd>, token: Token) {
        let fresh =
            Listener { fd: listener, watched: false, ready: false, room: 0, batch: 1, failures: 0 };
        self.listeners.insert(token, fresh);
    }

    fn set_room(&mut self, token: Token, count: usize) -> io::Result<()> {
        let Some(listener) = self.listeners.get_mut(&token) else { return Ok(()) };
        listener.room = count;
        let watch = count > 0;
        if watch != listener.watched {
            if watch {
                self.epoll.add_listener(listener.fd.as_fd(), token.to_u64() | LISTENER)?;
            } else {
                self.epoll.remove(listener.fd.as_fd())?;
            }
            listener.watched = watch;
        }
        Ok(())
    }

    fn remove_listener(&mut self, token: Token) -> io::Result<()> {
        match self.listeners.remove(&token) {
            Some(listener) if listener.watched => self.epoll.remove(listener.fd.as_fd()),
            _ => Ok(()),
        }
    }

    fn may_change_threads(&self) -> bool {
        true
    }

    fn wait(&mut self, timeout: Option<Duration>, events: &mut PollEvents) -> io::Result<()> {
        let count = self.epoll.wait(&mut self.raw, timeout)?;
        let found = self.translate(count, &mut events.streams);
        self.accept(found, &mut events.accepts);
        if count == self.raw.len() && count < EVENTS_AT_MOST {
            self.raw.resize(count * 2, RawEvent::empty());
        }
        Ok(())
    }
}

/// Every combination of epoll's bits. Whatever is wrong with a socket is fetched by a receive, so
/// all but OUT make it receivable; OUT alone, or with others, makes it sendable; and so do the bits
/// after which a send would fail at once.
fn readiness(flags: RawFlags) -> Readiness {
    let failure = RawFlags::EPOLLERR | RawFlags::EPOLLHUP;
    let end = RawFlags::EPOLLRDHUP | RawFlags::EPOLLHUP;
    let arrival = RawFlags::EPOLLIN | RawFlags::EPOLLPRI;
    Readiness {
        receivable: flags.intersects(arrival | end | failure),
        sendable: flags.intersects(RawFlags::EPOLLOUT | failure),
        peer_closed: flags.intersects(end),
        failed: flags.intersects(failure),
        urgent: flags.intersects(RawFlags::EPOLLPRI),
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

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
    fn the_bell_wakes_and_leaves_no_event() {
        let bell = sys::Bell::new().unwrap();
        let mut epoll = Epoll::new(bell.as_fd()).unwrap();
        let mut events = PollEvents::default();
        bell.ring().unwrap();
        epoll.wait(None, &mut events).unwrap();
        assert!(events.streams.is_empty());
        bell.ring().unwrap(); // an edge again, though nobody reads the counter
        epoll.wait(None, &mut events).unwrap();
        assert!(events.streams.is_empty());
    }
}
