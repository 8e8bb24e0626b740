//! Work of netpoll-client that goes on in steps, as a future.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use netpoll_client::{Advance, Step};
use netpoll_core::{Notify, Result};

use crate::sleep::{Sleep, sleep_until};

/// Takes a step when it is notified, and when a time has come.
pub(crate) struct Steps<A> {
    work: A,
    /// The task that a notification wakes.
    waker: Arc<Mutex<Option<Waker>>>,
    /// When the next step is due, and what waits for that.
    next: Option<(Instant, Sleep)>,
}

impl<A> Steps<A> {
    /// Begins the work, which is given what notifies it.
    ///
    /// # Errors
    /// Those of `begin`.
    pub(crate) fn begin(begin: impl FnOnce(&Arc<Notify>) -> Result<A>) -> Result<Self> {
        let waker = Arc::<Mutex<Option<Waker>>>::default();
        let woken = waker.clone();
        let notify = Arc::new(Notify::calling(move || {
            let waker = woken.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(waker) = waker {
                waker.wake();
            }
        }));
        Ok(Self { work: begin(&notify)?, waker, next: None })
    }
}

impl<A: Advance + Unpin> Future for Steps<A> {
    type Output = A::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<A::Output> {
        let this = &mut *self;
        loop {
            // Before the step: what is notified from now on wakes this task.
            let waker = context.waker().clone();
            let before = this.waker.lock().unwrap_or_else(PoisonError::into_inner).replace(waker);
            drop(before);
            let at = match this.work.advance() {
                Step::Over(outcome) => return Poll::Ready(outcome),
                Step::Until(None) => return Poll::Pending,
                Step::Until(Some(at)) => at,
            };
            if this.next.as_ref().is_none_or(|(armed, _)| *armed != at) {
                this.next = Some((at, sleep_until(at)));
            }
            let is_due = this
                .next
                .as_mut()
                .is_some_and(|(_, sleep)| Pin::new(sleep).poll(context).is_ready());
            if !is_due {
                return Poll::Pending;
            }
            this.next = None;
        }
    }
}
