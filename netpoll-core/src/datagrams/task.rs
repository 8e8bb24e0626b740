//! A datagram socket as a task: the part that all threads share.

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use netpoll_buffer::Account;

use super::callbacks::PrepareDatagrams;
use super::handle::DatagramHandle;
use super::limits::DatagramLimits;
use super::outbox::{Next, Outbox, Outcome, Queued};
use super::run::Runner;
use super::staged::Staged;
use super::stats::{Counters, DatagramStats};
use crate::base::address::Address;
use crate::base::error::{Error, Result};
use crate::base::log_period::OncePer;
use crate::base::stats::Work;
use crate::base::sync::{AtomicU64, Mutex, Ordering, lock};
use crate::connection::group::ConnectionGroup;
use crate::connection::mailbox::{Command, Remote};
use crate::connection::run::Outcome as RunOutcome;
use crate::connection::schedule::{Dispatcher, schedule_task};
use crate::connection::scheduled::Runnable;
use crate::connection::source::{Due, Source};
use crate::io::datagram::{DatagramSocket, Message, Place, Segments, TOO_LONG};
use crate::io::readiness::Readiness;
use crate::pure::placement::History;
use crate::pure::slab::Token;
use crate::pure::task::{Events, Task};

/// The longest payload of UDP over IPv4, and over IPv6.
const LONGEST_V4: usize = 65_507;
const LONGEST_V6: usize = 65_527;
/// At most one line in this time says that callbacks fail.
const LOG_PERIOD: Duration = Duration::from_secs(1);

/// See the module.
pub(super) struct DatagramTask {
    pub(super) task: Task<Runner>,
    pub(super) outbox: Outbox,
    segments: Arc<Segments>,
    pub(super) group: Arc<ConnectionGroup>,
    pub(super) reactor: Arc<Remote>,
    pub(super) limits: DatagramLimits,
    pub(super) counters: Counters,
    /// Charged with the blocks that the user keeps slices of.
    pub(super) account: Option<Account>,
    pub(super) log: OncePer,
    /// The address that it is bound to, for logs.
    local: Address,
    history: History,
    token: AtomicU64,
    /// When the callback is to be woken, and a timer is armed for that.
    wake_at: Mutex<Option<Instant>>,
    on_watched: Mutex<Option<OnWatched>>,
}

/// Called once by the loop when it watches a socket, or with the reason why it can't.
pub type OnWatched = Box<dyn FnOnce(io::Result<()>) + Send>;

/// How a socket begins.
#[derive(Default)]
pub struct DatagramStart {
    /// It receives nothing until its handle resumes it.
    pub is_paused: bool,
    /// Runs on the loop's thread; dropped without a call where the loop ends first.
    pub on_watched: Option<OnWatched>,
}

/// Serves a datagram socket on the loop of `reactor`, as a part of `group`: its callbacks run where
/// the group's dispatcher says, and it ends in the group's shutdown, when what it has received by
/// then is answered.
///
/// # Errors
/// [`Error::Config`] for limits that can't be used; the system's, where the socket's own address
/// can't be asked for; [`Error::Closed`] where the reactor has ended.
pub fn serve_datagrams(
    socket: DatagramSocket,
    callbacks: Arc<dyn PrepareDatagrams>,
    limits: DatagramLimits,
    group: &Arc<ConnectionGroup>,
    reactor: &Arc<Remote>,
) -> Result<DatagramHandle> {
    serve_datagrams_from(DatagramStart::default(), socket, callbacks, limits, group, reactor)
}

/// As [`serve_datagrams`], with a start of its own.
///
/// # Errors
/// As `serve_datagrams`.
pub fn serve_datagrams_from(
    start: DatagramStart,
    socket: DatagramSocket,
    callbacks: Arc<dyn PrepareDatagrams>,
    limits: DatagramLimits,
    group: &Arc<ConnectionGroup>,
    reactor: &Arc<Remote>,
) -> Result<DatagramHandle> {
    limits.validate()?;
    let (local, socket) = (socket.local_address()?, Arc::new(socket));
    let memory = &group.policy.memory;
    let charge = memory.has_budget().then(|| memory.charge(0));
    let task = Arc::new(DatagramTask {
        task: Task::new(Runner::default()),
        outbox: Outbox::new(socket.clone(), charge),
        segments: socket.segments(),
        group: group.clone(),
        reactor: reactor.clone(),
        limits,
        counters: Counters::default(),
        account: memory.open_account(),
        log: OncePer::new(LOG_PERIOD),
        local,
        history: History::default(),
        token: AtomicU64::new(Token::NONE.to_u64()),
        wake_at: Mutex::new(None),
        on_watched: Mutex::new(start.on_watched),
    });
    if start.is_paused {
        task.pause();
    }
    // A new task is scheduled, and no other thread knows it.
    if let Some(mut run) = task.task.begin() {
        *run = Runner::serving(socket, callbacks);
        let _ = run.look();
        // Nothing can have been noted for it yet.
        let _ = run.release();
    }
    group.enter_task();
    if reactor.post(Command::Attach(task.clone())).is_err() {
        task.end_here();
        return Err(Error::Closed);
    }
    Ok(DatagramHandle::new(task))
}

