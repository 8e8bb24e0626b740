//! When an event loop serves: every listener is watched by its loop, a descriptor is left to accept
//! with, and the process that had the listeners before, if there is one, has released them.

use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Instant;

use crate::sync::{lock, wait_while};

/// The start of one `serve`, and its end.
#[derive(Default)]
pub(crate) struct Opening {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Sockets that no loop watches yet.
    unwatched: usize,
    /// What is done when each is watched; set when no further socket is opened at the start.
    then: Option<Box<dyn FnOnce() + Send>>,
    /// What is called when the event loop serves.
    on_serving: Option<Box<dyn FnOnce() + Send>>,
    phase: Phase,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Phase {
    #[default]
    Opening,
    Serving,
    /// The `serve` has failed, or was shut down.
    Ended,
}

/// Keeps an event loop from serving: it serves when this is dropped.
pub(crate) struct Hold(Arc<Opening>);

/// Ends an opening together with its `serve`.
pub(crate) struct Ending<'a>(&'a Opening);

impl Opening {
    /// One more socket must be watched before the event loop serves.
    pub(crate) fn expect_one(&self) {
        self.state().unwatched += 1;
    }

    /// One of these sockets is watched.
    pub(crate) fn watched(&self) {
        let mut state = self.state();
        state.unwatched -= 1;
        Self::go_on(state);
    }

    /// Runs `then` once when all sockets are watched, on the thread that sees it, unless the
    /// opening has ended by then.
    pub(crate) fn when_watched(&self, then: impl FnOnce() + Send + 'static) {
        let mut state = self.state();
        if state.phase != Phase::Ended {
            state.then = Some(Box::new(then));
            Self::go_on(state);
        }
    }

    /// Calls `told` when the event loop serves, on the thread that sees it.
    pub(crate) fn when_serving(&self, told: impl FnOnce() + Send + 'static) {
        self.state().on_serving = Some(Box::new(told));
    }

    fn go_on(mut state: MutexGuard<'_, State>) {
        if state.unwatched > 0 {
            return;
        }
        let then = state.then.take();
        drop(state);
        if let Some(then) = then {
            then();
        }
    }

    /// The event loop serves when the last clone of the answer is dropped, unless the opening has
    /// ended by then.
    pub(crate) fn hold(self: &Arc<Self>) -> Arc<Hold> {
        Arc::new(Hold(self.clone()))
    }

    /// Ends it, and drops what was to be done when all sockets are watched: that holds the server,
    /// which holds this.
    pub(crate) fn end(&self) {
        self.enter(Phase::Ended);
        let mut state = self.state();
        let left = (state.then.take(), state.on_serving.take());
        drop(state);
        drop(left); // without the lock
    }

    /// Ends it when the answer is dropped.
    pub(crate) fn ending(&self) -> Ending<'_> {
        Ending(self)
    }

    pub(crate) fn is_serving(&self) -> bool {
        self.state().phase == Phase::Serving
    }

    /// Waits until the event loop serves or has ended, or the deadline; returns the phase.
    pub(crate) fn wait(&self, deadline: Instant) -> Phase {
        wait_while(&self.changed, self.state(), deadline, |it| it.phase == Phase::Opening).phase
    }

    fn enter(&self, phase: Phase) {
        let mut state = self.state();
        if state.phase != Phase::Ended {
            state.phase = phase;
        }
        let serves = state.phase == Phase::Serving;
        let told = serves.then(|| state.on_serving.take()).flatten();
        drop(state);
        if let Some(told) = told {
            told();
        }
        self.changed.notify_all();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.0.enter(Phase::Serving);
    }
}

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.end();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use super::*;

    #[test]
    fn it_serves_when_all_is_watched_and_nothing_holds_it() {
        let (opening, calls) = (Arc::new(Opening::default()), Arc::new(AtomicUsize::new(0)));
        opening.expect_one();
        opening.expect_one();
        opening.watched();
        let (hold, count) = (opening.hold(), calls.clone());
        opening.when_watched(move || {
            count.fetch_add(1, Ordering::SeqCst);
        });
        assert_eq!(calls.load(Ordering::SeqCst), 0);
        opening.watched();
        assert_eq!(calls.load(Ordering::SeqCst), 1);
        // A socket that a loop opens later changes nothing.
        opening.expect_one();
        opening.watched();
        assert_eq!(calls.load(Ordering::SeqCst), 1);
        drop(hold.clone());
        assert_eq!(opening.wait(Instant::now()), Phase::Opening);
        drop(hold);
        assert_eq!(opening.wait(Instant::now() + Duration::from_secs(20)), Phase::Serving);
        drop(opening.ending());
        assert!(!opening.is_serving());
        drop(opening.hold());
        assert_eq!(opening.wait(Instant::now()), Phase::Ended, "an end is for good");
    }

    /// Once, a server was never freed when its start had failed.
    #[test]
    fn what_was_to_be_done_goes_with_an_opening_that_ends() {
        let (opening, held) = (Opening::default(), Arc::new(()));
        for _ in 0..2 {
            let captured = held.clone();
            opening.expect_one();
            opening.when_watched(move || drop(captured));
            drop(opening.ending());
            assert_eq!(Arc::strong_count(&held), 1);
        }
    }
}
