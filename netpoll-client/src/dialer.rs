//! Dialling: from a network and an address to a connection, within one deadline.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use netpoll_core::proxy::{Header, Version};
use netpoll_core::{
    Attempt, Connection, ConnectionGroup, Detached, Error, Handle, Limits, Notify, PollManager,
    Remote, Result, blocking,
};

use crate::cancel::{Cancel, cancelled};
use crate::dial::{Dial, DialOptions, Loops, Means};
use crate::dialling::Dialling;
use crate::target::Target;

/// What a dial goes on with, as [`DialConnection`] takes it.
pub type DialThen = Box<dyn FnOnce(&mut Connection, Result<Connection>) -> Result<()> + Send>;

/// What can dial: a [`Dialer`], a [`Pool`](crate::Pool), a test double.
pub trait DialConnection {
    /// Connects to `address` over `network`, and waits on this thread for `timeout` at most: within
    /// that time it resolves a name and tries all its addresses.
    ///
    /// | network | address |
    /// | --- | --- |
    /// | `"tcp"`, of one family `"tcp4"`, `"tcp6"` | `host:port`, `1.2.3.4:port`, `[::1]:port` |
    /// | `"unix"` | a path, or `@` and a name of Linux's abstract namespace |
    ///
    /// # Errors
    /// [`Error::Config`] for an address, a network or a timeout that can't be used, and in a
    /// callback that must not wait; [`Error::Address`] with the system's answer, of kind
    /// `ConnectionRefused`, `TimedOut`, `NetworkUnreachable`, `NotFound` (no such host, no such
    /// path), …
    ///
    /// [`Error::Config`]: netpoll_core::Error::Config
    /// [`Error::Address`]: netpoll_core::Error::Address
    fn dial_connection(
        &self,
        network: &str,
        address: &str,
        timeout: Duration,
    ) -> Result<Connection>;

    /// As [`dial_connection`](Self::dial_connection), until it is cancelled.
    ///
    /// The default asks whether it is cancelled before it dials, and not while it does.
    ///
    /// # Errors
    /// As there, and of kind `Interrupted` when it was cancelled.
    fn dial_connection_with(
        &self,
        network: &str,
        address: &str,
        timeout: Duration,
        cancel: &Cancel,
    ) -> Result<Connection> {
        if cancel.is_cancelled() {
            return Err(Error::address("dial", network, address, cancelled()));
        }
        self.dial_connection(network, address, timeout)
    }

    /// As [`dial_connection`](Self::dial_connection), without waiting: `then` is called with the
    /// outcome, as a callback of `asker`; see [`Dialer::dial_then`].
    ///
    /// The default waits in `dial_connection`, on this thread, for dialers that have nothing else.
    ///
    /// # Errors
    /// As [`Dialer::dial_then`]; then `then` is dropped.
    fn dial_connection_then(
        &self,
        asker: &Handle,
        network: &str,
        address: &str,
        timeout: Duration,
        then: DialThen,
    ) -> Result<()> {
        let dialled = self.dial_connection(network, address, timeout);
        asker.run(|asker| then(asker, dialled))
    }

    /// Begins to dial in steps; `None`: this dialer can't.
    #[doc(hidden)]
    fn begin_dial_connection(
        &self,
        to: (&str, &str),
        timeout: Duration,
        notify: &Arc<Notify>,
    ) -> Option<Result<Dialling>> {
        let _ = (to, timeout, notify);
        None
    }
}

/// Dials with default options, on the shared manager; see [`DialConnection::dial_connection`].
///
/// The thread that holds the connection drives it: reads and writes wait there. Dropping the
/// connection closes it in order.
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

/// Dials with options of its own, on a manager of its choice. Cheap to clone.
///
/// A name is resolved to all its addresses, which are tried as Happy Eyeballs (RFC 8305) says: the
/// families in turn, each address with a head start over the next, and all within one deadline, so
/// that an address that doesn't answer costs 250 ms and not the whole dial.
///
/// A dial of a literal address costs six system calls on its socket: `socket`, `setsockopt` (no
/// delay), `connect`, `epoll_ctl`, `getsockopt` (the result) and `getsockname` (that the socket is
/// not connected to itself).
#[derive(Debug, Clone)]
pub struct Dialer {
    pub(crate) group: Arc<ConnectionGroup>,
    /// `None`: the shared one, started by the first dial.
    pub(crate) manager: Option<Arc<PollManager>>,
    pub(crate) options: Arc<DialOptions>,
    /// What each connection begins with.
    pub(crate) announcement: Option<Bytes>,
}

