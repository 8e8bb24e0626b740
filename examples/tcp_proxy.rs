//! A proxy: the bytes that come on one connection leave on another, both ways.
//!
//! Shows a dial that goes on by callback (`Dialer::dial_then`) and a `Relay`: no thread waits, a
//! half-close is passed on each way, a slow client slows the origin, and memory stays flat.
//!
//! Its limits: 5 s to reach the origin, 5 min without a byte either way, 4 096 clients, and for
//! each side some 256 KiB of output.
//!
//! ```text
//! python3 -m http.server --bind 127.0.0.1 8000 &
//! cargo run --release --example tcp_proxy -- 127.0.0.1:8000 [ADDRESS]
//! curl http://127.0.0.1:7003/
//! ```

use std::process::ExitCode;
use std::time::Duration;

use netpoll::{
    CloseReason, Connection, Dialer, Dispatch, Error, EventLoop, Limits, Listener, OutputLimits,
    Relay, Relayed, Result,
};

/// Clients at a time: each takes two descriptors.
const CLIENTS: usize = 4096;
const DIAL: Duration = Duration::from_secs(5);
/// Nothing else ends a pair whose peers have vanished.
const IDLE: Duration = Duration::from_secs(300);

fn main() -> ExitCode {
    let Err(error) = serve() else { return ExitCode::SUCCESS };
    eprintln!("{error}");
    ExitCode::FAILURE
}

fn serve() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let origin = args.next().ok_or_else(|| Error::config("usage: tcp_proxy ORIGIN [ADDRESS]"))?;
    let listener = Listener::bind("tcp", &args.next().unwrap_or("127.0.0.1:7003".into()))?;
    println!("listening on {}", listener.local_addr()?);

    let limits = Limits {
        half_open: true, // a client may end its stream while its origin is dialled
        output: OutputLimits { low: 64 << 10, high: 256 << 10 },
        ..Limits::default()
    };
    let dialer = Dialer::builder().timeout(DIAL).limits(limits).build()?;
    EventLoop::builder()
        .on_connect(move |(): &mut (), client: &mut Connection| {
            client.pause_reading(); // until the relay receives
            dialer.dial_then(&client.handle(), "tcp", &origin, join).map(drop)
        })
        .on_request(|(): &mut (), _: &mut Connection| Ok(()))
        .dispatch(Dispatch::Inline) // nothing here ever blocks
        .limits(limits)
        .max_connections(CLIENTS)
        .build()?
        .serve(listener)?;
    Ok(())
}

fn join(client: &mut Connection, origin: Result<Connection>) -> Result<()> {
    let origin = origin.inspect_err(|error| println!("refused: {error}"))?;
    let peer = client.peer_addr();
    Relay::new()
        .idle_timeout(IDLE)
        .on_end(move |Relayed { from_first, from_second, reason, .. }: Relayed| {
            if !matches!(reason, CloseReason::Peer) {
                println!("{peer} parts: {reason} ({from_first} bytes up, {from_second} down)");
            }
        })
        .join(client, origin)
}
