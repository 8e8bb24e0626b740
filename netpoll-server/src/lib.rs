//! The server side of netpoll: [`Listener`], and [`EventLoop`], which serves it.
//!
//! Users depend on the crate `netpoll`, which re-exports this one.

#![forbid(unsafe_code)]

mod acceptor;
mod builder;
mod event_loop;
mod listener;

pub use builder::Builder;
pub use event_loop::{EventLoop, Report};
pub use listener::Listener;
