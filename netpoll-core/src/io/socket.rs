//! What the server and the client ask of the system beside streams: addresses, the files of Unix
//! sockets, descriptors that go to another process.

use std::borrow::Cow;
use std::fmt::Display;
use std::io;
use std::net::{Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Instant;

use crate::base::address::parse_port;
use crate::base::error::{Error, Result};
use crate::sys;
use crate::sys::inherited::Kind;

pub use super::listener::{
    Listener, is_listener_dead, is_of_one_connection, is_out_of_descriptors,
};
pub use super::stream::Credentials;
pub use crate::sys::binding::{BeforeBind, BindOptions};
pub use crate::sys::connect::{BeforeConnect, ConnectOptions};
pub use crate::sys::datagram_features::DatagramFeatures;
pub use crate::sys::datagram_open::{DatagramSocketOptions, Membership, check_interface};
pub use crate::sys::keepalive::Keepalive;
pub use crate::sys::listener::SocketOptions;
pub use crate::sys::notify::{ManagerSocket, monotonic_micros};
pub use crate::sys::sock_diag::Handshake;
pub use crate::sys::tcp_info::TcpInfo;

/// The networks that a caller takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Networks {
    /// `tcp`, `tcp4`, `tcp6` and `unix`.
    Streams,
    /// `udp`, `udp4`, `udp6` and `unixgram`.
    Datagrams,
}

impl Networks {
    /// Which addresses belong to the network; for Unix sockets all, since they have one family.
    ///
    /// # Errors
    /// [`Error::Config`] for another network, and where the network or the address is written as a
    /// URL.
    pub fn family(
        self,
        doing: &str,
        network: &str,
        address: &str,
    ) -> Result<fn(&SocketAddr) -> bool> {
        let wrong = |what: &dyn Display| Err(unusable(doing, network, address, what));
        if let Some((scheme, rest)) = url(network) {
            return wrong(&format_args!(
                "the network and the address are two arguments, as in \"{scheme}\", \"{rest}\""
            ));
        }
        if let Some((scheme, rest)) = url(address) {
            return wrong(&format_args!(
                "the address must not begin with {scheme}://, as in \"{network}\", \"{rest}\""
            ));
        }
        match (self, network) {
            (Self::Streams, "tcp" | "unix") | (Self::Datagrams, "udp" | "unixgram") => Ok(|_| true),
            (Self::Streams, "tcp4") | (Self::Datagrams, "udp4") => Ok(SocketAddr::is_ipv4),
            (Self::Streams, "tcp6") | (Self::Datagrams, "udp6") => Ok(SocketAddr::is_ipv6),
            (Self::Streams, "udp" | "udp4" | "udp6" | "unixgram") => wrong(
                &"the network must be tcp, tcp4, tcp6 or unix; Datagrams::bind and \
                  connect_datagrams are for datagrams",
            ),
            (Self::Streams, _) => wrong(&"the network must be tcp, tcp4, tcp6 or unix"),
            (Self::Datagrams, _) => wrong(&"the network must be udp, udp4, udp6 or unixgram"),
        }
    }
}

/// The addresses behind `host:port`, those of the network's family alone: all for `"tcp"`, IPv4 for
/// `"tcp4"`, IPv6 for `"tcp6"`. The calling thread asks for names, and waits for the answer.
///
/// # Errors
/// [`Error::Config`] for another network, an address without a port, or a name without an address
/// of that family; [`Error::Address`] where the resolver fails. `doing` says for what, as in
/// "listen on".
pub fn resolve(
    networks: Networks,
    doing: &'static str,
    network: &str,
    address: &str,
) -> Result<Vec<SocketAddr>> {
    let wrong = |what: &dyn Display| unusable(doing, network, address, what);
    let fits = networks.family(doing, network, address)?;
    if address.rsplit_once(':').is_some_and(|(_, port)| parse_port(port).is_none()) {
        return Err(wrong(&"the port must be a number from 0 to 65535"));
    }
    let numbered = &*numbered_zone(address);
    let all = sys::resolve::resolve(numbered).map_err(|error| match error.kind() {
        io::ErrorKind::InvalidInput => {
            wrong(&format_args!("{error}; write it as host:port or [v6]:port"))
        }
        _ => Error::address(doing, network, address, error),
    })?;
    let fitting: Vec<_> = all.into_iter().filter(fits).collect();
    if fitting.is_empty() {
        return Err(wrong(&"it has no address of that family"));
    }
    Ok(fitting)
}

/// The error of an address that can't be used, in one sentence.
pub fn unusable(doing: &str, network: &str, address: &str, what: &dyn Display) -> Error {
    Error::config(format!("cannot {doing} {network} {address}: {what}"))
}

/// The address that `host` is written as; `None` where it is a name. The zone of an IPv6 address
/// is the number of a network device or its name, which must exist.
pub fn literal(host: &str, port: u16) -> Option<SocketAddr> {
    let Some((host, zone)) = host.split_once('%') else {
        return Some(SocketAddr::new(host.parse().ok()?, port));
    };
    let host: Ipv6Addr = host.parse().ok()?;
    let plain = !zone.is_empty() && zone.bytes().all(|it| it.is_ascii_digit());
    let zone = if plain { zone.parse().ok()? } else { sys::resolve::device_number(zone).ok()? };
    Some(SocketAddrV6::new(host, port, 0, zone).into())
}

