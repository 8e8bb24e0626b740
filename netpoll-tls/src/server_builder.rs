//! The options of a server's TLS, as they are set.

use std::sync::Arc;
use std::time::Duration;

use netpoll_core::Result;
use rustls::server::danger::ClientCertVerifier;

use crate::certificates::Identity;
use crate::pem::Pem;
use crate::provider::Provider;
use crate::roots::Roots;
use crate::server::TlsConfig;
use crate::server_options::{Clients, ServerOptions};

/// The options of a [`TlsConfig`].
///
/// ```no_run
/// use netpoll_tls::TlsConfig;
///
/// let config = TlsConfig::builder()
///     .certificate("example.org.pem", "example.org.key") // also for clients that ask for no name
///     .certificate("example.com.pem", "example.com.key") // for the names that stand in it
///     .alpn(["http/1.1"])
///     .optional_client_certificates("clients.pem")
///     .build()?;
/// # Ok::<(), netpoll_core::Error>(())
/// ```
#[derive(Debug, Clone, Default)]
#[must_use = "call build()"]
pub struct TlsConfigBuilder {
    options: ServerOptions,
}

impl TlsConfig {
    /// One certificate chain in PEM, the server's own certificate first, and its key: each a file,
    /// by its path, or bytes. As [`builder`](Self::builder) with that certificate.
    ///
    /// # Errors
    /// [`Error::Config`], and the system's error for a file that can't be read. The sentence names
    /// the file and says what is wrong: it can't be read, it has no certificate or no key, the key
    /// is of a kind that can't be used, or the key does not match the certificate.
    ///
    /// [`Error::Config`]: netpoll_core::Error::Config
    pub fn from_pem(chain: impl Into<Pem>, key: impl Into<Pem>) -> Result<Self> {
        Self::builder().certificate(chain, key).build()
    }

    /// All options, at their defaults.
    pub fn builder() -> TlsConfigBuilder {
        TlsConfigBuilder::default()
    }
}

impl TlsConfigBuilder {
    /// Adds a certificate chain in PEM, the server's own certificate first, and its key.
    ///
    /// Of several, a client gets one that has the name that it asks for, and a key that it
    /// can verify; the first one where it asks for no name, or for a name that none has.
    pub fn certificate(mut self, chain: impl Into<Pem>, key: impl Into<Pem>) -> Self {
        self.options.identities.push(Identity { chain: chain.into(), key: key.into() });
        self
    }

    /// Requires of each client a certificate that one of these roots has signed, in PEM. A client
    /// without one is refused in the handshake.
    ///
    /// The callbacks see it as [`TlsInfo::peer_certificates`](crate::TlsInfo::peer_certificates);
    /// what its owner may do is for them to say. This, `optional_client_certificates` and
    /// `client_verifier` replace each other.
    pub fn client_certificates(mut self, roots: impl Into<Pem>) -> Self {
        self.options.clients = Clients::Certificates { roots: own(roots), required: true };
        self
    }

    /// As [`client_certificates`](Self::client_certificates), but a client may have none: then
    /// [`TlsInfo::peer_certificates`](crate::TlsInfo::peer_certificates) is empty. One that is not
    /// valid is refused.
    pub fn optional_client_certificates(mut self, roots: impl Into<Pem>) -> Self {
        self.options.clients = Clients::Certificates { roots: own(roots), required: false };
        self
    }

    /// Lets `verifier` decide on client certificates, for example with revocation lists
    /// (rustls's [`WebPkiClientVerifier`]). It runs in the handshake, where callbacks run.
    ///
    /// [`WebPkiClientVerifier`]: rustls::server::WebPkiClientVerifier
    pub fn client_verifier(mut self, verifier: Arc<dyn ClientCertVerifier>) -> Self {
        self.options.clients = Clients::Verified(verifier);
        self
    }

    /// The application protocols that this server speaks, the preferred one first, such as `h2` and
    /// `http/1.1`. A client that names protocols, and none of these, is refused; one that names
    /// none is not. Default: none, and what clients name is ignored.
    pub fn alpn<P: Into<Vec<u8>>>(mut self, protocols: impl IntoIterator<Item = P>) -> Self {
        self.options.alpn = protocols.into_iter().map(Into::into).collect();
        self
    }

    /// Whether a client may go on with the keys of an earlier connection, which spares both sides
    /// most of a handshake's computing. Default: yes, by tickets that the client keeps; their keys
    /// are of this process and change every 6 hours.
    pub fn resumption(mut self, resumption: bool) -> Self {
        self.options.resumption = resumption;
        self
    }

    /// Whether the keys of all connections are written to the file that the variable
    /// `SSLKEYLOGFILE` names, so that Wireshark can read them. Default: no, whatever the variable
    /// says.
    pub fn key_log(mut self, key_log: bool) -> Self {
        self.options.key_log = key_log;
        self
    }

    /// How long a handshake may take, from the accept on; a peer that needs longer is closed.
    /// `None`: as long as it likes. Default 10 s.
    pub fn handshake_timeout(mut self, timeout: impl Into<Option<Duration>>) -> Self {
        self.options.handshake_timeout = timeout.into();
        self
    }

    /// How many handshakes may be under way at a time in one event loop, with all its listeners;
    /// further connections are refused. Default 10 000.
    pub fn max_handshakes(mut self, handshakes: usize) -> Self {
        self.options.max_handshakes = handshakes;
        self
    }

    /// Whether connections that do not begin with a handshake of TLS are served without it.
    /// Default: no, they are closed. [`TlsConnection::tls`](crate::TlsConnection::tls) tells
    /// them apart.
    ///
    /// The client must speak first then, within the handshake timeout.
    pub fn also_plain(mut self, also_plain: bool) -> Self {
        self.options.also_plain = also_plain;
        self
    }

    /// Where the cryptography comes from. Default: [`Provider::default`].
    pub fn provider(mut self, provider: Provider) -> Self {
        self.options.provider = provider;
        self
    }

    /// Reads the files, and checks all that can be checked without a client.
    ///
    /// # Errors
    /// As [`TlsConfig::from_pem`]; and [`Error::Config`] where there is no certificate, a root is
    /// unusable, a limit is 0, or the name of a protocol is empty or longer than 255 bytes.
    ///
    /// [`Error::Config`]: netpoll_core::Error::Config
    pub fn build(self) -> Result<TlsConfig> {
        let config = self.options.rustls()?;
        Ok(TlsConfig::built(config, self.options))
    }
}

fn own(roots: impl Into<Pem>) -> Vec<Roots> {
    vec![Roots::Own(roots.into())]
}
