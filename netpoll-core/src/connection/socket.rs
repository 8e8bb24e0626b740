//! The socket of a connection, and what holds it open.
//!
//! ```text
//!   Owner       receives, without a lock ────────┐
//!                                                ├──► Socket  stream, holds ──► the last closes
//!   OutputHold  sends, under the output's lock ──┘
//! ```
//! It works as an `Arc` of the stream does. But the stream stands in the connection, so there is no
//! block of memory for it, and neither of the two has a pointer to one.

#![expect(unsafe_code, reason = "the last holder of a stream drops it, in a shared place")]

use std::mem::ManuallyDrop;
use std::ptr;

use crate::base::sync::{AtomicU32, Ordering};
use crate::io::stream::Stream;

/// See the module.
#[derive(Debug)]
pub(crate) struct Socket {
    /// Reached through a hold only: without one, its descriptor may be another socket's by now.
    stream: ManuallyDrop<Stream>,
    holds: AtomicU32,
}

/// The output's hold. It never leaves the output whose socket it came with.
#[derive(Debug)]
pub(crate) struct OutputHold(());

impl Socket {
    /// A socket that the output holds.
    pub(crate) fn new(stream: Stream) -> (Self, OutputHold) {
        (Self { stream: ManuallyDrop::new(stream), holds: AtomicU32::new(1) }, OutputHold(()))
    }

    /// The stream, for the output.
    #[inline]
    pub(crate) fn stream<'a>(&'a self, _: &'a OutputHold) -> &'a Stream {
        &self.stream
    }

    /// Ends the output's hold.
    pub(crate) fn release(&self, _: OutputHold) {
        self.let_go();
    }

    /// Adds a hold for an owner, which ends it by [`let_go`](Self::let_go). Only the code that
    /// makes a connection calls it, before it shows the connection to other code: so the output
    /// holds the socket.
    pub(super) fn hold(&self) {
        let one_more = |holds: u32| (holds > 0).then_some(holds + 1);
        let held = self.holds.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).is_ok();
        assert!(held, "a connection that has closed gets no owner");
    }

    /// The stream, for an owner, which has a hold.
    #[inline]
    pub(super) fn held(&self) -> &Stream {
        &self.stream
    }

    /// Ends the hold of an owner, or of the output.
    pub(super) fn let_go(&self) {
        // As `Arc` does: what other holders did with the stream comes before the close.
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

/// Closes the stream of a connection that is dropped without a close, because its reactor has ended
/// first. There is no owner, which would keep the connection, and the output is dropped with it.
impl Drop for Socket {
    fn drop(&mut self) {
        if self.holds.load(Ordering::Acquire) > 0 {
            self.close();
        }
    }
}
