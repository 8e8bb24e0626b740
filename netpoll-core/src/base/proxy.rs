//! The PROXY protocol, versions 1 and 2: what a proxy says of the client that it speaks for, before
//! the client's first byte. Bytes in, a [`Header`] out, and back; no socket.
//!
//! ```text
//!   parser  bytes ──► Header ──► bytes  encode
//!                       │
//!                     tlv, tls          its extensions (version 2)
//! ```
//! The specification is `doc/proxy-protocol.txt` of `HAProxy`.

mod encode;
mod header;
mod parser;
mod tls;
pub mod tlv;

pub use encode::Version;
pub use header::Header;
pub use parser::{Malformed, parse};
pub use tls::Tls;

/// No header is longer: 16 bytes, and a length that is a number of 16 bits.
pub const HEADER_MAX: usize = HEAD + 0xFFFF;

const SIGNATURE_1: &[u8] = b"PROXY ";
const SIGNATURE_2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// Version 2: signature, version and command, family, length.
const HEAD: usize = 16;
/// Version 2: the length of a Unix address.
const PATH_MAX: usize = 108;
