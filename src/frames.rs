//! A server on frames: `on_request` made of a codec and of what is to be done with each frame.
//!
//! It stands in the face because nothing below may know both sides: codecs know no connection, and
//! a server needs no codec.

use std::fmt;
use std::io;
use std::ops::{Deref, DerefMut};

use netpoll_buffer::{LinkBuffer, Source};
use netpoll_codec::{Decode, Encode, Frame};
use netpoll_core::{Connection, Error, OnRequest, Result, Writer};

/// Answers are sent when this many bytes of them have gathered, in bytes, though more frames are
/// there: what one arrival makes a callback write must not grow without a bound.
const GATHERED_MAX: usize = 64 << 10;

/// An [`OnRequest`] that calls back for each frame that has arrived.
///
/// Each connection decodes and encodes with clones of `codec`, kept in its session, which
/// therefore is a [`Framed`]. Frames are lent out of the connection's buffer; what is sent gathers,
/// and leaves with one flush when no whole frame is left, or 64 KiB are due. While the peer does
/// not read its answers no frame of it is decoded.
///
/// The callback runs where the dispatch mode says, and may block where that mode allows it.
///
/// # Errors
///
/// The connection is closed with that reason, [`CloseReason::Callback`](crate::CloseReason) or a
/// limit's or a timeout's own, after what was sent before is sent, when
///
/// - the callback returns an error. [`Error::WouldBlock`] only ends this round, as it does in every
///   `on_request`; the frame is consumed all the same.
/// - a frame is too long or corrupted, or the peer ends its stream inside one: an [`Error::Io`] of
///   kind `InvalidData` with the [`FrameError`](crate::codec::FrameError) in it.
/// - a frame does not fit into the connection's input limit, whatever the codec lets pass:
///   [`Error::InputLimit`].
///
/// ```
/// use netpoll::codec::{Frame, LengthPrefix};
/// use netpoll::{Connection, EventLoop, Framed, Out, on_frame};
///
/// let codec = LengthPrefix::new(4, 64 << 10)?;
/// let event_loop = EventLoop::builder()
///     .on_prepare(|_: &Connection| Ok(Framed::new(0_u64)))
///     .on_request(on_frame(codec, |count: &mut u64, frame: Frame<'_>, out: &mut Out<'_, _>| {
///         *count += 1;
///         out.send(frame.bytes())
///     }))
///     .build()?;
/// # Ok::<(), netpoll::Error>(())
/// ```
pub fn on_frame<C, S, F>(codec: C, callback: F) -> impl OnRequest<Framed<C, S>>
where
    C: Decode + Encode + Clone + Send + Sync + 'static,
    F: Fn(&mut S, Frame<'_>, &mut Out<'_, C>) -> Result<()> + Send + Sync + 'static,
{
    move |framed: &mut Framed<C, S>, conn: &mut Connection| {
        let Framed { session, codecs } = framed;
        let codecs = codecs.get_or_insert_with(|| (codec.clone(), codec.clone()));
        serve(session, codecs, conn, &callback)
    }
}

/// The session of a connection that is served by [`on_frame`]: yours, to which it dereferences, and
/// the codec's state.
pub struct Framed<C, S = ()> {
    session: S,
    /// One decodes, one encodes. Cloned when the first bytes arrive.
    codecs: Option<(C, C)>,
}

/// Where frames are sent to.
pub struct Out<'a, C> {
    writer: Writer<'a>,
    encoder: &'a mut C,
    closing: bool,
}

impl<C, S> Framed<C, S> {
    /// With this session.
    pub const fn new(session: S) -> Self {
        Self { session, codecs: None }
    }

    /// The session, as `on_disconnect` may want it.
    pub fn into_session(self) -> S {
        self.session
    }
}

impl<C: Encode> Out<'_, C> {
    /// Sends a copy of `payload` as a frame, when the callbacks of this round are done.
    ///
    /// # Errors
    /// [`Error::Io`] of kind `InvalidInput`, with the [`EncodeError`](crate::codec::EncodeError) in
    /// it, when it can't be a frame. Nothing of it was written.
    pub fn send(&mut self, payload: &[u8]) -> Result<()> {
        Ok(self.encoder.encode(payload, self.writer.buf()).map_err(io::Error::from)?)
    }

    /// Sends all bytes of `payload` as a frame, by moving its blocks.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    pub fn send_buffer(&mut self, payload: LinkBuffer) -> Result<()> {
        Ok(self.encoder.encode_buffer(payload, self.writer.buf()).map_err(io::Error::from)?)
    }
}

