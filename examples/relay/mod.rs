//! What `tcp_proxy` and `socks5` have in common: two connections, and the bytes that come on one
//! leave on the other. These are the callbacks of both.

#![expect(clippy::unnecessary_wraps, reason = "callbacks have one form, those that can't fail too")]

use std::time::Duration;

use netpoll::{CloseReason, Connection, Error, Handle, Limits, OutputLimits, Result};

/// The session of one side: the other side, once there is one.
pub(crate) type Other = Option<Handle>;

/// Connections that may be open at a time: each takes two descriptors.
pub(crate) const CONNECTIONS: usize = 4096;

/// With these a side outlives the end of its peer's stream, but not five minutes without a byte
/// either way: nothing else ends a pair after its peers have vanished or a FIN was not sent.
///
/// A side that is paused has no byte, so the other one must take `high` - `low` in that time.
pub(crate) fn limits() -> Limits {
    Limits {
        half_open: true,
        idle_timeout: Some(Duration::from_secs(300)),
        output: OutputLimits { low: 64 << 10, high: 256 << 10 },
        ..Limits::default()
    }
}

/// `on_request`: moves what has arrived to the other side, and the end of the stream too.
pub(crate) fn forward(other: &mut Other, conn: &mut Connection) -> Result<()> {
    let Some(other) = other else { return Err(Error::Closed) };
    let mut reader = conn.reader();
    if !reader.is_empty() {
        // Never refused: it is bounded because this side stops reading, see `congested`.
        other.send_buffer(reader.slice(reader.len())?)?; // moves blocks, copies nothing
    }
    if !reader.is_finished() {
        return Ok(());
    }
    match reader.try_peek(1) {
        Err(Error::EndOfStream) => other.shutdown_write(),
        failed => drop(failed?), // a reset is no orderly end: `close_other` passes it on
    }
    Ok(())
}

/// `on_high_water`: the peer of this side takes less than it is sent, so nothing more is received
/// on the other side, and the window of that peer closes.
pub(crate) fn congested(other: &mut Other, _: &mut Connection) -> Result<()> {
    other.iter().for_each(Handle::pause_reading);
    Ok(())
}

/// `on_drain`: it has caught up. A connection's callbacks follow each other, so this one comes
/// after `congested`.
pub(crate) fn relieved(other: &mut Other, _: &mut Connection) -> Result<()> {
    other.iter().for_each(Handle::resume_reading);
    Ok(())
}

/// `on_disconnect`: a side that ends takes the other with it. In order if both streams have ended;
/// otherwise by a reset, so that a peer that was cut off does not take the part that it has for the
/// whole.
pub(crate) fn close_other(other: Other, why: &CloseReason) {
    let Some(other) = other else { return println!("refused: {why}") };
    match why {
        CloseReason::Peer => other.close(),
        _ => other.abort(),
    }
    println!("the peer of {} parts: {why}", other.peer_addr());
}
