//! How a listener is served, beside what its socket is: set by its user, passed on by a hand-over.

use std::sync::Arc;

use netpoll_core::{Error, FilterServer, Result};

use crate::proxy::ProxyProtocol;

#[derive(Debug, Clone, Default)]
pub(crate) struct Service {
    pub(crate) name: Option<String>,
    pub(crate) max_connections: Option<usize>,
    pub(crate) proxy: Option<ProxyProtocol>,
    pub(crate) filter: Option<Arc<dyn FilterServer>>,
    /// The process that handed it over had a filter. What makes filters can't be handed over, and
    /// without one the listener would speak plainly with clients that expect TLS.
    pub(crate) needs_filter: bool,
    /// All loops accept, each for itself, and a loop that waits takes the next connection.
    pub(crate) idle_loop_accepts: bool,
}

impl Service {
    /// Checks the options of listener `index`.
    pub(crate) fn validate(&self, index: usize) -> Result<()> {
        if self.max_connections == Some(0) {
            return Err(Error::config(format!(
                "max_connections of listener {index} is 0, so no client could connect"
            )));
        }
        if self.needs_filter && self.filter.is_none() {
            return Err(Error::config(format!(
                "listener {index} was handed over by a process that had a filter for it, such as \
                 TLS; call filter for it before it is served"
            )));
        }
        self.proxy.as_ref().map_or(Ok(()), |it| it.validate(index))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// It would answer clients that expect TLS in plain.
    #[test]
    fn a_listener_that_had_a_filter_is_not_served_without() {
        assert!(Service::default().validate(0).is_ok());
        let handed = Service { needs_filter: true, ..Service::default() };
        let error = handed.validate(3).expect_err("the filter is missing");
        assert!(error.to_string().starts_with("listener 3 was handed over"), "{error}");
    }
}
