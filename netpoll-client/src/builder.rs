//! The options of a dialer: set by name, checked once.

use std::io;
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Duration;

use netpoll_core::socket::{ConnectOptions, Keepalive};
use netpoll_core::{ConnectionGroup, Error, FilterClient, Limits, PollManager, Result};

use crate::dial::DialOptions;
use crate::dialer::Dialer;
use crate::eyeballs::STAGGER;
use crate::resolver::{Resolve, Resolver};

/// How long a dial takes at the most, unless the user sets another time.
const TIMEOUT: Duration = Duration::from_secs(30);
const STAGGER_LEAST: Duration = Duration::from_millis(10);
const STAGGER_MOST: Duration = Duration::from_secs(60);

/// Builds a [`Dialer`]. What is set for the socket is set before it is connected.
///
/// ```
/// use std::time::Duration;
/// use netpoll_client::{Dialer, Keepalive};
///
/// let probes = Keepalive {
///     idle: Duration::from_secs(60),
///     interval: Duration::from_secs(10),
///     count: 3,
/// };
/// let dialer = Dialer::builder()
///     .timeout(Duration::from_secs(2))
///     .local_address("127.0.0.1:0".parse()?)
///     .keepalive(probes)
///     .build()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct DialerBuilder {
    connect: ConnectOptions,
    limits: Limits,
    manager: Option<Arc<PollManager>>,
    timeout: Duration,
    stagger: Duration,
    resolver: Option<Resolver>,
    filter: Option<Arc<dyn FilterClient>>,
}

impl Dialer {
    /// A dialer on the shared manager, with these limits for its connections.
    ///
    /// # Errors
    /// [`Error::Config`] where a limit can't be used.
    pub fn new(limits: Limits) -> Result<Self> {
        Self::builder().limits(limits).build()
    }

    /// A builder, which sets more than limits.
    pub fn builder() -> DialerBuilder {
        DialerBuilder::new()
    }

    /// The same dialer with another user timeout.
    pub(crate) fn with_user_timeout(mut self, time: Option<Duration>) -> Result<Self> {
        check_user_timeout(time)?;
        let mut options = (*self.options).clone();
        options.connect.user_timeout = time;
        self.options = Arc::new(options);
        Ok(self)
    }
}

impl DialerBuilder {
    fn new() -> Self {
        Self {
            connect: ConnectOptions::default(),
            limits: Limits::default(),
            manager: None,
            timeout: TIMEOUT,
            stagger: STAGGER,
            resolver: None,
            filter: None,
        }
    }

    /// How long [`Dialer::dial`] takes at the most, the resolution of the name included. Default 30
    /// s.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// The limits of the connections.
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Lets `manager`'s loops watch the connections. Default: those of the shared manager.
    #[must_use]
    pub fn manager(mut self, manager: Arc<PollManager>) -> Self {
        self.manager = Some(manager);
        self
    }

    /// The address of this end. With port 0 the system chooses the port, for each peer among all
    /// ports (`IP_BIND_ADDRESS_NO_PORT`). Default: the system chooses both. It has no effect on
    /// Unix sockets.
    #[must_use]
    pub fn local_address(mut self, address: SocketAddr) -> Self {
        self.connect.local = Some(address);
        self
    }

    /// Whether small writes leave at once (`TCP_NODELAY`) instead of waiting to fill a segment.
    /// Default: yes, since a flush says what belongs together.
    #[must_use]
    pub fn nodelay(mut self, nodelay: bool) -> Self {
        self.connect.nodelay = nodelay;
        self
    }

    /// Lets the system probe whether a silent peer is still there. Default: `None`, no probes.
    #[must_use]
    pub fn keepalive(mut self, probes: impl Into<Option<Keepalive>>) -> Self {
        self.connect.keepalive = probes.into();
        self
    }

    /// How long bytes that were sent may stay unacknowledged before the kernel gives the peer up
    /// (`TCP_USER_TIMEOUT`): the connection then ends with `TimedOut`. Default: `None`, as long as
    /// the system says, mostly 15 minutes. It bounds a connect as well, and how long a peer may
    /// take no bytes (its window stays closed). It is counted in milliseconds, 24 days at the most.
    /// It has no effect on Unix sockets.
    #[must_use]
    pub fn user_timeout(mut self, time: impl Into<Option<Duration>>) -> Self {
        self.connect.user_timeout = time.into();
        self
    }

    /// The kernel's receive buffer, in bytes. Default: `None`, the kernel grows it as needed.
    #[must_use]
    pub fn receive_buffer(mut self, bytes: impl Into<Option<usize>>) -> Self {
        self.connect.receive_buffer = bytes.into();
        self
    }

