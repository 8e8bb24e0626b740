//! The WebSocket part: takes messages, and tells a client why its socket is closed (RFC 6455, 7.4).

use netpoll::{Bytes, Connection, Result};
use tungstenite::error::{Error as Broken, ProtocolError};
use tungstenite::protocol::frame::coding::CloseCode;
use tungstenite::protocol::{CloseFrame, Message, Role, WebSocketConfig, WebSocketContext};

use crate::MESSAGE_MAX;
use crate::pace::Pace;

/// What the crate keeps for each socket, also for one that is silent, in bytes.
const BUFFER: usize = 1 << 10;

/// The crate's own defaults let one frame take 16 MiB, and an idle socket 128 KiB.
pub(crate) fn open() -> Box<WebSocketContext> {
    let limits = WebSocketConfig::default()
        .max_message_size(Some(MESSAGE_MAX))
        .max_frame_size(Some(MESSAGE_MAX))
        .read_buffer_size(BUFFER)
        .write_buffer_size(0)
        .max_write_buffer_size(2 * MESSAGE_MAX);
    Box::new(WebSocketContext::new(Role::Server, Some(limits)))
}

/// Takes the messages that have arrived. Returns whether more can follow.
pub(crate) fn listen(
    socket: &mut WebSocketContext,
    pace: &mut Pace,
    conn: &mut Connection,
    say: impl Fn(Bytes) -> Result<()>,
) -> Result<bool> {
    while pace.allows_more(conn)? {
        match socket.read(conn) {
            Ok(Message::Text(text)) => say(text.into())?,
            Ok(Message::Binary(_)) => return leave(socket, conn, CloseCode::Unsupported),
            Ok(_) => {} // the crate answers pings, and a close by the same code
            Err(Broken::Io(error)) => return Err(error.into()), // `WouldBlock` is no failure
            Err(
                Broken::ConnectionClosed
                | Broken::Protocol(ProtocolError::ResetWithoutClosingHandshake),
            ) => return Ok(false),
            Err(Broken::Capacity(_)) => return leave(socket, conn, CloseCode::Size),
            Err(Broken::Utf8(_)) => return leave(socket, conn, CloseCode::Invalid),
            Err(_) => return leave(socket, conn, CloseCode::Protocol),
        }
        pace.count();
    }
    Ok(true)
}

/// Sends the reason of the end.
fn leave(socket: &mut WebSocketContext, conn: &mut Connection, code: CloseCode) -> Result<bool> {
    match socket.close(conn, Some(CloseFrame { code, reason: "".into() })) {
        Ok(()) | Err(Broken::ConnectionClosed) => Ok(false),
        Err(Broken::Io(error)) => Err(error.into()),
        Err(error) => Err(std::io::Error::other(error).into()),
    }
}
