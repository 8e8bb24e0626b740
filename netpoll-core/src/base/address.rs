//! The address of one end of a connection, or of a listener, of any family.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

/// The address of one end of a connection, or of a listener.
///
/// A clone copies an internet address and shares the path or the name of a Unix socket.
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
    /// An internet address: IPv4 or IPv6, and a port.
    Inet(SocketAddr),
    /// A Unix socket, by its path in the file system.
    Path(Arc<Path>),
    /// A Unix socket, by its name in Linux's abstract namespace, without the leading zero byte.
    Abstract(Arc<[u8]>),
    /// A Unix socket without a name; most sockets that dial have none.
    Unnamed,
}

impl Address {
    /// The Unix address that `text` names: `@name` is an abstract name, any other text a path.
    pub fn unix(text: &str) -> Self {
        match text.strip_prefix('@') {
            Some(name) => Self::Abstract(name.as_bytes().into()),
            None => Self::Path(Path::new(text).into()),
        }
    }

    /// The internet address; `None` for a Unix socket.
    pub fn inet(&self) -> Option<SocketAddr> {
        match self {
            Self::Inet(address) => Some(*address),
            _ => None,
        }
    }

    /// The IP address; `None` for a Unix socket. For an IPv4 client of a listener for both families
    /// this is the IPv4 address, not the IPv6 address that the system maps it to.
    pub fn ip(&self) -> Option<IpAddr> {
        self.inet().map(|address| address.ip().to_canonical())
    }

    /// The port; 0 for a Unix socket, which has none.
    pub fn port(&self) -> u16 {
        self.inet().map_or(0, |address| address.port())
    }

    /// The path of a Unix socket; `None` if it has no path.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::Path(path) => Some(path),
            _ => None,
        }
    }

    /// Whether this is the address of a Unix socket.
    pub fn is_unix(&self) -> bool {
        !matches!(self, Self::Inet(_))
    }
}

/// Parses the number of a port: digits only, unlike `str::parse`, which also takes a sign.
///
/// ```
/// use netpoll_core::parse_port;
///
/// assert_eq!((parse_port("80"), parse_port("+80"), parse_port("65536")), (Some(80), None, None));
/// ```
pub fn parse_port(text: &str) -> Option<u16> {
    let plain = text.bytes().all(|it| it.is_ascii_digit());
    plain.then(|| text.parse().ok())?
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

/// The text that dials this address: `127.0.0.1:80`, `[::1]:80`, `/run/socket`, `@abstract`. Bytes
/// that are not printable ASCII are escaped: a peer chooses its name, and logs reach terminals.
impl fmt::Display for Address {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inet(address) => address.fmt(out),
            Self::Path(path) => path.as_os_str().as_bytes().escape_ascii().fmt(out),
            Self::Abstract(name) => write!(out, "@{}", name.escape_ascii()),
            Self::Unnamed => out.write_str("an unnamed socket"),
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn what_it_displays_names_it_again() {
        for text in ["/run/a service.sock", "@abstract", "relative"] {
            assert_eq!(Address::unix(text).to_string(), text);
        }
        let odd = Address::Abstract(Arc::from(&b"\x1b[2J\xff"[..]));
        assert_eq!(odd.to_string(), r"@\x1b[2J\xff", "a peer's name must not reach a terminal raw");
    }

    #[test]
    fn a_mapped_address_is_the_ipv4_one() {
        let mapped: SocketAddr = "[::ffff:192.0.2.1]:80".parse().unwrap();
        let address = Address::from(mapped);
        assert_eq!(address.ip(), Some("192.0.2.1".parse().unwrap()));
        assert_eq!(address, mapped);
    }
}
