//! A reactor that serves on one driver in one mode, and what its callbacks report.

use std::io;
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use super::peer::{Host, PATIENCE, Peer};
use crate::base::address::Address;
use crate::base::clock;
use crate::base::limits::Limits;
use crate::base::sync::{AtomicUsize, Ordering};
use crate::connection::accepted::admit;
use crate::connection::callbacks::{Callbacks, Moment, Prepare};
use crate::connection::group::ConnectionGroup;
use crate::connection::incoming::{Accept, Preamble, Room};
use crate::connection::mailbox::Remote;
use crate::connection::origin::{ListenerInfo, Origin, Release};
use crate::connection::schedule::Dispatcher;
use crate::io::listener::Listener;
use crate::io::memory::Memory;
use crate::io::memory::network::Queue;
use crate::io::stream::Stream;
use crate::pure::spin::Spin;
use crate::reactor::Core;
use crate::threads::options::{Dispatch, Gather};
use crate::threads::takeover::LoopThreads;
use crate::threads::turn::turn;
use crate::{CloseReason, Connection, Error, Handle, Result};

/// What a scenario runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Medium {
    Tcp,
    Unix,
    Memory,
    /// In memory, by a driver that also reports what did not happen.
    Spurious,
}

impl Medium {
    pub(super) const ALL: [Self; 4] = [Self::Tcp, Self::Unix, Self::Memory, Self::Spurious];

    pub(super) fn is_memory(self) -> bool {
        matches!(self, Self::Memory | Self::Spurious)
    }

    fn core(self) -> Core {
        match self {
            Self::Tcp | Self::Unix => Core::new(0, Spin::Never).expect("a driver"),
            Self::Memory | Self::Spurious => {
                let (driver, waker) = Memory::open(self == Self::Spurious);
                Core::with(0, Spin::Never, driver, waker)
            }
        }
    }

    /// A listener for the test itself.
    pub(super) fn host(self) -> Host {
        match self {
            Self::Tcp => Host::Tcp(TcpListener::bind("127.0.0.1:0").expect("a port")),
            Self::Unix => Host::Unix(UnixListener::bind(fresh_path()).expect("a path")),
            Self::Memory | Self::Spurious => Host::Memory(Queue::open(false)),
        }
    }

    /// An address at which no listener is.
    pub(super) fn nowhere(self) -> Address {
        let host = self.host();
        if let Address::Path(path) = host.address() {
            std::fs::remove_file(path).expect("the path of a socket");
        }
        host.address()
    }
}

/// A path that no other test has. A process of the same number may have left it behind.
fn fresh_path() -> PathBuf {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let number = NEXT.fetch_add(1, Ordering::SeqCst);
    let path = std::env::temp_dir().join(format!("netpoll-suite-{}-{number}", std::process::id()));
    let _ = std::fs::remove_file(&path);
    path
}

/// What callbacks and acceptors report.
#[derive(Debug)]
pub(super) enum Seen {
    Connected(Handle),
    HighWater,
    Drained,
    Disconnected(CloseReason),
    /// The acceptor may accept no more.
    Retired,
    /// A preamble has ended, complete or not.
    Preamble(bool),
}

/// See the module.
pub(super) struct Running {
    pub(super) remote: Arc<Remote>,
    pub(super) group: Arc<ConnectionGroup>,
    address: Address,
    queue: Option<Queue>,
    count: Arc<Count>,
    room: Arc<AtomicUsize>,
    threads: Arc<LoopThreads>,
    seen: Receiver<Seen>,
}

/// What a scenario does with what arrives.
pub(super) type OnRequest = fn(&mut Connection) -> Result<()>;

/// What a scenario asks of [`Running`].
#[derive(Clone, Copy)]
pub(super) struct Service {
    pub(super) limits: Limits,
    pub(super) on_request: OnRequest,
    /// How many bytes come before a connection, and by when.
    pub(super) preamble: Option<(usize, Duration)>,
    /// How many connections the acceptor has room for in a wait, at first.
    pub(super) room: usize,
}

