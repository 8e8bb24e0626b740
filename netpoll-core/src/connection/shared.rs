//! What everybody shares of a connection: its task, its lane, and where it belongs.

use std::fmt;
use std::sync::Arc;

use crate::address::Address;
use crate::dispatch;
use crate::error::{Error, Result};
use crate::forecast::{Conduct, Forecast, Place};
use crate::group::Group;
use crate::origin::{ListenerInfo, Origin, Ticket};
use crate::reactor::{Command, Remote};
use crate::runner::{self, Runner};
use crate::slab::Token;
use crate::sync::{AtomicU64, Mutex, Ordering, lock};
use crate::task::{Events, Task};

use super::output::Lane;

/// See the module.
pub(crate) struct Shared {
    pub(crate) task: Task<Runner>,
    pub(crate) lane: Lane,
    pub(crate) group: Arc<Group>,
    pub(crate) home: Arc<Remote>,
    pub(crate) peer: Address,
    /// The listener that it came by; a dialled one has none.
    pub(crate) listener: Option<Arc<ListenerInfo>>,
    /// The address of our end where a proxy has told; else it is asked of the socket.
    local: Option<Address>,
    /// What its acceptor wants back when the socket has closed.
    ticket: Mutex<Option<Ticket>>,
    /// Under what name the reactor knows it; [`Token::NONE`] before that.
    token: AtomicU64,
    forecast: Forecast,
}

impl Shared {
    /// A connection that came in; it counts among those of its loop until its socket closes.
    pub(crate) fn accepted(
        lane: Lane,
        group: Arc<Group>,
        home: Arc<Remote>,
        origin: Origin,
    ) -> Self {
        let Origin { listener, peer, local, ticket } = origin;
        let mut shared = Self::dialled(lane, group, home, peer);
        (shared.listener, shared.local) = (Some(listener), local);
        shared.ticket = Mutex::new(ticket);
        shared
    }

    /// A connection that we opened.
    pub(crate) fn dialled(lane: Lane, group: Arc<Group>, home: Arc<Remote>, peer: Address) -> Self {
        home.enter();
        let token = AtomicU64::new(Token::NONE.to_u64());
        let (task, ticket) = (Task::new(Runner::default()), Mutex::new(None));
        let (listener, local, forecast) = (None, None, Forecast::default());
        Self { task, lane, group, home, peer, listener, local, ticket, token, forecast }
    }

    /// Where its next callback should run, by what the last ones did.
    pub(crate) fn place(&self) -> Place {
        self.forecast.place(&self.home.prior)
    }

    /// Notes what a callback of it did.
    pub(crate) fn note(&self, conduct: Conduct) {
        self.forecast.note(conduct, &self.home.prior);
    }

    pub(crate) fn token(&self) -> Token {
        Token::from_u64(self.token.load(Ordering::Acquire))
    }

    pub(crate) fn set_token(&self, token: Token) {
        self.token.store(token.to_u64(), Ordering::Release);
    }

    /// Starts an orderly close, from any thread; whoever waits in a read or a flush of it returns.
    pub(crate) fn request_close(self: &Arc<Self>) {
        if self.group.is_dialled() {
            // Its caller may hold it for long; the peer is told now.
            self.lane.close();
        }
        if self.task.word.notify(Events::CLOSE) {
            schedule(self);
        }
        self.lane.interrupt();
    }

    /// Closes now, from any thread, whatever is left to send.
    pub(crate) fn abort(self: &Arc<Self>) -> bool {
        let must_run = self.task.word.notify(Events::ABORT);
        self.lane.interrupt();
        must_run
    }

    pub(crate) fn is_active(&self) -> bool {
        let over = Events::CLOSE | Events::ABORT | Events::PEER_CLOSED | Events::FAILED;
        !self.task.word.events().has_any(over) && !self.task.word.is_closed()
    }

    pub(crate) fn local_addr(&self) -> Result<Address> {
        if let Some(told) = &self.local {
            return Ok(told.clone());
        }
        let stream = self.lane.stream().ok_or(Error::Closed)?;
        Ok(stream.local_address()?)
    }

    /// Whether its owner has been told to stop waiting.
    pub(crate) fn is_interrupted(&self) -> bool {
        self.task.word.events().has_any(Events::CLOSE | Events::ABORT)
    }

    /// Hands the closed connection back to its reactor, which closes the socket.
    pub(crate) fn finish(self: &Arc<Self>) {
        if self.token() == Token::NONE || self.home.post(Command::Finish(self.token())).is_err() {
            self.close_stream();
        }
    }

    /// Closes the socket and leaves the group: the last act.
    pub(crate) fn close_stream(&self) {
        let (stream, lost) = self.lane.take_stream();
        if let (Some(stream), 1..) = (&stream, lost) {
            log::debug!("{lost} accepted bytes to {} were not sent", self.peer);
            if let Err(error) = stream.reset_on_close() {
                log::debug!("cannot reset the connection to {}: {error}", self.peer);
            }
        }
        drop(stream);
        self.home.leave();
        let ticket = lock(&self.ticket).take();
        drop(ticket);
        self.group.leave();
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Connection")
            .field("peer", &self.peer)
            .field("task", &self.task)
            .field("pending", &self.lane.pending())
            .finish_non_exhaustive()
    }
}

/// Sees to it that a scheduled connection is begun, from a thread that is not its reactor's.
pub(crate) fn schedule(shared: &Arc<Shared>) {
    let Err(shared) = dispatch::submit(shared.clone()) else {
        return;
    };
    if let Err(Command::Run(shared)) = shared.home.clone().post(Command::Run(shared)) {
        // The reactor is gone: what is left to do, ending the connection, is done here.
        shared.abort();
        runner::run_to_end(&shared);
    }
}
