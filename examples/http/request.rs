//! Requests: what of their heads this server cares about, and what it refuses.

use std::mem::MaybeUninit;

use httparse::{Error, Header, Status};

/// The longest head of a request, in bytes.
pub(crate) const HEAD_MAX: usize = 8 << 10;
/// How many header fields a request may have.
const FIELDS_MAX: usize = 64;

const BAD: &str = "400 Bad Request";
const TOO_LONG: &str = "431 Request Header Fields Too Large";
/// This server takes no bodies.
const TOO_LARGE: &str = "413 Content Too Large";

/// What stands at the start of the input.
pub(crate) enum Parsed<'a> {
    /// A request, and how many bytes its head takes. It has no body.
    Whole(Request<'a>, usize),
    /// A part of one.
    Part,
    /// None that is answered: with this status, and then no more.
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
    /// Stands in for one that is refused.
    pub(crate) const REFUSED: Self = Self { method: "", path: "", keep_alive: false, old: false };
}

/// Parses what has arrived. The outcome does not depend on how much arrived at once.
pub(crate) fn parse(bytes: &[u8]) -> Parsed<'_> {
    let head = &bytes[..bytes.len().min(HEAD_MAX)];
    let mut fields = [const { MaybeUninit::uninit() }; FIELDS_MAX];
    let mut parsed = httparse::Request::new(&mut []);
    match parsed.parse_with_uninit_headers(head, &mut fields) {
        Ok(Status::Complete(length)) => match understand(&parsed) {
            Ok(request) => Parsed::Whole(request, length),
            Err(status) => Parsed::Refused(status),
        },
        Ok(Status::Partial) if head.len() < HEAD_MAX => Parsed::Part,
        Ok(Status::Partial) | Err(Error::TooManyHeaders) => Parsed::Refused(TOO_LONG),
        Err(_) => Parsed::Refused(BAD),
    }
}

fn understand<'a>(parsed: &httparse::Request<'_, 'a>) -> Result<Request<'a>, &'static str> {
    let (Some(method), Some(target)) = (parsed.method, parsed.path) else { return Err(BAD) };
    let old = parsed.version == Some(0);
    let (mut hosts, mut keep_alive) = (0, !old);
    for Header { name, value } in parsed.headers.iter() {
        if name.eq_ignore_ascii_case("host") {
            hosts += 1;
        } else if name.eq_ignore_ascii_case("connection") {
            keep_alive = (keep_alive || lists(value, b"keep-alive")) && !lists(value, b"close");
        } else if name.eq_ignore_ascii_case("content-length") {
            match std::str::from_utf8(value).map(str::parse::<u64>) {
                Ok(Ok(0)) => {}
                Ok(Ok(_)) => return Err(TOO_LARGE),
                _ => return Err(BAD),
            }
        } else if name.eq_ignore_ascii_case("transfer-encoding") {
            return Err(TOO_LARGE);
        }
    }
    // RFC 9112, 3.2: exactly one, since HTTP/1.1.
    if hosts > 1 || (hosts == 0 && !old) {
        return Err(BAD);
    }
    Ok(Request { method, path: path(target), keep_alive, old })
}

/// Whether a field whose value is a list of words has this one.
fn lists(value: &[u8], word: &[u8]) -> bool {
    value.split(|&byte| byte == b',').any(|item| item.trim_ascii().eq_ignore_ascii_case(word))
}

/// The path of `/path?query` and of `http://host/path?query`.
fn path(target: &str) -> &str {
    let path = match target.split_once("://") {
        Some((scheme, rest)) if !scheme.contains('/') => {
            rest.find('/').map_or("/", |at| &rest[at..])
        }
        _ => target,
    };
    path.split('?').next().unwrap_or(path)
}
