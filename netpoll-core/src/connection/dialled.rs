//! A dial of one address: a stream on its way, and how the dialling thread learns what became of
//! it.
//!
//! ```text
//!   dialler's thread                         reactor
//!   Attempt::start   connect ──────────post──► Register: the driver connects
//!   Notify::wait                ◄──notify──  Connected, or the end of the reactor
//!   Attempt::outcome take_error, once
//!   Attempt::into_connection
//! ```
//! Several attempts share a `Notify`: each of them is asked whether it has ended. The reactor
//! closes an attempt that is dropped, whatever became of it.

use std::fmt;
use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;

use super::callbacks::Prepare;
use super::filtered::Maker;
use super::greeting::Greeting;
use super::group::ConnectionGroup;
use super::mailbox::{Command, Remote};
use super::output::Output;
use super::run::Runner;
use super::{Carried, Connection, Handle, Owner, Shared, schedule};
use crate::base::address::Address;
use crate::base::error::{Error, Result as OurResult};
use crate::base::notify::Notify;
use crate::io::filter::FilterClient;
use crate::io::socket::ConnectOptions;
use crate::io::stream::Stream;
use crate::pure::task::Events;

/// A stream on its way to one address.
#[derive(Debug)]
pub struct Attempt {
    connection: Connection,
    /// The system chose its port, and may have chosen the port that we dial.
    may_meet_itself: bool,
}

/// How an attempt ended.
#[derive(Debug)]
pub enum AttemptOutcome {
    /// The peer is there, or was: what it sent can be read, even where it has gone since.
    Connected,
    /// It has failed, but another attempt, from another port, may well succeed.
    Again(io::Error),
    /// The system's answer.
    Failed(io::Error),
}

/// A handshake that a loop does. A drop ends it, and closes the connection.
pub struct Handshake {
    greeting: Arc<Greeting>,
    handle: Handle,
    /// The outcome was taken.
    is_over: bool,
}

impl Attempt {
    /// Begins to connect to `to`; `notify` is told when that has come to an end. The connection
    /// belongs to `group`, and `reactor` watches it. A `filter` comes with the address that the
    /// caller gave; its handshake is to be done when the attempt is connected.
    ///
    /// # Errors
    /// What connecting met at once. `WouldBlock`: the queue of a Unix socket's listener is full,
    /// and no event will tell when it is not.
    pub fn start(
        to: &Address,
        options: &ConnectOptions,
        group: &Arc<ConnectionGroup>,
        reactor: &Arc<Remote>,
        notify: &Arc<Notify>,
        filter: Option<(&Arc<dyn FilterClient>, &str)>,
    ) -> Result<Self, AttemptOutcome> {
        let may_meet_itself =
            to.inet().is_some() && options.local.is_none_or(|local| local.port() == 0);
        let stream = Stream::connect(to, options).map_err(|error| match error.kind() {
            // Among many sockets that come and go, the port that the system chose may be taken by
            // the time that it is used.
            ErrorKind::AddrNotAvailable if may_meet_itself => AttemptOutcome::Again(error),
            _ => AttemptOutcome::Failed(error),
        })?;
        let maker = filter.map(|(it, address)| Maker::Client(it.clone(), address.into()));
        let output = Output::connecting(stream, notify.clone());
        let shared = Shared::dialled(output, group.clone(), reactor.clone(), to.clone(), maker);
        Self::register(shared, may_meet_itself, Carried::default())
            .ok_or_else(|| AttemptOutcome::Failed(Error::Closed.into()))
    }

    /// An attempt that has ended well: a stream that was connected elsewhere, with what it had
    /// `carried`. `peer` is its other end. It has no filter.
    ///
    /// # Errors
    /// [`Error::Closed`] if the reactor has ended.
    pub fn adopt(
        stream: Stream,
        peer: Address,
        carried: Carried,
        group: &Arc<ConnectionGroup>,
        reactor: &Arc<Remote>,
    ) -> Result<Self, Error> {
        let output = Output::open(stream);
        let shared = Shared::dialled(output, group.clone(), reactor.clone(), peer, None);
        Self::register(shared, false, carried).ok_or(Error::Closed)
    }

    /// Gives a new connection to its reactor; `None` if that has ended.
    fn register(shared: Shared, may_meet_itself: bool, carried: Carried) -> Option<Self> {
        let shared = Arc::new(shared);
        let mut connection = Connection::new(Owner::caller(shared.clone()));
        connection.begin_with(carried);
        if let Some(run) = shared.task.begin() {
            run.keep();
        }
        shared.group.enter();
        let reactor = shared.reactor.clone();
        reactor.post(Command::Register(shared)).ok()?;
        Some(Self { connection, may_meet_itself })
    }

