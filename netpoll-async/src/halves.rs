//! The halves of a stream object: for one task that reads and one that writes.

use std::fmt;
use std::future::poll_fn;
use std::io::IoSlice;
use std::mem;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use netpoll_buffer::LinkBuffer;
use netpoll_core::{Error, Handle, Result};

use crate::shared::Shared;
use crate::waits::{ReadWait, WaitTimer};

/// [`LinkBuffer::write_shared`] copies what is shorter.
const WORTH_LINKING: usize = 4 << 10;

/// The reading half of an [`AsyncConnection`](crate::AsyncConnection), whose methods of the same
/// names it has. The connection closes when both halves are dropped.
pub struct AsyncReadHalf {
    pub(crate) shared: Arc<Shared>,
    /// What was taken from the connection and is not consumed.
    input: LinkBuffer,
    wait: ReadWait,
}

/// The writing half of an [`AsyncConnection`](crate::AsyncConnection), whose methods of the same
/// names it has. Its drop ends no stream: see [`shutdown`](Self::shutdown).
pub struct AsyncWriteHalf {
    pub(crate) shared: Arc<Shared>,
    timer: WaitTimer,
}

/// A read of an `async` method. Its drop ends it, so that the next one has all of its time.
struct OneRead<'a>(&'a mut AsyncReadHalf);

/// Both halves of one connection.
pub(crate) fn pair(shared: &Arc<Shared>) -> (AsyncReadHalf, AsyncWriteHalf) {
    let (input, wait) = (LinkBuffer::new(), ReadWait::default());
    let read = AsyncReadHalf { shared: shared.clone(), input, wait };
    (read, AsyncWriteHalf { shared: shared.clone(), timer: WaitTimer::default() })
}

impl AsyncReadHalf {
    /// See [`AsyncConnection::poll_fill_buf`](crate::AsyncConnection::poll_fill_buf).
    pub fn poll_fill_buf(&mut self, context: &mut Context<'_>) -> Poll<Result<&[u8]>> {
        ready!(self.poll_filled(context))?;
        Poll::Ready(Ok(self.input.chunk()))
    }

    /// See [`AsyncConnection::fill_buf`](crate::AsyncConnection::fill_buf).
    ///
    /// # Errors
    /// As there.
    pub async fn fill_buf(&mut self) -> Result<&[u8]> {
        let read = OneRead(self);
        poll_fn(|context| read.0.poll_filled(context)).await?;
        drop(read);
        Ok(self.input.chunk())
    }

    /// See [`AsyncConnection::consume`](crate::AsyncConnection::consume).
    pub fn consume(&mut self, n: usize) {
        self.input.consume(n);
    }

    /// See [`AsyncConnection::poll_read`](crate::AsyncConnection::poll_read).
    pub fn poll_read(&mut self, context: &mut Context<'_>, out: &mut [u8]) -> Poll<Result<usize>> {
        if out.is_empty() {
            return Poll::Ready(Ok(0));
        }
        ready!(self.poll_filled(context))?;
        Poll::Ready(Ok(self.input.copy_to(out)))
    }

    /// See [`AsyncConnection::read`](crate::AsyncConnection::read).
    ///
    /// # Errors
    /// As there.
    pub async fn read(&mut self, out: &mut [u8]) -> Result<usize> {
        let read = OneRead(self);
        poll_fn(|context| read.0.poll_read(context, out)).await
    }

    /// See [`AsyncConnection::read_exact`](crate::AsyncConnection::read_exact).
    ///
    /// # Errors
    /// As there.
    pub async fn read_exact(&mut self, out: &mut [u8]) -> Result<()> {
        let (read, mut filled) = (OneRead(self), 0);
        while filled < out.len() {
            let is_within = filled > 0;
            if !poll_fn(|context| read.0.poll_bytes(context, is_within)).await? {
                return Err(Error::EndOfStream);
            }
            filled += read.0.input.copy_to(&mut out[filled..]);
        }
        Ok(())
    }

    /// See [`AsyncConnection::poll_read_bytes`](crate::AsyncConnection::poll_read_bytes).
    pub fn poll_read_bytes(&mut self, context: &mut Context<'_>) -> Poll<Result<Option<Bytes>>> {
        if !ready!(self.poll_filled(context))? {
            return Poll::Ready(Ok(None));
        }
        let bytes = self.input.read_bytes(self.input.chunk().len())?;
        Poll::Ready(Ok(Some(bytes)))
    }

