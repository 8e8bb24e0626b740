//! A chat room by lines: all members get what one of them says.
//!
//! Shows a `Group`: `broadcast` never waits. A client that reads so slowly that more is queued than
//! the high-water mark allows is dropped.
//!
//! Its limits: a name within 10 s, of 16 letters or digits; lines of 1 KiB, 10 of them a second
//! (`pace`), without what would control a terminal; 256 KiB of output, or `--high`; an hour without
//! a byte either way; 1 000 clients, 50 new ones a second.
//!
//! ```text
//! cargo run --release --example chat -- [ADDRESS] [--high BYTES]
//! nc 127.0.0.1 7004        (twice; the first line of each is its name)
//! ```

use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use netpoll::{Address, CloseReason, Connection, Dispatch, Error, EventLoop, Listener, Result};
use pace::Pace;
use room::Room;

#[path = "../pace/mod.rs"]
mod pace;
mod room;

/// The longest line, in bytes. A longer one closes its connection.
const LINE_MAX: usize = 1 << 10;
/// How long a client may take to send its name.
const PATIENCE: Duration = Duration::from_secs(10);
/// How much the kernel queues for a client: its default of some 2.5 MiB would hide for long that a
/// client does not read.
const KERNEL_QUEUE: usize = 16 << 10;

struct Client {
    name: Option<String>,
    address: Address,
    pace: Pace,
}

/// Serves the whole lines that have arrived.
fn listen(room: &Room, client: &mut Client, conn: &mut Connection) -> Result<()> {
    while client.pace.allows_more(conn)? {
        let line = printable(conn.reader().try_until(b'\n')?);
        client.pace.count();
        if let Some(name) = &client.name {
            room.say(format!("{name}: {line}\n"));
        } else if room.join(&line, &conn.handle()) {
            client.name = Some(line);
            conn.close_at(None);
        } else {
            conn.writer().write_string("* a name has 1 to 16 letters or digits, and one owner\n");
        }
    }
    Ok(())
}

/// A line without its end, and without what would control a terminal: control characters, which
/// begin escape sequences, and marks that turn the direction of writing.
fn printable(line: &[u8]) -> String {
    let line = String::from_utf8_lossy(line);
    line.chars().filter(|&letter| !letter.is_control() && !turns(letter)).collect()
}

fn turns(letter: char) -> bool {
    matches!(letter, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Digits alone: `str::parse` takes `+1` as well.
fn number(text: &str) -> Option<usize> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
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
    let (mut address, mut high) = ("127.0.0.1:7004".to_owned(), 256 << 10);
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--high" => high = args.next().and_then(|it| number(&it)).ok_or_else(usage)?,
            flag if flag.starts_with('-') => return Err(usage()),
            _ => address = arg,
        }
    }
    let listener = Listener::options().send_buffer(KERNEL_QUEUE).bind("tcp", &address)?;
    println!("listening on {}", listener.local_addr()?);
    let room = Arc::new(Room::new()?);
    let left = room.clone();
    EventLoop::builder()
        .on_prepare(|conn: &Connection| {
            conn.handle().close_at(Some(Instant::now() + PATIENCE));
            Ok(Client { name: None, address: conn.peer_addr(), pace: Pace::new() })
        })
        .on_request(move |client: &mut Client, conn: &mut Connection| listen(&room, client, conn))
        .on_disconnect(move |client: Client, why: &CloseReason| {
            println!("{} leaves: {why}", client.address);
            client.name.iter().for_each(|name| left.leave(name));
        })
        .dispatch(Dispatch::Inline) // nothing here blocks
        .input_limit(LINE_MAX)
        .output_limits(high / 4, high)
        .idle_timeout(Duration::from_secs(3600))
        .max_connections(1000)
        .accept_rate(50, 200)
        .build()?
        .serve(listener)?;
    Ok(())
}
