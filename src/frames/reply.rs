//! An answer that comes later than the callback that was asked.

use std::fmt;
use std::io;
use std::sync::Arc;

use netpoll_buffer::LinkBuffer;
use netpoll_codec::{Encode, EncodeError};
use netpoll_core::{Error, Handle, Result};

use super::replies::Replies;

/// The answer to one frame, to be sent later and from any thread; made by
/// [`Out::defer`](super::Out::defer).
///
/// It is completed once, by [`send`](Self::send) or [`send_buffer`](Self::send_buffer). A reply
/// that is dropped before that closes the connection with a reason that says so, since its peer
/// would wait for ever; with [`set_fallback`](Self::set_fallback) it sends that frame instead. So a
/// thread that panics, or a queue that is dropped, leaves no request without an end.
///
/// While it is outstanding it [holds](crate::Hold) the connection: that is not idle, is not closed
/// because its peer has ended its stream, and a graceful shutdown waits for it, until its deadline.
/// If the connection ends first, sending fails with [`Error::Closed`] and nothing else happens;
/// [`is_gone`](Self::is_gone) tells so before an answer is made.
///
/// ```
/// use std::sync::mpsc::Sender;
/// use netpoll::codec::{Frame, LengthPrefix};
/// use netpoll::{Out, Reply, Result};
///
/// type Work = (Vec<u8>, Reply<LengthPrefix>);
/// type Calls<'a> = Out<'a, LengthPrefix>;
///
/// /// Answers short calls at once; a worker answers the long ones, and delays no other.
/// fn answer(work: &mut Sender<Work>, call: Frame<'_>, out: &mut Calls<'_>) -> Result<()> {
///     let call = call.bytes();
///     if call.len() < 100 {
///         return out.send(call);
///     }
///     let mut reply = out.defer();
///     reply.set_fallback(b"no worker is left")?;
///     let _ = work.send((call.to_vec(), reply)); // a reply that comes back is dropped
///     Ok(())
/// }
///
/// /// What the worker does, on its own thread.
/// fn work((call, reply): Work) -> Result<()> {
///     reply.send(&call)
/// }
/// ```
#[must_use = "a reply that is dropped closes the connection, or sends its fallback"]
pub struct Reply<C> {
    encoder: C,
    replies: Arc<Replies>,
    /// Its place; taken when it is completed.
    place: Option<u64>,
    fallback: Option<LinkBuffer>,
}

impl<C: Encode> Reply<C> {
    /// Sends a copy of `payload` as a frame. Tries the socket at once, on this thread, and never
    /// blocks on the network: what the socket does not take is queued, also above the high-water
    /// mark. Where replies leave in order, it waits in memory for those before it.
    ///
    /// # Errors
    /// [`Error::Closed`], or the socket's error, if the connection has ended or sends no more.
    /// [`Error::Io`] of kind `InvalidInput`, with the [`EncodeError`] in it, when the payload can't
    /// be a frame: the reply then counts as dropped.
    pub fn send(self, payload: &[u8]) -> Result<()> {
        self.complete(|encoder, frame| encoder.encode(payload, frame))
    }

    /// Sends all bytes of `payload` as a frame, by moving its blocks; otherwise as
    /// [`send`](Self::send).
    ///
    /// # Errors
    /// As [`send`](Self::send).
    pub fn send_buffer(self, payload: LinkBuffer) -> Result<()> {
        self.complete(|encoder, frame| encoder.encode_buffer(payload, frame))
    }

    /// Sets the frame that is sent if this is dropped without an answer. By default the connection
    /// is closed then.
    ///
    /// # Errors
    /// [`Error::Io`] of kind `InvalidInput` when `payload` can't be a frame. Nothing is changed
    /// then.
    pub fn set_fallback(&mut self, payload: &[u8]) -> Result<()> {
        let mut frame = LinkBuffer::new();
        self.encoder.encode(payload, &mut frame).map_err(io::Error::from)?;
        self.fallback = Some(frame);
        Ok(())
    }

    fn complete(
        mut self,
        encode: impl FnOnce(&mut C, &mut LinkBuffer) -> Result<(), EncodeError>,
    ) -> Result<()> {
        let mut frame = LinkBuffer::new();
        encode(&mut self.encoder, &mut frame).map_err(io::Error::from)?;
        self.place.take().map_or(Ok(()), |place| self.replies.complete(place, frame))
    }
}

impl<C> Reply<C> {
    pub(super) fn new(encoder: C, replies: Arc<Replies>) -> Self {
        let place = Some(replies.begin());
        Self { encoder, replies, place, fallback: None }
    }

    /// Whether no answer can reach the peer any more; see [`Handle::is_gone`].
    pub fn is_gone(&self) -> bool {
        self.replies.handle().is_gone()
    }

    /// The connection that waits for the answer.
    pub fn handle(&self) -> &Handle {
        self.replies.handle()
    }
}

impl<C> Drop for Reply<C> {
    fn drop(&mut self) {
        let Some(place) = self.place.take() else { return };
        match self.fallback.take() {
            // If the connection has ended, no peer waits for it.
            Some(frame) => drop(self.replies.complete(place, frame)),
            None => self.replies.give_up(unanswered()),
        }
    }
}

fn unanswered() -> Error {
    io::Error::other("a reply was dropped without an answer").into()
}

impl<C> fmt::Debug for Reply<C> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Reply")
            .field("to", self.handle())
            .field("has_fallback", &self.fallback.is_some())
            .finish_non_exhaustive()
    }
}
