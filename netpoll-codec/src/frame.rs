//! A frame that was found: lent out of the buffer that it arrived in.

use std::{fmt, mem};

use bytes::Bytes;
use netpoll_buffer::{LinkBuffer, Shortfall};

/// Where a frame lies, from the front of a buffer.
///
/// ```text
///   ┌────────┬───────────────────┬─────────┬──────────────
///   │ header │      payload      │ trailer │ the next …
///   └────────┴───────────────────┴─────────┴──────────────
///    dropped     what is lent      dropped
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Extent {
    /// Bytes in front of the payload: a length, say.
    pub header: usize,
    /// Bytes of the payload.
    pub payload: usize,
    /// Bytes behind the payload: a delimiter, say.
    pub trailer: usize,
}

/// A frame, lent out of the buffer that it arrived in.
///
/// It borrows the buffer instead of owning its bytes, because the cheapest form depends on their
/// use: to look at them costs nothing ([`bytes`](Self::bytes)), to pass them on moves blocks
/// ([`into_buffer`](Self::into_buffer)), and only a program that keeps them pays for a value
/// ([`into_bytes`](Self::into_bytes)). A frame is consumed when it is dropped, whether it was
/// looked at or not.
///
/// ```
/// use netpoll_buffer::LinkBuffer;
/// use netpoll_codec::{Decode, Lines};
///
/// let mut input = LinkBuffer::from("skipped\nlooked at\n");
/// let mut lines = Lines::new(80)?;
/// drop(lines.decode(&mut input)?);
/// let frame = lines.decode(&mut input)?.expect("it is there");
/// assert_eq!(frame.len(), 9);
/// assert_eq!(frame.bytes(), b"looked at");
/// # std::io::Result::Ok(())
/// ```
#[must_use = "a frame that is dropped is consumed"]
pub struct Frame<'a> {
    /// `None` once the bytes were taken.
    buffer: Option<&'a mut LinkBuffer>,
    extent: Packed,
}

/// An extent in one word: so a frame is two words and passed in registers, which saves half of the
/// cost of finding one.
///
/// ```text
///   63       48 47       32 31                 0
///   │ trailer  │  header   │      payload      │
/// ```
#[derive(Clone, Copy)]
struct Packed(u64);

impl Packed {
    /// `None` for an extent that is too large: of the codecs here, only the header of a
    /// `LengthField` can be.
    #[inline]
    fn new(extent: Extent) -> Option<Self> {
        let payload = u32::try_from(extent.payload).ok()?;
        let header = u16::try_from(extent.header).ok()?;
        let trailer = u16::try_from(extent.trailer).ok()?;
        Some(Self(u64::from(payload) | u64::from(header) << 32 | u64::from(trailer) << 48))
    }

    #[inline]
    fn unpack(self) -> Extent {
        Extent {
            payload: self.0 as u32 as usize,
            header: usize::from((self.0 >> 32) as u16),
            trailer: usize::from((self.0 >> 48) as u16),
        }
    }
}

impl<'a> Frame<'a> {
    /// The frame at the front of `buffer`.
    ///
    /// # Panics
    ///
    /// When the buffer does not hold all of the frame; when the frame has no byte, since it would
    /// be found again for ever; when the payload has 4 GiB, or the trailer 64 KiB.
    ///
    /// ```
    /// use netpoll_buffer::LinkBuffer;
    /// use netpoll_codec::{Extent, Frame};
    ///
    /// let mut buffer = LinkBuffer::from("<b>x");
    /// let frame = Frame::new(&mut buffer, Extent { header: 1, payload: 1, trailer: 1 });
    /// assert_eq!(frame.bytes(), b"b");
    /// assert_eq!(buffer.chunk(), b"x");
    /// ```
    #[inline]
    pub fn new(buffer: &'a mut LinkBuffer, extent: Extent) -> Self {
        let fits = extent.total().wrapping_sub(1) < buffer.len(); // and it has a byte
        assert!(fits, "a frame of {extent:?} in {} bytes", buffer.len());
        if let Some(extent) = Packed::new(extent) {
            return Self { buffer: Some(buffer), extent };
        }
        Self::large(buffer, extent)
    }

