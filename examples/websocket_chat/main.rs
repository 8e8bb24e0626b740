//! A chat room in the browser: a page, and web sockets (RFC 6455) that carry what is said.
//!
//! Shows a protocol crate that knows nothing of us, `tungstenite`, driven over a `Connection` as
//! over any `io::Read + io::Write`: under `Dispatch::Inline` reads never wait, so `WouldBlock` ends
//! a round. What is said is one frame, whose bytes all members' queues share.
//!
//! ```text
//! cargo run --release --example websocket_chat -- [ADDRESS]
//! http://127.0.0.1:7009/      (in two tabs of a browser)
//! ```

use std::collections::HashMap;
use std::io::{self, ErrorKind};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use netpoll::{
    Address, Bytes, CloseReason, Connection, Dispatch, Error, EventLoop, Handle, Listener, Result,
};
use tungstenite::protocol::WebSocketContext;
use tungstenite::protocol::frame::Frame;
use tungstenite::protocol::frame::coding::{Data, OpCode};
use tungstenite::{Error as Broken, Message};

mod upgrade;

/// The longest message, and the longest head of a request, in bytes.
const LONGEST: usize = 16 << 10;

#[derive(Clone, Default)]
struct Room(Arc<Mutex<HashMap<Address, Handle>>>);

struct Guest {
    address: Address,
    /// None while it speaks HTTP.
    socket: Option<WebSocketContext>,
}

impl Room {
    fn say(&self, text: Bytes) -> Result<()> {
        let mut frame = Vec::new();
        let message = Frame::message(text, OpCode::Data(Data::Text), true);
        message.format(&mut frame).map_err(io::Error::other)?;
        let frame = Bytes::from(frame);
        for guest in self.members().values() {
            if let Err(Error::Full) = guest.send(frame.clone()) {
                guest.abort(); // it does not read
            }
        }
        Ok(())
    }

    fn members(&self) -> MutexGuard<'_, HashMap<Address, Handle>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn listen(room: &Room, guest: &mut Guest, conn: &mut Connection) -> Result<()> {
    if guest.socket.is_none() {
        guest.socket = upgrade::serve(conn)?;
        if guest.socket.is_some() {
            room.members().insert(guest.address.clone(), conn.handle());
        }
    }
    let Some(socket) = &mut guest.socket else { return Ok(()) };
    loop {
        match socket.read(conn) {
            Ok(Message::Text(text)) => room.say(text.into())?,
            Ok(_) => {} // pings are answered by the crate
            Err(Broken::Io(error)) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(Broken::ConnectionClosed) => {
                conn.close();
                return Ok(());
            }
            Err(error) => return Err(io::Error::other(error).into()),
        }
    }
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
    let listener = Listener::bind("tcp", &address)?;
    println!("listening on {}", listener.local_addr()?);
    let room = Room::default();
    let rooms = room.clone();
    EventLoop::builder()
        .on_prepare(|conn: &Connection| Ok(Guest { address: conn.peer_addr(), socket: None }))
        .on_request(move |guest: &mut Guest, conn: &mut Connection| listen(&room, guest, conn))
        .on_disconnect(move |guest: Guest, why: &CloseReason| {
            rooms.members().remove(&guest.address);
            println!("{} leaves: {why}", guest.address);
        })
        .dispatch(Dispatch::Inline)
        .input_limit(LONGEST)
        .build()?
        .serve(listener)?;
    Ok(())
}
