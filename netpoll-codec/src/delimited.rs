//! Frames that end with a delimiter.

use std::io;
use std::sync::Arc;

use netpoll_buffer::LinkBuffer;

use crate::automaton::{Automaton, Place};
use crate::encode::check_length;
use crate::search::Search;
use crate::terminated::Terminated;
use crate::{Decode, Encode, EncodeError, Extent, FrameError, check_max, refuse};

/// How many bytes all delimiters of a codec may have together.
const DELIMITERS_MAX: usize = 1024;

/// Bytes up to one of some delimiters, which is stripped. netty's `DelimiterBasedFrameDecoder`.
///
/// Of several delimiters the one wins that gives the shortest frame: of `\n` and `\r\n`, say, the
/// latter where both end. A search looks at every byte once: with SIMD for a single delimiter, with
/// an automaton for several, about a byte per nanosecond. The automaton's table takes half a
/// kibibyte for each byte of the delimiters, and clones share it.
///
/// ```
/// use netpoll_buffer::LinkBuffer;
/// use netpoll_codec::{Decode, Delimited};
///
/// let mut codec = Delimited::new(&[b";", b"--end--"], 100)?;
/// let mut input = LinkBuffer::from("one;two--end--three");
/// assert_eq!(codec.decode(&mut input)?.expect("a frame").bytes(), b"one");
/// assert_eq!(codec.decode(&mut input)?.expect("a frame").bytes(), b"two");
/// assert!(codec.decode(&mut input)?.is_none());
/// # std::io::Result::Ok(())
/// ```
#[derive(Clone, Debug)]
pub struct Delimited {
    terminated: Terminated,
    automaton: Arc<Automaton>,
    /// The first delimiter, with which frames are written.
    written: Arc<[u8]>,
}

impl Delimited {
    /// Payloads of at most `max` bytes, without their delimiter. Written with the first one.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](io::ErrorKind::InvalidInput), one sentence, when there is no delimiter, one
    /// is empty, or they have more than 1024 bytes together; when one contains another before its
    /// own end, as `ab` contains `a`, so that it would never be found; when `max` is 0 or above
    /// [`MAX_FRAME`](crate::MAX_FRAME).
    ///
    /// ```
    /// # use netpoll_codec::Delimited;
    /// let error = Delimited::new(&[b"a", b"ab"], 100).unwrap_err();
    /// assert_eq!(
    ///     error.to_string(),
    ///     r#"Delimited: "a" stands in "ab" before its end, so "ab" would never be found"#
    /// );
    /// ```
    pub fn new(delimiters: &[&[u8]], max: usize) -> io::Result<Self> {
        check_max("Delimited", max)?;
        check_delimiters(delimiters)?;
        let automaton = Arc::new(Automaton::new(delimiters));
        let search = match delimiters {
            [one] => Search::One((*one).into()),
            _ => Search::Several {
                automaton: automaton.clone(),
                place: Place::default(),
                looked: 0,
                longest: delimiters.iter().map(|one| one.len()).max().unwrap_or_default(),
            },
        };
        let terminated = Terminated::new(search, max);
        Ok(Self { terminated, automaton, written: delimiters[0].into() })
    }

    /// Leaves the delimiter in the frame.
    #[must_use]
    pub fn keep_delimiter(mut self) -> Self {
        self.terminated.keep = true;
        self
    }

    /// Reports a frame that is too long after it was dropped, not when it became too long.
    #[must_use]
    pub fn fail_late(mut self) -> Self {
        self.terminated.late = true;
        self
    }

    /// Checks that a decoder will read this payload and its delimiter as such.
    fn check<'a>(
        &'a self,
        length: usize,
        pieces: impl Iterator<Item = &'a [u8]>,
    ) -> Result<(), EncodeError> {
        check_length(length, self.terminated.max())?;
        let mut place = Place::default();
        let mut seen = 0;
        for piece in pieces.chain([&*self.written]) {
            if let Some((end, delimiter)) = self.automaton.run(&mut place, piece) {
                let as_written = seen + end == length + self.written.len();
                if as_written && delimiter == self.written.len() {
                    return Ok(());
                }
                return Err(EncodeError::ContainsDelimiter);
            }
            seen += piece.len();
        }
        Ok(())
    }
}

impl Decode for Delimited {
    #[inline]
    fn find(&mut self, input: &mut LinkBuffer) -> Result<Option<Extent>, FrameError> {
        self.terminated.find(input)
    }

    fn finish(&mut self, input: &LinkBuffer) -> Result<(), FrameError> {
        self.terminated.finish(input)
    }
}

impl Encode for Delimited {
    fn encode(&mut self, payload: &[u8], out: &mut LinkBuffer) -> Result<(), EncodeError> {
        self.check(payload.len(), [payload].into_iter())?;
        out.write_bytes(payload);
        out.write_bytes(&self.written);
        Ok(())
    }

    fn encode_buffer(
        &mut self,
        mut payload: LinkBuffer,
        out: &mut LinkBuffer,
    ) -> Result<(), EncodeError> {
        payload.flush();
        self.check(payload.len(), payload.chunks())?;
        out.append(payload);
        out.write_bytes(&self.written);
        Ok(())
    }
}

fn check_delimiters(delimiters: &[&[u8]]) -> io::Result<()> {
    let together: usize = delimiters.iter().map(|one| one.len()).sum();
    if delimiters.iter().any(|one| one.is_empty()) || delimiters.is_empty() {
        return Err(refuse(
            "Delimited: a delimiter has at least one byte, and there is one".into(),
        ));
    }
    if together > DELIMITERS_MAX {
        let sentence = format!("the delimiters have {together} bytes, more than {DELIMITERS_MAX}");
        return Err(refuse(format!("Delimited: {sentence}")));
    }
    for longer in delimiters {
        let front = &longer[..longer.len() - 1];
        let hides = |one: &&&[u8]| front.windows(one.len()).any(|window| window == **one);
        if let Some(shorter) = delimiters.iter().find(hides) {
            let (shorter, longer) = (shorter.escape_ascii(), longer.escape_ascii());
            return Err(refuse(format!(
                "Delimited: \"{shorter}\" stands in \"{longer}\" before its end, \
                 so \"{longer}\" would never be found"
            )));
        }
    }
    Ok(())
}
