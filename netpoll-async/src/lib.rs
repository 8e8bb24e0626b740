//! Futures on the loops of netpoll.
//!
//! Users depend on the crate `netpoll` with its feature `async`, which re-exports this one as
//! `netpoll::futures`. Start at [`serve_async`] for a server, and at [`AsyncConnection`] for what a
//! future works with.

#![forbid(unsafe_code)]

mod block_on;
mod body;
mod calls;
mod checkout;
mod closed;
mod connection;
mod dialer;
mod failure;
#[cfg(feature = "futures-io")]
mod futures_io;
mod halves;
mod interval;
mod scope;
mod serve;
mod session;
mod shared;
mod signal;
mod sleep;
mod spawner;
mod steps;
mod taken;
mod timeout;
#[cfg(feature = "tokio")]
mod tokio_context;
#[cfg(feature = "tokio")]
mod tokio_io;
mod waiter;
mod waits;

pub use block_on::{block_on, try_block_on};
pub use calls::AsyncMux;
pub use checkout::AsyncPool;
pub use closed::Closed;
pub use connection::AsyncConnection;
pub use dialer::AsyncDialer;
pub use halves::{AsyncReadHalf, AsyncWriteHalf};
pub use interval::{Interval, MissedTicks, interval, interval_at};
pub use netpoll_core::{AbortHandle, JoinError, JoinHandle};
pub use scope::Scope;
pub use serve::serve_async;
pub use session::AsyncSession;
pub use signal::Signalled;
pub use sleep::{Sleep, sleep, sleep_until, yield_now};
pub use spawner::{Spawner, spawn};
pub use taken::TakenCounts;
pub use timeout::{Elapsed, timeout, timeout_at};
#[cfg(feature = "tokio")]
pub use tokio_context::{InTokio, in_tokio};
