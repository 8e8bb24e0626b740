//! What a pool knows: for each address who is idle, how many are open, and who waits.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use netpoll_core::{Connection, Exchange, Handle};

use super::builder::PoolBuilder;

/// All addresses of a pool.
pub(super) struct Shelf {
    pub(super) limits: PoolBuilder,
    slots: Mutex<Slots>,
    counters: Arc<Counters>,
    pub(super) life: Mutex<Life>,
    /// Told when the pool closes.
    pub(super) closing: Condvar,
}

/// By network, then by address.
type Slots = HashMap<Box<str>, HashMap<Box<str>, Arc<Slot>>>;

/// What the pool and its reaper tell each other.
#[derive(Default)]
pub(super) struct Life {
    /// The reaper's thread runs.
    pub(super) is_reaped: bool,
    /// The last clone of the pool is gone.
    pub(super) is_closed: bool,
}

/// One address.
pub(super) struct Slot {
    limits: PoolBuilder,
    state: Mutex<State>,
    counters: Arc<Counters>,
}

#[derive(Default)]
struct State {
    /// The one that came back last stands at the back and is handed out first, so the surplus of a
    /// busy hour grows old at the front.
    idle: VecDeque<Idle>,
    /// Idle, out, or being dialled.
    open: usize,
    /// In order. While somebody waits, nobody passes them.
    waiters: VecDeque<Arc<Waiter>>,
    is_closed: bool,
}

/// A connection, and when it was dialled.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) connection: Connection,
    born: Instant,
    /// Its caller may have put another in its place.
    identity: Handle,
}

/// How a connection comes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Parting {
    /// To be judged by what can be seen of it.
    Judge,
    /// No answer is outstanding, its caller says.
    Keep,
    /// To be closed, its caller says.
    Discard,
    /// Its caller's thread unwinds.
    Panic,
}

struct Idle {
    kept: Kept,
    since: Instant,
}

/// One who waits, and what it is given.
#[derive(Default)]
pub(super) struct Waiter {
    grant: Mutex<Option<Grant>>,
    granted: Condvar,
}

/// What a checkout may go on with.
pub(super) enum Grant {
    /// This connection.
    Connection(Box<Kept>),
    /// To dial one; it is counted already.
    Dial,
}

/// What a checkout finds.
pub(super) enum Taken {
    Granted(Grant),
    Wait(Arc<Waiter>),
}

/// What a pool has, over all addresses, and what it has done since it was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PoolStats {
    /// Connections that are idle, out, or being dialled.
    pub open: usize,
    /// Connections that wait to be handed out.
    pub idle: usize,
    /// Threads that wait for a connection.
    pub waiting: usize,
    /// Dials that succeeded.
    pub dialled: u64,
    /// Dials that failed.
    pub dials_failed: u64,
    /// Times that a connection was handed out again.
    pub reused: u64,
    /// Waits that ended without a connection.
    pub timed_out: u64,
    /// Closed because the peer, or somebody here, had closed or reset it.
    pub closed_dead: u64,
    /// Closed because bytes stood unread or unsent.
    pub closed_dirty: u64,
    /// Closed because a read or a flush had failed on it.
    pub closed_failed: u64,
    /// Closed because nothing had arrived since bytes were sent.
    pub closed_unanswered: u64,
    /// Closed because its caller's thread panicked.
    pub closed_panicked: u64,
    /// Closed because its caller discarded it, or gave another connection back in its place.
    pub closed_discarded: u64,
    /// Closed because it was idle, or alive, for too long.
    pub closed_expired: u64,
    /// Closed because enough others were idle.
    pub closed_surplus: u64,
}

#[derive(Default)]
pub(super) struct Counters {
    pub(super) dialled: AtomicU64,
    pub(super) dials_failed: AtomicU64,
    reused: AtomicU64,
    timed_out: AtomicU64,
    dead: AtomicU64,
    dirty: AtomicU64,
    failed: AtomicU64,
    unanswered: AtomicU64,
    panicked: AtomicU64,
    discarded: AtomicU64,
    expired: AtomicU64,
    surplus: AtomicU64,
}

impl Shelf {
    pub(super) fn new(limits: PoolBuilder) -> Self {
        Self {
            limits,
            slots: Mutex::default(),
            counters: Arc::default(),
            life: Mutex::default(),
            closing: Condvar::new(),
        }
    }

