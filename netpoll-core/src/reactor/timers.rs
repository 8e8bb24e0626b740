//! What a reactor does when a timer fires: for its preambles, its streams and its memory.

use std::sync::Arc;
use std::task::Waker;
use std::time::{Duration, Instant};

use super::registry::{FdOperator, StreamTimers, TimerId};
use super::{Core, shutdown};
use crate::base::blocking::Forbidden;
use crate::base::clock::{self, later};
use crate::base::panic::guard;
use crate::connection::Shared;
use crate::connection::job::Job;
use crate::pure::slab::Token;
use crate::pure::task::Events;
use crate::pure::tick::Tick;
use crate::pure::timer_entry::TimerEntry;

/// How soon a connection tries again to receive for which there was too little memory.
const SHORT_OF_MEMORY: Duration = Duration::from_millis(10);

/// How long after the close of a connection, and how often, the loop looks for unused memory.
const REST: Duration = Duration::from_secs(1);
const RESTS: u8 = 3;

/// What the reactor does when a timer fires.
#[derive(Debug)]
pub(super) enum Action {
    /// Connections wait for the capacity of a pool.
    Capacity,
    /// Memory has been unused for a while.
    Rest {
        looks: u8,
    },
    /// A preamble is not complete in time.
    Late(Token),
    /// A timer of a stream.
    Stream(Token, TimerId),
    /// A job of this connection is due.
    Job(Token, Arc<Job>),
    Tick(Tick),
    /// A source asked to be told these events.
    Alarm(Token, Events),
    /// A source could not be watched for room.
    Transmit(Token),
    /// A future waits for this time.
    Wake(Arc<TimerEntry>),
}

impl Core {
    #[inline]
    pub(super) fn fire_timers(&mut self) {
        if !self.timers.is_empty() {
            self.fire_due();
        }
    }

    #[inline(never)] // so that the check, of each turn, is inlined
    fn fire_due(&mut self) {
        let now = clock::now();
        while let Some(action) = self.timers.fire(now) {
            match action {
                Action::Late(token) => self.end_preamble(token),
                Action::Rest { looks } => self.shrink(looks, now),
                Action::Capacity => self.ready.extend(self.crowded.drain(..)),
                Action::Stream(token, id) => self.stream_timer(token, id, now),
                Action::Job(token, job) => self.job_timer(token, job, now),
                Action::Alarm(token, events) => self.alarm(token, events),
                Action::Transmit(token) => self.transmit_source(token),
                Action::Wake(entry) => {
                    let waker = entry.fire(now, &mut self.timers, Action::Wake);
                    waker.into_iter().for_each(wake);
                }
                Action::Tick(tick) => {
                    if let Some(next) = tick.run(now) {
                        self.timers.arm(next, Action::Tick(tick));
                    }
                }
            }
        }
    }

    /// A connection has closed, so its memory may be unused.
    #[inline]
    pub(super) fn shrink_soon(&mut self) {
        if !self.shrinks && netpoll_buffer::rests_much() {
            self.shrinks = true;
            self.timers.arm(clock::now() + REST, Action::Rest { looks: RESTS });
        }
    }

    /// Frees memory that was unused for a while. The first look only marks it, so there are
    /// several; they end when all memory is in use.
    fn shrink(&mut self, looks: u8, now: Instant) {
        netpoll_buffer::share_cache();
        let looks = if netpoll_buffer::shrink_store() > 0 { RESTS } else { looks - 1 };
        self.shrinks = looks > 0 && netpoll_buffer::rests_much();
        if self.shrinks {
            self.timers.arm(now + REST, Action::Rest { looks });
        }
    }

