//! A SOCKS5 proxy (RFC 1928): CONNECT to IPv4, IPv6 or a name, without authentication.
//!
//! Shows a handshake as straight-line reads that wait, with a deadline; then it is a `tcp_proxy`.
//!
//! ```text
//! cargo run --release --example socks5 -- [ADDRESS]
//! curl --socks5-hostname 127.0.0.1:7006 http://localhost:8000/
//! ```

use std::io::ErrorKind;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use netpoll::{Client, Connection, Dispatch, Error, EventLoop, Listener, Result};
use relay::{Other, congested, forward, limits, part, relieved};

mod relay;

const PATIENCE: Duration = Duration::from_secs(10);

/// What a client can be answered (RFC 1928, section 6).
const FAILED: u8 = 1;
const HOST_UNREACHABLE: u8 = 4;
const REFUSED: u8 = 5;
const NO_SUCH_COMMAND: u8 = 7;
const NO_SUCH_ADDRESS: u8 = 8;

/// Greeting, request, dial, answer. Every read waits for its bytes.
fn shake_hands(origins: &Client<Other>, conn: &mut Connection) -> Result<Other> {
    conn.close_at(Some(Instant::now() + PATIENCE));
    let mut reader = conn.reader();
    let &[5, methods] = reader.next(2)? else { return Err(refused("it does not speak SOCKS5")) };
    if !reader.next(methods.into())?.contains(&0) {
        return Err(refused("it wants a password"));
    }
    conn.handle().send(vec![5, 0])?;
    let outcome = target(conn)?.and_then(|target| {
        let client = Some(conn.handle());
        origins.dial_with("tcp", &target, PATIENCE, client).map_err(|error| match error.kind() {
            ErrorKind::ConnectionRefused => REFUSED,
            ErrorKind::NotFound | ErrorKind::TimedOut => HOST_UNREACHABLE,
            _ => FAILED,
        })
    });
    conn.close_at(None);
    // A success is answered by the origin's `on_connect`.
    outcome.map(Some).or_else(|code| {
        conn.handle().send(answer(code).to_vec())?;
        Err(refused(&format!("answered by code {code}")))
    })
}

fn answer(code: u8) -> [u8; 10] {
    [5, code, 0, 1, 0, 0, 0, 0, 0, 0]
}

/// What the client wants to be connected to, or what it is answered.
fn target(conn: &mut Connection) -> Result<Result<String, u8>> {
    let mut reader = conn.reader();
    let &[5, command, _, kind] = reader.next(4)? else { return Err(refused("no request")) };
    let host = match kind {
        1 => reader.next(4)?.first_chunk().map(|ip| Ipv4Addr::from(*ip).to_string()),
        3 => {
            let len = reader.read_byte()?.into();
            Some(reader.read_string(len)?)
        }
        4 => reader.next(16)?.first_chunk().map(|ip| format!("[{}]", Ipv6Addr::from(*ip))),
        _ => return Ok(Err(NO_SUCH_ADDRESS)),
    };
    let port = u16::from_be_bytes([reader.read_byte()?, reader.read_byte()?]);
    Ok(match (command, host) {
        (1, Some(host)) => Ok(format!("{host}:{port}")),
        _ => Err(NO_SUCH_COMMAND),
    })
}

fn refused(why: &str) -> Error {
    Error::config(format!("a client was refused: {why}"))
}

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
        // Before anything that the origin says.
        .on_connect(|client: &mut Other, _: &mut Connection| {
            client.as_ref().map_or(Ok(()), |client| client.send(answer(0).to_vec()))
        })
        .on_request(forward)
        .on_high_water(congested)
        .on_drain(relieved)
        .on_disconnect(part)
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
        .on_disconnect(part)
        .limits(limits())
        .build()?
        .serve(listener)?;
    Ok(())
}