    /// The slot of an address. It allocates for a new one alone.
    pub(super) fn slot(&self, network: &str, address: &str) -> Arc<Slot> {
        let mut networks = lock(&self.slots);
        let found = networks.get(network).and_then(|addresses| addresses.get(address));
        if let Some(slot) = found {
            return slot.clone();
        }
        let slot = Arc::new(Slot {
            limits: self.limits,
            state: Mutex::default(),
            counters: self.counters.clone(),
        });
        networks.entry(network.into()).or_default().insert(address.into(), slot.clone());
        slot
    }

    /// Every slot; those that are empty and that nobody holds are forgotten.
    pub(super) fn sweep(&self) -> Vec<Arc<Slot>> {
        let mut networks = lock(&self.slots);
        for addresses in networks.values_mut() {
            addresses.retain(|_, slot| Arc::strong_count(slot) > 1 || lock(&slot.state).open > 0);
        }
        networks.retain(|_, addresses| !addresses.is_empty());
        networks.values().flat_map(HashMap::values).cloned().collect()
    }

    /// Closes what is idle; what is out closes when it comes back.
    pub(super) fn close(&self) {
        lock(&self.life).is_closed = true;
        self.closing.notify_all();
        for slot in self.sweep() {
            let mut state = lock(&slot.state);
            state.is_closed = true;
            let idle = std::mem::take(&mut state.idle);
            state.open -= idle.len();
            drop(state);
            drop(idle);
        }
    }

    pub(super) fn stats(&self) -> PoolStats {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let counters = &self.counters;
        let mut stats = PoolStats {
            dialled: read(&counters.dialled),
            dials_failed: read(&counters.dials_failed),
            reused: read(&counters.reused),
            timed_out: read(&counters.timed_out),
            closed_dead: read(&counters.dead),
            closed_dirty: read(&counters.dirty),
            closed_failed: read(&counters.failed),
            closed_unanswered: read(&counters.unanswered),
            closed_panicked: read(&counters.panicked),
            closed_discarded: read(&counters.discarded),
            closed_expired: read(&counters.expired),
            closed_surplus: read(&counters.surplus),
            ..PoolStats::default()
        };
        for slot in self.sweep() {
            let state = lock(&slot.state);
            stats.open += state.open;
            stats.idle += state.idle.len();
            stats.waiting += state.waiters.len();
        }
        stats
    }
}

impl Slot {
    /// An idle connection that is fit, or leave to dial, or a place in the queue.
    pub(super) fn take(&self) -> Taken {
        let mut unfit = Vec::new(); // dropped after the lock
        let mut state = lock(&self.state);
        if state.waiters.is_empty() {
            while let Some(Idle { mut kept, since }) = state.idle.pop_back() {
                let now = Instant::now();
                let late = self.limits.idle_timeout.is_some_and(|most| now - since >= most);
                if !late && self.is_fit(&mut kept, now) {
                    self.counters.reused.fetch_add(1, Ordering::Relaxed);
                    return Taken::Granted(Grant::Connection(Box::new(kept)));
                }
                if late {
                    self.counters.expired.fetch_add(1, Ordering::Relaxed);
                }
                state.open -= 1;
                unfit.push(kept);
            }
            if self.limits.max_open.is_none_or(|most| state.open < most) {
                state.open += 1;
                return Taken::Granted(Grant::Dial);
            }
        }
        let waiter = Arc::new(Waiter::default());
        state.waiters.push_back(waiter.clone());
        Taken::Wait(waiter)
    }