impl DatagramTask {
    /// Checks that a datagram of so many bytes can be one.
    #[inline]
    pub(super) fn check_length(&self, peer: Option<&Address>, bytes: usize) -> Result<()> {
        if bytes <= LONGEST_V4 && !matches!(peer, Some(Address::Unnamed)) {
            return Ok(());
        }
        self.check_unusual(peer, bytes)
    }

    #[cold]
    fn check_unusual(&self, peer: Option<&Address>, bytes: usize) -> Result<()> {
        if let Some(Address::Unnamed) = peer {
            let text = "the peer's socket has no name to which a datagram could be sent";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text).into());
        }
        let longest = match peer.unwrap_or(&self.local) {
            Address::Inet(it) if it.is_ipv4() => LONGEST_V4,
            Address::Inet(_) => LONGEST_V6,
            _ => usize::MAX, // as long as its send buffer allows
        };
        if bytes > longest {
            return Err(io::Error::from_raw_os_error(TOO_LONG).into());
        }
        Ok(())
    }

    /// The most datagrams of this size that are joined to one message.
    #[inline]
    pub(super) fn most_joined(&self, size: usize) -> usize {
        self.segments.most(size)
    }

    /// Sends what a callback has gathered.
    pub(super) fn send_staged(self: &Arc<Self>, places: &[Place], staged: &mut Staged) {
        let keep = |at: usize| {
            let Message { peer, source, size, .. } = staged.message(places, at);
            let payload = staged.bytes_of(places, at);
            Queued { peer: peer.cloned(), source, payload, size }
        };
        let message = |at| staged.message(places, at);
        let count = staged.len();
        let sent = self.outbox.send(count, message, keep, &self.limits, &self.counters);
        self.await_room(&sent);
        staged.release();
    }

    /// Sends one datagram, from any thread.
    pub(super) fn send_one(
        self: &Arc<Self>,
        source: Option<IpAddr>,
        peer: Option<&Address>,
        payload: &Bytes,
    ) -> Result<()> {
        self.check_length(peer, payload.len())?;
        let size = payload.len();
        let message = |_| Message { peer, source, payload, size };
        let keep = |_| Queued { peer: peer.cloned(), source, payload: payload.clone(), size };
        let sent = self.outbox.send(1, message, keep, &self.limits, &self.counters);
        self.await_room(&sent);
        let Outcome { dropped, error, is_sealed, .. } = sent;
        match error {
            _ if is_sealed => Err(Error::Closed),
            Some(error) if error.kind() == io::ErrorKind::WouldBlock => Err(Error::Full),
            Some(error) => Err(error.into()),
            None if dropped > 0 => Err(Error::Full),
            None => Ok(()),
        }
    }

    /// Has the reactor watch for room, if a send has met that there is none.
    fn await_room(self: &Arc<Self>, sent: &Outcome) {
        if sent.is_full {
            // Without a reactor nothing is sent any more.
            drop(self.reactor.post(Command::AwaitRoom(self.clone())));
        }
    }

    pub(super) fn socket(&self) -> Option<Arc<DatagramSocket>> {
        self.outbox.socket()
    }

    pub(super) fn stats(&self) -> DatagramStats {
        let (queued, bytes) = self.outbox.queued();
        self.counters.snapshot(queued, bytes)
    }

    pub(super) fn wake(self: &Arc<Self>) {
        self.notify(Events::WAKE);
    }

    pub(super) fn wake_at(self: &Arc<Self>, at: Instant) {
        let mut armed = lock(&self.wake_at);
        if armed.is_some_and(|armed| armed <= at) {
            return;
        }
        *armed = Some(at);
        drop(armed);
        self.alarm(at, Events::WAKE);
    }

    pub(super) fn pause(&self) {
        self.task.word.note(Events::PAUSED);
    }

    pub(super) fn resume(self: &Arc<Self>) {
        if self.task.word.clear(Events::PAUSED) != Events::NONE {
            self.notify(Events::READABLE);
        }
    }

    pub(super) fn request_close(self: &Arc<Self>) {
        self.notify(Events::CLOSE);
    }

    pub(super) fn is_closed(&self) -> bool {
        self.task.word.is_closed() || self.task.word.events().has_any(Events::CLOSE | Events::ABORT)
    }

    /// Has the reactor note `events` at that time.
    pub(super) fn alarm(self: &Arc<Self>, at: Instant, events: Events) {
        // Without a reactor the task ends.
        drop(self.reactor.post(Command::Alarm(self.clone(), at, events)));
    }

    /// Adds events, and has a thread look at them.
    fn notify(self: &Arc<Self>, events: Events) {
        if self.task.word.notify(events) {
            schedule_task(self.clone());
        }
    }

    /// Gives the socket to the reactor to be closed.
    pub(super) fn leave(self: &Arc<Self>) {
        if self.reactor.post(Command::Detach(self.clone())).is_err() {
            self.close_socket();
        }
    }

    /// Ends it where there is no reactor that would.
    fn end_here(self: &Arc<Self>) {
        self.abort();
        while self.clone().run().1 == RunOutcome::Again {}
    }
}

