//! Frames out of a stream: the trait, and a function that waits for the next frame.

use std::io;

use netpoll_buffer::{LinkBuffer, Source};

use crate::{Extent, Frame, FrameError};

/// Finds frames in a stream.
///
/// A decoder sees one stream, all of it, in order: between two calls bytes may be added to `input`,
/// and only frames may take bytes from it. It keeps how far it has looked, what it is dropping and
/// its position in the stream, so each connection has its own. No method waits, blocks or panics,
/// no matter what a peer sent.
///
/// For a protocol of your own, implement [`find`](Self::find) and [`finish`](Self::finish):
///
/// ```
/// use netpoll_buffer::LinkBuffer;
/// use netpoll_codec::{Decode, Extent, FrameError};
///
/// /// Frames of a kind, in one byte, and three bytes or none.
/// #[derive(Clone, Default)]
/// struct Kinds { position: u64 }
///
/// impl Decode for Kinds {
///     fn find(&mut self, input: &mut LinkBuffer) -> Result<Option<Extent>, FrameError> {
///         let payload = match input.chunk().first() {
///             Some(b'A'..=b'Z') => 4,
///             _ => 1,
///         };
///         if input.len() < payload {
///             return Ok(None);
///         }
///         self.position += payload as u64;
///         Ok(Some(Extent { header: 0, payload, trailer: 0 }))
///     }
///
///     fn finish(&mut self, input: &LinkBuffer) -> Result<(), FrameError> {
///         match input.len() as u64 {
///             0 => Ok(()),
///             received => Err(FrameError::TruncatedFrame { position: self.position, received }),
///         }
///     }
/// }
///
/// let (mut kinds, mut input) = (Kinds::default(), LinkBuffer::from("aXYZbcQ"));
/// let mut frames = Vec::new();
/// while let Some(frame) = kinds.decode(&mut input)? {
///     frames.push(frame.into_bytes());
/// }
/// assert_eq!(frames, ["a", "XYZb", "c"]);
/// assert_eq!(kinds.finish(&input).unwrap_err().position(), 6);
/// # std::io::Result::Ok(())
/// ```
pub trait Decode {
    /// Finds the next frame, at the front of [`holder`](Self::holder); `None` when not all of it
    /// has arrived. A frame has at least one byte, in its header, its payload or its trailer. The
    /// caller must take the frame, with [`Frame::new`], as [`decode`](Self::decode) does.
    ///
    /// # Errors
    ///
    /// As [`decode`](Self::decode).
    fn find(&mut self, input: &mut LinkBuffer) -> Result<Option<Extent>, FrameError>;

    /// Finds the next frame if it is correct and lies in one piece at the front of the input; else
    /// [`find`](Self::find) does. A shortcut for most frames: it finds what `find` would, and by
    /// default nothing.
    #[inline]
    fn find_in(&mut self, _front: &[u8]) -> Option<Extent> {
        None
    }

    /// Says whether the stream may end here, behind the last frame that was found.
    ///
    /// # Errors
    ///
    /// [`FrameError::TruncatedFrame`] when it ended inside a frame.
    fn finish(&mut self, input: &LinkBuffer) -> Result<(), FrameError>;

    /// The buffer in which `find` finds frames, at the front: `input`, unless the decoder has one
    /// of its own.
    #[inline]
    fn holder<'a>(&'a mut self, input: &'a mut LinkBuffer) -> &'a mut LinkBuffer {
        input
    }

    /// Lends the next frame; `None` when not all of it has arrived. Call it until it returns
    /// `None`.
    ///
    /// Looks at bytes that have arrived since it was last called, and copies none.
    ///
    /// # Errors
    ///
    /// [`FrameError`] reports a fault once. The decoder has skipped the fault: the next call
    /// decodes what follows.
    #[inline]
    fn decode<'a>(
        &'a mut self,
        input: &'a mut LinkBuffer,
    ) -> Result<Option<Frame<'a>>, FrameError> {
        if let Some(extent) = self.find_in(input.chunk()) {
            return Ok(Some(Frame::new(input, extent)));
        }
        let extent = self.find(input)?;
        Ok(extent.map(|extent| Frame::new(self.holder(input), extent)))
    }

    /// Calls back with the payload of every frame that is there, in order, until none is left or
    /// the callback returns an error.
    ///
    /// Does what [`decode`](Self::decode) and [`Frame::bytes`] do in turn, at less cost where
    /// frames are small: the frames in one block are walked through as in a slice, and consumed
    /// together.
    ///
    /// # Errors
    ///
    /// As [`decode`](Self::decode); and the callback's errors. Decoding can go on behind the frame
    /// of a callback that failed, but not behind that of one that panicked.
    ///
    /// ```
    /// use netpoll_buffer::LinkBuffer;
    /// use netpoll_codec::{Decode, FrameError, LengthPrefix};
    ///
    /// let mut input = LinkBuffer::from("\x02ab\x01c\x05def");
    /// let mut codec = LengthPrefix::new(1, 100)?;
    /// let mut seen = Vec::new();
    /// codec.decode_each(&mut input, |payload| {
    ///     seen.push(payload.to_vec());
    ///     Ok::<(), FrameError>(())
    /// })?;
    /// assert_eq!(seen, [&b"ab"[..], b"c"]);
    /// assert_eq!(input.len(), 4);
    /// # std::io::Result::Ok(())
    /// ```
    #[inline]
    fn decode_each<E>(
        &mut self,
        input: &mut LinkBuffer,
        mut visit: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E>
    where
        E: From<FrameError>,
        Self: Sized,
    {
        loop {
            let mut outcome = Ok(());
            let front = input.chunk();
            let mut rest = front;
            while let Some(extent) = self.find_in(rest) {
                let (frame, behind) = rest.split_at(extent.total());
                assert!(!frame.is_empty(), "a frame has a byte, or it is found for ever");
                let Extent { header, payload, .. } = extent;
                rest = behind;
                outcome = visit(&frame[header..header + payload]);
                if outcome.is_err() {
                    break;
                }
            }
            let walked = front.len() - rest.len();
            input.consume(walked);
            outcome?;
            match self.decode(input)? {
                Some(frame) => visit(frame.bytes())?,
                None => return Ok(()),
            }
        }
    }
}

