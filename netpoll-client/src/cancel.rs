//! Ending dials from another thread.

use std::sync::{Arc, Mutex, Weak};

use netpoll_core::Notify;

use crate::sync::lock;

/// Ends the dials that it was passed to, from any thread. All clones share one state.
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
    /// The dials under way.
    dials: Vec<Weak<Notify>>,
}

impl Cancel {
    /// A new one, not cancelled yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Ends every dial that it was passed to, now and later, and closes their sockets.
    pub fn cancel(&self) {
        let mut state = lock(&self.state);
        state.cancelled = true;
        for notify in state.dials.drain(..).filter_map(|notify| notify.upgrade()) {
            notify.notify();
        }
    }

    /// Whether [`cancel`](Self::cancel) was called.
    pub fn is_cancelled(&self) -> bool {
        lock(&self.state).cancelled
    }

    /// Notifies `notify` when it is cancelled.
    pub(crate) fn watch(&self, notify: &Arc<Notify>) {
        let mut state = lock(&self.state);
        state.dials.retain(|notify| notify.strong_count() > 0);
        state.dials.push(Arc::downgrade(notify));
    }
}
