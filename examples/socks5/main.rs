//! A SOCKS5 proxy (RFC 1928): CONNECT to IPv4, IPv6 or a name, without authentication.
//!
//! Shows a handshake as straight-line reads that wait, with a deadline; then it is a `tcp_proxy`.
//! It connects to every address that its own host can reach: so can any client that may connect to
//! it.
//!
//! Its limits: 10 s each for the first byte, the handshake and the dial, then those of `relay`: 5
//! min without a byte either way, some 1 MiB of input and 256 KiB of output for each side; 4 096
//! clients.
//!
//! ```text
//! cargo run --release --example socks5 -- [ADDRESS]
//! curl --socks5-hostname 127.0.0.1:7006 http://localhost:8000/
//! ```

use std::process::ExitCode;
use std::time::Duration;

use handshake::{shake_hands, success};
use netpoll::{Client, Connection, Dispatch, EventLoop, Limits, Listener, Result};
use relay::{CONNECTIONS, Other, close_other, congested, forward, limits, relieved};

mod handshake;
#[path = "../relay/mod.rs"]
mod relay;

const PATIENCE: Duration = Duration::from_secs(10);

fn main() -> ExitCode {
    let Err(error) = serve() else { return ExitCode::SUCCESS };
    eprintln!("{error}");
    ExitCode::FAILURE
}

fn serve() -> Result<()> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:7006".into());
    let listener = Listener::bind("tcp", &address)?;
    println!("listening on {}", listener.local_addr()?);
    let origins = Client::builder()
        .session::<Other>()
        // Before any byte of the origin.
        .on_connect(|client: &mut Other, _: &mut Connection| {
            client.as_ref().map_or(Ok(()), |client| client.send(success()))
        })
        .on_request(forward)
        .on_high_water(congested)
        .on_drain(relieved)
        .on_disconnect(close_other)
        .dispatch(Dispatch::Inline) // forwarding never blocks
        .limits(limits())
        .build()?;
    EventLoop::builder()
        .on_prepare(|_: &Connection| Ok(None))
        .on_request(move |other: &mut Other, conn: &mut Connection| {
            if other.is_none() {
                *other = shake_hands(&origins, conn)?;
            }
            forward(other, conn)
        })
        .on_high_water(congested)
        .on_drain(relieved)
        .on_disconnect(close_other)
        .limits(Limits { first_byte_timeout: Some(PATIENCE), ..limits() })
        .max_connections(CONNECTIONS)
        .build()?
        .serve(listener)?;
    Ok(())
}
