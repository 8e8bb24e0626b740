//! What becomes of the streams that a listening socket accepts, and of a socket that can't accept.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use netpoll_core::{Accept, Address, Error, Remote, Room, Stream, clock, socket};

use super::backoff::{Backoff, PAUSE_AT_FIRST};
use super::context::AcceptorCount;
use super::listening_socket::ListeningSocket;
use super::pending::Pending;
use crate::admission::{AcceptLimit, AtLimit, Permit};
use crate::proxy::{Role, handshake};

/// Hands the streams that one socket accepts to the loops of a manager.
pub(crate) struct Acceptor {
    /// Called when the loop that it runs on retires.
    on_retired: Option<OnRetired>,
    socket: Arc<ListeningSocket>,
    /// The loop that it runs on and accepts for, if it does not accept for all.
    own: Option<Arc<Remote>>,
    /// Other loops accept on the socket, too.
    one_of_several: bool,
    backoff: Backoff,
    /// An accept has succeeded since one failed.
    succeeded: bool,
    /// A descriptor in reserve, see [`turn_one_away`](Self::turn_one_away).
    spare: Option<OwnedFd>,
    /// The last field: a thread that waits for the count to fall finds the socket released.
    _count: AcceptorCount,
}

pub(super) type OnRetired = Box<dyn FnOnce() + Send>;

impl Acceptor {
    /// An acceptor for a loop, `own` if that keeps what it accepts, or for the caller.
    pub(super) fn new(
        socket: Arc<ListeningSocket>,
        own: Option<Arc<Remote>>,
        on_retired: Option<OnRetired>,
    ) -> Self {
        let one_of_several = socket.idle_loop_accepts && own.is_some();
        let context = &socket.context;
        let count = context.count_acceptor();
        context.admission.add_acceptor(own.as_ref().unwrap_or(&context.main));
        let (backoff, spare) = (Backoff::default(), socket::spare_descriptor().ok());
        Self {
            on_retired,
            socket,
            own,
            one_of_several,
            backoff,
            succeeded: false,
            spare,
            _count: count,
        }
    }

    /// Admits or refuses every stream that is in the kernel's queue or in the overflow.
    pub(crate) fn empty_queue(&mut self) {
        self.admit_overflow(usize::MAX, true);
        loop {
            match self.socket.listener.accept() {
                Ok((stream, peer)) => self.ask_and_admit(stream, peer, true),
                Err(error) if socket::is_of_one_connection(&error) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) => return log::warn!("cannot accept the rest of a queue: {error}"),
            }
        }
    }

    /// Tries again to admit the streams of the overflow, `room` of them at most.
    pub(crate) fn admit_overflow(&mut self, room: usize, last: bool) {
        let mut overflow = self.socket.overflow();
        let count = overflow.len().min(room);
        let some: Vec<_> = overflow.drain(..count).collect();
        drop(overflow);
        for (stream, peer) in some {
            self.admit_or_refuse(stream, peer, last);
        }
    }

    /// Asks `on_accept` about a stream that has just been accepted, and admits or refuses it.
    /// Behind a proxy it is asked when the header has come.
    fn ask_and_admit(&mut self, stream: Stream, peer: Address, last: bool) {
        let ListeningSocket { context, info, proxy, .. } = &*self.socket;
        let speaks_for_itself = proxy.as_ref().is_none_or(|it| it.role(&peer) == Role::Client);
        let stream =
            if speaks_for_itself { context.ask(stream, &peer, info) } else { Some(stream) };
        if let Some(stream) = stream {
            self.admit_or_refuse(stream, peer, last);
        }
    }

    /// Admits a stream or, above a limit, refuses it. A stream that would have waited in the
    /// kernel's queue, had it not been accepted already, waits in the overflow, unless this is its
    /// `last` chance.
    fn admit_or_refuse(&mut self, stream: Stream, peer: Address, last: bool) {
        let ListeningSocket { context, count, info, proxy, .. } = &*self.socket;
        let role = proxy.as_ref().map_or(Role::Client, |it| it.role(&peer));
        if role == Role::Stranger {
            context.group.count_refusal();
            return log::debug!("{peer} is refused: it is none of the trusted proxies");
        }
        let proxy = proxy.as_ref().filter(|_| role == Role::Proxy);
        // Behind a proxy the source is known only when the header has come.
        let source = if proxy.is_some() { None } else { peer.ip() };
        match Permit::obtain(count, source, clock::now) {
            Ok(permit) => match proxy {
                // What refuses it has closed it, and says so.
                None => drop(context.admit(stream, peer, None, self.own.clone(), permit)),
                Some(proxy) => {
                    let (context, listener) = (context.clone(), info.clone());
                    let own = self.own.clone();
                    let pending = Pending { context, listener, own, stream, peer, permit };
                    handshake::begin(pending, proxy, self.reactor(), last);
                }
            },
            Err(limit)
                if matches!(context.admission.at_limit(), AtLimit::Queue)
                    && limit != AcceptLimit::Source
                    && !last =>
            {
                self.socket.overflow().push_back((stream, peer));
            }
            Err(limit) => context.refuse(stream, &peer, info, limit),
        }
    }

    /// The reactor that waits for PROXY headers.
    fn reactor(&self) -> &Remote {
        self.own.as_ref().unwrap_or(&self.socket.context.main)
    }

    /// Gives up the spare descriptor to accept one client and close it, so that the client learns
    /// at once that it is not served.
    fn turn_one_away(&mut self) {
        if self.spare.take().is_some()
            && let Ok((stream, peer)) = self.socket.listener.accept()
        {
            self.socket.context.group.count_refusal();
            log::debug!("{peer} is refused: no descriptor is left");
            drop(stream);
        }
        self.spare = socket::spare_descriptor().ok();
    }
}

