//! The bounds of flows, checked once.

use std::time::Duration;

use netpoll_core::{Error, Result};

/// The bounds of the flows of a server, of all its sockets together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FlowOptions {
    /// How many flows there are at the most, on all loops together. Default 65 536. A flow takes
    /// some 180 bytes beside its session, and a sender that forges addresses can have all of them.
    pub max_flows: usize,
    /// A flow for which nothing has come for so long ends. Default 60 s.
    pub idle: Duration,
    /// What happens to a new flow where there are `max_flows`.
    pub at_limit: AtFlowLimit,
}

/// What happens to a new flow where there are as many as there may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum AtFlowLimit {
    /// Its datagrams are dropped, and counted.
    #[default]
    RefuseNew,
    /// Of the flows of the same loop, the one for which nothing has come for longest ends, one that
    /// was not [confirmed](super::FlowBatch::confirm) before one that was. Where the loop has less
    /// than its share of `max_flows`, those with more make room, too, each for the next new flow;
    /// until then a loop without any refuses it.
    DropOldest,
}

impl Default for FlowOptions {
    fn default() -> Self {
        let idle = Duration::from_secs(60);
        Self { max_flows: 1 << 16, idle, at_limit: AtFlowLimit::default() }
    }
}

impl FlowOptions {
    /// Checks them.
    ///
    /// # Errors
    /// [`Error::Config`] names the option that can't be used, and why.
    pub fn validate(&self) -> Result<()> {
        const MOST: usize = 1 << 30;
        if self.max_flows == 0 || self.max_flows > MOST {
            let text = format!("max_flows is {}, but must be 1 to {MOST}", self.max_flows);
            return Err(Error::config(text));
        }
        if self.idle.is_zero() {
            return Err(Error::config("idle is 0, so each flow would end at once"));
        }
        Ok(())
    }
}
