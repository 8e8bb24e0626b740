//! A SOCKS5 proxy (RFC 1928): CONNECT to IPv4, IPv6 or a name, without authentication.
//!
//! Shows a handshake as straight-line reads that wait, with a deadline; a dial that goes on by
//! callback; then a relay. It connects to every address that its own host can reach: so can any
//! client that may connect to it.
//!
//! Its limits: 10 s each for the first byte, the handshake and the dial, then 5 min without a byte
//! either way; some 256 KiB of output for each side; 4 096 clients.
//!
//! ```text
//! cargo run --release --example socks5 -- [ADDRESS]
//! curl --socks5-hostname 127.0.0.1:7006 http://localhost:8000/
//! ```

use std::process::ExitCode;
use std::time::Duration;

use handshake::{answer, code_of, shake_hands, success};
use netpoll::{
    CloseReason, Connection, Dialer, EventLoop, Limits, Listener, OutputLimits, Relay, Relayed,
    Result,
};

mod handshake;

const CLIENTS: usize = 4096;
const PATIENCE: Duration = Duration::from_secs(10);
const IDLE: Duration = Duration::from_secs(300);

fn main() -> ExitCode {
    let Err(error) = serve() else { return ExitCode::SUCCESS };
    eprintln!("{error}");
    ExitCode::FAILURE
}

fn serve() -> Result<()> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:7006".into());
    let listener = Listener::bind("tcp", &address)?;
    println!("listening on {}", listener.local_addr()?);
    let limits = Limits {
        half_open: true,
        output: OutputLimits { low: 64 << 10, high: 256 << 10 },
        ..Limits::default()
    };
    let dialer = Dialer::builder().timeout(PATIENCE).limits(limits).build()?;
    EventLoop::builder()
        .on_prepare(|_: &Connection| Ok(false))
        .on_request(move |is_dialling: &mut bool, client: &mut Connection| {
            if !*is_dialling {
                let target = shake_hands(client)?;
                *is_dialling = true;
                client.pause_reading(); // until the relay receives
                dialer.dial_then(&client.handle(), "tcp", &target, join)?;
            }
            Ok(())
        })
        .on_disconnect(|_: bool, why: &CloseReason| match why {
            CloseReason::Peer => {}
            why => println!("a client parts: {why}"),
        })
        .limits(Limits { first_byte_timeout: Some(PATIENCE), ..limits })
        .max_connections(CLIENTS)
        .build()?
        .serve(listener)?;
    Ok(())
}

fn join(client: &mut Connection, origin: Result<Connection>) -> Result<()> {
    let origin = match origin {
        Ok(origin) => origin,
        Err(error) => {
            client.writer().write_bytes(&answer(code_of(&error)));
            client.close(); // sends the answer first
            return Ok(());
        }
    };
    client.writer().write_bytes(&success()); // before any byte of the origin
    let on_end = |it: Relayed| println!("{} bytes up, {} down", it.from_first, it.from_second);
    Relay::new().idle_timeout(IDLE).on_end(on_end).join(client, origin)
}