impl Accept for Acceptor {
    fn is_one_of_several(&self) -> bool {
        self.one_of_several
    }

    fn watched(&mut self) {
        self.socket.watched();
    }

    fn room(&mut self) -> Room {
        let admission = &self.socket.context.admission;
        if let Some(until) = self.backoff.pausing_until(|| admission.returned()) {
            return Room { count: 0, again: Some(until) };
        }
        let room = self.socket.count.room(clock::now);
        self.backoff.note_returned(admission.returned());
        if self.socket.overflow().is_empty() {
            return room;
        }
        // Only as many as there is room for. A stream that is tried and fails is counted for a
        // moment, other acceptors take that for no room, and the end of the count wakes them and
        // this one: without room this would repeat without end.
        self.admit_overflow(room.count, false);
        if self.socket.overflow().is_empty() {
            return self.socket.count.room(clock::now);
        }
        // If there was room, it was too little, or other acceptors were faster.
        let soon = (room.count > 0).then(|| clock::now() + PAUSE_AT_FIRST);
        Room { count: 0, again: room.again.or(soon) }
    }

    fn accepted(&mut self, stream: Stream, peer: Address) {
        self.succeeded = true;
        self.ask_and_admit(stream, peer, false);
    }

    fn failed(&mut self, error: &io::Error) -> bool {
        if socket::is_listener_dead(error) && !self.socket.listener.is_listening() {
            return false;
        }
        if std::mem::take(&mut self.succeeded) {
            self.backoff.reset();
        }
        if self.backoff.is_stuck() && socket::is_out_of_descriptors(error) {
            self.turn_one_away();
        }
        self.backoff.failed(error);
        let admission = &self.socket.context.admission;
        self.backoff.note_returned(admission.returned());
        admission.mark_waiting();
        true
    }

    fn given_up(self: Box<Self>, error: io::Error) {
        let text = format!("the listener can accept no more, was it closed? {error}");
        self.socket.context.fail(Error::Io(io::Error::new(error.kind(), text)));
    }

    fn retired(mut self: Box<Self>) {
        if let Some(on_retired) = self.on_retired.take() {
            on_retired();
        }
    }
}

impl Drop for Acceptor {
    fn drop(&mut self) {
        if !self.socket.overflow().is_empty() {
            // The next acceptor may have looked before the last stream came to the overflow.
            self.socket.context.admission.wake();
        }
    }
}
