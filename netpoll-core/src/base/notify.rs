//! A waiting thread, and how other threads end its wait.

use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::time::Instant;

use crate::base::blocking;
use crate::base::error::Result;
use crate::base::sync::{Condvar, Mutex, lock, wait_until};
use crate::base::waits::{WaitsFor, Wake};

/// Tells a waiting thread to look for what has changed.
#[derive(Debug, Default)]
pub struct Notify {
    notified: Mutex<bool>,
    changed: Condvar,
}

impl Notify {
    /// Ends the wait that a thread is in, or the next one.
    pub fn notify(&self) {
        *lock(&self.notified) = true;
        self.changed.notify_all();
    }

    /// Waits until it is notified, or was since the last wait, or until `deadline`.
    ///
    /// # Errors
    /// As [`blocking::enter`], and of kind `TimedOut` where the thread was wanted elsewhere.
    pub fn wait(self: &Arc<Self>, deadline: Option<Instant>) -> Result<()> {
        let is_notified = std::mem::take(&mut *lock(&self.notified));
        if is_notified {
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
