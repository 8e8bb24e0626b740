//! A proxy: the bytes that come on one connection leave on another, both ways.
//!
//! Shows forwarding by moving blocks; a dialled side that callbacks drive (`Client::dial_with`);
//! half-close passed on each way; and backpressure end to end: a slow client slows the origin, and
//! memory stays flat. `relay/mod.rs` has the callbacks.
//!
//! Its limits: 5 s to reach the origin, 5 min without a byte either way, 4 096 clients, and for
//! each side some 1 MiB of input and 256 KiB of output.
//!
//! ```text
//! python3 -m http.server --bind 127.0.0.1 8000 &
//! cargo run --release --example tcp_proxy -- 127.0.0.1:8000 [ADDRESS]
//! curl http://127.0.0.1:7003/
//! ```

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use netpoll::{
    Client, Connection, Dialer, Dispatch, Error, EventLoop, Listener, LoadBalance, PollManager,
    Result, default_loops,
};
use relay::{CONNECTIONS, Other, close_other, congested, forward, limits, relieved};

mod relay;

const DIAL_TIMEOUT: Duration = Duration::from_secs(5);

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
    let mut args = std::env::args().skip(1);
    let origin = args.next().ok_or_else(|| Error::config("usage: tcp_proxy ORIGIN [ADDRESS]"))?;
    let listener = Listener::bind("tcp", &args.next().unwrap_or("127.0.0.1:7003".into()))?;
    println!("listening on {}", listener.local_addr()?);

    // Both sides live on the same loops.
    let manager = Arc::new(PollManager::new(default_loops(), LoadBalance::default())?);
    let origins = Client::builder()
        .session::<Other>()
        .on_request(forward)
        .on_high_water(congested)
        .on_drain(relieved)
        .on_disconnect(close_other)
        .dialer(Dialer::builder().manager(manager.clone()).build()?)
        .dispatch(Dispatch::Inline) // forwarding never blocks
        .limits(limits())
        .build()?;
    EventLoop::builder()
        .on_prepare(|_: &Connection| Ok(None))
        // Dialling blocks, so this uses the default dispatch. Nothing is received before it
        // returns.
        .on_connect(move |other: &mut Other, conn: &mut Connection| {
            let client = Some(conn.handle());
            *other = Some(origins.dial_with("tcp", &origin, DIAL_TIMEOUT, client)?);
            Ok(())
        })
        .on_request(forward)
        .on_high_water(congested)
        .on_drain(relieved)
        .on_disconnect(close_other)
        .manager(manager)
        .limits(limits())
        .max_connections(CONNECTIONS)
        .build()?
        .serve(listener)?;
    Ok(())
}
