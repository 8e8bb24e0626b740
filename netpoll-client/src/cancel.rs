//! Ending dials from another thread.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use netpoll_core::Notify;

/// Ends the dials that were given it, from any thread. Clones are one and the same.
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
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    cancelled: bool,
    /// Of the dials under way.
    bells: Vec<Weak<Notify>>,
}

impl Cancel {
    /// One that is not cancelled.
    pub fn new() -> Self {
        Self::default()
    }

    /// Ends every dial that was given this, now and later. Their sockets are closed.
    pub fn cancel(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.cancelled = true;
        for bell in state.bells.drain(..).filter_map(|bell| bell.upgrade()) {
            bell.notify();
        }
    }

    /// Whether it was.
    pub fn is_cancelled(&self) -> bool {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).cancelled
    }

    /// Rings `bell` when it is cancelled.
    pub(crate) fn watch(&self, bell: &Arc<Notify>) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.bells.retain(|bell| bell.strong_count() > 0);
        state.bells.push(Arc::downgrade(bell));
    }
}
