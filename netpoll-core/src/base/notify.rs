//! A waiting thread, and how other threads end its wait; or code that is called instead.

use std::fmt;
use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::time::Instant;

use crate::base::blocking;
use crate::base::error::Result;
use crate::base::sync::{Condvar, Mutex, lock, wait_until};
use crate::base::waits::{WaitsFor, Wake};

/// Tells a waiting thread to look for what has changed, or has that done where no thread waits.
#[derive(Default)]
pub struct Notify {
    notified: Mutex<bool>,
    changed: Condvar,
    hook: Option<Box<dyn Fn() + Send + Sync>>,
}

impl Notify {
    /// One for which no thread waits: each notification calls `hook`, on its thread. No lock of
    /// this crate is held then.
    pub fn calling(hook: impl Fn() + Send + Sync + 'static) -> Self {
        Self { hook: Some(Box::new(hook)), ..Self::default() }
    }

    /// Ends the wait that a thread is in, or the next one.
    pub fn notify(&self) {
        *lock(&self.notified) = true;
        match &self.hook {
            Some(hook) => hook(),
            None => self.changed.notify_all(),
        }
    }

    /// Whether it was notified since this was asked last.
    pub(crate) fn take(&self) -> bool {
        std::mem::take(&mut *lock(&self.notified))
    }

    /// Waits until it is notified, or was since the last wait, or until `deadline`.
    ///
    /// # Errors
    /// As [`blocking::enter`], and of kind `TimedOut` where the thread was wanted elsewhere.
    pub fn wait(self: &Arc<Self>, deadline: Option<Instant>) -> Result<()> {
        if self.take() {
            return Ok(());
        }
        let waiting = blocking::begin("dial", WaitsFor::Elsewhere, Some(self.clone()))?;
        let mut notified = lock(&self.notified);
        let mut late = false;
        while !*notified && !late && !waiting.is_over() {
            (notified, late) = wait_until(&self.changed, notified, deadline);
        }
        let is_over = !std::mem::take(&mut *notified) && waiting.is_over();
        drop(notified);
        if is_over {
            let text = "ended before its time, since threads have run out";
            return Err(io::Error::new(ErrorKind::TimedOut, text).into());
        }
        Ok(())
    }
}

impl Wake for Notify {
    fn wake(&self) {
        drop(lock(&self.notified));
        self.changed.notify_all();
    }
}

impl fmt::Debug for Notify {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Notify").field("notified", &self.notified).finish_non_exhaustive()
    }
}