    /// The kernel's send buffer, in bytes. Default: `None`, the kernel grows it as needed.
    #[must_use]
    pub fn send_buffer(mut self, bytes: impl Into<Option<usize>>) -> Self {
        self.connect.send_buffer = bytes.into();
        self
    }

    /// The kernel takes more output only while it has fewer bytes than this that are not sent yet
    /// (`TCP_NOTSENT_LOWAT`). The rest stays in this process and counts for the high-water mark, so
    /// that a sender learns early that the path is slow. It costs wake-ups of the loop, the more
    /// the smaller it is. Default: `None`, as the system says, mostly without bound. It has no
    /// effect on Unix sockets.
    #[must_use]
    pub fn notsent_lowat(mut self, bytes: impl Into<Option<usize>>) -> Self {
        self.connect.notsent_lowat = bytes.into();
        self
    }

    /// Sends and receives packets by this network device only, such as `"eth0"` (`SO_BINDTODEVICE`;
    /// some systems require privileges). Default: `None`, by any device.
    #[must_use]
    pub fn device(mut self, device: impl Into<Option<String>>) -> Self {
        self.connect.device = device.into();
        self
    }

    /// Calls `hook` with each socket before it is connected, to set options that have no method
    /// here. If it returns an error, that address counts as failed. It runs on the dialling thread.
    #[must_use]
    pub fn before_connect(
        mut self,
        hook: impl Fn(BorrowedFd<'_>) -> io::Result<()> + Send + Sync + 'static,
    ) -> Self {
        self.connect.before_connect = Some(Arc::new(hook));
        self
    }

    /// How long an address is tried before the next one is tried beside it: 10 ms to 60 s. Default
    /// 250 ms, as RFC 8305 recommends.
    #[must_use]
    pub fn stagger(mut self, stagger: Duration) -> Self {
        self.stagger = stagger;
        self
    }

    /// Resolves names in place of the system's resolver and of `/etc/hosts`, on threads of this
    /// dialer: each name once at a time, and at most 64 names for which a dial waits.
    #[must_use]
    pub fn resolver(mut self, resolver: impl Resolve) -> Self {
        self.resolver = Some(Resolver::new(resolver));
        self
    }

    /// Puts a filter, such as TLS, between the socket of each connection and its buffers. A dial
    /// then ends with the handshake, within the same timeout; the first address that connects is
    /// the one that is used, whatever becomes of the handshake. Default: none.
    ///
    /// The handshake runs on the thread that waits for the dial. That of
    /// [`Dialer::dial_then`] runs on the loop of the connection, which it keeps busy for as long as
    /// the filter computes.
    #[must_use]
    pub fn filter(mut self, filter: Arc<dyn FilterClient>) -> Self {
        self.filter = Some(filter);
        self
    }

    /// Checks the options and makes the dialer. Nothing is started before the first dial.
    ///
    /// # Errors
    /// [`Error::Config`], one sentence that names the option.
    pub fn build(self) -> Result<Dialer> {
        self.validate()?;
        let Self { connect, limits, manager, timeout, stagger, resolver, filter } = self;
        let resolver = resolver.unwrap_or_else(Resolver::system);
        let options = Arc::new(DialOptions { connect, timeout, stagger, resolver, filter });
        Ok(Dialer {
            group: ConnectionGroup::dialled(limits)?,
            manager,
            options,
            announcement: None,
        })
    }

    fn validate(&self) -> Result<()> {
        if self.timeout.is_zero() {
            return Err(Error::config("timeout is 0, so no connection could be made"));
        }
        if self.stagger < STAGGER_LEAST || self.stagger > STAGGER_MOST {
            return Err(Error::config(format!(
                "stagger is {:?}, but must be {STAGGER_LEAST:?} to {STAGGER_MOST:?}",
                self.stagger
            )));
        }
        if self.connect.device.as_deref() == Some("") {
            return Err(Error::config("device is empty; None is any"));
        }
        self.connect.keepalive.map_or(Ok(()), Keepalive::validate)?;
        check_user_timeout(self.connect.user_timeout)?;
        let buffers = [
            ("receive_buffer", self.connect.receive_buffer),
            ("send_buffer", self.connect.send_buffer),
            ("notsent_lowat", self.connect.notsent_lowat),
        ];
        for (name, bytes) in buffers {
            if bytes.is_some_and(|bytes| bytes == 0 || i32::try_from(bytes).is_err()) {
                return Err(Error::config(format!(
                    "{name} must be 1 byte to 2 GiB; None lets it be"
                )));
            }
        }
        Ok(())
    }
}

/// # Errors
/// [`Error::Config`] for 0, which the kernel would take for "none".
fn check_user_timeout(time: Option<Duration>) -> Result<()> {
    if time == Some(Duration::ZERO) {
        return Err(Error::config(
            "user_timeout is 0, so no byte could be sent; None is as long as the system says",
        ));
    }
    Ok(())
}
