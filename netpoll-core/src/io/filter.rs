//! The seam for filters: what stands between the socket of a connection and its buffers.
//!
//! ```text
//!   socket ──wire──► open ──plain──► input      the owner's thread, without a lock of ours
//!                      │
//!                   speaks                      handshake messages, alerts, key updates
//!                      ▼
//!   socket ◄──wire── say, seal, finish ◄──plain── output      any thread, under the output's lock
//! ```
//! Core knows these traits alone. `netpoll-tls` implements them.

use std::any::Any;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use netpoll_buffer::LinkBuffer;

use crate::base::address::Address;
use crate::base::error::Result;
use crate::base::filter_error::FilterError;

/// What stands between the socket of a connection and its buffers, for example TLS.
///
/// It has two halves, which two threads may use at the same time. The receive half,
/// [`open`](Self::open), belongs to the owner of the connection. The send half, [`say`](Self::say),
/// [`seal`](Self::seal) and [`finish`](Self::finish), belongs to the thread that holds the output's
/// lock; any thread may send. No method does I/O or waits for the peer. If one panics, the
/// connection fails as after an error.
///
/// All bytes for the wire leave through the send half, in the order in which it made them. So the
/// order on the wire is the order of sealing, though two threads cause it.
pub trait Filter: Send + Sync + fmt::Debug {
    /// Receive half. Opens what is complete at the front of `wire`, and writes the plain bytes to
    /// `plain`; the caller flushes that. It may change `wire` in place. It stops between two
    /// records when it has written `room` bytes or more. The caller removes
    /// [`used`](Opened::used) bytes and calls again when there is more room, or more on the wire.
    /// `wire` always begins where the last call stopped.
    ///
    /// What the filter has to say because of these bytes stays inside, until the caller calls
    /// [`say`](Self::say).
    ///
    /// # Errors
    /// The peer broke the protocol, or the filter refuses it. The connection then closes with
    /// [`CloseReason::Filter`](crate::CloseReason::Filter), after one last `say`, for an alert.
    /// Plain bytes that were written before are delivered.
    fn open(
        &self,
        wire: &mut [u8],
        room: usize,
        plain: &mut LinkBuffer,
    ) -> Result<Opened, FilterError>;

    /// Send half. Writes what the filter has to say by itself to `wire`: a handshake message, an
    /// alert, a key update. The first call comes before any other, when the stream is connected; a
    /// client's filter then writes its first message.
    fn say(&self, wire: &mut LinkBuffer);

    /// Send half. Seals bytes of `plain` from offset `from` on into one record, behind what
    /// [`say`](Self::say) would write, in one step. Returns how many bytes it took, at least one.
    /// There are bytes from that offset on, and the handshake is over.
    ///
    /// # Errors
    /// Nothing more can be sealed. The connection fails.
    fn seal(
        &self,
        plain: &LinkBuffer,
        from: usize,
        wire: &mut LinkBuffer,
    ) -> Result<usize, FilterError>;

    /// Send half. Ends our stream: writes the message that says so, behind what
    /// [`say`](Self::say) would write. It is called once at the most, after the handshake, and
    /// `seal` is not called after it.
    fn finish(&self, wire: &mut LinkBuffer);

    /// The filter itself, for [`Connection::filter`](crate::Connection::filter).
    fn as_any(&self) -> &dyn Any;
}

/// What [`Filter::open`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Opened {
    /// How many bytes at the front of `wire` are done with.
    pub used: usize,
    /// Where the peer's stream stands.
    pub state: FilterState,
    /// [`Filter::say`] has something to write.
    pub speaks: bool,
}

impl Opened {
    /// What a call did that used so many bytes.
    pub fn new(used: usize, state: FilterState, speaks: bool) -> Self {
        Self { used, state, speaks }
    }
}

/// Where a filter stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FilterState {
    /// The handshake goes on: nothing may be sealed yet.
    Handshaking,
    /// The handshake is over.
    Open,
    /// The peer has ended its stream in order. What follows on the wire is ignored.
    Finished,
}

/// Makes the filters of accepted connections.
///
/// It runs between `on_prepare` and `on_connect`, where callbacks run. A panic refuses the
/// connection, as an error does.
pub trait FilterServer: Send + Sync + fmt::Debug {
    /// Makes the filter of one connection, from the peer's address and this end's. `local` is
    /// `None` if the system does not tell it.
    ///
    /// # Errors
    /// Refuses the connection.
    fn accept(&self, peer: &Address, local: Option<&Address>) -> Result<Arc<dyn Filter>>;

    /// How many handshakes may be under way at a time in one event loop, with all its listeners;
    /// further connections are refused, and counted as refused. 10 000 by default.
    fn max_handshakes(&self) -> usize {
        10_000
    }

    /// How long a handshake may take; `None` is for ever. 10 s by default.
    fn handshake_timeout(&self) -> Option<Duration> {
        Some(Duration::from_secs(10))
    }

    /// With `Some(byte)` only a connection whose first byte is that one gets a filter, and the
    /// others go on without one. The first byte must then come within the handshake timeout,
    /// before `on_connect`. `None`, the default: each connection gets a filter.
    fn first_byte(&self) -> Option<u8> {
        None
    }
}

/// Makes the filters of dialled connections.
pub trait FilterClient: Send + Sync + fmt::Debug {
    /// Makes the filter of one connection. `address` is what the caller dialled, as it was given;
    /// `peer` is where that led.
    ///
    /// # Errors
    /// The dial fails with this error.
    fn dial(&self, address: &str, peer: &Address) -> Result<Arc<dyn Filter>>;
}
