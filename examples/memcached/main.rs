//! A cache in memory that memcached's clients can use.
//!
//! Shows a protocol of lines and blocks in one callback that never waits: a read that lacks bytes
//! ends the callback with `?`, the session remembers what is expected next, and the callback is
//! called again when there is more. All that has arrived together is answered with one flush.
//!
//! Its limits: items of 1 MiB, lines of 2 KiB, a cache of 64 MiB that drops what was written first,
//! and for all clients together 256 MiB of input and output; 1 000 clients, each of which may be
//! silent for 5 min and must send 1 KiB in 10 s of a command that has begun.
//!
//! ```text
//! cargo run --release --example memcached -- [ADDRESS [MIB]]
//! printf 'set greeting 0 60 5\r\nhello\r\nget greeting\r\n' | nc -N 127.0.0.1 7211
//! ```

mod cache;
mod commands;
mod item;

use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use cache::Cache;
use commands::{Expected, execute, store};
use item::ITEM_MAX;
use netpoll::{Connection, Error, EventLoop, Listener, ReceiveRate, Result};

/// The longest line, in bytes.
const LINE_MAX: usize = 2 << 10;
/// How much is written before the client must have read, in bytes.
const PIECE: usize = 256 << 10;

fn serve(expected: &mut Expected, cache: &Mutex<Cache>, conn: &mut Connection) -> Result<()> {
    let (mut reader, mut writer) = conn.split();
    loop {
        if writer.malloc_len() > PIECE {
            writer.flush()?; // waits for a client that is far behind; its loop goes on meanwhile
        }
        let mut cache = cache.lock().unwrap_or_else(PoisonError::into_inner);
        *expected = match expected {
            Expected::Line => match reader.try_until(b'\n')? {
                line if line.len() > LINE_MAX => Expected::End,
                line => execute(line.trim_ascii_end(), &mut cache, &mut writer),
            },
            Expected::Block(item) => {
                match reader.try_next(item.length + 2)?.strip_suffix(b"\r\n") {
                    Some(value) => store(item, value, &mut cache, &mut writer),
                    None => Expected::End,
                }
            }
            Expected::End => break,
        }
    }
    conn.close(); // behind the answers
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
    let address = args.next().unwrap_or_else(|| "127.0.0.1:7211".into());
    let limit = args.next().map_or(Ok(64), |mib| mib.parse()).ok();
    let limit = limit.and_then(|mib: usize| mib.checked_mul(1 << 20));
    let limit = limit.ok_or_else(|| Error::config("usage: memcached [ADDRESS [MIB]]"))?;
    let listener = Listener::bind("tcp", &address)?;
    println!("listening on {}", listener.local_addr()?);
    let cache = Mutex::new(Cache::new(limit));
    EventLoop::builder()
        .on_prepare(|_: &Connection| Ok(Expected::Line))
        .on_request(move |expected: &mut Expected, conn: &mut Connection| {
            serve(expected, &cache, conn)
        })
        .input_limit(ITEM_MAX + LINE_MAX)
        .memory_budget(256 << 20)
        .idle_timeout(Duration::from_secs(300))
        .min_receive_rate(ReceiveRate { bytes: 1 << 10, per: Duration::from_secs(10) })
        .max_connections(1000)
        .build()?
        .serve(listener)?;
    Ok(())
}
