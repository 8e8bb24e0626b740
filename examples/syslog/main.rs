//! Messages of syslog, from a Unix socket of datagrams, as lines.
//!
//! Shows `unixgram`: the mode of the socket's file, a file that an earlier process left behind, and
//! a receiver that is never answered. A sender waits while the receive queue is full, so nothing is
//! lost.
//!
//! Its limits: messages of 8 KiB, longer ones are cut. What a sender writes stays on one line.
//!
//! ```text
//! cargo run --release --example syslog -- [PATH]
//! logger --socket /tmp/netpoll-syslog.sock --priority user.warning 'disk is full'
//! ```

mod message;

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use message::Message;
use netpoll::{DatagramBatch, DatagramLimits, Datagrams, EventLoop, Result};
use nix::sys::signal::{SigSet, Signal};

/// The longest message, in bytes.
const LONGEST: usize = 8 << 10;

fn main() -> ExitCode {
    let Err(error) = serve() else { return ExitCode::SUCCESS };
    eprintln!("{error}");
    ExitCode::FAILURE
}

fn serve() -> Result<()> {
    let stop = SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM]);
    stop.thread_block().map_err(io::Error::from)?;

    let path = std::env::args().nth(1).unwrap_or_else(|| "/tmp/netpoll-syslog.sock".into());
    // Users that may write to the file may log: all of them, as for /dev/log.
    let service = Datagrams::options()
        .mode(0o666)
        .bind("unixgram", &path)?
        .on_datagrams(|(): &mut (), batch: &DatagramBatch<'_>| print(batch))
        .limits(DatagramLimits { longest: LONGEST, ..DatagramLimits::default() });
    let server = EventLoop::for_datagrams().build()?.spawn(service)?;
    println!("listening on {}", server.address());
    stop.wait().map_err(io::Error::from)?;
    // Prints what has been received, and removes the file.
    server.shutdown(Duration::from_secs(5));
    server.wait().map(drop)
}

/// Writes a line for each message, and all of a batch at once.
fn print(batch: &DatagramBatch<'_>) -> Result<()> {
    let mut lines = Vec::new();
    for datagram in batch {
        let cut = if datagram.is_truncated() { " (cut)" } else { "" };
        match Message::parse(datagram.payload()) {
            Some(message) => writeln!(lines, "{message}{cut}")?,
            None => writeln!(lines, "not a message, {} bytes", datagram.payload().len())?,
        }
    }
    let mut out = io::stdout().lock();
    out.write_all(&lines)?;
    Ok(out.flush()?)
}
