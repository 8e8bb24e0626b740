//! A connection: what its owner holds, and what everybody shares of it.
//!
//! ```text
//!   Connection, for the owner alone           Shared, for all (Arc)
//!   ┌───────────────────────────────┐         ┌─────────────────────────────────────────┐
//!   │ shared, its socket held ──────┼────────►│ task    the word ─► owner; the cell:     │
//!   │ scratch    input: what arrived;  │         │         Connection, session              │
//!   │         staged: written, not  │         │ output    socket; lock ─► queue            │
//!   │         flushed; none if both │         │ group   options, dispatch, head count    │
//!   │         are empty             │         │ reactor    the reactor's command queue      │
//!   └───────────────────────────────┘         └─────────────────────────────────────────┘
//! ```
//! A served connection lives in the cell of its own task; a dialled one is out with the caller, and
//! its task stays running until the caller drops it.

pub(crate) mod accepted;
mod backlog;
pub(crate) mod callbacks;
pub(crate) mod dialled;
mod exchange;
mod extras;
pub(crate) mod group;
mod halves;
pub(crate) mod handle;
pub(crate) mod incoming;
pub(crate) mod input;
pub(crate) mod job;
pub(crate) mod mailbox;
pub(crate) mod output;
mod owner;
mod pace;
mod policy;
mod reader;
mod receipt;
pub(crate) mod run;
pub(crate) mod schedule;
mod scratch;
mod shared;
mod socket;
mod watchdog;
mod writer;

use std::fmt;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use netpoll_buffer::LinkBuffer;

pub use exchange::Exchange;
pub use halves::{ReadHalf, WriteHalf};
pub use handle::Handle;
pub use job::Timer;
pub use reader::Reader;
pub use receipt::{Delivery, Undelivered};
pub use writer::Writer;

pub(crate) use schedule::schedule;
pub(crate) use shared::Shared;

use crate::base::address::Address;
use crate::base::error::{Error, Result};
use crate::base::origin::ListenerInfo;
use crate::io::socket::{Credentials, Keepalive, Stream};
use crate::pure::task::Events;
use crate::sys;
use input::{End, Received};
pub(crate) use owner::Owner;
use scratch::Scratch;

/// A connection in the hands of its owner: a callback, or the caller that dialled it.
///
/// `&mut Connection` is the promise that nobody else reads this connection or runs a callback of
/// it. Other threads hold a [`Handle`]. Where its methods may wait is decided by who drives it: on
/// a worker or on the caller's own thread they wait, under `Dispatch::Inline` they return
/// [`Error::WouldBlock`].
///
/// It is also [`io::Read`] and [`io::Write`]; its reader is [`io::BufRead`] as well. A dialled
/// connection that is dropped closes in order: what was written, flushed or not, is still sent,
/// within the linger time, without blocking the dropper. One that a panic drops sends what was
/// flushed alone: what was cut short must not look whole.
pub struct Connection {
    pub(crate) shared: Owner,
    scratch: Option<Box<Scratch>>,
}

impl Connection {
    pub(crate) fn new(owner: Owner) -> Self {
        Self { shared: owner, scratch: None }
    }