impl Dialer {
    /// Lets `manager`'s loops watch the connections. Dropping the manager closes them.
    #[must_use]
    pub fn manager(mut self, manager: Arc<PollManager>) -> Self {
        self.manager = Some(manager);
        self
    }

    /// The same dialer, with connections that begin with this header of the PROXY protocol: for a
    /// proxy that tells a server for which client it dials. The dial sends it before anything else
    /// and within its timeout; it ends when the socket has taken all of it.
    /// [`bytes_sent`](Connection::bytes_sent) counts it. Costs an allocation; the connections share
    /// it. Of addresses that are tried beside each other only the one that is used gets it.
    ///
    /// ```
    /// use std::io::Read;
    /// use std::net::SocketAddr;
    /// use netpoll_client::Dialer;
    /// use netpoll_core::proxy::{Header, Version};
    ///
    /// let server = std::net::TcpListener::bind("127.0.0.1:0")?;
    /// let (client, front): (SocketAddr, SocketAddr) =
    ///     ("192.0.2.1:51000".parse()?, "198.51.100.7:443".parse()?);
    /// let dialer = Dialer::builder().build()?;
    /// let header = Header::between(client, front);
    /// let dialer = dialer.proxy_header(&header, Version::V1)?;
    /// let mut conn = dialer.dial("tcp", &server.local_addr()?.to_string())?;
    /// conn.writer().write_bytes(b"hello");
    /// drop(conn);
    ///
    /// let mut heard = String::new();
    /// server.accept()?.0.read_to_string(&mut heard)?;
    /// assert_eq!(heard, "PROXY TCP4 192.0.2.1 198.51.100.7 51000 443\r\nhello");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Config`](netpoll_core::Error::Config) where the header is too long, see
    /// [`Header::encode`].
    pub fn proxy_header(&self, header: &Header, version: Version) -> Result<Self> {
        let announcement = Some(header.encode(version)?.into());
        Ok(Self { announcement, ..self.clone() })
    }

    /// As [`DialConnection::dial_connection`], with the timeout that was set for this dialer.
    ///
    /// # Errors
    /// As there.
    pub fn dial(&self, network: &str, address: &str) -> Result<Connection> {
        self.dial_connection(network, address, self.options.timeout)
    }

    /// As [`DialConnection::dial_connection`], until it is cancelled.
    ///
    /// # Errors
    /// As there, and of kind `Interrupted` when it was cancelled.
    pub fn dial_with(
        &self,
        network: &str,
        address: &str,
        timeout: Duration,
        cancel: &Cancel,
    ) -> Result<Connection> {
        let attempt = self.attempt(network, address, timeout, &self.group, Some(cancel))?;
        Ok(attempt.into_connection())
    }

    /// Makes a connection of a stream that was connected elsewhere, for the caller to drive as one
    /// that was dialled: of a `TcpStream`, a `UnixStream`, an `OwnedFd`, or of a [`Detached`], with
    /// the bytes that were read and not sent before. It becomes non-blocking,
    /// with `TCP_NODELAY`, and keeps its other options: those of the dialer have no effect, nor has
    /// a filter such as TLS, but its limits have. Never waits.
    ///
    /// ```
    /// use std::io::{BufRead, Write};
    /// use netpoll_client::Dialer;
    ///
    /// let (mut peer, ours) = std::os::unix::net::UnixStream::pair()?;
    /// let mut conn = Dialer::builder().build()?.adopt(ours)?;
    /// peer.write_all(b"hello\n")?;
    /// assert_eq!(conn.reader().until(b'\n')?, b"hello\n");
    /// # Ok::<(), netpoll_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// The stream is closed with each of them. [`Error::Config`] for what is no stream socket, or
    /// has no peer; what the shared manager's start met; [`Error::Closed`] if its loop has ended.
    pub fn adopt(&self, stream: impl Into<Detached>) -> Result<Connection> {
        Ok(self.adopted(stream.into(), &self.group)?.into_connection())
    }