/// The addresses of a host, by the system's resolver. The calling thread waits for the answer.
///
/// # Errors
/// The system's.
pub fn look_up(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    sys::resolve::look_up(host, port)
}

/// Which file stands at a path: device and inode.
///
/// # Errors
/// The system's.
pub fn identity(path: &Path) -> io::Result<(u64, u64)> {
    sys::binding::identity(path)
}

/// Removes the file at a path if it is still the one of that identity; says whether it was.
///
/// # Errors
/// The system's.
pub fn remove(path: &Path, identity: (u64, u64)) -> io::Result<bool> {
    sys::binding::remove_own(path, identity)
}

/// Whether a path is of a Unix socket behind which no process listens any more.
pub fn is_dead(path: &Path) -> bool {
    sys::binding::is_dead_socket(path).unwrap_or(false)
}

/// A descriptor in reserve: it is closed when descriptors have run out and one is needed.
///
/// # Errors
/// The system's.
pub fn spare_descriptor() -> io::Result<OwnedFd> {
    sys::eventfd::reserve()
}

/// The effective user of this process.
pub fn own_user() -> u32 {
    sys::control::own_user()
}

/// The process at the other end of a Unix stream: the one that connected, or that listened.
///
/// # Errors
/// The system's.
pub fn peer_credentials(stream: &impl AsFd) -> io::Result<Credentials> {
    let (process, user, group) = sys::stream::peer_credentials(stream.as_fd())?;
    Ok(Credentials { process, user, group })
}

/// Sends all of `bytes`.
///
/// # Errors
/// The system's; `TimedOut` where the peer has not taken them by the deadline.
pub fn send_within(to: &impl AsFd, bytes: &[u8], deadline: Instant) -> io::Result<()> {
    sys::control::send_within(to.as_fd(), bytes, deadline)
}

/// Receives as many bytes as `into` has. With a deadline that has passed it takes what is there.
///
/// # Errors
/// The system's; `TimedOut` where they have not come by the deadline; `UnexpectedEof`.
pub fn receive_within(from: &impl AsFd, into: &mut [u8], deadline: Instant) -> io::Result<()> {
    sys::control::receive_within(from.as_fd(), into, deadline)
}

/// Ends both directions of a stream, whatever other descriptors of it there are.
///
/// # Errors
/// The system's.
pub fn shut_down(stream: &impl AsFd) -> io::Result<()> {
    sys::control::shut_down(stream.as_fd())
}

/// Sends descriptors.
///
/// # Errors
/// As [`send_within`].
pub fn send_descriptors(
    to: &impl AsFd,
    descriptors: &[BorrowedFd<'_>],
    deadline: Instant,
) -> io::Result<()> {
    sys::control::send_descriptors(to.as_fd(), descriptors, deadline)
}

/// Receives `count` descriptors that [`send_descriptors`] sent, or none.
///
/// # Errors
/// As [`receive_within`]; the system's where this process may not open so many more;
/// `InvalidData` where others come.
pub fn receive_descriptors(
    from: &impl AsFd,
    count: usize,
    deadline: Instant,
) -> io::Result<Vec<OwnedFd>> {
    sys::control::receive_descriptors(from.as_fd(), count, deadline)
}

/// The listening sockets, with their names, that were opened for this process to serve before it
/// started, by systemd's protocol. A second call returns none.
///
/// # Errors
/// The system's.
pub fn inherited() -> io::Result<Vec<(String, OwnedFd)>> {
    sys::inherited::inherited(Kind::Listener)
}

/// As [`inherited`], the sockets of datagrams.
///
/// # Errors
/// The system's.
pub fn inherited_datagrams() -> io::Result<Vec<(String, OwnedFd)>> {
    sys::inherited::inherited(Kind::Datagrams)
}

/// An IPv6 address with its zone as a number, `[fe80::1%2]:80`, where the zone was named by an
/// interface, `[fe80::1%eth0]:80`, which the standard library doesn't know.
fn numbered_zone(address: &str) -> Cow<'_, str> {
    let numbered = || {
        let (host, port) = address.strip_prefix('[')?.rsplit_once("]:")?;
        let (host, zone) = host.split_once('%')?;
        Some(format!("[{host}%{}]:{port}", sys::resolve::device_number(zone).ok()?))
    };
    numbered().map_or(Cow::Borrowed(address), Cow::Owned)
}

/// The scheme and the rest of a text that is a URL.
fn url(text: &str) -> Option<(&str, &str)> {
    let (scheme, rest) = text.split_once("://")?;
    let is_scheme = scheme.starts_with(|it: char| it.is_ascii_alphabetic())
        && scheme.bytes().all(|it| it.is_ascii_alphanumeric() || b"+-.".contains(&it));
    is_scheme.then_some((scheme, rest))
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_told_from_a_path_and_from_an_address() {
        assert_eq!(url("tcp://[::1]:80"), Some(("tcp", "[::1]:80")));
        assert_eq!(url("unix:///run/it"), Some(("unix", "/run/it")));
        for other in ["127.0.0.1:80", "[::1]:80", "/run/a://b", "://", "1a://b", "a b://c", "tcp"] {
            assert_eq!(url(other), None, "{other}");
        }
    }
}