/// Waits for the next frame of a [`Source`]: a connection's reader, say. `None` is the end of the
/// stream, between two frames.
///
/// For clients, and for callbacks that may block. It waits as the source does: the source decides
/// how long it waits, and whether it does.
///
/// ```
/// use netpoll_buffer::FromRead;
/// use netpoll_codec::{Lines, read_frame};
///
/// let mut source = FromRead::new(&b"one\ntwo\nand so o"[..]);
/// let mut lines = Lines::new(80)?;
/// assert_eq!(read_frame(&mut lines, &mut source)?.expect("one").bytes(), b"one");
/// assert_eq!(read_frame(&mut lines, &mut source)?.expect("two").bytes(), b"two");
/// let error = read_frame(&mut lines, &mut source).unwrap_err();
/// assert_eq!(
///     error.to_string(),
///     "the stream ended inside the frame at byte 8, 8 bytes into it"
/// );
/// # std::io::Result::Ok(())
/// ```
///
/// # Errors
///
/// [`FrameError`], as an [`io::Error`], and any error that keeps the source from reading; the frame
/// then stays in the source, and a later call can wait for it again.
pub fn read_frame<'a, D, S>(decoder: &'a mut D, source: &'a mut S) -> io::Result<Option<Frame<'a>>>
where
    D: Decode + ?Sized,
    S: Source + ?Sized,
{
    let extent = loop {
        if let Some(extent) = decoder.find(source.buffered())? {
            break extent;
        }
        let more = source.buffered().len() + 1;
        match source.require(more) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                decoder.finish(source.buffered())?;
                return Ok(None);
            }
            outcome => outcome?,
        }
    };
    Ok(Some(Frame::new(decoder.holder(source.buffered()), extent)))
}

impl<D: Decode + ?Sized> Decode for &mut D {
    #[inline]
    fn find(&mut self, input: &mut LinkBuffer) -> Result<Option<Extent>, FrameError> {
        (**self).find(input)
    }

    #[inline]
    fn find_in(&mut self, front: &[u8]) -> Option<Extent> {
        (**self).find_in(front)
    }

    fn finish(&mut self, input: &LinkBuffer) -> Result<(), FrameError> {
        (**self).finish(input)
    }

    #[inline]
    fn holder<'a>(&'a mut self, input: &'a mut LinkBuffer) -> &'a mut LinkBuffer {
        (**self).holder(input)
    }
}

impl<D: Decode + ?Sized> Decode for Box<D> {
    #[inline]
    fn find(&mut self, input: &mut LinkBuffer) -> Result<Option<Extent>, FrameError> {
        (**self).find(input)
    }

    #[inline]
    fn find_in(&mut self, front: &[u8]) -> Option<Extent> {
        (**self).find_in(front)
    }

    fn finish(&mut self, input: &LinkBuffer) -> Result<(), FrameError> {
        (**self).finish(input)
    }

    #[inline]
    fn holder<'a>(&'a mut self, input: &'a mut LinkBuffer) -> &'a mut LinkBuffer {
        (**self).holder(input)
    }
}

/// The first of a pair decodes.
impl<D: Decode, E> Decode for (D, E) {
    #[inline]
    fn find(&mut self, input: &mut LinkBuffer) -> Result<Option<Extent>, FrameError> {
        self.0.find(input)
    }

    #[inline]
    fn find_in(&mut self, front: &[u8]) -> Option<Extent> {
        self.0.find_in(front)
    }

    fn finish(&mut self, input: &LinkBuffer) -> Result<(), FrameError> {
        self.0.finish(input)
    }

    #[inline]
    fn holder<'a>(&'a mut self, input: &'a mut LinkBuffer) -> &'a mut LinkBuffer {
        self.0.holder(input)
    }
}
