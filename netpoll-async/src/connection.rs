//! A connection as futures use it.

use std::fmt;
use std::io::IoSlice;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use netpoll_buffer::LinkBuffer;
use netpoll_core::{Address, Handle, Result};

use crate::closed::Closed;
use crate::halves::{AsyncReadHalf, AsyncWriteHalf, pair};
use crate::shared::Shared;
use crate::signal::Signalled;
use crate::taken::TakenCounts;

/// A connection as futures use it: a stream object that the connection's loop wakes.
///
/// It depends on no runtime: the future of the connection may use it, a task of another executor,
/// or a thread that blocks on a future. It is `Send` and `Unpin`. Each side has one waiter: of two
/// tasks that wait for the same side, the last is woken.
///
/// **Reading** takes the bytes in the blocks into which they were received; nothing is copied
/// except by [`read`](Self::read). What no task waits for stays in the kernel, but for one receive.
///
/// **Writing** waits while the output is above its high-water mark. In a poll of the connection's
/// own future, what was written is staged, and leaves in one piece with a [`flush`](Self::flush) or
/// at the end of the poll; everywhere else each write leaves at once. One poll of the own future
/// writes 256 KiB at the most; then other connections have their turn.
///
/// **The connection closes**, in order, when this object is dropped, both halves of it if it was
/// split, and the future of the connection has ended. If the object is dropped before that, this
/// side's stream ends (FIN) behind what was written, and the future goes on.
///
/// # Errors
/// Reads fail with the error of the stream: `ConnectionReset`,
/// [`Error::Truncated`](netpoll_core::Error::Truncated) in TLS, [`Error::Closed`] if this side has
/// closed it, [`Error::TimedOut`] if a limit of time has. What came before is read first. Writes
/// fail with the socket's error, and with [`Error::Closed`] after a close or
/// [`shutdown`](Self::shutdown). The end of the peer's stream is no error: 0 bytes, or `None`.
///
/// [`Error::Closed`]: netpoll_core::Error::Closed
/// [`Error::TimedOut`]: netpoll_core::Error::TimedOut
pub struct AsyncConnection {
    pub(crate) read: AsyncReadHalf,
    pub(crate) write: AsyncWriteHalf,
    peer: Address,
}

impl AsyncConnection {
    pub(crate) fn new(shared: &Arc<Shared>) -> Self {
        let (read, write) = pair(shared);
        Self { read, write, peer: shared.handle.peer_addr() }
    }

    /// The bytes that have come, as far as they are contiguous; waits for the first. Empty at the
    /// end of the peer's stream. [`consume`](Self::consume) takes them.
    pub fn poll_fill_buf(&mut self, context: &mut Context<'_>) -> Poll<Result<&[u8]>> {
        self.read.poll_fill_buf(context)
    }

    /// As [`poll_fill_buf`](Self::poll_fill_buf).
    ///
    /// # Errors
    /// See the type.
    pub async fn fill_buf(&mut self) -> Result<&[u8]> {
        self.read.fill_buf().await
    }

    /// Takes the next `n` of the bytes that have come.
    ///
    /// # Panics
    /// If fewer are buffered.
    pub fn consume(&mut self, n: usize) {
        self.read.consume(n);
    }

    /// Copies what has come to `out`; waits for the first byte. 0 is the end of the peer's stream.
    pub fn poll_read(&mut self, context: &mut Context<'_>, out: &mut [u8]) -> Poll<Result<usize>> {
        self.read.poll_read(context, out)
    }

    /// As [`poll_read`](Self::poll_read).
    ///
    /// # Errors
    /// See the type.
    pub async fn read(&mut self, out: &mut [u8]) -> Result<usize> {
        self.read.read(out).await
    }

    /// Fills `out`. If it is dropped before its end, what it has copied is lost.
    ///
    /// # Errors
    /// See the type; [`EndOfStream`](netpoll_core::Error::EndOfStream) if the peer ends its stream
    /// before that.
    pub async fn read_exact(&mut self, out: &mut [u8]) -> Result<()> {
        self.read.read_exact(out).await
    }

