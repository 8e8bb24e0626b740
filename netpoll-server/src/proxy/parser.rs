//! The parser of PROXY headers: bytes in, addresses out, without a socket.
//!
//! ```text
//!   v1  PROXY TCP4 192.0.2.1 198.51.100.7 51000 443\r\n          107 bytes at most
//!   v2  12 bytes of signature │ version, command │ family │ length (2) │ addresses │ extensions
//! ```
//! Its specification is `doc/proxy-protocol.txt` of `HAProxy`.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use netpoll_core::Address;

/// What a listener expects of proxies; see
/// [`Listener::proxy_protocol`](crate::Listener::proxy_protocol).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProxyProtocol {
    /// How long the whole header may take from the accept on. Default 3 s: a proxy sends it with
    /// its first segment, and TCP sends that again after a second.
    pub deadline: Duration,
    /// How many bytes the header may have. Default 4 096: version 2's longest address and several
    /// extensions.
    pub limit: usize,
}

/// A header, complete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// Its length: the client's bytes begin behind it.
    pub len: usize,
    /// The client's address, and the one that it connected to; `None` where the proxy speaks for
    /// itself, as for a health check, or does not know.
    pub addresses: Option<(Address, Address)>,
}

/// Why bytes are no header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Malformed {
    /// They begin like neither version.
    Signature,
    /// Version 1: the line is not as it must be, or too long.
    Line,
    /// Version 2: another version, or an unknown command.
    Version,
    /// Version 2: no stream of a known family, or too short for its addresses.
    Family,
    /// It is longer than the limit.
    Limit,
}

const SIGNATURE_1: &[u8] = b"PROXY ";
const SIGNATURE_2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// The longest line of version 1, with its end.
const LINE_MAX: usize = 107;
/// Version 2: signature, version and command, family, length.
const HEAD: usize = 16;
/// No header is longer: the length is a number of 16 bits.
pub(super) const HEADER_MAX: usize = HEAD + 0xFFFF;

impl Default for ProxyProtocol {
    fn default() -> Self {
        Self { deadline: Duration::from_secs(3), limit: 4096 }
    }
}

/// Looks for a header of either version at the start of `bytes`. `None`: it is not complete yet.
///
/// # Errors
/// The reason why the bytes can't become a header, as soon as that is certain.
///
/// ```
/// use netpoll_server::proxy::parse;
///
/// let bytes = b"PROXY TCP4 192.0.2.1 198.51.100.7 51000 443\r\nGET /";
/// let header = parse(bytes, 4096).unwrap().unwrap();
/// assert_eq!(header.addresses.unwrap().0.to_string(), "192.0.2.1:51000");
/// assert_eq!(&bytes[header.len..], b"GET /");
/// assert_eq!(parse(b"PROXY TC", 4096), Ok(None));
/// assert!(parse(b"GET / HTTP/1.1", 4096).is_err());
/// ```
pub fn parse(bytes: &[u8], limit: usize) -> Result<Option<Header>, Malformed> {
    // Bytes beyond the limit are not looked at.
    let bytes = &bytes[..bytes.len().min(limit)];
    if begins_as(bytes, SIGNATURE_1) {
        parse_line(bytes, limit)
    } else if begins_as(bytes, SIGNATURE_2) {
        parse_binary(bytes, limit)
    } else {
        Err(Malformed::Signature)
    }
}

/// Whether as much of the signature as can be there is there.
fn begins_as(bytes: &[u8], signature: &[u8]) -> bool {
    let common = bytes.len().min(signature.len());
    bytes[..common] == signature[..common]
}

fn parse_line(bytes: &[u8], limit: usize) -> Result<Option<Header>, Malformed> {
    let max = LINE_MAX.min(limit);
    let seen = &bytes[..bytes.len().min(max)];
    let Some(end) = seen.windows(2).position(|it| it == b"\r\n") else {
        return match bytes.len() {
            len if len < max => Ok(None),
            _ if limit < LINE_MAX => Err(Malformed::Limit),
            _ => Err(Malformed::Line),
        };
    };
    let line = std::str::from_utf8(&seen[..end]).map_err(|_| Malformed::Line)?;
    let fields: Vec<&str> = line.split(' ').collect();
    let addresses = match fields[..] {
        // The protocol says to ignore what follows.
        ["PROXY", "UNKNOWN", ..] => None,
        ["PROXY", family @ ("TCP4" | "TCP6"), source, target, from, to] => {
            let inet = |host, port| inet(family, host, port).ok_or(Malformed::Line);
            Some((inet(source, from)?, inet(target, to)?))
        }
        _ => return Err(Malformed::Line),
    };
    Ok(Some(Header { len: end + 2, addresses }))
}

fn inet(family: &str, host: &str, port: &str) -> Option<Address> {
    let host: IpAddr = host.parse().ok()?;
    let fits = if family == "TCP4" { host.is_ipv4() } else { host.is_ipv6() };
    // `parse` accepts a sign and leading zeros, which the protocol does not.
    let plain =
        port.bytes().all(|it| it.is_ascii_digit()) && (port == "0" || !port.starts_with('0'));
    let port: u16 = port.parse().ok()?;
    (fits && plain).then(|| SocketAddr::new(host, port).into())
}

