//! A server of a minimal RPC: each request is 4 bytes of length, big-endian, and a payload; the
//! response is the same again.
//!
//! Shows how a callback takes whole frames and leaves the rest for its next call.
//!
//! Its limits: payloads of 512 KiB, 1 KiB in 5 s of one that has begun, 5 min without a byte either
//! way (clients keep connections for later), 10 000 clients.
//!
//! ```text
//! cargo run --release --example rpc_server -- [ADDRESS]
//! ```

use std::io::{self, ErrorKind};
use std::process::ExitCode;
use std::time::Duration;

use netpoll::{Connection, Error, EventLoop, Listener, ReceiveRate, Result};

/// A length above this is no request. It must fit into the input limit, 1 MiB by default.
const PAYLOAD_AT_MOST: usize = 512 << 10;

fn main() -> ExitCode {
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("warn")).init();
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:7010".into());
    match serve(&address) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn serve(address: &str) -> Result<()> {
    let listener = Listener::bind("tcp", address)?;
    println!("listening on {}", listener.local_addr()?);
    EventLoop::builder()
        .on_request(|(): &mut (), conn: &mut Connection| answer(conn))
        .min_receive_rate(ReceiveRate { bytes: 1 << 10, per: Duration::from_secs(5) })
        .idle_timeout(Duration::from_secs(300))
        .max_connections(10_000)
        .build()?
        .serve(listener)?;
    Ok(())
}

/// Answers the requests that have arrived; all answers leave with one flush.
fn answer(conn: &mut Connection) -> Result<()> {
    let (mut reader, mut writer) = conn.split();
    loop {
        let frame = match reader.try_peek(4) {
            Ok(head) => 4 + u32::from_be_bytes([head[0], head[1], head[2], head[3]]) as usize,
            Err(Error::WouldBlock | Error::EndOfStream) => break,
            Err(error) => return Err(error),
        };
        if frame > 4 + PAYLOAD_AT_MOST {
            return Err(io::Error::new(ErrorKind::InvalidData, "the payload is too long").into());
        }
        match reader.try_slice(frame) {
            Ok(request) => writer.append(request), // moves blocks, copies nothing
            Err(Error::WouldBlock | Error::EndOfStream) => break,
            Err(error) => return Err(error),
        }
    }
    writer.flush()
}
