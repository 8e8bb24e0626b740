//! A server's certificates: read, checked against their keys, found by the name that a client asks
//! for.

use std::collections::HashMap;
use std::sync::Arc;

use netpoll_core::{Error, Result};
use rustls::crypto::CryptoProvider;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{Error as Fault, InconsistentKeys};

use crate::pem::Pem;

/// A certificate chain and its key, as they were given.
#[derive(Debug, Clone)]
pub(crate) struct Identity {
    pub(crate) chain: Pem,
    pub(crate) key: Pem,
}

/// All certificates of a server, by the names that stand in them.
///
/// A name may have several, of several kinds of keys: the first is taken that has a key which the
/// client can verify. A client that asks for no name, or for an unknown one, gets the first of all.
#[derive(Debug)]
pub(crate) struct Certificates {
    /// At least one.
    all: Vec<Arc<CertifiedKey>>,
    /// Places in `all`, by a name in lower case. `*.example` is a wildcard.
    by_name: HashMap<Box<str>, Vec<usize>>,
}

impl Identity {
    /// Reads both, and checks that they belong together.
    pub(crate) fn load(&self, crypto: &CryptoProvider) -> Result<CertifiedKey> {
        let Self { chain, key } = self;
        let certificates = chain.certificates()?;
        let signing = crypto.key_provider.load_private_key(key.key()?).map_err(|error| {
            Error::config(format!(
                "the key in {key} can't be used; RSA of 2048 bits or more, P-256, P-384 and \
                 Ed25519 can: {error}"
            ))
        })?;
        let certified = CertifiedKey::new(certificates, signing);
        match certified.keys_match() {
            // Some keys don't tell their public half; the handshake shows then.
            Ok(()) | Err(Fault::InconsistentKeys(InconsistentKeys::Unknown)) => Ok(certified),
            Err(Fault::InconsistentKeys(_)) => Err(Error::config(format!(
                "the key in {key} does not match the first certificate in {chain}; is the chain in \
                 order, the server's own certificate first?"
            ))),
            Err(error) => Err(Error::config(format!(
                "the first certificate in {chain} can't be used: {error}"
            ))),
        }
    }
}

impl Certificates {
    pub(crate) fn load(identities: &[Identity], crypto: &CryptoProvider) -> Result<Self> {
        let mut certificates = Self { all: Vec::new(), by_name: HashMap::new() };
        for identity in identities {
            certificates.add(identity.load(crypto)?);
        }
        if certificates.all.is_empty() {
            return Err(Error::config(
                "a TLS server needs a certificate; give one with from_pem() or certificate()",
            ));
        }
        Ok(certificates)
    }

    fn add(&mut self, certified: CertifiedKey) {
        let place = self.all.len();
        if let Some(Ok(parsed)) = certified.cert.first().map(webpki::EndEntityCert::try_from) {
            for name in parsed.valid_dns_names() {
                let name = name.to_ascii_lowercase().into_boxed_str();
                self.by_name.entry(name).or_default().push(place);
            }
        }
        self.all.push(Arc::new(certified));
    }

    /// The certificates for a name: those that name it, else those with a wildcard in place of its
    /// first label.
    fn named(&self, name: &str) -> Option<&[usize]> {
        let name = name.to_ascii_lowercase(); // rustls gives it in lower case; it costs nothing
        let exact = self.by_name.get(name.as_str());
        let found = exact.or_else(|| {
            let (_, parent) = name.split_once('.')?;
            self.by_name.get(format!("*.{parent}").as_str())
        });
        found.map(Vec::as_slice)
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, client_hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let fits = |certified: &&Arc<CertifiedKey>| {
            certified.key.choose_scheme(client_hello.signature_schemes()).is_some()
        };
        let named = client_hello.server_name().and_then(|name| self.named(name));
        let named = named.unwrap_or_default().iter().map(|&place| &self.all[place]);
        let found = named.chain(&self.all).find(fits);
        // If none fits, rustls says so to the client, by the first one.
        found.or(self.all.first()).cloned()
    }
}