    /// A connected stream that is to belong to `group`.
    pub(crate) fn adopted(
        &self,
        stream: Detached,
        group: &Arc<ConnectionGroup>,
    ) -> Result<Attempt> {
        let (stream, peer, carried) = stream.adopt()?;
        let reactor = self.own_or_shared_manager()?.pick(peer.ip());
        Attempt::adopt(stream, peer, carried, group, &reactor)
    }

    pub(crate) fn own_or_shared_manager(&self) -> Result<Arc<PollManager>> {
        match &self.manager {
            Some(manager) => manager.check_process().map(|()| manager.clone()),
            None => PollManager::shared(),
        }
    }

    /// Dials a connection that is to belong to `group`.
    pub(crate) fn attempt(
        &self,
        network: &str,
        address: &str,
        timeout: Duration,
        group: &Arc<ConnectionGroup>,
        cancel: Option<&Cancel>,
    ) -> Result<Attempt> {
        let (target, kind) = Target::parse(network, address)?;
        target.check_timeout(timeout)?;
        blocking::check(&format!("dial {network} {address}"))?;
        let manager = self.own_or_shared_manager()?;
        let loops = Loops::Of(manager);
        let announcement = self.announcement.clone();
        let means = Means { options: &self.options, loops, group, timeout, cancel, announcement };
        Dial::new(means, target, kind, Arc::default()).run()
    }

    /// Begins to dial a connection that is to belong to `group`, within the timeout of this dialer.
    /// `notify` is told when there is a step to be taken. The connection lives on the loop
    /// `remote`, or on one of the manager's.
    ///
    /// # Errors
    /// [`Error::Config`](netpoll_core::Error::Config) for a network, an address or a timeout that
    /// can't be used; what the shared manager's start met.
    #[doc(hidden)]
    pub fn begin_dial(
        &self,
        to: (&str, &str),
        group: &Arc<ConnectionGroup>,
        remote: Option<Arc<Remote>>,
        notify: &Arc<Notify>,
    ) -> Result<Dialling> {
        self.dialling(to, self.options.timeout, (group, remote), notify)
    }

    /// Begins to dial a connection that its caller is to drive.
    pub(crate) fn begin_dial_for_caller(
        &self,
        to: (&str, &str),
        timeout: Duration,
        notify: &Arc<Notify>,
    ) -> Result<Dialling> {
        self.dialling(to, timeout, (&self.group, None), notify)
    }

    fn dialling(
        &self,
        (network, address): (&str, &str),
        timeout: Duration,
        (group, remote): (&Arc<ConnectionGroup>, Option<Arc<Remote>>),
        notify: &Arc<Notify>,
    ) -> Result<Dialling> {
        let (target, kind) = Target::parse(network, address)?;
        target.check_timeout(timeout)?;
        let loops = match remote {
            Some(remote) => Loops::This(remote),
            None => Loops::Of(self.own_or_shared_manager()?),
        };
        let (options, announcement) = (&self.options, self.announcement.clone());
        let means = Means { options, loops, group, timeout, cancel: None, announcement };
        Ok(Dialling::new(Dial::new(means, target.into_owned(), kind, notify.clone())))
    }
}

impl DialConnection for Dialer {
    fn dial_connection(
        &self,
        network: &str,
        address: &str,
        timeout: Duration,
    ) -> Result<Connection> {
        let attempt = self.attempt(network, address, timeout, &self.group, None)?;
        Ok(attempt.into_connection())
    }

    fn dial_connection_with(
        &self,
        network: &str,
        address: &str,
        timeout: Duration,
        cancel: &Cancel,
    ) -> Result<Connection> {
        self.dial_with(network, address, timeout, cancel)
    }

    fn dial_connection_then(
        &self,
        asker: &Handle,
        network: &str,
        address: &str,
        timeout: Duration,
        then: DialThen,
    ) -> Result<()> {
        self.dial_then_within(asker, network, address, timeout, then).map(drop)
    }

    fn begin_dial_connection(
        &self,
        to: (&str, &str),
        timeout: Duration,
        notify: &Arc<Notify>,
    ) -> Option<Result<Dialling>> {
        Some(self.begin_dial_for_caller(to, timeout, notify))
    }
}
