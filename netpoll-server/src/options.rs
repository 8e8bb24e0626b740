//! The options of a listening socket, set before it listens.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Duration;

use netpoll_core::socket::{self, BindOptions, Keepalive, Networks, SocketOptions};
use netpoll_core::{Address, Error, Result};

use crate::listener::Listener;

const DOING: &str = "listen on";

/// How a listening socket is opened. Accepted sockets inherit the options that concern them, so no
/// system call per connection is spent on that.
///
/// ```
/// use netpoll_server::Listener;
///
/// let listener = Listener::options().backlog(4096).reuse_port(true).bind("tcp", "127.0.0.1:0")?;
/// # Ok::<(), netpoll_core::Error>(())
/// ```
#[derive(Debug, Clone, Default)]
#[must_use = "options do nothing until `bind`"]
pub struct ListenOptions {
    socket: SocketOptions,
}

impl Listener {
    /// Listens with default options; see [`ListenOptions::bind`].
    ///
    /// # Errors
    /// As [`ListenOptions::bind`].
    pub fn bind(network: &str, address: &str) -> Result<Self> {
        ListenOptions::default().bind(network, address)
    }

    /// Options that are set before the socket listens.
    pub fn options() -> ListenOptions {
        ListenOptions::default()
    }
}

impl ListenOptions {
    /// Connections that may wait to be accepted; the kernel cuts the number down to
    /// `net.core.somaxconn`. Default `None`: as many as that allows, since a client that finds the
    /// queue full waits a second before it tries again.
    pub fn backlog(mut self, connections: impl Into<Option<u32>>) -> Self {
        self.socket.backlog = connections.into();
        self
    }

    /// `SO_REUSEADDR`: take a port on which connections of an earlier server linger. Default on, so
    /// that a server can be restarted at once. TCP only.
    pub fn reuse_address(mut self, yes: bool) -> Self {
        self.socket.bind.reuse_address = yes;
        self
    }

    /// `SO_REUSEPORT`: other sockets, also of other processes of the same user, may listen on the
    /// same address, and the kernel spreads connections over them by a hash of their addresses.
    /// Each loop then has such a socket and accepts for itself. No connection is passed between
    /// threads, but the spread is by chance, and `LoadBalance` has no effect. Default off. TCP
    /// only.
    ///
    /// When a loop retires, its socket stays open: the main reactor accepts on it, for all, until
    /// another loop takes it over.
    pub fn reuse_port(mut self, yes: bool) -> Self {
        self.socket.bind.reuse_port = yes;
        self
    }

    /// Whether an IPv6 listener takes no IPv4 connections. Default `None`: yes on the network
    /// `tcp6`, and on `tcp` no, so that `[::]` serves both.
    pub fn only_v6(mut self, yes: impl Into<Option<bool>>) -> Self {
        self.socket.bind.only_v6 = yes.into();
        self
    }

    /// `IP_FREEBIND`, for IPv6 `IPV6_FREEBIND`: listen on an address that this machine does not
    /// have, or not yet: one that moves between machines, or of an interface that comes up later.
    /// Connections come when the address is there. A wrong address is then no error. Default off.
    /// TCP only.
    pub fn freebind(mut self, yes: bool) -> Self {
        self.socket.bind.freebind = yes;
        self
    }

    /// `TCP_NODELAY` on accepted sockets: send small writes at once. Default on: a flush is a batch
    /// already.
    pub fn nodelay(mut self, yes: bool) -> Self {
        self.socket.nodelay = yes;
        self
    }

    /// `SO_RCVBUF` of accepted sockets, in bytes; the kernel doubles it for its bookkeeping.
    /// Default `None`: the kernel sizes it by the delay of the path, which is better unless memory
    /// is scarce.
    pub fn receive_buffer(mut self, bytes: impl Into<Option<usize>>) -> Self {
        self.socket.bind.receive_buffer = bytes.into();
        self
    }

    /// `SO_SNDBUF` of accepted sockets, in bytes. Default `None`, as `receive_buffer`.
    pub fn send_buffer(mut self, bytes: impl Into<Option<usize>>) -> Self {
        self.socket.bind.send_buffer = bytes.into();
        self
    }

    /// `TCP_NOTSENT_LOWAT` of accepted sockets, in bytes: the kernel takes more output of a
    /// connection only while it has fewer bytes than this that are not sent yet. The rest stays in
    /// this process and counts for the high-water mark, so that a sender learns early that the
    /// path is slow, and what it sends next is not old by the time it leaves. It costs wake-ups of
    /// the loop, the more the smaller it is; 16 KiB to 128 KiB is usual. Default `None`: the
    /// system's `net.ipv4.tcp_notsent_lowat`, without bound unless it was set. TCP only.
    pub fn notsent_lowat(mut self, bytes: impl Into<Option<usize>>) -> Self {
        self.socket.notsent_lowat = bytes.into();
        self
    }

    /// TCP's own probes on accepted sockets that are silent. Default `None`: off, as the system's.
    pub fn keepalive(mut self, keepalive: impl Into<Option<Keepalive>>) -> Self {
        self.socket.keepalive = keepalive.into();
        self
    }

    /// `TCP_DEFER_ACCEPT`: accept a connection when its first byte has come, or this time, in whole
    /// seconds, has passed. Default `None`: off. For protocols in which the client sends first.
    pub fn defer_accept(mut self, time: impl Into<Option<Duration>>) -> Self {
        self.socket.defer_accept = time.into();
        self
    }

    /// `TCP_FASTOPEN`: let clients that have connected before send data with their first segment;
    /// so many such connections may be pending. Default `None`: off, since such data may arrive
    /// twice.
    pub fn fast_open(mut self, pending: impl Into<Option<u32>>) -> Self {
        self.socket.fast_open = pending.into();
        self
    }

