//! Requests: the parts of their heads that a server needs, and what it refuses.
//!
//! A server and a proxy before it must always agree on where a request ends. So everything that two
//! parsers could read in two ways is refused: see `understand`, and `grammar.rs`.

use std::mem::MaybeUninit;

use httparse::{Error, Header, Status};

use crate::grammar::{has_bare_line_feed, is_authority, is_zero, lists, path};

/// The longest head of a request, in bytes.
pub(crate) const HEAD_MAX: usize = 8 << 10;
/// How many header fields a request may have.
pub(crate) const FIELDS_MAX: usize = 64;

const BAD: &str = "400 Bad Request";
const TOO_LONG: &str = "431 Request Header Fields Too Large";
/// This server takes no bodies.
const TOO_LARGE: &str = "413 Content Too Large";
const NO_SUCH_CODING: &str = "501 Not Implemented";
const NO_SUCH_VERSION: &str = "505 HTTP Version Not Supported";

/// What is at the start of the input.
pub(crate) enum Parsed<'a> {
    /// A request, and how many bytes its head takes. It has no body.
    Whole(Request<'a>, usize),
    /// A part of one.
    Part,
    /// A request to refuse with this status. Nothing is read after it, since a body may follow.
    Refused(&'static str),
}

/// The head of a request.
pub(crate) struct Request<'a> {
    pub(crate) method: &'a str,
    pub(crate) path: &'a str,
    pub(crate) keep_alive: bool,
    /// An HTTP/1.0 client must be told that the connection stays.
    pub(crate) old: bool,
}

impl Request<'_> {
    /// Used in place of a request that is refused.
    pub(crate) const REFUSED: Self = Self { method: "", path: "", keep_alive: false, old: false };
}

/// Parses what has arrived. The outcome does not depend on how much arrived at once.
pub(crate) fn parse(bytes: &[u8]) -> Parsed<'_> {
    let head = &bytes[..bytes.len().min(HEAD_MAX)];
    let mut fields = [const { MaybeUninit::uninit() }; FIELDS_MAX];
    let mut parsed = httparse::Request::new(&mut []);
    match parsed.parse_with_uninit_headers(head, &mut fields) {
        Ok(Status::Complete(length)) => match understand(&parsed, &head[..length]) {
            Ok(request) => Parsed::Whole(request, length),
            Err(status) => Parsed::Refused(status),
        },
        Ok(Status::Partial) if head.len() < HEAD_MAX => Parsed::Part,
        Ok(Status::Partial) | Err(Error::TooManyHeaders) => Parsed::Refused(TOO_LONG),
        Err(Error::Version) => Parsed::Refused(NO_SUCH_VERSION),
        Err(_) => Parsed::Refused(BAD),
    }
}

fn understand<'a>(
    parsed: &httparse::Request<'_, 'a>,
    head: &[u8],
) -> Result<Request<'a>, &'static str> {
    let (Some(method), Some(target)) = (parsed.method, parsed.path) else { return Err(BAD) };
    let old = parsed.version == Some(0);
    let (mut hosts, mut lengths, mut body, mut coding) = (0, 0, false, false);
    let (mut keep_alive, mut close) = (!old, false);
    for Header { name, value } in parsed.headers.iter() {
        if name.eq_ignore_ascii_case("host") {
            hosts += 1;
            if !value.is_empty() && !is_authority(value) {
                return Err(BAD);
            }
        } else if name.eq_ignore_ascii_case("connection") {
            keep_alive |= lists(value, b"keep-alive");
            close |= lists(value, b"close"); // wins, in any place
        } else if name.eq_ignore_ascii_case("content-length") {
            lengths += 1;
            body |= !is_zero(value).ok_or(BAD)?;
        } else if name.eq_ignore_ascii_case("transfer-encoding") {
            coding = true;
        }
    }
    // RFC 9112: exactly one `Host` since HTTP/1.1 (3.2), at most one length, and none beside a
    // coding, which HTTP/1.0 does not have (6.1, 6.3); each line ends in CRLF (2.2).
    if hosts > 1
        || (hosts == 0 && !old)
        || lengths > 1
        || (coding && (lengths > 0 || old))
        || has_bare_line_feed(head)
    {
        return Err(BAD);
    }
    if coding || body {
        return Err(if coding { NO_SUCH_CODING } else { TOO_LARGE });
    }
    let path = path(method, target).ok_or(BAD)?;
    Ok(Request { method, path, keep_alive: keep_alive && !close, old })
}