fn parse_binary(bytes: &[u8], limit: usize) -> Result<Option<Header>, Malformed> {
    if let Some(&version) = bytes.get(12)
        && !matches!(version, 0x20 | 0x21)
    {
        return Err(Malformed::Version);
    }
    let Some((head, rest)) = bytes.split_at_checked(HEAD) else {
        return if limit < HEAD && bytes.len() == limit { Err(Malformed::Limit) } else { Ok(None) };
    };
    let payload = usize::from(u16::from_be_bytes([head[14], head[15]]));
    let len = HEAD + payload;
    if len > limit {
        return Err(Malformed::Limit);
    }
    let (is_local, family) = (head[12] == 0x20, head[13]);
    let needed = match family {
        0x11 => 12,
        0x21 => 36,
        0x31 => 216,
        _ => 0,
    };
    if !is_local && (payload < needed || !matches!(family, 0x00 | 0x11 | 0x21 | 0x31)) {
        return Err(Malformed::Family);
    }
    let Some(payload) = rest.get(..payload) else { return Ok(None) };
    let addresses = if is_local { None } else { binary_addresses(family, payload) };
    Ok(Some(Header { len, addresses }))
}

/// The addresses at the start of a payload that is long enough for its family.
fn binary_addresses(family: u8, payload: &[u8]) -> Option<(Address, Address)> {
    let port = |at: usize| Some(u16::from_be_bytes(payload.get(at..at + 2)?.try_into().ok()?));
    match family {
        0x11 => {
            let ip = |at: usize| -> Option<Ipv4Addr> {
                Some(<[u8; 4]>::try_from(payload.get(at..at + 4)?).ok()?.into())
            };
            let (from, to) = ((ip(0)?, port(8)?), (ip(4)?, port(10)?));
            Some((SocketAddr::from(from).into(), SocketAddr::from(to).into()))
        }
        0x21 => {
            let ip = |at: usize| -> Option<Ipv6Addr> {
                Some(<[u8; 16]>::try_from(payload.get(at..at + 16)?).ok()?.into())
            };
            let (from, to) = ((ip(0)?, port(32)?), (ip(16)?, port(34)?));
            Some((SocketAddr::from(from).into(), SocketAddr::from(to).into()))
        }
        0x31 => Some((unix(payload.get(..108)?), unix(payload.get(108..216)?))),
        _ => None,
    }
}

/// A Unix address as it stands in a `sockaddr_un`.
fn unix(path: &[u8]) -> Address {
    let end = |bytes: &[u8]| bytes.iter().position(|&it| it == 0).unwrap_or(bytes.len());
    match path {
        [0, name @ ..] if name.first().is_some_and(|&it| it != 0) => {
            Address::Abstract(name[..end(name)].into())
        }
        [0, ..] | [] => Address::Unnamed,
        _ => Address::Path(Path::new(std::ffi::OsStr::from_bytes(&path[..end(path)])).into()),
    }
}

impl fmt::Display for Malformed {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Signature => "it doesn't begin with a PROXY header",
            Self::Line => "its PROXY line is malformed",
            Self::Version => "its PROXY header has an unknown version or command",
            Self::Family => "its PROXY header has no usable addresses",
            Self::Limit => "its PROXY header is longer than the limit",
        })
    }
}

