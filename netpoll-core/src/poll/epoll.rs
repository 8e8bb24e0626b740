//! The epoll driver: every descriptor registered once, edge-triggered, and never modified.

use std::collections::{HashMap, VecDeque};
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use super::{Poll, PollEvent, Readiness};
use crate::slab::Token;
use crate::sys::{self, EpollFd, RawEvent, RawFlags};

/// How many connections a listener may accept in one wait, so that a flood of them does not starve
/// the streams of the same loop.
const ACCEPTS_PER_WAIT: usize = 64;
const FAILURES_PER_WAIT: usize = 16;
/// The event array starts here, and doubles whenever a wait fills it.
const EVENTS_AT_FIRST: usize = 128;
const EVENTS_AT_MOST: usize = 8192;

/// See the module.
#[derive(Debug)]
pub(crate) struct Epoll {
    epoll: EpollFd,
    raw: Vec<RawEvent>,
    listeners: HashMap<Token, Listener>,
}

#[derive(Debug)]
struct Listener {
    fd: Arc<OwnedFd>,
    /// The queue may hold connections: an edge came, and no accept has found it empty since.
    pending: bool,
    paused: bool,
}

impl Epoll {
    /// A driver whose waits end when `bell` rings.
    pub(crate) fn new(bell: BorrowedFd<'_>) -> io::Result<Self> {
        let epoll = EpollFd::new()?;
        epoll.add(bell, RawFlags::EPOLLIN, Token::NONE.to_u64())?;
        let raw = vec![RawEvent::empty(); EVENTS_AT_FIRST];
        Ok(Self { epoll, raw, listeners: HashMap::new() })
    }

    fn translate(&mut self, count: usize, events: &mut VecDeque<PollEvent>) {
        for raw in &self.raw[..count] {
            let token = Token::from_u64(raw.data());
            if token == Token::NONE {
                continue;
            }
            match self.listeners.get_mut(&token) {
                Some(listener) => listener.pending = true,
                None => {
                    events
                        .push_back(PollEvent::Stream { token, readiness: readiness(raw.events()) });
                }
            }
        }
    }

    fn accept(&mut self, events: &mut VecDeque<PollEvent>) {
        for (&token, listener) in &mut self.listeners {
            let mut failures = 0;
            for _ in 0..ACCEPTS_PER_WAIT {
                if !listener.pending || listener.paused {
                    break;
                }
                match sys::accept(listener.fd.as_fd()) {
                    Ok(accepted) => {
                        events.push_back(PollEvent::Accepted {
                            listener: token,
                            outcome: Ok(accepted),
                        });
                    }
                    Err(error) if error.kind() == ErrorKind::WouldBlock => listener.pending = false,
                    // Skipped, unless nothing else comes: then it is the listener that is ill.
                    Err(error)
                        if sys::is_of_one_connection(&error) && failures < FAILURES_PER_WAIT =>
                    {
                        failures += 1;
                        log::debug!("a connection was gone before it was accepted: {error}");
                    }
                    Err(error) => {
                        listener.paused = true;
                        events.push_back(PollEvent::Accepted {
                            listener: token,
                            outcome: Err(error),
                        });
                    }
                }
            }
        }
    }

    fn may_accept(&self) -> bool {
        self.listeners.values().any(|listener| listener.pending && !listener.paused)
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

    fn add_listener(&mut self, listener: Arc<OwnedFd>, token: Token) -> io::Result<()> {
        self.epoll.add(listener.as_fd(), RawFlags::EPOLLIN, token.to_u64())?;
        self.listeners.insert(token, Listener { fd: listener, pending: true, paused: false });
        Ok(())
    }

    fn resume_listener(&mut self, token: Token) {
        if let Some(listener) = self.listeners.get_mut(&token) {
            listener.paused = false;
        }
    }

    fn remove_listener(&mut self, token: Token) -> io::Result<()> {
        match self.listeners.remove(&token) {
            Some(listener) => self.epoll.remove(listener.fd.as_fd()),
            None => Ok(()),
        }
    }

    fn wait(
        &mut self,
        timeout: Option<Duration>,
        events: &mut VecDeque<PollEvent>,
    ) -> io::Result<()> {
        let timeout = if self.may_accept() { Some(Duration::ZERO) } else { timeout };
        let count = self.epoll.wait(&mut self.raw, timeout)?;
        self.translate(count, events);
        self.accept(events);
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
    let failed = flags.intersects(RawFlags::EPOLLERR | RawFlags::EPOLLHUP);
    let peer_closed = flags.intersects(RawFlags::EPOLLRDHUP | RawFlags::EPOLLHUP);
    Readiness {
        receivable: failed
            || peer_closed
            || flags.intersects(RawFlags::EPOLLIN | RawFlags::EPOLLPRI),
        sendable: failed || flags.intersects(RawFlags::EPOLLOUT),
        peer_closed,
        failed,
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
        let mut events = VecDeque::new();
        bell.ring();
        epoll.wait(None, &mut events).unwrap();
        assert!(events.is_empty());
        bell.ring(); // an edge again, though nobody reads the counter
        epoll.wait(None, &mut events).unwrap();
        assert!(events.is_empty());
    }
}
