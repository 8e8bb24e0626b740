//! Reading: from the buffer first, then from the socket; a read waits where that is allowed.

#![expect(clippy::missing_errors_doc, reason = "all reads fail alike, so the type says how")]

use std::io::{self, BufRead, Read};

use bytes::{Buf, Bytes};
use netpoll_buffer::LinkBuffer;

use super::input::{Input, Pull};
use super::owner::Owner;
use super::pace::{Ahead, Pace};
use super::shared::Shared;
use crate::base::error::{Error, Result};
use crate::pure::task::Events;

/// The reading side of a connection.
///
/// Every read takes from the buffer, and then from the socket on this thread. If bytes are still
/// missing, it waits for them: on the thread of the callback, a worker or the loop's own thread,
/// or on the thread of the caller that dialled. Under `Dispatch::HandOff` another thread takes the
/// loop over before a read waits on the loop's thread. Under `Dispatch::Inline`, and in each
/// method's `try_` variant, the read returns [`Error::WouldBlock`] instead of waiting, and the
/// buffered bytes stay.
///
/// A callback has one turn, and then other connections have theirs. So a read that does not wait
/// also returns `WouldBlock` if the callback has received `turn.bytes`, if memory is short, and if
/// as much is written as the high-water mark allows, flushed or not. The callback should return
/// that error: what it wrote is then flushed, and it is called again when it may go on. A read that
/// may wait goes on, and has the next write flush first. So a loop of reads and writes is bounded
/// in both cases.
///
/// # Errors
/// All reading methods return [`Error::EndOfStream`] if the peer has ended its stream before the
/// bytes that were asked for, [`Error::TimedOut`] after the read timeout or at the read deadline,
/// whichever comes first, [`Error::Closed`] if the connection is closed on this side meanwhile,
/// [`Error::InputLimit`] for more bytes than may be buffered, [`Error::NoThread`] and
/// [`Error::NoMemory`] if a wait lacks a thread or memory, and the socket's error, such as
/// `ConnectionReset`. A read that fails consumes nothing, except a
/// [`read_string`](Self::read_string) of bytes that are not UTF-8.
///
/// It is also [`io::Read`], [`io::BufRead`] and [`bytes::Buf`]; the last has only buffered bytes.
#[derive(Debug)]
pub struct Reader<'a> {
    shared: &'a Owner,
    input: &'a mut Input,
    pace: &'a Pace,
}

impl<'a> Reader<'a> {
    #[inline]
    pub(crate) fn new(shared: &'a Owner, input: &'a mut Input, pace: &'a Pace) -> Self {
        Self { shared, input, pace }
    }

    /// The number of bytes buffered now.
    #[inline]
    pub fn len(&self) -> usize {
        self.input.buffer.len()
    }

