//! How the system schedules the thread of a loop: in batches, while that helps its workers.
//!
//! ```text
//!     turn ── each job for a worker, each turn ──► Batching: does it help?   (pure/batching.rs)
//!          ── a callback of its own ────────────►    │ that has changed
//!                                                    ▼
//!                        Scheduling: is the thread as it was left? ──► the system
//! ```
//! A policy that is not the system's default, or that is not the one that stood here last, is the
//! user's. It is found before a change, and stays. Whichever way a thread leaves its loop, it
//! leaves with the policy that it came with.

use std::cell::Cell;
use std::io;
use std::marker::PhantomData;
use std::sync::OnceLock;

use crate::base::clock;
use crate::pure::batching::Batching;
use crate::sys::{self, Policy};

/// The system has refused a change. It is asked no more.
static REFUSED: OnceLock<()> = OnceLock::new();

thread_local! {
    /// This thread is scheduled in batches because a [`Scheduling`] has changed that.
    static IN_BATCHES: Cell<bool> = const { Cell::new(false) };
}

/// For a thread that turns a loop, while it does.
#[derive(Debug)]
pub(super) struct Scheduling {
    batching: Batching,
    /// The user schedules this thread.
    is_users: bool,
    refused: &'static OnceLock<()>,
    /// It changes this thread, so it stays on it.
    stays: PhantomData<*const ()>,
}

impl Scheduling {
    pub(super) fn new() -> Self {
        Self::with(&REFUSED)
    }

    fn with(refused: &'static OnceLock<()>) -> Self {
        Self { batching: Batching::new(), is_users: false, refused, stays: PhantomData }
    }

    /// A callback goes to the workers.
    #[inline]
    pub(super) fn sent(&mut self) {
        self.batching.sent();
    }

    /// A callback is about to run on this thread.
    #[inline]
    pub(super) fn runs_here(&mut self) {
        if self.batching.runs_here() {
            self.set(false, change);
        }
    }

    /// A turn has ended.
    #[inline]
    pub(super) fn end_turn(&mut self) {
        if let Some(in_batches) = self.batching.end_turn(clock::now) {
            self.set(in_batches, change);
        }
    }

    #[cold]
    fn set(&mut self, in_batches: bool, change: impl FnOnce(Policy, Policy) -> io::Result<bool>) {
        if in_batches == IN_BATCHES.get() || self.is_users || self.refused.get().is_some() {
            return;
        }
        let (before, after) = if in_batches {
            (Policy::Default, Policy::Batch)
        } else {
            (Policy::Batch, Policy::Default)
        };
        let outcome = change(before, after);
        IN_BATCHES.set(in_batches && matches!(outcome, Ok(true)));
        match outcome {
            Ok(is_ours) => self.is_users = !is_ours,
            Err(error) => {
                let _ = self.refused.set(());
                log::debug!("cannot change how the thread of a loop is scheduled: {error}");
            }
        }
    }
}

impl Drop for Scheduling {
    fn drop(&mut self) {
        self.set(false, change);
    }
}

/// For the thread that starts another one, which inherits its policy: what the new thread calls
/// first.
pub(super) fn for_new_thread() -> impl FnOnce() + Send {
    let inherits = IN_BATCHES.get();
    move || {
        if inherits && let Err(error) = change(Policy::Batch, Policy::Default) {
            log::debug!("a thread that was started by that of a loop stays in batches: {error}");
        }
    }
}

/// Changes the policy of this thread; `false`: it is not what it was `before`.
fn change(before: Policy, after: Policy) -> io::Result<bool> {
    if sys::policy()? != before {
        return Ok(false);
    }
    sys::set_policy(after).map(|()| true)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::sync::mpsc;
    use std::thread;

    use super::*;
    use crate::threads::pool::Starter;

    /// What a thread finds that has been in batches.
    fn on_a_thread(test: impl FnOnce() + Send) {
        // The tests may have been started at a lower one, which not all may leave.
        let test = || {
            let _ = sys::set_policy(Policy::Default);
            test();
        };
        thread::scope(|scope| scope.spawn(test).join().expect("the test passes"));
    }

    fn now() -> Policy {
        sys::policy().expect("it can be asked")
    }

    #[test]
    fn a_thread_that_leaves_its_loop_is_scheduled_as_before() {
        on_a_thread(|| {
            assert_eq!(now(), Policy::Default);
            let mut scheduling = Scheduling::new();
            scheduling.set(true, change);
            assert_eq!(now(), Policy::Batch);
            scheduling.set(false, change);
            assert_eq!(now(), Policy::Default);
            scheduling.set(true, change);
            drop(scheduling);
            assert_eq!(now(), Policy::Default);
        });
    }

    #[test]
    fn a_policy_of_the_user_is_never_touched() {
        const IDLE: Policy = Policy::Other(5); // SCHED_IDLE
        for users in [Policy::Batch, IDLE] {
            on_a_thread(move || {
                sys::set_policy(users).expect("it needs no privilege");
                let mut scheduling = Scheduling::new();
                for in_batches in [true, false, true] {
                    scheduling.set(in_batches, change);
                    assert_eq!(now(), users);
                }
                drop(scheduling);
                assert_eq!(now(), users);
            });
        }
        // It is set while the thread is in batches, and at another time.
        for in_batches in [true, false] {
            on_a_thread(move || {
                let mut scheduling = Scheduling::new();
                scheduling.set(true, change);
                scheduling.set(in_batches, change);
                sys::set_policy(IDLE).expect("it needs no privilege");
                for in_batches in [!in_batches, in_batches] {
                    scheduling.set(in_batches, change);
                    assert_eq!(now(), IDLE);
                }
                drop(scheduling);
                assert_eq!(now(), IDLE);
            });
        }
    }

    #[test]
    fn a_system_that_refuses_is_asked_once() {
        static NEVER: OnceLock<()> = OnceLock::new();
        on_a_thread(|| {
            let asked = Cell::new(0);
            let refuse = |_, _| {
                asked.set(asked.get() + 1);
                Err(io::ErrorKind::PermissionDenied.into())
            };
            for _ in 0..2 {
                let mut scheduling = Scheduling::with(&NEVER);
                scheduling.set(true, refuse);
                scheduling.set(false, refuse);
                scheduling.set(true, refuse);
            }
            assert_eq!((asked.get(), now()), (1, Policy::Default));
        });
    }

    #[test]
    fn threads_that_a_loop_starts_are_not_in_batches() {
        on_a_thread(|| {
            let mut scheduling = Scheduling::new();
            scheduling.set(true, change);
            let inherited = thread::spawn(now);
            assert_eq!(inherited.join().expect("a policy"), Policy::Batch);
            let (tell, told) = mpsc::channel();
            let starter = Starter::new("a thread of a test");
            let begun = starter.start("begun".into(), move || tell.send(now()).expect("a test"));
            begun.expect("a thread").join().expect("it returns");
            assert_eq!(told.recv().expect("a policy"), Policy::Default);
        });
    }
}
