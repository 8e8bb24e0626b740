//! Jobs: what users have a connection do, now, later or again and again.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::Connection;
use super::mailbox::Command;
use super::shared::Shared;
use crate::base::error::Result;
use crate::base::panic::guard;
use crate::base::sync::{AtomicBool, Mutex, Ordering, lock};

/// A callback of a connection.
pub(crate) type Call = Box<dyn FnMut(&mut Connection) -> Result<()> + Send>;

/// One job. The reactor's wheel holds it while its time has not come, then the connection's list.
pub(crate) struct Job {
    /// How long from one run to the next; `None` for a job that runs once.
    pub(crate) period: Option<Duration>,
    /// It stands in the connection's list: a period that comes meanwhile is not counted twice.
    queued: AtomicBool,
    /// Taken out when the job is over, so that what it captured is freed then.
    call: Mutex<Option<Call>>,
    cancelled: AtomicBool,
}

impl Job {
    pub(crate) fn new(period: Option<Duration>, call: Call) -> Arc<Self> {
        Arc::new(Self {
            period,
            queued: AtomicBool::new(false),
            call: Mutex::new(Some(call)),
            cancelled: AtomicBool::new(false),
        })
    }

    /// Its address: it is nobody else's while the reactor has a timer for it.
    pub(crate) fn id(self: &Arc<Self>) -> usize {
        Arc::as_ptr(self).addr()
    }

    pub(crate) fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Acquire)
    }

    /// Whether it is to be put into the connection's list: it isn't there yet.
    pub(crate) fn enqueue(&self) -> bool {
        !self.is_cancelled() && !self.queued.swap(true, Ordering::AcqRel)
    }

    /// Runs it, in its connection's callback.
    pub(crate) fn run(&self, connection: &mut Connection) -> Result<()> {
        self.queued.store(false, Ordering::Release);
        // Out of the lock: it may cancel itself.
        let Some(mut call) = lock(&self.call).take() else { return Ok(()) };
        let outcome = if self.is_cancelled() { Ok(()) } else { call(connection) };
        if self.period.is_some() {
            *lock(&self.call) = Some(call);
            // Whoever cancelled in the meantime found nothing to drop.
            if self.is_cancelled() {
                self.forget();
            }
        }
        outcome
    }

    /// Lets go of what the job captured, which is the user's and may panic.
    pub(crate) fn forget(&self) {
        self.cancelled.store(true, Ordering::Release);
        let call = lock(&self.call).take();
        guard("the release of a job", || drop(call)).ok();
    }
}

/// Guarded, wherever the last hold of it ends: that may be on a reactor, where its time came too
/// late.
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

/// A job that runs later, see [`Handle::run_after`](crate::Handle::run_after): to cancel it.
/// Dropping this cancels nothing.
#[derive(Clone)]
pub struct Timer {
    pub(crate) shared: Arc<Shared>,
    pub(crate) job: Arc<Job>,
}

impl Timer {
    /// From when this returns, the job does not begin any more; one that is running goes on. What
    /// it captured is dropped, here or by the run that goes on. Never blocks.
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
