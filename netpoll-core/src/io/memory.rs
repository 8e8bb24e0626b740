//! The second driver, for tests: streams, listeners and the wake-up are in memory, without a
//! descriptor.
//!
//! ```text
//!   End, Queue ── what happens ──► Reports ──► Memory::wait ──► events
//!   Signal     ── wake ──────────►
//! ```
//! It reports changes, as epoll does. Made [`spurious`](Memory::open), it does all that a driver
//! may: it reports what did not happen, on streams that are watched and on streams that are gone,
//! and what did happen it reports one wait later.

pub(crate) mod network;
pub(crate) mod reports;
pub(crate) mod wire;

use std::collections::{HashMap, HashSet, VecDeque};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::datagram::DatagramSocket;
use super::driver::{Driver, DriverEvents, Event};
use super::listener::Listener;
use super::readiness::{Readiness, StreamEvent};
use super::stream::Stream;
use super::waker::{self, Waker};
use crate::base::clock::{self, later};
use crate::base::sync::{lock, wait_until};
use crate::pure::slab::Token;
use network::Queue;
use reports::{Reports, Signal, State};

/// Of so many streams that are gone a spurious driver reports something.
const GONE_KEPT: usize = 8;

/// See the module.
#[derive(Debug)]
pub(crate) struct Memory {
    reports: Arc<Reports>,
    listeners: HashMap<Token, (Arc<Listener>, usize)>,
    /// See the module.
    spurious: bool,
    watched: HashSet<Token>,
    gone: VecDeque<Token>,
    /// What the next wait hands out.
    held: VecDeque<StreamEvent>,
}

impl Memory {
    /// Opens a driver, with what wakes it.
    pub(crate) fn open(spurious: bool) -> (Box<dyn Driver>, Waker) {
        let reports = Arc::new(Reports::default());
        let waker = Waker::new(waker::Signal::Memory(Signal(reports.clone())));
        let (listeners, watched) = (HashMap::new(), HashSet::new());
        let (gone, held) = (VecDeque::new(), VecDeque::new());
        (Box::new(Self { reports, listeners, spurious, watched, gone, held }), waker)
    }

    /// Takes what has happened, and adds what did not.
    fn take(&mut self, state: &mut State, events: &mut DriverEvents) {
        state.woken = false;
        events.streams.append(&mut self.held);
        let fresh = if self.spurious { &mut self.held } else { &mut events.streams };
        fresh.append(&mut state.streams);
        let none_is_late = self.held.is_empty();
        let connected = state.connected.drain(..);
        events.others.extend(connected.map(|token| Event::Connected { token }));
        if self.spurious && none_is_late {
            let perhaps = Readiness { receivable: true, sendable: true, ..Readiness::default() };
            let over = Readiness { peer_closed: true, failed: true, ..perhaps };
            let watched = self.watched.iter().map(|it| (*it, perhaps));
            let all = watched.chain(self.gone.iter().map(|it| (*it, over)));
            events.streams.extend(all.map(|(token, readiness)| StreamEvent { token, readiness }));
        }
    }

    fn accept(&mut self, events: &mut DriverEvents) {
        let mut more = false;
        for (&token, (listener, room)) in &self.listeners {
            for _ in 0..*room {
                let Ok((stream, peer)) = listener.accept() else { break };
                events.others.push_back(Event::Accepted { listener: token, stream, peer });
            }
            more |= *room > 0 && listener.memory().is_some_and(Queue::has_any);
        }
        if more {
            self.reports.accepting();
        }
    }
}

impl Driver for Memory {
    fn watch(&mut self, stream: &Stream, token: Token) -> io::Result<()> {
        let end = stream.memory().expect("a stream in memory");
        self.watched.insert(token);
        end.watch(&self.reports, token);
        Ok(())
    }

    fn connect(&mut self, stream: &Stream, token: Token) -> io::Result<()> {
        Driver::watch(self, stream, token)?;
        if stream.memory().is_some_and(|end| !end.is_connecting()) {
            lock(&self.reports.state).connected.push_back(token);
        }
        Ok(())
    }

    fn forget(&mut self, stream: &Stream, token: Token) -> io::Result<()> {
        stream.memory().expect("a stream in memory").forget();
        self.closing(token);
        Ok(())
    }

    fn watch_datagrams(&mut self, _: &DatagramSocket, _: Token) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn watch_room(&mut self, _: &DatagramSocket, _: Token, _: bool) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn forget_datagrams(&mut self, _: &DatagramSocket, _: Token) -> io::Result<()> {
        Ok(())
    }

    fn closing(&mut self, token: Token) {
        self.watched.remove(&token);
        self.gone.truncate(GONE_KEPT);
        self.gone.push_front(token);
    }

    fn listen(&mut self, listener: Arc<Listener>, token: Token, _exclusive: bool) {
        let queue = listener.memory().expect("a listener in memory");
        queue.watch(Some(self.reports.clone()));
        self.listeners.insert(token, (listener, 0));
    }

    fn set_room(&mut self, token: Token, count: usize) -> io::Result<()> {
        if let Some((_, room)) = self.listeners.get_mut(&token)
            && std::mem::replace(room, count) == 0
        {
            self.reports.accepting();
        }
        Ok(())
    }

    fn unlisten(&mut self, token: Token) -> io::Result<()> {
        if let Some((listener, _)) = self.listeners.remove(&token)
            && let Some(queue) = listener.memory()
        {
            queue.watch(None);
        }
        Ok(())
    }

    fn wait(&mut self, timeout: Option<Duration>, events: &mut DriverEvents) -> io::Result<()> {
        let deadline = timeout.map(|timeout| later(clock::now(), timeout));
        let reports = self.reports.clone();
        let mut state = lock(&reports.state);
        let mut late = false;
        while !late && !state.has_any() && self.held.is_empty() {
            (state, late) = wait_until(&reports.arrived, state, deadline);
        }
        self.take(&mut state, events);
        let accepting = std::mem::take(&mut state.accepting);
        drop(state);
        if accepting {
            self.accept(events);
        }
        Ok(())
    }
}
