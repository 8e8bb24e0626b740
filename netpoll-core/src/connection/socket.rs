//! The socket of a connection, and those who hold it open.
//!
//! ```text
//!   Owner      receives, without a lock ──┐
//!                                         ├──► Socket  stream, holds ──► closed by the last
//!   OutputHold   sends, under the output's ───┘
//! ```
//! That is an `Arc` of the stream, but for its place: it stands in the connection, so that there is
//! no block beside each connection, and no pointer to one in either of the two.

#![expect(unsafe_code, reason = "the last holder of a stream drops it, in a shared place")]

use std::mem::ManuallyDrop;
use std::ptr;

use crate::base::sync::{AtomicU32, Ordering};
use crate::io::stream::Stream;

/// See the module.
#[derive(Debug)]
pub(crate) struct Socket {
    /// Reached through a hold alone: without one, its number may be another socket's by now.
    stream: ManuallyDrop<Stream>,
    holds: AtomicU32,
}

/// The output's hold. It never leaves the output whose socket it came with.
#[derive(Debug)]
pub(crate) struct OutputHold(());

impl Socket {
    /// A socket that its output holds.
    pub(crate) fn new(stream: Stream) -> (Self, OutputHold) {
        (Self { stream: ManuallyDrop::new(stream), holds: AtomicU32::new(1) }, OutputHold(()))
    }

    /// For the output.
    #[inline]
    pub(crate) fn stream<'a>(&'a self, _: &'a OutputHold) -> &'a Stream {
        &self.stream
    }

    /// The output holds it no more.
    pub(crate) fn release(&self, _: OutputHold) {
        self.let_go();
    }

    /// One more hold, for an owner, which ends it by [`let_go`](Self::let_go). For the code that
    /// has made the connection and shows it to nothing else before: so the output holds the socket.
    pub(super) fn hold(&self) {
        let one_more = |holds: u32| (holds > 0).then_some(holds + 1);
        let held = self.holds.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).is_ok();
        assert!(held, "a connection that has closed gets no owner");
    }

    /// For an owner, which has a hold.
    #[inline]
    pub(super) fn held(&self) -> &Stream {
        &self.stream
    }

    /// An owner, or the output, holds it no more.
    pub(super) fn let_go(&self) {
        // As `Arc` does: what the others did with it comes before the close.
        if self.holds.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.close();
        }
    }

    /// For the last holder, once.
    fn close(&self) {
        // SAFETY: the stream is never dropped in its place. Every access to it has a hold, which
        // was counted while another stood and ends once. The caller's hold was the last; or the
        // caller is the drop, after which the place is gone. So what is read here is dropped once,
        // and the place is not used after that.
        drop(ManuallyDrop::into_inner(unsafe { ptr::read(&raw const self.stream) }));
    }
}

/// A connection that is dropped without its close: its reactor has ended before it. Its owner would
/// keep it, and the output goes with it.
impl Drop for Socket {
    fn drop(&mut self) {
        if self.holds.load(Ordering::Acquire) > 0 {
            self.close();
        }
    }
}
