//! A length, then as many bytes: the decoder and the encoder.

use std::io;

use netpoll_buffer::LinkBuffer;

use crate::encode::check_length;
use crate::{
    ByteOrder, Decode, Encode, EncodeError, Extent, FrameError, LengthField, LengthFieldOptions,
};

/// A length, then as many bytes.
///
/// ```text
///   ┌────────┬───────────────────┐
///   │ length │      payload      │
///   └────────┴───────────────────┘
///     width     length bytes, at most max
/// ```
///
/// Encoding does what netty's `LengthFieldPrepender` does, decoding is its reverse.
///
/// ```
/// use netpoll_buffer::LinkBuffer;
/// use netpoll_codec::{Decode, Encode, LengthPrefix};
///
/// let mut codec = LengthPrefix::new(2, 1000)?;
/// let mut stream = LinkBuffer::new();
/// codec.encode(b"abc", &mut stream)?;
/// stream.flush();
/// assert_eq!(stream.chunk(), b"\x00\x03abc");
/// assert_eq!(codec.decode(&mut stream)?.expect("a frame").bytes(), b"abc");
/// # std::io::Result::Ok(())
/// ```
#[derive(Clone, Debug)]
pub struct LengthPrefix {
    options: LengthFieldOptions,
    decoder: LengthField,
}

impl LengthPrefix {
    /// A big-endian length of `width` bytes, and payloads of at most `max` bytes.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](io::ErrorKind::InvalidInput), one sentence, when `width` isn't 1, 2, 3, 4
    /// or 8, or `max` is 0 or above [`MAX_FRAME`](crate::MAX_FRAME).
    pub fn new(width: usize, max: usize) -> io::Result<Self> {
        let options = LengthFieldOptions { width, strip: width, max, ..Default::default() };
        Self::with(options)
    }

    /// Writes the length with its least significant byte first.
    ///
    /// ```
    /// # use netpoll_codec::{Encode, LengthPrefix};
    /// # let mut out = netpoll_buffer::LinkBuffer::new();
    /// LengthPrefix::new(2, 1000)?.little_endian().encode(b"abc", &mut out)?;
    /// out.flush();
    /// assert_eq!(out.chunk(), b"\x03\x00abc");
    /// # std::io::Result::Ok(())
    /// ```
    #[must_use]
    pub fn little_endian(self) -> Self {
        self.changed(|options| options.order = ByteOrder::Little)
    }

    /// Counts the length's own bytes in the length.
    ///
    /// ```
    /// # use netpoll_codec::{Encode, LengthPrefix};
    /// # let mut out = netpoll_buffer::LinkBuffer::new();
    /// LengthPrefix::new(2, 1000)?.counting_itself().encode(b"abc", &mut out)?;
    /// out.flush();
    /// assert_eq!(out.chunk(), b"\x00\x05abc");
    /// # std::io::Result::Ok(())
    /// ```
    #[must_use]
    pub fn counting_itself(self) -> Self {
        self.changed(|options| options.adjustment = -(options.width.cast_signed() as i32))
    }

    /// Reports a frame that is too long after it was dropped, not when its length was read.
    #[must_use]
    pub fn fail_late(mut self) -> Self {
        self.options.fail_fast = false;
        self.decoder.set_late();
        self
    }

    fn with(options: LengthFieldOptions) -> io::Result<Self> {
        let decoder = LengthField::named("LengthPrefix", options, options.width)?;
        Ok(Self { options, decoder })
    }

    fn changed(mut self, change: impl FnOnce(&mut LengthFieldOptions)) -> Self {
        change(&mut self.options);
        Self::with(self.options).expect("what has changed is not what can be wrong")
    }

    /// The field in front of a payload of this length: eight bytes, and which of them.
    #[inline]
    fn prefix(&self, length: usize) -> Result<([u8; 8], std::ops::Range<usize>), EncodeError> {
        check_length(length, self.decoder.max())?;
        let LengthFieldOptions { width, adjustment, order, .. } = self.options;
        // The adjustment is the width, or 0.
        let value = length as u64 + u64::from(adjustment.unsigned_abs());
        if width < 8 && value >> (8 * width) != 0 {
            return Err(EncodeError::LengthOutOfRange { length: value, width });
        }
        Ok(match order {
            ByteOrder::Big => (value.to_be_bytes(), 8 - width..8),
            ByteOrder::Little => (value.to_le_bytes(), 0..width),
        })
    }
}

impl Decode for LengthPrefix {
    #[inline]
    fn find(&mut self, input: &mut LinkBuffer) -> Result<Option<Extent>, FrameError> {
        self.decoder.find(input)
    }

    #[inline]
    fn find_in(&mut self, front: &[u8]) -> Option<Extent> {
        self.decoder.find_in(front)
    }

    fn finish(&mut self, input: &LinkBuffer) -> Result<(), FrameError> {
        self.decoder.finish(input)
    }
}

impl Encode for LengthPrefix {
    fn encode(&mut self, payload: &[u8], out: &mut LinkBuffer) -> Result<(), EncodeError> {
        let (bytes, field) = self.prefix(payload.len())?;
        out.write_bytes(&bytes[field]);
        out.write_bytes(payload);
        Ok(())
    }

    fn encode_buffer(
        &mut self,
        mut payload: LinkBuffer,
        out: &mut LinkBuffer,
    ) -> Result<(), EncodeError> {
        payload.flush();
        let (bytes, field) = self.prefix(payload.len())?;
        out.write_bytes(&bytes[field]);
        out.append(payload);
        Ok(())
    }
}
