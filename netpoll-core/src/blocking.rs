//! Where a thread may wait: not in what runs on a reactor's thread and keeps it.

use std::cell::Cell;

use crate::error::{Error, Result};

thread_local! {
    static FORBIDDEN: Cell<bool> = const { Cell::new(false) };
}

/// Checks that this thread may wait, before a wait that another thread may have to end.
///
/// In a callback under [`Dispatch::Inline`](crate::Dispatch::Inline) it may not, and not in the
/// receipt of a message: the reactor stands still meanwhile, and what is waited for may be its to
/// do.
///
/// # Errors
/// [`Error::Config`], which says that `doing` can't be done here, and where it can.
pub fn check(doing: &str) -> Result<()> {
    if FORBIDDEN.get() {
        return Err(Error::config(format!(
            "cannot {doing} in a receipt or in a callback under Dispatch::Inline, which must not \
             wait: use another dispatch mode, or another thread"
        )));
    }
    Ok(())
}

/// While it lives, this thread may not wait.
#[derive(Debug)]
pub(crate) struct Forbidden {
    before: bool,
}

impl Forbidden {
    pub(crate) fn here() -> Self {
        Self { before: FORBIDDEN.replace(true) }
    }
}

impl Drop for Forbidden {
    fn drop(&mut self) {
        FORBIDDEN.set(self.before);
    }
}
