//! How many jobs of a manager wait for its loops: as many as may, and no more.

use crate::base::sync::{AtomicUsize, Ordering};
use std::sync::Arc;

/// How many may wait. A job is some 100 bytes, and what it captured.
const JOBS_AT_MOST: usize = 1 << 16;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct WaitingJobs(Arc<AtomicUsize>);

/// The place of one job, until it runs or is dropped.
#[derive(Debug)]
pub(super) struct JobPlace(Arc<AtomicUsize>);

impl WaitingJobs {
    /// A place for one more job; `None` while as many wait as may.
    pub(super) fn take_place(&self) -> Option<JobPlace> {
        let more = |waiting| (waiting < JOBS_AT_MOST).then_some(waiting + 1);
        let taken = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        taken.ok().map(|_| JobPlace(self.0.clone()))
    }
}

impl Drop for JobPlace {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
