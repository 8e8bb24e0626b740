//! A dialled connection for two threads: one reads, one writes.

use std::fmt;
use std::io::{self, Read, Write};
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

/// The reading side of a connection that was split for good; see [`Connection::into_split`].
pub struct ReadHalf {
    /// Its output is the other half's.
    connection: Connection,
    _owner: Arc<Owner>,
}

/// The writing side of a connection that was split for good; see [`Connection::into_split`].
/// Dropped in order, it sends what was written; flush or [`shutdown`](Self::shutdown) it to know
/// whether that went well.
pub struct WriteHalf {
    shared: Arc<Shared>,
    staged: LinkBuffer,
    pace: Pace,
    _owner: Arc<Owner>,
}

/// What the two halves have in common: dropped with the second, it closes the connection in order.
struct Owner {
    shared: Arc<Shared>,
    /// Else it is a task's to close.
    owned: bool,
}

impl Connection {
    /// Splits a dialled connection for good, so that one thread reads while another writes. What
    /// was written and not flushed stays with the writing half. The connection closes, in order,
    /// when both halves have been dropped; to end our stream before that, see
    /// [`WriteHalf::shutdown`].
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
        let owned = self.shared.disown();
        let shared = self.shared.clone();
        let owner = Arc::new(Owner { shared: shared.clone(), owned });
        let staged = std::mem::take(&mut self.scratch().staged);
        let pace = Pace::default();
        let write = WriteHalf { shared, staged, pace, _owner: owner.clone() };
        (ReadHalf { connection: self, _owner: owner }, write)
    }
}

impl ReadHalf {
    /// The reading side.
    pub fn reader(&mut self) -> Reader<'_> {
        self.connection.reader()
    }

    /// What other threads may hold of the connection.
    pub fn handle(&self) -> Handle {
        self.connection.handle()
    }

    /// How long one read waits for all the bytes that it asked for; `None` is for ever.
    pub fn set_read_timeout(&mut self, timeout: Option<Duration>) {
        self.connection.set_read_timeout(timeout);
    }
}

impl WriteHalf {
    /// The writing side.
    pub fn writer(&mut self) -> Writer<'_> {
        Writer::new(&self.shared, &mut self.staged, &self.pace)
    }

    /// What other threads may hold of the connection.
    pub fn handle(&self) -> Handle {
        Handle::new(self.shared.clone())
    }

    /// How long one flush above the high-water mark waits; `None` is for ever.
    pub fn set_write_timeout(&mut self, timeout: Option<Duration>) {
        self.shared.set_timeouts(|timeouts| timeouts.write = timeout);
    }

    /// Flushes what was written, and ends our stream (FIN) when all that was accepted is sent;
    /// reading goes on.
    ///
    /// # Errors
    /// Those of the flush; the stream ends all the same.
    pub fn shutdown(mut self) -> Result<()> {
        let flushed = self.writer().flush();
        self.handle().shutdown_write();
        flushed
    }
}

/// What was written is sent, unless a panic has cut it short.
impl Drop for WriteHalf {
    fn drop(&mut self) {
        if self.shared.is_interrupted() || thread::panicking() {
            return;
        }
        self.staged.flush();
        if !self.staged.is_empty() {
            // What can't be sent any more is lost with the connection.
            let _ = self.shared.send(&mut self.staged);
        }
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        if self.owned {
            self.shared.task.word.hand_over(Events::CLOSE | Events::STARTED);
            schedule(&self.shared);
        }
    }
}

impl Read for ReadHalf {
    /// See [`Reader`]'s.
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        self.reader().read(out)
    }
}

impl Write for WriteHalf {
    /// See [`Writer`]'s.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.writer().write(bytes)
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
