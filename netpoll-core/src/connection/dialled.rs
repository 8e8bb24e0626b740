//! Dialling one address: a socket on its way, and how whoever waits for it is told.
//!
//! ```text
//!   dialler's thread                         reactor
//!   Attempt::start   socket, connect ──post──► Register: epoll_ctl, once and for all
//!   Notify::wait                ◄──ring────  the first writable edge, or the end of the reactor
//!   Attempt::outcome SO_ERROR, once
//!   Attempt::into_connection
//! ```
//! Several attempts share a doorbell: which of them it was is asked of each. An attempt that is
//! dropped is closed by its reactor, whatever became of it.

use std::fmt;
use std::io::{self, ErrorKind};
use std::sync::Arc;

use super::callbacks::Prepare;
use super::group::Group;
use super::mailbox::{Command, Remote};
use super::output::Output;
use super::run::Runner;
use super::{Connection, Handle, Owner, Shared, schedule};
use crate::base::address::Address;
use crate::base::error::Error;
use crate::base::notify::Notify;
use crate::io::socket::{ConnectOptions, Stream};
use crate::pure::task::Events;
use crate::sys;

/// A socket on its way to one address.
#[derive(Debug)]
pub struct Attempt {
    connection: Connection,
    /// Its port was ours to choose, so the system may have chosen the port that we dial.
    may_meet_itself: bool,
}

/// How an attempt ended.
#[derive(Debug)]
pub enum Outcome {
    /// The peer is there, or was: what it sent can be read, even where it has gone since.
    Connected,
    /// Nobody is there, but another attempt, from another port, may well succeed.
    Again(io::Error),
    /// The system's answer.
    Failed(io::Error),
}

impl Attempt {
    /// Begins to connect to `to`; `notify` is rung when that has come to an end. The connection
    /// belongs to `group`, and `reactor` watches it.
    ///
    /// # Errors
    /// What connecting met at once. `WouldBlock`: the queue of a Unix socket's listener is full,
    /// and nobody will tell when it is not.
    pub fn start(
        to: &Address,
        options: &ConnectOptions,
        group: &Arc<Group>,
        reactor: &Arc<Remote>,
        notify: &Arc<Notify>,
    ) -> Result<Self, Outcome> {
        let may_meet_itself =
            to.inet().is_some() && options.local.is_none_or(|local| local.port() == 0);
        let fd = sys::connect::connect(to, options).map_err(|error| match error.kind() {
            // With so many sockets coming and going, one chosen port may be taken by the time that
            // it is used.
            ErrorKind::AddrNotAvailable if may_meet_itself => Outcome::Again(error),
            _ => Outcome::Failed(error),
        })?;
        let output = Output::connecting(Stream::new(fd), notify.clone());
        let shared = Arc::new(Shared::dialled(output, group.clone(), reactor.clone(), to.clone()));
        let connection = Connection::new(Owner::caller(shared.clone()));
        if let Some(run) = shared.task.begin() {
            run.keep();
        }
        group.enter();
        if reactor.post(Command::Register(shared)).is_err() {
            return Err(Outcome::Failed(Error::Closed.into()));
        }
        Ok(Self { connection, may_meet_itself })
    }

    /// How it ended; `None` while it is on its way. To be asked again only after `None`.
    pub fn outcome(&mut self) -> Option<Outcome> {
        let shared = self.connection.shared.clone();
        if let Some(error) = shared.output.failure() {
            return Some(Outcome::Failed(error));
        }
        if shared.is_interrupted() || shared.output.is_closed() {
            return Some(Outcome::Failed(Error::Closed.into()));
        }
        if shared.output.is_connecting() {
            return None;
        }
        if let Err(error) = self.connection.shared.stream().take_error() {
            // These two are of a connection that stood. What the peer sent before them is there.
            if !matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe) {
                return Some(Outcome::Failed(error));
            }
            self.connection.scratch().input.fail_at_end(&error);
        }
        let ours = || self.connection.shared.stream().local_address();
        if self.may_meet_itself && ours().is_ok_and(|ours| ours == *shared.peer()) {
            // Dialling a port of this machine that nobody listens on, from that very port: two
            // SYNs cross, and the socket is its own peer.
            let error = ErrorKind::ConnectionRefused;
            return Some(Outcome::Again(error.into()));
        }
        Some(Outcome::Connected)
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
        // Until it was scheduled nobody else begins it: it was ours, and so it still is.
        shared.task.word.hand_over(Events::NONE);
        if let Some(mut run) = shared.task.begin() {
            *run = Runner::serving(connection, callbacks.clone());
            run.reschedule();
            schedule(&shared);
        }
        handle
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connected => out.write_str("connected"),
            Self::Again(error) | Self::Failed(error) => error.fmt(out),
        }
    }
}
