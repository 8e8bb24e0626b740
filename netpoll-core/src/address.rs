//! The address of one end of a connection, of whichever family.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

/// The address of one end of a connection. Cheap to clone.
///
/// ```
/// use std::net::SocketAddr;
/// use netpoll_core::Address;
///
/// let address = Address::from("127.0.0.1:80".parse::<SocketAddr>()?);
/// assert_eq!((address.to_string().as_str(), address.port()), ("127.0.0.1:80", 80));
/// assert_eq!(Address::Abstract(b"name"[..].into()).to_string(), "@name");
/// # Ok::<(), std::net::AddrParseError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Address {
    /// Of the internet: IPv4 or IPv6, and a port.
    Inet(SocketAddr),
    /// A Unix socket, by its path in the file system.
    Path(Arc<Path>),
    /// A Unix socket, by its name in Linux's abstract namespace, without the zero byte before it.
    Abstract(Arc<[u8]>),
    /// A Unix socket without a name, as most of those that dial are.
    Unnamed,
}

impl Address {
    /// The address of the internet, if it is one.
    pub fn inet(&self) -> Option<SocketAddr> {
        match self {
            Self::Inet(address) => Some(*address),
            _ => None,
        }
    }

    /// The IP address; `None` for a Unix socket.
    pub fn ip(&self) -> Option<IpAddr> {
        self.inet().map(|address| address.ip())
    }

    /// The port; 0 for a Unix socket, which has none.
    pub fn port(&self) -> u16 {
        self.inet().map_or(0, |address| address.port())
    }
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Self {
        Self::Inet(address)
    }
}

impl PartialEq<SocketAddr> for Address {
    fn eq(&self, other: &SocketAddr) -> bool {
        self.inet() == Some(*other)
    }
}

/// As it is written to dial it: `127.0.0.1:80`, `[::1]:80`, `/run/socket`, `@abstract`.
impl fmt::Display for Address {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inet(address) => address.fmt(out),
            Self::Path(path) => path.display().fmt(out),
            Self::Abstract(name) => write!(out, "@{}", name.escape_ascii()),
            Self::Unnamed => out.write_str("an unnamed socket"),
        }
    }
}