impl Running {
    pub(super) fn new(medium: Medium, dispatch: Dispatch, service: &Service) -> Self {
        let core = medium.core();
        let remote = core.remote().clone();
        let dispatcher = Dispatcher::new(dispatch).expect("good options");
        let group = ConnectionGroup::served(service.limits, dispatcher).expect("good limits");
        let threads = LoopThreads::new(turn, Gather::Never);
        threads.start("netpoll-suite".into(), core).expect("a thread");
        let (listener, queue) = listener(medium);
        let address = queue.as_ref().map_or_else(
            || listener.local_address().expect("an address"),
            |queue| queue.address().into(),
        );
        let info = ListenerInfo { index: 0, name: "suite".into(), address: address.clone() };
        let count = Arc::new(Count { info, released: AtomicUsize::new(0) });
        let room = Arc::new(AtomicUsize::new(service.room));
        let (sender, seen) = channel();
        let acceptor = Acceptor {
            to: Admission {
                group: group.clone(),
                callbacks: Arc::new(reporting(&sender, service.on_request)),
                remote: remote.clone(),
                count: count.clone(),
            },
            preamble: service.preamble,
            room: room.clone(),
            sender,
        };
        assert!(remote.listen(Arc::new(listener), Box::new(acceptor)), "the reactor runs");
        Self { remote, group, address, queue, count, room, threads, seen }
    }

    /// A peer that connects.
    pub(super) fn peer(&self) -> Peer {
        match (&self.queue, &self.address) {
            (Some(queue), _) => Peer::Memory(queue.dial()),
            (None, Address::Path(path)) => Peer::of_unix(UnixStream::connect(path).expect("room")),
            (None, address) => {
                let address = address.inet().expect("TCP");
                Peer::of_tcp(TcpStream::connect(address).expect("room"))
            }
        }
    }

    pub(super) fn next(&self) -> Seen {
        self.seen.recv_timeout(PATIENCE).expect("a report")
    }

    pub(super) fn connected(&self) -> Handle {
        match self.next() {
            Seen::Connected(handle) => handle,
            other => panic!("{other:?}, no connection"),
        }
    }

    pub(super) fn disconnected(&self) -> CloseReason {
        match self.next() {
            Seen::Disconnected(reason) => reason,
            other => panic!("{other:?}, no end"),
        }
    }

    /// Waits until all connections are closed.
    pub(super) fn wait_empty(&self) {
        assert_eq!(self.group.wait_empty(clock::now() + PATIENCE), 0, "connections are left");
    }

    pub(super) fn released(&self) -> usize {
        self.count.released.load(Ordering::SeqCst)
    }

    /// From now on the acceptor has so much room.
    pub(super) fn set_room(&self, room: usize) {
        self.room.store(room, Ordering::SeqCst);
        self.remote.tell_of_accept_room();
    }

    /// Waits until the loop has waited for events twice: it has seen all that was there.
    pub(super) fn wait_turns(&self) {
        let turns = || self.remote.stats().turns;
        let end = turns() + 2;
        while turns() < end {
            self.remote.tell_of_accept_room();
            std::thread::yield_now();
        }
    }

