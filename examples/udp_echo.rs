//! A server that sends back the datagrams that it receives.
//!
//! Shows `Datagrams`, one callback for all that has come together, and a stop by Ctrl-C that
//! answers what has been received before. Each loop has a socket of its own on the one port, and
//! the kernel gives all datagrams of a peer to the same one.
//!
//! Its limits: 1 MiB and 4 096 datagrams that wait to be sent on a socket, beyond which answers are
//! dropped and counted. A sender's address can be forged, and its owner then gets the answer: an
//! answer should not be larger than what it answers, and here it is as large.
//!
//! ```text
//! cargo run --release --example udp_echo -- [ADDRESS] [--loops N]
//! echo hello | nc -u -w 1 127.0.0.1 7016
//! ```

use std::process::ExitCode;
use std::time::Duration;

use netpoll::{DatagramBatch, Datagrams, Error, EventLoop, Result, default_loops};
use nix::sys::signal::{SigSet, Signal};

fn main() -> ExitCode {
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("warn")).init();
    let Err(error) = serve() else { return ExitCode::SUCCESS };
    eprintln!("{error}");
    ExitCode::FAILURE
}

fn serve() -> Result<()> {
    // Blocked before any thread starts, so that only the thread that waits for them gets them.
    let stop = SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM]);
    stop.thread_block().map_err(std::io::Error::from)?;

    let (address, loops) = options(std::env::args().skip(1))?;
    let echo =
        Datagrams::bind("udp", &address)?.on_datagrams(|(): &mut (), batch: &DatagramBatch<'_>| {
            for datagram in batch {
                datagram.reply(datagram.payload())?; // gathered: they leave together
            }
            Ok(())
        });
    let server = EventLoop::for_datagrams().loops(loops).build()?.spawn(echo)?;
    println!("listening on {}", server.address());
    stop.wait().map_err(std::io::Error::from)?;
    let stats = server.stats().datagrams;
    server.shutdown(Duration::from_secs(5));
    println!(
        "stopped: {} received in {} callbacks, {} sent, {} dropped by us, {} by the kernel",
        stats.received, stats.callbacks, stats.sent, stats.dropped, stats.dropped_by_kernel
    );
    server.wait().map(drop)
}

fn options(mut args: impl Iterator<Item = String>) -> Result<(String, usize)> {
    let usage = || Error::config("usage: udp_echo [ADDRESS] [--loops N]");
    let (mut address, mut loops) = ("127.0.0.1:7016".to_owned(), default_loops());
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--loops" => {
                loops = args.next().and_then(|text| text.parse().ok()).ok_or_else(usage)?;
            }
            flag if flag.starts_with('-') => return Err(usage()),
            _ => address = arg,
        }
    }
    Ok((address, loops))
}
