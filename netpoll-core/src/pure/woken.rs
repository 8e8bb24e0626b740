//! Whether the future of a connection was woken since its last poll.
//!
//! ```text
//!     wake: the flag, then, if it was clear, the word ──► the owner's run ──► take ──► poll
//! ```
//! Wakes before a poll are one. The flag is taken before the poll, so a wake that comes while the
//! future is polled sets it anew, and has the owner run once more.

use crate::base::sync::{AtomicBool, Ordering};

/// See the module.
#[derive(Debug)]
pub struct Woken(AtomicBool);

impl Woken {
    /// Woken: the first poll is due.
    pub fn new() -> Self {
        Self(AtomicBool::new(true))
    }

    /// Wakes, from any thread. `true`: the caller has the connection run.
    #[must_use = "a wake that schedules nothing is lost"]
    pub fn wake(&self) -> bool {
        !self.0.swap(true, Ordering::AcqRel)
    }

    /// The same for a callback of the connection, which [takes](Self::take) it then.
    pub fn note(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// For the owner, before a poll: whether one is due.
    pub fn take(&self) -> bool {
        self.0.swap(false, Ordering::AcqRel)
    }
}

impl Default for Woken {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(all(test, loom))]
mod loom_models {
    use std::sync::Arc;

    use loom::sync::atomic::{AtomicUsize, Ordering::Relaxed};
    use loom::thread;

    use super::*;
    use crate::base::sync::explore;
    use crate::pure::task::{Events, Task};

    /// What is wrong in a model that has to fail.
    #[derive(Clone, Copy, PartialEq, Eq)]
    enum Bug {
        None,
        /// The flag is cleared after the poll.
        PollsFirst,
        /// A run that was woken once more while it polled gives the connection back.
        ReleasesBlindly,
    }

    /// A connection whose future looks at what others have done before they woke it. The thread
    /// that schedules the connection runs it, at once.
    struct Model {
        task: Task<usize>,
        woken: Woken,
        done: AtomicUsize,
        bug: Bug,
    }

    impl Model {
        fn wakes(&self) {
            self.done.fetch_add(1, Relaxed);
            if self.woken.wake() && self.task.word.notify(Events::WAKE) {
                self.run();
            }
        }

        fn run(&self) {
            let Some((mut run, mut events)) = self.task.begin_and_look() else { return };
            loop {
                if self.task.word.clear(events.and(Events::WAKE)) != Events::NONE {
                    self.go_on(&mut run);
                }
                if self.bug == Bug::ReleasesBlindly {
                    run.release_blindly();
                    return;
                }
                match run.release() {
                    Ok(()) => return,
                    Err(again) => run = again,
                }
                events = run.look();
            }
        }

        /// As the session of a connection.
        fn go_on(&self, seen: &mut usize) {
            if self.bug == Bug::PollsFirst {
                *seen = self.done.load(Relaxed);
                self.woken.take();
            } else if self.woken.take() {
                *seen = self.done.load(Relaxed);
            }
        }
    }

    fn wakes_against_a_poll(bug: Bug) {
        explore(move || {
            let (task, done) = (Task::new(0), AtomicUsize::new(0));
            let model = Arc::new(Model { task, woken: Woken::new(), done, bug });
            // Its first poll, after which it is idle.
            model.woken.take();
            model.run();
            let other = model.clone();
            let others = thread::spawn(move || other.wakes());
            model.wakes();
            others.join().unwrap();
            assert!(!model.woken.take(), "a wake was lost: it is noted, and no poll comes");
            let run = model.task.word.notify(Events::WAKE).then(|| model.task.begin());
            let run = run.flatten().expect("a wake was lost: the connection is left scheduled");
            assert_eq!(*run, 2, "a wake was lost: the last poll has not seen what came before it");
            run.keep();
        });
    }

    #[test]
    fn loom_no_wake_of_a_connection_is_lost_to_a_poll() {
        wakes_against_a_poll(Bug::None);
    }

    #[test]
    #[should_panic(expected = "a wake was lost")]
    fn loom_finds_a_flag_that_is_cleared_after_the_poll() {
        wakes_against_a_poll(Bug::PollsFirst);
    }

    #[test]
    #[should_panic(expected = "a wake was lost")]
    fn loom_finds_a_connection_that_is_given_back_blindly() {
        wakes_against_a_poll(Bug::ReleasesBlindly);
    }
}
