//! The PROXY protocol, versions 1 and 2: which peers are proxies, and what they say of the client
//! that they speak for, before the client's first byte.

pub(crate) mod handshake;
mod options;
mod trusted;

pub use netpoll_core::proxy::{Header, Malformed, Tls, Version, parse, tlv};
pub use options::ProxyProtocol;
pub use trusted::TrustedProxies;

pub(crate) use options::Role;
