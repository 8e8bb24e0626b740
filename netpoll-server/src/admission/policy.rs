//! What is limited, and what happens to a connection that meets a limit: options, as data.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use netpoll_core::{Address, Error, ListenerInfo, Result, guard};

/// A limit that a new connection met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum AcceptLimit {
    /// [`max_connections`](crate::EventLoopBuilder::max_connections) of the event loop.
    Connections,
    /// [`max_connections`](crate::Listener::max_connections) of the listener.
    Listener,
    /// [`max_connections_per_source`](crate::EventLoopBuilder::max_connections_per_source).
    Source,
    /// [`accept_rate`](crate::EventLoopBuilder::accept_rate).
    Rate,
}

/// What happens to new connections when a limit is met.
#[derive(Clone, Default)]
#[non_exhaustive]
pub enum AtLimit {
    /// They wait in the kernel's queue until there is room, for as long as the client waits. This
    /// is the default: a short rush is served late instead of refused. Connections from a source
    /// that has too many are closed instead, so that they do not hold up the queue for others.
    #[default]
    Queue,
    /// They are accepted and closed.
    Close,
    /// They are accepted, sent what this callback returns, and closed. The callback runs on the
    /// thread that accepts and must not block; what the socket doesn't take at once is not sent.
    Tell(Arc<OnRefuse>),
}

/// Returns what to send to a connection that is refused.
pub type OnRefuse = dyn Fn(&Refusal<'_>) -> Vec<u8> + Send + Sync;

/// A connection that is refused, and the reason.
#[derive(Debug)]
#[non_exhaustive]
pub struct Refusal<'a> {
    /// The peer's address.
    pub peer: &'a Address,
    /// The listener that accepted it.
    pub listener: &'a ListenerInfo,
    /// The limit that it met.
    pub limit: AcceptLimit,
}

/// What becomes of a connection that has just been accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Verdict {
    /// It is served, within the limits.
    Admit,
    /// It is closed in order (FIN), without a byte.
    Close,
    /// It is closed by a reset: its client should not take this for an answer.
    Reset,
}

/// A connection that has just been accepted, and on which nothing was spent yet.
#[derive(Debug)]
#[non_exhaustive]
pub struct Incoming<'a> {
    /// The client's address: the peer's, or the one that a trusted proxy named.
    pub peer: &'a Address,
    /// The listener that accepted it.
    pub listener: &'a ListenerInfo,
}

/// Decides what becomes of a connection that has just been accepted.
pub type OnAccept = dyn Fn(&Incoming<'_>) -> Verdict + Send + Sync;

/// The user's [`OnAccept`], which is asked, if there is one.
#[derive(Clone, Default)]
pub(crate) struct Asked(pub(crate) Option<Arc<OnAccept>>);

impl Asked {
    /// Asks it. A panic closes the connection.
    pub(super) fn judge(&self, peer: &Address, listener: &ListenerInfo) -> Verdict {
        let Some(on_accept) = &self.0 else { return Verdict::Admit };
        guard("on_accept", || on_accept(&Incoming { peer, listener })).unwrap_or(Verdict::Close)
    }
}

impl fmt::Debug for Asked {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(if self.0.is_some() { "Some" } else { "None" })
    }
}

/// The limits of an event loop.
#[derive(Debug, Clone)]
pub(crate) struct AdmissionOptions {
    pub(crate) on_accept: Asked,
    pub(crate) connections: Option<usize>,
    pub(crate) per_source: Option<usize>,
    /// How many bits of an address make a source, of IPv4 and of IPv6.
    pub(crate) prefixes: (u8, u8),
    /// Connections per second, and how many at once.
    pub(crate) rate: Option<(u32, u32)>,
    pub(crate) at_limit: AtLimit,
}

impl AtLimit {
    /// [`AtLimit::Tell`] with a closure.
    pub fn tell(on_refuse: impl Fn(&Refusal<'_>) -> Vec<u8> + Send + Sync + 'static) -> Self {
        Self::Tell(Arc::new(on_refuse))
    }
}

impl fmt::Debug for AtLimit {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Queue => "Queue",
            Self::Close => "Close",
            Self::Tell(_) => "Tell",
        })
    }
}

impl Default for AdmissionOptions {
    fn default() -> Self {
        let (prefixes, at_limit, on_accept) = ((32, 64), AtLimit::default(), Asked::default());
        Self { on_accept, connections: None, per_source: None, prefixes, rate: None, at_limit }
    }
}

impl AdmissionOptions {
    pub(crate) fn validate(&self) -> Result<()> {
        let zero = |name| Error::config(format!("{name} is 0, so no client could connect"));
        if self.connections == Some(0) {
            return Err(zero("max_connections"));
        }
        if self.per_source == Some(0) {
            return Err(zero("max_connections_per_source"));
        }
        let (v4, v6) = self.prefixes;
        if !(1..=32).contains(&v4) || !(1..=128).contains(&v6) {
            return Err(Error::config(format!(
                "source_prefixes are {v4} and {v6} bits, but must be 1 to 32 of IPv4 and 1 to 128 \
                 of IPv6"
            )));
        }
        match self.rate {
            Some((0, _) | (_, 0)) => Err(zero("accept_rate")),
            _ => Ok(()),
        }
    }

    /// The source of `address`, where sources are counted: the first address of its network.
    pub(super) fn source(&self, address: Option<IpAddr>) -> Option<IpAddr> {
        self.per_source?;
        let (v4, v6) = self.prefixes;
        Some(match address? {
            IpAddr::V4(it) => {
                let mask = u32::MAX.unbounded_shl(32_u32.saturating_sub(v4.into()));
                Ipv4Addr::from_bits(it.to_bits() & mask).into()
            }
            IpAddr::V6(it) => {
                let mask = u128::MAX.unbounded_shl(128_u32.saturating_sub(v6.into()));
                Ipv6Addr::from_bits(it.to_bits() & mask).into()
            }
        })
    }
}
