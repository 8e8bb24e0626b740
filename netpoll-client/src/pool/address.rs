//! The connections of a pool to one address: which are idle, how many are open, which threads wait.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Condvar, Mutex, OnceLock};
use std::time::{Duration, Instant};

use netpoll_core::{Connection, Exchange, Handle, Notify, clock};

use super::stats::{Counters, PoolStats};
use crate::cancel::Cancel;
use crate::sync::{lock, wait_until};

/// See the module.
pub(super) struct AddressPool {
    limits: PoolLimits,
    state: Mutex<AddressState>,
    counters: Arc<Counters>,
}

/// What a [`PoolBuilder`](super::PoolBuilder) sets.
#[derive(Debug, Clone, Copy)]
pub(super) struct PoolLimits {
    pub(super) max_open: Option<usize>,
    pub(super) max_idle: usize,
    pub(super) idle_timeout: Option<Duration>,
    pub(super) max_lifetime: Option<Duration>,
}

#[derive(Default)]
struct AddressState {
    /// The connection that came back last stands at the back and is handed out first, so the
    /// surplus of a busy hour grows old at the front.
    idle: VecDeque<IdleConnection>,
    /// How many are idle, handed out or being dialled.
    open: usize,
    /// In order of arrival. While a thread waits, no other checkout is served before it.
    waiters: VecDeque<Arc<Waiter>>,
    is_closed: bool,
}

/// A connection of the pool, and when it was dialled.
#[derive(Debug)]
pub(super) struct PoolConnection {
    pub(super) connection: Connection,
    born: Instant,
    /// Of the connection that was handed out: the caller may have put another one in its place.
    identity: Handle,
}

struct IdleConnection {
    pooled: PoolConnection,
    since: Instant,
}

/// How a connection comes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Return {
    /// The pool decides by what it can see of the exchange.
    Inspect,
    /// The caller says that no answer is outstanding.
    Keep,
    /// The caller wants it closed.
    Discard,
    /// The caller's thread unwinds.
    Panicked,
}

/// A thread that waits for a connection, or a checkout by callback, and what it was granted.
#[derive(Default)]
pub(super) struct Waiter {
    grant: Mutex<Option<Grant>>,
    granted: Condvar,
    /// What is told in place of a thread, if none waits.
    notify: OnceLock<Arc<Notify>>,
}

impl Waiter {
    /// No thread waits: `notify` is told of the grant. A grant that came before is not announced.
    pub(super) fn notify_by(&self, notify: &Arc<Notify>) {
        let _ = self.notify.set(notify.clone());
    }

    pub(super) fn is_granted(&self) -> bool {
        lock(&self.grant).is_some()
    }

    /// Has the thread that waits look whether to go on.
    fn look_again(&self) {
        drop(lock(&self.grant)); // it has looked before this, or waits
        self.granted.notify_all();
    }

    /// Tells of a grant, without the lock of the address: a connection that asks may end by it, and
    /// give back what it has.
    fn tell(&self) {
        match self.notify.get() {
            Some(notify) => notify.notify(),
            None => self.granted.notify_one(),
        }
    }
}

/// What a checkout may go on with.
pub(super) enum Grant {
    /// This connection.
    Connection(Box<PoolConnection>),
    /// To dial one, which is counted as open already.
    Dial,
}

/// What a checkout finds.
pub(super) enum Taken {
    Granted(Grant),
    Wait(Arc<Waiter>),
}

impl AddressPool {
    pub(super) fn new(limits: PoolLimits, counters: Arc<Counters>) -> Self {
        Self { limits, state: Mutex::default(), counters }
    }

