//! How a connection tells what its handshake agreed on.

use netpoll_core::Filter;

use crate::info::TlsInfo;
use crate::record::Session;

impl TlsInfo {
    /// What the handshake of a filter agreed on; `None` before its end, and for a filter of another
    /// kind.
    pub fn of_filter(filter: &dyn Filter) -> Option<Self> {
        filter.as_any().downcast_ref::<Session>()?.info()
    }
}
