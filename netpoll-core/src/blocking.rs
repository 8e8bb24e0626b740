//! Where a thread may wait: not in what runs on a reactor's thread and keeps it.

use std::cell::Cell;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::hand_off::{self, Cause, Permission};
use crate::waits::{Of, Waiting, Wake};

thread_local! {
    static FORBIDDEN: Cell<Option<Why>> = const { Cell::new(None) };
}

/// Why a thread may not wait.
#[derive(Debug, Clone, Copy)]
enum Why {
    /// What it runs must not.
    Inline,
    /// It runs what no other thread could be had for.
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
/// reactor on if the thread has one, since nobody else could end the wait.
///
/// # Errors
/// As [`check`], and [`Error::NoThread`] where the system refuses the thread that would go on with
/// the reactor.
pub fn enter(doing: &str) -> Result<()> {
    check(doing)?;
    // Others can use the blocks that rest with it, which else are as many as threads.
    netpoll_buffer::share_cache();
    match hand_off::give_away(Cause::Waited) {
        Permission::Granted => Ok(()),
        Permission::HoldsCore => Err(must_not(doing)),
        Permission::NoThread => Err(Error::NoThread),
    }
}

/// As [`enter`], for a wait that may be ended before its time where threads run out.
pub(crate) fn begin(doing: &str, of: Of, wake: Option<Arc<dyn Wake>>) -> Result<Waiting> {
    enter(doing)?;
    Ok(Waiting::begin(of, wake))
}

fn must_not(doing: &str) -> Error {
    Error::config(format!(
        "cannot {doing} in a receipt, in a tick or in a callback under Dispatch::Inline, which \
         must not wait: use another dispatch mode, or another thread"
    ))
}

/// While it lives, this thread may not wait.
#[derive(Debug)]
pub(crate) struct Forbidden {
    before: Option<Why>,
}

impl Forbidden {
    /// Because of what runs here.
    pub(crate) fn here() -> Self {
        Self { before: FORBIDDEN.replace(Some(Why::Inline)) }
    }

    /// Because there is no thread that could go on with the reactor.
    pub(crate) fn for_want_of_threads() -> Self {
        Self { before: FORBIDDEN.replace(Some(Why::NoThread)) }
    }
}

impl Drop for Forbidden {
    fn drop(&mut self) {
        FORBIDDEN.set(self.before);
    }
}
