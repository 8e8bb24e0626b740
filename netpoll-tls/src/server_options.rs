//! What a server's TLS is built from, as it was given; read once, and again at each reload.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use netpoll_core::{Error, Result};
use rustls::crypto::CryptoProvider;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{KeyLogFile, ServerConfig};

use crate::alpn;
use crate::certificates::{Certificates, Identity};
use crate::pem::Pem;
use crate::provider::Provider;
use crate::roots::Roots;

/// How long a handshake may take.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// How many may be under way. One holds some 20 KiB.
const MAX_HANDSHAKES: usize = 10_000;

#[derive(Debug, Clone)]
pub(crate) struct ServerOptions {
    pub(crate) provider: Provider,
    pub(crate) identities: Vec<Identity>,
    pub(crate) clients: Clients,
    pub(crate) alpn: Vec<Vec<u8>>,
    pub(crate) resumption: bool,
    pub(crate) key_log: bool,
    pub(crate) handshake_timeout: Option<Duration>,
    pub(crate) max_handshakes: usize,
    pub(crate) also_plain: bool,
}

/// What clients must present.
#[derive(Clone)]
pub(crate) enum Clients {
    Nothing,
    Certificates { roots: Vec<Roots>, required: bool },
    Verified(Arc<dyn ClientCertVerifier>),
}

impl Default for ServerOptions {
    fn default() -> Self {
        Self {
            provider: Provider::default(),
            identities: Vec::new(),
            clients: Clients::Nothing,
            alpn: Vec::new(),
            resumption: true,
            key_log: false,
            handshake_timeout: Some(HANDSHAKE_TIMEOUT),
            max_handshakes: MAX_HANDSHAKES,
            also_plain: false,
        }
    }
}

impl ServerOptions {
    /// The configuration that this says, from the files as they are now.
    pub(crate) fn rustls(&self) -> Result<ServerConfig> {
        alpn::check(&self.alpn)?;
        if self.handshake_timeout == Some(Duration::ZERO) {
            return Err(Error::config(
                "handshake_timeout: 0 ends each handshake at once; None is without a limit",
            ));
        }
        if self.max_handshakes == 0 {
            return Err(Error::config("max_handshakes: with 0 no client is served; 1 or more"));
        }
        let crypto = self.provider.crypto();
        let certificates = Certificates::load(&self.identities, &crypto)?;
        let builder = ServerConfig::builder_with_provider(crypto.clone())
            .with_safe_default_protocol_versions()
            .map_err(Error::other)?;
        let builder = match self.clients.verifier(crypto)? {
            None => builder.with_no_client_auth(),
            Some(verifier) => builder.with_client_cert_verifier(verifier),
        };
        let mut config = builder.with_cert_resolver(Arc::new(certificates));
        config.alpn_protocols.clone_from(&self.alpn);
        // Clients keep what resumes their session, so the server keeps nothing for them.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        if self.resumption {
            config.ticketer = self.provider.ticketer()?;
        } else {
            config.send_tls13_tickets = 0;
        }
        if self.key_log {
            config.key_log = Arc::new(KeyLogFile::new());
        }
        Ok(config)
    }
}

impl ServerOptions {
    /// The files that all of it stands in.
    pub(crate) fn files(&self) -> Vec<PathBuf> {
        let identities = self.identities.iter().flat_map(|it| [&it.chain, &it.key]);
        let roots = match &self.clients {
            Clients::Certificates { roots, .. } => roots.as_slice(),
            Clients::Nothing | Clients::Verified(_) => &[],
        };
        let all = identities.chain(roots.iter().filter_map(Roots::text));
        all.filter_map(Pem::file).map(PathBuf::from).collect()
    }
}

impl Clients {
    fn verifier(&self, crypto: Arc<CryptoProvider>) -> Result<Option<Arc<dyn ClientCertVerifier>>> {
        let (roots, required) = match self {
            Self::Nothing => return Ok(None),
            Self::Verified(verifier) => return Ok(Some(verifier.clone())),
            Self::Certificates { roots, required } => (Roots::load(roots)?, *required),
        };
        let verifier = WebPkiClientVerifier::builder_with_provider(roots, crypto);
        let verifier = if required { verifier } else { verifier.allow_unauthenticated() };
        verifier.build().map(Some).map_err(Error::other)
    }
}

impl fmt::Debug for Clients {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing => out.write_str("no certificates"),
            Self::Certificates { roots, required: true } => write!(out, "required of {roots:?}"),
            Self::Certificates { roots, .. } => write!(out, "optional of {roots:?}"),
            Self::Verified(_) => out.write_str("a verifier"),
        }
    }
}
