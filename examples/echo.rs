//! A server that sends back whatever it receives.
//!
//! Shows `Listener`, `EventLoop` with a zero-copy echo, the dispatch modes, and a clean stop on
//! Ctrl-C.
//!
//! ```text
//! cargo run --release --example echo -- [ADDRESS] [--loops N] [--dispatch pool|inline]
//! nc 127.0.0.1 7000
//! ```

use std::process::ExitCode;
use std::time::Duration;

use netpoll::{Connection, Dispatch, EventLoop, Listener, PoolOptions, default_loops};
use nix::sys::signal::{SigSet, Signal};

const USAGE: &str = "usage: echo [ADDRESS] [--loops N] [--dispatch pool|inline]";

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
    // Signals are blocked before any thread starts, so that the one that waits for them gets them.
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
        .build()?;

    println!("listening on {address}");
    println!("talk to it: socat - TCP:{address}   (Ctrl-C ends the server)");
    let stopping = event_loop.clone();
    std::thread::spawn(move || stop.wait().map(|_| stopping.shutdown(Duration::from_secs(5))));
    let report = event_loop.serve(listener)?;
    println!("stopped: {} connections drained, {} aborted", report.drained, report.aborted);
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
                "--loops" => loops = args.next().ok_or(USAGE)?.parse().map_err(|_| USAGE)?,
                "--dispatch" => match args.next().as_deref() {
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
