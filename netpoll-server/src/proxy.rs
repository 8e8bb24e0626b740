//! The PROXY protocol, versions 1 and 2: what a proxy says of the client that it speaks for, before
//! the client's first byte.

pub(crate) mod handshake;
mod parser;

pub use parser::{Header, Malformed, ProxyProtocol, parse};
