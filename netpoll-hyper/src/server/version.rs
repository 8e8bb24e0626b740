//! Which version of HTTP a connection speaks, by its first bytes.

use netpoll_async::AsyncConnection;
use netpoll_core::Result;

/// What connections of HTTP/2 begin with. No request of HTTP/1 does.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Version {
    Http1,
    Http2,
    /// The peer has ended its stream before it was known.
    None,
}

/// Looks at the first bytes and takes none of them.
pub(crate) async fn detect(connection: &mut AsyncConnection) -> Result<Version> {
    loop {
        if let Some(version) = known(connection.fill_buf().await?) {
            return Ok(version);
        }
        let buffer = connection.buffer();
        let start = buffer.peek(PREFACE.len().min(buffer.len()))?;
        if let Some(version) = known(start) {
            return Ok(version);
        }
        if !connection.more().await? {
            return Ok(if connection.buffer().is_empty() { Version::None } else { Version::Http1 });
        }
    }
}

/// `None` if more bytes are needed.
fn known(start: &[u8]) -> Option<Version> {
    let compared = start.len().min(PREFACE.len());
    if start[..compared] != PREFACE[..compared] {
        return Some(Version::Http1);
    }
    (compared == PREFACE.len()).then_some(Version::Http2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_preface_is_told_from_methods_that_begin_alike() {
        assert_eq!(known(PREFACE), Some(Version::Http2));
        assert_eq!(known(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nand more"), Some(Version::Http2));
        for needs_more in [&b""[..], b"P", b"PRI", &PREFACE[..23]] {
            assert_eq!(known(needs_more), None);
        }
        for other in [&b"G"[..], b"PO", b"PRI * HTTP/1.1\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r "] {
            assert_eq!(known(other), Some(Version::Http1));
        }
    }
}
