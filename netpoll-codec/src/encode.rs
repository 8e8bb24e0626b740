//! Frames into a stream.

use netpoll_buffer::LinkBuffer;

use crate::EncodeError;

/// Writes frames to a stream.
///
/// Written frames are pending until the buffer's `flush`, so many frames leave with one flush. No
/// method waits or blocks.
pub trait Encode {
    /// Writes a copy of `payload` as a frame.
    ///
    /// # Errors
    ///
    /// [`EncodeError`] when the payload can't be a frame, or when the decoder on the other side
    /// would read something else. Nothing was written then.
    fn encode(&mut self, payload: &[u8], out: &mut LinkBuffer) -> Result<(), EncodeError>;

    /// Writes all bytes of `payload`, flushed or not, as a frame, by moving its blocks.
    ///
    /// Copies, unless the codec overrides it, as all codecs of this crate do.
    ///
    /// # Errors
    ///
    /// As [`encode`](Self::encode).
    fn encode_buffer(
        &mut self,
        mut payload: LinkBuffer,
        out: &mut LinkBuffer,
    ) -> Result<(), EncodeError> {
        payload.flush();
        let bytes: Vec<u8> = payload.chunks().flatten().copied().collect();
        self.encode(&bytes, out)
    }
}

impl<E: Encode + ?Sized> Encode for &mut E {
    fn encode(&mut self, payload: &[u8], out: &mut LinkBuffer) -> Result<(), EncodeError> {
        (**self).encode(payload, out)
    }

    fn encode_buffer(
        &mut self,
        payload: LinkBuffer,
        out: &mut LinkBuffer,
    ) -> Result<(), EncodeError> {
        (**self).encode_buffer(payload, out)
    }
}

impl<E: Encode + ?Sized> Encode for Box<E> {
    fn encode(&mut self, payload: &[u8], out: &mut LinkBuffer) -> Result<(), EncodeError> {
        (**self).encode(payload, out)
    }

    fn encode_buffer(
        &mut self,
        payload: LinkBuffer,
        out: &mut LinkBuffer,
    ) -> Result<(), EncodeError> {
        (**self).encode_buffer(payload, out)
    }
}

/// The second of a pair encodes.
impl<D, E: Encode> Encode for (D, E) {
    fn encode(&mut self, payload: &[u8], out: &mut LinkBuffer) -> Result<(), EncodeError> {
        self.1.encode(payload, out)
    }

    fn encode_buffer(
        &mut self,
        payload: LinkBuffer,
        out: &mut LinkBuffer,
    ) -> Result<(), EncodeError> {
        self.1.encode_buffer(payload, out)
    }
}

/// Checks a payload against the longest that the decoder lets pass.
#[inline]
pub(crate) fn check_length(length: usize, max: usize) -> Result<(), EncodeError> {
    if length > max {
        return Err(EncodeError::PayloadTooLong { length, max });
    }
    Ok(())
}