    fn stream_timer(&mut self, token: Token, id: TimerId, now: Instant) {
        let Some(shared) = self.fired(token, id) else { return };
        let must_run = match id {
            TimerId::Linger => shared.task.word.notify(Events::LINGERED),
            TimerId::Retry => shared.task.word.notify(Events::READABLE),
            TimerId::Look => match shared.extras.check_time(shared.progress(), now) {
                Ok(is_aged) => {
                    self.arm_look(&shared, || now);
                    is_aged && shared.task.word.notify(Events::AGED | shutdown())
                }
                Err(_) => shared.expire(),
            },
            TimerId::Job(_) => false,
        };
        if must_run {
            self.ready.push_back(shared.into());
        }
    }

    fn job_timer(&mut self, token: Token, job: Arc<Job>, now: Instant) {
        let Some(shared) = self.fired(token, TimerId::Job(job.id())) else { return };
        if job.is_cancelled() || !shared.enqueue(job.clone()) {
            return;
        }
        if shared.task.word.notify(Events::JOBS) {
            self.ready.push_back(shared.into());
        }
        if let Some(period) = job.period {
            self.arm_for(
                token,
                later(now, period),
                TimerId::Job(job.id()),
                Action::Job(token, job),
            );
        }
    }

    /// Returns the connection of a timer that has fired, and forgets the timer.
    fn fired(&mut self, token: Token, id: TimerId) -> Option<Arc<Shared>> {
        let Some(FdOperator::Stream(stream)) = self.operators.find_mut(token) else { return None };
        if let Some(timers) = &mut stream.timers {
            timers.remove(&id);
        }
        Some(stream.shared.clone())
    }

    pub(super) fn arm_job(&mut self, shared: &Shared, at: Instant, job: Arc<Job>) {
        if job.is_cancelled() || shared.task.word.is_closed() {
            job.forget();
            return;
        }
        // All callbacks come after the registration, so the token is set.
        let token = shared.token();
        self.arm_for(token, at, TimerId::Job(job.id()), Action::Job(token, job));
    }

    /// Arms the next look of the connection's time watch, if there is one.
    pub(super) fn arm_look(&mut self, shared: &Arc<Shared>, now: impl FnOnce() -> Instant) {
        let token = shared.token();
        match shared.extras.next_look(now) {
            Some(at) => {
                self.arm_for(token, at, TimerId::Look, Action::Stream(token, TimerId::Look));
            }
            None => self.disarm(token, TimerId::Look),
        }
    }

    /// Arms a timer of a stream, and cancels the one that had this id.
    pub(super) fn arm_for(&mut self, token: Token, at: Instant, id: TimerId, action: Action) {
        let Some(FdOperator::Stream(stream)) = self.operators.find_mut(token) else { return };
        let key = self.timers.arm(at, action);
        if let Some(before) = stream.timers.get_or_insert_default().insert(id, key) {
            self.timers.cancel(before);
        }
    }

    pub(super) fn disarm(&mut self, token: Token, id: TimerId) {
        let Some(FdOperator::Stream(stream)) = self.operators.find_mut(token) else { return };
        let key = stream.timers.as_mut().and_then(|timers| timers.remove(&id));
        drop(key.and_then(|key| self.timers.cancel(key)));
    }

    /// Has a connection try again in a while, for which there was too little memory.
    pub(super) fn arm_retry(&mut self, token: Token) {
        let at = clock::now() + SHORT_OF_MEMORY;
        self.arm_for(token, at, TimerId::Retry, Action::Stream(token, TimerId::Retry));
    }

    /// Cancels the timers of a stream that has gone.
    pub(super) fn forget_timers(&mut self, timers: &StreamTimers) {
        for key in timers.values() {
            self.timers.cancel(*key).into_iter().for_each(forget);
        }
    }
}

/// Wakes a future, which may be another executor's.
pub(super) fn wake(waker: Waker) {
    let _forbidden = Forbidden::here();
    guard("the waker of a timer", || waker.wake()).ok();
}

/// Drops a timer. What a job captured is the user's, and its drop may panic.
fn forget(action: Action) {
    if let Action::Job(_, job) = action {
        job.forget();
    }
}
