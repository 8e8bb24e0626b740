//! The server side of netpoll: [`Listener`], and [`EventLoop`], which serves it.
//!
//! Users depend on the crate `netpoll`, which re-exports this one.
//!
//! Imports point down:
//!
//! ```text
//!   builder, running, stats, restart       what users call beside `serve` and `shutdown`
//!   event_loop
//!   shutdown, serving                      one `serve`, its end and its course
//!   accept/                                from a listening socket to a connection on a loop
//!   listeners                              what an event loop is given to serve
//!   datagrams/                             sockets of datagrams, and what serves them
//!   options, listener                      listening sockets
//!   handover/                              listening sockets to a successor: what is said
//!   admission/, proxy/                     limits; the PROXY header
//!   systemd/                               what a service manager is told
//!   settings, service, socket_file, opening, sync
//! ```

#![forbid(unsafe_code)]

mod accept;
mod admission;
mod builder;
mod datagrams;
mod event_loop;
mod handover;
mod listener;
mod listeners;
mod opening;
mod options;
pub mod proxy;
mod restart;
mod running;
mod service;
mod serving;
mod settings;
mod shutdown;
mod socket_file;
mod stats;
mod sync;
mod systemd;

pub use admission::{AcceptLimit, AtLimit, Incoming, OnAccept, OnRefuse, Refusal, Verdict};
pub use builder::EventLoopBuilder;
pub use datagrams::{
    AtFlowLimit, DatagramOptions, DatagramServer, DatagramSessions, Datagrams, FlowBatch, FlowEnd,
    FlowHandle, FlowOptions, FlowSessions, FlowStats, OnFlow, OnFlowDatagrams,
};
pub use event_loop::EventLoop;
pub use handover::HandOverOptions;
pub use listener::Listener;
pub use listeners::Listeners;
pub use netpoll_core::socket::{Credentials, Keepalive};
pub use options::ListenOptions;
pub use proxy::{ProxyProtocol, TrustedProxies};
pub use restart::{TakenOver, take_over, take_over_with};
pub use running::Running;
pub use shutdown::Report;
pub use stats::EventLoopStats;
pub use systemd::Systemd;
