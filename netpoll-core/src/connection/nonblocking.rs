//! A connection as a non-blocking stream, for libraries that expect one.

use std::io::{self, BufRead, IoSlice, Read, Write};

use bytes::Buf;
use netpoll_buffer::Source;

use super::{Connection, Reader, Writer};
use crate::base::error::Error;

/// A connection as a non-blocking stream, as [`Connection::nonblocking`] returns it.
///
/// It is [`io::Read`], [`io::BufRead`] and [`io::Write`], and no call of it waits, in any dispatch
/// mode: where one would have to, it returns an error of kind `WouldBlock`. It is for libraries
/// that drive a protocol over a non-blocking stream, such as rustls and tungstenite. Each callback
/// makes it anew, so such a library must take the stream as an argument, as
/// `rustls::Connection::read_tls` and `tungstenite::protocol::WebSocketContext::read` do.
///
/// # When it would block
///
/// | call | `WouldBlock` means | `on_request` is called again |
/// | --- | --- | --- |
/// | a read | nothing is buffered, and the socket has nothing | when bytes or the end have come |
/// | | the callback has had its turn, or memory is short: see [`Reader`] | in its next turn |
/// | a write | the output is above its high-water mark | below its low one, after `on_drain` |
///
/// So the callback returns, with the error or with `Ok`. A write that would block has taken no
/// byte. What a write has taken is sent by [`flush`](#method.flush), when as many bytes are written
/// as the high-water mark allows (at least 64 KiB), and when the callback returns. A flush does not
/// block: it passes on what was written, and the reactor sends what the socket does not take. So
/// one connection queues the high-water mark, and one such portion more, at the most.
///
/// A read takes what is buffered first, and otherwise makes one system call. A library that reads
/// less than has come leaves the rest in the buffer, where no event announces it: read until
/// `WouldBlock`, or call [`Connection::wake`].
///
/// A dialled connection has no callbacks. Its caller waits for bytes by
/// [`Reader::wait_some`], and for room by [`Handle::wait_for_room`](crate::Handle::wait_for_room).
///
/// # Errors
/// The end of the peer's stream is 0 bytes. Other errors are those of [`Reader`] and [`Writer`],
/// with their kinds: `ConnectionReset`, `BrokenPipe`, `NotConnected` after a close on this side. A
/// callback may return them with `?`, also `WouldBlock`, which closes nothing.
#[derive(Debug)]
pub struct NonBlocking<'a> {
    reader: Reader<'a>,
    writer: Writer<'a>,
}

impl Connection {
    /// The connection as a non-blocking stream. Costs nothing.
    ///
    /// ```
    /// use std::io::{Read, Write};
    ///
    /// use netpoll_core::{Connection, Result};
    ///
    /// /// Echoes until a call would block; is then called again. `rest` is what the stream has not
    /// /// taken yet.
    /// fn echo(rest: &mut Vec<u8>, conn: &mut Connection) -> Result<()> {
    ///     let (mut stream, mut piece) = (conn.nonblocking(), [0; 4096]);
    ///     loop {
    ///         while !rest.is_empty() {
    ///             let taken = stream.write(rest)?; // `WouldBlock` closes nothing
    ///             rest.drain(..taken);
    ///         }
    ///         let read = stream.read(&mut piece)?;
    ///         if read == 0 {
    ///             return Ok(());
    ///         }
    ///         rest.extend_from_slice(&piece[..read]);
    ///     }
    /// }
    /// ```
    pub fn nonblocking(&mut self) -> NonBlocking<'_> {
        let (reader, writer) = self.split();
        NonBlocking { reader, writer }
    }
}

impl NonBlocking<'_> {
    /// Makes sure that a byte is buffered; `false` at the end of the stream.
    fn fill(&mut self) -> io::Result<bool> {
        match self.reader.try_peek(1) {
            Ok(_) => Ok(true),
            Err(Error::EndOfStream) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

impl Read for NonBlocking<'_> {
    /// What has come; 0 is the end of the peer's stream.
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if out.is_empty() || !self.fill()? {
            return Ok(0);
        }
        // A read of the reader may wait, for a peer that takes too little.
        Ok(self.reader.buffered().copy_to(out))
    }
}

impl BufRead for NonBlocking<'_> {
    /// The first contiguous buffered bytes. Empty at the end of the stream.
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.fill()? { Ok(Buf::chunk(&self.reader)) } else { Ok(&[]) }
    }

    fn consume(&mut self, n: usize) {
        self.reader.consume(n);
    }
}

impl Write for NonBlocking<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_vectored(&[IoSlice::new(bytes)])
    }

    fn write_vectored(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        if pieces.iter().all(|piece| piece.is_empty()) {
            return Ok(0);
        }
        let room = self.writer.try_make_room()?;
        Ok(self.writer.copy_from(pieces, room))
    }

    /// Passes on what was written. Never blocks; the reactor sends what the socket does not take.
    fn flush(&mut self) -> io::Result<()> {
        Ok(self.writer.try_flush()?)
    }
}
