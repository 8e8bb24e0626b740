//! How a connection tells what its handshake agreed on.

use netpoll_core::{Connection, Filter};

use crate::info::TlsInfo;
use crate::record::Session;

/// What TLS adds to a connection.
pub trait TlsConnection {
    /// What the handshake agreed on; `None` on a connection without TLS, and in `on_prepare`, which
    /// runs before the handshake.
    ///
    /// Waits for the lock of the connection's records, so for the computing of one at most; never
    /// for the peer.
    fn tls(&self) -> Option<TlsInfo>;
}

impl TlsConnection for Connection {
    fn tls(&self) -> Option<TlsInfo> {
        TlsInfo::of_filter(&*self.filter()?)
    }
}

impl TlsInfo {
    /// What the handshake of a filter agreed on; `None` before its end, and for a filter of another
    /// kind.
    pub fn of_filter(filter: &dyn Filter) -> Option<Self> {
        filter.as_any().downcast_ref::<Session>()?.info()
    }
}
