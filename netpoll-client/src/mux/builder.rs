//! The options of a multiplexer: set by name, checked once.

use std::sync::Arc;
use std::time::Duration;

use netpoll_core::{ConnectionGroup, Dispatch, Dispatcher, Error, Limits, Result};

use super::context::MuxContext;
use super::link::Link;
use super::pending::SLOTS_AT_MOST;
use super::protocol::MuxProtocol;
use super::{Mux, MuxInner};
use crate::backoff::Backoff;
use crate::dialer::Dialer;

/// Builds a [`Mux`].
#[derive(Debug)]
pub struct MuxBuilder {
    dialer: Option<Dialer>,
    connections: usize,
    limits: Limits,
    dial_timeout: Duration,
    most_waiting: usize,
    reconnect: Option<Backoff>,
    most_timeouts: Option<u32>,
    user_timeout: UserTimeout,
}

/// How long sent bytes may stay unacknowledged.
#[derive(Debug, Clone, Copy)]
enum UserTimeout {
    /// The dialer's; this one if the dialer has none.
    Usual(Duration),
    Said(Option<Duration>),
}

impl Default for MuxBuilder {
    fn default() -> Self {
        Self {
            dialer: None,
            connections: 1,
            limits: Limits::default(),
            dial_timeout: Duration::from_secs(5),
            most_waiting: 4096,
            reconnect: Some(Backoff::default()),
            most_timeouts: Some(3),
            user_timeout: UserTimeout::Usual(Duration::from_secs(20)),
        }
    }
}

impl MuxBuilder {
    /// Dials by this dialer, on its manager. Default: a dialer with default options.
    #[must_use]
    pub fn dialer(mut self, dialer: Dialer) -> Self {
        self.dialer = Some(dialer);
        self
    }

    /// How many connections it keeps: 1 to 1 024. Default 1; more than there are loops seldom
    /// helps.
    #[must_use]
    pub fn connections(mut self, connections: usize) -> Self {
        self.connections = connections;
        self
    }

    /// The limits of the connections. A response must fit into the input limit.
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// How long one dial takes at the most, however much time the waiting calls have. Default 5 s.
    #[must_use]
    pub fn dial_timeout(mut self, timeout: Duration) -> Self {
        self.dial_timeout = timeout;
        self
    }

    /// How many calls may wait on one connection: 1 to 65 536. Default 4 096; a further call fails.
    #[must_use]
    pub fn max_waiting(mut self, calls: usize) -> Self {
        self.most_waiting = calls;
        self
    }

    /// How many calls in a row may time out without a byte before the connection is given up: it is
    /// reset, all its calls fail, and the next call dials again. Default 3; `None` gives none up.
    ///
    /// A call counts only if it began after the one before had timed out, and a silence only from 1
    /// s on. That finds a path that loses all packets, and a server that hangs. Choose a higher
    /// number where some calls are meant to wait long while others have short timeouts.
    #[must_use]
    pub fn give_up_after(mut self, timeouts: impl Into<Option<u32>>) -> Self {
        self.most_timeouts = timeouts.into();
        self
    }

    /// How long bytes that were sent may stay unacknowledged before the kernel gives the peer up
    /// (`TCP_USER_TIMEOUT`); `None` is as long as the system says, mostly 15 minutes. Default: that
    /// of the [`dialer`](Self::dialer), and 20 s where it has none. See
    /// [`DialerBuilder::user_timeout`](crate::DialerBuilder::user_timeout).
    #[must_use]
    pub fn user_timeout(mut self, time: impl Into<Option<Duration>>) -> Self {
        self.user_timeout = UserTimeout::Said(time.into());
        self
    }

    /// How long to pause before dialling again, after a connection ended or a dial failed. A call
    /// waits for that if it has the time, and fails at once if not. The pause grows until a
    /// response has come: a connect alone does not reset it. Default: up to 50 ms, doubling up to 5
    /// s. `None` dials once, and never again.
    #[must_use]
    pub fn reconnect(mut self, backoff: impl Into<Option<Backoff>>) -> Self {
        self.reconnect = backoff.into();
        self
    }

    /// Checks the options and makes the multiplexer. Nothing is dialled before the first call.
    ///
    /// # Errors
    /// [`Error::Config`], one sentence that names the option.
    pub fn build<P: MuxProtocol>(
        self,
        network: &str,
        address: &str,
        protocol: P,
    ) -> Result<Mux<P>> {
        if !(1..=1024).contains(&self.connections) {
            return Err(Error::config(format!(
                "connections is {}, but must be 1 to 1024",
                self.connections
            )));
        }
        if !(1..=SLOTS_AT_MOST).contains(&self.most_waiting) {
            return Err(Error::config(format!(
                "max_waiting is {}, but must be 1 to {SLOTS_AT_MOST}",
                self.most_waiting
            )));
        }
        if self.dial_timeout.is_zero() {
            return Err(Error::config("dial_timeout is 0, so no connection could be made"));
        }
        if self.most_timeouts == Some(0) {
            return Err(Error::config(
                "give_up_after is 0, so no connection would last; None gives none up",
            ));
        }
        self.reconnect.map_or(Ok(()), |backoff| backoff.validate())?;
        // Decoding never waits, so it may run on the reactor.
        let group = ConnectionGroup::asking(self.limits, Dispatcher::new(Dispatch::Inline)?)?;
        let dialer = self.dialer.map_or_else(|| Dialer::builder().build(), Ok)?;
        let context = MuxContext {
            protocol: Arc::new(protocol),
            counters: Arc::default(),
            dialer: self.user_timeout.of(dialer)?,
            group,
            network: network.into(),
            address: address.into(),
            dial_timeout: self.dial_timeout,
            most_waiting: self.most_waiting,
            most_timeouts: self.most_timeouts,
            reconnects: self.reconnect.is_some(),
            backoff: self.reconnect.unwrap_or_default(),
            cancel: crate::Cancel::new(),
        };
        let links = (0..self.connections).map(|_| Arc::new(Link::new())).collect();
        Ok(Mux { inner: Arc::new(MuxInner { context: Arc::new(context), links }) })
    }
}

impl UserTimeout {
    fn of(self, dialer: Dialer) -> Result<Dialer> {
        match self {
            Self::Usual(time) => match dialer.options.connect.user_timeout {
                Some(_) => Ok(dialer),
                None => dialer.with_user_timeout(Some(time)),
            },
            Self::Said(time) => dialer.with_user_timeout(time),
        }
    }
}
