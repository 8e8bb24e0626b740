//! Where bytes go: the trait that protocol code writes to, and adapters from and to
//! `std::io::Write`.

use std::io::{self, IoSlice, Write};

use bytes::Bytes;

use crate::{LinkBuffer, Shortfall};

/// Bytes to send, whether to a connection, a file or a test.
///
/// Writing fills a [`LinkBuffer`] and can't fail; [`flush`](Self::flush) sends. A bare `LinkBuffer`
/// is a sink: its bytes become readable. [`FromWrite`] makes one of any [`io::Write`].
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
    ///
    /// ```
    /// # use netpoll_buffer::{FromWrite, LinkBuffer, Sink};
    /// let mut sink = FromWrite::new(std::io::sink());
    /// sink.write_string("abc");
    /// assert_eq!(sink.staged().malloc_len(), 3);
    /// ```
    fn staged(&mut self) -> &mut LinkBuffer;

    /// Sends everything written so far.
    ///
    /// # Errors
    ///
    /// Any that keeps the bytes from being sent. Bytes that were not sent stay, for another
    /// `flush`.
    ///
    /// ```
    /// # use netpoll_buffer::{FromWrite, LinkBuffer, Sink};
    /// let mut file = Vec::new();
    /// let mut sink = FromWrite::new(&mut file);
    /// sink.write_string("abc");
    /// sink.flush()?;
    /// assert_eq!(file, b"abc");
    /// # std::io::Result::Ok(())
    /// ```
    fn flush(&mut self) -> io::Result<()>;

    /// As [`LinkBuffer::malloc`].
    ///
    /// ```
    /// # use netpoll_buffer::{FromWrite, LinkBuffer, Sink};
    /// let mut sink = FromWrite::new(Vec::new());
    /// sink.malloc(2).copy_from_slice(b"ok");
    /// sink.flush()?;
    /// assert_eq!(sink.into_parts().0, b"ok");
    /// # std::io::Result::Ok(())
    /// ```
    fn malloc(&mut self, n: usize) -> &mut [u8] {
        self.staged().malloc(n)
    }

    /// As [`LinkBuffer::malloc_len`].
    ///
    /// ```
    /// # use netpoll_buffer::{FromWrite, LinkBuffer, Sink};
    /// let mut sink = FromWrite::new(Vec::new());
    /// sink.malloc(2);
    /// assert_eq!(sink.malloc_len(), 2);
    /// ```
    fn malloc_len(&mut self) -> usize {
        // By its path: a call through `&mut` would find this very method.
        LinkBuffer::malloc_len(self.staged())
    }

    /// As [`LinkBuffer::malloc_ack`].
    ///
    /// # Errors
    ///
    /// As there.
    ///
    /// ```
    /// # use netpoll_buffer::{FromWrite, LinkBuffer, Sink};
    /// let mut sink = FromWrite::new(Vec::new());
    /// sink.malloc(8)[..2].copy_from_slice(b"ok");
    /// sink.malloc_ack(2)?;
    /// sink.flush()?;
    /// assert_eq!(sink.into_parts().0, b"ok");
    /// # std::io::Result::Ok(())
    /// ```
    fn malloc_ack(&mut self, n: usize) -> Result<(), Shortfall> {
        self.staged().malloc_ack(n)
    }

    /// As [`LinkBuffer::write_bytes`].
    ///
    /// ```
    /// # use netpoll_buffer::{FromWrite, LinkBuffer, Sink};
    /// let mut sink = FromWrite::new(Vec::new());
    /// sink.write_bytes(&[1, 2]);
    /// sink.flush()?;
    /// assert_eq!(sink.into_parts().0, [1, 2]);
    /// # std::io::Result::Ok(())
    /// ```
    fn write_bytes(&mut self, bytes: &[u8]) {
        self.staged().write_bytes(bytes);
    }

    /// As [`LinkBuffer::write_string`].
    ///
    /// ```
    /// # use netpoll_buffer::{FromWrite, LinkBuffer, Sink};
    /// let mut sink = FromWrite::new(Vec::new());
    /// sink.write_string("ok");
    /// sink.flush()?;
    /// assert_eq!(sink.into_parts().0, b"ok");
    /// # std::io::Result::Ok(())
    /// ```
    fn write_string(&mut self, string: &str) {
        self.staged().write_string(string);
    }

    /// As [`LinkBuffer::write_byte`].
    ///
    /// ```
    /// # use netpoll_buffer::{FromWrite, LinkBuffer, Sink};
    /// let mut sink = FromWrite::new(Vec::new());
    /// sink.write_byte(7);
    /// sink.flush()?;
    /// assert_eq!(sink.into_parts().0, [7]);
    /// # std::io::Result::Ok(())
    /// ```
    fn write_byte(&mut self, byte: u8) {
        self.staged().write_byte(byte);
    }

    /// As [`LinkBuffer::write_shared`].
    ///
    /// ```
    /// # use netpoll_buffer::{FromWrite, LinkBuffer, Sink};
    /// let mut sink = FromWrite::new(Vec::new());
    /// sink.write_shared(bytes::Bytes::from_static(b"ok"));
    /// sink.flush()?;
    /// assert_eq!(sink.into_parts().0, b"ok");
    /// # std::io::Result::Ok(())
    /// ```
    fn write_shared(&mut self, bytes: Bytes) {
        self.staged().write_shared(bytes);
    }

    /// As [`LinkBuffer::write_direct`].
    ///
    /// # Errors
    ///
    /// As there.
    ///
    /// ```
    /// # use netpoll_buffer::{FromWrite, LinkBuffer, Sink};
    /// let mut sink = FromWrite::new(Vec::new());
    /// sink.write_string("<>");
    /// sink.write_direct(bytes::Bytes::from_static(b"ok"), 1)?;
    /// sink.flush()?;
    /// assert_eq!(sink.into_parts().0, b"<ok>");
    /// # std::io::Result::Ok(())
    /// ```
    fn write_direct(&mut self, bytes: Bytes, remain: usize) -> Result<(), Shortfall> {
        self.staged().write_direct(bytes, remain)
    }

    /// As [`LinkBuffer::append`].
    ///
    /// ```
    /// # use netpoll_buffer::{FromWrite, LinkBuffer, Sink};
    /// let mut sink = FromWrite::new(Vec::new());
    /// sink.append(LinkBuffer::from("ok"));
    /// sink.flush()?;
    /// assert_eq!(sink.into_parts().0, b"ok");
    /// # std::io::Result::Ok(())
    /// ```
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
/// fails as the `Write` does; with [`WriteZero`](io::ErrorKind::WriteZero) when the `Write` takes
/// nothing; and with [`InvalidData`](io::ErrorKind::InvalidData) when it claims to have written
/// more than it was given. Bytes that it did not acknowledge by then stay staged.
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
    /// Nothing is written before [`flush`](Sink::flush). Bytes that are still staged when this is
    /// dropped are not written at all.
    ///
    /// ```
    /// # use netpoll_buffer::{FromWrite, LinkBuffer, Sink};
    /// let mut sink = FromWrite::new(Vec::new());
    /// sink.write_byte(7);
    /// assert!(sink.into_parts().0.is_empty()); // not flushed
    /// ```
    pub const fn new(write: W) -> Self {
        Self { write, buffer: LinkBuffer::new() }
    }

    /// The `Write`, and what was not written to it yet.
    ///
    /// ```
    /// # use netpoll_buffer::{FromWrite, LinkBuffer, Sink};
    /// let mut sink = FromWrite::new(Vec::new());
    /// sink.write_byte(1);
    /// sink.flush()?;
    /// sink.write_byte(2);
    /// let (written, staged) = sink.into_parts();
    /// assert_eq!((&written[..], staged.malloc_len()), (&[1][..], 1));
    /// # std::io::Result::Ok(())
    /// ```
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
    ///
    /// ```
    /// # use std::io::Write;
    /// # use netpoll_buffer::{AsWrite, LinkBuffer};
    /// let mut buffer = LinkBuffer::new();
    /// AsWrite::new(&mut buffer).write_all(b"abc")?;
    /// assert_eq!(buffer.malloc_len(), 3);
    /// # std::io::Result::Ok(())
    /// ```
    pub const fn new(sink: S) -> Self {
        Self { sink }
    }

    /// Gives the sink back; no byte is kept here.
    ///
    /// ```
    /// # use std::io::Write;
    /// # use netpoll_buffer::{AsWrite, LinkBuffer};
    /// let mut write = AsWrite::new(LinkBuffer::new());
    /// write.write_all(b"abc")?;
    /// assert_eq!(write.into_inner().malloc_len(), 3);
    /// # std::io::Result::Ok(())
    /// ```
    pub fn into_inner(self) -> S {
        self.sink
    }
}

impl<S: Sink> Write for AsWrite<S> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.sink.write_bytes(bytes);
        Ok(bytes.len())
    }

    fn write_vectored(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        for piece in pieces {
            self.sink.write_bytes(piece);
        }
        Ok(pieces.iter().map(|piece| piece.len()).sum())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.sink.flush()
    }
}
