//! Tasks without a connection: futures that run on the loops of a manager.

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use netpoll_core::{
    Dispatch, Dispatcher, HandOffOptions, JoinHandle, PollManager, Result, TaskGroup, blocking,
    clock, current_loop, current_place, refuse, spawn_at,
};

use crate::signal::{Signal, Signalled};

/// How long a shutdown waits for the futures that it has cancelled to be dropped.
const TO_CANCEL: Duration = Duration::from_secs(1);

/// Runs `future` as a task, from any thread: on the loop of the callback or of the task that calls
/// it, else on a loop of the [shared](PollManager::shared) manager.
///
/// The task is polled where polls of the calling task are; a task that is spawned elsewhere under
/// `Dispatch::HandOff`, so it may block. It costs one allocation, and a system call if the loop
/// sleeps. The handle's drop cancels the task, unless [`JoinHandle::detach`] lets it go on. A task
/// that the future of a connection spawns is one of its event loop: it outlives the connection, and
/// is cancelled at the end of a shutdown, after the connections.
///
/// ```
/// use netpoll_async::{block_on, spawn};
///
/// let sum = spawn(async {
///     let parts = [1, 2, 3].map(|part| spawn(async move { part * 10 }));
///     let mut sum = 0;
///     for part in parts {
///         sum += part.await?;
///     }
///     Ok::<_, netpoll_async::JoinError>(sum)
/// });
/// assert_eq!(block_on(sum)??, 60);
/// # Ok::<(), netpoll_async::JoinError>(())
/// ```
///
/// Where no loop can run it (descriptors or threads have run out, or the process was forked), the
/// future is dropped, and the handle returns an error that says why.
pub fn spawn<F>(future: F) -> JoinHandle<F::Output>
where
    F: Future<Output: Send> + Send + 'static,
{
    if let Some(place) = current_place() {
        return spawn_at(place, future);
    }
    match Spawner::shared() {
        Ok(shared) => match current_loop() {
            Some(remote) => spawn_at(shared.tasks.group.place_on(&remote), future),
            None => shared.spawn(future),
        },
        Err(error) => refuse(future, error.to_string()),
    }
}

/// The loops of a manager for tasks, and where their polls run.
///
/// Clones share one group of tasks. Dropping it cancels nothing, and it keeps the manager; a task
/// that has one of its own spawner therefore keeps the manager until it ends.
///
/// ```
/// use std::sync::Arc;
/// use std::time::Duration;
/// use netpoll_async::{Spawner, block_on};
/// use netpoll_core::{Dispatch, LoadBalance, PollManager};
///
/// let manager = Arc::new(PollManager::new(1, LoadBalance::default())?);
/// let spawner = Spawner::new(&manager, Dispatch::Inline)?;
/// assert_eq!(block_on(spawner.spawn(async { 1 + 1 })).unwrap(), 2);
/// assert_eq!(spawner.shutdown(Duration::from_secs(1)), 0);
/// # Ok::<(), netpoll_core::Error>(())
/// ```
#[derive(Clone)]
pub struct Spawner {
    tasks: Arc<Tasks>,
}

struct Tasks {
    manager: Arc<PollManager>,
    group: Arc<TaskGroup>,
    shutting_down: Signal,
}

impl Spawner {
    /// For tasks on the loops of `manager`, polled where `dispatch` says: under
    /// [`Dispatch::Inline`] a poll must not block.
    ///
    /// # Errors
    /// [`Error::Config`](netpoll_core::Error::Config) where an option can't be used, and where the
    /// manager's threads are in another process.
    pub fn new(manager: &Arc<PollManager>, dispatch: Dispatch) -> Result<Self> {
        manager.check_process()?;
        let group = TaskGroup::new(Dispatcher::new(dispatch)?);
        let (manager, shutting_down) = (manager.clone(), Signal::default());
        Ok(Self { tasks: Arc::new(Tasks { manager, group, shutting_down }) })
    }

    /// The one of all tasks that are [spawned](spawn) outside of tasks: on the
    /// [shared](PollManager::shared) manager, under `Dispatch::HandOff`.
    ///
    /// # Errors
    /// As [`PollManager::shared`]; the next call tries again.
    pub fn shared() -> Result<Self> {
        static SHARED: OnceLock<Spawner> = OnceLock::new();
        let manager = PollManager::shared()?;
        if let Some(spawner) = SHARED.get() {
            return Ok(spawner.clone());
        }
        let fresh = Self::new(&manager, Dispatch::HandOff(HandOffOptions::default()))?;
        Ok(SHARED.get_or_init(|| fresh).clone())
    }

    /// Runs `future` as a task: in a task of this spawner on the same loop, elsewhere on the loop
    /// that the load balance of the manager chooses. See [`spawn`].
    pub fn spawn<F>(&self, future: F) -> JoinHandle<F::Output>
    where
        F: Future<Output: Send> + Send + 'static,
    {
        let Tasks { manager, group, .. } = &*self.tasks;
        if let Some(place) = current_place()
            && Arc::ptr_eq(place.group(), group)
        {
            return spawn_at(place, future);
        }
        match manager.check_process() {
            Ok(()) => spawn_at(group.place_on(&manager.pick(None)), future),
            Err(error) => refuse(future, error.to_string()),
        }
    }

    /// How many of its tasks have not ended.
    pub fn live(&self) -> usize {
        self.tasks.group.live()
    }

    /// A future that is ready when a [shutdown](Self::shutdown) has begun: for tasks that have
    /// something to finish. It does not keep the spawner's loops.
    pub fn shutting_down(&self) -> Signalled {
        self.tasks.shutting_down.wait()
    }

    /// Ends its tasks: those that ask are [told](Self::shutting_down), and all have `patience` to
    /// end by themselves; the rest is cancelled, and each task that is spawned from then on is
    /// refused. Returns how many were cancelled. All handles answer, also those of cancelled tasks.
    ///
    /// It waits on this thread; in a callback or a task it hands the loop over first. Where that is
    /// refused, as under `Dispatch::Inline`, it cancels at once. A poll that blocks is waited for
    /// one second more, and then left behind: its future is dropped when it returns.
    pub fn shutdown(&self, patience: Duration) -> usize {
        let Tasks { group, shutting_down, .. } = &*self.tasks;
        shutting_down.raise();
        let may_wait = group.live() == 0 || blocking::enter("wait for tasks").is_ok();
        let wait = |long: Duration| {
            if may_wait {
                group.wait_empty(Some(clock::later(clock::now(), long)))
            } else {
                group.live()
            }
        };
        let left = wait(patience);
        group.cancel();
        let is_inside = current_place().is_some_and(|place| Arc::ptr_eq(place.group(), group));
        if left > 0 && !is_inside {
            wait(TO_CANCEL);
        }
        group.dispatcher().stop(Duration::ZERO);
        left
    }
}

impl fmt::Debug for Spawner {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Spawner").field("group", &self.tasks.group).finish_non_exhaustive()
    }
}
