//! Has bytes that a future has taken count for the minimum receive rate.

use std::fmt;
use std::sync::Arc;

use crate::shared::Shared;

/// See [`AsyncConnection::count_taken`](crate::AsyncConnection::count_taken).
#[must_use = "it has an effect as long as it lives"]
pub struct TakenCounts {
    shared: Arc<Shared>,
}

impl TakenCounts {
    pub(crate) fn new(shared: &Arc<Shared>) -> Self {
        shared.count_taken(true);
        Self { shared: shared.clone() }
    }
}

impl Drop for TakenCounts {
    fn drop(&mut self) {
        self.shared.count_taken(false);
    }
}

impl fmt::Debug for TakenCounts {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_tuple("TakenCounts").field(&self.shared).finish()
    }
}
