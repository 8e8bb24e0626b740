//! The header of a proxied connection, as a value: what is read from bytes or written to them.

use std::str;

use super::tls::Tls;
use super::tlv::{self, Tlvs};
use crate::base::address::Address;

/// What a proxy says of the connection that it forwards.
///
/// A server reads it with [`Connection::proxy_header`](crate::Connection::proxy_header), a client
/// that is a proxy makes one for its dialer. The extensions (TLVs) exist in version 2 only. All of
/// them together are bounded by the limit of the listener, and by 64 KiB.
///
/// ```
/// use std::net::SocketAddr;
/// use netpoll_core::proxy::{Header, Version, parse};
///
/// let client: SocketAddr = "192.0.2.1:51000".parse()?;
/// let server: SocketAddr = "198.51.100.7:443".parse()?;
/// let header = Header::between(client, server).with_alpn(b"h2").with_authority("example.org");
/// let bytes = header.encode(Version::V2)?;
/// let (read, len) = parse(&bytes, 4096)?.ok_or("a part of a header")?;
/// assert_eq!((&read, len), (&header, bytes.len()));
/// assert_eq!((read.alpn(), read.authority()), (Some(&b"h2"[..]), Some("example.org")));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    pub(super) ends: Option<(Address, Address)>,
    pub(super) is_local: bool,
    /// The extensions, as they stand in a header: each whole, one behind the other.
    pub(super) tlvs: Vec<u8>,
    /// A value was given that is longer than a header can say.
    pub(super) is_too_long: bool,
}

impl Header {
    /// The header of a client at `source`, which connected to `destination`.
    pub fn between(source: impl Into<Address>, destination: impl Into<Address>) -> Self {
        Self::new(Some((source.into(), destination.into())), false)
    }

    /// The header of a proxy that speaks for itself, as in a health check. It carries no extension
    /// on the wire.
    pub fn local() -> Self {
        Self::new(None, true)
    }

    /// The header of a client with an address that the proxy does not know, or can't say.
    pub fn unknown() -> Self {
        Self::new(None, false)
    }

    fn new(ends: Option<(Address, Address)>, is_local: bool) -> Self {
        Self { ends, is_local, tlvs: Vec::new(), is_too_long: false }
    }

    /// The client's address; `None` where the proxy speaks for itself, or does not know it.
    pub fn source(&self) -> Option<&Address> {
        self.ends.as_ref().map(|(source, _)| source)
    }

    /// The address that the client connected to; `None` as for [`source`](Self::source).
    pub fn destination(&self) -> Option<&Address> {
        self.ends.as_ref().map(|(_, destination)| destination)
    }

    /// Whether the proxy speaks for itself, as in a health check (`LOCAL`, version 2).
    pub fn is_local(&self) -> bool {
        self.is_local
    }

    /// All extensions in their order, known or not: their types and their values.
    pub fn tlvs(&self) -> Tlvs<'_> {
        Tlvs::new(&self.tlvs)
    }

    /// The value of the first extension of this type; [`tlv`](super::tlv) has the registered ones.
    pub fn tlv(&self, kind: u8) -> Option<&[u8]> {
        self.tlvs().find(|(each, _)| *each == kind).map(|(_, value)| value)
    }

    /// The protocol that client and proxy agreed on by ALPN, such as `h2`.
    pub fn alpn(&self) -> Option<&[u8]> {
        self.tlv(tlv::ALPN)
    }

    /// The host name that the client asked for: of TLS, its SNI. `None` if it is not UTF-8.
    pub fn authority(&self) -> Option<&str> {
        str::from_utf8(self.tlv(tlv::AUTHORITY)?).ok()
    }

    /// What identifies the connection in the logs of all proxies that it passes.
    pub fn unique_id(&self) -> Option<&[u8]> {
        self.tlv(tlv::UNIQUE_ID)
    }

    /// The network namespace that the proxy accepted the connection in. `None` if it is not UTF-8.
    pub fn namespace(&self) -> Option<&str> {
        str::from_utf8(self.tlv(tlv::NETNS)?).ok()
    }

    /// How the client spoke TLS with the proxy. `None` if the proxy does not say, or if what it
    /// says is malformed.
    pub fn tls(&self) -> Option<Tls<'_>> {
        Tls::parse(self.tlv(tlv::SSL)?)
    }

    /// Adds an extension of any type, behind the others.
    #[must_use]
    pub fn with_tlv(mut self, kind: u8, value: &[u8]) -> Self {
        self.is_too_long |= !tlv::push(&mut self.tlvs, kind, value);
        self
    }

    /// Adds the protocol that was agreed on by ALPN.
    #[must_use]
    pub fn with_alpn(self, protocol: &[u8]) -> Self {
        self.with_tlv(tlv::ALPN, protocol)
    }

    /// Adds the host name that the client asked for.
    #[must_use]
    pub fn with_authority(self, host: &str) -> Self {
        self.with_tlv(tlv::AUTHORITY, host.as_bytes())
    }

    /// Adds what identifies the connection; at most 128 bytes, by the specification.
    #[must_use]
    pub fn with_unique_id(self, id: &[u8]) -> Self {
        self.with_tlv(tlv::UNIQUE_ID, id)
    }

    /// Adds how the client spoke TLS with this proxy.
    #[must_use]
    pub fn with_tls(self, tls: &Tls<'_>) -> Self {
        self.with_tlv(tlv::SSL, &tls.to_bytes())
    }

    /// Adds a checksum (`CRC32c`), which [`encode`](Self::encode) computes.
    #[must_use]
    pub fn with_checksum(self) -> Self {
        self.with_tlv(tlv::CRC32C, &[0; 4])
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_several_extensions_of_a_type_is_the_one() {
        let header = Header::unknown()
            .with_tlv(0xE0, b"")
            .with_alpn(b"h2")
            .with_alpn(b"http/1.1")
            .with_unique_id(b"id")
            .with_tlv(tlv::AUTHORITY, b"\xFF")
            .with_tlv(tlv::NETNS, b"blue");
        assert_eq!((header.alpn(), header.tlv(0xE0)), (Some(&b"h2"[..]), Some(&b""[..])));
        assert_eq!((header.authority(), header.namespace()), (None, Some("blue")));
        assert_eq!((header.unique_id(), header.tlv(0xE1)), (Some(&b"id"[..]), None));
        let kinds: Vec<u8> = header.tlvs().map(|(kind, _)| kind).collect();
        assert_eq!(kinds, [0xE0, 1, 1, 5, 2, 0x30]);
        assert!(header.tls().is_none() && header.source().is_none() && !header.is_local());
    }
}
