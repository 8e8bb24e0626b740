//! Tasks that do not outlive what they were started for.

use std::fmt;
use std::time::Duration;

use netpoll_core::{Dispatch, HandOffOptions, JoinHandle, PollManager, Result};

use crate::signal::Signalled;
use crate::spawner::Spawner;

/// Tasks that end together: at the end of the scope, which waits for them.
///
/// Its drop is a [shutdown](Self::shutdown) with the patience of the scope: tasks that ask are
/// told, all may end by themselves, and the rest is cancelled. So no task of it outlives the scope,
/// but for a poll that blocks.
///
/// ```
/// use std::sync::atomic::{AtomicU32, Ordering};
/// use std::sync::Arc;
/// use std::time::Duration;
/// use netpoll_async::{Scope, sleep};
///
/// let saved = Arc::new(AtomicU32::new(0));
/// let scope = Scope::new(Duration::from_secs(5))?;
/// for part in 1..=3 {
///     let saved = saved.clone();
///     let shutting_down = scope.shutting_down();
///     scope.spawn(async move {
///         shutting_down.await;
///         sleep(Duration::from_millis(1)).await;
///         saved.fetch_add(part, Ordering::Relaxed);
///     });
/// }
/// drop(scope);
/// assert_eq!(saved.load(Ordering::Relaxed), 6);
/// # Ok::<(), netpoll_core::Error>(())
/// ```
pub struct Scope {
    spawner: Spawner,
    patience: Duration,
}

impl Scope {
    /// A scope on the [shared](PollManager::shared) manager, under `Dispatch::HandOff`.
    ///
    /// # Errors
    /// As [`PollManager::shared`].
    pub fn new(patience: Duration) -> Result<Self> {
        let dispatch = Dispatch::HandOff(HandOffOptions::default());
        let spawner = Spawner::new(&PollManager::shared()?, dispatch)?;
        Ok(Self::of(spawner, patience))
    }

    /// A scope around the tasks of a spawner, whose clones spawn into it, too.
    pub fn of(spawner: Spawner, patience: Duration) -> Self {
        Self { spawner, patience }
    }

    /// Runs `future` as a task of the scope, which needs no handle. See [`spawn`](crate::spawn()).
    pub fn spawn<F>(&self, future: F)
    where
        F: Future<Output: Send> + Send + 'static,
    {
        self.spawner.spawn(future).detach();
    }

    /// As [`spawn`](Self::spawn), for an output that is waited for.
    pub fn spawn_joined<F>(&self, future: F) -> JoinHandle<F::Output>
    where
        F: Future<Output: Send> + Send + 'static,
    {
        self.spawner.spawn(future)
    }

    /// A future that is ready when the end of the scope has begun.
    pub fn shutting_down(&self) -> Signalled {
        self.spawner.shutting_down()
    }

    /// How many of its tasks have not ended.
    pub fn live(&self) -> usize {
        self.spawner.live()
    }

    /// Ends the scope, as its drop does, and returns how many tasks were cancelled. See
    /// [`Spawner::shutdown`] for where it waits.
    pub fn shutdown(mut self) -> usize {
        let left = self.spawner.shutdown(self.patience);
        // What is left behind by now was waited for.
        self.patience = Duration::ZERO;
        left
    }
}

impl Drop for Scope {
    fn drop(&mut self) {
        self.spawner.shutdown(self.patience);
    }
}

impl fmt::Debug for Scope {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Scope")
            .field("live", &self.live())
            .field("patience", &self.patience)
            .finish_non_exhaustive()
    }
}
