//! The parser of PROXY headers.
//!
//! ```text
//!   v1  PROXY TCP4 192.0.2.1 198.51.100.7 51000 443\r\n          107 bytes at most
//!   v2  12 bytes of signature │ version, command │ family │ length (2) │ addresses │ extensions
//! ```

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::header::Header;
use super::{HEAD, PATH_MAX, SIGNATURE_1, SIGNATURE_2, tlv};
use crate::base::address::Address;

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
    /// Version 2: an extension is cut off.
    Extension,
    /// Version 2: its checksum is another one.
    Checksum,
    /// It is longer than the limit.
    Limit,
}

/// The longest line of version 1, with its end.
const LINE_MAX: usize = 107;

/// Looks for a header of either version at the start of `bytes`: returns it and its length, behind
/// which the client's bytes begin. `None`: it is not complete yet. A header has `limit` bytes at
/// the most.
///
/// # Errors
/// The reason why the bytes can't become a header, as soon as that is certain.
///
/// ```
/// use netpoll_core::proxy::parse;
///
/// let bytes = b"PROXY TCP4 192.0.2.1 198.51.100.7 51000 443\r\nGET /";
/// let (header, len) = parse(bytes, 4096).unwrap().unwrap();
/// assert_eq!(header.source().unwrap().to_string(), "192.0.2.1:51000");
/// assert_eq!(&bytes[len..], b"GET /");
/// assert_eq!(parse(b"PROXY TC", 4096), Ok(None));
/// assert!(parse(b"GET / HTTP/1.1", 4096).is_err());
/// ```
pub fn parse(bytes: &[u8], limit: usize) -> Result<Option<(Header, usize)>, Malformed> {
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

fn parse_line(bytes: &[u8], limit: usize) -> Result<Option<(Header, usize)>, Malformed> {
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
    let header = match fields[..] {
        // The protocol says to ignore what follows.
        ["PROXY", "UNKNOWN", ..] => Header::unknown(),
        ["PROXY", family @ ("TCP4" | "TCP6"), source, target, from, to] => {
            let inet = |host, port| inet(family, host, port).ok_or(Malformed::Line);
            Header::between(inet(source, from)?, inet(target, to)?)
        }
        _ => return Err(Malformed::Line),
    };
    Ok(Some((header, end + 2)))
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

fn parse_binary(bytes: &[u8], limit: usize) -> Result<Option<(Header, usize)>, Malformed> {
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
    if is_local {
        // The protocol says to discard what follows.
        return Ok(Some((Header::local(), len)));
    }
    let (addresses, tlvs) = payload.split_at(needed);
    let is_whole = tlv::are_whole(tlvs);
    let mut header = match binary_addresses(family, addresses) {
        Some((source, target)) if is_whole => Header::between(source, target),
        Some(_) => return Err(Malformed::Extension),
        None => Header::unknown(),
    };
    // Behind addresses of no known family there may be anything.
    if is_whole {
        check_sum(&bytes[..len], HEAD + needed)?;
        header.tlvs = tlvs.to_vec();
    }
    Ok(Some((header, len)))
}

/// Checks the checksum of a whole header, if it has one; its extensions begin at `start`.
fn check_sum(header: &[u8], start: usize) -> Result<(), Malformed> {
    let mut all = tlv::checksums(&header[start..]);
    let Some((at, len)) = all.next() else { return Ok(()) };
    let (before, rest) = header.split_at(start + at);
    let (said, after) = rest.split_at(len);
    // The field itself counts as zeros.
    let sum = [before, &[0; 4], after].into_iter().fold(0, |sum, part| tlv::crc32c(part, sum));
    let is_right = said == sum.to_be_bytes() && all.next().is_none();
    if is_right { Ok(()) } else { Err(Malformed::Checksum) }
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
        0x31 => payload.split_at_checked(PATH_MAX).map(|(from, to)| (unix(from), unix(to))),
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
            Self::Extension => "its PROXY header has an extension that is cut off",
            Self::Checksum => "its PROXY header has a wrong checksum",
            Self::Limit => "its PROXY header is longer than the limit",
        })
    }
}

impl std::error::Error for Malformed {}

#[cfg(all(test, not(loom)))]
#[path = "parser_tests.rs"]
mod tests;
