//! A handle of a datagram socket: what other threads do with it.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;

use super::stats::DatagramStats;
use super::task::DatagramTask;
use crate::base::address::Address;
use crate::base::error::{Error, Result};
use crate::io::datagram::DatagramSocket;
use crate::io::socket::Membership;

/// A handle of a datagram socket that is served, for any thread. A clone is the same socket.
///
/// It keeps no socket open: after the close its methods return [`Error::Closed`].
#[derive(Clone)]
pub struct DatagramHandle(Arc<DatagramTask>);

impl DatagramHandle {
    pub(super) fn new(task: Arc<DatagramTask>) -> Self {
        Self(task)
    }

    /// Sends a datagram to a peer. The calling thread gives it to the kernel at once, unless others
    /// wait, behind which it is queued; it never waits itself. Datagrams of one thread keep their
    /// order.
    ///
    /// ```
    /// # fn tick(handle: &netpoll_core::DatagramHandle, peer: &netpoll_core::Address)
    /// # -> netpoll_core::Result<()> {
    /// handle.send_to(peer, "a state of the world")?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Full`]: it was dropped, since the queue is at its
    /// [limits](crate::DatagramLimits). [`Error::Io`] with `EMSGSIZE` for what is longer than any
    /// datagram, and with what the kernel says of the peer where it refuses at once.
    /// [`Error::Closed`] after the close.
    pub fn send_to(&self, peer: &Address, payload: impl Into<Bytes>) -> Result<()> {
        self.0.send_one(None, Some(peer), &payload.into())
    }

    /// As [`send_to`](Self::send_to), from a local address, such as the one that a datagram of the
    /// peer [was sent to](crate::Datagram::source).
    ///
    /// # Errors
    /// Those of `send_to`.
    pub fn send_from(
        &self,
        local: Option<IpAddr>,
        peer: &Address,
        payload: impl Into<Bytes>,
    ) -> Result<()> {
        self.0.send_one(local, Some(peer), &payload.into())
    }

    /// As [`send_to`](Self::send_to), to the peer that the socket is connected to.
    ///
    /// # Errors
    /// Those of `send_to`.
    pub fn send(&self, payload: impl Into<Bytes>) -> Result<()> {
        self.0.send_one(None, None, &payload.into())
    }

    /// The address that the socket is bound to.
    ///
    /// # Errors
    /// The system's; [`Error::Closed`] after the close.
    pub fn local_addr(&self) -> Result<Address> {
        Ok(self.0.socket().ok_or(Error::Closed)?.local_address()?)
    }

    /// Joins a multicast group, by the interface of that name, or with `None` by the one that the
    /// system's routes choose.
    ///
    /// # Errors
    /// [`Error::Config`] for what is no group; of kind `NotFound` for an interface that is not
    /// there; the system's; [`Error::Closed`] after the close.
    pub fn join<'a>(&self, group: IpAddr, interface: impl Into<Option<&'a str>>) -> Result<()> {
        let membership = Membership::new(group, interface.into())?;
        Ok(self.0.socket().ok_or(Error::Closed)?.join(&membership)?)
    }

    /// Ends a membership.
    ///
    /// # Errors
    /// As [`join`](Self::join); the system's where the socket is no member.
    pub fn leave<'a>(&self, group: IpAddr, interface: impl Into<Option<&'a str>>) -> Result<()> {
        let membership = Membership::new(group, interface.into())?;
        Ok(self.0.socket().ok_or(Error::Closed)?.leave(&membership)?)
    }

    /// What the socket has done so far. After the close the counters stay.
    pub fn stats(&self) -> DatagramStats {
        self.0.stats()
    }

    /// Has the socket's owner call [`woken`](crate::DatagramService::woken) soon.
    pub fn wake(&self) {
        self.0.wake();
    }

    /// As [`wake`](Self::wake), at that time. One time is kept, the earliest that was asked for; a
    /// callback that is woken early asks again.
    pub fn wake_at(&self, at: Instant) {
        self.0.wake_at(at);
    }

    /// Receives nothing more until [`resume_receiving`](Self::resume_receiving), though a receive
    /// that has begun is called back. A shutdown leaves what has come in the kernel: another
    /// process has the socket, and goes on with it.
    #[doc(hidden)]
    pub fn pause_receiving(&self) {
        self.0.pause();
    }

    #[doc(hidden)]
    pub fn resume_receiving(&self) {
        self.0.resume();
    }

    /// The socket, to be given to another process; `None` after the close.
    #[doc(hidden)]
    pub fn socket(&self) -> Option<Arc<DatagramSocket>> {
        self.0.socket()
    }

    /// Closes the socket: nothing more is received, and what waits to be sent is, within
    /// [`linger`](crate::Limits::linger). Returns at once.
    pub fn close(&self) {
        self.0.request_close();
    }

    /// Whether it is closed, or about to be.
    pub fn is_closed(&self) -> bool {
        self.0.is_closed()
    }
}

impl PartialEq for DatagramHandle {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for DatagramHandle {}

impl Hash for DatagramHandle {
    fn hash<H: Hasher>(&self, state: &mut H) {
        Arc::as_ptr(&self.0).hash(state);
    }
}

impl fmt::Debug for DatagramHandle {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_tuple("DatagramHandle").field(&self.0).finish()
    }
}
