//! Where bytes go: what protocol code is written against, and `std::io::Write` on either side.

use std::io::{self, IoSlice, Write};

use bytes::Bytes;

use crate::{LinkBuffer, Shortfall};

/// Bytes to send, whether to a connection, a file or a test.
///
/// Writing fills a [`LinkBuffer`] and can't fail; [`flush`](Self::flush) sends. A bare `LinkBuffer`
/// is a sink whose bytes become readable, and [`FromWrite`] makes one of any [`io::Write`].
///
/// ```
/// use netpoll_buffer::{FromWrite, LinkBuffer, Sink};
///
/// fn frame(sink: &mut impl Sink, body: &str) -> std::io::Result<()> {
///     sink.write_byte(body.len() as u8);
///     sink.write_string(body);
///     sink.flush()
/// }
///
/// let mut buffer = LinkBuffer::new();
/// frame(&mut buffer, "abc")?;
/// assert_eq!(buffer.chunk(), b"\x03abc");
///
/// let mut file = FromWrite::new(Vec::new());
/// frame(&mut file, "abc")?;
/// assert_eq!(file.into_parts().0, b"\x03abc");
/// # std::io::Result::Ok(())
/// ```
pub trait Sink {
    /// What was written and not yet sent.
    fn staged(&mut self) -> &mut LinkBuffer;

    /// Sends everything written so far.
    ///
    /// # Errors
    ///
    /// Whatever keeps the bytes from being sent. Those not sent yet stay, for another `flush`.
    fn flush(&mut self) -> io::Result<()>;

    /// As [`LinkBuffer::malloc`].
    fn malloc(&mut self, n: usize) -> &mut [u8] {
        self.staged().malloc(n)
    }

    /// As [`LinkBuffer::malloc_len`].
    fn malloc_len(&mut self) -> usize {
        // By its name: a call through `&mut` would find this very method.
        LinkBuffer::malloc_len(self.staged())
    }

    /// As [`LinkBuffer::malloc_ack`].
    ///
    /// # Errors
    ///
    /// As there.
    fn malloc_ack(&mut self, n: usize) -> Result<(), Shortfall> {
        self.staged().malloc_ack(n)
    }

    /// As [`LinkBuffer::write_bytes`].
    fn write_bytes(&mut self, bytes: &[u8]) {
        self.staged().write_bytes(bytes);
    }

    /// As [`LinkBuffer::write_string`].
    fn write_string(&mut self, string: &str) {
        self.staged().write_string(string);
    }

    /// As [`LinkBuffer::write_byte`].
    fn write_byte(&mut self, byte: u8) {
        self.staged().write_byte(byte);
    }

    /// As [`LinkBuffer::write_shared`].
    fn write_shared(&mut self, bytes: Bytes) {
        self.staged().write_shared(bytes);
    }

    /// As [`LinkBuffer::write_direct`].
    ///
    /// # Errors
    ///
    /// As there.
    fn write_direct(&mut self, bytes: Bytes, remain: usize) -> Result<(), Shortfall> {
        self.staged().write_direct(bytes, remain)
    }

    /// As [`LinkBuffer::append`].
    fn append(&mut self, buffer: LinkBuffer) {
        self.staged().append(buffer);
    }
}

/// What is flushed becomes readable.
impl Sink for LinkBuffer {
    fn staged(&mut self) -> &mut LinkBuffer {
        self
    }

    fn flush(&mut self) -> io::Result<()> {
        LinkBuffer::flush(self);
        Ok(())
    }
}

impl<S: Sink + ?Sized> Sink for &mut S {
    fn staged(&mut self) -> &mut LinkBuffer {
        (**self).staged()
    }

    fn flush(&mut self) -> io::Result<()> {
        (**self).flush()
    }
}

/// A [`Sink`] that writes to any [`io::Write`] (netpoll's `NewWriter`).
///
/// Flushing writes the blocks as they are, several at a time where the `Write` can do that. It
/// fails as the `Write` does; with [`WriteZero`](io::ErrorKind::WriteZero) when that takes nothing;
/// and with [`InvalidData`](io::ErrorKind::InvalidData) when it claims to have written more than
/// it was given. What it did not acknowledge by then stays staged.
///
/// ```
/// use netpoll_buffer::{FromWrite, Sink};
///
/// let mut sink = FromWrite::new(Vec::new());
/// sink.write_string("staged, ");
/// sink.write_string("then written");
/// sink.flush()?;
/// assert_eq!(sink.into_parts().0, b"staged, then written");
/// # std::io::Result::Ok(())
/// ```
#[derive(Debug)]
pub struct FromWrite<W> {
    write: W,
    buffer: LinkBuffer,
}

/// How many blocks are passed to the `Write` at a time.
const PIECES: usize = 64;

impl<W: Write> FromWrite<W> {
    /// Nothing is written before [`flush`](Sink::flush). What is still staged when this is dropped
    /// is not written at all.
    pub const fn new(write: W) -> Self {
        Self { write, buffer: LinkBuffer::new() }
    }

    /// The `Write`, and what was not written to it yet.
    pub fn into_parts(self) -> (W, LinkBuffer) {
        (self.write, self.buffer)
    }
}

impl<W: Write> Sink for FromWrite<W> {
    fn staged(&mut self) -> &mut LinkBuffer {
        &mut self.buffer
    }

    fn flush(&mut self) -> io::Result<()> {
        self.buffer.flush();
        while !self.buffer.is_empty() {
            let mut pieces = [IoSlice::new(&[]); PIECES];
            let n = self.buffer.gather(&mut pieces);
            let offered = pieces[..n].iter().map(|piece| piece.len()).sum();
            match self.write.write_vectored(&pieces[..n]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) if written > offered => {
                    return Err(io::Error::new(
                        io::ErrorKind::InvalidData,
                        "wrote more than there was",
                    ));
                }
                Ok(written) => self.buffer.consume(written),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.write.flush()
    }
}

/// An [`io::Write`] over any [`Sink`] (netpoll's `NewIOWriter`).
///
/// ```
/// use std::io::Write;
/// use netpoll_buffer::{AsWrite, LinkBuffer};
///
/// let mut write = AsWrite::new(LinkBuffer::new());
/// write!(write, "{} bottles", 99)?;
/// write.flush()?;
/// assert_eq!(write.into_inner().chunk(), b"99 bottles");
/// # std::io::Result::Ok(())
/// ```
#[derive(Debug)]
pub struct AsWrite<S> {
    sink: S,
}

impl<S: Sink> AsWrite<S> {
    /// Writes to `sink`.
    pub const fn new(sink: S) -> Self {
        Self { sink }
    }

    /// The sink; nothing of it is kept here.
    pub fn into_inner(self) -> S {
        self.sink
    }
}

impl<S: Sink> Write for AsWrite<S> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.sink.write_bytes(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.sink.flush()
    }
}
