//! A dialled connection, split for two threads: one reads, one writes.

use std::fmt;
use std::io::{self, IoSlice, Read, Write};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use netpoll_buffer::LinkBuffer;

use super::pace::Pace;
use super::schedule::schedule;
use super::shared::Shared;
use super::{Connection, Handle, Reader, Writer};
use crate::base::error::Result;
use crate::pure::task::Events;

/// The reading half of a connection; see [`Connection::into_split`].
///
/// Its reads wait on the thread that calls them.
pub struct ReadHalf {
    /// The other half has its staged output.
    connection: Connection,
    _owner: Arc<OwnerOfBoth>,
}

/// The writing half of a connection; see [`Connection::into_split`].
///
/// A drop in order sends what was written. To know whether that succeeded, call a flush or
/// [`shutdown`](Self::shutdown) first.
pub struct WriteHalf {
    shared: Arc<Shared>,
    staged: LinkBuffer,
    pace: Pace,
    _owner: Arc<OwnerOfBoth>,
}

/// What the two halves share: its drop, together with the second half, closes the connection.
struct OwnerOfBoth {
    shared: Arc<Shared>,
    /// Whether a caller owns the connection; otherwise its task closes it.
    owned: bool,
}

impl Connection {
    /// Splits a dialled connection for good, so that one thread reads while another writes. What
    /// was written and not flushed goes to the writing half. The connection closes, in order, when
    /// both halves are dropped; [`WriteHalf::shutdown`] ends this side's stream before that.
    ///
    /// ```
    /// use std::io::{BufRead, Write};
    ///
    /// # fn talk(dialled: netpoll_core::Connection) -> std::io::Result<()> {
    /// let (mut read, mut write) = dialled.into_split();
    /// let reading = std::thread::spawn(move || read.reader().lines().count());
    /// write.writer().write_all(b"a request\n")?;
    /// write.shutdown()?;
    /// println!("{} lines came back", reading.join().unwrap());
    /// # Ok(())
    /// # }
    /// ```
    pub fn into_split(mut self) -> (ReadHalf, WriteHalf) {
        if self.shared.unflushed.is_deferring() {
            self.send_staged();
        }
        let owned = self.shared.disown();
        let shared = self.shared.clone();
        let owner = Arc::new(OwnerOfBoth { shared: shared.clone(), owned });
        let staged = std::mem::take(&mut self.scratch().staged);
        let pace = Pace::default();
        let write = WriteHalf { shared, staged, pace, _owner: owner.clone() };
        (ReadHalf { connection: self, _owner: owner }, write)
    }
}

impl ReadHalf {
    /// The reading side.
    pub fn reader(&mut self) -> Reader<'_> {
        self.connection.reader_alone()
    }

    /// Returns a handle for other threads.
    pub fn handle(&self) -> Handle {
        self.connection.handle()
    }

    /// Sets how long one read waits for all the bytes that it asks for; `None` is for ever.
    pub fn set_read_timeout(&mut self, timeout: Option<Duration>) {
        self.connection.set_read_timeout(timeout);
    }
}

impl WriteHalf {
    /// The writing side.
    pub fn writer(&mut self) -> Writer<'_> {
        Writer::new(&self.shared, &mut self.staged, &self.pace)
    }

    /// Returns a handle for other threads.
    pub fn handle(&self) -> Handle {
        Handle::new(self.shared.clone())
    }

    /// Sets how long one flush above the high-water mark waits; `None` is for ever.
    pub fn set_write_timeout(&mut self, timeout: Option<Duration>) {
        self.shared.set_timeouts(|timeouts| timeouts.write = timeout);
    }

    /// Flushes what was written, and ends this side's stream (FIN) when all that was accepted is
    /// sent. The reading half goes on.
    ///
    /// # Errors
    /// Those of the flush; the stream ends all the same.
    pub fn shutdown(mut self) -> Result<()> {
        let flushed = self.writer().flush();
        self.handle().shutdown_write();
        flushed
    }
}

/// Sends what was written, unless the connection is closed or a panic has cut a message short.
impl Drop for WriteHalf {
    fn drop(&mut self) {
        if self.shared.is_interrupted() || thread::panicking() {
            return;
        }
        self.staged.flush();
        if !self.staged.is_empty() || self.shared.unflushed.is_any() {
            // If this fails, nothing more can be sent.
            let _ = self.shared.send_in_order(&mut self.staged);
        }
    }
}

impl Drop for OwnerOfBoth {
    fn drop(&mut self) {
        if self.owned {
            self.shared.task.word.hand_over(Events::CLOSE | Events::STARTED);
            schedule(&self.shared);
        }
    }
}

impl Read for ReadHalf {
    /// As [`Reader`]'s `read`.
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        self.reader().read(out)
    }
}

impl Write for WriteHalf {
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

impl fmt::Debug for ReadHalf {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_tuple("ReadHalf").field(&self.connection).finish()
    }
}

impl fmt::Debug for WriteHalf {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_tuple("WriteHalf").field(&self.shared).finish()
    }
}
