//! What all codecs with a length in their frames share: the position in the stream, and dropping a
//! frame that is too long.

use netpoll_buffer::LinkBuffer;

use crate::{Extent, Fault, FrameError};

/// The state of a decoder that reads lengths.
///
/// ```text
///              the length is more than max
///   reading ───────────────────────────────▶ dropping `left` bytes, as they arrive
///      ▲                                           │ none left
///      └───────────────────────────────────────────┘ reported now, unless it was at once
/// ```
#[derive(Clone, Debug)]
pub(crate) struct Counted {
    max: usize,
    /// Reports a frame that is too long after it was dropped, not when its length was read.
    pub(crate) late: bool,
    /// The position of the input's front in the stream.
    position: u64,
    oversize: Option<Oversize>,
}

/// A frame that is being dropped.
#[derive(Clone, Copy, Debug)]
struct Oversize {
    position: u64,
    /// Counted as `max` counts.
    length: u64,
    left: u64,
}

impl Counted {
    pub(crate) fn new(max: usize) -> Self {
        Self { max, late: false, position: 0, oversize: None }
    }

    #[inline]
    pub(crate) fn max(&self) -> usize {
        self.max
    }

    /// Whether a frame begins at the front of the input: nothing is left to be dropped.
    #[inline]
    pub(crate) fn ready(&mut self, input: &mut LinkBuffer) -> Result<bool, FrameError> {
        match self.oversize {
            None => Ok(true),
            Some(oversize) => self.go_on_dropping(oversize, input),
        }
    }

    /// Whether a frame is being dropped.
    #[inline]
    pub(crate) fn is_dropping(&self) -> bool {
        self.oversize.is_some()
    }

    /// Takes a frame of `total` bytes, if as many are available; its first `stripped` bytes are not
    /// part of the payload.
    #[inline]
    pub(crate) fn take(
        &mut self,
        available: usize,
        stripped: usize,
        total: usize,
    ) -> Option<Extent> {
        if available < total {
            return None;
        }
        self.position += total as u64;
        Some(Extent { header: stripped, payload: total - stripped, trailer: 0 })
    }

    /// Begins to drop a frame of `total` bytes, which `max` counts as `length`.
    #[cold]
    pub(crate) fn too_long(&mut self, total: u64, length: u64) -> Result<(), FrameError> {
        let oversize = Oversize { position: self.position, length, left: total };
        self.oversize = Some(oversize);
        if self.late { Ok(()) } else { Err(self.error(oversize)) }
    }

    /// Drops `n` bytes that have arrived.
    #[cold]
    pub(crate) fn corrupted(
        &mut self,
        input: &mut LinkBuffer,
        n: usize,
        fault: Fault,
    ) -> FrameError {
        let error = FrameError::CorruptedFrame { position: self.position, fault };
        self.drop_front(input, n);
        error
    }

    pub(crate) fn finish(&self, input: &LinkBuffer) -> Result<(), FrameError> {
        let position = self.oversize.map_or(self.position, |oversize| oversize.position);
        match self.position + input.len() as u64 - position {
            0 if self.oversize.is_none() => Ok(()),
            received => Err(FrameError::TruncatedFrame { position, received }),
        }
    }

    #[cold]
    fn go_on_dropping(
        &mut self,
        mut oversize: Oversize,
        input: &mut LinkBuffer,
    ) -> Result<bool, FrameError> {
        let now = usize::try_from(oversize.left).unwrap_or(usize::MAX).min(input.len());
        self.drop_front(input, now);
        oversize.left -= now as u64;
        if oversize.left > 0 {
            self.oversize = Some(oversize);
            return Ok(false);
        }
        self.oversize = None;
        if self.late { Err(self.error(oversize)) } else { Ok(true) }
    }

    fn drop_front(&mut self, input: &mut LinkBuffer, n: usize) {
        input.consume(n);
        self.position += n as u64;
    }

    fn error(&self, Oversize { position, length, .. }: Oversize) -> FrameError {
        FrameError::FrameTooLong { position, length: Some(length), max: self.max }
    }
}
