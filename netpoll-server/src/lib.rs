//! The server side of netpoll: [`Listener`], and [`EventLoop`], which serves it.
//!
//! Users depend on the crate `netpoll`, which re-exports this one.

#![forbid(unsafe_code)]

mod acceptor;
mod builder;
mod doors;
mod event_loop;
mod gate;
mod greeting;
mod guest;
mod handler;
mod handover;
mod listen_options;
mod listener;
mod manifest;
mod opening;
pub mod proxy;
mod running;
mod seat;
mod serving;
mod stats;
mod succession;

pub use builder::Builder;
pub use event_loop::{EventLoop, Report};
pub use gate::{AtLimit, Limit, OnRefuse, Refusal};
pub use handler::Handler;
pub use handover::HandOverOptions;
pub use listen_options::ListenOptions;
pub use listener::{Listener, Listeners};
pub use netpoll_core::socket::{Credentials, Keepalive};
pub use proxy::ProxyProtocol;
pub use running::Running;
pub use stats::Stats;
