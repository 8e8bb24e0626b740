//! A server on frames: `on_request` made of a codec and of what is to be done with each frame.
//!
//! It stands in the face because nothing below may know both sides: codecs know no connection, and
//! a server needs no codec.

mod replies;
mod reply;
mod round;

use std::fmt;
use std::io;
use std::marker::PhantomData;
use std::mem;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use netpoll_buffer::LinkBuffer;
use netpoll_codec::{Decode, Encode, EncodeError, Frame};
use netpoll_core::{Connection, Handle, HandleSource, OnRequest, Result, Writer};

use replies::{Replies, ReplyOptions};
pub use reply::Reply;

/// How many replies of one connection may be outstanding, if the user does not say.
const OUTSTANDING_MAX: usize = 256;

/// An [`OnRequest`] that calls back for each frame that has arrived.
///
/// Each connection decodes and encodes with clones of `codec`, kept in its session, which
/// therefore is a [`Framed`]. Frames are lent out of the connection's buffer; what is sent gathers,
/// and leaves with one flush when no whole frame is left, or 64 KiB are due. While the peer does
/// not read its answers no frame of it is decoded.
///
/// The callback runs where the dispatch mode says, and may block where that mode allows it. The
/// frames of the same connection wait for it meanwhile, unless it [defers](Out::defer) its answer.
///
/// # Errors
///
/// The connection is closed with that reason, [`CloseReason::Callback`](crate::CloseReason) or a
/// limit's or a timeout's own, after what was sent before is sent, when
///
/// - the callback returns an error. [`Error::WouldBlock`](crate::Error::WouldBlock) only ends this
///   round, as it does in every `on_request`; the frame is consumed all the same.
/// - a frame is too long or corrupted, or the peer ends its stream inside one: an
///   [`Error::Io`](crate::Error::Io) of kind `InvalidData` with the
///   [`FrameError`](crate::codec::FrameError) in it.
/// - a frame does not fit into the connection's input limit, whatever the codec lets pass:
///   [`Error::InputLimit`](crate::Error::InputLimit).
///
/// Replies that are outstanding are not waited for then.
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
pub fn on_frame<C, S, F>(codec: C, callback: F) -> OnFrame<C, S, F>
where
    C: Decode + Encode + Clone + Send + Sync + 'static,
    F: Fn(&mut S, Frame<'_>, &mut Out<'_, C>) -> Result<()> + Send + Sync + 'static,
{
    let options = ReplyOptions { outstanding_max: OUTSTANDING_MAX, in_order: false };
    OnFrame { codec, callback, options, session: PhantomData }
}

/// What [`on_frame`] returns: an [`OnRequest`], with options for [deferred](Out::defer) replies.
pub struct OnFrame<C, S, F> {
    codec: C,
    callback: F,
    options: ReplyOptions,
    session: PhantomData<fn(&mut S)>,
}

impl<C, S, F> OnFrame<C, S, F> {
    /// Has frames leave in the order of the calls of [`Out::send`] and [`Out::defer`], for
    /// protocols that put no id into answers. A reply that is completed early waits in memory for
    /// those before it. While more bytes wait than the output's high-water mark allows, no further
    /// frame is decoded. Default: a frame leaves when it is sent.
    #[must_use]
    pub fn in_order(mut self) -> Self {
        self.options.in_order = true;
        self
    }

    /// How many replies of one connection may be outstanding; 0 counts as 1. At this number nothing
    /// is received from the peer and no frame of it is decoded, until one is completed. Default
    /// 256.
    #[must_use]
    pub fn max_outstanding(mut self, replies: usize) -> Self {
        self.options.outstanding_max = replies.max(1);
        self
    }
}

impl<C, S, F> OnRequest<Framed<C, S>> for OnFrame<C, S, F>
where
    C: Decode + Encode + Clone + Send + Sync + 'static,
    S: 'static,
    F: Fn(&mut S, Frame<'_>, &mut Out<'_, C>) -> Result<()> + Send + Sync + 'static,
{
    fn on_request(&self, framed: &mut Framed<C, S>, conn: &mut Connection) -> Result<()> {
        let Framed { session, state } = framed;
        let state = state.get_or_insert_with(|| FrameState {
            decoder: self.codec.clone(),
            encoder: self.codec.clone(),
            replies: None,
            is_closing: false,
        });
        round::serve(session, state, self.options, conn, &self.callback)
    }
}

/// The session of a connection that is served by [`on_frame`]: yours, to which it dereferences, and
/// the codec's state.
pub struct Framed<C, S = ()> {
    session: S,
    /// Made when the first bytes arrive.
    state: Option<FrameState<C>>,
}

struct FrameState<C> {
    decoder: C,
    encoder: C,
    /// Made when the first reply is deferred.
    replies: Option<Arc<Replies>>,
    /// The callback has closed the connection, which waits for its replies.
    is_closing: bool,
}

