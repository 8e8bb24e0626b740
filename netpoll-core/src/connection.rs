//! A connection: what its owner holds, and what everybody shares of it.
//!
//! ```text
//!   Connection, for the owner alone           Shared, for all (Arc)
//!   ┌───────────────────────────────┐         ┌─────────────────────────────────────────┐
//!   │ input   buffer, stream ───────┼────┐    │ task    the word ─► owner; the cell:     │
//!   │ staged  written, not flushed  │    ├───►│         Connection, session              │
//!   │ shared ───────────────────────┼────┘    │ lane    lock ─► queue, stream            │
//!   └───────────────────────────────┘         │ group   options, dispatch, head count    │
//!                                             │ home    the reactor's command queue      │
//!                                             └─────────────────────────────────────────┘
//! ```
//! A served connection lives in the cell of its own task; a dialled one is out with the caller, and
//! its task stays running until the caller drops it.

pub(crate) mod handle;
pub(crate) mod input;
pub(crate) mod output;
mod reader;
mod shared;
mod writer;

use std::fmt;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

use netpoll_buffer::LinkBuffer;

pub use handle::Handle;
pub use reader::Reader;
pub use writer::Writer;

pub(crate) use shared::{Shared, schedule};

use crate::address::Address;
use crate::error::{Error, Result};
use crate::origin::ListenerInfo;
use crate::socket::Credentials;
use crate::task::Events;
use input::Input;

/// A connection in the hands of its owner: a callback, or the caller that dialled it.
///
/// `&mut Connection` is the promise that nobody else reads this connection or runs a callback of
/// it. Other threads hold a [`Handle`]. Where its methods may wait is decided by who drives it: on
/// a worker or on the caller's own thread they wait, under `Dispatch::Inline` they return
/// [`Error::WouldBlock`].
///
/// It is also [`io::Read`] and [`io::Write`]; its reader is [`io::BufRead`] as well. A dialled
/// connection that is dropped closes in order: what was flushed is still sent, within the linger
/// time, without blocking the dropper.
pub struct Connection {
    pub(crate) shared: Arc<Shared>,
    pub(crate) input: Input,
    pub(crate) staged: LinkBuffer,
    write_timeout: Option<Duration>,
    /// Driven by the caller that dialled it, not by a reactor.
    owned: bool,
}

impl Connection {
    pub(crate) fn new(shared: Arc<Shared>, input: Input, owned: bool) -> Self {
        let write_timeout = shared.group.limits().write_timeout;
        Self { shared, input, staged: LinkBuffer::new(), write_timeout, owned }
    }

    /// The reading side.
    pub fn reader(&mut self) -> Reader<'_> {
        Reader::new(&self.shared, &mut self.input)
    }

    /// The writing side.
    pub fn writer(&mut self) -> Writer<'_> {
        Writer::new(&self.shared, &mut self.staged, self.write_timeout)
    }

    /// Both sides at once, to write what is borrowed from the input.
    pub fn split(&mut self) -> (Reader<'_>, Writer<'_>) {
        (
            Reader::new(&self.shared, &mut self.input),
            Writer::new(&self.shared, &mut self.staged, self.write_timeout),
        )
    }

    /// What other threads may hold of this connection. Costs one atomic increment.
    pub fn handle(&self) -> Handle {
        Handle::new(self.shared.clone())
    }

    /// Closes in order: flushes what was written, sends what was accepted, within the linger time,
    /// then ends the stream. Returns at once; from here on reads that would wait and all writes
    /// fail with [`Error::Closed`], and no further callback but `on_disconnect` runs. A peer that
    /// still sends after that may be reset, and lose the end of what it was sent.
    pub fn close(&mut self) {
        self.staged.flush();
        if !self.staged.is_empty() {
            // What can't be sent any more is lost with the connection that is being closed.
            let _ = self.shared.lane.send(&mut self.staged, self.shared.group.limits().output);
        }
        self.shared.request_close();
    }

    /// Whether the connection is fit for another exchange: not closed here, and neither FIN nor
    /// failure seen from the peer. Costs one load, no system call.
    pub fn is_active(&self) -> bool {
        self.shared.is_active()
    }

    /// The peer's address: who connected, or whom a proxy spoke for where its listener speaks the
    /// PROXY protocol.
    pub fn peer_addr(&self) -> Address {
        self.shared.peer.clone()
    }

    /// The listener that it came by; `None` for one that was dialled.
    pub fn listener(&self) -> Option<&ListenerInfo> {
        self.shared.listener.as_deref()
    }

    /// Who is at the other end of a unix socket, as the kernel noted it when they connected. One
    /// system call.
    ///
    /// # Errors
    /// [`Error::Closed`]; [`Error::Io`] of kind `Unsupported` where it is no unix socket.
    pub fn peer_credentials(&self) -> Result<Credentials> {
        let stream = self.shared.lane.stream().ok_or(Error::Closed)?;
        Ok(stream.peer_credentials()?)
    }

    /// The address of this end: this connection's own, not its listener's. One system call.
    ///
    /// # Errors
    /// The system's, and [`Error::Closed`].
    pub fn local_addr(&self) -> Result<Address> {
        self.shared.local_addr()
    }

    /// How long one read waits for all the bytes that it asked for; `None` is for ever. It takes
    /// effect with the next call.
    pub fn set_read_timeout(&mut self, timeout: Option<Duration>) {
        self.input.timeout = timeout;
    }

    /// How long one flush above the high-water mark waits; `None` is for ever. It takes effect with
    /// the next call.
    pub fn set_write_timeout(&mut self, timeout: Option<Duration>) {
        self.write_timeout = timeout;
    }

    /// Sets both timeouts back to what its limits say: for the next one who drives it.
    pub fn reset_timeouts(&mut self) {
        let limits = self.shared.group.limits();
        (self.input.timeout, self.write_timeout) = (limits.read_timeout, limits.write_timeout);
    }

    /// Leaves driving it, and closing it, to the task.
    pub(crate) fn disown(&mut self) -> Arc<Shared> {
        self.owned = false;
        self.shared.clone()
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if self.owned {
            self.shared.task.word.hand_over(Events::CLOSE | Events::STARTED);
            schedule(&self.shared);
        }
    }
}

/// For socket options. Reading, writing or closing behind the connection's back has no defined
/// effect.
impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.input.as_fd()
    }
}

impl Read for Connection {
    /// See [`Reader`]'s.
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        self.reader().read(out)
    }
}

impl Write for Connection {
    /// See [`Writer`]'s.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.writer().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(self.writer().flush()?)
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Connection")
            .field("peer", &self.shared.peer)
            .field("buffered", &self.input.buffer.len())
            .field("task", &self.shared.task)
            .finish_non_exhaustive()
    }
}