    /// Whether no byte is buffered now.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.input.buffer.is_empty()
    }

    /// The number of bytes that may be buffered; at this limit nothing more is received.
    pub fn limit(&self) -> usize {
        self.shared.input_limit()
    }

    /// Whether the peer has ended its stream and no byte of it is left.
    pub fn is_finished(&self) -> bool {
        self.is_empty() && self.input.end().is_some()
    }

    /// The next `n` bytes, contiguous and not consumed. Copies only if they span blocks.
    #[inline]
    pub fn peek(&mut self, n: usize) -> Result<&[u8]> {
        self.ensure(n, true)?;
        Ok(self.input.buffer.peek(n)?)
    }

    /// The next `n` bytes, contiguous and consumed. Copies only if they span blocks.
    #[inline]
    pub fn next(&mut self, n: usize) -> Result<&[u8]> {
        self.ensure(n, true)?;
        Ok(self.input.buffer.next(n)?)
    }

    /// Drops the next `n` bytes.
    #[inline]
    pub fn skip(&mut self, n: usize) -> Result<()> {
        self.ensure(n, true)?;
        Ok(self.input.buffer.skip(n)?)
    }

    /// Waits until something is buffered; returns how many bytes are. For code that takes whatever
    /// has come.
    pub fn wait_some(&mut self) -> Result<usize> {
        self.ensure(1, true)?;
        Ok(self.len())
    }

    /// Waits until more is buffered than now; returns how many bytes are. For a parser that found
    /// the message incomplete.
    pub fn wait_more(&mut self) -> Result<usize> {
        self.ensure(self.len() + 1, true)?;
        Ok(self.len())
    }

    /// The bytes up to and including the next `delimiter`, consumed. Looks at each byte once, and
    /// at no more bytes than the input limit.
    pub fn until(&mut self, delimiter: u8) -> Result<&[u8]> {
        self.until_bytes(&[delimiter])
    }

    /// The bytes up to and including the next `delimiter` of several bytes, such as the empty line
    /// behind the header of an HTTP message; consumed. Costs what [`find_bytes`](Self::find_bytes)
    /// costs. An empty delimiter ends at once, with no byte.
    ///
    /// ```
    /// use netpoll_core::{Connection, Error, Result};
    ///
    /// /// The header of a request; under `Dispatch::Inline` this is called again with more.
    /// fn header(conn: &mut Connection) -> Result<String> {
    ///     let mut reader = conn.reader();
    ///     let header = reader.until_bytes(b"\r\n\r\n")?;
    ///     String::from_utf8(header.to_vec()).map_err(|_| Error::config("a header is text"))
    /// }
    /// ```
    pub fn until_bytes(&mut self, delimiter: &[u8]) -> Result<&[u8]> {
        let at = self.ensure_found(delimiter, true)?;
        Ok(self.input.buffer.next(at + delimiter.len())?)
    }

    /// Where the next `needle` begins, in bytes from the front; nothing is consumed. 0 for an empty
    /// needle.
    ///
    /// It looks with SIMD, at no more bytes than the input limit. The buffer remembers how far the
    /// last search has looked, also from one callback to the next. So each arrival costs its own
    /// bytes and the `m - 1` before them for a needle of `m`, however much is buffered. A search
    /// for another needle begins at the front.
    pub fn find_bytes(&mut self, needle: &[u8]) -> Result<usize> {
        self.ensure_found(needle, true)
    }

    /// The next `n` bytes as a new buffer: moves and shares blocks, copies nothing.
    #[inline]
    pub fn slice(&mut self, n: usize) -> Result<LinkBuffer> {
        self.ensure(n, true)?;
        self.input.slice(self.shared, n)
    }

    /// The next `n` bytes as an owned, counted slice, which outlives the callback.
    pub fn read_bytes(&mut self, n: usize) -> Result<Bytes> {
        self.ensure(n, true)?;
        self.input.read_bytes(self.shared, n)
    }

    /// The next `n` bytes as text.
    ///
    /// # Errors
    /// Those of every read, and [`Error::Io`] of kind `InvalidData` if the bytes are not UTF-8;
    /// these bytes are consumed.
    pub fn read_string(&mut self, n: usize) -> Result<String> {
        self.ensure(n, true)?;
        let text = self.input.buffer.read_string(n)?;
        text.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error).into())
    }

    /// The next byte.
    #[inline]
    pub fn read_byte(&mut self) -> Result<u8> {
        self.ensure(1, true)?;
        Ok(self.input.buffer.read_byte()?)
    }

    /// [`peek`](Self::peek) that never waits.
    pub fn try_peek(&mut self, n: usize) -> Result<&[u8]> {
        self.ensure(n, false)?;
        Ok(self.input.buffer.peek(n)?)
    }

    /// [`next`](Self::next) that never waits.
    pub fn try_next(&mut self, n: usize) -> Result<&[u8]> {
        self.ensure(n, false)?;
        Ok(self.input.buffer.next(n)?)
    }

    /// [`skip`](Self::skip) that never waits.
    pub fn try_skip(&mut self, n: usize) -> Result<()> {
        self.ensure(n, false)?;
        Ok(self.input.buffer.skip(n)?)
    }

    /// [`until`](Self::until) that never waits.
    pub fn try_until(&mut self, delimiter: u8) -> Result<&[u8]> {
        self.try_until_bytes(&[delimiter])
    }

    /// [`until_bytes`](Self::until_bytes) that never waits.
    pub fn try_until_bytes(&mut self, delimiter: &[u8]) -> Result<&[u8]> {
        let at = self.ensure_found(delimiter, false)?;
        Ok(self.input.buffer.next(at + delimiter.len())?)
    }

    /// [`find_bytes`](Self::find_bytes) that never waits.
    pub fn try_find_bytes(&mut self, needle: &[u8]) -> Result<usize> {
        self.ensure_found(needle, false)
    }

    /// [`slice`](Self::slice) that never waits.
    pub fn try_slice(&mut self, n: usize) -> Result<LinkBuffer> {
        self.ensure(n, false)?;
        self.input.slice(self.shared, n)
    }

    /// [`read_bytes`](Self::read_bytes) that never waits.
    pub fn try_read_bytes(&mut self, n: usize) -> Result<Bytes> {
        self.ensure(n, false)?;
        self.input.read_bytes(self.shared, n)
    }

    /// [`read_byte`](Self::read_byte) that never waits.
    pub fn try_read_byte(&mut self) -> Result<u8> {
        self.ensure(1, false)?;
        Ok(self.input.buffer.read_byte()?)
    }

    #[inline]
    fn ensure(&mut self, n: usize, wait: bool) -> Result<()> {
        if self.pace.is_ahead() {
            keep_pace(self.shared, self.input, self.pace, wait)?;
        }
        self.input.ensure(self.shared, n, wait)
    }

    fn ensure_found(&mut self, needle: &[u8], wait: bool) -> Result<usize> {
        if self.pace.is_ahead() {
            keep_pace(self.shared, self.input, self.pace, wait)?;
        }
        self.input.ensure_found(self.shared, needle, wait)
    }
}

