//! A length as Protocol Buffers write it, then as many bytes.

use std::io;

use netpoll_buffer::LinkBuffer;

use crate::counted::Counted;
use crate::encode::check_length;
use crate::{Decode, Encode, EncodeError, Extent, Fault, FrameError, check_max};

/// Bytes of the longest varint of 32 bits.
const LONGEST: usize = 5;

/// A length as a varint of 32 bits, then as many bytes: how streams of Protocol Buffers messages
/// are delimited (`writeDelimitedTo`).
///
/// Each byte of the varint carries seven bits, the lowest first, and its highest bit says that
/// another follows. A varint that goes on behind 32 bits is [`FrameError::CorruptedFrame`]; one
/// that is longer than necessary is accepted.
///
/// ```
/// use netpoll_buffer::LinkBuffer;
/// use netpoll_codec::{Decode, Encode, VarintLength};
///
/// let mut codec = VarintLength::new(1000)?;
/// let mut stream = LinkBuffer::new();
/// codec.encode(&[b'x'; 300], &mut stream)?;
/// stream.flush();
/// assert_eq!(stream.peek(2)?, [0xAC, 0x02]);
/// assert_eq!(codec.decode(&mut stream)?.expect("a frame").len(), 300);
/// # std::io::Result::Ok(())
/// ```
#[derive(Clone, Debug)]
pub struct VarintLength {
    counted: Counted,
}

/// What the front of a stream holds.
enum Varint {
    /// The length, and how many bytes the varint has.
    Length(u32, usize),
    Incomplete,
    TooLong,
}

impl VarintLength {
    /// Payloads of at most `max` bytes.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](io::ErrorKind::InvalidInput), one sentence, when `max` is 0 or above
    /// [`MAX_FRAME`](crate::MAX_FRAME).
    pub fn new(max: usize) -> io::Result<Self> {
        check_max("VarintLength", max)?;
        Ok(Self { counted: Counted::new(max) })
    }

    /// Reports a frame that is too long after it was dropped, not when its length was read.
    #[must_use]
    pub fn fail_late(mut self) -> Self {
        self.counted.late = true;
        self
    }

    /// The varint in front of a payload of this length: five bytes, and how many of them.
    fn prefix(&self, length: usize) -> Result<([u8; LONGEST], usize), EncodeError> {
        check_length(length, self.counted.max())?;
        let mut bytes = [0; LONGEST];
        let (mut left, mut used) = (length, 0);
        loop {
            bytes[used] = (left & 0x7F) as u8;
            left >>= 7;
            if left == 0 {
                return Ok((bytes, used + 1));
            }
            bytes[used] |= 0x80;
            used += 1;
        }
    }
}

impl Decode for VarintLength {
    #[inline]
    fn find(&mut self, input: &mut LinkBuffer) -> Result<Option<Extent>, FrameError> {
        loop {
            if !self.counted.ready(input)? {
                return Ok(None);
            }
            let (length, header) = match varint(input.chunks().flatten().copied()) {
                Varint::Length(length, header) => (length, header),
                Varint::Incomplete => return Ok(None),
                Varint::TooLong => {
                    return Err(self.counted.corrupted(input, LONGEST, Fault::LongVarint));
                }
            };
            let total = header as u64 + u64::from(length);
            if u64::from(length) > self.counted.max() as u64 {
                self.counted.too_long(total, length.into())?;
                continue;
            }
            return Ok(self.counted.take(input.len(), header, total as usize));
        }
    }

    fn finish(&mut self, input: &LinkBuffer) -> Result<(), FrameError> {
        self.counted.finish(input)
    }
}

impl Encode for VarintLength {
    fn encode(&mut self, payload: &[u8], out: &mut LinkBuffer) -> Result<(), EncodeError> {
        let (bytes, used) = self.prefix(payload.len())?;
        out.write_bytes(&bytes[..used]);
        out.write_bytes(payload);
        Ok(())
    }

    fn encode_buffer(
        &mut self,
        mut payload: LinkBuffer,
        out: &mut LinkBuffer,
    ) -> Result<(), EncodeError> {
        payload.flush();
        let (bytes, used) = self.prefix(payload.len())?;
        out.write_bytes(&bytes[..used]);
        out.append(payload);
        Ok(())
    }
}

#[inline]
fn varint(bytes: impl Iterator<Item = u8>) -> Varint {
    let mut length = 0;
    for (index, byte) in bytes.take(LONGEST).enumerate() {
        // The fifth byte has room for four bits, and none follows it.
        if index == LONGEST - 1 && byte > 0x0F {
            return Varint::TooLong;
        }
        length |= u32::from(byte & 0x7F) << (7 * index);
        if byte < 0x80 {
            return Varint::Length(length, index + 1);
        }
    }
    Varint::Incomplete
}
