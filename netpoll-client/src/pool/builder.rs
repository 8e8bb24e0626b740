//! The limits of a pool: set by name, checked once.

use std::sync::Arc;
use std::time::Duration;

use netpoll_core::{Error, Result};

use super::address::PoolLimits;
use super::addresses::Addresses;
use super::{Pool, PoolInner};
use crate::dialer::DialConnection;

/// Builds a [`Pool`]. All limits are per address.
#[derive(Debug, Clone, Copy)]
pub struct PoolBuilder {
    limits: PoolLimits,
}

impl Default for PoolBuilder {
    fn default() -> Self {
        let limits = PoolLimits {
            max_open: Some(128),
            max_idle: 16,
            idle_timeout: Some(Duration::from_secs(60)),
            max_lifetime: None,
        };
        Self { limits }
    }
}

impl PoolBuilder {
    /// How many connections may be open at once, idle ones included; a checkout that would need
    /// one more waits. Default 128, so that a slow server is not flooded; `None` sets no limit.
    #[must_use]
    pub fn max_open(mut self, connections: impl Into<Option<usize>>) -> Self {
        self.limits.max_open = connections.into();
        self
    }

    /// How many connections stay idle; further ones are closed when they come back. Default 16; 0
    /// keeps none.
    #[must_use]
    pub fn max_idle(mut self, connections: usize) -> Self {
        self.limits.max_idle = connections;
        self
    }

    /// How long a connection stays idle. Default 60 s: less than most servers and the tables of
    /// firewalls allow. `None` sets no limit.
    #[must_use]
    pub fn idle_timeout(mut self, time: impl Into<Option<Duration>>) -> Self {
        self.limits.idle_timeout = time.into();
        self
    }

    /// How old a connection may be to be handed out again. With it a long-lived client follows a
    /// name when the addresses of that name change. Default: `None`, any age.
    #[must_use]
    pub fn max_lifetime(mut self, time: impl Into<Option<Duration>>) -> Self {
        self.limits.max_lifetime = time.into();
        self
    }

    /// Checks the limits and makes the pool. Nothing is dialled before the first checkout.
    ///
    /// # Errors
    /// [`Error::Config`], one sentence that names the option.
    pub fn build(self, dialer: impl DialConnection + Send + Sync + 'static) -> Result<Pool> {
        if self.limits.max_open == Some(0) {
            return Err(Error::config("max_open is 0, so nobody could ever have a connection"));
        }
        for (name, time) in
            [("idle_timeout", self.limits.idle_timeout), ("max_lifetime", self.limits.max_lifetime)]
        {
            if time == Some(Duration::ZERO) {
                return Err(Error::config(format!(
                    "{name} is 0, so no connection could be kept; max_idle(0) keeps none, and \
                     None is for ever"
                )));
            }
        }
        let inner = PoolInner {
            dialer: Box::new(dialer),
            addresses: Arc::new(Addresses::new(self.limits)),
        };
        Ok(Pool { inner: Arc::new(inner) })
    }
}
