//! Lines of text.

use std::io;

use netpoll_buffer::LinkBuffer;

use crate::encode::check_length;
use crate::search::Search;
use crate::terminated::Terminated;
use crate::{Decode, Encode, EncodeError, Extent, FrameError, check_max};

/// Lines: bytes up to `\n` or `\r\n`, which is stripped. netty's `LineBasedFrameDecoder`.
///
/// All other bytes may be in a line; the codec does not check whether they are text. A search for
/// the end looks at every byte once.
///
/// ```
/// use netpoll_buffer::LinkBuffer;
/// use netpoll_codec::{Decode, Lines};
///
/// let (mut lines, mut input) = (Lines::new(80)?, LinkBuffer::from("one\r\n\ntwo"));
/// assert_eq!(lines.decode(&mut input)?.expect("a line").bytes(), b"one");
/// assert_eq!(lines.decode(&mut input)?.expect("a line").bytes(), b"");
/// assert!(lines.decode(&mut input)?.is_none());
/// # std::io::Result::Ok(())
/// ```
#[derive(Clone, Debug)]
pub struct Lines {
    terminated: Terminated,
    ending: &'static [u8],
}

impl Lines {
    /// Lines of at most `max` bytes, without their ending. Written with `\n`.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](io::ErrorKind::InvalidInput), one sentence, when `max` is 0 or above
    /// [`MAX_FRAME`](crate::MAX_FRAME).
    pub fn new(max: usize) -> io::Result<Self> {
        check_max("Lines", max)?;
        Ok(Self { terminated: Terminated::new(Search::Newline, max), ending: b"\n" })
    }

    /// Leaves the ending in the line.
    #[must_use]
    pub fn keep_ending(mut self) -> Self {
        self.terminated.keep = true;
        self
    }

    /// Writes lines with `\r\n`.
    #[must_use]
    pub fn crlf(mut self) -> Self {
        self.ending = b"\r\n";
        self
    }

    /// Reports a line that is too long after it was dropped, not when it became too long.
    #[must_use]
    pub fn fail_late(mut self) -> Self {
        self.terminated.late = true;
        self
    }

    fn check(&self, length: usize, newline: bool, last: Option<u8>) -> Result<(), EncodeError> {
        check_length(length, self.terminated.max())?;
        if newline || (last == Some(b'\r') && self.ending == b"\n") {
            return Err(EncodeError::ContainsDelimiter);
        }
        Ok(())
    }
}

impl Decode for Lines {
    #[inline]
    fn find(&mut self, input: &mut LinkBuffer) -> Result<Option<Extent>, FrameError> {
        self.terminated.find(input)
    }

    fn finish(&mut self, input: &LinkBuffer) -> Result<(), FrameError> {
        self.terminated.finish(input)
    }
}

impl Encode for Lines {
    fn encode(&mut self, payload: &[u8], out: &mut LinkBuffer) -> Result<(), EncodeError> {
        self.check(payload.len(), payload.contains(&b'\n'), payload.last().copied())?;
        out.write_bytes(payload);
        out.write_bytes(self.ending);
        Ok(())
    }

    fn encode_buffer(
        &mut self,
        mut payload: LinkBuffer,
        out: &mut LinkBuffer,
    ) -> Result<(), EncodeError> {
        payload.flush();
        let newline = payload.find(b'\n').is_some();
        let last = payload.chunks().last().and_then(|chunk| chunk.last()).copied();
        self.check(payload.len(), newline, last)?;
        out.append(payload);
        out.write_bytes(self.ending);
        Ok(())
    }
}