/// Where frames are sent to.
pub struct Out<'a, C> {
    writer: Writer<'a>,
    encoder: &'a mut C,
    replies: &'a mut Option<Arc<Replies>>,
    handles: HandleSource<'a>,
    options: ReplyOptions,
    closing: bool,
}

impl<C, S> Framed<C, S> {
    /// With this session.
    pub const fn new(session: S) -> Self {
        Self { session, state: None }
    }

    /// The session, as `on_disconnect` may want it.
    pub fn into_session(self) -> S {
        self.session
    }
}

impl<C> FrameState<C> {
    fn must_wait(&self) -> bool {
        self.replies.as_ref().is_some_and(|replies| replies.must_wait())
    }
}

impl<C: Encode> Out<'_, C> {
    /// Sends a copy of `payload` as a frame, when the callbacks of this round are done.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io) of kind `InvalidInput`, with the
    /// [`EncodeError`](crate::codec::EncodeError) in it, when it can't be a frame. Nothing of it
    /// was written.
    pub fn send(&mut self, payload: &[u8]) -> Result<()> {
        self.write(|encoder, out| encoder.encode(payload, out))
    }

    /// Sends all bytes of `payload` as a frame, by moving its blocks.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    pub fn send_buffer(&mut self, payload: LinkBuffer) -> Result<()> {
        self.write(|encoder, out| encoder.encode_buffer(payload, out))
    }

    fn write(
        &mut self,
        encode: impl FnOnce(&mut C, &mut LinkBuffer) -> Result<(), EncodeError>,
    ) -> Result<()> {
        let queue = self.replies.as_ref().filter(|it| it.in_order() && it.is_queueing());
        let Some(queue) = queue else {
            return Ok(encode(self.encoder, self.writer.buf()).map_err(io::Error::from)?);
        };
        let mut frame = LinkBuffer::new();
        encode(self.encoder, &mut frame).map_err(io::Error::from)?;
        push_written(&mut self.writer, queue);
        queue.push(frame);
        Ok(())
    }
}

impl<C: Clone> Out<'_, C> {
    /// Begins an answer that is sent later, from any thread: so a call that is answered at once
    /// does not wait behind a slow one. Costs an allocation for the first reply of a connection, a
    /// clone of the codec and a short lock for each.
    ///
    /// A frame leaves when its reply is [sent](Reply::send), before or after others, unless
    /// [`in_order`](OnFrame::in_order) is set. So the client must know which call has which answer,
    /// by an id, say, as a [`Mux`](crate::Mux) does; and a frame must not depend on the frame that
    /// was encoded before it. At [`max_outstanding`](OnFrame::max_outstanding) replies the
    /// connection is not read from.
    ///
    /// See [`Reply`] for an example, and for what happens when it is dropped, when its peer goes
    /// and in a shutdown.
    pub fn defer(&mut self) -> Reply<C> {
        let Self { handles, options, .. } = *self;
        let new = || Arc::new(Replies::new(handles.handle(), options));
        let replies = self.replies.get_or_insert_with(new);
        if options.in_order {
            push_written(&mut self.writer, replies);
        }
        Reply::new(self.encoder.clone(), replies.clone())
    }
}

impl<'a, C> Out<'a, C> {
    /// Closes the connection in order behind what was sent, and behind all replies that are
    /// outstanding: no further frame is decoded. [`Handle::close`](crate::Handle::close) waits for
    /// no reply.
    pub fn close(&mut self) {
        self.closing = true;
    }

    /// A handle of the connection. Costs one atomic increment.
    pub fn handle(&self) -> Handle {
        self.handles.handle()
    }

    /// The connection's writer, for bytes that are no frame. In [order](OnFrame::in_order) they
    /// stand between the frames before and behind them, unless you flush them.
    pub fn writer(&mut self) -> &mut Writer<'a> {
        &mut self.writer
    }

    /// Sends what was written.
    fn flush(&mut self) -> Result<()> {
        self.settle()?;
        self.writer.flush()
    }

    /// In order: what was written behind outstanding replies waits for them. Then sends what is
    /// ready before it.
    fn settle(&mut self) -> Result<()> {
        let Some(replies) = self.replies.as_ref().filter(|it| it.in_order()) else {
            return Ok(());
        };
        if replies.is_queueing() {
            push_written(&mut self.writer, replies);
        }
        let sent = replies.send_ready();
        replies.go_on();
        sent
    }
}

/// Moves what was written and not flushed behind the replies that are outstanding.
fn push_written(writer: &mut Writer<'_>, replies: &Replies) {
    if writer.malloc_len() > 0 {
        replies.push(mem::take(writer.buf()));
    }
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

impl<C, S, F> fmt::Debug for OnFrame<C, S, F> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("OnFrame").field("options", &self.options).finish_non_exhaustive()
    }
}
