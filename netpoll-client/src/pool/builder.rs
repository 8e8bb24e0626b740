//! The limits of a pool: set by name, checked once.

use std::sync::Arc;
use std::time::Duration;

use netpoll_core::{Error, Result};

use super::shelf::Shelf;
use super::{Inner, Pool};
use crate::dialer::DialConnection;

/// Builds a [`Pool`]. All limits are per address.
#[derive(Debug, Clone, Copy)]
pub struct PoolBuilder {
    pub(super) max_open: Option<usize>,
    pub(super) max_idle: usize,
    pub(super) idle_timeout: Option<Duration>,
    pub(super) max_lifetime: Option<Duration>,
}

impl Default for PoolBuilder {
    fn default() -> Self {
        Self {
            max_open: Some(128),
            max_idle: 16,
            idle_timeout: Some(Duration::from_secs(60)),
            max_lifetime: None,
        }
    }
}

impl PoolBuilder {
    /// Connections that are open at once, idle ones with them; who wants more waits. Default 128:
    /// so that a slow server is not buried. `None` is as many as are wanted.
    #[must_use]
    pub fn max_open(mut self, connections: impl Into<Option<usize>>) -> Self {
        self.max_open = connections.into();
        self
    }

    /// Connections that are kept idle; more than these are closed when they come back. Default 16;
    /// 0 keeps none.
    #[must_use]
    pub fn max_idle(mut self, connections: usize) -> Self {
        self.max_idle = connections;
        self
    }

    /// How long a connection stays idle. Default 60 s: less than most servers and the tables of
    /// firewalls allow. `None` is for ever.
    #[must_use]
    pub fn idle_timeout(mut self, time: impl Into<Option<Duration>>) -> Self {
        self.idle_timeout = time.into();
        self
    }

    /// How old a connection may be to be handed out again: it makes long-lived clients follow a
    /// name whose addresses change. Default: `None`, any age.
    #[must_use]
    pub fn max_lifetime(mut self, time: impl Into<Option<Duration>>) -> Self {
        self.max_lifetime = time.into();
        self
    }

    /// Checks the limits and makes the pool. Nothing is dialled before it is asked for.
    ///
    /// # Errors
    /// [`Error::Config`], one sentence that names the option.
    pub fn build(self, dialer: impl DialConnection + Send + Sync + 'static) -> Result<Pool> {
        if self.max_open == Some(0) {
            return Err(Error::config("max_open is 0, so nobody could ever have a connection"));
        }
        for (name, time) in
            [("idle_timeout", self.idle_timeout), ("max_lifetime", self.max_lifetime)]
        {
            if time == Some(Duration::ZERO) {
                return Err(Error::config(format!(
                    "{name} is 0, so no connection could be kept; max_idle(0) keeps none, and \
                     None is for ever"
                )));
            }
        }
        let inner = Inner { dialer: Box::new(dialer), shelf: Arc::new(Shelf::new(self)) };
        Ok(Pool { inner: Arc::new(inner) })
    }
}
