//! Writing: into blocks of the owner's own, until a flush sends them on in one piece.

use std::io::{self, Write};
use std::time::Instant;

use bytes::Bytes;
use netpoll_buffer::LinkBuffer;

use super::shared::Shared;
use crate::error::Result;
use crate::task::Events;

/// The writing side of a connection.
///
/// What is written stays the owner's until [`flush`](Self::flush) sends it, in one piece and behind
/// all that was flushed or sent by a [`Handle`](crate::Handle) before. A callback that returns
/// without a flush is flushed. It is also [`io::Write`], which never writes short.
#[derive(Debug)]
pub struct Writer<'a> {
    shared: &'a Shared,
    staged: &'a mut LinkBuffer,
}

impl<'a> Writer<'a> {
    #[inline]
    pub(crate) fn new(shared: &'a Shared, staged: &'a mut LinkBuffer) -> Self {
        Self { shared, staged }
    }

    /// Reserves `n` contiguous bytes to be written in place.
    #[inline]
    pub fn malloc(&mut self, n: usize) -> &mut [u8] {
        self.staged.malloc(n)
    }

    /// Keeps the first `n` of the bytes written since the last flush, and drops the rest.
    ///
    /// # Errors
    /// `UnexpectedEof` where fewer were written.
    pub fn malloc_ack(&mut self, n: usize) -> Result<()> {
        self.staged.malloc_ack(n).map_err(|error| io::Error::from(error).into())
    }

    /// Bytes written since the last flush.
    pub fn malloc_len(&self) -> usize {
        self.staged.malloc_len()
    }

    /// Writes a copy of `bytes`.
    #[inline]
    pub fn write_bytes(&mut self, bytes: &[u8]) {
        self.staged.write_bytes(bytes);
    }

    /// Writes a copy of `text`.
    #[inline]
    pub fn write_string(&mut self, text: &str) {
        self.staged.write_string(text);
    }

    /// Writes one byte.
    #[inline]
    pub fn write_byte(&mut self, byte: u8) {
        self.staged.write_byte(byte);
    }

    /// What was written since the last flush, as a [`bytes::BufMut`] to write numbers to.
    #[inline]
    pub fn buf(&mut self) -> &mut LinkBuffer {
        self.staged
    }

    /// Writes `bytes` by reference, before the last `remain` bytes that were written: a payload
    /// into a frame that was reserved around it.
    ///
    /// # Errors
    /// `UnexpectedEof` where fewer than `remain` bytes were written since the last flush.
    pub fn write_direct(&mut self, bytes: Bytes, remain: usize) -> Result<()> {
        self.staged.write_direct(bytes, remain).map_err(|error| io::Error::from(error).into())
    }

    /// Writes `bytes` by reference, without copying them where that pays.
    pub fn write_shared(&mut self, bytes: Bytes) {
        self.staged.write_shared(bytes);
    }

    /// Writes a whole buffer by moving its blocks.
    #[inline]
    pub fn append(&mut self, buffer: LinkBuffer) {
        self.staged.append(buffer);
    }

    /// Sends what was written. It tries the socket at once, on this thread, with one `sendmsg`
    /// while nothing is queued; what the socket does not take goes out, in order, when it is
    /// writable again. Below the high-water mark it returns at once; above it, it waits until
    /// the queue is below the low-water mark. Under `Dispatch::Inline` it never waits: the
    /// reactor then stops reading from this peer until the queue has drained.
    ///
    /// # Errors
    /// [`TimedOut`](crate::Error::TimedOut) after the write timeout or at the write deadline: all
    /// was accepted and stays queued. [`Closed`](crate::Error::Closed) when the connection is
    /// closed on this side meanwhile. The socket's error, after which nothing more can be sent.
    pub fn flush(&mut self) -> Result<()> {
        self.staged.flush();
        if self.staged.is_empty() {
            return Ok(());
        }
        if let Err(over) = self.shared.check_over() {
            self.staged.clear();
            return Err(over);
        }
        let lane = &self.shared.lane;
        let sent = lane.send(self.staged, &self.shared.group);
        self.shared.task.word.note(sent.inspect_err(|_| self.falter())?);
        if !lane.is_congested() || !self.shared.group.may_wait() {
            return Ok(());
        }
        let timeout = self.shared.timeouts().write;
        let deadline = timeout.and_then(|time| Instant::now().checked_add(time));
        self.shared.wait_below(deadline).inspect_err(|_| self.falter())
    }

    #[cold]
    fn falter(&self) {
        self.shared.task.word.note(Events::FALTERED);
    }

    /// Bytes flushed that the socket has not taken yet.
    pub fn pending(&self) -> usize {
        self.shared.lane.pending()
    }

    /// Whether more is queued than the high-water mark allows, and not yet less than the low one.
    pub fn is_congested(&self) -> bool {
        self.shared.lane.is_congested()
    }
}

/// What is written against [`Sink`](netpoll_buffer::Sink) runs on a connection, a file or a test
/// vector.
impl netpoll_buffer::Sink for Writer<'_> {
    fn staged(&mut self) -> &mut LinkBuffer {
        self.staged
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(Writer::flush(self)?)
    }
}

impl Write for Writer<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_bytes(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(Writer::flush(self)?)
    }
}
