//! A connection: the part that its owner alone uses, and the part that all threads share.
//!
//! ```text
//!   Connection: for its owner alone           Shared: for all threads (Arc)
//!   ┌────────────────────────────────┐        ┌────────────────────────────────────────────┐
//!   │ shared   Owner: holds the ─────┼───────►│ task     word: which thread owns it;       │
//!   │          socket open           │        │          cell: the Runner                  │
//!   │ scratch  lent by the thread    │        │ output   write side, queue, socket         │
//!   │   input   received, not read   │        │ group    policy, dispatcher, live count    │
//!   │   staged  written, not flushed │        │ reactor  Remote: the reactor's mailbox     │
//!   │   pace    from the writing to  │        │ extras   deadlines, jobs, close callbacks, │
//!   │           the reading side     │        │          a time watch; made on first use   │
//!   └────────────────────────────────┘        └────────────────────────────────────────────┘
//! ```
//! A served connection lives in the `Runner`, in the cell of its own task. A dialled one is with
//! its caller, and its task stays running until the caller drops it. Between two runs a connection
//! has a scratch only if something is left in it.

pub(crate) mod accepted;
mod backlog;
pub mod broadcast;
pub(crate) mod callbacks;
mod detached;
pub(crate) mod dialled;
mod exchange;
mod extras;
mod filtered;
mod gone;
pub(crate) mod greeting;
pub(crate) mod group;
mod halves;
pub(crate) mod handle;
mod handshake;
mod hold;
mod in_order;
pub(crate) mod incoming;
pub(crate) mod input;
pub(crate) mod job;
pub(crate) mod mailbox;
mod marks;
mod naming;
mod nonblocking;
pub(crate) mod origin;
pub(crate) mod output;
mod owner;
mod pace;
mod policy;
pub(crate) mod pursuit;
mod reader;
mod receipt;
pub(crate) mod relay;
pub(crate) mod run;
pub(crate) mod schedule;
pub(crate) mod scheduled;
mod scratch;
mod shared;
mod socket;
pub(crate) mod source;
pub(crate) mod spawned;
mod unflushed;
mod watchdog;
mod writer;
mod written_members;

