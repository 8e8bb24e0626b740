//! The HTTP part: answers requests with the page, until one asks to become a WebSocket.

use std::io::{self, ErrorKind};

use netpoll::{Connection, Result};
use tungstenite::handshake::derive_accept_key;
use tungstenite::protocol::{Role, WebSocketConfig, WebSocketContext};

use crate::LONGEST;

const PAGE: &str = include_str!("page.html");

/// Answers the requests that are there. Returns what speaks the WebSocket protocol, once that was
/// asked for; the answer to it is flushed.
pub(crate) fn serve(conn: &mut Connection) -> Result<Option<WebSocketContext>> {
    let (mut reader, mut writer) = conn.split();
    loop {
        let buffered = reader.len().max(1);
        let mut headers = [httparse::EMPTY_HEADER; 64];
        let mut request = httparse::Request::new(&mut headers);
        let parsed = request.parse(reader.try_peek(buffered)?).map_err(invalid)?;
        let httparse::Status::Complete(len) = parsed else {
            // `WouldBlock`, or an error if no more may be buffered.
            reader.try_peek(buffered + 1)?;
            continue;
        };
        let mut headers = request.headers.iter();
        let key = headers.find(|header| header.name.eq_ignore_ascii_case("sec-websocket-key"));
        let accept = key.map(|key| derive_accept_key(key.value));
        reader.skip(len)?;
        if let Some(accept) = accept {
            writer.write_string("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n");
            writer.write_string("Connection: Upgrade\r\nSec-WebSocket-Accept: ");
            writer.write_string(&format!("{accept}\r\n\r\n"));
            writer.flush()?;
            let limits = WebSocketConfig::default().max_message_size(Some(LONGEST));
            return Ok(Some(WebSocketContext::new(Role::Server, Some(limits))));
        }
        writer.write_string("HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\n");
        writer.write_string(&format!("Content-Length: {}\r\n\r\n{PAGE}", PAGE.len()));
    }
}

fn invalid(error: httparse::Error) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, error)
}
