//! The handshake of a dialled connection for which no thread waits: its loop does it, step by step,
//! and gives the connection back.
//!
//! ```text
//!   dialler                              loop of the connection
//!   Attempt::shake_hands_then ────────►  Runner, role Greeting: a step at each event
//!   Handshake::outcome        ◄─notify─  the connection, the caller's again; or why not
//! ```

use std::sync::Arc;

use super::Connection;
use crate::base::error::{Error, Result};
use crate::base::notify::Notify;
use crate::base::sync::{Mutex, lock};

/// Where the outcome is left.
pub(crate) struct Greeting {
    outcome: Mutex<Option<Result<Connection>>>,
    notify: Arc<Notify>,
}

impl Greeting {
    pub(crate) fn new(notify: &Arc<Notify>) -> Arc<Self> {
        Arc::new(Self { outcome: Mutex::new(None), notify: notify.clone() })
    }

    /// How it has ended; `None` while it is under way, and when that was taken.
    pub(crate) fn take(&self) -> Option<Result<Connection>> {
        lock(&self.outcome).take()
    }

    /// Gives the connection back. No run of its task may be under way any more.
    pub(crate) fn succeed(&self, mut connection: Connection) {
        connection.shared.own_again();
        self.end(Ok(connection));
    }

    pub(crate) fn fail(&self, error: Error) {
        self.end(Err(error));
    }

    fn end(&self, outcome: Result<Connection>) {
        // What is dropped here closes the connection, which is no work for under the lock.
        let dropped = {
            let mut place = lock(&self.outcome);
            if place.is_none() { place.replace(outcome) } else { Some(outcome) }
        };
        drop(dropped);
        self.notify.notify();
    }
}
