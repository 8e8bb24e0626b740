//! A store in memory that Redis clients can use.
//!
//! Shows pipelining over shared data: several loops receive and send, and a callback takes the one
//! lock once for all commands that have arrived, so each command is atomic, as in Redis. The store
//! copies what it keeps: a slice of the input would keep its block alive, and count against the
//! `held_limit` of its connection for as long.
//!
//! Its limits: commands of 4 MiB and 65 536 arguments, answers of 8 MiB, a store of 1 024 MiB, and
//! for all clients together 512 MiB of input and output; 1 000 clients, each of which may be silent
//! for 5 min and must send 1 KiB in 10 s of a command that has begun.
//!
//! ```text
//! cargo run --release --example redis -- [ADDRESS [MIB]]
//! redis-cli -p 7379 set greeting hello
//! redis-benchmark -p 7379 -q -P 16 -t set,get,incr,lpush,lrange_100,mset
//! ```

mod about;
mod answers;
mod commands;
mod expiry;
mod resp;
mod store;
mod value;

use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use commands::{Next, execute};
use netpoll::{Connection, Dispatch, Error, EventLoop, Listener, ReceiveRate, Result};
use resp::Parser;
use store::Store;

/// The longest command, in bytes.
const COMMAND_MAX: usize = 4 << 20;
/// The longest answer, in bytes. One value always fits.
const ANSWER_MAX: usize = 2 * COMMAND_MAX;
/// How much one callback writes, in bytes, plus the answer that exceeds it. The next callback comes
/// when the client has read.
const PIECE: usize = 256 << 10;

/// Carries out the commands that have arrived. They are answered with one flush.
fn serve(parser: &mut Parser, store: &Mutex<Store>, conn: &mut Connection) -> Result<()> {
    let (mut reader, mut writer) = conn.split();
    let buffered = reader.len();
    let input = reader.try_peek(buffered)?;
    let (mut used, mut next) = (0, Next::Command);
    let mut store = store.lock().unwrap_or_else(PoisonError::into_inner);
    store.advance(Instant::now());
    while next == Next::Command && writer.malloc_len() < PIECE {
        next = match parser.parse(&input[used..]) {
            Ok(Some(command)) => {
                used += command.length();
                execute(&command, &mut store, writer.buf())
            }
            Ok(None) if used == 0 && buffered >= COMMAND_MAX => {
                answers::error(writer.buf(), "ERR Protocol error: too long a command");
                Next::Close
            }
            Ok(None) => Next::Read,
            Err(fault) => {
                answers::error(writer.buf(), fault);
                Next::Close
            }
        };
    }
    drop(store);
    reader.try_skip(used)?;
    match next {
        Next::Read => {}
        Next::Close => conn.close(),
        // There is more to do, once this is sent, and perhaps no event follows.
        Next::Command => conn.handle().wake(),
    }
    Ok(())
}

fn main() -> ExitCode {
    match listen() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn listen() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let address = args.next().unwrap_or_else(|| "127.0.0.1:7379".into());
    let store = args.next().map_or(Ok(1024), |mib| value::number(mib.as_bytes()));
    let store = store.ok().and_then(|mib| usize::try_from(mib).ok()?.checked_mul(1 << 20));
    let store = store.ok_or_else(|| Error::config("usage: redis [ADDRESS [MIB]]"))?;
    let listener = Listener::bind("tcp", &address)?;
    println!("listening on {}", listener.local_addr()?);
    let store = Mutex::new(Store::new(store, Instant::now()));
    EventLoop::builder()
        .on_prepare(|_: &Connection| Ok(Parser::default()))
        .on_request(move |parser: &mut Parser, conn: &mut Connection| serve(parser, &store, conn))
        .dispatch(Dispatch::Inline) // the lock is held for microseconds, nothing else is waited for
        .input_limit(COMMAND_MAX)
        .memory_budget(512 << 20)
        .idle_timeout(Duration::from_secs(300))
        .min_receive_rate(ReceiveRate { bytes: 1 << 10, per: Duration::from_secs(10) })
        .max_connections(1000)
        .build()?
        .serve(listener)?;
    Ok(())
}