    /// Waits for what comes back; `None` at the deadline.
    pub(super) fn wait(&self, waiter: &Arc<Waiter>, deadline: Option<Instant>) -> Option<Grant> {
        let mut grant = lock(&waiter.grant);
        while grant.is_none() {
            let left = deadline.map(|it| it.saturating_duration_since(Instant::now()));
            grant = match left {
                None => waiter.granted.wait(grant).unwrap_or_else(PoisonError::into_inner),
                Some(left) if left.is_zero() => break,
                Some(left) => {
                    let waited = waiter.granted.wait_timeout(grant, left);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
        drop(grant);
        let grant = self.leave(waiter);
        let counter =
            if grant.is_none() { &self.counters.timed_out } else { &self.counters.reused };
        if !matches!(grant, Some(Grant::Dial)) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
        grant
    }

    /// Ends a wait, and returns what was granted in the last moment.
    pub(super) fn leave(&self, waiter: &Arc<Waiter>) -> Option<Grant> {
        // Grants are made under this lock.
        let mut state = lock(&self.state);
        state.waiters.retain(|other| !Arc::ptr_eq(other, waiter));
        lock(&waiter.grant).take()
    }

    /// Takes back what was granted; `None` for a connection that was not dialled, or is kept for
    /// good. Returns whether something is idle now.
    pub(super) fn give_back(&self, mut kept: Option<Kept>, parting: Parting) -> bool {
        let now = Instant::now();
        let fit = kept.as_mut().is_some_and(|kept| self.may_return(kept, parting, now));
        let mut state = lock(&self.state);
        if state.is_closed || !fit {
            state.open -= 1;
            if state.waiters.front().is_some() {
                state.open += 1;
                state.grant(Grant::Dial);
            }
        } else if let Some(mut fit) = kept.take() {
            fit.connection.reset_timeouts();
            if !state.waiters.is_empty() {
                state.grant(Grant::Connection(Box::new(fit)));
            } else if state.idle.len() < self.limits.max_idle {
                state.idle.push_back(Idle { kept: fit, since: now });
            } else {
                self.counters.surplus.fetch_add(1, Ordering::Relaxed);
                state.open -= 1;
                kept = Some(fit);
            }
        }
        let idle = !state.idle.is_empty();
        drop(state);
        drop(kept); // closed, if it still is here
        idle
    }

    /// Closes idle connections whose time is over, or that are dead. Returns whether any is left,
    /// and when the next one's time is over, if ever.
    pub(super) fn reap(&self, now: Instant) -> (bool, Option<Instant>) {
        let mut unfit = Vec::new(); // dropped after the lock
        let mut state = lock(&self.state);
        let before = state.idle.len();
        let mut next: Option<Instant> = None;
        for idle in std::mem::take(&mut state.idle) {
            let end = self.end_of(&idle);
            if end.is_some_and(|end| now >= end) {
                self.counters.expired.fetch_add(1, Ordering::Relaxed);
                unfit.push(idle);
            } else if idle.kept.connection.is_active() {
                next = [next, end].into_iter().flatten().min();
                state.idle.push_back(idle);
            } else {
                self.counters.dead.fetch_add(1, Ordering::Relaxed);
                unfit.push(idle);
            }
        }
        state.open -= before - state.idle.len();
        (!state.idle.is_empty(), next)
    }

    pub(super) fn count(&self, succeeded: bool) {
        let counters = &self.counters;
        let counter = if succeeded { &counters.dialled } else { &counters.dials_failed };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    fn end_of(&self, idle: &Idle) -> Option<Instant> {
        let tired = self.limits.idle_timeout.and_then(|most| idle.since.checked_add(most));
        let old = self.limits.max_lifetime.and_then(|most| idle.kept.born.checked_add(most));
        [tired, old].into_iter().flatten().min()
    }

    /// Whether a connection that comes back may stay; if not, counts why.
    fn may_return(&self, kept: &mut Kept, parting: Parting, now: Instant) -> bool {
        let counter = match parting {
            Parting::Panic => &self.counters.panicked,
            Parting::Judge | Parting::Keep if kept.identity.is_of(&kept.connection) => {
                if parting == Parting::Keep {
                    kept.connection.settle();
                }
                return self.is_fit(kept, now);
            }
            Parting::Judge | Parting::Keep | Parting::Discard => &self.counters.discarded,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        false
    }

    /// Whether the next one may have it; if not, counts why.
    fn is_fit(&self, kept: &mut Kept, now: Instant) -> bool {
        let counter = match kept.connection.exchange() {
            Exchange::Over => &self.counters.dead,
            Exchange::Unsent | Exchange::Unread => &self.counters.dirty,
            Exchange::Failed => &self.counters.failed,
            Exchange::Complete => match self.limits.max_lifetime {
                Some(most) if now - kept.born >= most => &self.counters.expired,
                _ => return true,
            },
            _ => &self.counters.unanswered,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        false
    }
}

impl Kept {
    /// A new one.
    pub(super) fn new(mut connection: Connection) -> Self {
        // A dialer of the user's may have used it before.
        connection.settle();
        Self { identity: connection.handle(), connection, born: Instant::now() }
    }
}

impl State {
    /// Gives it to the first who waits.
    fn grant(&mut self, grant: Grant) {
        if let Some(waiter) = self.waiters.pop_front() {
            *lock(&waiter.grant) = Some(grant);
            waiter.granted.notify_one();
        }
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
