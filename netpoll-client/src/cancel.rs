//! Ending dials, checkouts and calls from another thread.

use std::io::{self, ErrorKind};
use std::sync::{Arc, Mutex, Weak};

use netpoll_core::{Notify, Result};

use crate::sync::lock;

/// Ends the dials, checkouts and calls that it was passed to, from any thread. All clones share one
/// state. A callback that works for a client passes one to
/// [`on_gone`](netpoll_core::Connection::on_gone), and gives up when the client has gone.
///
/// ```
/// use std::time::Duration;
/// use netpoll_client::{Cancel, Dialer};
///
/// let (dialer, cancel) = (Dialer::builder().build()?, Cancel::new());
/// cancel.cancel(); // from another thread, usually
/// let dialled = dialer.dial_with("tcp", "127.0.0.1:80", Duration::from_secs(1), &cancel);
/// assert_eq!(dialled.unwrap_err().kind(), std::io::ErrorKind::Interrupted);
/// # Ok::<(), netpoll_core::Error>(())
/// ```
#[derive(Debug, Clone, Default)]
pub struct Cancel {
    state: Arc<Mutex<CancelState>>,
}

#[derive(Debug, Default)]
struct CancelState {
    cancelled: bool,
    /// What is under way.
    waits: Vec<Weak<Notify>>,
}

impl Cancel {
    /// A new one, not cancelled yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Ends everything that it was passed to, now and later, and closes the sockets of dials.
    /// Returns at once.
    pub fn cancel(&self) {
        let mut state = lock(&self.state);
        state.cancelled = true;
        let waits = std::mem::take(&mut state.waits);
        drop(state); // before code is called that may ask
        for notify in waits.iter().filter_map(Weak::upgrade) {
            notify.notify();
        }
    }

    /// Whether [`cancel`](Self::cancel) was called.
    pub fn is_cancelled(&self) -> bool {
        lock(&self.state).cancelled
    }

    /// Notifies `notify` when it is cancelled. The caller asks
    /// [`is_cancelled`](Self::is_cancelled) after this, since that may have come before.
    pub(crate) fn watch(&self, notify: &Arc<Notify>) {
        let mut state = lock(&self.state);
        state.waits.retain(|notify| notify.strong_count() > 0);
        state.waits.push(Arc::downgrade(notify));
    }

    /// Fails if it is cancelled.
    pub(crate) fn check(&self) -> Result<()> {
        if self.is_cancelled() { Err(cancelled().into()) } else { Ok(()) }
    }
}

/// The error of what was cancelled.
pub(crate) fn cancelled() -> io::Error {
    io::Error::new(ErrorKind::Interrupted, "cancelled")
}
