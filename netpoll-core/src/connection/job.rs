//! Jobs: closures of users that run as callbacks of a connection, now, later or periodically.

use std::any::Any;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::Connection;
use super::mailbox::Command;
use super::shared::Shared;
use crate::base::error::Result;
use crate::base::panic::guard;
use crate::base::sync::{AtomicBool, Mutex, Ordering, lock};

/// The closure of a job. It is given the session as well, unless the connection has none.
pub(crate) type Call = Box<dyn FnMut(&mut Connection, Option<&mut dyn Any>) -> Result<()> + Send>;

/// One job. The reactor's wheel holds it until it is due, and then the connection's list.
pub(crate) struct Job {
    /// How long from one run to the next; `None` for a job that runs once.
    pub(crate) period: Option<Duration>,
    /// It may run again, so its closure is kept after a run.
    is_kept: bool,
    /// It is in the connection's list, so a further period does not add it again.
    queued: AtomicBool,
    /// Taken out when the job is over, so that what it captured is dropped then.
    call: Mutex<Option<Call>>,
    cancelled: AtomicBool,
}

impl Job {
    pub(crate) fn new(period: Option<Duration>, call: Call) -> Arc<Self> {
        Arc::new(Self::with(period, period.is_some(), call))
    }

    /// A job that runs whenever it is put into the list, until it is cancelled.
    pub(super) fn kept(call: Call) -> Self {
        Self::with(None, true, call)
    }

    fn with(period: Option<Duration>, is_kept: bool, call: Call) -> Self {
        Self {
            period,
            is_kept,
            queued: AtomicBool::new(false),
            call: Mutex::new(Some(call)),
            cancelled: AtomicBool::new(false),
        }
    }

    /// Its address, which no other job has while the reactor holds this one for a timer.
    pub(crate) fn id(self: &Arc<Self>) -> usize {
        Arc::as_ptr(self).addr()
    }

    pub(crate) fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Acquire)
    }

    /// Whether the caller must put it into the connection's list: it is not in there yet.
    pub(crate) fn enqueue(&self) -> bool {
        !self.is_cancelled() && !self.queued.swap(true, Ordering::AcqRel)
    }

    /// Runs it, in its connection's callback.
    pub(crate) fn run(
        &self,
        connection: &mut Connection,
        session: Option<&mut dyn Any>,
    ) -> Result<()> {
        self.queued.store(false, Ordering::Release);
        // Runs without the lock, since it may cancel itself.
        let Some(mut call) = lock(&self.call).take() else { return Ok(()) };
        let outcome = if self.is_cancelled() { Ok(()) } else { call(connection, session) };
        if self.is_kept {
            *lock(&self.call) = Some(call);
            // A thread that cancelled it meanwhile has found no closure to drop.
            if self.is_cancelled() {
                self.forget();
            }
        }
        outcome
    }

    /// Drops what the job captured, which is the user's and may panic.
    pub(crate) fn forget(&self) {
        self.cancelled.store(true, Ordering::Release);
        let call = lock(&self.call).take();
        guard("the release of a job", || drop(call)).ok();
    }
}

/// The drop is guarded on any thread. The last reference may end on a reactor, if the job is due
/// after the connection has ended.
impl Drop for Job {
    fn drop(&mut self) {
        self.forget();
    }
}

impl fmt::Debug for Job {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Job, every {:?}", self.period)
    }
}

/// Cancels a job that runs later; see [`Handle::run_after`](crate::Handle::run_after).
///
/// Dropping it cancels nothing.
#[derive(Clone)]
pub struct Timer {
    pub(crate) shared: Arc<Shared>,
    pub(crate) job: Arc<Job>,
}

impl Timer {
    /// Cancels the job: after this returns it does not begin any more; a run that has begun goes
    /// on. What the job captured is dropped here, or by the run that goes on. Never blocks.
    pub fn cancel(&self) {
        self.job.forget();
        drop(self.shared.reactor.post(Command::Cancel(self.shared.clone(), self.job.id())));
    }
}

impl fmt::Debug for Timer {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_tuple("Timer").field(&self.job).finish()
    }
}
