//! What comes before a connection: acceptors, and preambles, which await the first bytes of a
//! stream.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Instant;

use super::group::ConnectionGroup;
use crate::base::address::Address;
use crate::io::stream::Stream;

/// Takes the streams that a listener accepts. It runs on the thread of the listener's reactor, and
/// all connections of that reactor wait while it runs.
pub trait Accept: Send {
    /// How many connections may be taken out of the queue now. The loop asks before each wait until
    /// all its acceptors have said [`Room::ANY`], and again after the next failure. While it is
    /// 0, the other acceptors of the loop go on, and peers that connect wait in the listener's
    /// queue.
    fn room(&mut self) -> Room;

    /// Whether other loops accept on the same listener, so that a new connection should wake one of
    /// them only.
    fn is_one_of_several(&self) -> bool {
        false
    }

    /// Called once: the loop watches the listener from now on, as long as there is room.
    fn watched(&mut self) {}

    /// A connection, which no driver watches yet.
    fn accepted(&mut self, stream: Stream, peer: Address);

    /// An accept failed, and not because of its one connection: descriptors or memory have run out,
    /// or the listener is dead. Returns whether to go on with the listener; `room` says when.
    fn failed(&mut self, error: &io::Error) -> bool;

    /// The listener can't be watched, or was given up: nothing more will be accepted.
    fn given_up(self: Box<Self>, error: io::Error);

    /// The loop takes no more connections: those in the queue are to be accepted elsewhere.
    fn retired(self: Box<Self>);
}

/// What an acceptor has room for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// The number of connections.
    pub count: usize,
    /// When to ask again if the number is 0, unless a wake comes first. `None`: at a wake.
    pub again: Option<Instant>,
}

impl Room {
    /// Room for any number, for good unless accepting fails.
    pub const ANY: Self = Self { count: usize::MAX, again: None };
}

/// Awaits the bytes that must come before a stream becomes a connection. It runs on the thread of
/// its reactor, and all connections of that reactor wait while it runs.
pub trait Preamble: Send {
    /// The stream.
    fn stream(&self) -> &Stream;

    /// Whether it would be a connection of this group.
    fn is_of(&self, group: &Arc<ConnectionGroup>) -> bool;

    /// Looks at what may have arrived, and says whether it is complete.
    fn is_complete(&mut self) -> bool;

    /// It is complete or late, or its peer is gone. The reactor watches the stream no more. What
    /// has arrived by now may still complete it.
    fn end(self: Box<Self>);
}

impl fmt::Debug for dyn Preamble {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Preamble")
    }
}

impl fmt::Debug for dyn Accept {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Accept")
    }
}
