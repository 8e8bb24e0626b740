//! Frames within frames.

use netpoll_buffer::LinkBuffer;

use crate::{Decode, Encode, EncodeError, Extent, Frame, FrameError};

/// A codec over another: the payloads of `outer`, one behind the other, are the stream of `inner`.
///
/// ```text
///   input     ┌─┬───────────┬─┬─────────┬─┬──────
///   (outer)   │3│ G E T     │5│ \n P U T│…│
///             └─┴───────────┴─┴─────────┴─┴──────
///                    │ blocks move, bytes don't
///   between   ┌─────────────┬───────────────┐
///   (inner)   │ G E T \n    │ P U T …       │
///             └─────────────┴───────────────┘
/// ```
///
/// So an inner frame may span several outer ones, and an outer one may hold several; decoding takes
/// the next outer frame only when no inner frame is left, and at most one frame of each codec is
/// buffered. The positions in the errors of `inner` count the bytes of its own stream.
///
/// Encoding puts each inner frame into an outer one.
///
/// ```
/// use netpoll_buffer::LinkBuffer;
/// use netpoll_codec::{Decode, LengthPrefix, Lines, Over};
///
/// let mut codec = Over::new(LengthPrefix::new(1, 100)?, Lines::new(80)?);
/// let mut input = LinkBuffer::from("\x03one\x05\ntwo\n");
/// assert_eq!(codec.decode(&mut input)?.expect("a line").bytes(), b"one");
/// assert_eq!(codec.decode(&mut input)?.expect("a line").bytes(), b"two");
/// # std::io::Result::Ok(())
/// ```
#[derive(Debug)]
pub struct Over<O, I> {
    outer: O,
    inner: I,
    /// The part of `inner`'s stream that has arrived and was not decoded.
    between: LinkBuffer,
}

impl<O, I> Over<O, I> {
    /// Frames of `inner` in the payloads of `outer`.
    pub const fn new(outer: O, inner: I) -> Self {
        Self { outer, inner, between: LinkBuffer::new() }
    }
}

/// For another stream: bytes that this one has begun to read are not cloned.
impl<O: Clone, I: Clone> Clone for Over<O, I> {
    fn clone(&self) -> Self {
        Self::new(self.outer.clone(), self.inner.clone())
    }
}

impl<O: Decode, I: Decode> Decode for Over<O, I> {
    fn find(&mut self, input: &mut LinkBuffer) -> Result<Option<Extent>, FrameError> {
        loop {
            if let Some(extent) = self.inner.find(&mut self.between)? {
                return Ok(Some(extent));
            }
            let Some(extent) = self.outer.find(input)? else {
                return Ok(None);
            };
            let payload = Frame::new(self.outer.holder(input), extent).into_buffer();
            self.between.append(payload);
            self.between.flush();
        }
    }

    fn finish(&mut self, input: &LinkBuffer) -> Result<(), FrameError> {
        self.outer.finish(input)?;
        self.inner.finish(&self.between)
    }

    fn holder<'a>(&'a mut self, _: &'a mut LinkBuffer) -> &'a mut LinkBuffer {
        self.inner.holder(&mut self.between)
    }
}

impl<O: Encode, I: Encode> Encode for Over<O, I> {
    fn encode(&mut self, payload: &[u8], out: &mut LinkBuffer) -> Result<(), EncodeError> {
        let mut frame = LinkBuffer::new();
        self.inner.encode(payload, &mut frame)?;
        self.outer.encode_buffer(frame, out)
    }

    fn encode_buffer(
        &mut self,
        payload: LinkBuffer,
        out: &mut LinkBuffer,
    ) -> Result<(), EncodeError> {
        let mut frame = LinkBuffer::new();
        self.inner.encode_buffer(payload, &mut frame)?;
        self.outer.encode_buffer(frame, out)
    }
}
