//! The options of a client's TLS.

use std::sync::Arc;

use netpoll_core::{Error, Result};
use rustls::client::Resumption;
use rustls::sign::SingleCertAndKey;
use rustls::{ClientConfig, KeyLogFile};

use crate::alpn;
use crate::certificates::Identity;
use crate::client::{TlsClient, parse};
use crate::pem::Pem;
use crate::provider::Provider;
use crate::roots::Roots;

/// Of how many servers a client keeps the sessions, and of how many it can: their table is made at
/// once.
const SESSIONS: usize = 256;
const MOST_SESSIONS: usize = 64 << 10;

/// The options of a [`TlsClient`].
///
/// ```no_run
/// use netpoll_tls::TlsClient;
///
/// let client = TlsClient::builder()
///     .roots("our-root.pem")
///     .certificate("client.pem", "client.key")
///     .alpn(["rpc/1"])
///     .build()?;
/// # Ok::<(), netpoll_core::Error>(())
/// ```
#[derive(Debug, Clone)]
#[must_use = "call build()"]
pub struct TlsClientBuilder {
    provider: Provider,
    roots: Vec<Roots>,
    identity: Option<Identity>,
    alpn: Vec<Vec<u8>>,
    server_name: Option<String>,
    sessions: usize,
    key_log: bool,
}

impl TlsClient {
    /// All options at their defaults.
    ///
    /// # Errors
    /// [`Error::Config`] if no authority is trusted, since neither the feature `webpki-roots` nor
    /// `native-roots` is enabled, or this machine's store can't be used.
    pub fn new() -> Result<Self> {
        Self::builder().build()
    }

    /// All options, at their defaults.
    pub fn builder() -> TlsClientBuilder {
        TlsClientBuilder::default()
    }
}

impl Default for TlsClientBuilder {
    fn default() -> Self {
        Self {
            provider: Provider::default(),
            roots: Vec::new(),
            identity: None,
            alpn: Vec::new(),
            server_name: None,
            sessions: SESSIONS,
            key_log: false,
        }
    }
}

impl TlsClientBuilder {
    /// Trusts these authorities, certificates in PEM. May be called several times, and together
    /// with `webpki_roots` and `native_roots`: all are trusted then.
    ///
    /// Default, if none of these is called: those of this machine if the feature `native-roots` is
    /// enabled, else those of Mozilla (feature `webpki-roots`).
    pub fn roots(mut self, roots: impl Into<Pem>) -> Self {
        self.roots.push(Roots::Own(roots.into()));
        self
    }

    /// Trusts the authorities that Mozilla trusts, as they stood when this program was built.
    #[cfg(feature = "webpki-roots")]
    pub fn webpki_roots(mut self) -> Self {
        self.roots.push(Roots::Mozilla);
        self
    }

    /// Trusts the authorities that this machine trusts: its certificate store, or what the
    /// variables `SSL_CERT_FILE` and `SSL_CERT_DIR` name.
    #[cfg(feature = "native-roots")]
    pub fn native_roots(mut self) -> Self {
        self.roots.push(Roots::Machine);
        self
    }

    /// Presents this certificate chain in PEM to servers that ask for one, the client's own
    /// certificate first, with its key.
    pub fn certificate(mut self, chain: impl Into<Pem>, key: impl Into<Pem>) -> Self {
        self.identity = Some(Identity { chain: chain.into(), key: key.into() });
        self
    }

    /// The application protocols that are offered, the preferred one first, such as `h2` and
    /// `http/1.1`. Default: none.
    pub fn alpn<P: Into<Vec<u8>>>(mut self, protocols: impl IntoIterator<Item = P>) -> Self {
        self.alpn = protocols.into_iter().map(Into::into).collect();
        self
    }

    /// The name that the server's certificate must have, whatever is dialled: a host or an IP
    /// address. Default: the host that is dialled. A Unix socket needs one.
    pub fn server_name(mut self, name: impl Into<String>) -> Self {
        self.server_name = Some(name.into());
        self
    }

    /// Of how many servers the sessions are kept, so that further connections to them resume. 0:
    /// none; at most 65 536. Default 256.
    pub fn sessions(mut self, servers: usize) -> Self {
        self.sessions = servers;
        self
    }

    /// Whether the keys of all connections are written to the file that the variable
    /// `SSLKEYLOGFILE` names, so that Wireshark can read them. Default: no, whatever the variable
    /// says.
    pub fn key_log(mut self, key_log: bool) -> Self {
        self.key_log = key_log;
        self
    }

    /// Where the cryptography comes from. Default: [`Provider::default`].
    pub fn provider(mut self, provider: Provider) -> Self {
        self.provider = provider;
        self
    }

    /// Reads the files, and checks all that can be checked without a server.
    ///
    /// # Errors
    /// [`Error::Config`], and the system's error for a file that can't be read. The sentence says
    /// what is wrong: no authority is trusted, a root can't be used, the certificate and its key
    /// are missing or don't match, the name can't be one, the name of a protocol is empty or longer
    /// than 255 bytes.
    pub fn build(self) -> Result<TlsClient> {
        alpn::check(&self.alpn)?;
        let server_name = self.server_name.as_deref().map(parse).transpose()?;
        let roots = if self.roots.is_empty() { Roots::usual() } else { self.roots };
        let crypto = self.provider.crypto();
        let builder = ClientConfig::builder_with_provider(crypto.clone())
            .with_safe_default_protocol_versions()
            .map_err(Error::other)?
            .with_root_certificates(Roots::load(&roots)?);
        let mut config = match &self.identity {
            None => builder.with_no_client_auth(),
            Some(identity) => {
                let resolver = SingleCertAndKey::from(identity.load(&crypto)?);
                builder.with_client_cert_resolver(Arc::new(resolver))
            }
        };
        config.alpn_protocols = self.alpn;
        config.resumption = match self.sessions {
            0 => Resumption::disabled(),
            sessions => Resumption::in_memory_sessions(sessions.min(MOST_SESSIONS)),
        };
        if self.key_log {
            config.key_log = Arc::new(KeyLogFile::new());
        }
        Ok(TlsClient::of(config, server_name))
    }
}
