//! A task with a future as its body: one allocation for the word, the future and its output.
//!
//! ```text
//!   Arc ─► ┌ home    where it runs: its loop, its group, its history
//!          │ task    the word, and the cell with the future (pure/task.rs)
//!          └ join    the output, for its handle (pure/join.rs)
//!
//!   wake, abort ──► the word: idle → scheduled ──► Home::schedule ──► run, on some thread
//!   run:  begin ─► poll ─┬─ pending ─► release ─► idle          a wake in between: Ran::Again
//!                        └─ ready, panic, abort ─► the future is dropped ─► closed ─► complete
//! ```
//! A wake is one compare-exchange. The first one schedules the task, those that follow before the
//! poll join it, and one that comes during the poll makes the release fail. After the end a wake
//! changes nothing: a closed word is never scheduled.

#![expect(unsafe_code, reason = "the future is pinned in its cell")]

use std::fmt;
use std::mem::ManuallyDrop;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};

use super::join::{Join, JoinError, Outcome};
use super::task::{Events, Run, Task};
use crate::base::panic::{guard, guard_keeping};

/// What a task knows of where it runs.
pub(crate) trait Home: Send + Sync + Sized + 'static {
    /// Makes sure that a thread runs this task, which is scheduled.
    fn schedule<F>(task: Arc<FutureTask<F, Self>>)
    where
        F: Future<Output: Send> + Send + 'static;

    /// The task has ended, and its future was dropped; its outcome is not seen yet.
    fn ended(&self) {}
}

/// See the module.
pub(crate) struct FutureTask<F: Future, H> {
    home: H,
    task: Task<Option<F>>,
    join: Join<F::Output>,
}

/// What a run of a task has come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ran {
    /// The future is pending, or another thread has the task.
    Pending,
    /// It was woken while it was polled, and is still scheduled.
    Again,
    /// It has ended.
    Ended,
}

impl<F, H> FutureTask<F, H>
where
    F: Future<Output: Send> + Send + 'static,
    H: Home,
{
    /// Makes a scheduled task; the caller makes sure that a thread runs it. It is in an `Arc` from
    /// the start, so the future is never moved.
    pub(crate) fn new(future: F, home: H) -> Arc<Self> {
        Arc::new(Self { home, task: Task::new(Some(future)), join: Join::new() })
    }

    pub(crate) fn home(&self) -> &H {
        &self.home
    }

    /// Polls the future of a scheduled task once, or drops it if the task was aborted.
    pub(crate) fn run(self: &Arc<Self>) -> Ran {
        let Some(mut run) = self.task.begin() else { return Ran::Pending };
        if self.is_aborted() {
            return self.end(run, Err(JoinError::cancelled()));
        }
        let waker = lent_waker(self);
        let polled = guard_keeping("a task", || {
            pinned(&mut run)
                .as_pin_mut()
                .map(|future| future.poll(&mut Context::from_waker(&waker)))
        });
        match polled {
            Ok(Some(Poll::Pending)) => match run.release() {
                Ok(()) => Ran::Pending,
                Err(run) if self.is_aborted() => self.end(run, Err(JoinError::cancelled())),
                Err(run) => {
                    run.reschedule();
                    Ran::Again
                }
            },
            Ok(Some(Poll::Ready(output))) => self.end(run, Ok(output)),
            // The cell is empty once the word is closed, and then nothing begins the task.
            Ok(None) => self.end(run, Err(JoinError::cancelled())),
            Err(payload) => self.end(run, Err(JoinError::panicked(payload))),
        }
    }

    /// Cancels the task: its next run drops the future. One that has ended keeps its output.
    pub(crate) fn abort(self: &Arc<Self>) {
        if self.note_abort() {
            H::schedule(self.clone());
        }
    }

    /// As [`abort`](Self::abort), for a caller that makes sure itself that a thread runs the task
    /// if this returns `true`.
    pub(crate) fn note_abort(&self) -> bool {
        self.task.word.notify(Events::ABORT)
    }

    /// Ends a task that was never run, on this thread.
    pub(crate) fn refuse(&self, why: JoinError) {
        if let Some(run) = self.task.begin() {
            self.end(run, Err(why));
        }
    }

    pub(crate) fn join(&self) -> &Join<F::Output> {
        &self.join
    }

    fn is_aborted(&self) -> bool {
        self.task.word.events().has_any(Events::ABORT)
    }

    /// The future is dropped before the outcome is seen: a join finds its resources free.
    fn end(&self, mut run: Run<'_, Option<F>>, outcome: Outcome<F::Output>) -> Ran {
        guard("the drop of a future", || pinned(&mut run).set(None)).ok();
        run.close();
        self.home.ended();
        self.join.complete(outcome);
        Ran::Ended
    }
}

/// A waker of a task for one poll, which must not outlive this borrow: it changes no count.
fn lent_waker<F, H>(task: &Arc<FutureTask<F, H>>) -> ManuallyDrop<Waker>
where
    F: Future<Output: Send> + Send + 'static,
    H: Home,
{
    // SAFETY: the pointer is that of an `Arc`, which lives for as long as `task` is borrowed. The
    // second `Arc` that is made of it here is never dropped, as `ManuallyDrop` keeps the waker from
    // that; and a clone of the waker counts itself.
    let uncounted = unsafe { Arc::from_raw(Arc::as_ptr(task)) };
    ManuallyDrop::new(Waker::from(uncounted))
}

/// The future in the cell of a task that this thread owns.
fn pinned<'a, F>(run: &'a mut Run<'_, Option<F>>) -> Pin<&'a mut Option<F>> {
    // SAFETY: the cell is a field of a `FutureTask`, which `new` puts into an `Arc` and nothing
    // takes out. `task` is private to this file, and all runs of it are used through this function;
    // so the future stays where it is until it is dropped there.
    unsafe { Pin::new_unchecked(&mut **run) }
}

impl<F, H> Wake for FutureTask<F, H>
where
    F: Future<Output: Send> + Send + 'static,
    H: Home,
{
    fn wake(self: Arc<Self>) {
        if self.task.word.notify(Events::NONE) {
            H::schedule(self);
        }
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.task.word.notify(Events::NONE) {
            H::schedule(self.clone());
        }
    }
}

impl<F: Future, H: fmt::Debug> fmt::Debug for FutureTask<F, H> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("FutureTask")
            .field("home", &self.home)
            .field("task", &self.task)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
#[path = "future_task_tests.rs"]
mod tests;
