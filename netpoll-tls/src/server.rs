//! TLS on accepted connections: one configuration for a listener, which can be replaced while it
//! serves.

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use netpoll_core::{Address, Error, Filter, FilterServer, Result};
use rustls::ServerConfig;

use crate::record::Session;
use crate::server_name::Noting;
use crate::server_options::ServerOptions;

/// The first byte of a connection that speaks TLS: the type of a handshake record.
const HANDSHAKE_RECORD: u8 = 0x16;

/// How a server speaks TLS: certificates, client certificates, protocols.
///
/// A clone is the same configuration: what [`reload`](Self::reload) and [`replace`](Self::replace)
/// change holds for all its listeners, from their next handshake on. Connections that are open, or
/// in their handshake, go on as they are.
///
/// The versions are TLS 1.2 and 1.3, with the cipher suites that rustls regards as safe. Sessions
/// resume, by tickets that clients keep. Data before the end of a handshake (0-RTT) is never
/// accepted.
///
/// ```no_run
/// use netpoll_tls::TlsConfig;
///
/// let config = TlsConfig::from_pem("chain.pem", "key.pem")?;
/// # Ok::<(), netpoll_core::Error>(())
/// ```
#[derive(Clone)]
pub struct TlsConfig {
    shared: Arc<Shared>,
}

struct Shared {
    current: RwLock<Arc<ServerConfig>>,
    /// How it was built; `None` if rustls's configuration was given.
    options: Option<ServerOptions>,
    handshake_timeout: Option<Duration>,
    max_handshakes: usize,
    also_plain: bool,
}

impl TlsConfig {
    /// A configuration of rustls, with the provider and all options that it has.
    ///
    /// # Errors
    /// [`Error::Config`] if it accepts early data (0-RTT), which an attacker can replay.
    pub fn from_rustls(config: Arc<ServerConfig>) -> Result<Self> {
        if config.max_early_data_size > 0 {
            return Err(Error::config(
                "max_early_data_size must be 0: early data (0-RTT) is not accepted, since an \
                 attacker can replay it",
            ));
        }
        Ok(Self::of(Arc::unwrap_or_clone(config), &ServerOptions::default(), None))
    }

    /// Reads the files again that this was built from, for handshakes that begin from now on. It
    /// waits for the file system, and no handshake waits for it.
    ///
    /// Sessions of before don't resume: a client must not come back by a ticket when its
    /// certificate is no longer accepted. On an error all stays as it was.
    ///
    /// # Errors
    /// As [`from_pem`](Self::from_pem); and [`Error::Config`] if it was made by
    /// [`from_rustls`](Self::from_rustls), where there is no file to read.
    pub fn reload(&self) -> Result<()> {
        let Some(options) = &self.shared.options else {
            return Err(Error::config(
                "a configuration that was given as rustls's own has no file to read again; use \
                 replace()",
            ));
        };
        self.set(noting(options.rustls()?));
        Ok(())
    }

    /// The files that [`reload`](Self::reload) reads.
    pub(crate) fn files(&self) -> Vec<PathBuf> {
        self.shared.options.as_ref().map(ServerOptions::files).unwrap_or_default()
    }

    /// Goes on with the certificates and all options of `other` as they are now, for handshakes
    /// that begin from now on; but not with its limits on handshakes, nor with its choice on
    /// connections that are plain.
    pub fn replace(&self, other: &Self) {
        let other = other.current();
        self.set(other);
    }

    /// What `options` say; `config` was made from them.
    pub(crate) fn built(config: ServerConfig, options: ServerOptions) -> Self {
        Self::of(config, &options.clone(), Some(options))
    }

    fn of(config: ServerConfig, limits: &ServerOptions, options: Option<ServerOptions>) -> Self {
        let &ServerOptions { handshake_timeout, max_handshakes, also_plain, .. } = limits;
        let current = RwLock::new(noting(config));
        let shared = Shared { current, options, handshake_timeout, max_handshakes, also_plain };
        Self { shared: Arc::new(shared) }
    }

    fn current(&self) -> Arc<ServerConfig> {
        let current = self.shared.current.read();
        current.unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, config: Arc<ServerConfig>) {
        let current = self.shared.current.write();
        *current.unwrap_or_else(PoisonError::into_inner) = config;
    }
}

impl FilterServer for TlsConfig {
    fn accept(&self, _: &Address, _: Option<&Address>) -> Result<Arc<dyn Filter>> {
        Ok(Arc::new(Session::server(self.current())?))
    }

    fn max_handshakes(&self) -> usize {
        self.shared.max_handshakes
    }

    fn handshake_timeout(&self) -> Option<Duration> {
        self.shared.handshake_timeout
    }

    fn first_byte(&self) -> Option<u8> {
        self.shared.also_plain.then_some(HANDSHAKE_RECORD)
    }
}

/// Without certificates and keys.
impl fmt::Debug for TlsConfig {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("TlsConfig")
            .field("options", &self.shared.options)
            .field("handshake_timeout", &self.shared.handshake_timeout)
            .field("max_handshakes", &self.shared.max_handshakes)
            .field("also_plain", &self.shared.also_plain)
            .finish_non_exhaustive()
    }
}

/// Lets the connections of `config` know the name that the client asks for.
fn noting(mut config: ServerConfig) -> Arc<ServerConfig> {
    config.cert_resolver = Arc::new(Noting(config.cert_resolver));
    Arc::new(config)
}
