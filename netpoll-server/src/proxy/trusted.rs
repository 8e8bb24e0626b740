//! The networks in which proxies are.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use netpoll_core::{Address, Error, Result};

/// The peers that a listener believes to be proxies: others could claim any address.
///
/// Any other peer is closed at once; after
/// [`others_are_clients`](Self::others_are_clients) it is served as a client that no proxy speaks
/// for, and a header that it sends reaches the callbacks as its first bytes.
///
/// ```
/// use std::net::SocketAddr;
/// use netpoll_server::TrustedProxies;
///
/// let trusted = TrustedProxies::new(["10.0.0.0/8", "192.0.2.7", "2001:db8::/32", "unix"])?;
/// let peer: SocketAddr = "10.1.2.3:51000".parse()?;
/// assert!(trusted.contains(&peer.into()));
/// assert!(TrustedProxies::new(["10.0.0.1/8"]).is_err());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrustedProxies {
    networks: Arc<[Network]>,
    others_are_clients: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Network {
    /// An address with zeros behind its prefix, and the length of the prefix.
    Inet(IpAddr, u32),
    Unix,
}

impl TrustedProxies {
    /// Proxies in these networks: `10.0.0.0/8` and `2001:db8::/32`, or single addresses. `unix` is
    /// every peer of a Unix socket.
    ///
    /// # Errors
    /// [`Error::Config`] for a text that is none, and for no network at all.
    pub fn new<'a>(networks: impl IntoIterator<Item = &'a str>) -> Result<Self> {
        let parsed = networks.into_iter().map(|text| {
            Network::parse(text)
                .map_err(|what| Error::config(format!("cannot trust proxies in '{text}': {what}")))
        });
        let networks: Arc<[Network]> = parsed.collect::<Result<_>>()?;
        if networks.is_empty() {
            return Err(Error::config("no network is trusted, so no proxy could connect"));
        }
        Ok(Self { networks, others_are_clients: false })
    }

    /// Serves other peers, as clients that no proxy speaks for.
    #[must_use]
    pub fn others_are_clients(mut self) -> Self {
        self.others_are_clients = true;
        self
    }

    /// Whether a peer at this address is a proxy. An IPv4 address that is mapped into IPv6 is the
    /// IPv4 address.
    pub fn contains(&self, peer: &Address) -> bool {
        match peer.ip() {
            Some(ip) => self.networks.iter().any(|it| it.contains(ip)),
            None => self.networks.contains(&Network::Unix),
        }
    }

    pub(crate) fn are_others_clients(&self) -> bool {
        self.others_are_clients
    }
}

impl Network {
    fn parse(text: &str) -> Result<Self, String> {
        if text == "unix" {
            return Ok(Self::Unix);
        }
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let form = "write it as 10.0.0.0/8, 2001:db8::/32, an address or unix";
        let ip: IpAddr = address.parse().map_err(|_| form)?;
        let most = if ip.is_ipv4() { 32 } else { 128 };
        // `parse` accepts a sign.
        let number = |text: &str| text.parse().ok().filter(|_| !text.starts_with('+'));
        let prefix = prefix.map_or(Some(most), number).filter(|it| *it <= most).ok_or(form)?;
        let network = masked(ip, prefix);
        if network != ip {
            return Err(format!("it has bits behind its prefix; write {network}/{prefix}"));
        }
        match ip.to_canonical() {
            // Peers are compared by their IPv4 address.
            mapped if mapped.is_ipv4() && ip.is_ipv6() && prefix >= 96 => {
                Ok(Self::Inet(mapped, prefix - 96))
            }
            _ => Ok(Self::Inet(ip, prefix)),
        }
    }

    fn contains(self, ip: IpAddr) -> bool {
        match self {
            Self::Inet(network, prefix) => {
                network.is_ipv4() == ip.is_ipv4() && masked(ip, prefix) == network
            }
            Self::Unix => false,
        }
    }
}

/// The address with zeros behind its first `prefix` bits.
fn masked(ip: IpAddr, prefix: u32) -> IpAddr {
    match ip {
        IpAddr::V4(ip) => {
            let mask = u32::MAX.checked_shl(32 - prefix).unwrap_or(0);
            IpAddr::V4((ip.to_bits() & mask).into())
        }
        IpAddr::V6(ip) => {
            let mask = u128::MAX.checked_shl(128 - prefix).unwrap_or(0);
            IpAddr::V6((ip.to_bits() & mask).into())
        }
    }
}

/// The networks, separated by spaces; [`TrustedProxies::new`] understands each of them.
impl fmt::Display for TrustedProxies {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, network) in self.networks.iter().enumerate() {
            let space = if index == 0 { "" } else { " " };
            match network {
                Network::Inet(ip, prefix) => write!(out, "{space}{ip}/{prefix}")?,
                Network::Unix => write!(out, "{space}unix")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;

    fn contains(networks: &[&str], peer: &str) -> bool {
        let trusted = TrustedProxies::new(networks.iter().copied()).unwrap();
        trusted.contains(&peer.parse::<SocketAddr>().unwrap().into())
    }

    #[test]
    fn a_network_contains_its_own_addresses() {
        for (network, inside, outside) in [
            ("10.0.0.0/8", "10.255.0.1:1", "11.0.0.1:1"),
            ("192.0.2.1", "192.0.2.1:1", "192.0.2.2:1"),
            ("192.0.2.128/25", "192.0.2.255:1", "192.0.2.127:1"),
            ("0.0.0.0/0", "[::ffff:8.8.8.8]:1", "[2001:db8::1]:1"),
            ("2001:db8::/32", "[2001:db8:ffff::1]:1", "[2001:db9::]:1"),
            ("::/0", "[2001:db8::1]:1", "10.0.0.1:1"),
            ("::1", "[::1]:1", "[::2]:1"),
            ("::ffff:10.0.0.0/104", "10.1.2.3:1", "11.1.2.3:1"),
        ] {
            assert!(contains(&[network], inside), "{network} {inside}");
            assert!(!contains(&[network], outside), "{network} {outside}");
            assert!(contains(&["unix", network], inside) && !contains(&["unix"], inside));
        }
        let unix = |networks: &str| TrustedProxies::new([networks]).unwrap();
        assert!(unix("unix").contains(&Address::Unnamed));
        assert!(!unix("0.0.0.0/0").contains(&Address::Unnamed));
    }

    #[test]
    fn what_is_no_network_is_refused_by_name() {
        for text in
            ["", "x", "10.0.0.0/", "10.0.0.0/33", "10.0.0.0/+8", "::/129", "10.0.0.0/8/8", "host"]
        {
            let refused = TrustedProxies::new([text]).unwrap_err().to_string();
            assert!(refused.contains(&format!("'{text}'")), "{refused}");
        }
        let refused = TrustedProxies::new(["10.0.0.1/8"]).unwrap_err().to_string();
        assert!(refused.contains("write 10.0.0.0/8"), "{refused}");
        assert!(TrustedProxies::new([]).is_err());
    }

    #[test]
    fn it_displays_what_it_understands() {
        let text = "10.0.0.0/8 2001:db8::/32 unix 192.0.2.1/32";
        let trusted = TrustedProxies::new(text.split(' ')).unwrap();
        assert_eq!(trusted.to_string(), text);
        assert_eq!(TrustedProxies::new(trusted.to_string().split(' ')).unwrap(), trusted);
    }
}
