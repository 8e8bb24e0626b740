//! Where bytes come from: the trait that protocol code reads from, and adapters from and to
//! `std::io::Read`.

use std::io::{self, BufRead, Read};

use bytes::Bytes;

use crate::LinkBuffer;

/// Bytes to parse, whether from a connection, a file or a test vector.
///
/// A source keeps the bytes that have arrived in a [`LinkBuffer`] and can wait for more; every
/// method first asks for what it needs. A bare `LinkBuffer` is a source that never waits, and
/// [`FromRead`] makes one of any [`io::Read`].
///
/// # Errors
///
/// All methods fail as [`require`](Self::require) does, and consume nothing then.
///
/// ```
/// use netpoll_buffer::{FromRead, LinkBuffer, Source};
///
/// fn frame(source: &mut impl Source) -> std::io::Result<LinkBuffer> {
///     let length = usize::from(source.read_byte()?);
///     source.slice(length)
/// }
///
/// assert_eq!(frame(&mut LinkBuffer::from("\x03abc"))?.chunk(), b"abc");
/// assert_eq!(frame(&mut FromRead::new(&b"\x03abc"[..]))?.chunk(), b"abc");
/// # std::io::Result::Ok(())
/// ```
pub trait Source {
    /// What has arrived and was not consumed yet.
    ///
    /// ```
    /// # use netpoll_buffer::{FromRead, LinkBuffer, Source};
    /// let mut source = FromRead::new(&b"abc"[..]);
    /// assert_eq!(source.buffered().len(), 0); // nothing was asked for
    /// source.require(1)?;
    /// assert_eq!(source.buffered().len(), 3);
    /// # std::io::Result::Ok(())
    /// ```
    fn buffered(&mut self) -> &mut LinkBuffer;

    /// Waits until at least `n` bytes are buffered.
    ///
    /// # Errors
    ///
    /// [`UnexpectedEof`](io::ErrorKind::UnexpectedEof) when the stream ends before; any other error
    /// that keeps bytes from arriving. Buffered bytes stay.
    ///
    /// ```
    /// # use netpoll_buffer::{FromRead, LinkBuffer, Source};
    /// let mut source = FromRead::new(&b"abc"[..]);
    /// source.require(3)?;
    /// assert!(source.require(4).is_err());
    /// assert_eq!(source.buffered().chunk(), b"abc");
    /// # std::io::Result::Ok(())
    /// ```
    fn require(&mut self, n: usize) -> io::Result<()>;

    /// As [`LinkBuffer::peek`].
    ///
    /// ```
    /// # use netpoll_buffer::{FromRead, LinkBuffer, Source};
    /// let mut source = FromRead::new(&b"abc"[..]);
    /// assert_eq!(source.peek(2)?, b"ab");
    /// assert_eq!(source.peek(3)?, b"abc");
    /// # std::io::Result::Ok(())
    /// ```
    #[expect(clippy::missing_errors_doc, reason = "said at the trait, here and below")]
    fn peek(&mut self, n: usize) -> io::Result<&[u8]> {
        self.require(n)?;
        Ok(self.buffered().peek(n)?)
    }

    /// As [`LinkBuffer::next`].
    ///
    /// ```
    /// # use netpoll_buffer::{FromRead, LinkBuffer, Source};
    /// let mut source = FromRead::new(&b"abc"[..]);
    /// assert_eq!(source.next(2)?, b"ab");
    /// assert_eq!(source.next(1)?, b"c");
    /// # std::io::Result::Ok(())
    /// ```
    #[expect(clippy::missing_errors_doc, reason = "said at the trait")]
    fn next(&mut self, n: usize) -> io::Result<&[u8]> {
        self.require(n)?;
        Ok(self.buffered().next(n)?)
    }

    /// As [`LinkBuffer::skip`].
    ///
    /// ```
    /// # use netpoll_buffer::{FromRead, LinkBuffer, Source};
    /// let mut source = FromRead::new(&b"abc"[..]);
    /// source.skip(2)?;
    /// assert_eq!(source.read_byte()?, b'c');
    /// # std::io::Result::Ok(())
    /// ```
    #[expect(clippy::missing_errors_doc, reason = "said at the trait")]
    fn skip(&mut self, n: usize) -> io::Result<()> {
        self.require(n)?;
        Ok(self.buffered().skip(n)?)
    }