    /// See [`AsyncConnection::read_bytes`](crate::AsyncConnection::read_bytes).
    ///
    /// # Errors
    /// As there.
    pub async fn read_bytes(&mut self) -> Result<Option<Bytes>> {
        let read = OneRead(self);
        poll_fn(|context| read.0.poll_read_bytes(context)).await
    }

    /// See [`AsyncConnection::poll_more`](crate::AsyncConnection::poll_more).
    pub fn poll_more(&mut self, context: &mut Context<'_>) -> Poll<Result<bool>> {
        let limit = self.shared.handle.input_limit();
        if self.input.len() >= limit {
            let requested = self.input.len() + 1;
            return Poll::Ready(Err(Error::InputLimit { requested, limit }));
        }
        let outcome =
            ready!(self.shared.poll_input(context, &mut self.input, &mut self.wait, false));
        self.wait.end();
        Poll::Ready(outcome)
    }

    /// See [`AsyncConnection::more`](crate::AsyncConnection::more).
    ///
    /// # Errors
    /// As there.
    pub async fn more(&mut self) -> Result<bool> {
        let read = OneRead(self);
        poll_fn(|context| read.0.poll_more(context)).await
    }

    /// See [`AsyncConnection::buffer`](crate::AsyncConnection::buffer).
    pub fn buffer(&mut self) -> &mut LinkBuffer {
        &mut self.input
    }

    /// See [`AsyncConnection::set_read_timeout`](crate::AsyncConnection::set_read_timeout).
    pub fn set_read_timeout(&mut self, timeout: Option<Duration>) {
        self.shared.handle.set_read_timeout(timeout);
    }

    /// See [`AsyncConnection::set_read_deadline`](crate::AsyncConnection::set_read_deadline).
    pub fn set_read_deadline(&mut self, at: Option<Instant>) {
        self.shared.handle.set_read_deadline(at);
    }

    /// A handle of the connection.
    pub fn handle(&self) -> Handle {
        self.shared.handle.clone()
    }

    /// Reads at least one byte, unless some are there; `false` at the end of the stream.
    fn poll_filled(&mut self, context: &mut Context<'_>) -> Poll<Result<bool>> {
        let outcome = ready!(self.poll_bytes(context, false));
        self.wait.end();
        Poll::Ready(outcome)
    }

    /// The same as a part of a read, which `is_within` what it reads or at its begin.
    fn poll_bytes(&mut self, context: &mut Context<'_>, is_within: bool) -> Poll<Result<bool>> {
        if !self.input.is_empty() {
            return Poll::Ready(Ok(true));
        }
        self.shared.poll_input(context, &mut self.input, &mut self.wait, is_within)
    }
}

impl AsyncWriteHalf {
    /// See [`AsyncConnection::poll_write`](crate::AsyncConnection::poll_write).
    pub fn poll_write(&mut self, context: &mut Context<'_>, bytes: &[u8]) -> Poll<Result<usize>> {
        self.poll_write_vectored(context, &[IoSlice::new(bytes)])
    }

    /// See [`AsyncConnection::poll_write_vectored`](crate::AsyncConnection::poll_write_vectored).
    pub fn poll_write_vectored(
        &mut self,
        context: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<Result<usize>> {
        if pieces.iter().all(|piece| piece.is_empty()) {
            return Poll::Ready(Ok(0));
        }
        self.shared
            .poll_write(context, &mut self.timer, |staged, room| copy_pieces(staged, pieces, room))
    }

    /// See [`AsyncConnection::poll_write_bytes`](crate::AsyncConnection::poll_write_bytes).
    pub fn poll_write_bytes(
        &mut self,
        context: &mut Context<'_>,
        bytes: &mut Bytes,
    ) -> Poll<Result<()>> {
        if bytes.is_empty() {
            return Poll::Ready(Ok(()));
        }
        // What is copied is dropped behind the lock: that is the code of its owner.
        let mut copied = Bytes::new();
        let written = self.shared.poll_write(context, &mut self.timer, |staged, _| {
            let bytes = mem::take(bytes);
            let len = bytes.len();
            if len < WORTH_LINKING {
                staged.write_bytes(&bytes);
                copied = bytes;
            } else {
                staged.write_shared(bytes);
            }
            len
        });
        drop(copied);
        written.map_ok(drop)
    }

    /// See [`AsyncConnection::write_bytes`](crate::AsyncConnection::write_bytes).
    ///
    /// # Errors
    /// As there.
    pub async fn write_bytes(&mut self, bytes: impl Into<Bytes>) -> Result<()> {
        let mut bytes = bytes.into();
        poll_fn(|context| self.poll_write_bytes(context, &mut bytes)).await
    }

    /// See [`AsyncConnection::write_all`](crate::AsyncConnection::write_all).
    ///
    /// # Errors
    /// As there.
    pub async fn write_all(&mut self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            let written = poll_fn(|context| self.poll_write(context, bytes)).await?;
            bytes = &bytes[written..];
        }
        Ok(())
    }

