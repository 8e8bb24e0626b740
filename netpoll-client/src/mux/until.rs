//! How long a call may wait: until its deadline, or until it is cancelled.

use std::sync::Arc;
use std::time::Instant;

use netpoll_core::{Notify, Result, clock};

use crate::cancel::Cancel;

/// See the module.
#[derive(Debug, Clone, Copy)]
pub(super) struct Until<'a> {
    pub(super) deadline: Option<Instant>,
    pub(super) cancel: Option<&'a Cancel>,
}

impl Until<'_> {
    /// Whether the deadline has passed.
    pub(super) fn is_late(self) -> bool {
        self.deadline.is_some_and(|deadline| clock::now() >= deadline)
    }

    /// Fails if it was cancelled.
    pub(super) fn check(self) -> Result<()> {
        self.cancel.map_or(Ok(()), Cancel::check)
    }

    /// Calls `wake` when it is cancelled, as long as the answer lives. What waits asks
    /// [`check`](Self::check) after this, and again after each wake.
    pub(super) fn wake_by(
        self,
        wake: impl FnOnce() -> Box<dyn Fn() + Send + Sync>,
    ) -> Option<Arc<Notify>> {
        let cancel = self.cancel?;
        let notify = Arc::new(Notify::calling(wake()));
        cancel.watch(&notify);
        Some(notify)
    }
}
