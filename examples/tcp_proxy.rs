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
//! cargo run --release --example tcp_proxy -- 127.0.0.1:8000 [ADDRESS [OPTION]...]
//! curl http://127.0.0.1:7003/
//! ```
//! The options `--accept-proxy` and `--send-proxy` are for headers of the PROXY protocol: clients
//! come by a proxy that sends one, the origin expects one. With both, it gets the one that came.

use std::process::ExitCode;
use std::time::Duration;

use netpoll::proxy::{Header, Version};
use netpoll::{
    CloseReason, Connection, Dialer, Dispatch, Error, EventLoop, Limits, Listener, OutputLimits,
    ProxyProtocol, Relay, Relayed, Result,
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
    let usage = "usage: tcp_proxy ORIGIN [ADDRESS [--accept-proxy] [--send-proxy]]";
    let origin = args.next().ok_or_else(|| Error::config(usage))?;
    let mut listener = Listener::bind("tcp", &args.next().unwrap_or("127.0.0.1:7003".into()))?;
    let mut sends_header = false;
    for option in args {
        match option.as_str() {
            // Only proxies must be able to connect then: a peer can claim any address.
            "--accept-proxy" => listener = listener.proxy_protocol(ProxyProtocol::default()),
            "--send-proxy" => sends_header = true,
            _ => return Err(Error::config(usage)),
        }
    }
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
            let asker = client.handle();
            if !sends_header {
                return dialer.dial_then(&asker, "tcp", &origin, join).map(drop);
            }
            let header = match client.proxy_header() {
                Some(header) => header.clone(),
                None => Header::between(client.peer_addr(), client.local_addr()?),
            };
            let dialer = dialer.proxy_header(&header, Version::V2)?;
            dialer.dial_then(&asker, "tcp", &origin, join).map(drop)
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
