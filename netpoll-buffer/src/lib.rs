//! Linked, counted, zero-copy buffers: chains of pooled blocks.

mod block;
mod chain;
mod link_buffer;
mod pool;
mod shortfall;
mod stats;
mod sync;

pub use chain::Chunks;
pub use link_buffer::{Filled, LinkBuffer};
pub use pool::trim;
pub use shortfall::Shortfall;
pub use stats::{Stats, stats};
