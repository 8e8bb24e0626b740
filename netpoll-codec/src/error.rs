//! What can be wrong with a stream of frames, and with a payload to encode.

use std::{error, fmt, io};

/// What is wrong with a stream, and where.
///
/// Positions count the bytes of the stream that the decoder was given, from 0. The decoder has
/// skipped the fault when it reports it, so decoding can go on; whether the rest makes sense
/// depends on the protocol. Becomes an [`io::Error`] of kind
/// [`InvalidData`](io::ErrorKind::InvalidData).
///
/// ```
/// use netpoll_buffer::LinkBuffer;
/// use netpoll_codec::{Decode, FrameError, Lines};
///
/// let mut lines = Lines::new(5)?;
/// let mut input = LinkBuffer::from("much too long\nshort\n");
/// let error = lines.decode(&mut input).unwrap_err();
/// assert_eq!(error, FrameError::FrameTooLong { position: 0, length: None, max: 5 });
/// let next = lines.decode(&mut input)?.map(|frame| frame.bytes());
/// assert_eq!(next, Some(&b"short"[..]));
/// # std::io::Result::Ok(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FrameError {
    /// A frame is longer than the codec lets pass. Its bytes are dropped as they arrive, it is
    /// reported once, and the frames behind it are decoded.
    FrameTooLong {
        /// Where the frame begins.
        position: u64,
        /// How long it is, as `max` counts; `None` if the decoder did not wait for its end.
        length: Option<u64>,
        /// How long it may be.
        max: usize,
    },
    /// The bytes can't be a frame.
    CorruptedFrame {
        /// Where the frame begins.
        position: u64,
        /// What is wrong with it.
        fault: Fault,
    },
    /// The stream ended inside a frame.
    TruncatedFrame {
        /// Where the frame begins.
        position: u64,
        /// How many bytes of it have come.
        received: u64,
    },
}

/// What is wrong with a corrupted frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// A length of 8 bytes is 2⁶³ or more, which is a negative number where lengths are signed. The
    /// header was dropped.
    NegativeLength,
    /// The length, adjusted, says that the frame ends before its length field does. The header was
    /// dropped.
    ShorterThanHeader,
    /// The frame has fewer bytes than the decoder strips from its front. The frame was dropped.
    ShorterThanStripped,
    /// A varint goes on behind 32 bits. Its five bytes were dropped.
    LongVarint,
}

/// Why a payload can't be sent as a frame. Nothing of it was written.
///
/// Becomes an [`io::Error`] of kind [`InvalidInput`](io::ErrorKind::InvalidInput).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum EncodeError {
    /// The payload is longer than the codec lets pass.
    PayloadTooLong {
        /// How long it is.
        length: usize,
        /// How long it may be.
        max: usize,
    },
    /// The payload isn't as long as all frames of the codec are.
    WrongLength {
        /// How long it is.
        length: usize,
        /// How long it must be.
        expected: usize,
    },
    /// The length does not fit into its field.
    LengthOutOfRange {
        /// The length.
        length: u64,
        /// How many bytes the field has.
        width: usize,
    },
    /// The payload together with the delimiter behind it contains a delimiter that ends earlier:
    /// the other side would cut the frame in two.
    ContainsDelimiter,
}

impl FrameError {
    /// Where the faulty frame begins in the stream, in bytes.
    ///
    /// ```
    /// # use netpoll_codec::FrameError;
    /// let error = FrameError::TruncatedFrame { position: 68, received: 3 };
    /// assert_eq!(error.position(), 68);
    /// ```
    pub fn position(&self) -> u64 {
        match *self {
            Self::FrameTooLong { position, .. }
            | Self::CorruptedFrame { position, .. }
            | Self::TruncatedFrame { position, .. } => position,
        }
    }
}

impl fmt::Display for FrameError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::FrameTooLong { position, length: Some(length), max } => write!(
                out,
                "the frame at byte {position} of the stream has {length} bytes, more than {max}"
            ),
            Self::FrameTooLong { position, length: None, max } => {
                write!(out, "the frame at byte {position} of the stream has more than {max} bytes")
            }
            Self::CorruptedFrame { position, fault } => {
                write!(out, "the frame at byte {position} of the stream is corrupted: {fault}")
            }
            Self::TruncatedFrame { position, received } => write!(
                out,
                "the stream ended inside the frame at byte {position}, {received} bytes into it"
            ),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::NegativeLength => "its length is negative",
            Self::ShorterThanHeader => "by its length it ends inside its header",
            Self::ShorterThanStripped => "it has fewer bytes than are to be stripped",
            Self::LongVarint => "its length is a varint of more than 32 bits",
        })
    }
}

impl fmt::Display for EncodeError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::PayloadTooLong { length, max } => {
                write!(out, "a payload of {length} bytes is longer than a frame may be, {max}")
            }
            Self::WrongLength { length, expected } => {
                write!(out, "a payload of {length} bytes, where all frames have {expected}")
            }
            Self::LengthOutOfRange { length, width } => {
                write!(out, "the length {length} can't be said in {width} bytes")
            }
            Self::ContainsDelimiter => {
                out.write_str("the payload holds a delimiter, so it would be cut in two")
            }
        }
    }
}

impl error::Error for FrameError {}

impl error::Error for EncodeError {}

impl From<FrameError> for io::Error {
    fn from(error: FrameError) -> Self {
        // Also for an end inside a frame: `UnexpectedEof` could be taken for an orderly end.
        Self::new(io::ErrorKind::InvalidData, error)
    }
}

impl From<EncodeError> for io::Error {
    fn from(error: EncodeError) -> Self {
        Self::new(io::ErrorKind::InvalidInput, error)
    }
}
