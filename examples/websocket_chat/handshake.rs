//! The opening handshake (RFC 6455, 4.2.1): which requests ask for a WebSocket, and what they must
//! have.

use httparse::{EMPTY_HEADER, Header};
use tungstenite::handshake::derive_accept_key;

use crate::grammar::lists;
use crate::request::{FIELDS_MAX, Request};

const BAD: &str = "400 Bad Request";
const FORBIDDEN: &str = "403 Forbidden";
const NOT_GET: &str = "405 Method Not Allowed\r\nAllow: GET";
const OTHER_VERSION: &str = "426 Upgrade Required\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                             Sec-WebSocket-Version: 13";

/// The answer to a request with this head, if it asks for a WebSocket: the proof that the server
/// has understood it, or the status that refuses it.
pub(crate) fn asked(request: &Request<'_>, head: &[u8]) -> Option<Result<String, &'static str>> {
    let mut fields = [EMPTY_HEADER; FIELDS_MAX];
    let mut parsed = httparse::Request::new(&mut fields);
    parsed.parse(head).ok()?; // it was parsed before
    let fields = Fields(parsed.headers);
    let asks = fields.list("upgrade", b"websocket") || fields.has("sec-websocket-key");
    asks.then(|| accept(request, &fields))
}

fn accept(request: &Request<'_>, fields: &Fields<'_>) -> Result<String, &'static str> {
    if request.method != "GET" {
        return Err(NOT_GET);
    }
    let upgrades = fields.list("upgrade", b"websocket") && fields.list("connection", b"upgrade");
    if request.old || !upgrades {
        return Err(BAD);
    }
    if fields.only("sec-websocket-version") != Some(b"13") {
        return Err(OTHER_VERSION);
    }
    // Browsers name the page that opens the socket. If any page could do so, a foreign page would
    // act with the rights of the user.
    if fields.has("origin") && !is_ours(fields.only("origin"), fields.only("host")) {
        return Err(FORBIDDEN);
    }
    let key = fields.only("sec-websocket-key").filter(|key| is_key(key)).ok_or(BAD)?;
    Ok(derive_accept_key(key))
}

/// Whether the page is one of the host that it talks to.
fn is_ours(origin: Option<&[u8]>, host: Option<&[u8]>) -> bool {
    let (Some(origin), Some(host)) = (origin, host) else { return false };
    let from = origin.strip_prefix(b"http://").or_else(|| origin.strip_prefix(b"https://"));
    from.is_some_and(|from| from.eq_ignore_ascii_case(host))
}

/// Whether it is 16 bytes in base64: 22 digits, of which the last one has two bits, and two `=`.
fn is_key(text: &[u8]) -> bool {
    let is_digit = |byte: &u8| byte.is_ascii_alphanumeric() || b"+/".contains(byte);
    text.len() == 24
        && text[..22].iter().all(is_digit)
        && b"AQgw".contains(&text[21])
        && text.ends_with(b"==")
}

struct Fields<'a>(&'a [Header<'a>]);

impl<'a> Fields<'a> {
    /// The values of all fields with that name.
    fn all(&self, name: &str) -> impl Iterator<Item = &'a [u8]> {
        let named = self.0.iter().filter(move |field| field.name.eq_ignore_ascii_case(name));
        named.map(|field| field.value)
    }

    fn has(&self, name: &str) -> bool {
        self.all(name).next().is_some()
    }

    /// The value of the one field with that name; none if there are more.
    fn only(&self, name: &str) -> Option<&'a [u8]> {
        let mut all = self.all(name);
        all.next().filter(|_| all.next().is_none())
    }

    fn list(&self, name: &str, word: &[u8]) -> bool {
        self.all(name).any(|value| lists(value, word))
    }
}
