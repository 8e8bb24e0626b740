//! A chat room in the browser: a page, and web sockets (RFC 6455) that carry the messages.
//!
//! Shows a protocol crate that does not know netpoll, `tungstenite`, driven over a `Connection` as
//! over any `io::Read + io::Write`: under `Dispatch::Inline` reads never wait, so `WouldBlock` ends
//! a round. A message is one frame, and all members' queues share its bytes.
//!
//! Its limits: 10 s for the HTTP part, messages and frames of 16 KiB, 10 of them a second (`pace`),
//! 256 KiB of output, then a member is dropped; 1 000 clients; TCP's probes for clients that
//! vanished. Pages of other sites may not open a socket (`handshake.rs`).
//!
//! ```text
//! cargo run --release --example websocket_chat -- [ADDRESS]
//! http://127.0.0.1:7009/      (in two tabs of a browser)
//! ```

use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use netpoll::{CloseReason, Connection, Dispatch, EventLoop, Keepalive, Listener, Result};
use pace::Pace;
use room::{Id, Room};
use upgrade::Speaks;

#[path = "../http/grammar.rs"]
mod grammar;
mod handshake;
#[path = "../pace/mod.rs"]
mod pace;
#[path = "../http/request.rs"]
mod request;
mod room;
mod socket;
mod upgrade;

/// The longest message, and the longest frame, in bytes.
const MESSAGE_MAX: usize = 16 << 10;
/// How long the HTTP part may take.
const HTTP: Duration = Duration::from_secs(10);
/// How long bytes are taken after the last message to a client. A socket that is closed with unread
/// bytes resets, and its client may lose that message.
const FAREWELL: Duration = Duration::from_secs(2);
/// A peer that vanished silently is found after a minute and a half.
const PROBES: Keepalive =
    Keepalive { idle: Duration::from_secs(60), interval: Duration::from_secs(10), count: 3 };

struct Client {
    speaks: Speaks,
    /// Set once it is in the room.
    id: Option<Id>,
    pace: Pace,
}

fn serve_client(room: &Room, client: &mut Client, conn: &mut Connection) -> Result<()> {
    if let Speaks::Nothing = client.speaks {
        let mut reader = conn.reader();
        return reader.try_skip(reader.len());
    }
    if let Speaks::Http = client.speaks {
        client.speaks = upgrade::serve(conn)?;
        if let Speaks::WebSocket(_) = client.speaks {
            conn.close_at(None);
            client.id = Some(room.join(conn.handle()));
        }
    }
    if let Speaks::WebSocket(socket) = &mut client.speaks
        && !socket::listen(socket, &mut client.pace, conn, |text| room.say(text))?
    {
        client.speaks = Speaks::Nothing;
    }
    if let Speaks::Nothing = client.speaks {
        client.id.into_iter().for_each(|id| room.leave(id));
        conn.shutdown_write();
        conn.close_at(Some(Instant::now() + FAREWELL));
    }
    Ok(())
}

fn main() -> ExitCode {
    match serve() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn serve() -> Result<()> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:7009".into());
    let listener = Listener::options().keepalive(PROBES).bind("tcp", &address)?;
    println!("listening on {}", listener.local_addr()?);
    let room = Arc::new(Room::default());
    let left = room.clone();
    EventLoop::builder()
        .on_prepare(|conn: &Connection| {
            conn.handle().close_at(Some(Instant::now() + HTTP));
            Ok(Client { speaks: Speaks::Http, id: None, pace: Pace::new() })
        })
        .on_request(move |client: &mut Client, conn: &mut Connection| {
            serve_client(&room, client, conn)
        })
        .on_disconnect(move |client: Client, why: &CloseReason| {
            if let Some(id) = client.id {
                left.leave(id);
                println!("client {id} leaves: {why}");
            }
        })
        .dispatch(Dispatch::Inline)
        .input_limit(MESSAGE_MAX)
        .output_limits(64 << 10, 256 << 10)
        .max_connections(1000)
        .build()?
        .serve(listener)?;
    Ok(())
}
