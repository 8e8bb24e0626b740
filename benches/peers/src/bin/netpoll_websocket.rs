//! netpoll and tungstenite, after the example `websocket_chat`: messages are sent back.

use netpoll::{Connection, Dispatch, Error, EventLoop, Listener, Result};
use netpoll_peers::Arguments;
use tungstenite::error::Error as Broken;
use tungstenite::handshake::derive_accept_key;
use tungstenite::protocol::{Role, WebSocketContext};

/// The longest head of a request, in bytes.
const HEAD_MAX: usize = 4 << 10;

/// None before the handshake.
type Socket = Option<Box<WebSocketContext>>;

fn main() -> Result<()> {
    let arguments = Arguments::read(&[]);
    let address = format!("127.0.0.1:{}", arguments.port);
    let listener = Listener::options().reuse_port(true).bind("tcp", &address)?;
    println!("listening on {}", listener.local_addr()?);
    EventLoop::builder()
        .on_prepare(|_: &Connection| Ok(Socket::None))
        .on_request(serve)
        .loops(arguments.threads)
        .dispatch(Dispatch::Inline) // reading a frame must not wait for the rest of it
        .build()?
        .serve(listener)?;
    Ok(())
}

fn serve(socket: &mut Socket, conn: &mut Connection) -> Result<()> {
    if socket.is_none() && agree(conn)? {
        *socket = Some(Box::new(WebSocketContext::new(Role::Server, None)));
    }
    match socket {
        Some(socket) => echo(socket, conn),
        None => Ok(()),
    }
}

/// Answers the handshake, once it is there; whether it is.
fn agree(conn: &mut Connection) -> Result<bool> {
    let (mut reader, mut writer) = conn.split();
    let window = reader.len().min(HEAD_MAX);
    let input = reader.try_peek(window)?;
    let Some(end) = input.windows(4).position(|four| four == b"\r\n\r\n") else {
        return if window == HEAD_MAX { Err(refusal("the head is too long")) } else { Ok(false) };
    };
    let head = String::from_utf8_lossy(&input[..end]);
    let key = head.lines().filter_map(|line| line.split_once(": "));
    let key = key.into_iter().find(|(name, _)| name.eq_ignore_ascii_case("Sec-WebSocket-Key"));
    let (_, key) = key.ok_or_else(|| refusal("there is no key"))?;
    let accept = derive_accept_key(key.trim().as_bytes());
    writer.write_string(&format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {accept}\r\n\r\n"
    ));
    writer.flush()?;
    reader.try_skip(end + 4)?; // what is behind that are frames
    Ok(true)
}

/// Sends back the messages that have arrived, with one flush.
fn echo(socket: &mut WebSocketContext, conn: &mut Connection) -> Result<()> {
    loop {
        match socket.read(conn) {
            Ok(message) if message.is_text() || message.is_binary() => {
                socket.write(conn, message).map_err(broken)?;
            }
            Ok(_) => {} // the crate answers pings, and a close by the same code
            Err(error) => {
                return match broken(error) {
                    Error::WouldBlock => socket.flush(conn).map_err(broken),
                    error => Err(error),
                };
            }
        }
    }
}

fn broken(error: Broken) -> Error {
    match error {
        Broken::Io(error) => error.into(),
        error => std::io::Error::other(error).into(),
    }
}

fn refusal(why: &'static str) -> Error {
    std::io::Error::other(why).into()
}
