//! A connection group: the connections of one event loop or of one dialer.

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use super::callbacks::{Prepare, SessionType};
use super::policy::Policy;
use super::schedule::Dispatcher;
use super::spawned::TaskGroup;
use super::watchdog::Watchdog;
use crate::base::clock::{self, later};
use crate::base::error::Result;
use crate::base::limits::Limits;
use crate::base::memory::MemoryStats;
use crate::base::sync::{
    AtomicBool, AtomicU64, AtomicUsize, Condvar, Mutex, Ordering, lock, wait_until,
};

/// What the connections of one event loop or of one dialer have in common, and how many live.
///
/// Connections hold it, so it lives as long as the last of them.
pub struct ConnectionGroup {
    pub(crate) policy: Policy,
    dispatcher: Dispatcher,
    live: Mutex<Live>,
    empty: Condvar,
    refused: AtomicU64,
    /// Handshakes of filters that are under way.
    handshakes: AtomicUsize,
    shutting_down: AtomicBool,
    /// The type of its sessions, from the first connection that callbacks drive.
    sessions: OnceLock<SessionType>,
    watchdog: Watchdog,
    /// What the futures of its connections spawn, from the first of them on.
    tasks: OnceLock<Arc<TaskGroup>>,
}

#[derive(Default)]
struct Live {
    connections: usize,
    /// Datagram sockets.
    tasks: usize,
    /// Threads in `wait_empty`: a wake costs a system call even where none waits.
    waiting: usize,
}

impl ConnectionGroup {
    /// Makes a group of connections for callbacks, which run where `dispatcher` says.
    ///
    /// # Errors
    /// [`Error::Config`](crate::Error::Config) if an option can't be used.
    pub fn served(limits: Limits, dispatcher: Dispatcher) -> Result<Arc<Self>> {
        limits.validate()?;
        Ok(Arc::new(Self::new(Policy::new(limits), dispatcher)))
    }

    /// As [`served`](Self::served), for connections that send requests and receive answers. They
    /// are read even while the peer takes no more, since the peer may wait until its answers are
    /// read. So the requests must bound what is read.
    ///
    /// # Errors
    /// Those of `served`.
    pub fn asking(limits: Limits, dispatcher: Dispatcher) -> Result<Arc<Self>> {
        limits.validate()?;
        let policy = Policy { reads_when_congested: true, ..Policy::new(limits) };
        Ok(Arc::new(Self::new(policy, dispatcher)))
    }

    /// As [`served`](Self::served), for these callbacks. If they poll futures, the connections are
    /// read while the peer takes no more, as those of [`asking`](Self::asking) are, since a future
    /// decides what it reads; and neither a shutdown nor the end of the peer's stream closes one.
    ///
    /// # Errors
    /// Those of `served`.
    pub fn calling(
        limits: Limits,
        dispatcher: Dispatcher,
        callbacks: &dyn Prepare,
    ) -> Result<Arc<Self>> {
        if !callbacks.polls_futures() {
            return Self::served(limits, dispatcher);
        }
        let limits = Limits { half_open: true, ..limits };
        limits.validate()?;
        let policy =
            Policy { reads_when_congested: true, polls_futures: true, ..Policy::new(limits) };
        Ok(Arc::new(Self::new(policy, dispatcher)))
    }

    /// Makes a group of connections that callers drive on their own threads.
    ///
    /// # Errors
    /// [`Error::Config`](crate::Error::Config) if an option can't be used.
    pub fn dialled(limits: Limits) -> Result<Arc<Self>> {
        limits.validate()?;
        let policy = Policy { is_dialled: true, ..Policy::new(limits) };
        // After the caller's drop the reactor ends the connection, and that never waits.
        Ok(Arc::new(Self::new(policy, Dispatcher::inline())))
    }

    fn new(policy: Policy, dispatcher: Dispatcher) -> Self {
        Self {
            policy,
            dispatcher,
            live: Mutex::new(Live::default()),
            empty: Condvar::new(),
            refused: AtomicU64::new(0),
            handshakes: AtomicUsize::new(0),
            shutting_down: AtomicBool::new(false),
            sessions: OnceLock::new(),
            watchdog: Watchdog::default(),
            tasks: OnceLock::new(),
        }
    }

    /// The tasks that the futures of its connections spawn.
    pub(crate) fn tasks(&self) -> &Arc<TaskGroup> {
        self.tasks.get_or_init(|| TaskGroup::new(self.dispatcher.clone()))
    }

