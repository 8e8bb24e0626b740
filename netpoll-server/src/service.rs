//! How a listener is served, beside what its socket is: set by its user, passed on by a hand-over.

use netpoll_core::{Error, Result};

use crate::proxy::ProxyProtocol;

#[derive(Debug, Clone, Default)]
pub(crate) struct Service {
    pub(crate) name: Option<String>,
    pub(crate) max_connections: Option<usize>,
    pub(crate) proxy: Option<ProxyProtocol>,
}

impl Service {
    /// Checks the options of listener `index`.
    pub(crate) fn validate(&self, index: usize) -> Result<()> {
        if self.max_connections == Some(0) {
            return Err(Error::config(format!(
                "max_connections of listener {index} is 0, so no client could connect"
            )));
        }
        self.proxy.as_ref().map_or(Ok(()), |it| it.validate(index))
    }
}
