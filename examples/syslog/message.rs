//! One message of syslog, as the C library and `logger` write it (RFC 3164) or as RFC 5424 has it.

use std::fmt;

const SEVERITIES: [&str; 8] =
    ["emerg", "alert", "crit", "err", "warning", "notice", "info", "debug"];
const FACILITIES: [&str; 24] = [
    "kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "authpriv",
    "ftp", "ntp", "audit", "alert", "clock", "local0", "local1", "local2", "local3", "local4",
    "local5", "local6", "local7",
];

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Message<'a> {
    pub(crate) facility: &'static str,
    pub(crate) severity: &'static str,
    /// The program, if it names itself.
    pub(crate) tag: &'a [u8],
    pub(crate) text: &'a [u8],
}

impl<'a> Message<'a> {
    /// Reads a datagram; `None` if it does not begin with a priority.
    pub(crate) fn parse(datagram: &'a [u8]) -> Option<Self> {
        let rest = datagram.strip_prefix(b"<")?;
        let (digits, rest) = split_once(rest, b'>')?;
        let is_number = (1..=3).contains(&digits.len()) && digits.iter().all(u8::is_ascii_digit);
        let digits = std::str::from_utf8(digits).ok().filter(|_| is_number)?;
        let priority: usize = digits.parse().ok()?;
        let facility = FACILITIES.get(priority / 8)?;
        let (tag, text) = match rest.strip_prefix(b"1 ") {
            Some(rest) => modern(rest)?,
            None => classic(rest),
        };
        let text = text.strip_suffix(b"\0").unwrap_or(text).trim_ascii_end();
        Some(Self { facility, severity: SEVERITIES[priority % 8], tag, text })
    }
}

/// `TIME HOST APP PROCESS ID [DATA]... TEXT`: the program and the text.
fn modern(rest: &[u8]) -> Option<(&[u8], &[u8])> {
    let (_time, rest) = split_once(rest, b' ')?;
    let (_host, rest) = split_once(rest, b' ')?;
    let (tag, rest) = split_once(rest, b' ')?;
    let (_process, rest) = split_once(rest, b' ')?;
    let (_id, rest) = split_once(rest, b' ')?;
    let behind = match rest.first()? {
        b'-' => &rest[1..],
        b'[' => &rest[data_end(rest)?..],
        _ => return None,
    };
    let text = behind.strip_prefix(b" ").unwrap_or(behind);
    Some((tag, text.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(text))) // a mark that it is UTF-8
}

/// Where structured data ends. A value is in quotes, where `\` takes the next byte as it is.
fn data_end(bytes: &[u8]) -> Option<usize> {
    let (mut is_quoted, mut is_inside, mut at) = (false, false, 0);
    while let Some(byte) = bytes.get(at) {
        match (byte, is_inside) {
            (b'\\', true) if is_quoted => at += 1,
            (b'"', true) => is_quoted = !is_quoted,
            (b']', true) if !is_quoted => is_inside = false,
            (b'[', false) => is_inside = true,
            (_, false) => return Some(at),
            _ => {}
        }
        at += 1;
    }
    (!is_inside).then_some(at.min(bytes.len()))
}

/// `Dec  1 10:00:00 TAG[PID]: TEXT`: the tag and the text. Without a time all of it is text.
fn classic(rest: &[u8]) -> (&[u8], &[u8]) {
    let is_time = rest.len() > 16 && rest[3] == b' ' && rest[9] == b':' && rest[12] == b':';
    let rest = if is_time { &rest[16..] } else { rest };
    let is_tag = |byte: &u8| byte.is_ascii_graphic() && !b":[".contains(byte);
    let end = rest.iter().position(|byte| !is_tag(byte)).unwrap_or(rest.len());
    match split_once(&rest[end..], b':') {
        Some((process, text)) if process.is_empty() || is_process(process) => {
            (&rest[..end], text.strip_prefix(b" ").unwrap_or(text))
        }
        _ => (&[], rest),
    }
}

/// `[123]`
fn is_process(bytes: &[u8]) -> bool {
    let id = bytes.strip_prefix(b"[").and_then(|rest| rest.strip_suffix(b"]"));
    id.is_some_and(|id| id.iter().all(u8::is_ascii_digit))
}

fn split_once(bytes: &[u8], at: u8) -> Option<(&[u8], &[u8])> {
    let place = bytes.iter().position(|byte| *byte == at)?;
    Some((&bytes[..place], &bytes[place + 1..]))
}

impl fmt::Display for Message<'_> {
    /// On one line, whatever a sender writes into it: control characters are escaped.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{} ", self.facility, self.severity)?;
        if !self.tag.is_empty() {
            write!(f, "{}: ", String::from_utf8_lossy(self.tag).escape_debug())?;
        }
        write!(f, "{}", String::from_utf8_lossy(self.text).escape_debug())
    }
}
