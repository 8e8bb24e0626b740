//! What a handshake agreed on.

use rustls::pki_types::CertificateDer;
use rustls::{CipherSuite, CommonState, HandshakeKind, ProtocolVersion, SupportedCipherSuite};

/// What the handshake of a connection agreed on. A copy of it: asking costs some allocations.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TlsInfo {
    /// `TLSv1_2` or `TLSv1_3`.
    pub version: ProtocolVersion,
    /// The cipher suite, such as `TLS13_AES_128_GCM_SHA256`.
    pub cipher: CipherSuite,
    /// The application protocol, such as `h2`; `None` if one side named none.
    pub alpn: Option<Vec<u8>>,
    /// On a server the name that the client asked for, in lower case; `None` if it named none, and
    /// on a client.
    pub server_name: Option<Box<str>>,
    /// The chain of the peer, its own certificate first; empty if it presented none, which only a
    /// client can do. Verified. A resumed session has the chain of its first handshake.
    pub peer_certificates: Vec<CertificateDer<'static>>,
    /// The session goes on with the keys of an earlier one, so no certificate was sent again.
    pub resumed: bool,
}

impl TlsInfo {
    pub(crate) fn of(
        version: ProtocolVersion,
        suite: SupportedCipherSuite,
        common: &CommonState,
        server_name: Option<Box<str>>,
    ) -> Self {
        Self {
            version,
            cipher: suite.suite(),
            alpn: common.alpn_protocol().map(<[u8]>::to_vec),
            server_name,
            peer_certificates: common.peer_certificates().unwrap_or_default().to_vec(),
            resumed: common.handshake_kind() == Some(HandshakeKind::Resumed),
        }
    }
}
