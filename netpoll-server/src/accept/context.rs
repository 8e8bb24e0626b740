//! What the acceptors of one event loop have in common, and when they have ended.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use netpoll_core::{Address, Error, Group, PollManager, Prepare, Remote};

use crate::admission::Admission;
use crate::opening::Opening;
use crate::sync::{lock, wait_while};

/// Made once for each `serve`; acceptors and the streams that they accept hold it.
pub(crate) struct AcceptContext {
    pub(crate) group: Arc<Group>,
    pub(crate) callbacks: Arc<dyn Prepare>,
    /// Weak, since streams that wait for a PROXY header hold the context: the last of them would
    /// end the manager on one of the manager's own loops.
    manager: Weak<PollManager>,
    pub(crate) admission: Arc<Admission>,
    /// The main reactor; it ends with the first listener that breaks.
    pub(crate) main: Arc<Remote>,
    pub(crate) opening: Arc<Opening>,
    state: Mutex<State>,
    /// An acceptor or an admission has ended.
    ended: Condvar,
}

#[derive(Default)]
struct State {
    failure: Option<Error>,
    /// Acceptors that a loop may still call.
    acceptors: usize,
    /// Connections that are being admitted at this moment.
    admitting: usize,
    /// `serve` is about to return: nothing more may be admitted.
    closed: bool,
}

/// Counts one acceptor until it is dropped.
pub(super) struct AcceptorCount(Arc<AcceptContext>);

/// Counts one connection that is being admitted, until it is dropped.
pub(super) struct Admitting<'a>(&'a AcceptContext);

impl AcceptContext {
    pub(crate) fn new(
        group: Arc<Group>,
        callbacks: Arc<dyn Prepare>,
        manager: Weak<PollManager>,
        admission: Arc<Admission>,
        main: Arc<Remote>,
        opening: Arc<Opening>,
    ) -> Arc<Self> {
        let (state, ended) = (Mutex::default(), Condvar::new());
        Arc::new(Self { group, callbacks, manager, admission, main, opening, state, ended })
    }

    /// The error that ends `serve`, if there is one.
    pub(crate) fn take_failure(&self) -> Option<Error> {
        self.state().failure.take()
    }

    /// Ends `serve` with this error.
    pub(crate) fn fail(&self, error: Error) {
        self.opening.end();
        self.state().failure.get_or_insert(error);
        self.main.stop(Duration::ZERO);
    }

    /// Waits until no loop accepts any more, or `deadline`.
    pub(crate) fn wait_for_acceptors(&self, deadline: Instant) {
        let state = wait_while(&self.ended, self.state(), deadline, |it| it.acceptors > 0);
        let left = state.acceptors;
        drop(state);
        if left > 0 {
            log::warn!("a loop still accepts: a callback on it doesn't return");
        }
    }

    /// From here on nothing is admitted. Waits for the connections that are being admitted now.
    pub(crate) fn close(&self) {
        let mut state = self.state();
        state.closed = true;
        let waited = self.ended.wait_while(state, |it| it.admitting > 0);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }

    /// Where a connection of `peer` is served: on `own`, else on the loop that the balance chooses;
    /// `None` when nothing is admitted any more. A connection that is admitted before the guard is
    /// dropped is there when the shutdown looks for connections. No lock is held in between, since
    /// an admission may write to the log.
    pub(super) fn place(
        &self,
        own: Option<Arc<Remote>>,
        peer: &Address,
    ) -> Option<(Arc<Remote>, Admitting<'_>)> {
        let reactor = own.or_else(|| Some(self.manager.upgrade()?.pick(peer.ip())))?;
        let mut state = self.state();
        if state.closed {
            return None;
        }
        state.admitting += 1;
        drop(state);
        Some((reactor, Admitting(self)))
    }

    /// Counts one more acceptor.
    pub(super) fn count_acceptor(self: &Arc<Self>) -> AcceptorCount {
        self.state().acceptors += 1;
        AcceptorCount(self.clone())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

impl Drop for AcceptorCount {
    fn drop(&mut self) {
        self.0.state().acceptors -= 1;
        self.0.ended.notify_all();
    }
}

impl Drop for Admitting<'_> {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.admitting -= 1;
        let is_last = state.closed && state.admitting == 0;
        drop(state);
        if is_last {
            self.0.ended.notify_all();
        }
    }
}
