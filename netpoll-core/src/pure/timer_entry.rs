//! A timer of a future: what its loop and the thread that polls it both know.
//!
//! ```text
//!     the one that waits                       its loop
//!     post ────────► posted ──────────────────► arm: in the wheel ──► fire: Fired, wakes
//!     reset: later ──► the time alone changes       └─ fired too early: armed again
//!     reset: earlier ► posted again ──────────► arm: in place of the former
//!     drop ────────► Cancelled, posted if in the wheel ──► arm: out of the wheel
//!                                              the loop ends: Orphaned, wakes
//! ```
//! A timer that is dropped before its loop has seen it costs the loop nothing, and one that is put
//! off costs nothing at all: the wheel looks at the time again when the former one has come.

use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use crate::base::sync::{Mutex, lock};
use crate::pure::timer::{TimerKey, Timers};

/// See the module.
pub(crate) struct TimerEntry(Mutex<State>);

struct State {
    at: Instant,
    phase: Phase,
    /// A command to the loop is under way.
    is_posted: bool,
    /// Where it is in the wheel, and for which time.
    armed: Option<(TimerKey, Instant)>,
    waker: Option<Waker>,
}

/// How a wait ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    Waiting,
    Fired,
    /// Its loop has ended before.
    Orphaned,
    Cancelled,
}

impl TimerEntry {
    /// A timer that the caller posts to a loop.
    pub(crate) fn posted(at: Instant, waker: Waker) -> Arc<Self> {
        let (phase, waker) = (Phase::Waiting, Some(waker));
        Arc::new(Self(Mutex::new(State { at, phase, is_posted: true, armed: None, waker })))
    }

    /// How the wait has ended; while it lasts, keeps the waker.
    pub(crate) fn poll(&self, context: &Context<'_>) -> Poll<Phase> {
        let state = lock(&self.0);
        if state.phase != Phase::Waiting {
            return Poll::Ready(state.phase);
        }
        if state.waker.as_ref().is_some_and(|kept| kept.will_wake(context.waker())) {
            return Poll::Pending;
        }
        drop(state);
        // To clone and to drop a waker is code of its executor.
        let waker = context.waker().clone();
        let mut state = lock(&self.0);
        let phase = state.phase;
        let before = if phase == Phase::Waiting { state.waker.replace(waker) } else { None };
        drop(state);
        drop(before);
        if phase == Phase::Waiting { Poll::Pending } else { Poll::Ready(phase) }
    }

    /// Waits until `at` from now on. `Some(true)`: the caller posts it; `None`: it has ended.
    pub(crate) fn reset(&self, at: Instant) -> Option<bool> {
        let mut state = lock(&self.0);
        if state.phase != Phase::Waiting {
            return None;
        }
        state.at = at;
        let is_earlier = state.armed.is_none_or(|(_, armed_for)| at < armed_for);
        let must_post = is_earlier && !state.is_posted;
        state.is_posted |= must_post;
        Some(must_post)
    }

    /// It is not waited for any more. `true`: the caller posts it, so that it leaves the wheel.
    pub(crate) fn cancel(&self) -> bool {
        let mut state = lock(&self.0);
        let waker = state.waker.take();
        let mut must_post = false;
        if state.phase == Phase::Waiting {
            state.phase = Phase::Cancelled;
            must_post = state.armed.is_some() && !state.is_posted;
            state.is_posted |= must_post;
        }
        drop(state);
        drop(waker);
        must_post
    }

    /// For the loop, to which it was posted: puts it into the wheel, or takes it out.
    pub(crate) fn arm<T>(
        self: Arc<Self>,
        timers: &mut Timers<T>,
        action: impl FnOnce(Arc<Self>) -> T,
    ) {
        let mut state = lock(&self.0);
        state.is_posted = false;
        let before = state.armed.take().and_then(|(key, _)| timers.cancel(key));
        if state.phase == Phase::Waiting {
            let at = state.at;
            state.armed = Some((timers.arm(at, action(self.clone())), at));
        }
        drop(state);
        drop(before);
    }

    /// For the loop, when the wheel says that it is due: its end, and the waker to call. It is
    /// armed again where it was put off.
    pub(crate) fn fire<T>(
        self: Arc<Self>,
        now: Instant,
        timers: &mut Timers<T>,
        action: impl FnOnce(Arc<Self>) -> T,
    ) -> Option<Waker> {
        let mut state = lock(&self.0);
        state.armed = None;
        if state.phase != Phase::Waiting {
            return None;
        }
        let at = state.at;
        if at > now {
            state.armed = Some((timers.arm(at, action(self.clone())), at));
            return None;
        }
        state.phase = Phase::Fired;
        state.waker.take()
    }

    /// Its loop has ended: returns the waker to call.
    pub(crate) fn orphan(&self) -> Option<Waker> {
        let mut state = lock(&self.0);
        state.armed = None;
        state.is_posted = false;
        if state.phase != Phase::Waiting {
            return None;
        }
        state.phase = Phase::Orphaned;
        state.waker.take()
    }
}

impl fmt::Debug for TimerEntry {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "TimerEntry, {:?}", lock(&self.0).phase)
    }
}

#[cfg(all(test, not(loom)))]
#[path = "timer_entry_tests.rs"]
mod tests;
