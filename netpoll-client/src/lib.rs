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
mod eyeballs;
mod hosts;
mod mux;
mod pool;
mod resolver;
mod sync;
mod target;

pub use backoff::Backoff;
pub use builder::DialerBuilder;
pub use cancel::Cancel;
pub use client::{Client, ClientBuilder};
pub use datagrams::connect_datagrams;
pub use dialer::{DialConnection, DialThen, Dialer, dial_connection};
pub use mux::{Mux, MuxBuilder, MuxProtocol, MuxStats};
pub use netpoll_core::socket::Keepalive;
pub use pool::{Pool, PoolBuilder, PoolStats, Pooled};
pub use resolver::Resolve;
