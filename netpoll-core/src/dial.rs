//! Dialling one address: a socket on its way, and how whoever waits for it is told.
//!
//! ```text
//!   dialler's thread                         reactor
//!   Attempt::start   socket, connect ──post──► Register: epoll_ctl, once and for all
//!   Doorbell::wait                ◄──ring────  the first writable edge, or the end of the reactor
//!   Attempt::outcome SO_ERROR, once
//!   Attempt::into_connection
//! ```
//! Several attempts share a doorbell: which of them it was is asked of each. An attempt that is
//! dropped is closed by its reactor, whatever became of it.

use std::fmt;
use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::time::Instant;

use crate::address::Address;
use crate::blocking;
use crate::callbacks::Prepare;
use crate::connection::output::Lane;
use crate::connection::{Connection, Handle, Owner, Shared, schedule};
use crate::error::{Error, Result};
use crate::group::Group;
use crate::reactor::{Command, Remote};
use crate::runner::Runner;
use crate::socket::{ConnectOptions, Stream};
use crate::sync::{Condvar, Mutex, lock, wait_until};
use crate::sys;
use crate::task::Events;
use crate::waits::{Of, Wake};

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

/// Tells a waiting thread that there is something new; what, it finds out by looking.
#[derive(Debug, Default)]
pub struct Doorbell {
    rung: Mutex<bool>,
    visitor: Condvar,
}

impl Attempt {
    /// Begins to connect to `to`; `bell` is rung when that has come to an end. The connection
    /// belongs to `group`, and `home` watches it.
    ///
    /// # Errors
    /// What connecting met at once. `WouldBlock`: the queue of a Unix socket's listener is full,
    /// and nobody will tell when it is not.
    pub fn start(
        to: &Address,
        options: &ConnectOptions,
        group: &Arc<Group>,
        home: &Arc<Remote>,
        bell: &Arc<Doorbell>,
    ) -> Result<Self, Outcome> {
        let may_meet_itself =
            to.inet().is_some() && options.local.is_none_or(|local| local.port() == 0);
        let fd = sys::connect::connect(to, options).map_err(|error| match error.kind() {
            // With so many sockets coming and going, one chosen port may be taken by the time that
            // it is used.
            ErrorKind::AddrNotAvailable if may_meet_itself => Outcome::Again(error),
            _ => Outcome::Failed(error),
        })?;
        let lane = Lane::connecting(Stream::new(fd), bell.clone());
        let shared = Arc::new(Shared::dialled(lane, group.clone(), home.clone(), to.clone()));
        let connection = Connection::new(Owner::caller(shared.clone()));
        if let Some(run) = shared.task.begin() {
            run.keep();
        }
        group.enter();
        if home.post(Command::Register(shared)).is_err() {
            return Err(Outcome::Failed(Error::Closed.into()));
        }
        Ok(Self { connection, may_meet_itself })
    }

    /// How it ended; `None` while it is on its way. To be asked again only after `None`.
    pub fn outcome(&mut self) -> Option<Outcome> {
        let shared = self.connection.shared.clone();
        if let Some(error) = shared.lane.failure() {
            return Some(Outcome::Failed(error));
        }
        if shared.is_interrupted() || shared.lane.is_closed() {
            return Some(Outcome::Failed(Error::Closed.into()));
        }
        if shared.lane.is_connecting() {
            return None;
        }
        if let Err(error) = self.connection.shared.stream().take_error() {
            // These two are of a connection that stood. What the peer sent before them is there.
            if !matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe) {
                return Some(Outcome::Failed(error));
            }
            self.connection.desk().input.fail_at_end(&error);
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

impl Doorbell {
    /// Ends the wait that a thread is in, or the next one.
    pub fn ring(&self) {
        *lock(&self.rung) = true;
        self.visitor.notify_all();
    }

    /// Waits until it is rung, or was since the last wait, or until `deadline`.
    ///
    /// # Errors
    /// As [`blocking::enter`], and of kind `TimedOut` where the thread was wanted elsewhere.
    pub fn wait(self: &Arc<Self>, deadline: Option<Instant>) -> Result<()> {
        let is_rung = std::mem::take(&mut *lock(&self.rung));
        if is_rung {
            return Ok(());
        }
        let waiting = blocking::begin("dial", Of::Elsewhere, Some(self.clone()))?;
        let mut rung = lock(&self.rung);
        let mut late = false;
        while !*rung && !late && !waiting.is_over() {
            (rung, late) = wait_until(&self.visitor, rung, deadline);
        }
        let is_over = !std::mem::take(&mut *rung) && waiting.is_over();
        drop(rung);
        if is_over {
            let text = "ended before its time, since threads have run out";
            return Err(io::Error::new(ErrorKind::TimedOut, text).into());
        }
        Ok(())
    }
}

impl Wake for Doorbell {
    fn wake(&self) {
        drop(lock(&self.rung));
        self.visitor.notify_all();
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