    pub(super) fn wait_ended(&self) {
        assert!(self.remote.wait_ended(Some(clock::now() + PATIENCE)), "the loop goes on");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let deadline = clock::now() + PATIENCE;
        self.remote.stop(PATIENCE);
        let has_ended = self.remote.wait_ended(Some(deadline)) && clock::now() < deadline;
        self.group.dispatcher().stop(PATIENCE);
        let left = self.threads.stop(Some(deadline));
        if !std::thread::panicking() {
            assert!(has_ended, "the stop has waited for its deadline");
            assert!(left == 0 && clock::now() < deadline, "a thread is left");
        }
        if let Address::Path(path) = &self.address {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Callbacks that report, and do what `on_request` says.
fn reporting(to: &Sender<Seen>, on_request: OnRequest) -> Callbacks<()> {
    let mut callbacks = Callbacks::new();
    let report = |what: fn(&mut Connection) -> Seen| {
        let to = to.clone();
        move |(): &mut (), connection: &mut Connection| {
            let _ = to.send(what(connection));
            Ok(())
        }
    };
    callbacks.set(Moment::Connect, report(|connection| Seen::Connected(connection.handle())));
    callbacks.set(Moment::HighWater, report(|_| Seen::HighWater));
    callbacks.set(Moment::Drain, report(|_| Seen::Drained));
    callbacks.set(Moment::Request, move |(): &mut (), connection| on_request(connection));
    let to = to.clone();
    callbacks.set_on_disconnect(move |(): (), reason: &CloseReason| {
        let reason = match reason {
            CloseReason::Peer => CloseReason::Peer,
            CloseReason::Reset => CloseReason::Reset,
            CloseReason::Local => CloseReason::Local,
            CloseReason::Shutdown => CloseReason::Shutdown,
            other => CloseReason::Callback(Error::config(other.to_string())),
        };
        let _ = to.send(Seen::Disconnected(reason));
    });
    callbacks
}

fn listener(medium: Medium) -> (Listener, Option<Queue>) {
    let fd: OwnedFd = match medium.host() {
        Host::Memory(queue) => return (Listener::in_memory(queue.clone()), Some(queue)),
        Host::Tcp(listener) => listener.into(),
        Host::Unix(listener) => listener.into(),
    };
    let listener = Listener::from(fd);
    listener.adopt(true).expect("a listener");
    (listener, None)
}

struct Count {
    info: ListenerInfo,
    released: AtomicUsize,
}

impl Release for Count {
    fn info(&self) -> &ListenerInfo {
        &self.info
    }

    fn release(&self, _: &Address) {
        self.released.fetch_add(1, Ordering::SeqCst);
    }
}

/// What makes a connection of a stream.
#[derive(Clone)]
struct Admission {
    group: Arc<ConnectionGroup>,
    callbacks: Arc<dyn Prepare>,
    remote: Arc<Remote>,
    count: Arc<Count>,
}

impl Admission {
    fn admit(self, stream: Stream, peer: Address) {
        let origin = Origin { listener: self.count, peer, proxied: None };
        admit(stream, None, origin, &self.group, &self.callbacks, &self.remote);
    }
}

struct Acceptor {
    to: Admission,
    preamble: Option<(usize, Duration)>,
    room: Arc<AtomicUsize>,
    sender: Sender<Seen>,
}

impl Accept for Acceptor {
    fn room(&mut self) -> Room {
        Room { count: self.room.load(Ordering::SeqCst), again: None }
    }

    fn accepted(&mut self, stream: Stream, peer: Address) {
        let Some((bytes, time)) = self.preamble else { return self.to.clone().admit(stream, peer) };
        let (to, sender) = (self.to.clone(), self.sender.clone());
        let head = Head { stream, peer, to, bytes, sender };
        self.to.remote.await_preamble(Box::new(head), clock::now() + time);
    }

    fn failed(&mut self, error: &io::Error) -> bool {
        panic!("{error}");
    }

    fn given_up(self: Box<Self>, error: io::Error) {
        panic!("{error}");
    }

    fn retired(self: Box<Self>) {
        let _ = self.sender.send(Seen::Retired);
    }
}

/// A preamble of so many bytes.
struct Head {
    stream: Stream,
    peer: Address,
    to: Admission,
    bytes: usize,
    sender: Sender<Seen>,
}

impl Preamble for Head {
    fn stream(&self) -> &Stream {
        &self.stream
    }

    fn is_of(&self, group: &Arc<ConnectionGroup>) -> bool {
        Arc::ptr_eq(&self.to.group, group)
    }

    fn is_complete(&mut self) -> bool {
        self.stream.peek(&mut vec![0; self.bytes]).is_ok_and(|seen| seen == self.bytes)
    }

    fn end(mut self: Box<Self>) {
        let is_complete = self.is_complete();
        let Self { stream, peer, to, bytes, sender } = *self;
        let _ = sender.send(Seen::Preamble(is_complete));
        if is_complete {
            stream.take(&mut vec![0; bytes]).expect("they have arrived");
            to.admit(stream, peer);
        }
    }
}
