//! Frames with a length somewhere in their header.

use std::io;

use netpoll_buffer::LinkBuffer;

use crate::counted::Counted;
use crate::{Decode, Extent, Fault, FrameError, check_max, refuse};

/// Decodes frames that have their length in a header: netty's `LengthFieldBasedFrameDecoder`, with
/// all of its parameters.
///
/// ```text
///   ◀─ offset ─▶◀─ width ─▶◀── the length + adjustment ──▶
///   ┌───────────┬──────────┬─────────────────────────────┐
///   │           │  length  │                             │  next frame
///   └───────────┴──────────┴─────────────────────────────┘
///   ◀─ strip ─▶◀────────────── payload ─────────────────▶
/// ```
///
/// The payload is the frame without its first `strip` bytes. For the plain case, a length and then
/// as many bytes, [`LengthPrefix`](crate::LengthPrefix) is simpler, and encodes as well.
///
/// Finding a frame costs a read of the length, and no search. An 8-byte length of 2⁶³ or more, and
/// a length that ends the frame inside its header, are [`FrameError::CorruptedFrame`]: the header
/// is dropped, as netty does, and decoding goes on behind it.
///
/// ```
/// use netpoll_buffer::LinkBuffer;
/// use netpoll_codec::{Decode, LengthField, LengthFieldOptions};
///
/// // One byte of header, two of length, one more of header; the first three are stripped.
/// let options = LengthFieldOptions {
///     width: 2, offset: 1, adjustment: 1, strip: 3, ..LengthFieldOptions::default()
/// };
/// let mut codec = LengthField::new(options)?;
/// let mut input = LinkBuffer::from(b"\xCA\x00\x0C\xFEHELLO, WORLD".to_vec());
/// let frame = codec.decode(&mut input)?.expect("it is there");
/// assert_eq!(frame.bytes(), b"\xFEHELLO, WORLD");
/// # std::io::Result::Ok(())
/// ```
#[derive(Clone, Debug)]
pub struct LengthField {
    offset: usize,
    /// Where the length field ends.
    end: usize,
    strip: usize,
    /// What to add to the length to get that of the whole frame: `adjustment + end`.
    extra: i64,
    /// The shortest correct frame, which has all bytes to strip, and the longest, by `max`.
    least: u64,
    most: u64,
    /// By how many bits a number of eight bytes that begin with the field must be shifted: 0 to 56.
    shift: u32,
    order: ByteOrder,
    /// How many bytes of a frame `max` does not count.
    uncounted: usize,
    counted: Counted,
}

/// The shape of a frame with a length in its header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LengthFieldOptions {
    /// How many bytes the length has: 1, 2, 3, 4 or 8. Default 4.
    pub width: usize,
    /// Bytes in front of the length. Default 0.
    pub offset: usize,
    /// What to add to the length to get the bytes that follow it. Negative where the length counts
    /// its header: −4 where it counts its own four bytes. Default 0.
    pub adjustment: i32,
    /// Bytes to drop from the front of a frame. Default 0: the payload is the whole frame.
    pub strip: usize,
    /// How the length is written. Default: big-endian, the order of networks.
    pub order: ByteOrder,
    /// The longest frame, in bytes, with its header. Default 1 MiB.
    pub max: usize,
    /// Whether [`FrameError::FrameTooLong`] is reported as soon as the length was read, or after
    /// the frame was dropped. Default: at once.
    pub fail_fast: bool,
}

/// Which byte of a number comes first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ByteOrder {
    /// The most significant one.
    #[default]
    Big,
    /// The least significant one.
    Little,
}

impl LengthField {
    /// A decoder of frames of this shape.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](io::ErrorKind::InvalidInput), one sentence that names the option: a width
    /// that isn't 1, 2, 3, 4 or 8; a `max` of 0 or above [`MAX_FRAME`](crate::MAX_FRAME); a length
    /// field that ends behind `max`; a `strip` above `max`.
    ///
    /// ```
    /// # use netpoll_codec::{LengthField, LengthFieldOptions};
    /// let five = LengthFieldOptions { width: 5, ..LengthFieldOptions::default() };
    /// let error = LengthField::new(five).unwrap_err();
    /// assert_eq!(error.to_string(), "LengthField: width is 5; it must be 1, 2, 3, 4 or 8 bytes");
    /// ```
    pub fn new(options: LengthFieldOptions) -> io::Result<Self> {
        Self::named("LengthField", options, 0)
    }