    /// Cancels those tasks, and waits up to `patience` for their end; further ones are refused.
    /// Returns how many there were.
    pub fn end_tasks(&self, patience: Duration) -> usize {
        self.tasks.get().map_or(0, |tasks| {
            let live = tasks.live();
            tasks.cancel();
            tasks.wait_empty(Some(later(clock::now(), patience)));
            live
        })
    }

    /// The limits of its connections.
    pub fn limits(&self) -> &Limits {
        &self.policy.limits
    }

    /// The number of its connections that are not closed yet.
    pub fn live(&self) -> usize {
        lock(&self.live).connections
    }

    /// How much memory its connections hold.
    pub fn memory(&self) -> MemoryStats {
        self.policy.memory.stats()
    }

    /// The number of connections that were refused: accepted, and closed before `on_connect`.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Notes that a shutdown has begun, for callers of `is_shutting_down`. The connections are told
    /// by [`Remote::shut_down`](crate::Remote::shut_down).
    pub fn begin_shutdown(&self) {
        self.shutting_down.store(true, Ordering::Release);
    }

    pub(crate) fn is_shutting_down(&self) -> bool {
        self.shutting_down.load(Ordering::Acquire)
    }

    /// Counts callbacks that take longer than `limit`, and logs them now and then; `None` stops it.
    pub fn watch_callbacks(&self, limit: Option<Duration>) {
        self.watchdog.set(limit);
    }

    pub(crate) fn watchdog(&self) -> &Watchdog {
        &self.watchdog
    }

    /// Counts a refused connection.
    pub fn count_refusal(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts one more handshake, unless `most` are under way.
    pub(crate) fn begin_handshake(&self, most: usize) -> bool {
        let more = |under_way| (under_way < most).then_some(under_way + 1);
        self.handshakes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
    }

    /// Counts one handshake less.
    pub(crate) fn end_handshake(&self) {
        self.handshakes.fetch_sub(1, Ordering::Relaxed);
    }

    /// Blocks until none of its connections and datagram sockets lives or `deadline` has passed;
    /// returns how many are left.
    pub fn wait_empty(&self, deadline: Instant) -> usize {
        let mut live = lock(&self.live);
        let mut late = false;
        while live.connections + live.tasks > 0 && !late {
            live.waiting += 1;
            (live, late) = wait_until(&self.empty, live, Some(deadline));
            live.waiting -= 1;
        }
        live.connections + live.tasks
    }

    /// Where its callbacks run.
    pub fn dispatcher(&self) -> &Dispatcher {
        &self.dispatcher
    }

    /// Whether the owners of its connections may wait for the network on their threads.
    pub(crate) fn may_wait(&self) -> bool {
        self.policy.is_dialled || self.dispatcher.may_wait()
    }

    /// Whether callers drive its connections, not callbacks.
    pub(crate) fn is_dialled(&self) -> bool {
        self.policy.is_dialled
    }

    /// Whether its connections are read while their output is above its high-water mark.
    pub(crate) fn reads_when_congested(&self) -> bool {
        self.policy.reads_when_congested
    }

    /// Whether futures decide when a shutdown or the end of the peer's stream ends a connection.
    pub(crate) fn polls_futures(&self) -> bool {
        self.policy.polls_futures
    }

    /// Notes which sessions its connections have: those of all are of one type.
    pub(crate) fn note_sessions(&self, callbacks: &dyn Prepare) {
        self.sessions.get_or_init(|| callbacks.session_type());
    }

    /// Checks that the sessions of its connections are of the type `S`.
    pub(crate) fn check_session<S: 'static>(&self) -> Result<()> {
        self.sessions.get().copied().unwrap_or_else(SessionType::of::<()>).check::<S>()
    }

    /// Counts a task that is no connection: [`wait_empty`](Self::wait_empty) waits for it, too.
    pub(crate) fn enter_task(&self) {
        lock(&self.live).tasks += 1;
    }

    pub(crate) fn leave_task(&self) {
        let mut live = lock(&self.live);
        live.tasks -= 1;
        self.tell_if_empty(&live);
    }

    pub(crate) fn enter(&self) {
        lock(&self.live).connections += 1;
    }

    pub(crate) fn leave(&self) {
        let mut live = lock(&self.live);
        live.connections -= 1;
        self.tell_if_empty(&live);
    }

    fn tell_if_empty(&self, live: &Live) {
        if live.connections + live.tasks == 0 && live.waiting > 0 {
            self.empty.notify_all();
        }
    }
}

impl fmt::Debug for ConnectionGroup {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("ConnectionGroup")
            .field("limits", &self.policy.limits)
            .field("dispatcher", &self.dispatcher)
            .field("live", &self.live())
            .finish_non_exhaustive()
    }
}
