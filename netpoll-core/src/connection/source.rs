//! A task that is no connection and has a socket, which its reactor watches.
//!
//! ```text
//!   reactor: Attach ──► token, watch ──► events, alarms ──► Source ──► must it be run?
//!            Detach ──► forget, close
//! ```
//! The reactor knows no more of it than this file says; its kinds stand in `datagrams/`.

use std::io;
use std::sync::Arc;

use super::group::ConnectionGroup;
use super::scheduled::Runnable;
use crate::io::datagram::DatagramSocket;
use crate::io::readiness::Readiness;
use crate::pure::slab::Token;
use crate::pure::task::Events;

/// What its reactor has to do for a source after it has told it something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Due {
    /// It is scheduled, and to be run.
    pub(crate) run: bool,
    /// It is to [transmit](Source::transmit) again, after others had their turn.
    pub(crate) transmit: bool,
}

/// See the module. Its methods run on the thread of its reactor, and are short.
pub(crate) trait Source: Runnable {
    /// What is watched; `None` once it is closed.
    fn socket(&self) -> Option<Arc<DatagramSocket>>;

    /// The token that the reactor gave it; [`Token::NONE`] before that.
    fn token(&self) -> Token;

    fn set_token(&self, token: Token);

    /// Its reactor watches its socket, or can't.
    fn watched(&self, outcome: io::Result<()>);

    /// Whether it belongs to this group.
    fn is_of(&self, group: &Arc<ConnectionGroup>) -> bool;

    /// Whether a shutdown of its group has begun.
    fn is_shutting_down(&self) -> bool;

    /// Something has happened to its socket.
    fn ready(&self, readiness: Readiness) -> Due;

    /// Sends a burst of what waits.
    fn transmit(&self) -> Due;

    /// Whether something waits, or will, until its socket has room.
    fn waits_for_room(&self) -> bool;

    /// Notes events, of an alarm or of a shutdown; says whether it must be run.
    fn notify(&self, events: Events) -> bool;

    /// It has ended, and the reactor watches it no more.
    fn close_socket(&self);
}