impl Runnable for DatagramTask {
    fn reactor(&self) -> &Arc<Remote> {
        &self.reactor
    }

    fn dispatcher(&self) -> &Dispatcher {
        self.group.dispatcher()
    }

    fn history(&self) -> &History {
        &self.history
    }

    fn run(self: Arc<Self>) -> (Arc<dyn Runnable>, RunOutcome, Work) {
        let (outcome, work) = super::run::run(&self);
        (self, outcome, work)
    }

    fn abort(&self) {
        // The thread that runs it next looks at it.
        self.task.word.notify(Events::ABORT);
    }
}

impl Source for DatagramTask {
    fn socket(&self) -> Option<Arc<DatagramSocket>> {
        self.outbox.socket()
    }

    fn token(&self) -> Token {
        Token::from_u64(self.token.load(Ordering::Acquire))
    }

    fn set_token(&self, token: Token) {
        self.token.store(token.to_u64(), Ordering::Release);
    }

    fn watched(&self, outcome: io::Result<()>) {
        let told = lock(&self.on_watched).take();
        if let Some(told) = told {
            told(outcome); // without the lock
        }
    }

    fn is_of(&self, group: &Arc<ConnectionGroup>) -> bool {
        Arc::ptr_eq(&self.group, group)
    }

    fn is_shutting_down(&self) -> bool {
        self.group.is_shutting_down()
    }

    fn ready(&self, readiness: Readiness) -> Due {
        let mut due = Due::default();
        if readiness.sendable && self.outbox.is_blocked() {
            due = self.transmit();
        }
        if readiness.receivable {
            let failed = if readiness.failed { Events::FAILED } else { Events::NONE };
            due.run |= self.task.word.notify(Events::READABLE | failed);
        }
        due
    }

    fn transmit(&self) -> Due {
        match self.outbox.go_on(&self.counters) {
            Next::Again => Due { transmit: true, run: false },
            Next::Wait | Next::Empty { is_sealed: false } => Due::default(),
            // Its owner waits for that to close it.
            Next::Empty { is_sealed: true } => {
                Due { transmit: false, run: self.task.word.notify(Events::RESUMED) }
            }
        }
    }

    fn waits_for_room(&self) -> bool {
        self.outbox.is_blocked()
    }

    fn notify(&self, events: Events) -> bool {
        if events.has_any(Events::WAKE) {
            *lock(&self.wake_at) = None;
        }
        self.task.word.notify(events)
    }

    fn close_socket(&self) {
        drop(lock(&self.on_watched).take()); // of a loop that ended first
        self.outbox.close(&self.counters);
        self.group.leave_task();
    }
}

impl fmt::Debug for DatagramStart {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("DatagramStart")
            .field("is_paused", &self.is_paused)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for DatagramTask {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "datagrams at {} ({:?})", self.local, self.task.word)
    }
}

impl fmt::Display for DatagramTask {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "the datagram socket at {}", self.local)
    }
}
