//! Until when a future may wait for one side of its connection, and the timer for that.

use std::pin::Pin;
use std::task::Context;
use std::time::Instant;

use netpoll_core::{Handle, clock};

use crate::sleep::{Sleep, sleep_until};

/// The timer of a side. It is made by the first wait that has an end, and used again.
#[derive(Debug, Default)]
pub(crate) struct WaitTimer(Option<Box<Sleep>>);

/// What limits the read that waits.
#[derive(Debug, Default)]
pub(crate) struct ReadWait {
    /// Its end by the read timeout, from its first wait on.
    until: Option<Instant>,
    timer: WaitTimer,
}

impl WaitTimer {
    /// Whether `until` has come; if not, wakes the task when it has.
    pub(crate) fn is_over(&mut self, until: Instant, context: &mut Context<'_>) -> bool {
        if clock::now() >= until {
            return true;
        }
        let sleep = self.0.get_or_insert_with(|| Box::new(sleep_until(until)));
        if sleep.deadline() != until {
            sleep.reset(until);
        }
        Pin::new(&mut **sleep).poll(context).is_ready()
    }
}

impl ReadWait {
    /// Whether the read has waited for as long as it may; if not, wakes the task when it has.
    pub(crate) fn is_over(&mut self, handle: &Handle, context: &mut Context<'_>) -> bool {
        let Some(limits) = handle.read_limits() else { return false };
        if let (None, Some(timeout)) = (self.until, limits.timeout) {
            self.until = Some(clock::later(clock::now(), timeout));
        }
        let until = self.until.into_iter().chain(limits.deadline).min();
        until.is_some_and(|until| self.timer.is_over(until, context))
    }

    /// The read has ended: the next one has all of its time.
    pub(crate) fn end(&mut self) {
        self.until = None;
    }
}
