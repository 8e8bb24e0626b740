//! Linked, counted, zero-copy buffers: chains of pooled blocks.

mod block;
mod chain;
mod foreign;
mod link_buffer;
mod pool;
mod shortfall;
mod sink;
mod source;
mod stats;
mod sync;

pub use chain::Chunks;
pub use foreign::released;
pub use link_buffer::{Filled, LinkBuffer};
pub use pool::trim;
pub use shortfall::Shortfall;
pub use sink::{AsWrite, FromWrite, Sink};
pub use source::{AsRead, FromRead, Source};
pub use stats::{Stats, stats};