    /// As `new`, for a codec with this name that does not count the first bytes of a frame.
    pub(crate) fn named(
        codec: &str,
        options: LengthFieldOptions,
        uncounted: usize,
    ) -> io::Result<Self> {
        let LengthFieldOptions { width, offset, adjustment, strip, order, max, fail_fast } =
            options;
        check_width(codec, width)?;
        check_max(codec, max)?;
        let whole = max + uncounted;
        let end = offset.saturating_add(width);
        if end > whole {
            let sentence = format!("offset {offset} and width {width} end behind max, {max} bytes");
            return Err(refuse(format!("{codec}: {sentence}")));
        }
        if strip > whole {
            return Err(refuse(format!("{codec}: strip is {strip}, more than max, {max} bytes")));
        }
        let mut counted = Counted::new(max);
        counted.late = !fail_fast;
        let extra = i64::from(adjustment) + end.cast_signed() as i64;
        let shift = 64 - 8 * width as u32;
        let (least, most) = (end.max(strip) as u64, whole as u64);
        Ok(Self { offset, end, strip, extra, least, most, shift, order, uncounted, counted })
    }

    pub(crate) fn set_late(&mut self) {
        self.counted.late = true;
    }

    pub(crate) fn max(&self) -> usize {
        self.counted.max()
    }

    /// The length, of eight bytes that begin with its field.
    #[inline]
    fn length(&self, eight: [u8; 8]) -> u64 {
        match self.order {
            ByteOrder::Big => u64::from_be_bytes(eight) >> self.shift,
            ByteOrder::Little => u64::from_le_bytes(eight) << self.shift >> self.shift,
        }
    }

    /// The field, and zeros behind it, wherever its bytes lie.
    fn gather(&self, input: &LinkBuffer) -> Option<[u8; 8]> {
        if input.len() < self.end {
            return None;
        }
        let mut eight = [0; 8];
        let mut start = 0; // of the chunk, in the input
        for chunk in input.chunks() {
            for (at, place) in (self.offset..self.end).zip(&mut eight) {
                if let Some(byte) = at.checked_sub(start).and_then(|at| chunk.get(at)) {
                    *place = *byte;
                }
            }
            start += chunk.len();
            if start >= self.end {
                break;
            }
        }
        Some(eight)
    }
}

impl Decode for LengthField {
    #[inline]
    fn find(&mut self, input: &mut LinkBuffer) -> Result<Option<Extent>, FrameError> {
        loop {
            if !self.counted.ready(input)? {
                return Ok(None);
            }
            let Some(eight) = self.gather(input) else {
                return Ok(None);
            };
            let length = self.length(eight);
            if length > i64::MAX as u64 {
                return Err(self.counted.corrupted(input, self.end, Fault::NegativeLength));
            }
            // Less than 2⁶³ and 2³³, so it can only be too small.
            let total = length.checked_add_signed(self.extra).unwrap_or(0);
            if total < self.end as u64 {
                return Err(self.counted.corrupted(input, self.end, Fault::ShorterThanHeader));
            }
            let counted = total.saturating_sub(self.uncounted as u64);
            if counted > self.counted.max() as u64 {
                self.counted.too_long(total, counted)?;
                continue;
            }
            let total = total as usize; // at most MAX_FRAME and a length field
            if self.strip > total {
                if input.len() < total {
                    return Ok(None);
                }
                return Err(self.counted.corrupted(input, total, Fault::ShorterThanStripped));
            }
            return Ok(self.counted.take(input.len(), self.strip, total));
        }
    }

    #[inline]
    fn find_in(&mut self, front: &[u8]) -> Option<Extent> {
        let eight = front.get(self.offset..)?.first_chunk()?;
        let total = self.length(*eight).checked_add_signed(self.extra)?;
        let whole = self.least <= total && total <= self.most && total <= front.len() as u64;
        if !whole || self.counted.is_dropping() {
            return None;
        }
        self.counted.take(front.len(), self.strip, total as usize)
    }

    fn finish(&mut self, input: &LinkBuffer) -> Result<(), FrameError> {
        self.counted.finish(input)
    }
}

impl Default for LengthFieldOptions {
    fn default() -> Self {
        Self {
            width: 4,
            offset: 0,
            adjustment: 0,
            strip: 0,
            order: ByteOrder::Big,
            max: 1 << 20,
            fail_fast: true,
        }
    }
}

/// Checks how many bytes a length has.
fn check_width(codec: &str, width: usize) -> io::Result<()> {
    if matches!(width, 1..=4 | 8) {
        return Ok(());
    }
    Err(refuse(format!("{codec}: width is {width}; it must be 1, 2, 3, 4 or 8 bytes")))
}
