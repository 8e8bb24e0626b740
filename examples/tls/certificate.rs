//! Certificates for the examples of TLS: the ones that are given, or ones that are made now.

use std::error::Error;
use std::fs;

use netpoll::tls::Pem;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
};

/// A certificate chain and its key.
pub(crate) struct Certificate {
    pub(crate) chain: Pem,
    pub(crate) key: Pem,
}

/// An authority that lives as long as the program.
pub(crate) struct Authority {
    /// Its own certificate, which the other side must trust.
    pub(crate) root: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Certificate {
    /// The files that are named, or a certificate for `localhost` that an authority of this program
    /// signs. Its root is written to `root_file`, for clients: `curl --cacert`.
    pub(crate) fn of(
        files: Option<(String, String)>,
        root_file: &str,
    ) -> Result<Self, Box<dyn Error>> {
        if let Some((chain, key)) = files {
            return Ok(Self { chain: chain.into(), key: key.into() });
        }
        let authority = Authority::new("netpoll's examples")?;
        fs::write(root_file, &authority.root)?;
        println!("no certificate is given: clients must trust {root_file}");
        authority.sign("localhost")
    }
}

impl Authority {
    pub(crate) fn new(name: &str) -> Result<Self, Box<dyn Error>> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate()?;
        let root = params.self_signed(&key)?.pem();
        Ok(Self { root, issuer: Issuer::new(params, key) })
    }

    /// A certificate for a server or a client of this name; for `localhost` also by its address.
    pub(crate) fn sign(&self, name: &str) -> Result<Certificate, Box<dyn Error>> {
        let names = match name {
            "localhost" => vec!["localhost".into(), "127.0.0.1".into(), "::1".into()],
            name => vec![name.into()],
        };
        let mut params = CertificateParams::new(names)?;
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate()?;
        let chain = params.signed_by(&key, &self.issuer)?.pem();
        Ok(Certificate {
            chain: Pem::Bytes(chain.into_bytes()),
            key: Pem::Bytes(key.serialize_pem().into_bytes()),
        })
    }
}