    /// How it ended; `None` while it is on its way. To be asked again only after `None`.
    pub fn outcome(&mut self) -> Option<AttemptOutcome> {
        let shared = self.connection.shared.clone();
        if let Some(error) = shared.output.failure() {
            return Some(AttemptOutcome::Failed(error));
        }
        if shared.is_interrupted() || shared.output.is_closed() {
            return Some(AttemptOutcome::Failed(Error::Closed.into()));
        }
        if shared.output.is_connecting() {
            return None;
        }
        if let Err(error) = self.connection.shared.stream().take_error() {
            // With these two the stream was connected. What the peer sent before them is there.
            if !matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe) {
                return Some(AttemptOutcome::Failed(error));
            }
            self.connection.scratch().input.fail_at_end(&error);
        }
        let ours = || self.connection.shared.stream().local_address();
        if self.may_meet_itself && ours().is_ok_and(|ours| ours == *shared.peer()) {
            // It dialled a port of this machine on which no socket listens, from that very port:
            // two SYNs cross, and the socket is its own peer.
            let error = ErrorKind::ConnectionRefused;
            return Some(AttemptOutcome::Again(error.into()));
        }
        Some(AttemptOutcome::Connected)
    }

    /// Sends these bytes before the handshake of the filter. `false`: there is no filter, and
    /// nothing was sent.
    pub fn send_before_handshake(&self, bytes: Bytes) -> bool {
        let shared = &self.connection.shared;
        shared.filtered().is_some() && shared.output.begin_with(bytes)
    }

    /// Does the handshake of the filter, if there is one, and waits for that on this thread.
    ///
    /// # Errors
    /// Why there is no connection; [`Error::TimedOut`] at the deadline, [`Error::Closed`] if a
    /// handle has closed it.
    pub fn shake_hands(&mut self, deadline: Option<Instant>) -> OurResult<()> {
        self.connection.finish_handshake(deadline)
    }

    /// Has the loop of a connected attempt do the handshake. `notify` is told when that has come to
    /// an end.
    pub fn shake_hands_then(self, notify: &Arc<Notify>) -> Handshake {
        let mut connection = self.into_connection();
        let (handle, shared) = (connection.handle(), connection.disown());
        let greeting = Greeting::new(notify);
        // Only a scheduled task is begun, and until here it was the caller's.
        shared.task.word.hand_over(Events::NONE);
        if let Some(mut run) = shared.task.begin() {
            *run = Runner::greeting(connection, greeting.clone());
            run.reschedule();
            schedule(&shared);
        }
        Handshake { greeting, handle, is_over: false }
    }

    /// A handle, to send what the connection begins with once it is connected, and to end its
    /// handshake from another thread.
    pub fn handle(&self) -> Handle {
        self.connection.handle()
    }

    /// The connection, for the caller to drive.
    pub fn into_connection(mut self) -> Connection {
        self.connection.settle();
        self.connection
    }

    /// Lets callbacks drive the connection, where its group says; `on_prepare` is the first.
    pub fn serve(self, callbacks: &Arc<dyn Prepare>) -> Handle {
        let mut connection = self.connection;
        let (handle, shared) = (connection.handle(), connection.disown());
        shared.group.note_sessions(&**callbacks);
        // Only a scheduled task is begun, and until here it was the caller's.
        shared.task.word.hand_over(Events::NONE);
        if let Some(mut run) = shared.task.begin() {
            *run = Runner::serving(connection, callbacks.clone());
            run.reschedule();
            schedule(&shared);
        }
        handle
    }
}

impl Handshake {
    /// How it has ended; `None` while it is under way. To be asked again only after `None`.
    pub fn outcome(&mut self) -> Option<OurResult<Attempt>> {
        let outcome = self.greeting.take()?;
        self.is_over = true;
        Some(outcome.map(|connection| Attempt { connection, may_meet_itself: false }))
    }
}

impl Drop for Handshake {
    fn drop(&mut self) {
        if !self.is_over && self.greeting.take().is_none() {
            self.handle.abort();
        }
    }
}

impl fmt::Debug for Handshake {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_tuple("Handshake").field(&self.handle).finish()
    }
}

impl fmt::Display for AttemptOutcome {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connected => out.write_str("connected"),
            Self::Again(error) | Self::Failed(error) => error.fmt(out),
        }
    }
}
