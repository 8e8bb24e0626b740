//! What a listener expects of proxies.

use std::time::Duration;

use netpoll_core::{Address, Error, Result};

use super::trusted::TrustedProxies;

/// The longest line of version 1: a smaller limit would refuse headers that are in order.
const LIMIT_LEAST: usize = 107;

/// What a listener expects of proxies; see
/// [`Listener::proxy_protocol`](crate::Listener::proxy_protocol).
///
/// ```
/// use netpoll_server::{Listener, ProxyProtocol, TrustedProxies};
///
/// let trusted = TrustedProxies::new(["10.0.0.0/8", "2001:db8::/32"])?;
/// let proxy = ProxyProtocol { trusted: Some(trusted), ..ProxyProtocol::default() };
/// let listener = Listener::bind("tcp", "127.0.0.1:0")?.proxy_protocol(proxy);
/// # Ok::<(), netpoll_core::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProxyProtocol {
    /// How long the whole header may take from the accept on. Default 3 s: a proxy sends it with
    /// its first segment, and TCP sends that again after a second.
    pub deadline: Duration,
    /// How many bytes the header may have; a connection keeps its extensions until it ends. Default
    /// 4 096: version 2's longest address and several extensions.
    pub limit: usize,
    /// The peers that are proxies, and what becomes of others. Default `None`: every peer is one,
    /// for listeners that only proxies can reach.
    pub trusted: Option<TrustedProxies>,
}

/// What a peer is to a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Proxy,
    Client,
    Stranger,
}

impl ProxyProtocol {
    pub(crate) fn role(&self, peer: &Address) -> Role {
        match &self.trusted {
            Some(trusted) if !trusted.contains(peer) => {
                if trusted.are_others_clients() {
                    Role::Client
                } else {
                    Role::Stranger
                }
            }
            _ => Role::Proxy,
        }
    }

    /// Checks the options of listener `index`.
    pub(crate) fn validate(&self, index: usize) -> Result<()> {
        if self.deadline.is_zero() || self.limit < LIMIT_LEAST {
            return Err(Error::config(format!(
                "proxy_protocol of listener {index} needs a deadline, and a limit of {LIMIT_LEAST} \
                 or more"
            )));
        }
        Ok(())
    }
}

impl Default for ProxyProtocol {
    fn default() -> Self {
        Self { deadline: Duration::from_secs(3), limit: 4096, trusted: None }
    }
}
