//! TLS on dialled connections.

use std::sync::Arc;

use netpoll_core::{Address, Error, Filter, FilterClient, Result};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;

use crate::record::Session;

/// How a client speaks TLS: the authorities that it trusts, the certificate that it presents, the
/// protocols that it offers.
///
/// A clone is cheap and shares the sessions that servers let resume. The versions are TLS 1.2 and
/// 1.3, with the cipher suites that rustls regards as safe.
///
/// The server's certificate must be valid for the name that was dialled: the host of
/// `example.org:443`, or the IP address of `192.0.2.1:443`; or for the name that
/// [`server_name`](crate::TlsClientBuilder::server_name) gives.
///
/// ```
/// use netpoll_tls::TlsClient;
///
/// let client = TlsClient::new()?;
/// # Ok::<(), netpoll_core::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct TlsClient {
    config: Arc<ClientConfig>,
    server_name: Option<ServerName<'static>>,
}

impl TlsClient {
    /// A configuration of rustls, with the provider and all options that it has.
    ///
    /// # Errors
    /// [`Error::Config`] if it sends early data (0-RTT), which an attacker can replay.
    pub fn from_rustls(config: Arc<ClientConfig>) -> Result<Self> {
        if config.enable_early_data {
            return Err(Error::config(
                "enable_early_data must be false: early data (0-RTT) is not sent, since an \
                 attacker can replay it",
            ));
        }
        Ok(Self { config, server_name: None })
    }

    /// This client, with the name that the server's certificate must have, whatever was dialled: a
    /// host or an IP address. The clone shares the sessions.
    ///
    /// # Errors
    /// [`Error::Config`] if it can't be a name.
    pub fn with_server_name(&self, name: &str) -> Result<Self> {
        let server_name = Some(parse(name)?);
        Ok(Self { config: self.config.clone(), server_name })
    }

    pub(crate) fn of(config: ClientConfig, server_name: Option<ServerName<'static>>) -> Self {
        Self { config: Arc::new(config), server_name }
    }

    fn name_for(&self, address: &str, peer: &Address) -> Result<ServerName<'static>> {
        match &self.server_name {
            Some(name) => Ok(name.clone()),
            None if peer.is_unix() => Err(Error::config(format!(
                "TLS to the Unix socket {address} needs a name that the certificate must have; \
                 give it with server_name()"
            ))),
            None => parse(host(address)),
        }
    }
}

impl FilterClient for TlsClient {
    fn dial(&self, address: &str, peer: &Address) -> Result<Arc<dyn Filter>> {
        let name = self.name_for(address, peer)?;
        Ok(Arc::new(Session::client(self.config.clone(), name)?))
    }
}

/// The name that a certificate must have.
pub(crate) fn parse(name: &str) -> Result<ServerName<'static>> {
    ServerName::try_from(name.to_owned()).map_err(|_| {
        Error::config(format!(
            "{name:?} can't be the name of a TLS server: it is neither a host nor an IP address"
        ))
    })
}

/// The host of `host:port`, of `[::1%zone]:port`, of `host.:port`, without what surrounds it.
fn host(address: &str) -> &str {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    if let Some(literal) = host.strip_prefix('[') {
        let literal = literal.trim_end_matches(']');
        return literal.split_once('%').map_or(literal, |(address, _)| address);
    }
    host.strip_suffix('.').unwrap_or(host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_is_the_host_that_was_dialled() {
        let hosts = [
            ("example.org:443", "example.org"),
            ("example.org.:443", "example.org"),
            ("192.0.2.1:443", "192.0.2.1"),
            ("[2001:db8::1]:443", "2001:db8::1"),
            ("[fe80::1%eth0]:443", "fe80::1"),
        ];
        for (address, name) in hosts {
            assert_eq!(host(address), name);
            parse(host(address)).unwrap();
        }
    }

    #[test]
    fn what_is_no_name_is_refused() {
        for name in ["", "a b", "-", "é", ".", "a..b"] {
            let error = parse(name).unwrap_err();
            assert!(matches!(error, Error::Config(_)), "{error}");
        }
    }
}