    /// Takes what has come, as far as it is contiguous, without a copy; waits for the first byte.
    /// `None` is the end of the peer's stream. The bytes keep their block: copy small ones that
    /// live long.
    pub fn poll_read_bytes(&mut self, context: &mut Context<'_>) -> Poll<Result<Option<Bytes>>> {
        self.read.poll_read_bytes(context)
    }

    /// As [`poll_read_bytes`](Self::poll_read_bytes).
    ///
    /// # Errors
    /// See the type.
    pub async fn read_bytes(&mut self) -> Result<Option<Bytes>> {
        self.read.read_bytes().await
    }

    /// Waits for more bytes than [`buffer`](Self::buffer) has, and adds them to it; `false` at the
    /// end of the peer's stream. For a message that must be there as a whole.
    pub fn poll_more(&mut self, context: &mut Context<'_>) -> Poll<Result<bool>> {
        self.read.poll_more(context)
    }

    /// As [`poll_more`](Self::poll_more).
    ///
    /// # Errors
    /// See the type; [`InputLimit`](netpoll_core::Error::InputLimit) if as many bytes are buffered
    /// as may be.
    pub async fn more(&mut self) -> Result<bool> {
        self.read.more().await
    }

    /// What has come and was not taken: for a codec, or to take bytes in another way.
    pub fn buffer(&mut self) -> &mut LinkBuffer {
        self.read.buffer()
    }

    /// Writes a copy of as much of `bytes` as there is room for; waits for room.
    pub fn poll_write(&mut self, context: &mut Context<'_>, bytes: &[u8]) -> Poll<Result<usize>> {
        self.write.poll_write(context, bytes)
    }

