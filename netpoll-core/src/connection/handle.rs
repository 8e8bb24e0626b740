//! What other threads hold of a connection.

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use netpoll_buffer::LinkBuffer;

use crate::address::Address;
use crate::blocking;
use crate::error::{Error, Result};
use crate::origin::ListenerInfo;
use crate::task::Events;

use super::shared::{Shared, schedule};

/// A connection as other threads see it: `Clone + Send + Sync`, and harmless when it outlives the
/// connection, since every operation then fails with [`Error::Closed`](crate::Error::Closed) and
/// none can reach the next owner of its descriptor. It keeps some hundred bytes and its
/// loop's eventfd alive, not the socket; a loop that `PollManager::set_loops` retired ends with the
/// last handle to one of its connections.
#[derive(Clone)]
pub struct Handle {
    shared: Arc<Shared>,
}

impl Handle {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// Sends a message behind all that was accepted before, in one piece. It tries the socket at
    /// once on this thread; what the socket does not take is sent by the reactor. Never blocks
    /// on the network.
    ///
    /// # Errors
    /// [`Error::Full`](crate::Error::Full) while the queue is above its high-water mark,
    /// [`Error::Closed`](crate::Error::Closed) once a close has begun, the socket's error once it
    /// has failed. In each case nothing of the message was accepted by this call, except that a
    /// socket which fails in the middle of it may have sent a part.
    pub fn send(&self, message: impl Into<Bytes>) -> Result<()> {
        if self.shared.is_interrupted() {
            return Err(Error::Closed);
        }
        let limits = self.shared.group.limits().output;
        self.sent(self.shared.lane.offer(message.into(), limits))
    }

    /// Sends all that was written to `buffer`, as [`send`](Self::send) does, but also above the
    /// high-water mark: for those who bound what they send by other means, such as
    /// [`wait_for_room`](Self::wait_for_room). It moves blocks and copies little.
    ///
    /// # Errors
    /// Those of `send` but `Full`.
    pub fn send_buffer(&self, mut buffer: LinkBuffer) -> Result<()> {
        buffer.flush();
        if self.shared.is_interrupted() {
            return Err(Error::Closed);
        }
        let limits = self.shared.group.limits().output;
        self.sent(self.shared.lane.send(&mut buffer, limits))
    }

    /// Waits until `send` is not refused: at once below the high-water mark, and above it until the
    /// queue has fallen below the low-water mark. Costs one load where it needn't wait.
    ///
    /// # Errors
    /// [`Error::TimedOut`](crate::Error::TimedOut) at `deadline`;
    /// [`Error::Closed`](crate::Error::Closed) and the socket's error as `send`;
    /// [`Error::Config`](crate::Error::Config) in a callback that must not wait.
    pub fn wait_for_room(&self, deadline: Option<Instant>) -> Result<()> {
        if !self.shared.lane.is_congested() {
            return Ok(());
        }
        blocking::check("wait for room in the output queue")?;
        self.shared.lane.wait_below(deadline, || self.shared.is_interrupted())
    }

    /// What a send returned; its failure is also the connection's.
    fn sent(&self, sent: Result<()>) -> Result<()> {
        if let Err(Error::Io(_)) = sent {
            // No edge need follow an error that only a send meets.
            if self.shared.task.word.notify(Events::FAILED | Events::READABLE) {
                schedule(&self.shared);
            }
        }
        sent
    }

    /// Has `on_request` called once more, even if no byte arrives. Calls coalesce. A dialled
    /// connection has no callbacks, and nothing happens.
    pub fn wake(&self) {
        if self.shared.task.word.notify(Events::WAKE) {
            schedule(&self.shared);
        }
    }

    /// Closes in order, as [`Connection::close`](crate::Connection::close) does, and ends a wait
    /// that a callback is in. Calling it again does nothing.
    pub fn close(&self) {
        self.shared.request_close();
    }

    /// Whether the connection is fit for another exchange: not closed here, and neither FIN nor
    /// failure seen from the peer. Costs one load, no system call.
    pub fn is_active(&self) -> bool {
        self.shared.is_active()
    }

    /// Bytes accepted that the socket has not taken yet.
    pub fn pending(&self) -> usize {
        self.shared.lane.pending()
    }

    /// The peer's address, also after the close.
    pub fn peer_addr(&self) -> Address {
        self.shared.peer.clone()
    }

    /// The listener that it came by; `None` for one that was dialled.
    pub fn listener(&self) -> Option<&ListenerInfo> {
        self.shared.listener.as_deref()
    }

    /// The address of this end. One system call.
    ///
    /// # Errors
    /// The system's, and [`Error::Closed`](crate::Error::Closed).
    pub fn local_addr(&self) -> Result<Address> {
        self.shared.local_addr()
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_tuple("Handle").field(&self.shared).finish()
    }
}
