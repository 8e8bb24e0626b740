#![doc = include_str!("../README.md")]
//!
//! - [`serve`] and [`Http`]: servers of HTTP/1 and HTTP/2 from one `tower_service::Service`.
//! - [`client`]: connections of clients, and the connector of a pooling client.
//! - [`NetpollIo`], [`NetpollExecutor`], [`NetpollTimer`]: what hyper asks of a runtime, to drive
//!   hyper by hand.

#![forbid(unsafe_code)]

pub mod client;
mod executor;
mod io;
mod server;
mod service;
mod timer;

pub use executor::NetpollExecutor;
pub use io::NetpollIo;
pub use server::{Http, serve};
pub use service::{BoxError, PeerAddr};
pub use timer::NetpollTimer;
