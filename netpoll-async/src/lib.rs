//! Futures on the loops of netpoll.
//!
//! Users depend on the crate `netpoll` with its feature `async`, which re-exports this one as
//! `netpoll::futures`. Start at [`serve_async`] for a server, and at [`AsyncConnection`] for what a
//! future works with.

#![forbid(unsafe_code)]

mod body;
mod connection;
mod failure;
mod halves;
mod serve;
mod session;
mod shared;
mod signals;
mod waiter;

pub use connection::AsyncConnection;
pub use halves::{AsyncReadHalf, AsyncWriteHalf};
pub use serve::serve_async;
pub use session::AsyncSession;
pub use signals::{Closed, ShuttingDown};
