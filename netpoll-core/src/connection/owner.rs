//! The owner of a connection: the right to receive from its socket, which stays open meanwhile.

use std::fmt;
use std::ops::Deref;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use super::schedule::schedule;
use super::shared::Shared;
use crate::io::stream::Stream;
use crate::pure::task::Events;

/// The owner of a connection. Only code that has it may receive from the socket.
pub(crate) struct Owner {
    shared: Arc<Shared>,
}

impl Owner {
    /// Makes the owner for the runs of the connection's task, together with the connection.
    pub(crate) fn of_task(shared: Arc<Shared>) -> Self {
        shared.output.socket().hold();
        Self { shared }
    }

    /// Makes the owner for the caller that dialled. Its drop closes the connection.
    pub(crate) fn caller(shared: Arc<Shared>) -> Self {
        shared.task.word.note(Events::CALLERS);
        Self::of_task(shared)
    }

    /// Whether this is the owner of the caller that dialled, which closes the connection by a drop.
    pub(crate) fn is_the_callers(&self) -> bool {
        self.shared.task.word.events().has_any(Events::CALLERS)
    }

    /// Leaves it to others to drive and close the connection. Returns whether it was the caller's.
    pub(crate) fn disown(&mut self) -> bool {
        self.shared.task.word.clear(Events::CALLERS) != Events::NONE
    }

    /// It is the caller's again, after others have driven the connection.
    pub(crate) fn own_again(&mut self) {
        self.shared.task.word.note(Events::CALLERS);
    }

    #[inline]
    pub(crate) fn stream(&self) -> &Stream {
        self.shared.output.socket().held()
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.shared.output.socket().let_go();
        if self.is_the_callers() {
            self.shared.task.word.hand_over(Events::CLOSE | Events::STARTED);
            schedule(&self.shared);
        }
    }
}

impl Deref for Owner {
    type Target = Arc<Shared>;

    #[inline]
    fn deref(&self) -> &Arc<Shared> {
        &self.shared
    }
}

impl AsFd for Owner {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream().as_fd()
    }
}

impl fmt::Debug for Owner {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.shared.fmt(out)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::io::{ErrorKind, Read};
    use std::os::unix::net::UnixStream;

    use super::*;
    use crate::base::address::Address;
    use crate::base::limits::Limits;
    use crate::connection::group::ConnectionGroup;
    use crate::connection::mailbox::Remote;
    use crate::connection::output::Output;

    fn connection() -> (Arc<Shared>, Owner, UnixStream) {
        let (ours, peer) = UnixStream::pair().expect("two descriptors");
        peer.set_nonblocking(true).expect("an open socket");
        let output = Output::open(Stream::new(ours.into()));
        let group = ConnectionGroup::dialled(Limits::default()).expect("good limits");
        let reactor = Remote::alone();
        let shared = Arc::new(Shared::dialled(output, group, reactor, Address::Unnamed, None));
        let owner = Owner::of_task(shared.clone());
        (shared, owner, peer)
    }

    fn assert_open(peer: &mut UnixStream) {
        let read = peer.read(&mut [0]);
        assert!(read.as_ref().is_err_and(|it| it.kind() == ErrorKind::WouldBlock), "{read:?}");
    }

    fn assert_closed(peer: &mut UnixStream) {
        let read = peer.read(&mut [0]);
        assert!(matches!(read, Ok(0)), "{read:?}");
    }

    /// An owner may be inside a receive when the output releases the socket.
    #[test]
    fn the_output_closes_no_socket_that_has_an_owner() {
        let (shared, owner, mut peer) = connection();
        assert_eq!(shared.output.close_stream(false).0, 0);
        assert!(shared.output.is_closed());
        assert_open(&mut peer);
        drop(owner);
        assert_closed(&mut peer);
    }

    /// The rest of the output is sent after the owner is dropped; a handle keeps nothing open.
    #[test]
    fn the_owner_leaves_the_socket_to_the_output() {
        let (shared, owner, mut peer) = connection();
        drop(owner);
        assert_open(&mut peer);
        assert_eq!(shared.output.close_stream(false).0, 0);
        assert_closed(&mut peer);
        assert_eq!(shared.output.close_stream(false).0, 0, "a second close has nothing to close");
        drop(shared);
    }

    #[test]
    fn a_connection_that_is_dropped_leaves_no_socket_open() {
        let (shared, owner, mut peer) = connection();
        drop(owner);
        drop(shared);
        assert_closed(&mut peer);
    }

    #[test]
    #[should_panic(expected = "gets no owner")]
    fn a_closed_connection_gets_no_owner() {
        let (shared, owner, _peer) = connection();
        drop(owner);
        assert_eq!(shared.output.close_stream(false).0, 0);
        let _never = Owner::of_task(shared);
    }
}
