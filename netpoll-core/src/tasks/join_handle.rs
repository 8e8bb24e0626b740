//! The handle of a task: to wait for its output, or to cancel it.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use crate::pure::future_task::{FutureTask, Home};
use crate::pure::join::Outcome;
use crate::tasks::current::poll_budget;

/// A task, for the one that waits for its output: a future of `Result<T, JoinError>`.
///
/// Dropping it cancels the task, unless [`detach`](Self::detach) lets it go on: the future is
/// dropped on its loop, soon after, and not by the thread that drops the handle. A poll that is
/// under way ends first.
pub struct JoinHandle<T> {
    task: Arc<dyn Joined<T>>,
    /// The drop does not cancel.
    is_detached: bool,
    /// The outcome was taken.
    is_taken: bool,
}

/// A task, without the type of its future.
trait Joined<T>: Abort {
    fn poll(&self, context: &Context<'_>) -> Poll<Option<Outcome<T>>>;
    fn abandon(&self) -> bool;
}

/// Cancels a task, from any thread, also after its [`JoinHandle`] was detached. Dropping it does
/// nothing. It keeps the memory of the task, not the future.
#[derive(Clone)]
pub struct AbortHandle {
    task: Arc<dyn Abort>,
}

/// A task, without the type of its future and of its output.
trait Abort: Send + Sync {
    fn abort(self: Arc<Self>);
    fn has_ended(&self) -> bool;
}

impl AbortHandle {
    /// As [`JoinHandle::abort`].
    pub fn abort(&self) {
        self.task.clone().abort();
    }

    /// Whether the task has ended.
    pub fn is_finished(&self) -> bool {
        self.task.has_ended()
    }
}

impl<T> JoinHandle<T> {
    pub(crate) fn new<F, H>(task: Arc<FutureTask<F, H>>) -> Self
    where
        F: Future<Output = T> + Send + 'static,
        T: Send,
        H: Home,
    {
        Self { task, is_detached: false, is_taken: false }
    }

    /// Cancels the task: its future is dropped in place of the next poll, and the handle returns an
    /// error that [is cancelled](crate::JoinError::is_cancelled). A task that has ended keeps its
    /// output. Never blocks; a poll that is under way ends first.
    pub fn abort(&self) {
        self.task.clone().abort();
    }

    /// What cancels the task without this handle.
    pub fn abort_handle(&self) -> AbortHandle {
        AbortHandle { task: self.task.clone() }
    }

    /// Lets the task go on without a handle. Its output is dropped; a panic of it is logged.
    pub fn detach(mut self) {
        self.is_detached = true;
    }

    /// Whether the task has ended.
    pub fn is_finished(&self) -> bool {
        self.task.has_ended()
    }
}

impl<T> Future for JoinHandle<T> {
    type Output = Outcome<T>;

    /// # Panics
    /// When it is polled after it was ready.
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if self.is_finished() {
            ready!(poll_budget(context));
        }
        self.task.poll(context).map(|outcome| {
            self.is_taken = true;
            outcome.expect("it is polled after it was ready")
        })
    }
}

impl<T> Drop for JoinHandle<T> {
    fn drop(&mut self) {
        if self.is_taken {
            return;
        }
        let goes_on = self.task.abandon();
        if goes_on && !self.is_detached {
            self.abort();
        }
    }
}

impl<F, H> Joined<F::Output> for FutureTask<F, H>
where
    F: Future<Output: Send> + Send + 'static,
    H: Home,
{
    fn poll(&self, context: &Context<'_>) -> Poll<Option<Outcome<F::Output>>> {
        self.join().poll(context)
    }

    fn abandon(&self) -> bool {
        self.join().abandon()
    }
}

impl<F, H> Abort for FutureTask<F, H>
where
    F: Future<Output: Send> + Send + 'static,
    H: Home,
{
    fn abort(self: Arc<Self>) {
        FutureTask::abort(&self);
    }

    fn has_ended(&self) -> bool {
        self.join().has_ended()
    }
}

impl fmt::Debug for AbortHandle {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("AbortHandle").field("is_finished", &self.is_finished()).finish()
    }
}

impl<T> fmt::Debug for JoinHandle<T> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("JoinHandle").field("is_finished", &self.is_finished()).finish()
    }
}
