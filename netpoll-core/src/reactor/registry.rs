//! The entry that a reactor has for each token.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use crate::connection::Shared;
use crate::connection::incoming::{Accept, Preamble};
use crate::connection::source::Source;
use crate::io::listener::Listener;
use crate::pure::timer::TimerKey;

/// What a token stands for. (The name is that of CloudWeGo's netpoll.)
pub(super) enum FdOperator {
    /// A connected stream, or one on its way.
    Stream(StreamOperator),
    /// A listener, and what to do with what it accepts.
    Listener(Box<ListenerOperator>),
    /// A stream that is not a connection yet: its preamble is awaited.
    Preamble(Box<dyn Preamble>),
    /// A task that is no connection, and its socket.
    Source(Arc<dyn Source>),
}

/// See [`FdOperator`]. There are few of them, so it is boxed and does not make each entry larger.
pub(super) struct ListenerOperator {
    pub(super) listener: Arc<Listener>,
    pub(super) accept: Box<dyn Accept>,
    /// The acceptor has been told that the listener is watched.
    pub(super) told: bool,
}

/// What a reactor knows of a stream.
pub(super) struct StreamOperator {
    pub(super) shared: Arc<Shared>,
    /// Its timers in the reactor's wheel, by purpose; allocated with the first.
    pub(super) timers: Option<Box<StreamTimers>>,
}

/// See [`StreamOperator`].
pub(super) type StreamTimers = HashMap<TimerId, TimerKey>;

/// The purpose of a connection's timer. There is at most one timer of each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum TimerId {
    /// The time of an orderly close is over.
    Linger,
    /// The next look of the time watch.
    Look,
    /// The next try to receive, after there was too little memory.
    Retry,
    /// A job of the user's.
    Job(usize),
}

impl FdOperator {
    /// Takes the timers out, if it is a stream and has any.
    pub(super) fn take_timers(&mut self) -> Option<Box<StreamTimers>> {
        match self {
            Self::Stream(stream) => stream.timers.take(),
            Self::Listener(..) | Self::Preamble(_) | Self::Source(_) => None,
        }
    }
}

impl StreamOperator {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, timers: None }
    }
}

impl fmt::Debug for FdOperator {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stream(stream) => out.debug_tuple("Stream").field(&stream.shared).finish(),
            Self::Preamble(_) => out.write_str("Preamble"),
            Self::Source(source) => out.debug_tuple("Source").field(source).finish(),
            Self::Listener(..) => out.write_str("Listener"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pure::slab::Slot;

    /// There is one for each connection, most of them idle.
    #[test]
    fn an_entry_of_a_reactor_is_small() {
        let size = size_of::<Slot<FdOperator>>();
        assert!(size <= 32, "{size} bytes");
    }
}
