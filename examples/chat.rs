//! A chat room by lines: what one says, all others hear.
//!
//! Shows a broadcast through `Handle`s, which waits for nobody: who reads so slowly that more is
//! queued for it than the high-water mark allows makes `send` say `Error::Full`, and is dropped.
//!
//! ```text
//! cargo run --release --example chat -- [ADDRESS] [--high BYTES]
//! nc 127.0.0.1 7004        (twice; the first line of each is its name)
//! ```

use std::collections::HashMap;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use netpoll::{
    Address, Bytes, CloseReason, Connection, Dispatch, Error, EventLoop, Handle, Listener, Result,
};

/// The longest line, in bytes. A longer one closes its connection.
const LONGEST: usize = 4 << 10;

/// Who is in the room.
#[derive(Clone, Default)]
struct Room(Arc<Mutex<HashMap<Address, Handle>>>);

struct Guest {
    name: Option<String>,
    address: Address,
}

impl Room {
    /// Says `line` to all. The one block of it is shared by all their queues.
    fn say(&self, line: String) {
        let line = Bytes::from(line);
        for (address, guest) in &*self.members() {
            if let Err(Error::Full) = guest.send(line.clone()) {
                println!("{address} is dropped: it does not read");
                guest.abort(); // on_disconnect takes it out of the room
            }
        }
    }

    fn members(&self) -> MutexGuard<'_, HashMap<Address, Handle>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Serves the whole lines that have arrived.
fn listen(room: &Room, guest: &mut Guest, conn: &mut Connection) -> Result<()> {
    loop {
        let mut reader = conn.reader();
        let line = String::from_utf8_lossy(reader.try_until(b'\n')?).trim_end().to_owned();
        if let Some(name) = &guest.name {
            room.say(format!("{name}: {line}\n"));
        } else {
            room.say(format!("* {line} is here\n"));
            room.members().insert(guest.address.clone(), conn.handle());
            conn.writer().write_string("* welcome\n");
            guest.name = Some(line);
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
    let usage = || Error::config("usage: chat [ADDRESS] [--high BYTES]");
    let (mut address, mut high) = ("127.0.0.1:7004".to_owned(), 1 << 20);
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--high" => high = args.next().and_then(|it| it.parse().ok()).ok_or_else(usage)?,
            _ => address = arg,
        }
    }
    let listener = Listener::bind("tcp", &address)?;
    println!("listening on {}", listener.local_addr()?);
    let room = Room::default();
    let rooms = room.clone();
    EventLoop::builder()
        .on_prepare(|conn: &Connection| Ok(Guest { name: None, address: conn.peer_addr() }))
        .on_request(move |guest: &mut Guest, conn: &mut Connection| listen(&room, guest, conn))
        .on_disconnect(move |guest: Guest, why: &CloseReason| {
            rooms.members().remove(&guest.address);
            println!("{} leaves: {why}", guest.address);
            if let Some(name) = guest.name {
                rooms.say(format!("* {name} leaves\n"));
            }
        })
        .dispatch(Dispatch::Inline) // nothing here blocks
        .input_limit(LONGEST)
        .output_limits(high / 4, high)
        .build()?
        .serve(listener)?;
    Ok(())
}
