//! Where the cryptography comes from: chosen by each configuration, never by the process.

use std::sync::Arc;

use netpoll_core::{Error, Result};
use rustls::crypto::CryptoProvider;
use rustls::server::ProducesTickets;

#[cfg(not(any(feature = "ring", feature = "aws-lc-rs")))]
compile_error!("netpoll-tls needs cryptography: enable its feature `ring` or `aws-lc-rs`");

/// Where the cryptography of a configuration comes from.
///
/// A provider that a program installs for its process with rustls has no say here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Provider {
    /// The crate `ring`. The default where it is enabled: small, built in seconds.
    #[cfg(feature = "ring")]
    Ring,
    /// The crate `aws-lc-rs`: about a third quicker with RSA keys, and more key exchanges; built
    /// with a C compiler.
    #[cfg(feature = "aws-lc-rs")]
    AwsLcRs,
}

impl Default for Provider {
    #[cfg(feature = "ring")]
    fn default() -> Self {
        Self::Ring
    }

    #[cfg(not(feature = "ring"))]
    fn default() -> Self {
        Self::AwsLcRs
    }
}

impl Provider {
    pub(crate) fn crypto(self) -> Arc<CryptoProvider> {
        Arc::new(match self {
            #[cfg(feature = "ring")]
            Self::Ring => rustls::crypto::ring::default_provider(),
            #[cfg(feature = "aws-lc-rs")]
            Self::AwsLcRs => rustls::crypto::aws_lc_rs::default_provider(),
        })
    }

    /// What seals the sessions that clients keep: keys of this process, renewed every 6 hours.
    pub(crate) fn ticketer(self) -> Result<Arc<dyn ProducesTickets>> {
        let ticketer = match self {
            #[cfg(feature = "ring")]
            Self::Ring => rustls::crypto::ring::Ticketer::new(),
            #[cfg(feature = "aws-lc-rs")]
            Self::AwsLcRs => rustls::crypto::aws_lc_rs::Ticketer::new(),
        };
        ticketer.map_err(Error::other)
    }
}
