//! A future as a task of a loop.
//!
//! ```text
//!     spawn ─► the registry of the loop ─► woken ─► run, where the group's mode says ─┬─► ended
//!                                            ▲                                        │
//!                                            └── a wake: on any thread ◄── pending ◄──┘
//! ```

use std::sync::Arc;

use super::current::{InPlace, LentPlace};
use super::join_handle::JoinHandle;
use crate::base::stats::Work;
use crate::base::sync::{AtomicU64, Ordering};
use crate::connection::mailbox::Remote;
use crate::connection::run::Outcome;
use crate::connection::schedule::{Dispatcher, left_by_pool, schedule_on_reactor};
use crate::connection::scheduled::{Runnable, Scheduled};
use crate::connection::spawned::{Place, Spawned};
use crate::pure::future_task::{FutureTask, Home, Ran};
use crate::pure::join::JoinError;
use crate::pure::placement::History;
use crate::pure::slab::Token;

/// What a spawned task knows of where it runs.
#[derive(Debug)]
pub(crate) struct SpawnedAt {
    place: Arc<Place>,
    history: History,
    token: AtomicU64,
}

impl Home for SpawnedAt {
    fn schedule<F>(task: Arc<FutureTask<F, Self>>)
    where
        F: Future<Output: Send> + Send + 'static,
    {
        // A wake is mostly of a task of the place that this thread polls. The place is at hand, so
        // no count of the reactor changes.
        let Some(scheduled) = left_by_pool(Scheduled::Task(task)) else { return };
        let Some(place) = LentPlace::on(scheduled.reactor()) else {
            return schedule_on_reactor(scheduled);
        };
        let refused = place.remote().run_task(scheduled).err();
        drop(place);
        if let Some(scheduled) = refused {
            scheduled.end();
        }
    }

    fn ended(&self) {
        let Self { place, token, .. } = self;
        place.remote.forget_task(Token::from_u64(token.load(Ordering::Relaxed)));
        place.group.leave();
    }
}

/// Runs `future` as a task of that place. It is first polled on the loop, or where the mode of the
/// group says, never on this thread; but for a poll it costs one allocation, a short lock, and a
/// system call if the loop sleeps.
///
/// Where the group or the loop takes no more tasks, the future is dropped here, and the handle says
/// so.
pub fn spawn_at<F>(place: Arc<Place>, future: F) -> JoinHandle<F::Output>
where
    F: Future<Output: Send> + Send + 'static,
{
    let token = AtomicU64::new(Token::NONE.to_u64());
    let task = FutureTask::new(future, SpawnedAt { place, history: History::default(), token });
    let Place { group, remote } = &*task.home().place;
    group.enter();
    if remote.spawn(task.clone(), group).is_err() {
        let is_closed = group.is_closed();
        let why = if is_closed { "its group is shut down" } else { "its loop has ended" };
        task.refuse(JoinError::refused(why));
    }
    JoinHandle::new(task)
}

/// The handle of a future that can't be spawned, and is dropped here.
pub fn refuse<F>(future: F, why: String) -> JoinHandle<F::Output>
where
    F: Future<Output: Send> + Send + 'static,
{
    let task = FutureTask::new(future, Nowhere);
    task.refuse(JoinError::refused(why));
    JoinHandle::new(task)
}

/// The home of a task that has ended before its first poll.
#[derive(Debug)]
struct Nowhere;

impl Home for Nowhere {
    fn schedule<F>(_: Arc<FutureTask<F, Self>>)
    where
        F: Future<Output: Send> + Send + 'static,
    {
    }
}

impl<F> Runnable for FutureTask<F, SpawnedAt>
where
    F: Future<Output: Send> + Send + 'static,
{
    fn reactor(&self) -> &Arc<Remote> {
        &self.home().place.remote
    }

    fn dispatcher(&self) -> &Dispatcher {
        self.home().place.group.dispatcher()
    }

    fn history(&self) -> &History {
        &self.home().history
    }

    fn run(self: Arc<Self>) -> (Arc<dyn Runnable>, Outcome, Work) {
        let entered = InPlace::enter(&self.home().place);
        let ran = FutureTask::run(&self);
        drop(entered);
        let outcome = if ran == Ran::Again { Outcome::Again } else { Outcome::Done };
        (self, outcome, Work { callbacks: 1, ..Work::default() })
    }

    fn abort(&self) {
        self.note_abort();
    }
}

impl<F> Spawned for FutureTask<F, SpawnedAt>
where
    F: Future<Output: Send> + Send + 'static,
{
    fn set_token(&self, token: Token) {
        self.home().token.store(token.to_u64(), Ordering::Relaxed);
    }

    fn place(&self) -> &Arc<Place> {
        &self.home().place
    }

    fn note_abort(&self) -> bool {
        FutureTask::note_abort(self)
    }
}
