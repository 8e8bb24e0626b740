//! What a proxy says of the TLS that it spoke with its client: an extension with extensions.
//!
//! ```text
//!   flags (1) │ verify (4, big-endian) │ extensions: version, common name, …
//! ```

use std::borrow::Cow;
use std::str;

use super::tlv::{self, Tlvs};

const IS_TLS: u8 = 0x01;
const CERTIFICATE: u8 = 0x02;
const CERTIFICATE_IN_SESSION: u8 = 0x04;
/// Flags, and the result of the verification.
const HEAD: usize = 5;

const VERSION: u8 = 0x21;
const COMMON_NAME: u8 = 0x22;
const CIPHER: u8 = 0x23;
const SIGNATURE_ALGORITHM: u8 = 0x24;
const KEY_ALGORITHM: u8 = 0x25;

/// How a client spoke TLS with the proxy.
///
/// ```
/// use netpoll_core::proxy::{Header, Tls};
///
/// let tls = Tls::new().with_version("TLSv1.3").with_certificate(0).with_common_name("alice");
/// let header = Header::unknown().with_tls(&tls);
/// let tls = header.tls().unwrap();
/// assert!(tls.is_verified());
/// assert_eq!((tls.version(), tls.common_name()), (Some("TLSv1.3"), Some("alice")));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tls<'a> {
    flags: u8,
    verify: u32,
    values: Cow<'a, [u8]>,
    /// A value was given that is longer than an extension can be.
    is_too_long: bool,
}

impl<'a> Tls<'a> {
    /// Of a client that spoke TLS and showed no certificate.
    pub fn new() -> Self {
        // The specification wants another value than 0 where no certificate was verified.
        Self { flags: IS_TLS, verify: 1, values: Cow::Borrowed(&[]), is_too_long: false }
    }

    /// What the value of an extension says; `None` if it is malformed.
    pub(super) fn parse(value: &'a [u8]) -> Option<Self> {
        let (&[flags, ref verify @ ..], values) = value.split_first_chunk::<HEAD>()?;
        let values = tlv::are_whole(values).then_some(Cow::Borrowed(values))?;
        Some(Self { flags, verify: u32::from_be_bytes(*verify), values, is_too_long: false })
    }

    /// The value of the extension; too long for one, if a value in it was.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        if self.is_too_long {
            return vec![0; usize::from(u16::MAX) + 1];
        }
        [&[self.flags][..], &self.verify.to_be_bytes(), &self.values].concat()
    }

    /// Whether the client spoke TLS at all.
    pub fn is_tls(&self) -> bool {
        self.flags & IS_TLS != 0
    }

    /// Whether the client showed a certificate, on this connection or on an earlier one of its
    /// session, whether it was valid or not.
    pub fn has_certificate(&self) -> bool {
        self.flags & (CERTIFICATE | CERTIFICATE_IN_SESSION) != 0
    }

    /// Whether the client showed a certificate on this very connection.
    pub fn has_new_certificate(&self) -> bool {
        self.flags & CERTIFICATE != 0
    }

    /// Whether the client spoke TLS, showed a certificate, and the proxy found it valid.
    pub fn is_verified(&self) -> bool {
        self.is_tls() && self.has_certificate() && self.verify == 0
    }

    /// The result of the verification: 0 if there was a certificate and it is valid, another number
    /// of the proxy otherwise.
    pub fn verify(&self) -> u32 {
        self.verify
    }

    /// The version, such as `TLSv1.3`.
    pub fn version(&self) -> Option<&str> {
        self.text(VERSION)
    }

    /// The common name (CN) of the client's certificate. It is a claim unless
    /// [`is_verified`](Self::is_verified).
    pub fn common_name(&self) -> Option<&str> {
        self.text(COMMON_NAME)
    }

    /// The cipher, such as `ECDHE-RSA-AES128-GCM-SHA256`.
    pub fn cipher(&self) -> Option<&str> {
        self.text(CIPHER)
    }

    /// The algorithm that signed the proxy's certificate, such as `SHA256`.
    pub fn signature_algorithm(&self) -> Option<&str> {
        self.text(SIGNATURE_ALGORITHM)
    }

    /// The algorithm of the key of the proxy's certificate, such as `RSA2048`.
    pub fn key_algorithm(&self) -> Option<&str> {
        self.text(KEY_ALGORITHM)
    }

    /// All of it, known or not: types and values.
    pub fn tlvs(&self) -> Tlvs<'_> {
        Tlvs::new(&self.values)
    }

    /// Says that the client showed a certificate, with the result of its verification: 0 is valid.
    #[must_use]
    pub fn with_certificate(mut self, verify: u32) -> Self {
        self.flags |= CERTIFICATE;
        self.verify = verify;
        self
    }

    /// Adds the version.
    #[must_use]
    pub fn with_version(self, version: &str) -> Self {
        self.with_tlv(VERSION, version.as_bytes())
    }

    /// Adds the common name of the client's certificate.
    #[must_use]
    pub fn with_common_name(self, name: &str) -> Self {
        self.with_tlv(COMMON_NAME, name.as_bytes())
    }

    /// Adds the cipher.
    #[must_use]
    pub fn with_cipher(self, cipher: &str) -> Self {
        self.with_tlv(CIPHER, cipher.as_bytes())
    }

    /// Adds a value of any type, behind the others.
    #[must_use]
    pub fn with_tlv(mut self, kind: u8, value: &[u8]) -> Self {
        self.is_too_long |= !tlv::push(self.values.to_mut(), kind, value);
        self
    }

    /// A value that is text; `None` also where it is not UTF-8.
    fn text(&self, kind: u8) -> Option<&str> {
        let (_, value) = self.tlvs().find(|(each, _)| *each == kind)?;
        str::from_utf8(value).ok()
    }
}

impl Default for Tls<'_> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn only_a_valid_certificate_over_tls_is_verified() {
        for (flags, verify, expected) in [
            (1, 0, false),
            (2, 0, false),
            (3, 0, true),
            (5, 0, true),
            (7, 0, true),
            (3, 1, false),
            (0, 0, false),
        ] {
            let bytes = [flags, 0, 0, 0, verify];
            let tls = Tls::parse(&bytes).unwrap();
            assert_eq!(tls.is_verified(), expected, "{flags} {verify}");
        }
        assert!(!Tls::new().is_verified() && Tls::new().with_certificate(0).is_verified());
    }

    #[test]
    fn what_is_malformed_says_nothing() {
        for bytes in [&[][..], &[1, 0, 0, 0], &[1, 0, 0, 0, 0, 0x21], &[1, 0, 0, 0, 0, 0x21, 0, 9]]
        {
            assert!(Tls::parse(bytes).is_none(), "{bytes:?}");
        }
        let odd = Tls::parse(&[1, 0, 0, 0, 9, 0x22, 0, 1, 0xFF]).unwrap();
        assert_eq!((odd.common_name(), odd.verify()), (None, 9));
        assert_eq!(odd.tlvs().collect::<Vec<_>>(), [(0x22, &[0xFF][..])]);
    }
}