/// Called while much is written: ends the callback's turn if it is too much, or asks for a flush.
/// It takes single references, not the `Reader`, so that a reader can stay in registers.
#[cold]
fn keep_pace(shared: &Shared, input: &Input, pace: &Pace, wait: bool) -> Result<()> {
    let group = &shared.group;
    let too_much = match pace.ahead() {
        Ahead::Staged(staged) => staged >= group.limits().output.high,
        Ahead::Congested => shared.output.is_congested() && !group.reads_when_congested(),
    };
    // Nothing would call the caller of a dialled connection again.
    if !too_much || group.is_dialled() {
        return Ok(());
    }
    if Pull::of(shared, wait) == Pull::MayWait {
        if shared.output.must_wait(&group.policy) {
            // The flush that was asked for could not wait, and the callback does not know.
            return shared.wait_for_peer();
        }
        pace.ask_for_flush();
        return Ok(());
    }
    if !input.buffer.is_empty() {
        // No event announces what is buffered.
        shared.task.word.note(Events::RESUMED);
    }
    Err(Error::WouldBlock)
}

/// Code that uses [`Source`](netpoll_buffer::Source) reads from a connection, a file or a test
/// vector.
impl netpoll_buffer::Source for Reader<'_> {
    fn buffered(&mut self) -> &mut LinkBuffer {
        &mut self.input.buffer
    }

    fn require(&mut self, n: usize) -> io::Result<()> {
        Ok(self.ensure(n, true)?)
    }
}

impl Read for Reader<'_> {
    /// Reads what has come; waits only for the first byte. 0 is the end of the peer's stream.
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if out.is_empty() {
            return Ok(0);
        }
        self.fill_buf()?;
        Ok(self.input.buffer.copy_to(out))
    }
}

impl BufRead for Reader<'_> {
    /// The first contiguous buffered bytes; waits only for the first byte. Empty at the end of the
    /// stream.
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        match self.ensure(1, true) {
            Ok(()) => Ok(self.input.buffer.chunk()),
            Err(Error::EndOfStream) => Ok(&[]),
            Err(error) => Err(error.into()),
        }
    }

    fn consume(&mut self, n: usize) {
        self.input.buffer.consume(n);
    }
}

impl Buf for Reader<'_> {
    fn remaining(&self) -> usize {
        self.len()
    }

    fn chunk(&self) -> &[u8] {
        self.input.buffer.chunk()
    }

    fn advance(&mut self, n: usize) {
        assert!(n <= self.len(), "cannot advance past {} buffered bytes to {n}", self.len());
        self.input.buffer.consume(n);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::io::Write;
    use std::os::unix::net::UnixStream;
    use std::sync::Arc;

    use super::*;
    use crate::base::address::Address;
    use crate::base::limits::Limits;
    use crate::connection::group::ConnectionGroup;
    use crate::connection::mailbox::Remote;
    use crate::connection::output::Output;
    use crate::io::stream::Stream;

    /// A slow peer must not make a search quadratic: the bytes looked at are counted.
    #[test]
    fn a_needle_that_drips_is_looked_for_in_each_byte_a_bounded_number_of_times() {
        let (ours, mut peer) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let output = Output::open(Stream::new(ours.into()));
        let group = ConnectionGroup::dialled(Limits::default()).unwrap();
        let reactor = Remote::alone();
        let shared = Arc::new(Shared::dialled(output, group, reactor, Address::Unnamed, None));
        let owner = Owner::of_task(shared);
        let (mut input, pace) = (Input::default(), Pace::default());
        let header = [&[b'x'; 5000][..], b"\r\n\r", &[b'y'; 5000], b"\r\n\r\n"].concat();
        let mut looked_at = 0;
        for (at, byte) in header.iter().enumerate() {
            peer.write_all(&[*byte]).unwrap();
            input.announced();
            looked_at += at + 1 - input.buffer.search_begins_at(b"\r\n\r\n");
            let mut reader = Reader::new(&owner, &mut input, &pace);
            match reader.try_until_bytes(b"\r\n\r\n") {
                Ok(found) => assert_eq!((found.len(), at + 1), (header.len(), header.len())),
                Err(error) => assert!(matches!(error, Error::WouldBlock), "{error} at {at}"),
            }
        }
        assert!(input.buffer.is_empty());
        assert!(looked_at <= 4 * header.len(), "{looked_at} looks at {} bytes", header.len());
    }
}
