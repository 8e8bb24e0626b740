//! What a loop schedules and a thread runs: a connection, or another kind of task.
//!
//! ```text
//!     a reactor, a wake ──► Scheduled ──► here, or a worker ──► run ──► Outcome
//!                           │
//!                           ├─ Connection(Arc<Shared>)      by name: nearly all are connections
//!                           └─ Task(Arc<dyn Runnable>)      a datagram socket, a future
//! ```
//! The threads that run it know no more of it than this file says.

use std::fmt;
use std::sync::Arc;

use super::mailbox::Remote;
use super::run::{self, Outcome};
use super::schedule::Dispatcher;
use super::shared::Shared;
use crate::base::stats::Work;
use crate::pure::placement::{Behaviour, History, Placement};

/// A task whose word says *scheduled*. One thread has this value, and sees to it that the task is
/// run.
#[derive(Debug)]
pub(crate) enum Scheduled {
    Connection(Arc<Shared>),
    Task(Arc<dyn Runnable>),
}

/// A task other than a connection.
///
/// Its word is that of a connection (`pure/task.rs`): a thread that moves it from idle to scheduled
/// calls [`schedule_task`](super::schedule::schedule_task), and `run` moves it on to running.
pub(crate) trait Runnable: Send + Sync + fmt::Debug {
    /// The reactor that runs it.
    fn reactor(&self) -> &Arc<Remote>;

    /// Where user code of it runs.
    fn dispatcher(&self) -> &Dispatcher;

    /// What its runs did.
    fn history(&self) -> &History;

    /// Runs it once, as a connection is run: until there is nothing to do, or its budget is used
    /// up. A panic of user code does not leave it. It comes back, so that a run changes no count.
    fn run(self: Arc<Self>) -> (Arc<dyn Runnable>, Outcome, Work);

    /// Has the next run end it, with no user code but destructors. It may be called more than once.
    fn abort(&self);
}

impl Scheduled {
    /// The reactor that runs it.
    #[inline]
    pub(crate) fn reactor(&self) -> &Arc<Remote> {
        match self {
            Self::Connection(shared) => &shared.reactor,
            Self::Task(task) => task.reactor(),
        }
    }

    /// Where user code of it runs.
    #[inline]
    pub(crate) fn dispatcher(&self) -> &Dispatcher {
        match self {
            Self::Connection(shared) => shared.group.dispatcher(),
            Self::Task(task) => task.dispatcher(),
        }
    }

    /// Runs it, on a thread that does not hold its reactor's core.
    pub(crate) fn run(&self) -> Outcome {
        match self {
            Self::Connection(shared) => run::run(shared),
            Self::Task(task) => {
                let (task, outcome, work) = task.clone().run();
                task.reactor().traffic.add(work);
                outcome
            }
        }
    }

    /// Runs it, and says what it did: for a thread that holds its reactor's core, or will when it
    /// takes it up again, and adds that to the reactor's own counters.
    #[inline]
    pub(crate) fn run_counted(self) -> (Self, Outcome, Work) {
        match self {
            Self::Connection(shared) => {
                let (outcome, work) = run::run_counted(&shared);
                (Self::Connection(shared), outcome, work)
            }
            Self::Task(task) => {
                let (task, outcome, work) = task.run();
                (Self::Task(task), outcome, work)
            }
        }
    }

    /// A task of its reactor that was woken and is to be run where this one was run; for one that
    /// has been run with the core put down.
    #[inline]
    pub(crate) fn take_next(&self) -> Option<Self> {
        match self {
            Self::Connection(_) => None,
            Self::Task(task) => {
                let is_alike = |next: &Self| {
                    std::ptr::eq(next.dispatcher(), task.dispatcher())
                        && next.place() == Placement::Reactor
                };
                task.reactor().take_one_woken(is_alike)
            }
        }
    }

    /// Ends it: no other thread will run it again.
    pub(crate) fn end(&self) {
        match self {
            Self::Connection(shared) => {
                shared.abort();
            }
            Self::Task(task) => task.abort(),
        }
        while self.run() == Outcome::Again {}
    }

    /// Has its next run end it.
    pub(crate) fn abort(&self) {
        match self {
            Self::Connection(shared) => {
                shared.abort();
            }
            Self::Task(task) => task.abort(),
        }
    }

    /// Where its next run should be, by its history.
    #[inline]
    pub(crate) fn place(&self) -> Placement {
        self.history().place(&self.reactor().loop_history)
    }

    /// Counts what a run of it did.
    #[inline]
    pub(crate) fn note(&self, behaviour: Behaviour) {
        self.history().note(behaviour, &self.reactor().loop_history);
    }

    /// Counts what a run of it did on a pool; see [`History::note_alone`].
    pub(crate) fn note_alone(&self, behaviour: Behaviour) {
        self.history().note_alone(behaviour);
    }

    /// Whether its runs have shown that they return.
    #[inline]
    pub(crate) fn is_proven(&self) -> bool {
        self.history().is_proven()
    }

    #[inline]
    fn history(&self) -> &History {
        match self {
            Self::Connection(shared) => &shared.history,
            Self::Task(task) => task.history(),
        }
    }
}

impl From<Arc<Shared>> for Scheduled {
    fn from(shared: Arc<Shared>) -> Self {
        Self::Connection(shared)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    /// There are many of them in queues.
    #[test]
    fn it_is_as_large_as_two_pointers() {
        assert_eq!(size_of::<Scheduled>(), 2 * size_of::<usize>());
    }
}
