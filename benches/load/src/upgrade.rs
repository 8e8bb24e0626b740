//! From HTTP to a WebSocket: one request and its answer, before anything is measured.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// How long the server may take to answer.
const TIMEOUT: Duration = Duration::from_secs(10);
/// A head that is longer is no answer to ours.
const HEAD_MAX: usize = 4096;
const HEAD_END: &[u8] = b"\r\n\r\n";

/// Asks the server to go on with frames, and waits until it agrees.
pub(crate) fn ask(socket: &TcpStream, address: SocketAddr) -> io::Result<()> {
    socket.set_nonblocking(false)?;
    socket.set_read_timeout(Some(TIMEOUT))?;
    let request = format!(
        "GET / HTTP/1.1\r\nHost: {address}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    );
    let mut stream = socket;
    stream.write_all(request.as_bytes())?;
    let head = read_head(stream)?;
    socket.set_nonblocking(true)?;
    let agreed = head.starts_with(b"HTTP/1.1 101 ")
        // The key's answer is the one of RFC 6455, 1.3.
        && head.windows(28).any(|part| part == b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    if agreed {
        Ok(())
    } else {
        let said = String::from_utf8_lossy(&head);
        let line = said.lines().next().unwrap_or_default().to_owned();
        Err(io::Error::new(ErrorKind::InvalidData, format!("no WebSocket, but `{line}`")))
    }
}

/// Byte by byte, so that nothing is taken of what follows.
fn read_head(mut from: impl Read) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    while !head.ends_with(HEAD_END) && head.len() < HEAD_MAX {
        let mut byte = [0];
        from.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    Ok(head)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_ends_where_it_ends() {
        let mut answer = &b"HTTP/1.1 101 x\r\n\r\nframe"[..];
        assert_eq!(read_head(&mut answer).unwrap(), b"HTTP/1.1 101 x\r\n\r\n");
        assert_eq!(answer, b"frame");
        assert_eq!(read_head(io::repeat(b'x')).unwrap().len(), HEAD_MAX);
        assert!(read_head(&b"HTTP"[..]).is_err());
    }
}
