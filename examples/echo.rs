//! A server that sends back the bytes that it receives.
//!
//! Shows `Listener`, `EventLoop` with a zero-copy echo, the dispatch modes, and a clean stop on
//! Ctrl-C.
//!
//! Its limits: 5 min without a byte either way, 10 000 clients; the others are the library's own,
//! 1 MiB of input and of output for each client among them.
//!
//! ```text
//! cargo run --release --example echo -- [ADDRESS] [--loops N] [--dispatch hand-off|pool|inline]
//! nc 127.0.0.1 7000
//! ```

use std::process::ExitCode;
use std::time::Duration;

use netpoll::{
    Connection, Dispatch, EventLoop, HandOffOptions, Listener, PoolOptions, default_loops,
};
use nix::sys::signal::{SigSet, Signal};

const USAGE: &str = "usage: echo [ADDRESS] [--loops N] [--dispatch hand-off|pool|inline]";

fn main() -> ExitCode {
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("warn")).init();
    match Options::parse(std::env::args().skip(1)).and_then(|options| Ok(serve(&options)?)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn serve(options: &Options) -> netpoll::Result<()> {
    // Signals are blocked before any thread starts, so that only the thread that waits for them
    // gets them.
    let stop = SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM]);
    stop.thread_block().map_err(std::io::Error::from)?;

    let listener = Listener::bind("tcp", &options.address)?;
    let address = listener.local_addr()?;
    let event_loop = EventLoop::builder()
        .on_request(|(): &mut (), conn: &mut Connection| {
            let (mut reader, mut writer) = conn.split();
            writer.append(reader.slice(reader.len())?); // moves blocks, copies nothing
            writer.flush()
        })
        .loops(options.loops)
        .dispatch(options.dispatch)
        .idle_timeout(Duration::from_secs(300))
        .max_connections(10_000)
        .build()?;

    println!("listening on {address}");
    if let Some(inet) = address.inet() {
        println!("talk to it: nc {} {}   (Ctrl-C ends the server)", inet.ip(), inet.port());
    }
    let stopping = event_loop.clone();
    std::thread::spawn(move || stop.wait().map(|_| stopping.shutdown(Duration::from_secs(5))));
    let report = event_loop.serve(listener)?;
    println!(
        "stopped: {} connections closed in order, {} aborted",
        report.closed_in_order, report.aborted
    );
    Ok(())
}

struct Options {
    address: String,
    loops: usize,
    dispatch: Dispatch,
}

impl Options {
    fn parse(mut args: impl Iterator<Item = String>) -> Result<Self, Box<dyn std::error::Error>> {
        let (mut address, mut loops) = ("127.0.0.1:7000".to_owned(), default_loops());
        let mut dispatch = Dispatch::default();
        while let Some(arg) = args.next() {
            match arg.as_str() {
                "--loops" => loops = args.next().as_deref().and_then(number).ok_or(USAGE)?,
                "--dispatch" => match args.next().as_deref() {
                    Some("hand-off") => dispatch = Dispatch::HandOff(HandOffOptions::default()),
                    Some("pool") => dispatch = Dispatch::Pool(PoolOptions::default()),
                    Some("inline") => dispatch = Dispatch::Inline,
                    _ => return Err(USAGE.into()),
                },
                flag if flag.starts_with('-') => return Err(USAGE.into()),
                _ => address = arg,
            }
        }
        Ok(Self { address, loops, dispatch })
    }
}

/// Digits alone: `str::parse` takes `+1` as well.
fn number(text: &str) -> Option<usize> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}
