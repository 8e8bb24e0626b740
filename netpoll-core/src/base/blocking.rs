//! Where a thread may wait: not in what runs on a reactor's thread and keeps it.
//!
//! ```text
//!     a read, a flush, a dial ──► enter ──► allowed here? ──► the hook of this thread ──► wait
//!                                                             (a thread that turns a reactor
//!                                                              passes it on to another)
//! ```
//! This floor knows no reactor. The threads floor installs the hook on the threads that turn one.

use std::cell::Cell;
use std::sync::Arc;

use crate::base::error::{Error, Result};
use crate::base::stats::Cause;
use crate::base::waits::{Waiting, WaitsFor, Wake};

thread_local! {
    static FORBIDDEN: Cell<Option<Why>> = const { Cell::new(None) };
    static HOOK: Cell<Option<Hook>> = const { Cell::new(None) };
    /// The callback that this thread runs has waited in one of our calls.
    static WAITED: Cell<bool> = const { Cell::new(false) };
}

/// Runs before a thread waits, for that reason; it says whether the thread may.
pub(crate) type Hook = fn(Cause) -> Permission;

/// Whether a thread may wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Permission {
    /// It may: it turns no reactor, or has lost the core.
    Granted,
    /// It may not: it holds the core of its reactor and is in no callback, so the reactor would
    /// stand still.
    HoldsCore,
    /// It may not: the system refuses the thread that would go on with its reactor.
    NoThread,
}

/// Why a thread may not wait.
#[derive(Debug, Clone, Copy)]
enum Why {
    /// What it runs must not.
    Inline,
    /// It runs a callback for which there is no other thread.
    NoThread,
}

/// Checks that this thread may wait, before a wait that another thread may have to end.
///
/// In a callback under [`Dispatch::Inline`](crate::Dispatch::Inline) it may not, and not in the
/// receipt of a message: the reactor stands still meanwhile, and what is waited for may be its to
/// do.
///
/// # Errors
/// [`Error::Config`], which says that `doing` can't be done here, and where it can.
/// [`Error::NoThread`] where the callback runs on its reactor's thread because the system refuses
/// any other.
pub fn check(doing: &str) -> Result<()> {
    match FORBIDDEN.get() {
        None => Ok(()),
        Some(Why::Inline) => Err(must_not(doing)),
        Some(Why::NoThread) => Err(Error::NoThread),
    }
}

/// To be called right before this thread waits for the network: checks that it may, and passes the
/// reactor on if the thread has one, since no other thread could end the wait.
///
/// # Errors
/// As [`check`], and [`Error::NoThread`] where the system refuses the thread that would go on with
/// the reactor.
pub fn enter(doing: &str) -> Result<()> {
    check(doing)?;
    // Other threads can use the blocks in its cache, or there would be as many unused ones as there
    // are threads.
    netpoll_buffer::share_cache();
    match about_to_wait(Cause::Waited) {
        Permission::Granted => Ok(()),
        Permission::HoldsCore => Err(must_not(doing)),
        Permission::NoThread => Err(Error::NoThread),
    }
}

/// As [`enter`], for a wait that may be ended before its time where threads run out.
pub(crate) fn begin(doing: &str, of: WaitsFor, wake: Option<Arc<dyn Wake>>) -> Result<Waiting> {
    enter(doing)?;
    Ok(Waiting::begin(of, wake))
}

/// Says that this thread is about to wait: where it turns a reactor, another thread goes on with
/// the reactor from here on.
pub(crate) fn about_to_wait(cause: Cause) -> Permission {
    WAITED.set(true);
    HOOK.get().map_or(Permission::Granted, |hook| hook(cause))
}

/// Whether this thread has waited in one of our calls since this was asked last.
pub(crate) fn take_waited() -> bool {
    WAITED.take()
}

/// Installs the hook of this thread; returns the one before.
pub(crate) fn replace_hook(hook: Option<Hook>) -> Option<Hook> {
    HOOK.replace(hook)
}

/// While it lives, this thread may not wait.
#[derive(Debug)]
pub(crate) struct Forbidden {
    before: Option<Why>,
}

impl Forbidden {
    /// For a callback that must not wait.
    pub(crate) fn here() -> Self {
        Self { before: FORBIDDEN.replace(Some(Why::Inline)) }
    }

    /// For a callback that runs where no thread could go on with the reactor.
    pub(crate) fn for_want_of_threads() -> Self {
        Self { before: FORBIDDEN.replace(Some(Why::NoThread)) }
    }
}

impl Drop for Forbidden {
    fn drop(&mut self) {
        FORBIDDEN.set(self.before);
    }
}

fn must_not(doing: &str) -> Error {
    Error::config(format!(
        "cannot {doing} in a receipt, in a tick, in a closure of on_gone or in a callback under \
         Dispatch::Inline, which must not wait: use another dispatch mode, or another thread"
    ))
}
