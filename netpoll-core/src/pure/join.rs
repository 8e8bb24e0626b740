//! What passes from a task that ends to the one that waits for it: the output, or why there is
//! none.
//!
//! ```text
//!     the task                                the handle
//!     complete ─► Pending ─► Done ──────────► poll: Taken
//!                    │                   ┌──► abandon: Unwanted, the output is dropped
//!                    └─► Unwanted ───────┘    complete finds it, and drops the output
//! ```
//! Each step is one change under the lock, so the output has one owner at any time, and a waker
//! that is stored before the end is called. No code of the user runs under the lock.

use std::any::Any;
use std::fmt;
use std::task::{Context, Poll, Waker};

use crate::base::panic::guard;
use crate::base::sync::{AtomicBool, Mutex, Ordering, lock};

/// Why a task has no output: it was cancelled, or its future panicked.
///
/// ```
/// # fn ended(error: netpoll_core::JoinError) {
/// match error.into_panic() {
///     Ok(payload) => std::panic::resume_unwind(payload),
///     Err(error) => println!("{error}"), // the task was cancelled before its end
/// }
/// # }
/// ```
pub struct JoinError(Why);

enum Why {
    Cancelled,
    /// It was never polled, for that reason.
    Refused(String),
    Panicked(Box<dyn Any + Send>),
}

impl JoinError {
    pub(crate) fn cancelled() -> Self {
        Self(Why::Cancelled)
    }

    pub(crate) fn refused(why: impl Into<String>) -> Self {
        Self(Why::Refused(why.into()))
    }

    pub(crate) fn panicked(payload: Box<dyn Any + Send>) -> Self {
        Self(Why::Panicked(payload))
    }

    /// Whether the task was cancelled, by an abort, by the drop of its handle or by a shutdown; or
    /// refused, since what it was spawned on was shut down before.
    pub fn is_cancelled(&self) -> bool {
        !self.is_panic()
    }

    /// Whether the future of the task panicked.
    pub fn is_panic(&self) -> bool {
        matches!(self.0, Why::Panicked(_))
    }

    /// What the future panicked with, for [`resume_unwind`](std::panic::resume_unwind).
    ///
    /// # Errors
    /// This error itself, if the task was cancelled.
    pub fn into_panic(self) -> Result<Box<dyn Any + Send>, Self> {
        match self.0 {
            Why::Panicked(payload) => Ok(payload),
            Why::Cancelled | Why::Refused(_) => Err(self),
        }
    }
}

impl fmt::Debug for JoinError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Why::Cancelled => out.write_str("JoinError::Cancelled"),
            Why::Refused(why) => write!(out, "JoinError::Refused({why:?})"),
            Why::Panicked(_) => out.write_str("JoinError::Panicked"),
        }
    }
}

impl fmt::Display for JoinError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Why::Cancelled => out.write_str("the task was cancelled"),
            Why::Refused(why) => write!(out, "the task was not started: {why}"),
            Why::Panicked(_) => out.write_str("the task panicked; the log says with what"),
        }
    }
}

impl std::error::Error for JoinError {}

// A payload is `Send` and not `Sync`; no method of a shared error reaches it.
const _: () = {
    const fn is_send<T: Send>() {}
    is_send::<JoinError>();
};

/// How a task has ended.
pub(crate) type Outcome<T> = Result<T, JoinError>;

/// See the module.
pub(crate) struct Join<T> {
    state: Mutex<State<T>>,
    /// The task has ended. Written under the lock.
    has_ended: AtomicBool,
}

enum State<T> {
    /// The task has not ended; the waker of the one that waits for it.
    Pending(Option<Waker>),
    Done(Outcome<T>),
    /// The output was taken, or is not wanted.
    Over,
}

impl<T> Join<T> {
    pub(crate) fn new() -> Self {
        Self { state: Mutex::new(State::Pending(None)), has_ended: AtomicBool::new(false) }
    }

    /// The task has ended. Drops the outcome where it is not wanted.
    pub(crate) fn complete(&self, outcome: Outcome<T>) {
        let mut state = lock(&self.state);
        self.has_ended.store(true, Ordering::Release);
        let waker = match &mut *state {
            State::Pending(waker) => waker.take(),
            State::Over | State::Done(_) => {
                drop(state);
                return release(outcome);
            }
        };
        *state = State::Done(outcome);
        drop(state);
        if let Some(waker) = waker {
            guard("the waker of a join", || waker.wake()).ok();
        }
    }

    /// Takes the outcome, or keeps the waker until there is one. `None` if it was taken before.
    pub(crate) fn poll(&self, context: &Context<'_>) -> Poll<Option<Outcome<T>>> {
        if self.has_ended() {
            return Poll::Ready(self.take());
        }
        // To clone and to drop a waker is code of its executor, so not under the lock.
        let waker = context.waker().clone();
        let mut state = lock(&self.state);
        if let State::Pending(kept) = &mut *state {
            let before = kept.replace(waker);
            drop(state);
            drop(before);
            return Poll::Pending;
        }
        drop(state);
        Poll::Ready(self.take())
    }

    /// The output is not wanted any more. Says whether the task goes on.
    pub(crate) fn abandon(&self) -> bool {
        let mut state = lock(&self.state);
        let has_ended = self.has_ended();
        let before = std::mem::replace(&mut *state, State::Over);
        drop(state);
        if let State::Done(outcome) = before {
            release(outcome);
        }
        !has_ended
    }

    /// Whether the task has ended.
    pub(crate) fn has_ended(&self) -> bool {
        self.has_ended.load(Ordering::Acquire)
    }

    fn take(&self) -> Option<Outcome<T>> {
        match std::mem::replace(&mut *lock(&self.state), State::Over) {
            State::Done(outcome) => Some(outcome),
            State::Pending(_) | State::Over => None,
        }
    }

    /// Keeps the waker without a second look at the state: the bug that the models must find.
    #[cfg(all(test, loom))]
    pub(crate) fn poll_and_look_once(&self, context: &Context<'_>) -> Poll<Option<Outcome<T>>> {
        if self.has_ended() {
            return Poll::Ready(self.take());
        }
        if let State::Pending(kept) = &mut *lock(&self.state) {
            *kept = Some(context.waker().clone());
        }
        Poll::Pending
    }
}

/// Drops an outcome that was not taken. A panic of the future was logged before.
fn release<T>(outcome: Outcome<T>) {
    match outcome {
        Err(JoinError(Why::Panicked(payload))) => crate::base::panic::discard(payload),
        other => drop(guard("the drop of an output", || drop(other))),
    }
}

impl<T> fmt::Debug for Join<T> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Join, ended: {}", self.has_ended())
    }
}