    /// An idle connection that is fit, or the permission to dial one, or a place in the queue.
    pub(super) fn take(&self) -> Taken {
        let mut unfit = Vec::new(); // dropped after the lock
        let mut state = lock(&self.state);
        if state.waiters.is_empty() {
            while let Some(IdleConnection { mut pooled, since }) = state.idle.pop_back() {
                let now = clock::now();
                let late = self.limits.idle_timeout.is_some_and(|most| now - since >= most);
                if !late && self.is_fit(&mut pooled, now) {
                    self.counters.reused.fetch_add(1, Ordering::Relaxed);
                    return Taken::Granted(Grant::Connection(Box::new(pooled)));
                }
                if late {
                    self.counters.expired.fetch_add(1, Ordering::Relaxed);
                }
                state.open -= 1;
                unfit.push(pooled);
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

    /// Waits for a connection that comes back; `None` at the deadline, or where it was cancelled.
    pub(super) fn wait(
        &self,
        waiter: &Arc<Waiter>,
        deadline: Option<Instant>,
        cancel: Option<&Cancel>,
    ) -> Option<Grant> {
        let waking = cancel.map(|cancel| {
            let waiter = waiter.clone();
            let notify = Arc::new(Notify::calling(move || waiter.look_again()));
            cancel.watch(&notify);
            notify
        });
        let is_cancelled = || cancel.is_some_and(Cancel::is_cancelled);
        let mut grant = lock(&waiter.grant);
        while grant.is_none() && !is_cancelled() {
            if deadline.is_some_and(|deadline| clock::now() >= deadline) {
                break;
            }
            grant = wait_until(&waiter.granted, grant, deadline);
        }
        drop(grant);
        drop(waking); // until here it is called
        if !is_cancelled() {
            return self.end_wait(waiter);
        }
        // What was granted is used, since it is there.
        let grant = self.leave(waiter)?;
        if matches!(grant, Grant::Connection(_)) {
            self.counters.reused.fetch_add(1, Ordering::Relaxed);
        }
        Some(grant)
    }

    /// Ends a wait that was to be, and counts how.
    pub(super) fn end_wait(&self, waiter: &Arc<Waiter>) -> Option<Grant> {
        let grant = self.leave(waiter);
        let counter =
            if grant.is_none() { &self.counters.timed_out } else { &self.counters.reused };
        if !matches!(grant, Some(Grant::Dial)) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
        grant
    }

    /// Ends a wait, and returns what was granted at the last moment.
    pub(super) fn leave(&self, waiter: &Arc<Waiter>) -> Option<Grant> {
        // Grants are made under this lock.
        let mut state = lock(&self.state);
        state.waiters.retain(|other| !Arc::ptr_eq(other, waiter));
        lock(&waiter.grant).take()
    }

    /// Takes back what was granted; `None` stands for a connection that could not be dialled or was
    /// detached. Returns whether a connection is idle now.
    pub(super) fn give_back(&self, mut pooled: Option<PoolConnection>, how: Return) -> bool {
        let now = clock::now();
        let fit = pooled.as_mut().is_some_and(|pooled| self.may_return(pooled, how, now));
        let mut told = None;
        let mut state = lock(&self.state);
        if state.is_closed || !fit {
            state.open -= 1;
            if state.waiters.front().is_some() {
                state.open += 1;
                told = state.grant(Grant::Dial);
            }
        } else if let Some(mut fit) = pooled.take() {
            fit.connection.reset_timeouts();
            if !state.waiters.is_empty() {
                told = state.grant(Grant::Connection(Box::new(fit)));
            } else if state.idle.len() < self.limits.max_idle {
                state.idle.push_back(IdleConnection { pooled: fit, since: now });
            } else {
                self.counters.surplus.fetch_add(1, Ordering::Relaxed);
                state.open -= 1;
                pooled = Some(fit);
            }
        }
        let idle = !state.idle.is_empty();
        drop(state);
        if let Some(waiter) = told {
            waiter.tell();
        }
        drop(pooled); // closes a connection that may not stay
        idle
    }

    /// Closes idle connections that are too old or dead. Returns whether one is left, and when the
    /// next one will be too old, if ever.
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
            } else if idle.pooled.connection.is_active() {
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

    pub(super) fn has_open(&self) -> bool {
        lock(&self.state).open > 0
    }

    /// Closes what is idle, and from here on what comes back.
    pub(super) fn close(&self) {
        let mut state = lock(&self.state);
        state.is_closed = true;
        let idle = std::mem::take(&mut state.idle);
        state.open -= idle.len();
        drop(state);
        drop(idle);
    }

    pub(super) fn add_to(&self, stats: &mut PoolStats) {
        let state = lock(&self.state);
        stats.open += state.open;
        stats.idle += state.idle.len();
        stats.waiting += state.waiters.len();
    }

    fn end_of(&self, idle: &IdleConnection) -> Option<Instant> {
        let tired = self.limits.idle_timeout.and_then(|most| idle.since.checked_add(most));
        let old = self.limits.max_lifetime.and_then(|most| idle.pooled.born.checked_add(most));
        [tired, old].into_iter().flatten().min()
    }

    /// Whether a connection that comes back may stay; counts the reason if it may not.
    fn may_return(&self, pooled: &mut PoolConnection, how: Return, now: Instant) -> bool {
        let counter = match how {
            Return::Panicked => &self.counters.panicked,
            Return::Inspect | Return::Keep if pooled.identity.is_of(&pooled.connection) => {
                if how == Return::Keep {
                    pooled.connection.settle();
                }
                return self.is_fit(pooled, now);
            }
            Return::Inspect | Return::Keep | Return::Discard => &self.counters.discarded,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        false
    }

    /// Whether the next caller may have it; counts the reason if not.
    fn is_fit(&self, pooled: &mut PoolConnection, now: Instant) -> bool {
        let counter = match pooled.connection.exchange() {
            Exchange::Over => &self.counters.dead,
            Exchange::Unsent | Exchange::Unread => &self.counters.dirty,
            Exchange::Failed => &self.counters.failed,
            Exchange::Complete => match self.limits.max_lifetime {
                Some(most) if now - pooled.born >= most => &self.counters.expired,
                _ => return true,
            },
            _ => &self.counters.unanswered,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        false
    }
}

impl PoolConnection {
    /// Takes a connection that was just dialled.
    pub(super) fn new(mut connection: Connection) -> Self {
        // A dialer of the user may have exchanged messages on it.
        connection.settle();
        Self { identity: connection.handle(), connection, born: clock::now() }
    }
}

impl AddressState {
    /// Gives it to the checkout that has waited longest, which the caller tells.
    fn grant(&mut self, grant: Grant) -> Option<Arc<Waiter>> {
        let waiter = self.waiters.pop_front()?;
        *lock(&waiter.grant) = Some(grant);
        Some(waiter)
    }
}
