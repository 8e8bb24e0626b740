//! The HTTP part: answers requests with the page, until one asks to become a WebSocket.

use netpoll::{Connection, Result, Writer};
use tungstenite::protocol::WebSocketContext;

use crate::handshake::asked;
use crate::request::{HEAD_MAX, Parsed, Request, parse};
use crate::socket;

const PAGE: &str = include_str!("page.html");

/// The protocol of a connection at this time.
pub(crate) enum Speaks {
    Http,
    /// The answer to the handshake is flushed.
    WebSocket(Box<WebSocketContext>),
    /// None: the last answer is written.
    Nothing,
}

/// Answers the requests that have arrived.
pub(crate) fn serve(conn: &mut Connection) -> Result<Speaks> {
    let (mut reader, mut writer) = conn.split();
    loop {
        let window = reader.len().min(HEAD_MAX);
        let input = reader.try_peek(window)?;
        let (request, length) = match parse(input) {
            Parsed::Whole(request, length) => (request, length),
            Parsed::Part => return Ok(Speaks::Http),
            Parsed::Refused(status) => {
                answer(&mut writer, status, "", &Request::REFUSED);
                return Ok(Speaks::Nothing);
            }
        };
        match (request.path, asked(&request, &input[..length])) {
            ("/", Some(Ok(accept))) => {
                writer.write_string("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n");
                writer.write_string("Connection: Upgrade\r\nSec-WebSocket-Accept: ");
                writer.write_string(&format!("{accept}\r\n\r\n"));
                writer.flush()?;
                reader.try_skip(length)?; // what is behind that are frames
                return Ok(Speaks::WebSocket(socket::open()));
            }
            ("/", Some(Err(status))) => {
                answer(&mut writer, status, "", &Request::REFUSED);
                return Ok(Speaks::Nothing);
            }
            ("/", None) if matches!(request.method, "GET" | "HEAD") => {
                answer(&mut writer, "200 OK", PAGE, &request);
            }
            ("/", None) => {
                answer(&mut writer, "405 Method Not Allowed\r\nAllow: GET, HEAD", "", &request);
            }
            _ => answer(&mut writer, "404 Not Found", "", &request),
        }
        if !request.keep_alive || request.old {
            return Ok(Speaks::Nothing);
        }
        reader.try_skip(length)?;
    }
}

fn answer(writer: &mut Writer<'_>, status: &str, body: &str, request: &Request<'_>) {
    let stays = request.keep_alive && !request.old;
    let close = if stays { "" } else { "Connection: close\r\n" };
    let body_sent = if request.method == "HEAD" { "" } else { body };
    writer.write_string(&format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/html; charset=utf-8\r\n{close}\
         Content-Length: {}\r\n\r\n{body_sent}",
        body.len(),
    ));
}
