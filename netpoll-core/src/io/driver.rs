//! The driver of a reactor: what a reactor asks of it, and the events that it hands out.
//!
//! A reactor names the streams and listeners that are to be watched. The driver accepts by itself,
//! and hands out the streams that it accepted. Of a stream it says only that a pull or a push may
//! be tried now: the owner moves the bytes on its own thread (`stream.rs`).
//!
//! Events are hints. A stream that is said to be receivable may have nothing, so every pull and
//! push has an arm for `WouldBlock`; but what a pull or a push has met as drained or full is
//! reported again when it changes.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::datagram::DatagramSocket;
use super::listener::Listener;
use super::readiness::StreamEvent;
use super::stream::Stream;
use crate::base::address::Address;
use crate::pure::slab::Token;
use crate::sys::epoll::EpollFd;

/// A driver of one reactor. The reactor's core owns it, and it moves between threads with the core.
pub(crate) trait Driver: Send + fmt::Debug {
    /// Watches a connected stream in both directions. What it has already is reported as well.
    fn watch(&mut self, stream: &Stream, token: Token) -> io::Result<()>;

    /// As [`watch`](Self::watch), for a stream on its way: [`Event::Connected`] comes once, when
    /// that has ended.
    fn connect(&mut self, stream: &Stream, token: Token) -> io::Result<()>;

    /// Stops watching a stream that may stay open: its descriptor may have a duplicate.
    fn forget(&mut self, stream: &Stream, token: Token) -> io::Result<()>;

    /// Watches a datagram socket for what it receives. What it has already is reported as well.
    fn watch_datagrams(&mut self, socket: &DatagramSocket, token: Token) -> io::Result<()>;

    /// Has a watched datagram socket report that it takes datagrams again, at once if it does, or
    /// ends that. It is not watched for that all the time: a socket reports room after each
    /// datagram that has left it, and each report would wake the reactor.
    fn watch_room(
        &mut self,
        socket: &DatagramSocket,
        token: Token,
        is_awaited: bool,
    ) -> io::Result<()>;

    /// Stops watching a datagram socket, which may stay open.
    fn forget_datagrams(&mut self, socket: &DatagramSocket, token: Token) -> io::Result<()>;

    /// A stream that nothing else holds open is about to be closed, which ends the watch as well.
    fn closing(&mut self, token: Token);

    /// Will accept on a listener, as much as [`set_room`](Self::set_room) allows: at first nothing.
    /// Of the drivers that watch it `exclusive`ly, a new connection should wake one that waits.
    fn listen(&mut self, listener: Arc<Listener>, token: Token, exclusive: bool);

    /// Allows a listener so many connections in each wait from now on; 0 stops watching it.
    fn set_room(&mut self, token: Token, count: usize) -> io::Result<()>;

    /// Stops accepting. The listener closes with its last holder.
    fn unlisten(&mut self, token: Token) -> io::Result<()>;

    /// Waits for events, at most `timeout`, and appends them to `events`. A wake ends the wait and
    /// leaves no event.
    fn wait(&mut self, timeout: Option<Duration>, events: &mut DriverEvents) -> io::Result<()>;

    /// What a [`DriverSet`](super::driver_set::DriverSet) watches it by; none where it can't be
    /// watched.
    fn epoll(&self) -> Option<&EpollFd> {
        None
    }
}

/// What a driver has reported and the reactor has not taken. Those of streams come first.
#[derive(Debug, Default)]
pub(crate) struct DriverEvents {
    /// Apart from the others, since they are small and many: one for nearly each request.
    pub(crate) streams: VecDeque<StreamEvent>,
    pub(crate) others: VecDeque<Event>,
}

impl DriverEvents {
    pub(crate) fn is_empty(&self) -> bool {
        self.streams.is_empty() && self.others.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.streams.len() + self.others.len()
    }
}

/// What is neither frequent nor small.
#[derive(Debug)]
pub(crate) enum Event {
    /// A listener accepted a connection.
    Accepted {
        /// Which listener.
        listener: Token,
        /// The connection's stream, which no driver watches yet.
        stream: Stream,
        /// The address of the other end.
        peer: Address,
    },
    /// A listener failed to accept.
    Failed {
        /// Which listener.
        listener: Token,
        /// Why.
        error: io::Error,
        /// Whether only one connection is lost by it.
        skipped: bool,
    },
    /// A stream is not on its way any more: [`Stream::take_error`] says whether it is connected.
    Connected {
        /// Which stream.
        token: Token,
    },
}
