//! The common traits of a queue of bytes: `bytes::Buf`, `std::io`, conversions.

use std::io::{self, BufRead, IoSlice, Read, Write};

use bytes::{Buf, Bytes};

use super::LinkBuffer;
use crate::Shortfall;

/// The readable bytes. `copy_to_bytes` shares where [`LinkBuffer::read_bytes`] does.
///
/// ```
/// use bytes::Buf;
///
/// let mut buffer = netpoll_buffer::LinkBuffer::from("\x12\x34");
/// assert_eq!(buffer.get_u16(), 0x1234);
/// ```
impl Buf for LinkBuffer {
    #[inline]
    fn remaining(&self) -> usize {
        self.len()
    }

    #[inline]
    fn chunk(&self) -> &[u8] {
        LinkBuffer::chunk(self)
    }

    #[inline]
    fn chunks_vectored<'a>(&'a self, out: &mut [IoSlice<'a>]) -> usize {
        self.gather(out)
    }

    /// # Panics
    ///
    /// When fewer than `n` bytes are readable, as [`Buf`] demands.
    #[inline]
    fn advance(&mut self, n: usize) {
        assert!(n <= self.len(), "advance past the end: {n} of {}", self.len());
        self.consume(n);
    }

    /// # Panics
    ///
    /// When fewer than `n` bytes are readable, as [`Buf`] demands.
    fn copy_to_bytes(&mut self, n: usize) -> Bytes {
        match self.read_bytes(n) {
            Ok(bytes) => bytes,
            Err(shortfall) => panic!("copy_to_bytes past the end: {shortfall}"),
        }
    }
}

/// Never waits; an empty buffer is at the end.
///
/// ```
/// use std::io::Read;
///
/// let mut text = String::new();
/// netpoll_buffer::LinkBuffer::from("abc").read_to_string(&mut text)?;
/// assert_eq!(text, "abc");
/// # std::io::Result::Ok(())
/// ```
impl Read for LinkBuffer {
    #[inline]
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        Ok(self.copy_to(out))
    }

    /// Consumes nothing if it fails.
    #[inline]
    fn read_exact(&mut self, out: &mut [u8]) -> io::Result<()> {
        Shortfall::check(out.len(), self.len())?;
        self.copy_to(out);
        Ok(())
    }
}

/// Block by block, without copying.
///
/// ```
/// use std::io::BufRead;
///
/// let mut lines = netpoll_buffer::LinkBuffer::from("one\ntwo").lines();
/// assert_eq!(lines.next().transpose()?.as_deref(), Some("one"));
/// # std::io::Result::Ok(())
/// ```
impl BufRead for LinkBuffer {
    #[inline]
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        Ok(LinkBuffer::chunk(self))
    }

    #[inline]
    fn consume(&mut self, n: usize) {
        LinkBuffer::consume(self, n);
    }
}

/// Written bytes are readable after a flush.
///
/// ```
/// use std::io::Write;
///
/// let mut buffer = netpoll_buffer::LinkBuffer::new();
/// write!(buffer, "{} bottles", 99)?;
/// buffer.flush();
/// assert_eq!(buffer.chunk(), b"99 bottles");
/// # std::io::Result::Ok(())
/// ```
impl Write for LinkBuffer {
    #[inline]
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_bytes(bytes);
        Ok(bytes.len())
    }

    fn write_vectored(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        for piece in pieces {
            self.write_bytes(piece);
        }
        Ok(pieces.iter().map(|piece| piece.len()).sum())
    }

    #[inline]
    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.write_bytes(bytes);
        Ok(())
    }

    #[inline]
    fn flush(&mut self) -> io::Result<()> {
        LinkBuffer::flush(self);
        Ok(())
    }
}

/// Linked, not copied, from 4 KiB on; readable at once. The same holds for the conversions below.
///
/// ```
/// # use netpoll_buffer::LinkBuffer;
/// let memory = vec![b'x'; 10_000];
/// let at = memory.as_ptr();
/// assert_eq!(LinkBuffer::from(memory).chunk().as_ptr(), at);
/// ```
impl From<Bytes> for LinkBuffer {
    fn from(bytes: Bytes) -> Self {
        let mut buffer = Self::new();
        buffer.write_shared(bytes);
        buffer.flush();
        buffer
    }
}

impl From<Vec<u8>> for LinkBuffer {
    fn from(bytes: Vec<u8>) -> Self {
        Bytes::from(bytes).into()
    }
}

impl From<String> for LinkBuffer {
    fn from(string: String) -> Self {
        Bytes::from(string).into()
    }
}

impl From<&'static [u8]> for LinkBuffer {
    fn from(bytes: &'static [u8]) -> Self {
        Bytes::from_static(bytes).into()
    }
}

impl From<&'static str> for LinkBuffer {
    fn from(string: &'static str) -> Self {
        string.as_bytes().into()
    }
}

/// All bytes, pending ones as well, in one piece: shared where they stand in one block, otherwise a
/// copy. So a message that was written in parts goes where `impl Into<Bytes>` is asked for.
///
/// ```
/// use netpoll_buffer::LinkBuffer;
///
/// let mut message = LinkBuffer::new();
/// message.write_string("one, ");
/// message.write_string("two");
/// assert_eq!(bytes::Bytes::from(message), "one, two");
/// ```
impl From<LinkBuffer> for Bytes {
    fn from(mut buffer: LinkBuffer) -> Self {
        buffer.flush();
        let all = buffer.len();
        buffer.copy_to_bytes(all)
    }
}

/// Adds pending bytes.
///
/// ```
/// let mut buffer = netpoll_buffer::LinkBuffer::new();
/// buffer.extend([&b"abc"[..], b"def"]);
/// assert_eq!(buffer.malloc_len(), 6);
/// ```
impl<'a> Extend<&'a [u8]> for LinkBuffer {
    fn extend<I: IntoIterator<Item = &'a [u8]>>(&mut self, pieces: I) {
        pieces.into_iter().for_each(|piece| self.write_bytes(piece));
    }
}

/// Links pending bytes.
impl Extend<Bytes> for LinkBuffer {
    fn extend<I: IntoIterator<Item = Bytes>>(&mut self, pieces: I) {
        pieces.into_iter().for_each(|piece| self.write_shared(piece));
    }
}

/// Appends buffers.
impl Extend<LinkBuffer> for LinkBuffer {
    fn extend<I: IntoIterator<Item = LinkBuffer>>(&mut self, buffers: I) {
        buffers.into_iter().for_each(|buffer| self.append(buffer));
    }
}

/// Concatenates; everything is readable.
///
/// ```
/// # use netpoll_buffer::LinkBuffer;
/// let buffer: LinkBuffer = ["abc", "def"].into_iter().map(LinkBuffer::from).collect();
/// assert_eq!(buffer.len(), 6);
/// ```
impl<T> FromIterator<T> for LinkBuffer
where
    Self: Extend<T>,
{
    fn from_iter<I: IntoIterator<Item = T>>(items: I) -> Self {
        let mut buffer = Self::new();
        buffer.extend(items);
        buffer.flush();
        buffer
    }
}
