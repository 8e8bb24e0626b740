//! What lines and delimited frames share: payloads that end at a delimiter.

use netpoll_buffer::LinkBuffer;

use crate::search::{Ending, Search};
use crate::{Extent, FrameError};

/// The state of a decoder that looks for delimiters.
///
/// ```text
///              no delimiter can begin within max
///   looking ─────────────────────────────────────▶ dropping, as it arrives
///      ▲                                                 │ a delimiter
///      └─────────────────────────────────────────────────┘ reported now, unless it was at once
/// ```
///
/// A frame is too long for certain once as many bytes have come as the longest payload and a
/// delimiter have, without a delimiter in them. Not before: the last bytes may be the beginning of
/// one.
#[derive(Clone, Debug)]
pub(crate) struct Terminated {
    search: Search,
    max: usize,
    /// Leaves the delimiter in the frame.
    pub(crate) keep: bool,
    /// Reports a frame that is too long after it was dropped, not when it became too long.
    pub(crate) late: bool,
    /// The position of the input's front in the stream.
    position: u64,
    /// Where the frame that is being dropped began.
    dropping: Option<u64>,
}

impl Terminated {
    pub(crate) fn new(search: Search, max: usize) -> Self {
        Self { search, max, keep: false, late: false, position: 0, dropping: None }
    }

    pub(crate) fn max(&self) -> usize {
        self.max
    }

    #[inline]
    pub(crate) fn find(&mut self, input: &mut LinkBuffer) -> Result<Option<Extent>, FrameError> {
        loop {
            let Some(Ending { payload, delimiter }) = self.search.find(input) else {
                return self.not_yet(input);
            };
            if self.dropping.is_none() && payload <= self.max {
                self.position += (payload + delimiter) as u64;
                return Ok(Some(if self.keep {
                    Extent { header: 0, payload: payload + delimiter, trailer: 0 }
                } else {
                    Extent { header: 0, payload, trailer: delimiter }
                }));
            }
            self.too_long(input, payload, delimiter)?;
        }
    }

    pub(crate) fn finish(&self, input: &LinkBuffer) -> Result<(), FrameError> {
        let position = self.dropping.unwrap_or(self.position);
        match self.position + input.len() as u64 - position {
            0 => Ok(()),
            received => Err(FrameError::TruncatedFrame { position, received }),
        }
    }

    /// Drops the end of a frame that is too long, and reports it unless that was done.
    #[cold]
    fn too_long(
        &mut self,
        input: &mut LinkBuffer,
        payload: usize,
        delimiter: usize,
    ) -> Result<(), FrameError> {
        let told = self.dropping.is_some() && !self.late;
        let begin = self.dropping.take().unwrap_or(self.position);
        let length = self.position + payload as u64 - begin;
        self.drop_front(input, payload + delimiter);
        if told { Ok(()) } else { Err(self.error(begin, length)) }
    }

    /// No delimiter has come: drops the bytes that can't be part of a frame.
    fn not_yet(&mut self, input: &mut LinkBuffer) -> Result<Option<Extent>, FrameError> {
        let longest = self.search.longest();
        let overdue = self.dropping.is_none() && input.len() >= self.max + longest;
        if overdue {
            self.dropping = Some(self.position);
        }
        if let Some(begin) = self.dropping {
            // The bytes left may be the beginning of a delimiter.
            let dropped = (input.len() + 1).saturating_sub(longest);
            self.drop_front(input, dropped);
            self.search.consumed(dropped);
            if overdue && !self.late {
                return Err(self.error(begin, 0));
            }
        }
        Ok(None)
    }

    fn drop_front(&mut self, input: &mut LinkBuffer, n: usize) {
        input.consume(n);
        self.position += n as u64;
    }

    fn error(&self, position: u64, length: u64) -> FrameError {
        // Reported at once, perhaps before the end has come, so the length is left out: any split
        // gives the same error.
        let length = self.late.then_some(length);
        FrameError::FrameTooLong { position, length, max: self.max }
    }
}
