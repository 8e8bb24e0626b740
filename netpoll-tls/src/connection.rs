//! How a connection tells what its handshake agreed on.

use std::sync::Arc;

use netpoll_core::{Connection, Filter, Result};

use crate::info::TlsInfo;
use crate::record::Session;
use crate::server::TlsConfig;

/// What TLS adds to a connection.
pub trait TlsConnection {
    /// What the handshake agreed on; `None` on a connection without TLS, and in `on_prepare`, which
    /// runs before the handshake.
    ///
    /// Waits for the lock of the connection's records, so for the computing of one at most; never
    /// for the peer.
    fn tls(&self) -> Option<TlsInfo>;

    /// In `on_prepare`: speaks TLS as `config` says, in place of what the listener has, with its
    /// limits; for another certificate by the address of the client or of this end, say. A clone of
    /// the configuration is cheap.
    ///
    /// # Errors
    /// [`Error::Config`](netpoll_core::Error::Config) on a connection of a listener without TLS, on
    /// a dialled one, and after `on_prepare`.
    fn choose_tls(&self, config: TlsConfig) -> Result<()>;
}

impl TlsConnection for Connection {
    fn tls(&self) -> Option<TlsInfo> {
        TlsInfo::of_filter(&*self.filter()?)
    }

    fn choose_tls(&self, config: TlsConfig) -> Result<()> {
        self.choose_filter(Arc::new(config))
    }
}

impl TlsInfo {
    /// What the handshake of a filter agreed on; `None` before its end, and for a filter of another
    /// kind.
    pub fn of_filter(filter: &dyn Filter) -> Option<Self> {
        filter.as_any().downcast_ref::<Session>()?.info()
    }
}