    /// The reading side.
    #[inline]
    pub fn reader(&mut self) -> Reader<'_> {
        let Scratch { input, pace, .. } = scratch_of(&mut self.scratch, &self.shared);
        Reader::new(&self.shared, input, pace)
    }

    /// The writing side.
    #[inline]
    pub fn writer(&mut self) -> Writer<'_> {
        let Scratch { staged, pace, .. } = scratch_of(&mut self.scratch, &self.shared);
        Writer::new(&self.shared, staged, pace)
    }

    /// Both sides at once, to write what is borrowed from the input.
    #[inline]
    pub fn split(&mut self) -> (Reader<'_>, Writer<'_>) {
        let Scratch { input, staged, pace } = scratch_of(&mut self.scratch, &self.shared);
        (Reader::new(&self.shared, input, pace), Writer::new(&self.shared, staged, pace))
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
        self.send_staged();
        self.shared.request_close();
    }

    /// Closes by a reset, at once, dropping what was written and accepted and is not sent. See
    /// [`Handle::abort`].
    pub fn abort(&mut self) {
        self.scratch().staged.clear();
        self.shared.request_reset();
    }

    /// Flushes what was written, and ends our stream (FIN) when all that was accepted is sent;
    /// reading goes on. Nothing can be written after it. A connection whose peer has ended its
    /// stream as well closes then.
    pub fn shutdown_write(&mut self) {
        self.send_staged();
        self.handle().shutdown_write();
    }

    /// Gives the connection away: its socket, what of its input is unread, and what was written or
    /// accepted and is not sent. From here on this connection is closed, without a FIN or a reset;
    /// `on_disconnect` follows with [`CloseReason::Detached`](crate::CloseReason::Detached). The
    /// socket is a duplicate of the descriptor, and still non-blocking. Receipts that are
    /// outstanding tell that their message was not sent.
    ///
    /// # Errors
    /// [`Error::Closed`] when a close has begun; the system's, when no descriptor is free. The
    /// connection is unchanged then.
    pub fn detach(&mut self) -> Result<Detached> {
        self.shared.check_over()?;
        let (socket, mut output) = self.shared.output.detach()?;
        let Scratch { input, staged, .. } = self.scratch();
        staged.flush();
        output.append(std::mem::take(staged));
        output.flush();
        let input = input.detach();
        self.shared.request_close();
        Ok(Detached { socket, input, output })
    }

    /// Has `on_request` called once more when this callback has returned, though no byte arrives:
    /// for one that stops in the middle of its input or its answer, to let others have a turn or
    /// the peer read. A dialled connection has no callbacks, and nothing happens.
    pub fn wake(&mut self) {
        self.shared.task.word.note(Events::WAKE);
    }

    /// Stops receiving; see [`Handle::pause_reading`].
    pub fn pause_reading(&mut self) {
        self.shared.task.word.note(Events::PAUSED);
    }

    /// Receives again; see [`Handle::resume_reading`].
    pub fn resume_reading(&mut self) {
        self.handle().resume_reading();
    }

    fn send_staged(&mut self) {
        let Some(Scratch { staged, .. }) = self.scratch.as_deref_mut() else { return };
        staged.flush();
        if !staged.is_empty() {
            // What can't be sent any more is lost with the connection that is being closed.
            let _ = self.shared.send(staged);
        }
    }

    /// For a drop: a callback's return has its own rules, and an abort or a panic sends nothing.
    fn is_dropped_in_order(&self) -> bool {
        self.shared.is_the_callers() && !self.shared.is_interrupted() && !thread::panicking()
    }

    /// Whether the connection is fit for another exchange: not closed here, and neither FIN nor
    /// failure seen from the peer. Costs one load, no system call.
    pub fn is_active(&self) -> bool {
        self.shared.is_active()
    }

    /// The peer's address: who connected, or whom a proxy spoke for where its listener speaks the
    /// PROXY protocol.
    pub fn peer_addr(&self) -> Address {
        self.shared.peer().clone()
    }

    /// Whether a shutdown of its event loop has begun: say goodbye when it suits. One load.
    pub fn is_shutting_down(&self) -> bool {
        self.shared.group.is_shutting_down()
    }

    /// The listener that it came by; `None` for one that was dialled.
    pub fn listener(&self) -> Option<&ListenerInfo> {
        self.shared.listener.as_ref().map(|listener| listener.info())
    }

    /// Who is at the other end of a unix socket, as the kernel noted it when they connected. One
    /// system call.
    ///
    /// # Errors
    /// [`Error::Closed`]; [`Error::Io`] of kind `Unsupported` where it is no unix socket.
    pub fn peer_credentials(&self) -> Result<Credentials> {
        let asked =
            self.shared.output.with_stream(Stream::peer_credentials).ok_or(Error::Closed)?;
        Ok(asked?)
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
        self.shared.set_timeouts(|timeouts| timeouts.read = timeout);
    }

    /// How long a flush waits, and how long the peer may take nothing of an output above its
    /// high-water mark; `None` is for ever. It takes effect with the next call.
    pub fn set_write_timeout(&mut self, timeout: Option<Duration>) {
        self.shared.set_timeouts(|timeouts| timeouts.write = timeout);
    }

    /// Sets all that it can wait for back to what its limits say, for the next one who drives it:
    /// timeouts, deadlines, [`close_at`](Self::close_at), the idle timeout, the minimum rate, and a
    /// pause.
    pub fn reset_timeouts(&mut self) {
        self.shared.reset_times();
        self.resume_reading();
    }

    /// Until when reads may wait; see [`Handle::set_read_deadline`].
    pub fn set_read_deadline(&mut self, at: Option<Instant>) {
        self.shared.extras.set_read_deadline(at);
    }

    /// Until when flushes may wait; see [`Handle::set_write_deadline`].
    pub fn set_write_deadline(&mut self, at: Option<Instant>) {
        self.handle().set_write_deadline(at);
    }

    /// Closes the connection at that time; see [`Handle::close_at`].
    pub fn close_at(&mut self, at: Option<Instant>) {
        self.handle().close_at(at);
    }

    /// The idle timeout from now on; see [`Limits`](crate::Limits).
    pub fn set_idle_timeout(&mut self, timeout: Option<Duration>) {
        self.handle().set_idle_timeout(timeout);
    }

    /// The kernel's probes of a silent peer from now on; `None` is none. System calls.
    ///
    /// # Errors
    /// [`Error::Config`] where it counts less than a second or a probe; the system's.
    pub fn set_keepalive(&mut self, keepalive: Option<Keepalive>) -> Result<()> {
        keepalive.map_or(Ok(()), Keepalive::validate)?;
        Ok(sys::set_keepalive(self.shared.as_fd(), keepalive)?)
    }

    /// How long sent bytes may stay unacknowledged before the kernel gives the peer up
    /// (`TCP_USER_TIMEOUT`); `None` is as long as the system says. A system call. It finds a peer
    /// that does not acknowledge what it is sent, and no peer that is silent.
    ///
    /// # Errors
    /// [`Error::Config`] for 0; the system's.
    pub fn set_user_timeout(&mut self, timeout: Option<Duration>) -> Result<()> {
        if timeout == Some(Duration::ZERO) {
            return Err(Error::config("user_timeout is 0; None is as long as the system says"));
        }
        Ok(sys::set_user_timeout(self.shared.as_fd(), timeout)?)
    }

    /// Runs `callback` when the connection has ended; see [`Handle::add_close_callback`].
    pub fn add_close_callback(&mut self, callback: impl FnOnce() + Send + 'static) {
        self.shared.extras.on_close(Box::new(callback));
    }

    /// How many bytes the socket has taken in all: after an error, how much of what was written is
    /// on its way.
    pub fn bytes_sent(&self) -> u64 {
        self.shared.output.sent()
    }

    /// How many bytes were received in all.
    pub fn bytes_received(&self) -> u64 {
        self.shared.received()
    }

    /// What it works with, for as long as there is something in it.
    #[inline]
    pub(crate) fn scratch(&mut self) -> &mut Scratch {
        scratch_of(&mut self.scratch, &self.shared)
    }

    /// One receive, if the socket may have something.
    #[inline]
    pub(crate) fn receive(&mut self) -> Received {
        scratch_of(&mut self.scratch, &self.shared).input.receive(&self.shared)
    }

    /// How the stream from the peer has ended, if it has.
    pub(crate) fn end(&self) -> Option<End> {
        self.scratch.as_ref().and_then(|scratch| scratch.input.end())
    }

    /// For the owner, before it lets go.
    #[inline]
    pub(crate) fn rest(&mut self) {
        let Some(mut scratch) = self.scratch.take() else { return };
        scratch.input.note_partial(&self.shared);
        let learnt = scratch.input.buffer.take_read_hint();
        self.shared.set_read_hint(learnt);
        if scratch.is_clear() {
            scratch.leave();
        } else {
            scratch.input.buffer.set_read_hint(learnt);
            self.scratch = Some(scratch);
        }
    }

    /// Drops what it holds, and ends.
    pub(crate) fn leave(mut self) {
        if let Some(mut scratch) = self.scratch.take() {
            scratch.clear();
            scratch.leave();
        }
    }

    /// Leaves driving it, and closing it, to the task.
    pub(crate) fn disown(&mut self) -> Arc<Shared> {
        self.shared.disown();
        self.shared.clone()
    }
}

