//! TLS for netpoll, on rustls.
//!
//! Users depend on the crate `netpoll` with its feature `tls`, which re-exports this one.
//! [`TlsConfig`] is for servers, [`TlsClient`] for clients, [`TlsInfo`] says what was agreed on.

#![forbid(unsafe_code)]

mod alpn;
mod certificates;
mod client;
mod client_builder;
mod connection;
mod gather;
mod info;
mod pem;
mod provider;
mod record;
mod record_size;
mod roots;
mod sentence;
mod server;
mod server_builder;
mod server_name;
mod server_options;
mod watch;

pub use client::TlsClient;
pub use client_builder::TlsClientBuilder;
pub use connection::TlsConnection;
pub use info::TlsInfo;
pub use pem::Pem;
pub use provider::Provider;
pub use rustls;
pub use server::TlsConfig;
pub use server_builder::TlsConfigBuilder;
pub use watch::TlsWatch;
