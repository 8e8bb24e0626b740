//! Listening sockets: opened here, or adopted from whoever opened them.

use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use netpoll_core::{Error, Result, socket};

/// The kernel cuts this down to `net.core.somaxconn`: as long a queue as the system allows.
const BACKLOG: i32 = i32::MAX;

/// A listening socket, ready to be served.
///
/// ```
/// use netpoll_server::Listener;
///
/// let listener = Listener::bind("tcp", "127.0.0.1:0")?;
/// assert_ne!(listener.local_addr()?.port(), 0);
/// let adopted = Listener::from(std::net::TcpListener::bind("127.0.0.1:0")?);
/// # Ok::<(), netpoll_core::Error>(())
/// ```
#[derive(Debug)]
pub struct Listener {
    fd: Arc<OwnedFd>,
}

impl Listener {
    /// Listens on the first address of `host:port` that can be had. The network is `"tcp"`, or
    /// `"tcp4"` or `"tcp6"` for one family. Accepted sockets have `TCP_NODELAY`; a port whose
    /// former server is gone can be taken at once (`SO_REUSEADDR`).
    ///
    /// # Errors
    /// [`Error::Config`] for an address or a network that can't be understood; [`Error::Address`]
    /// with the system's answer, of kind `AddrInUse`, `AddrNotAvailable`, `PermissionDenied`, …
    pub fn bind(network: &str, address: &str) -> Result<Self> {
        const DOING: &str = "listen on";
        let mut failure = None;
        for each in socket::resolve(DOING, network, address)? {
            match socket::listen_tcp(each, BACKLOG) {
                Ok(fd) => return Ok(Self { fd: Arc::new(fd) }),
                Err(error) => failure = failure.or(Some(error)),
            }
        }
        let source = failure.unwrap_or_else(|| std::io::ErrorKind::AddrNotAvailable.into());
        Err(Error::address(DOING, network, address, source))
    }

    /// The address it listens on, with the port that the system chose where 0 was asked for.
    ///
    /// # Errors
    /// The system's.
    pub fn local_addr(&self) -> Result<SocketAddr> {
        Ok(socket::local_address(&self.fd)?)
    }

    /// The socket, made fit for a reactor whoever opened it.
    pub(crate) fn into_socket(self) -> Result<Arc<OwnedFd>> {
        socket::adopt_listener(&self.fd)?;
        Ok(self.fd)
    }
}

impl From<TcpListener> for Listener {
    fn from(listener: TcpListener) -> Self {
        Self { fd: Arc::new(listener.into()) }
    }
}
