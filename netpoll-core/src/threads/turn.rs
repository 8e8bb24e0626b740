//! What a thread does with a loop: it turns the loop until the loop ends, or until another thread
//! has taken it over.

use std::io;
use std::sync::Arc;

use super::dispatch;
use super::hand_off::Entered;
use super::takeover::{Loop, Takeover};
use crate::base::panic::{Panicked, guard};
use crate::connection::mailbox::Remote;
use crate::pure::baton::{Baton, Held};
use crate::pure::spin::Spin;
use crate::reactor::Core;
use crate::threads::pool::Next;

/// A reactor that no thread turns yet, and that needs no manager.
#[derive(Debug)]
pub struct Reactor {
    core: Core,
}

impl Reactor {
    /// Opens the descriptors that a reactor needs.
    ///
    /// # Errors
    /// The system's: out of descriptors, out of memory.
    pub fn new() -> io::Result<Self> {
        Ok(Self { core: Core::new(0, Spin::Never)? })
    }

    /// What other threads need to reach it.
    pub fn remote(&self) -> Arc<Remote> {
        self.core.remote().clone()
    }

    /// Turns the loop on this thread until the reactor is stopped. Without a manager's threads
    /// behind it, it stays on this thread whatever a callback does. It never spins.
    ///
    /// # Errors
    /// Why it ended though nothing stopped it: the system's wait for events failed, or code outside
    /// of callbacks panicked.
    pub fn run(self) -> io::Result<()> {
        let remote = self.remote();
        turn(Baton::held(Loop { core: self.core, takeover: Takeover::default() }));
        remote.take_failure().map_or(Ok(()), Err)
    }
}

/// Turns a reactor on this thread until it ends, or until another thread has taken it over.
pub(crate) fn turn(held: Held<Loop>) -> Next {
    let (_entered, baton) = (Entered::with(&held), held.baton().clone());
    guard("a loop, outside of callbacks", || go_on(held)).unwrap_or_else(|Panicked| {
        // What the core was about to do is not known, so its connections end.
        Entered::let_go();
        if let Some(Loop { core, .. }) = baton.take_abandoned().and_then(Held::into_inner) {
            core.fail(io::Error::other("a panic outside of callbacks"));
        }
        Next::Leave
    })
}

fn go_on(mut held: Held<Loop>) -> Next {
    held.takeover.begin_hold();
    held.core.change_threads();
    loop {
        let Loop { core, takeover } = &mut *held;
        let Some(scheduled) = core.next(|| takeover.begin_wait()) else { break };
        match dispatch::run(held, scheduled) {
            Some(kept) => held = kept,
            None => return Next::Park,
        }
    }
    if let Some(Loop { core, .. }) = held.into_inner() {
        Entered::let_go();
        core.end();
    }
    Next::Leave
}
