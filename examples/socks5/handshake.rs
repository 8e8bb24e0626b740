//! The handshake (RFC 1928): the method, the address that the client asks for, and the answers.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Instant;

use netpoll::{Connection, Error, Result};

use crate::PATIENCE;

/// The answers to a client (RFC 1928, section 6).
const FAILED: u8 = 1;
const NETWORK_UNREACHABLE: u8 = 3;
const HOST_UNREACHABLE: u8 = 4;
const REFUSED: u8 = 5;
const NO_SUCH_COMMAND: u8 = 7;
const NO_SUCH_ADDRESS: u8 = 8;
/// Of the methods that a client offers (section 3) this one is taken, or none.
const NO_PASSWORD: u8 = 0;
const NO_METHOD: u8 = 0xff;

/// Methods and request. Every read waits for its bytes. Returns the address to dial; a client that
/// asks for something else has its answer.
pub(crate) fn shake_hands(conn: &mut Connection) -> Result<String> {
    conn.close_at(Some(Instant::now() + PATIENCE));
    let mut reader = conn.reader();
    let &[5, methods] = reader.next(2)? else { return Err(refused("it does not speak SOCKS5")) };
    if !reader.next(methods.into())?.contains(&NO_PASSWORD) {
        conn.handle().send(vec![5, NO_METHOD])?;
        return Err(refused("it wants a password"));
    }
    conn.handle().send(vec![5, NO_PASSWORD])?;
    let target = target(conn)?;
    conn.close_at(None); // from here on the dial has a time of its own
    target.or_else(|code| {
        conn.handle().send(answer(code))?;
        Err(refused(&format!("answered by code {code}")))
    })
}

/// The code that answers a dial that has failed.
pub(crate) fn code_of(error: &Error) -> u8 {
    match error.kind() {
        ErrorKind::ConnectionRefused => REFUSED,
        ErrorKind::NetworkUnreachable => NETWORK_UNREACHABLE,
        ErrorKind::HostUnreachable | ErrorKind::NotFound | ErrorKind::TimedOut => HOST_UNREACHABLE,
        _ => FAILED,
    }
}

/// The answer that the origin is reached.
pub(crate) fn success() -> Vec<u8> {
    answer(0)
}

/// The answer with this code.
pub(crate) fn answer(code: u8) -> Vec<u8> {
    vec![5, code, 0, 1, 0, 0, 0, 0, 0, 0]
}

/// The address that the client asks for, or the answer that refuses it.
fn target(conn: &mut Connection) -> Result<Result<String, u8>> {
    let mut reader = conn.reader();
    let &[5, command, _, kind] = reader.next(4)? else { return Err(refused("no request")) };
    let host = match kind {
        1 => reader.next(4)?.first_chunk().map(|ip| Ipv4Addr::from(*ip).to_string()),
        3 => {
            let len = reader.read_byte()?.into();
            name(reader.next(len)?)
        }
        4 => reader.next(16)?.first_chunk().map(|ip| format!("[{}]", Ipv6Addr::from(*ip))),
        _ => return Ok(Err(NO_SUCH_ADDRESS)),
    };
    let port = u16::from_be_bytes([reader.read_byte()?, reader.read_byte()?]);
    Ok(match (command, host) {
        (1, Some(host)) => Ok(format!("{host}:{port}")),
        (1, None) => Err(HOST_UNREACHABLE),
        _ => Err(NO_SUCH_COMMAND),
    })
}

/// A name, or an address that a client sent in the place of one. No byte of it may be taken for the
/// port.
fn name(bytes: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(bytes).ok()?;
    if text.parse::<Ipv6Addr>().is_ok() {
        return Some(format!("[{text}]"));
    }
    let in_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    (!text.is_empty() && text.bytes().all(in_name)).then(|| text.to_owned())
}

fn refused(why: &str) -> Error {
    Error::config(format!("a client was refused: {why}"))
}
