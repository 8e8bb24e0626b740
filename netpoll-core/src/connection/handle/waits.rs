//! What limits the waits of futures: their reads and writes wait in polls, not in calls of ours.

use std::time::{Duration, Instant};

use super::Handle;
use crate::connection::Connection;
use crate::pure::task::Events;

/// What limits the waits of a future's reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[doc(hidden)]
pub struct ReadLimits {
    /// How long one read waits.
    pub timeout: Option<Duration>,
    /// Until when all reads wait.
    pub deadline: Option<Instant>,
}

impl Handle {
    /// What limits the waits of reads; `None`, for two loads, if nothing does.
    #[doc(hidden)]
    pub fn read_limits(&self) -> Option<ReadLimits> {
        let shared = &self.shared;
        if !shared.output.marks.has_waits() && shared.group.limits().read_timeout.is_none() {
            return None;
        }
        let (timeout, deadline) = (shared.timeouts().read, shared.extras.read_deadline());
        (timeout.is_some() || deadline.is_some()).then_some(ReadLimits { timeout, deadline })
    }

    /// Until when writes wait; `None`, for one load, if none was set.
    #[doc(hidden)]
    pub fn write_deadline(&self) -> Option<Instant> {
        if !self.shared.output.marks.has_waits() {
            return None;
        }
        self.shared.extras.write_deadline()
    }

    /// Sets how long one read of a future waits.
    #[doc(hidden)]
    pub fn set_read_timeout(&self, timeout: Option<Duration>) {
        if self.shared.timeouts().read != timeout {
            self.shared.set_timeouts(|timeouts| timeouts.read = timeout);
            self.tell_waits();
        }
    }

    /// Sets how long the peer may take nothing of an output above its high-water mark.
    #[doc(hidden)]
    pub fn set_write_timeout(&self, timeout: Option<Duration>) {
        self.shared.set_timeouts(|timeouts| timeouts.write = timeout);
    }

    /// A future has taken a part of a request and waits for the rest, or does so no more. It costs
    /// one load while nothing changes.
    #[doc(hidden)]
    pub fn set_partial(&self, is_partial: bool) {
        let word = &self.shared.task.word;
        if !is_partial {
            word.clear(Events::PARTIAL);
        } else if !word.events().has_any(Events::PARTIAL) {
            word.note(Events::PARTIAL);
        }
    }

    /// What limits the waits has changed: futures that wait look at it.
    pub(super) fn tell_waits(&self) {
        self.shared.output.marks.note_waits();
        if self.shared.group.polls_futures() {
            self.wake();
        }
    }
}

impl Connection {
    /// For a callback that polls a future: whether what limits its waits has changed since the last
    /// call.
    #[doc(hidden)]
    #[inline]
    pub fn take_new_waits(&self) -> bool {
        self.shared.output.marks.take_new_waits()
    }
}
