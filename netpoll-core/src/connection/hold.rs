//! Holds: work for a connection's peer that is under way elsewhere, so that it is not idle and a
//! shutdown waits for it.

use std::fmt;
use std::sync::Arc;

use super::owner::Owner;
use super::schedule::schedule;
use super::shared::Shared;
use super::{Connection, Handle, Reader, Writer};
use crate::base::error::{Error, Result};
use crate::pure::task::Events;

/// Says that an answer of a connection is under way, though nothing is buffered and no callback
/// runs: on another thread, in a future, at another server. Dropping it says that it is done.
///
/// While one lives, the connection does not end
///
/// - as idle, though no byte passes. What limits a request that trickles goes on, and so do
///   [`close_at`](Handle::close_at), the write timeout and the kernel's keepalive probes;
/// - because its peer has ended its stream (FIN): the peer may wait for the answer;
/// - because a graceful shutdown finds nothing to serve. The shutdown's deadline ends it.
///
/// A reset, a failure, a close of this side, an error of a callback end it as ever. Callbacks run
/// meanwhile, and what other requests need is read. It does not keep a relay.
///
/// It may be dropped on any thread, which costs two short locks; nothing ends a hold but its drop.
/// `Out::defer` of `on_frame` has one for each reply.
///
/// ```
/// use std::thread;
/// use netpoll_core::{Connection, Result};
///
/// fn answer_later(conn: &mut Connection) -> Result<()> {
///     let (handle, hold) = (conn.handle(), conn.hold()?);
///     thread::spawn(move || {
///         let sent = handle.send("found after a long search\n");
///         drop(hold); // after the answer
///         sent
///     });
///     Ok(())
/// }
/// ```
#[must_use = "the connection is held until this is dropped"]
pub struct Hold {
    shared: Arc<Shared>,
}

impl Hold {
    /// A handle of the connection that is held.
    pub fn handle(&self) -> Handle {
        Handle::new(self.shared.clone())
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let Shared { extras, task, .. } = &*self.shared;
        // Notified after the bit is gone: a run that still sees it looks again.
        if extras.let_go(&task.word) && task.word.notify(Events::NONE) {
            schedule(&self.shared);
        }
    }
}

impl Connection {
    /// Holds the connection: an answer is under way elsewhere. See [`Hold`].
    ///
    /// # Errors
    /// [`Error::Closed`] if a close has begun.
    pub fn hold(&self) -> Result<Hold> {
        self.handle().hold()
    }

    /// [`split`](Self::split), and what makes handles while both sides are borrowed.
    #[doc(hidden)]
    pub fn split_with_handles(&mut self) -> (Reader<'_>, Writer<'_>, HandleSource<'_>) {
        let Self { shared, scratch } = self;
        let scratch = super::scratch_of(scratch, shared);
        let reader = Reader::new(shared, &mut scratch.input, &scratch.pace);
        let writer = Writer::new(shared, &mut scratch.staged, &scratch.pace);
        (reader, writer, HandleSource(shared))
    }
}

/// Makes handles of a connection whose sides are borrowed.
#[doc(hidden)]
#[derive(Debug, Clone, Copy)]
pub struct HandleSource<'a>(&'a Owner);

impl HandleSource<'_> {
    /// As [`Connection::handle`].
    pub fn handle(self) -> Handle {
        Handle::new(Arc::clone(self.0))
    }
}

impl Handle {
    /// As [`Connection::hold`]. On another thread than a callback's the connection may end before
    /// it is held.
    ///
    /// # Errors
    /// [`Error::Closed`] if a close has begun.
    pub fn hold(&self) -> Result<Hold> {
        let shared = self.shared();
        shared.check_over()?;
        if !shared.extras.hold(&shared.task.word) {
            return Err(Error::Closed);
        }
        Ok(Hold { shared: shared.clone() })
    }

    /// Has runs receive nothing until [`unstall`](Self::unstall), whatever
    /// [`resume_reading`](Self::resume_reading) says: as much work is under way as may be.
    #[doc(hidden)]
    pub fn stall(&self) {
        self.shared().task.word.note(Events::STALLED);
    }

    /// Ends what [`stall`](Self::stall) began, and has `on_request` run.
    #[doc(hidden)]
    pub fn unstall(&self) {
        let word = &self.shared().task.word;
        word.clear(Events::STALLED);
        self.wake();
    }

    /// The number of bytes that may be buffered.
    #[doc(hidden)]
    pub fn input_limit(&self) -> usize {
        self.shared().input_limit()
    }

    /// The high-water mark of its output, in bytes.
    #[doc(hidden)]
    pub fn high_water(&self) -> usize {
        self.shared().group.limits().output.high
    }
}

impl fmt::Debug for Hold {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_tuple("Hold").field(&self.shared).finish()
    }
}
