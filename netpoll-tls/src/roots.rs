//! The authorities that sign the certificates of the other side.

use std::sync::Arc;

use netpoll_core::{Error, Result};
use rustls::RootCertStore;

use crate::pem::Pem;

/// Which authorities a client trusts.
#[derive(Debug, Clone)]
pub(crate) enum Roots {
    /// Those of Mozilla, as they stood when this program was built.
    #[cfg(feature = "webpki-roots")]
    Mozilla,
    /// Those of this machine.
    #[cfg(feature = "native-roots")]
    Machine,
    /// The certificates in this text.
    Own(Pem),
}

impl Roots {
    /// What a client trusts if nothing is said.
    pub(crate) fn usual() -> Vec<Self> {
        vec![
            #[cfg(feature = "native-roots")]
            Self::Machine,
            #[cfg(all(feature = "webpki-roots", not(feature = "native-roots")))]
            Self::Mozilla,
        ]
    }

    pub(crate) fn load(all: &[Self]) -> Result<Arc<RootCertStore>> {
        let mut store = RootCertStore::empty();
        for roots in all {
            roots.add_to(&mut store)?;
        }
        if store.is_empty() {
            return Err(Error::config(
                "no authority is trusted, so no certificate could be verified; give roots(), or \
                 enable the feature webpki-roots or native-roots",
            ));
        }
        Ok(Arc::new(store))
    }

    /// The text of a program's own roots.
    pub(crate) fn text(&self) -> Option<&Pem> {
        match self {
            Self::Own(text) => Some(text),
            #[cfg(any(feature = "webpki-roots", feature = "native-roots"))]
            _ => None,
        }
    }

    fn add_to(&self, store: &mut RootCertStore) -> Result<()> {
        match self {
            #[cfg(feature = "webpki-roots")]
            Self::Mozilla => store.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
            #[cfg(feature = "native-roots")]
            Self::Machine => add_machine(store)?,
            Self::Own(pem) => {
                for certificate in pem.certificates()? {
                    store.add(certificate).map_err(|error| {
                        Error::config(format!("a root in {pem} can't be used: {error}"))
                    })?;
                }
            }
        }
        Ok(())
    }
}

/// Adds what can be used: a machine's store may hold odd entries, which stop no other program.
#[cfg(feature = "native-roots")]
fn add_machine(store: &mut RootCertStore) -> Result<()> {
    let found = rustls_native_certs::load_native_certs();
    let (added, ignored) = store.add_parsable_certificates(found.certs);
    if added == 0 {
        let causes: Vec<String> = found.errors.iter().map(ToString::to_string).collect();
        return Err(Error::config(format!(
            "this machine's store has no certificate that can be used: {}; install its package \
             ca-certificates, set SSL_CERT_FILE, or give roots()",
            causes.join("; ")
        )));
    }
    log::debug!("{added} roots of this machine are trusted, {ignored} can't be used");
    Ok(())
}
