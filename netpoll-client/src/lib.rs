//! The client side of netpoll: dialling, callbacks on dialled connections, pools, multiplexers.
//!
//! Users depend on the crate `netpoll`, which re-exports this one.

#![forbid(unsafe_code)]

mod announcement;
mod backoff;
mod builder;
mod cancel;
mod client;
mod datagrams;
mod dial;
mod dial_then;
mod dialer;
mod dialling;
mod eyeballs;
mod hosts;
mod mux;
mod pool;
mod resolver;
mod sync;
mod target;
mod watchers;

pub use backoff::Backoff;
pub use builder::DialerBuilder;
pub use cancel::Cancel;
pub use client::{Client, ClientBuilder};
pub use datagrams::connect_datagrams;
#[doc(hidden)]
pub use dial::Step;
pub use dialer::{DialConnection, DialThen, Dialer, dial_connection};
#[doc(hidden)]
pub use dialling::{Advance, Dialling};
#[doc(hidden)]
pub use mux::MuxCall;
pub use mux::{Mux, MuxBuilder, MuxProtocol, MuxStats};
pub use netpoll_core::socket::Keepalive;
#[doc(hidden)]
pub use pool::Checkout;
pub use pool::{Pool, PoolBuilder, PoolStats, Pooled};
pub use resolver::Resolve;
