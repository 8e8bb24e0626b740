//! Certificates for tests, made when they are needed.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use netpoll_tls::{TlsClient, TlsClientBuilder, TlsConfig, TlsConfigBuilder};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    date_time_ymd,
};

/// A certificate and its key, in PEM.
#[derive(Debug, Clone)]
pub(crate) struct Identity {
    pub(crate) chain: String,
    pub(crate) key: String,
}

/// An authority that signs certificates.
pub(crate) struct Authority {
    pub(crate) root: String,
    issuer: Issuer<'static, KeyPair>,
}

/// How many authorities were made: each has a name of its own.
fn made() -> usize {
    static MADE: AtomicUsize = AtomicUsize::new(0);
    MADE.fetch_add(1, Ordering::Relaxed)
}

/// The authority of all tests, and a certificate of it for `localhost` and 127.0.0.1.
pub(crate) static OURS: LazyLock<Authority> = LazyLock::new(Authority::new);
pub(crate) static LOCALHOST: LazyLock<Identity> =
    LazyLock::new(|| OURS.sign(&["localhost", "127.0.0.1"]));

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, format!("authority {}", made()));
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let root = params.self_signed(&key).unwrap().pem();
        Self { root, issuer: Issuer::new(params, key) }
    }

    /// A certificate for these names and addresses, for servers and for clients.
    pub(crate) fn sign(&self, names: &[&str]) -> Identity {
        self.sign_with(names, |_| {})
    }

    /// One that expired long ago.
    pub(crate) fn sign_expired(&self, names: &[&str]) -> Identity {
        self.sign_with(names, |params| {
            params.not_before = date_time_ymd(2000, 1, 1);
            params.not_after = date_time_ymd(2001, 1, 1);
        })
    }

    fn sign_with(&self, names: &[&str], change: impl FnOnce(&mut CertificateParams)) -> Identity {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let chain = params.signed_by(&key, &self.issuer).unwrap().pem();
        Identity { chain, key: key.serialize_pem() }
    }
}

/// A server with the certificate for `localhost`.
pub(crate) fn server() -> TlsConfigBuilder {
    server_as(&LOCALHOST)
}

pub(crate) fn server_as(identity: &Identity) -> TlsConfigBuilder {
    TlsConfig::builder().certificate(identity.chain.as_bytes(), identity.key.as_bytes())
}

/// A client that trusts the authority of the tests.
pub(crate) fn client() -> TlsClientBuilder {
    TlsClient::builder().roots(OURS.root.as_bytes())
}
