//! What a network and an address mean. Both are parsed before any system call.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::time::Duration;

use netpoll_core::socket::{Networks, literal, unusable};
use netpoll_core::{Address, Error, Result, parse_port};

/// Where to dial.
#[derive(Debug)]
pub(crate) struct Target<'a> {
    doing: &'static str,
    network: Cow<'a, str>,
    address: Cow<'a, str>,
    family: fn(&SocketAddr) -> bool,
}

/// Whether it must be resolved.
#[derive(Debug)]
pub(crate) enum Kind<'a> {
    /// A literal address.
    Literal(Address),
    /// A name, to be resolved.
    Name(&'a str, u16),
}

impl<'a> Target<'a> {
    /// # Errors
    /// [`Error::Config`], one sentence that names the network, the address and what is wrong.
    pub(crate) fn parse(network: &'a str, address: &'a str) -> Result<(Self, Kind<'a>)> {
        Self::parse_for(Networks::Streams, "dial", network, address)
    }

    /// The same, for one of these networks; `doing` says what for.
    ///
    /// # Errors
    /// Those of `parse`.
    pub(crate) fn parse_for(
        networks: Networks,
        doing: &'static str,
        network: &'a str,
        address: &'a str,
    ) -> Result<(Self, Kind<'a>)> {
        let family = networks.family(doing, network, address)?;
        let is_unix = matches!(network, "unix" | "unixgram");
        let parsed = if is_unix { unix(address) } else { inet(address) };
        let kind = parsed.map_err(|what| unusable(doing, network, address, &what))?;
        let target = Self { doing, network: network.into(), address: address.into(), family };
        match &kind {
            Kind::Literal(Address::Inet(literal)) if !family(literal) => {
                Err(target.wrong("it has no address of that family"))
            }
            _ => Ok((target, kind)),
        }
    }

    /// The same, for a dial that outlives its caller's strings.
    pub(crate) fn into_owned(self) -> Target<'static> {
        let (network, address) = (self.network.into_owned(), self.address.into_owned());
        let (network, address) = (network.into(), address.into());
        Target { doing: self.doing, network, address, family: self.family }
    }

    /// The address, as the caller gave it.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// The addresses of a name that belong to the network's family.
    ///
    /// # Errors
    /// [`Error::Config`] where none is.
    pub(crate) fn fitting(&self, all: Vec<SocketAddr>) -> Result<Vec<Address>> {
        let fitting = all.into_iter().filter(self.family).map(Address::from);
        let fitting: Vec<_> = fitting.collect();
        if fitting.is_empty() {
            return Err(self.wrong("it has no address of that family"));
        }
        Ok(fitting)
    }

    /// # Errors
    /// [`Error::Config`] for a timeout of 0.
    pub(crate) fn check_timeout(&self, timeout: Duration) -> Result<()> {
        if timeout.is_zero() {
            return Err(self.wrong("the timeout is 0, so no connection could be made"));
        }
        Ok(())
    }

    /// The error of a target that can't be dialled.
    pub(crate) fn wrong(&self, what: &str) -> Error {
        unusable(self.doing, &self.network, &self.address, &what)
    }

    /// The error of a dial that failed.
    pub(crate) fn failed(&self, source: std::io::Error) -> Error {
        Error::address(self.doing, &self.network, &self.address, source)
    }
}

fn unix(address: &str) -> Result<Kind<'_>, &'static str> {
    match address.strip_prefix('@') {
        None if address.is_empty() => Err("a path is missing, or a name that begins with @"),
        None => Ok(Kind::Literal(Address::Path(std::path::Path::new(address).into()))),
        Some("") => Err("a name must follow the @"),
        Some(name) => Ok(Kind::Literal(Address::Abstract(name.as_bytes().into()))),
    }
}

fn inet(address: &str) -> Result<Kind<'_>, &'static str> {
    const FORM: &str = "write it as host:port or [v6]:port";
    if let Ok(literal) = address.parse::<SocketAddr>() {
        return Ok(Kind::Literal(literal.into()));
    }
    let (host, port) = address.rsplit_once(':').ok_or(FORM)?;
    let port = parse_port(port).ok_or("the port must be a number from 0 to 65535")?;
    // An IPv6 address in brackets may have a zone that is a name. If no device has that name, the
    // resolver gets the text, and reports the error.
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    match bare.unwrap_or(host) {
        "" => Err("a host is missing before the port"),
        _ if let Some(literal) = bare.and_then(|bare| literal(bare, port)) => {
            Ok(Kind::Literal(literal.into()))
        }
        host if bare.is_none() && host.contains([':', '[', ']']) => Err(FORM),
        host => Ok(Kind::Name(host, port)),
    }
}
