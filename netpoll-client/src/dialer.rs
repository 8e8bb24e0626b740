//! Dialling: a connection that the caller's own thread drives.

use std::io;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use netpoll_core::{Connection, Error, Group, Limits, PollManager, Result, dial, socket};

/// Everything that dials: a [`Dialer`], a pool, a test's double.
pub trait DialConnection {
    /// Connects to `address` (`host:port`) over `network` (`"tcp"`, or `"tcp4"` or `"tcp6"` for one
    /// family), waiting on this thread for `timeout` at most. The addresses of a name are tried in
    /// order, with that one deadline for all.
    ///
    /// # Errors
    /// [`Error::Config`] for an address, a network or a timeout that can't be used;
    /// [`Error::Address`] with the system's answer, of kind `ConnectionRefused`, `TimedOut`,
    /// `NetworkUnreachable`, …
    fn dial_connection(
        &self,
        network: &str,
        address: &str,
        timeout: Duration,
    ) -> Result<Connection>;
}

/// Dials with default options, on the shared manager; see [`DialConnection::dial_connection`].
///
/// The connection is driven by the thread that holds it: its reads and writes wait there. Dropping
/// it closes it in order.
///
/// ```
/// use std::io::{BufRead, Write};
/// use std::time::Duration;
///
/// let server = std::net::TcpListener::bind("127.0.0.1:0")?;
/// let address = server.local_addr()?.to_string();
/// let answering = std::thread::spawn(move || {
///     let (mut stream, _) = server.accept()?;
///     stream.write_all(b"welcome\n")
/// });
///
/// let mut conn = netpoll_client::dial_connection("tcp", &address, Duration::from_secs(1))?;
/// assert_eq!(conn.reader().until(b'\n')?, b"welcome\n");
/// # answering.join().unwrap()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// As [`DialConnection::dial_connection`].
pub fn dial_connection(network: &str, address: &str, timeout: Duration) -> Result<Connection> {
    static DEFAULT: OnceLock<Dialer> = OnceLock::new();
    if let Some(dialer) = DEFAULT.get() {
        dialer.dial_connection(network, address, timeout)
    } else {
        let dialer = Dialer::new(Limits::default())?;
        DEFAULT.get_or_init(|| dialer).dial_connection(network, address, timeout)
    }
}

/// Dials with limits of its own, on a manager of its choice. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Dialer {
    group: Arc<Group>,
    /// `None`: the shared one, started by the first dial.
    manager: Option<Arc<PollManager>>,
}

impl Dialer {
    /// A dialer on the shared manager.
    ///
    /// # Errors
    /// [`Error::Config`] where an option can't be used.
    pub fn new(limits: Limits) -> Result<Self> {
        Ok(Self { group: Group::dialled(limits)?, manager: None })
    }

    /// Lets `manager`'s loops watch the connections. Dropping the manager closes them.
    #[must_use]
    pub fn manager(mut self, manager: Arc<PollManager>) -> Self {
        self.manager = Some(manager);
        self
    }
}

impl DialConnection for Dialer {
    fn dial_connection(
        &self,
        network: &str,
        address: &str,
        timeout: Duration,
    ) -> Result<Connection> {
        const DOING: &str = "dial";
        if timeout.is_zero() {
            return Err(Error::config(format!(
                "cannot dial {network} {address}: the timeout is 0, so no connection could be made"
            )));
        }
        let deadline = Instant::now().checked_add(timeout);
        let manager = match &self.manager {
            Some(manager) => manager.clone(),
            None => PollManager::shared()?,
        };
        let mut failure = None;
        for each in socket::resolve(DOING, network, address)? {
            match dial(each, &self.group, &manager.pick(), deadline) {
                Ok(connection) => return Ok(connection),
                Err(error) => failure = failure.or(Some(error)),
            }
        }
        let mut source = failure.unwrap_or_else(|| io::ErrorKind::AddrNotAvailable.into());
        if source.kind() == io::ErrorKind::TimedOut {
            source = io::Error::new(source.kind(), format!("timed out after {timeout:?}"));
        }
        Err(Error::address(DOING, network, address, source))
    }
}