    /// `SO_BINDTODEVICE`: only what arrives by this interface. Default `None`: any.
    pub fn device(mut self, interface: impl Into<Option<String>>) -> Self {
        self.socket.bind.device = interface.into();
        self
    }

    /// The permissions of a Unix socket's file, such as `0o660`: users that may write to it may
    /// connect.
    /// Default `None`: what the umask leaves of `0o777`.
    pub fn mode(mut self, mode: impl Into<Option<u32>>) -> Self {
        self.socket.bind.mode = mode.into();
        self
    }

    /// Called with the raw socket before it is bound, for options that this crate does not offer.
    /// An error that it returns is `bind`'s.
    pub fn before_bind(
        mut self,
        hook: impl Fn(BorrowedFd<'_>) -> io::Result<()> + Send + Sync + 'static,
    ) -> Self {
        self.socket.bind.before_bind = Some(Arc::new(hook));
        self
    }

    /// Opens the socket and listens. The networks, and what their addresses look like:
    ///
    /// - `tcp`: `host:port`; on the first address of the host that can be bound. `[v6]:port`, also
    ///   with a zone (`[fe80::1%eth0]:80`); `:port` is every address of this machine.
    /// - `tcp4`, `tcp6`: the same, for one family.
    /// - `unix`: a path, or `@name` in Linux's abstract namespace. A dead socket at that path, on
    ///   which no process listens, is replaced; any other file there is left alone, and is an
    ///   error.
    ///
    /// # Errors
    /// [`Error::Config`] for an address, a network or an option that can't be used;
    /// [`Error::Address`] with the system's answer, of kind `AddrInUse`, `AddrNotAvailable`,
    /// `PermissionDenied`, …
    pub fn bind(&self, network: &str, address: &str) -> Result<Listener> {
        self.validate()?;
        let mut options = self.socket.clone();
        Networks::Streams.family(DOING, network, address)?;
        if network == "unix" {
            if address.is_empty() || address == "@" {
                return Err(Error::config("a unix socket needs a path or an @name to listen on"));
            }
            let opened = Listener::opened(&Address::unix(address), options);
            return opened.map_err(|error| Error::address(DOING, network, address, error));
        }
        options.bind.only_v6 = options.bind.only_v6.or(Some(network == "tcp6"));
        first_that_opens(Networks::Streams, DOING, network, address, |it| {
            Listener::opened(it, options.clone())
        })
    }

    fn validate(&self) -> Result<()> {
        let options = &self.socket;
        let zero = |name: &str| Error::config(format!("{name} is 0; None leaves it to the system"));
        if options.backlog == Some(0) {
            return Err(zero("backlog"));
        }
        check_bytes("notsent_lowat", options.notsent_lowat)?;
        validate_bind(&options.bind)?;
        if options.defer_accept == Some(Duration::ZERO) {
            return Err(zero("defer_accept"));
        }
        if options.fast_open == Some(0) {
            return Err(zero("fast_open"));
        }
        options.keepalive.map_or(Ok(()), Keepalive::validate)
    }
}

/// Checks the options that listeners and sockets of datagrams have in common.
pub(crate) fn validate_bind(options: &BindOptions) -> Result<()> {
    check_bytes("receive_buffer", options.receive_buffer)?;
    check_bytes("send_buffer", options.send_buffer)?;
    if options.device.as_deref() == Some("") {
        return Err(Error::config("device is empty; None is any"));
    }
    if let Some(mode) = options.mode.filter(|mode| *mode > 0o7777) {
        return Err(Error::config(format!(
            "mode is {mode:#o}, but permissions end at 0o7777, as in 0o660"
        )));
    }
    Ok(())
}

fn check_bytes(name: &str, bytes: Option<usize>) -> Result<()> {
    if bytes.is_some_and(|bytes| bytes == 0 || i32::try_from(bytes).is_err()) {
        return Err(Error::config(format!(
            "{name} must be 1 byte to 2 GiB; None leaves it to the system"
        )));
    }
    Ok(())
}

/// Opens the first of the addresses behind `address` that can be opened; the error is that of the
/// first.
pub(crate) fn first_that_opens<T>(
    networks: Networks,
    doing: &'static str,
    network: &str,
    address: &str,
    open: impl Fn(&Address) -> io::Result<T>,
) -> Result<T> {
    let mut failure = None;
    for each in candidates(networks, doing, network, address)? {
        match open(&each) {
            Ok(opened) => return Ok(opened),
            Err(error) => failure = failure.or(Some(error)),
        }
    }
    let source = failure.unwrap_or_else(|| io::ErrorKind::AddrNotAvailable.into());
    Err(Error::address(doing, network, address, source))
}

/// The addresses to try, in order.
fn candidates(
    networks: Networks,
    doing: &'static str,
    network: &str,
    address: &str,
) -> Result<Vec<Address>> {
    let resolve = |address: &str| socket::resolve(networks, doing, network, address);
    let Some(port) = address.strip_prefix(':') else {
        return Ok(resolve(address)?.into_iter().map(Address::from).collect());
    };
    // Where there is no IPv6, every address is every IPv4 address.
    let everywhere: &[&str] = match network {
        "tcp4" | "udp4" => &["0.0.0.0"],
        "tcp6" | "udp6" => &["[::]"],
        _ => &["[::]", "0.0.0.0"],
    };
    let mut all = Vec::new();
    for host in everywhere {
        all.extend(resolve(&format!("{host}:{port}"))?);
    }
    Ok(all.into_iter().map(Address::from).collect())
}
