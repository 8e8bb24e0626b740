//! Frames that all have the same length.

use std::io;

use netpoll_buffer::LinkBuffer;

use crate::counted::Counted;
use crate::{Decode, Encode, EncodeError, Extent, FrameError, check_max};

/// Frames of a fixed number of bytes, one behind the other.
///
/// ```
/// use netpoll_buffer::LinkBuffer;
/// use netpoll_codec::{Decode, FixedLength};
///
/// let (mut codec, mut input) = (FixedLength::new(3)?, LinkBuffer::from("abcdefgh"));
/// assert_eq!(codec.decode(&mut input)?.expect("a frame").bytes(), b"abc");
/// assert_eq!(codec.decode(&mut input)?.expect("a frame").bytes(), b"def");
/// assert!(codec.decode(&mut input)?.is_none());
/// # std::io::Result::Ok(())
/// ```
#[derive(Clone, Debug)]
pub struct FixedLength {
    counted: Counted,
}

impl FixedLength {
    /// Frames of `length` bytes.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](io::ErrorKind::InvalidInput), one sentence, when `length` is 0 or above
    /// [`MAX_FRAME`](crate::MAX_FRAME).
    pub fn new(length: usize) -> io::Result<Self> {
        check_max("FixedLength", length)?;
        Ok(Self { counted: Counted::new(length) })
    }

    fn check(&self, length: usize) -> Result<(), EncodeError> {
        let expected = self.counted.max();
        if length != expected {
            return Err(EncodeError::WrongLength { length, expected });
        }
        Ok(())
    }
}

impl Decode for FixedLength {
    #[inline]
    fn find(&mut self, input: &mut LinkBuffer) -> Result<Option<Extent>, FrameError> {
        Ok(self.counted.take(input.len(), 0, self.counted.max()))
    }

    fn finish(&mut self, input: &LinkBuffer) -> Result<(), FrameError> {
        self.counted.finish(input)
    }
}

impl Encode for FixedLength {
    fn encode(&mut self, payload: &[u8], out: &mut LinkBuffer) -> Result<(), EncodeError> {
        self.check(payload.len())?;
        out.write_bytes(payload);
        Ok(())
    }

    fn encode_buffer(
        &mut self,
        mut payload: LinkBuffer,
        out: &mut LinkBuffer,
    ) -> Result<(), EncodeError> {
        payload.flush();
        self.check(payload.len())?;
        out.append(payload);
        Ok(())
    }
}
