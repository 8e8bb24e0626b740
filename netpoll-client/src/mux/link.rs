//! One of a multiplexer's connections, and the dialling of the next one when it ends.
//!
//! ```text
//!            asked for, and the pause is over            dialled
//!    Down ─────────────────────────────────► Dialling ───────────► Up
//!     ▲  ▲            a thread of its own        │                  │ it has ended
//!     │  └───────────────────────────────────────┘                  ▼
//!     └───────────── pause, longer with each failure ◄──────────────┘
//! ```
//! Only a response sets the number of failures back to 0.

use std::io::{self, ErrorKind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Instant;

use netpoll_core::{Error, Notify, Result, clock, guard, start_thread};

use super::context::MuxContext;
use super::protocol::MuxProtocol;
use super::until::Until;
use super::wire::{Failure, Wire};
use crate::backoff::random;
use crate::sync::{lock, wait_until};
use crate::watchers::Watchers;

/// See the module.
pub(super) struct Link<P: MuxProtocol> {
    state: Mutex<LinkState<P>>,
    changed: Condvar,
    /// Calls that no thread waits for, while it is not up.
    watchers: Watchers,
}

/// What a call finds.
pub(super) enum Look<P: MuxProtocol> {
    Up(Arc<Wire<P>>),
    /// Nothing yet: the next look is due then, or when something has changed.
    Until(Option<Instant>),
}

enum LinkState<P: MuxProtocol> {
    Down {
        /// How many in a row.
        failures: u32,
        /// When the next try is due.
        retry: Instant,
        /// How the last try, or the last connection, ended; `None` before the first.
        failure: Option<Failure>,
    },
    Dialling {
        failures: u32,
    },
    Up {
        wire: Arc<Wire<P>>,
        /// How many in a row before this connection; its first response sets them to 0.
        failures: u32,
    },
    Closed,
}

impl<P: MuxProtocol> Link<P> {
    pub(super) fn new() -> Self {
        let state = LinkState::Down { failures: 0, retry: clock::now(), failure: None };
        Self { state: Mutex::new(state), changed: Condvar::new(), watchers: Watchers::default() }
    }

    /// The connection, if it is up.
    pub(super) fn up(&self) -> Option<Arc<Wire<P>>> {
        match &*self.state() {
            LinkState::Up { wire, .. } if wire.failure().is_none() => Some(wire.clone()),
            _ => None,
        }
    }

    /// Begins to dial if that is due. Returns the connection if it is up.
    pub(super) fn ensure(self: &Arc<Self>, context: &Arc<MuxContext<P>>) -> Option<Arc<Wire<P>>> {
        self.advance(context, &mut self.state(), clock::now())
    }

    /// The connection, waiting for it until the deadline.
    ///
    /// # Errors
    /// How the last connection or the last try ended, if the next try is not due before the
    /// deadline; else `TimedOut` at the deadline. `Interrupted` where it was cancelled.
    pub(super) fn wait(
        self: &Arc<Self>,
        context: &Arc<MuxContext<P>>,
        until: Until<'_>,
    ) -> Result<Arc<Wire<P>>> {
        let _waking = until.wake_by(|| {
            let link = self.clone();
            Box::new(move || link.look_again())
        });
        let mut state = self.state();
        loop {
            until.check()?;
            match self.look_at(context, &mut state, until.deadline)? {
                Look::Up(wire) => return Ok(wire),
                Look::Until(next) => state = wait_until(&self.changed, state, next),
            }
        }
    }

    /// The same without a wait: `notify` is told when something has changed.
    pub(super) fn look(
        self: &Arc<Self>,
        context: &Arc<MuxContext<P>>,
        deadline: Option<Instant>,
        notify: &Arc<Notify>,
    ) -> Result<Look<P>> {
        let mut state = self.state();
        self.watchers.add(notify);
        self.look_at(context, &mut state, deadline)
    }

    fn look_at(
        self: &Arc<Self>,
        context: &Arc<MuxContext<P>>,
        state: &mut LinkState<P>,
        deadline: Option<Instant>,
    ) -> Result<Look<P>> {
        let now = clock::now();
        if let Some(wire) = self.advance(context, state, now) {
            return Ok(Look::Up(wire));
        }
        let next = match state {
            LinkState::Closed => return Err(Failure::closed().error()),
            LinkState::Down { retry, failure, .. } => {
                let hopeless = !context.reconnects || deadline.is_some_and(|it| *retry > it);
                if let (Some(failure), true) = (failure, hopeless) {
                    return Err(failure.error());
                }
                Some(*retry)
            }
            LinkState::Dialling { .. } | LinkState::Up { .. } => None,
        };
        if deadline.is_some_and(|deadline| now >= deadline) {
            return Err(Failure::new(ErrorKind::TimedOut, "timed out dialling").error());
        }
        Ok(Look::Until([next, deadline].into_iter().flatten().min()))
    }

    /// Has the threads that wait look whether to go on.
    fn look_again(&self) {
        drop(self.state()); // they have looked before this, or wait
        self.changed.notify_all();
    }

    /// Closes for good: all calls that wait fail.
    pub(super) fn close(&self) {
        let before = std::mem::replace(&mut *self.state(), LinkState::Closed);
        self.tell();
        if let LinkState::Up { wire, .. } = before {
            wire.close(Failure::closed());
        }
    }

    /// Notes that a connection has ended, and begins to dial if that is due.
    fn advance(
        self: &Arc<Self>,
        context: &Arc<MuxContext<P>>,
        state: &mut LinkState<P>,
        now: Instant,
    ) -> Option<Arc<Wire<P>>> {
        if let LinkState::Up { wire, failures } = state {
            let Some(failure) = wire.failure() else { return Some(wire.clone()) };
            // A server that accepts and closes is not back yet.
            let failures = if wire.has_answered() { 0 } else { failures.saturating_add(1) };
            *state = down(context, failures, failure);
        }
        if let LinkState::Down { failures, retry, failure } = state
            && now >= *retry
            && (context.reconnects || failure.is_none())
        {
            let failures = *failures;
            *state = LinkState::Dialling { failures };
            let (link, shared) = (self.clone(), context.clone());
            let dialling = start_thread("netpoll-mux-dial", move || link.dial(&shared));
            if let Err(error) = dialling {
                let failure =
                    Failure::new(error.kind(), &format!("cannot start a thread: {error}"));
                *state = down(context, failures.saturating_add(1), failure);
            }
        }
        None
    }

    /// Dials, on a thread of its own: a call may have less time than that takes.
    fn dial(&self, context: &MuxContext<P>) {
        let wire = Wire::new(context);
        let timeout = context.dial_timeout;
        let MuxContext { dialer, network, address, group, cancel, .. } = context;
        let run = || dialer.attempt(network, address, timeout, group, Some(cancel));
        // The user's hooks run in it, and this thread has no caller that would see a panic.
        let attempt = guard("a hook of a dialer", run).unwrap_or_else(|_| Err(panicked(context)));
        context.counters.count_dial(attempt.is_ok());
        let mut state = self.state();
        let LinkState::Dialling { failures } = *state else { return };
        *state = match attempt {
            Ok(attempt) => {
                wire.connected(attempt.serve(&wire.callbacks()));
                LinkState::Up { wire, failures }
            }
            Err(error) => {
                let failure = Failure::new(error.kind(), &error.to_string());
                down(context, failures.saturating_add(1), failure)
            }
        };
        drop(state);
        self.tell();
    }

    /// The state has changed.
    fn tell(&self) {
        self.changed.notify_all();
        self.watchers.tell();
    }

    fn state(&self) -> MutexGuard<'_, LinkState<P>> {
        lock(&self.state)
    }
}

fn panicked<P: MuxProtocol>(context: &MuxContext<P>) -> Error {
    let panic = io::Error::other("a hook of the dialer panicked");
    Error::address("dial", &context.network, &context.address, panic)
}

fn down<P: MuxProtocol>(context: &MuxContext<P>, failures: u32, failure: Failure) -> LinkState<P> {
    let retry = clock::now() + context.backoff.pause(failures, random());
    LinkState::Down { failures, retry, failure: Some(failure) }
}