    /// How many bytes the payload has.
    #[inline]
    pub fn len(&self) -> usize {
        self.extent.unpack().payload
    }

    /// Whether the payload has no bytes.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The payload, contiguous. Copies only where it spans blocks, as [`LinkBuffer::next`] does.
    ///
    /// # Panics
    ///
    /// When the frame is longer than [`MAX_FRAME`](crate::MAX_FRAME) and spans blocks, which no
    /// codec of this crate does.
    #[inline]
    pub fn bytes(mut self) -> &'a [u8] {
        let (buffer, mut extent) = self.take();
        if buffer.chunk().len() < extent.header + extent.payload {
            // The header is not copied with a payload that does not lie behind it in one block.
            buffer.consume(mem::take(&mut extent.header));
        }
        let whole = buffer.next(extent.total()).expect("it was found, so it is there");
        &whole[extent.header..extent.header + extent.payload]
    }

    /// The first `n` bytes of the payload, contiguous, which stay in the frame: to look at the kind
    /// of a message before it is passed on.
    ///
    /// # Errors
    ///
    /// [`Shortfall`] when the payload has fewer.
    ///
    /// ```
    /// # use netpoll_buffer::LinkBuffer;
    /// # use netpoll_codec::{Decode, LengthPrefix};
    /// # let mut input = LinkBuffer::from("\x04ping");
    /// # let mut codec = LengthPrefix::new(1, 100)?;
    /// let mut frame = codec.decode(&mut input)?.expect("it is there");
    /// assert_eq!(frame.peek(1)?, b"p");
    /// assert_eq!(frame.into_buffer().chunk(), b"ping");
    /// # std::io::Result::Ok(())
    /// ```
    pub fn peek(&mut self, n: usize) -> Result<&[u8], Shortfall> {
        if n > self.len() {
            return Err(Shortfall { requested: n, available: self.len() });
        }
        self.drop_header();
        match &mut self.buffer {
            Some(buffer) => buffer.peek(n),
            None => Ok(&[]),
        }
    }

    /// The payload as a buffer of its own. Moves and shares blocks, as [`LinkBuffer::slice`] does.
    pub fn into_buffer(mut self) -> LinkBuffer {
        self.drop_header();
        let (buffer, extent) = self.take();
        let payload = buffer.slice(extent.payload).expect("it was found, so it is there");
        buffer.consume(extent.trailer);
        payload
    }

    /// The payload as a value that the caller may keep. Shares or copies as
    /// [`LinkBuffer::read_bytes`] does.
    pub fn into_bytes(mut self) -> Bytes {
        self.drop_header();
        let (buffer, extent) = self.take();
        let payload = buffer.read_bytes(extent.payload).expect("it was found, so it is there");
        buffer.consume(extent.trailer);
        payload
    }

    #[inline]
    fn take(&mut self) -> (&'a mut LinkBuffer, Extent) {
        (self.buffer.take().expect("the methods that take it take the frame"), self.extent.unpack())
    }

    #[cold]
    fn drop_header(&mut self) {
        let extent = self.extent.unpack();
        if let Some(buffer) = &mut self.buffer {
            buffer.consume(extent.header);
        }
        self.extent = Packed(self.extent.0 & !(0xFFFF << 32));
    }

    /// A frame with a header that is too large to be packed, so the header is dropped at once.
    #[cold]
    fn large(buffer: &'a mut LinkBuffer, extent: Extent) -> Self {
        buffer.consume(extent.header);
        let extent = Packed::new(Extent { header: 0, ..extent });
        Self {
            buffer: Some(buffer),
            extent: extent.expect("a frame of 4 GiB, or its trailer of 64 KiB"),
        }
    }
}

impl Extent {
    #[inline]
    pub(crate) fn total(self) -> usize {
        self.header + self.payload + self.trailer
    }
}

impl Drop for Frame<'_> {
    #[inline]
    fn drop(&mut self) {
        if let Some(buffer) = &mut self.buffer {
            buffer.consume(self.extent.unpack().total());
        }
    }
}

impl fmt::Debug for Frame<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Frame").field("len", &self.len()).finish_non_exhaustive()
    }
}