    /// As [`poll_write`](Self::poll_write), for several pieces.
    pub fn poll_write_vectored(
        &mut self,
        context: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<Result<usize>> {
        self.write.poll_write_vectored(context, pieces)
    }

    /// Writes `bytes` by reference, and takes them; waits until there is room for the first of
    /// them.
    pub fn poll_write_bytes(
        &mut self,
        context: &mut Context<'_>,
        bytes: &mut Bytes,
    ) -> Poll<Result<()>> {
        self.write.poll_write_bytes(context, bytes)
    }

    /// As [`poll_write_bytes`](Self::poll_write_bytes). Nothing is written if it is dropped before
    /// its end.
    ///
    /// # Errors
    /// See the type.
    pub async fn write_bytes(&mut self, bytes: impl Into<Bytes>) -> Result<()> {
        self.write.write_bytes(bytes).await
    }

    /// Writes a copy of all of `bytes`. If it is dropped before its end, a part may be written.
    ///
    /// # Errors
    /// See the type.
    pub async fn write_all(&mut self, bytes: &[u8]) -> Result<()> {
        self.write.write_all(bytes).await
    }

    /// Writes a whole buffer by moving its blocks, once there is room for its first byte. Nothing
    /// is written if it is dropped before its end.
    ///
    /// # Errors
    /// See the type.
    pub async fn write_buffer(&mut self, buffer: LinkBuffer) -> Result<()> {
        self.write.write_buffer(buffer).await
    }

    /// Sends what was written: at once on this thread if nothing is queued, and what the socket
    /// does not take when it takes bytes again. It does not wait for the peer.
    pub fn poll_flush(&mut self, context: &mut Context<'_>) -> Poll<Result<()>> {
        self.write.poll_flush(context)
    }

    /// As [`poll_flush`](Self::poll_flush). Flush before the future blocks its thread.
    ///
    /// # Errors
    /// See the type.
    pub async fn flush(&mut self) -> Result<()> {
        self.write.flush().await
    }

    /// Sends what was written, and ends this side's stream (FIN) behind it. Reads go on.
    pub fn poll_shutdown(&mut self, context: &mut Context<'_>) -> Poll<Result<()>> {
        self.write.poll_shutdown(context)
    }

    /// As [`poll_shutdown`](Self::poll_shutdown).
    ///
    /// # Errors
    /// See the type.
    pub async fn shutdown(&mut self) -> Result<()> {
        self.write.shutdown().await
    }

    /// Both sides, for two tasks. The connection closes when both are dropped.
    pub fn split(self) -> (AsyncReadHalf, AsyncWriteHalf) {
        (self.read, self.write)
    }

    /// Sets how long one read waits; `None`, unless the limits of the event loop or of the dialer
    /// say otherwise, is for ever. A read that is late fails with
    /// [`Error::TimedOut`](netpoll_core::Error::TimedOut). The time begins when the read first
    /// waits; one `read_exact` has it for all of its bytes. A `poll_` method goes on with the read
    /// that the last one has left pending.
    pub fn set_read_timeout(&mut self, timeout: Option<Duration>) {
        self.read.set_read_timeout(timeout);
    }

    /// Sets how long the peer may take nothing while the output stands above its high-water mark;
    /// `None` is for ever. Then the connection ends, as all reads and writes say. Takes effect the
    /// next time that the output rises above the mark.
    pub fn set_write_timeout(&mut self, timeout: Option<Duration>) {
        self.write.set_write_timeout(timeout);
    }

    /// Sets until when reads wait; `None`, the default, is for ever. It also applies to a read that
    /// waits now, in whatever task. Bytes that have come are read all the same.
    pub fn set_read_deadline(&mut self, at: Option<Instant>) {
        self.read.set_read_deadline(at);
    }

    /// Sets until when writes wait for room, as [`set_read_deadline`](Self::set_read_deadline) does
    /// for reads. What was written stays queued.
    pub fn set_write_deadline(&mut self, at: Option<Instant>) {
        self.write.set_write_deadline(at);
    }

    /// While the result lives, all that was read counts as a part of a request until something is
    /// written, and so as slow if it falls below the
    /// [minimum receive rate](netpoll_core::Limits::min_receive_rate). For a protocol that answers
    /// each request, and whose parser keeps the parts of a request itself. Otherwise only what is
    /// in [`buffer`](Self::buffer) counts, and what `read_exact` has of its bytes.
    pub fn count_taken(&self) -> TakenCounts {
        TakenCounts::new(&self.read.shared)
    }

    /// A handle of the connection: to send from elsewhere, to close it, to set its timeouts.
    pub fn handle(&self) -> Handle {
        self.read.handle()
    }

    /// The address of the peer; see [`Connection::peer_addr`](netpoll_core::Connection::peer_addr).
    pub fn peer_addr(&self) -> &Address {
        &self.peer
    }

    /// The address of this end. One system call, unless a proxy named the address.
    ///
    /// # Errors
    /// [`Error::Closed`](netpoll_core::Error::Closed), or the system's error.
    pub fn local_addr(&self) -> Result<Address> {
        self.read.shared.handle.local_addr()
    }

    /// Completes when a shutdown of the event loop has begun, or the connection has reached its
    /// [`MaxAge`](netpoll_core::MaxAge): to end what is under way, and then the future.
    ///
    /// A future that calls this decides when the connection ends, within the shutdown's deadline.
    /// Without a call, a read that waits for the next request ends as at the end of the peer's
    /// stream: once nothing that has come is without an answer, which is to say that something was
    /// written since bytes last came.
    pub fn shutting_down(&self) -> Signalled {
        self.read.shared.shutting_down()
    }

    /// Completes when nothing that is written from here on can reach the peer: it has reset, the
    /// connection has failed, or this side has closed it. A peer that has only ended its stream may
    /// wait for an answer; a read tells of that.
    pub fn closed(&self) -> Closed {
        Closed::new(&self.read.shared.handle)
    }
}

impl fmt::Debug for AsyncConnection {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_tuple("AsyncConnection").field(&self.read.shared).finish()
    }
}
