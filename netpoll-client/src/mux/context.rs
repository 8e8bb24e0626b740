//! What all connections of a multiplexer have in common.

use std::sync::Arc;
use std::time::Duration;

use netpoll_core::ConnectionGroup;

use super::stats::Counters;
use crate::backoff::Backoff;
use crate::cancel::Cancel;
use crate::dialer::Dialer;

/// What all connections of a multiplexer have in common.
pub(super) struct MuxContext<P> {
    pub(super) protocol: Arc<P>,
    pub(super) counters: Arc<Counters>,
    pub(super) dialer: Dialer,
    pub(super) group: Arc<ConnectionGroup>,
    pub(super) network: String,
    pub(super) address: String,
    pub(super) dial_timeout: Duration,
    pub(super) most_waiting: usize,
    pub(super) most_timeouts: Option<u32>,
    pub(super) reconnects: bool,
    pub(super) backoff: Backoff,
    pub(super) cancel: Cancel,
}
