//! The parts of a request's head, read strictly: targets, hosts, lengths, lists and lines.

use std::net::Ipv6Addr;

/// The path of a target: of `/path?query` or of `http://host/path?query` (RFC 9112, 3.2). None if
/// it has another form than its method requires.
pub(crate) fn path<'a>(method: &str, target: &'a str) -> Option<&'a str> {
    match method {
        "CONNECT" => return is_authority(target.as_bytes()).then_some(target),
        "OPTIONS" if target == "*" => return Some(target),
        _ if target.contains('#') => return None, // a client keeps the fragment
        _ => {}
    }
    let rest = target.split('?').next().unwrap_or(target);
    if rest.starts_with('/') {
        return Some(rest);
    }
    let (scheme, rest) = rest.split_once("://")?;
    let known = scheme.eq_ignore_ascii_case("http") || scheme.eq_ignore_ascii_case("https");
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let path = if path.is_empty() { "/" } else { path };
    (known && is_authority(authority.as_bytes())).then_some(path)
}

/// Whether a text is a host with or without a port: `a.example:80`, `[::1]`. No `user@` before it.
pub(crate) fn is_authority(text: &[u8]) -> bool {
    let (host, port) = match text.strip_prefix(b"[") {
        Some(rest) => {
            let Some(end) = rest.iter().position(|&byte| byte == b']') else { return false };
            let ip = std::str::from_utf8(&rest[..end]).map(str::parse::<Ipv6Addr>);
            if !matches!(ip, Ok(Ok(_))) {
                return false;
            }
            (&b"ip"[..], &rest[end + 1..])
        }
        None => text.split_at(text.iter().position(|&byte| byte == b':').unwrap_or(text.len())),
    };
    let in_name = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~%!$&'()*+,;=".contains(byte);
    !host.is_empty() && host.iter().all(in_name) && is_port(port)
}

/// Whether a length is 0. Digits alone make a length: no sign, no list, no space between.
pub(crate) fn is_zero(length: &[u8]) -> Option<bool> {
    let valid = !length.is_empty() && length.iter().all(u8::is_ascii_digit);
    valid.then(|| length.iter().all(|&digit| digit == b'0'))
}

/// Whether a field with a list of words as its value has this one.
pub(crate) fn lists(value: &[u8], word: &[u8]) -> bool {
    value.split(|&byte| byte == b',').any(|item| item.trim_ascii().eq_ignore_ascii_case(word))
}

/// Whether a line ends without a carriage return.
pub(crate) fn has_bare_line_feed(head: &[u8]) -> bool {
    let bare = |(at, &byte): (usize, &u8)| byte == b'\n' && (at == 0 || head[at - 1] != b'\r');
    head.iter().enumerate().any(bare)
}

/// Whether it is empty, or a colon and digits; no sign.
fn is_port(text: &[u8]) -> bool {
    text.is_empty()
        || text.split_first().is_some_and(|(&colon, digits)| {
            colon == b':' && digits.len() <= 5 && digits.iter().all(u8::is_ascii_digit)
        })
}