impl std::error::Error for Malformed {}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMIT: usize = 4096;

    fn binary(command: u8, family: u8, payload: &[u8]) -> Vec<u8> {
        let len = u16::try_from(payload.len()).unwrap().to_be_bytes();
        [SIGNATURE_2, &[command, family], &len, payload].concat()
    }

    fn complete(bytes: &[u8]) -> Header {
        parse(bytes, LIMIT).unwrap().expect("a whole header")
    }

    #[test]
    fn lines_say_who_connected_to_what() {
        let header = complete(b"PROXY TCP6 2001:db8::1 ::1 65535 0\r\n");
        let (peer, local) = header.addresses.unwrap();
        assert_eq!(
            (peer.to_string(), local.to_string()),
            ("[2001:db8::1]:65535".into(), "[::1]:0".into())
        );
        for unknown in [&b"PROXY UNKNOWN\r\n"[..], b"PROXY UNKNOWN what ever \xc3\xa9\r\n"] {
            assert_eq!(complete(unknown), Header { len: unknown.len(), addresses: None });
        }
    }

    #[test]
    fn lines_that_are_not_as_they_must_be_are_refused() {
        for line in [
            "PROXY TCP4 192.0.2.1 192.0.2.2 1 +2\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 1 02\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 1 65536\r\n",
            "PROXY TCP4 ::1 192.0.2.2 1 2\r\n",
            "PROXY TCP6 192.0.2.1 192.0.2.2 1 2\r\n",
            "PROXY TCP4  192.0.2.1 192.0.2.2 1 2\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 1 2 \r\n",
            "PROXY UDP4 192.0.2.1 192.0.2.2 1 2\r\n",
            "PROXY \r\n",
        ] {
            assert_eq!(parse(line.as_bytes(), LIMIT), Err(Malformed::Line), "{line:?}");
        }
        let long = [b"PROXY UNKNOWN ".as_slice(), &[b'x'; 100]].concat();
        assert_eq!(parse(&long[..106], LIMIT), Ok(None));
        assert_eq!(parse(&long[..107], LIMIT), Err(Malformed::Line));
        assert_eq!(parse(&long[..50], 50), Err(Malformed::Limit));
    }

    #[test]
    fn binary_headers_say_who_connected_to_what() {
        let v4 = [192, 0, 2, 1, 198, 51, 100, 7, 0xC7, 0x38, 0x01, 0xBB];
        let extended = [&v4[..], b"\x04\x00\x01x"].concat();
        for payload in [&v4[..], &extended] {
            let bytes = binary(0x21, 0x11, payload);
            let header = complete(&[&bytes, &b"hello"[..]].concat());
            let (peer, local) = header.addresses.unwrap();
            assert_eq!((header.len, peer.to_string()), (bytes.len(), "192.0.2.1:51000".into()));
            assert_eq!(local.to_string(), "198.51.100.7:443");
        }
        let mut v6 = [0; 36];
        (v6[15], v6[31], v6[33], v6[35]) = (1, 2, 3, 4);
        let (peer, local) = complete(&binary(0x21, 0x21, &v6)).addresses.unwrap();
        assert_eq!((peer.to_string(), local.to_string()), ("[::1]:3".into(), "[::2]:4".into()));
        let mut paths = [0; 216];
        paths[..4].copy_from_slice(b"/run");
        paths[109..113].copy_from_slice(b"name");
        let (peer, local) = complete(&binary(0x21, 0x31, &paths)).addresses.unwrap();
        assert_eq!((peer.to_string(), local.to_string()), ("/run".into(), "@name".into()));
    }

    #[test]
    fn a_proxy_speaks_for_itself_or_does_not_know() {
        for bytes in [binary(0x20, 0, b""), binary(0x20, 0xFF, b"any"), binary(0x21, 0, b"any")] {
            assert_eq!(complete(&bytes), Header { len: bytes.len(), addresses: None });
        }
    }

    #[test]
    fn binary_headers_that_are_not_as_they_must_be_are_refused() {
        let refused = |bytes: &[u8]| parse(bytes, LIMIT).unwrap_err();
        assert_eq!(refused(&binary(0x11, 0x11, &[0; 12])), Malformed::Version);
        assert_eq!(refused(&binary(0x22, 0x11, &[0; 12])), Malformed::Version);
        assert_eq!(refused(&binary(0x21, 0x12, &[0; 12])), Malformed::Family);
        assert_eq!(refused(&binary(0x21, 0x11, &[0; 11])), Malformed::Family);
        assert_eq!(refused(&binary(0x21, 0x31, &[0; 215])), Malformed::Family);
        assert_eq!(refused(&binary(0x21, 0x11, &[0; LIMIT])), Malformed::Limit);
        assert_eq!(refused(b"\r\n\r\n\0\r\nQUIX"), Malformed::Signature);
    }

    fn header() -> impl Strategy<Value = Vec<u8>> {
        let line = any::<([u8; 4], [u8; 4], u16, u16)>().prop_map(|(from, to, a, b)| {
            let (from, to) = (Ipv4Addr::from(from), Ipv4Addr::from(to));
            format!("PROXY TCP4 {from} {to} {a} {b}\r\n").into_bytes()
        });
        let payload = prop::collection::vec(any::<u8>(), 216..300);
        let family = prop::sample::select(vec![0x11, 0x21, 0x31]);
        prop_oneof![line, (family, payload).prop_map(|(it, payload)| binary(0x21, it, &payload))]
    }

    proptest! {
        #[test]
        fn every_prefix_is_incomplete_and_what_follows_is_left_alone(
            header in header(),
            rest in prop::collection::vec(any::<u8>(), 0..40),
        ) {
            for end in 0..header.len() {
                prop_assert_eq!(parse(&header[..end], LIMIT), Ok(None));
            }
            let whole = complete(&header);
            prop_assert_eq!(whole.len, header.len());
            prop_assert_eq!(complete(&[header, rest].concat()), whole);
        }

        #[test]
        fn no_bytes_panic_and_no_verdict_changes_with_more_of_them(
            start in 0usize..3,
            tail in prop::collection::vec(any::<u8>(), 0..300),
        ) {
            let bytes = [[SIGNATURE_1, SIGNATURE_2, b""][start], &tail].concat();
            let mut verdict = None;
            for end in 0..=bytes.len() {
                let now = parse(&bytes[..end], LIMIT);
                if let Some(before) = &verdict {
                    prop_assert_eq!(&now, before);
                } else if now != Ok(None) {
                    verdict = Some(now);
                }
            }
        }
    }
}