impl<'a, C> Out<'a, C> {
    /// Closes the connection in order behind what was sent: no further frame is decoded.
    pub fn close(&mut self) {
        self.closing = true;
    }

    /// The connection's writer, for bytes that are no frame.
    pub fn writer(&mut self) -> &mut Writer<'a> {
        &mut self.writer
    }
}

/// Why decoding paused.
enum Pause {
    /// No whole frame is left.
    Drained,
    /// The peer does not read.
    Congested,
    Closing,
}

fn serve<C, S>(
    session: &mut S,
    codecs: &mut (C, C),
    conn: &mut Connection,
    callback: &impl Fn(&mut S, Frame<'_>, &mut Out<'_, C>) -> Result<()>,
) -> Result<()>
where
    C: Decode + Encode,
{
    loop {
        match decode(session, codecs, conn, callback)? {
            Pause::Closing => {
                conn.close();
                return Ok(());
            }
            Pause::Congested => {
                // The frames that are buffered bring no event: this one is kept until the peer
                // has read.
                conn.handle().wake();
                return Ok(());
            }
            Pause::Drained => {
                if !more(&mut codecs.0, conn)? {
                    return Ok(());
                }
            }
        }
    }
}

/// Decodes frames and calls back for each.
fn decode<C, S>(
    session: &mut S,
    (decoder, encoder): &mut (C, C),
    conn: &mut Connection,
    callback: &impl Fn(&mut S, Frame<'_>, &mut Out<'_, C>) -> Result<()>,
) -> Result<Pause>
where
    C: Decode + Encode,
{
    let (mut reader, writer) = conn.split();
    let mut out = Out { writer, encoder, closing: false };
    loop {
        let outcome = match decoder.decode(reader.buffered()) {
            Ok(Some(frame)) => callback(session, frame, &mut out),
            Ok(None) => return Ok(Pause::Drained),
            Err(error) => Err(io::Error::from(error).into()),
        };
        if let Err(error) = outcome {
            // What came before it is answered, however the peer's bytes happened to arrive.
            let _ = out.writer.flush();
            return Err(error);
        }
        if out.closing {
            return Ok(Pause::Closing);
        }
        if out.writer.malloc_len() >= GATHERED_MAX {
            out.writer.flush()?;
        }
        if out.writer.is_congested() {
            return Ok(Pause::Congested);
        }
    }
}

/// Whether there is more to decode though no whole frame was buffered. Says so if there never will
/// be: the peer has ended its stream inside a frame, or the frame can't be buffered.
fn more(decoder: &mut impl Decode, conn: &mut Connection) -> Result<bool> {
    let peer_is_there = conn.is_active();
    let (mut reader, mut writer) = conn.split();
    let buffered = reader.len();
    if buffered == 0 || (peer_is_there && buffered < reader.limit()) {
        return Ok(false);
    }
    let outcome = match reader.try_peek(buffered + 1) {
        Ok(_) => return Ok(true),
        Err(Error::WouldBlock) => return Ok(false),
        Err(Error::EndOfStream) => match decoder.finish(reader.buffered()) {
            Ok(()) => return Ok(false),
            Err(torn) => io::Error::from(torn).into(),
        },
        Err(error) => error,
    };
    let _ = writer.flush();
    Err(outcome)
}

impl<C, S> Deref for Framed<C, S> {
    type Target = S;

    fn deref(&self) -> &S {
        &self.session
    }
}

impl<C, S> DerefMut for Framed<C, S> {
    fn deref_mut(&mut self) -> &mut S {
        &mut self.session
    }
}

impl<C, S: fmt::Debug> fmt::Debug for Framed<C, S> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Framed").field("session", &self.session).finish_non_exhaustive()
    }
}

impl<C> fmt::Debug for Out<'_, C> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Out").field("writer", &self.writer).finish_non_exhaustive()
    }
}