    /// As [`LinkBuffer::until`], waiting for the delimiter, which must be among the first `max`
    /// bytes.
    ///
    /// # Errors
    ///
    /// [`InvalidData`](io::ErrorKind::InvalidData) when it is not among them: a peer that never
    /// sends the delimiter must not fill the memory.
    ///
    /// ```
    /// # use netpoll_buffer::{FromRead, LinkBuffer, Source};
    /// let mut source = FromRead::new(&b"one\nand so on"[..]);
    /// assert_eq!(source.until(b'\n', 4)?, b"one\n");
    /// let error = source.until(b'\n', 4).unwrap_err();
    /// assert_eq!(error.kind(), std::io::ErrorKind::InvalidData);
    /// # std::io::Result::Ok(())
    /// ```
    fn until(&mut self, delimiter: u8, max: usize) -> io::Result<&[u8]> {
        let at = loop {
            if let Some(at) = self.buffered().find(delimiter).filter(|&at| at < max) {
                break at;
            }
            let buffered = self.buffered().len();
            if buffered >= max {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "no delimiter within the limit",
                ));
            }
            self.require(buffered + 1)?;
        };
        Ok(self.buffered().next(at + 1)?)
    }

    /// As [`LinkBuffer::slice`].
    ///
    /// ```
    /// # use netpoll_buffer::{FromRead, LinkBuffer, Source};
    /// let mut source = FromRead::new(&b"abc"[..]);
    /// let slice = source.slice(2)?;
    /// drop(source);
    /// assert_eq!(slice.chunk(), b"ab");
    /// # std::io::Result::Ok(())
    /// ```
    #[expect(clippy::missing_errors_doc, reason = "said at the trait")]
    fn slice(&mut self, n: usize) -> io::Result<LinkBuffer> {
        self.require(n)?;
        Ok(self.buffered().slice(n)?)
    }

    /// As [`LinkBuffer::read_string`]; bytes that are not UTF-8 are consumed and
    /// [`InvalidData`](io::ErrorKind::InvalidData).
    ///
    /// ```
    /// # use netpoll_buffer::{FromRead, LinkBuffer, Source};
    /// let mut source = FromRead::new(&b"abc\xFF"[..]);
    /// assert_eq!(source.read_string(3)?, "abc");
    /// assert!(source.read_string(1).is_err());
    /// # std::io::Result::Ok(())
    /// ```
    #[expect(clippy::missing_errors_doc, reason = "said at the trait")]
    fn read_string(&mut self, n: usize) -> io::Result<String> {
        self.require(n)?;
        let string = self.buffered().read_string(n)?;
        string.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
    }

    /// As [`LinkBuffer::read_bytes`].
    ///
    /// ```
    /// # use netpoll_buffer::{FromRead, LinkBuffer, Source};
    /// let mut source = FromRead::new(&b"abc"[..]);
    /// assert_eq!(source.read_bytes(3)?, "abc");
    /// # std::io::Result::Ok(())
    /// ```
    #[expect(clippy::missing_errors_doc, reason = "said at the trait")]
    fn read_bytes(&mut self, n: usize) -> io::Result<Bytes> {
        self.require(n)?;
        Ok(self.buffered().read_bytes(n)?)
    }

    /// As [`LinkBuffer::read_byte`].
    ///
    /// ```
    /// # use netpoll_buffer::{FromRead, LinkBuffer, Source};
    /// let mut source = FromRead::new(&b"a"[..]);
    /// assert_eq!(source.read_byte()?, b'a');
    /// assert!(source.read_byte().is_err());
    /// # std::io::Result::Ok(())
    /// ```
    #[expect(clippy::missing_errors_doc, reason = "said at the trait")]
    fn read_byte(&mut self) -> io::Result<u8> {
        self.require(1)?;
        Ok(self.buffered().read_byte()?)
    }
}

/// Never waits: missing bytes are [`UnexpectedEof`](io::ErrorKind::UnexpectedEof).
impl Source for LinkBuffer {
    fn buffered(&mut self) -> &mut LinkBuffer {
        self
    }

    fn require(&mut self, n: usize) -> io::Result<()> {
        Ok(crate::Shortfall::check(n, self.len())?)
    }
}

impl<S: Source + ?Sized> Source for &mut S {
    fn buffered(&mut self) -> &mut LinkBuffer {
        (**self).buffered()
    }

    fn require(&mut self, n: usize) -> io::Result<()> {
        (**self).require(n)
    }
}

/// A [`Source`] that reads from any [`io::Read`] (netpoll's `NewReader`).
///
/// Reads no more at a time than is asked for or fits a block, into zeroed memory, so even a `Read`
/// that claims more than it wrote can't expose bytes of a former use.
///
/// ```
/// use netpoll_buffer::{FromRead, Source};
///
/// let mut lines = FromRead::new(&b"one\ntwo\n"[..]);
/// assert_eq!(lines.until(b'\n', 80)?, b"one\n");
/// assert_eq!(lines.until(b'\n', 80)?, b"two\n");
/// assert_eq!(lines.read_byte().unwrap_err().kind(), std::io::ErrorKind::UnexpectedEof);
/// # std::io::Result::Ok(())
/// ```
#[derive(Debug)]
pub struct FromRead<R> {
    read: R,
    buffer: LinkBuffer,
}