#[inline]
fn scratch_of<'a>(scratch: &'a mut Option<Box<Scratch>>, shared: &Shared) -> &'a mut Scratch {
    match scratch {
        Some(scratch) => scratch,
        none => {
            let scratch = none.insert(Scratch::take());
            scratch.input.buffer.set_read_hint(shared.read_hint());
            scratch
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if self.scratch.is_some() && self.is_dropped_in_order() {
            self.send_staged();
        }
    }
}

/// What [`Connection::detach`] gave away. Dropping it closes the socket.
#[derive(Debug)]
#[non_exhaustive]
pub struct Detached {
    /// The socket, non-blocking, watched by nobody.
    pub socket: OwnedFd,
    /// What was received and not read: it comes before what the socket still has.
    pub input: LinkBuffer,
    /// What was written and not sent: it comes before what is sent next.
    pub output: LinkBuffer,
}

/// For socket options. Reading, writing or closing behind the connection's back has no defined
/// effect.
impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.shared.task.word.note(Events::SHOWN);
        self.shared.as_fd()
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
            .field("peer", self.shared.peer())
            .field(
                "buffered",
                &self.scratch.as_ref().map_or(0, |scratch| scratch.input.buffer.len()),
            )
            .field("task", &self.shared.task)
            .finish_non_exhaustive()
    }
}