use std::fmt;
use std::io::{self, IoSlice, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

pub use detached::{Carried, Detached};
pub use exchange::Exchange;
pub use gone::GoneWatch;
pub use halves::{ReadHalf, WriteHalf};
pub use handle::{Handle, ReadLimits};
pub use hold::{HandleSource, Hold};
pub use job::Timer;
pub use nonblocking::NonBlocking;
pub use reader::Reader;
pub use receipt::{Delivery, Undelivered};
pub use writer::Writer;

pub(crate) use owner::Owner;
pub(crate) use schedule::schedule;
pub(crate) use shared::Shared;

use crate::base::address::Address;
use crate::base::error::{Error, Result};
use crate::base::proxy::Header;
use crate::io::filter::Filter;
use crate::io::socket::{Credentials, Keepalive, TcpInfo};
use crate::io::stream::Stream;
use crate::pure::task::Events;
use input::{End, Received};
use origin::ListenerInfo;
use scratch::Scratch;

/// A connection, as its owner uses it: a callback, or the caller that dialled it.
///
/// While code has a `&mut Connection`, no other thread reads this connection or runs a callback of
/// it. Other threads use a [`Handle`].
///
/// Reads and flushes may wait on the thread of a callback, except under `Dispatch::Inline`, and on
/// the thread of the caller that dialled. Under `Dispatch::HandOff` a callback may run on its
/// loop's thread; before it waits there, another thread takes the loop over. Under
/// `Dispatch::Inline` a read or flush that would have to wait returns [`Error::WouldBlock`].
///
/// It is also [`io::Read`] and [`io::Write`], and its reader is [`io::BufRead`]. A dialled
/// connection that is dropped closes in order: everything written, flushed or not, is still sent
/// within the linger time, and the drop does not block. If a panic drops it, only what was flushed
/// is sent, since a message that was cut short must not look complete.
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
        let Scratch { input, staged, pace } = scratch_of(&mut self.scratch, &self.shared);
        if self.shared.unflushed.is_deferring() {
            Writer::new(&self.shared, staged, pace).pass_on();
        }
        Reader::new(&self.shared, input, pace)
    }

    /// The reading side, where what is written is staged elsewhere.
    pub(crate) fn reader_alone(&mut self) -> Reader<'_> {
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

    /// Returns a handle for other threads. Costs one atomic increment.
    pub fn handle(&self) -> Handle {
        Handle::new(self.shared.clone())
    }

    /// Closes in order: flushes what was written, sends what was accepted within the linger time,
    /// and then ends the stream. Returns at once. From here on reads that would wait and all writes
    /// fail with [`Error::Closed`], and no callback runs except `on_disconnect`. A peer that still
    /// sends after that may be reset, and may then lose the end of what was sent to it.
    pub fn close(&mut self) {
        self.send_staged();
        self.shared.request_close();
    }

    /// Closes at once by a reset. What was written or accepted and is not sent yet is dropped. See
    /// [`Handle::abort`].
    pub fn abort(&mut self) {
        self.scratch().staged.clear();
        self.shared.unflushed.clear();
        self.shared.request_reset();
    }

    /// Flushes what was written, and ends this side's stream (FIN) when all that was accepted is
    /// sent. Reads go on; writes fail from here on. If the peer has ended its stream too, the
    /// connection closes.
    pub fn shutdown_write(&mut self) {
        self.send_staged();
        self.handle().shutdown_write();
    }

    /// Calls `on_request` once more after this callback has returned, even if no byte arrives. A
    /// callback may so stop in the middle of its input or its answer, to give other connections
    /// their turn or the peer time to read. Does nothing on a dialled connection, which has no
    /// callbacks.
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

    /// The filter of the connection, as it was made; `None` without one. With
    /// [`as_any`](Filter::as_any) it tells what the handshake has agreed on.
    pub fn filter(&self) -> Option<Arc<dyn Filter>> {
        self.shared.filtered()?.filter()
    }

    /// Whether the connection can serve another exchange: it is not closed on this side, and
    /// neither a FIN nor a failure of the peer was seen. No system call.
    pub fn is_active(&self) -> bool {
        self.shared.is_active()
    }

    /// The number of the connection, as lines of the log name it. No other connection of this
    /// process has it or will have it, whatever its event loop, dialer or manager. Numbers grow in
    /// the order in which connections are made, from 1.
    ///
    /// ```
    /// use netpoll_core::{Connection, Result};
    ///
    /// fn on_request(conn: &mut Connection) -> Result<()> {
    ///     assert_eq!(conn.id(), conn.handle().id());
    ///     println!("connection {} from {}", conn.id(), conn.peer_addr());
    ///     Ok(())
    /// }
    /// ```
    pub fn id(&self) -> u64 {
        self.shared.id
    }

    /// The address of the peer. If the listener speaks the PROXY protocol, it is the address that
    /// the proxy named, or the proxy's own, if that named none.
    pub fn peer_addr(&self) -> Address {
        self.shared.peer().clone()
    }

    /// What the proxy said of this connection, with its extensions: the host name that the client
    /// asked for, how it spoke TLS, … `None` if its listener does not speak the PROXY protocol,
    /// or takes this peer for a client. No system call, no copy.
    ///
    /// ```
    /// use netpoll_core::Connection;
    ///
    /// /// Whether the proxy has verified that this client is `name`.
    /// fn is(conn: &Connection, name: &str) -> bool {
    ///     let tls = conn.proxy_header().and_then(|header| header.tls());
    ///     tls.is_some_and(|tls| tls.is_verified() && tls.common_name() == Some(name))
    /// }
    /// ```
    pub fn proxy_header(&self) -> Option<&Header> {
        self.shared.proxy_header()
    }

    /// Whether a shutdown of its event loop has begun, or it has reached its
    /// [`MaxAge`](crate::MaxAge), so that a protocol may end its exchange. Two loads.
    pub fn is_shutting_down(&self) -> bool {
        self.shared.is_shutting_down()
    }

    /// The listener that accepted it; `None` for a dialled connection.
    pub fn listener(&self) -> Option<&ListenerInfo> {
        self.shared.listener.as_ref().map(|listener| listener.info())
    }

    /// The process and user at the other end of a Unix socket, as the kernel recorded them when the
    /// socket was connected. One system call.
    ///
    /// # Errors
    /// [`Error::Closed`]; [`Error::Io`] of kind `Unsupported` if this is not a Unix socket.
    pub fn peer_credentials(&self) -> Result<Credentials> {
        let asked =
            self.shared.output.with_stream(Stream::peer_credentials).ok_or(Error::Closed)?;
        Ok(asked?)
    }

    /// The address of this end: the connection's own, not its listener's. One system call, unless
    /// a proxy named the address.
    ///
    /// # Errors
    /// [`Error::Closed`], or the system's error.
    pub fn local_addr(&self) -> Result<Address> {
        self.shared.local_addr()
    }

    /// What the kernel measures on this TCP connection; see [`Handle::tcp_info`].
    ///
    /// # Errors
    /// As [`Handle::tcp_info`].
    pub fn tcp_info(&self) -> Result<TcpInfo> {
        self.shared.tcp_info()
    }

    /// Sets how long one read waits for all the bytes that it asks for; `None` is for ever. Takes
    /// effect with the next read.
    pub fn set_read_timeout(&mut self, timeout: Option<Duration>) {
        self.shared.set_timeouts(|timeouts| timeouts.read = timeout);
    }

    /// Sets how long a flush waits, and how long the peer may take nothing of an output above its
    /// high-water mark; `None` is for ever. Takes effect with the next flush.
    pub fn set_write_timeout(&mut self, timeout: Option<Duration>) {
        self.shared.set_timeouts(|timeouts| timeouts.write = timeout);
    }

    /// Sets everything that limits a wait back to the [`Limits`](crate::Limits), for the next
    /// user of a pooled connection: timeouts, deadlines, [`close_at`](Self::close_at), the idle
    /// timeout, the minimum rate, and a pause.
    pub fn reset_timeouts(&mut self) {
        self.shared.reset_times();
        self.resume_reading();
    }

    /// Sets until when reads may wait; see [`Handle::set_read_deadline`].
    pub fn set_read_deadline(&mut self, at: Option<Instant>) {
        self.shared.extras.set_read_deadline(&self.shared.task.word, at);
    }

    /// Sets until when flushes may wait; see [`Handle::set_write_deadline`].
    pub fn set_write_deadline(&mut self, at: Option<Instant>) {
        self.handle().set_write_deadline(at);
    }

    /// Closes the connection at that time; see [`Handle::close_at`].
    pub fn close_at(&mut self, at: Option<Instant>) {
        self.handle().close_at(at);
    }

    /// Sets the idle timeout from now on; see [`Limits`](crate::Limits).
    pub fn set_idle_timeout(&mut self, timeout: Option<Duration>) {
        self.handle().set_idle_timeout(timeout);
    }

    /// Sets how the kernel probes a silent peer from now on; `None` turns the probes off. Several
    /// system calls.
    ///
    /// # Errors
    /// [`Error::Config`] for less than a second or less than one probe, or the system's error.
    pub fn set_keepalive(&mut self, keepalive: Option<Keepalive>) -> Result<()> {
        keepalive.map_or(Ok(()), Keepalive::validate)?;
        Ok(self.shared.stream().set_keepalive(keepalive)?)
    }

    /// Sets how long sent bytes may stay unacknowledged before the kernel gives the peer up
    /// (`TCP_USER_TIMEOUT`); `None` is the system's default. This finds a peer that does not
    /// acknowledge what was sent to it, but not one that is only silent. One system call.
    ///
    /// # Errors
    /// [`Error::Config`] for 0, or the system's error.
    pub fn set_user_timeout(&mut self, timeout: Option<Duration>) -> Result<()> {
        if timeout == Some(Duration::ZERO) {
            return Err(Error::config("user_timeout is 0; None is as long as the system says"));
        }
        Ok(self.shared.stream().set_user_timeout(timeout)?)
    }

    /// Runs `callback` when the connection has ended; see [`Handle::add_close_callback`].
    pub fn add_close_callback(&mut self, callback: impl FnOnce() + Send + 'static) {
        self.shared.extras.on_close(&self.shared.task.word, Box::new(callback));
    }

    /// The number of bytes that the socket has taken in all. After an error, it tells how much of
    /// what was written is on its way.
    pub fn bytes_sent(&self) -> u64 {
        self.shared.output.sent()
    }

    /// The number of bytes received in all.
    pub fn bytes_received(&self) -> u64 {
        self.shared.received()
    }

    /// The scratch; takes the thread's if the connection has none.
    #[inline]
    pub(crate) fn scratch(&mut self) -> &mut Scratch {
        scratch_of(&mut self.scratch, &self.shared)
    }

    /// One receive, if the socket may have something.
    #[inline]
    pub(crate) fn receive(&mut self) -> Received {
        scratch_of(&mut self.scratch, &self.shared).input.receive(&self.shared, usize::MAX)
    }

    /// The same for at most so many bytes.
    pub(crate) fn receive_up_to(&mut self, most: usize) -> Received {
        scratch_of(&mut self.scratch, &self.shared).input.receive(&self.shared, most)
    }

    /// Whether nothing of the peer can be in the socket any more. Behind the end that a filter
    /// tells of there may be more.
    pub(crate) fn is_read_out(&self) -> bool {
        match self.end() {
            Some(End::Failed(_) | End::Truncated) => true,
            Some(End::Finished) => !self.shared.output.is_filtered(),
            Some(End::Refused) | None => false,
        }
    }

    /// How the peer's stream has ended; `None` if it has not.
    pub(crate) fn end(&self) -> Option<End> {
        self.scratch.as_ref().and_then(|scratch| scratch.input.end())
    }

    /// Gives the scratch back to the thread, if nothing is left in it. For the owner, before it
    /// releases the connection.
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

    /// Drops what is in the scratch, and ends the connection.
    pub(crate) fn leave(mut self) {
        if let Some(mut scratch) = self.scratch.take() {
            scratch.clear();
            scratch.leave();
        }
    }

    /// Leaves it to the task to run and to close the connection.
    pub(crate) fn disown(&mut self) -> Arc<Shared> {
        self.shared.disown();
        self.shared.clone()
    }

    pub(crate) fn send_staged(&mut self) {
        let Some(Scratch { staged, .. }) = self.scratch.as_deref_mut() else { return };
        staged.flush();
        if !staged.is_empty() || self.shared.unflushed.is_any() {
            // If this fails, nothing more can be sent, and the connection is being closed.
            let _ = self.shared.send_in_order(staged);
        }
    }

    /// Whether a drop sends what is staged: only for a caller's connection, and not after a close
    /// or in a panic.
    fn is_dropped_in_order(&self) -> bool {
        self.shared.is_the_callers() && !self.shared.is_interrupted() && !thread::panicking()
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if self.scratch.is_some() && self.is_dropped_in_order() {
            self.send_staged();
        }
    }
}

/// For socket options. A read, write or close on the descriptor itself has no defined effect.
impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.shared.task.word.note(Events::SHOWN);
        self.shared.as_fd()
    }
}

impl Read for Connection {
    /// As [`Reader`]'s `read`.
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        self.reader().read(out)
    }
}

impl Write for Connection {
    /// As [`Writer`]'s `write`.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.writer().write(bytes)
    }

    fn write_vectored(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        self.writer().write_vectored(pieces)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(self.writer().flush()?)
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Connection")
            .field("id", &self.shared.id)
            .field(self.shared.direction(), self.shared.peer())
            .field(
                "buffered",
                &self.scratch.as_ref().map_or(0, |scratch| scratch.input.buffer.len()),
            )
            .field("task", &self.shared.task)
            .finish_non_exhaustive()
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