/// The least and the most that is read at a time.
const READ_MIN: usize = 4 << 10;
const READ_MAX: usize = 64 << 10;

impl<R: Read> FromRead<R> {
    /// Nothing is read before a method needs it.
    ///
    /// ```
    /// # use netpoll_buffer::{FromRead, LinkBuffer, Source};
    /// let mut source = FromRead::new(std::io::repeat(b'x'));
    /// assert!(source.buffered().is_empty());
    /// assert_eq!(source.next(3)?, b"xxx");
    /// # std::io::Result::Ok(())
    /// ```
    pub const fn new(read: R) -> Self {
        Self { read, buffer: LinkBuffer::new() }
    }

    /// The `Read`, and what was read from it and not consumed.
    ///
    /// ```
    /// # use netpoll_buffer::{FromRead, LinkBuffer, Source};
    /// let mut source = FromRead::new(&b"abc"[..]);
    /// source.skip(1)?;
    /// let (rest, buffered) = source.into_parts();
    /// assert_eq!((rest, buffered.chunk()), (&b""[..], &b"bc"[..])); // was read ahead
    /// # std::io::Result::Ok(())
    /// ```
    pub fn into_parts(self) -> (R, LinkBuffer) {
        (self.read, self.buffer)
    }

    /// Reads once, at most `n` bytes.
    fn read_more(&mut self, n: usize) -> io::Result<usize> {
        let Self { read, buffer } = self;
        let filled = buffer.fill(n, |space| {
            // A `Read` need not be honest about how much it wrote.
            for piece in &mut *space {
                piece.fill(0);
            }
            loop {
                match read.read_vectored(space) {
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    outcome => return outcome,
                }
            }
        })?;
        Ok(filled.read)
    }
}

impl<R: Read> Source for FromRead<R> {
    fn buffered(&mut self) -> &mut LinkBuffer {
        &mut self.buffer
    }

    fn require(&mut self, n: usize) -> io::Result<()> {
        while self.buffer.len() < n {
            let missing = n - self.buffer.len();
            if self.read_more(missing.clamp(READ_MIN, READ_MAX))? == 0 {
                return Ok(crate::Shortfall::check(n, self.buffer.len())?);
            }
        }
        Ok(())
    }
}

/// An [`io::Read`] and [`BufRead`] over any [`Source`] (netpoll's `NewIOReader`).
///
/// ```
/// use std::io::BufRead;
/// use netpoll_buffer::{AsRead, LinkBuffer};
///
/// let mut lines = AsRead::new(LinkBuffer::from("one\ntwo")).lines();
/// assert_eq!(lines.next().transpose()?.as_deref(), Some("one"));
/// assert_eq!(lines.next().transpose()?.as_deref(), Some("two"));
/// assert!(lines.next().is_none());
/// # std::io::Result::Ok(())
/// ```
#[derive(Debug)]
pub struct AsRead<S> {
    source: S,
}

impl<S: Source> AsRead<S> {
    /// Reads from `source`.
    ///
    /// ```
    /// # use std::io::Read;
    /// # use netpoll_buffer::{AsRead, LinkBuffer};
    /// let mut text = String::new();
    /// AsRead::new(LinkBuffer::from("abc")).read_to_string(&mut text)?;
    /// assert_eq!(text, "abc");
    /// # std::io::Result::Ok(())
    /// ```
    pub const fn new(source: S) -> Self {
        Self { source }
    }

    /// Gives the source back; no byte is kept here.
    ///
    /// ```
    /// # use std::io::Read;
    /// # use netpoll_buffer::{AsRead, LinkBuffer};
    /// let mut read = AsRead::new(LinkBuffer::from("abc"));
    /// read.read_exact(&mut [0; 2])?;
    /// assert_eq!(read.into_inner().chunk(), b"c");
    /// # std::io::Result::Ok(())
    /// ```
    pub fn into_inner(self) -> S {
        self.source
    }
}

impl<S: Source> Read for AsRead<S> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if !out.is_empty() {
            self.fill_buf()?;
        }
        Ok(self.source.buffered().copy_to(out))
    }
}

impl<S: Source> BufRead for AsRead<S> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        match self.source.require(1) {
            // To `Read`, an end in the right place is no error.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {}
            outcome => outcome?,
        }
        Ok(LinkBuffer::chunk(self.source.buffered()))
    }

    fn consume(&mut self, n: usize) {
        self.source.buffered().consume(n);
    }
}