    /// See [`AsyncConnection::write_buffer`](crate::AsyncConnection::write_buffer).
    ///
    /// # Errors
    /// As there.
    pub async fn write_buffer(&mut self, mut buffer: LinkBuffer) -> Result<()> {
        buffer.flush();
        buffer.release(); // not under the lock, as an append would
        if buffer.is_empty() {
            return Ok(());
        }
        poll_fn(|context| {
            let written = self.shared.poll_write(context, &mut self.timer, |staged, _| {
                let len = buffer.len();
                staged.append(mem::take(&mut buffer));
                len
            });
            written.map_ok(drop)
        })
        .await
    }

    /// See [`AsyncConnection::poll_flush`](crate::AsyncConnection::poll_flush).
    pub fn poll_flush(&mut self, context: &mut Context<'_>) -> Poll<Result<()>> {
        self.shared.poll_flush(context, &mut self.timer)
    }

    /// See [`AsyncConnection::flush`](crate::AsyncConnection::flush).
    ///
    /// # Errors
    /// As there.
    pub async fn flush(&mut self) -> Result<()> {
        poll_fn(|context| self.poll_flush(context)).await
    }

    /// See [`AsyncConnection::poll_shutdown`](crate::AsyncConnection::poll_shutdown).
    pub fn poll_shutdown(&mut self, context: &mut Context<'_>) -> Poll<Result<()>> {
        self.shared.poll_shutdown(context, &mut self.timer)
    }

    /// See [`AsyncConnection::shutdown`](crate::AsyncConnection::shutdown).
    ///
    /// # Errors
    /// As there.
    pub async fn shutdown(&mut self) -> Result<()> {
        poll_fn(|context| self.poll_shutdown(context)).await
    }

    /// See [`AsyncConnection::set_write_timeout`](crate::AsyncConnection::set_write_timeout).
    pub fn set_write_timeout(&mut self, timeout: Option<Duration>) {
        self.shared.handle.set_write_timeout(timeout);
    }

    /// See [`AsyncConnection::set_write_deadline`](crate::AsyncConnection::set_write_deadline).
    pub fn set_write_deadline(&mut self, at: Option<Instant>) {
        self.shared.handle.set_write_deadline(at);
    }

    /// A handle of the connection.
    pub fn handle(&self) -> Handle {
        self.shared.handle.clone()
    }
}

/// Writes copies of the first `room` bytes of `pieces`; returns how many.
fn copy_pieces(staged: &mut LinkBuffer, pieces: &[IoSlice<'_>], room: usize) -> usize {
    let mut left = room;
    for piece in pieces {
        let taken = piece.len().min(left);
        staged.write_bytes(&piece[..taken]);
        left -= taken;
    }
    room - left
}

impl Drop for OneRead<'_> {
    fn drop(&mut self) {
        self.0.wait.end();
    }
}

impl Drop for AsyncReadHalf {
    fn drop(&mut self) {
        self.shared.drop_half();
    }
}

impl Drop for AsyncWriteHalf {
    fn drop(&mut self) {
        self.shared.drop_half();
    }
}

impl fmt::Debug for AsyncReadHalf {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_tuple("AsyncReadHalf").field(&self.shared).finish()
    }
}

impl fmt::Debug for AsyncWriteHalf {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_tuple("AsyncWriteHalf").field(&self.shared).finish()
    }
}
