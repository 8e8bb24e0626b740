//! Waking a reactor from other threads: a flag that coalesces, and an eventfd behind it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use crate::sync::{AtomicBool, Ordering};
use crate::sys::Bell;

/// Wakes one reactor. A wake costs a system call only when the reactor is asleep and nobody has
/// woken it yet; all others cost one load.
#[derive(Debug)]
pub(crate) struct Waker {
    flag: SleepFlag,
    bell: Bell,
}

impl Waker {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self { flag: SleepFlag::new(), bell: Bell::new()? })
    }

    /// Makes the reactor's next wait, or the one it is in, return. To be called *after* the work it
    /// should find has been queued.
    pub(crate) fn wake(&self) {
        if self.flag.must_ring() {
            self.bell.ring();
        }
    }

    /// For the reactor: from now on a wake must ring. It must look at its queue once more between
    /// this and the wait.
    pub(crate) fn going_to_sleep(&self) {
        self.flag.going_to_sleep();
    }

    /// For the reactor: it is awake and will look at its queue before it sleeps again.
    pub(crate) fn awake(&self) {
        self.flag.awake();
    }
}

impl AsFd for Waker {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }
}

/// Set while the reactor sleeps, or is about to, and nobody has rung.
///
/// No wake is lost because both sides write before they look: the waker queues work, then looks at
/// the flag; the reactor sets the flag, then looks at the queue.
#[derive(Debug)]
pub(crate) struct SleepFlag(AtomicBool);

impl SleepFlag {
    pub(crate) fn new() -> Self {
        Self(AtomicBool::new(false))
    }

    pub(crate) fn must_ring(&self) -> bool {
        self.0.load(Ordering::SeqCst) && self.0.swap(false, Ordering::SeqCst)
    }

    pub(crate) fn going_to_sleep(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    pub(crate) fn awake(&self) {
        self.0.store(false, Ordering::SeqCst);
    }
}

#[cfg(all(test, loom))]
mod loom_models {
    use loom::sync::Arc;
    use loom::thread;

    use super::SleepFlag;
    use crate::sync::{AtomicUsize, Mutex, Ordering, lock};

    /// Two threads queue work and wake; the reactor sleeps only if nobody rings. In every
    /// interleaving it finds both pieces of work, and the bell rings at most once per sleep.
    #[test]
    fn loom_no_wake_is_lost_and_rings_coalesce() {
        loom::model(|| {
            let shared = Arc::new((SleepFlag::new(), Mutex::new(0), AtomicUsize::new(0)));
            let wakers: Vec<_> = (0..2)
                .map(|_| {
                    let shared = shared.clone();
                    thread::spawn(move || {
                        *lock(&shared.1) += 1;
                        if shared.0.must_ring() {
                            shared.2.fetch_add(1, Ordering::SeqCst);
                        }
                    })
                })
                .collect();
            let (flag, queue, rings) = &*shared;
            flag.going_to_sleep();
            let found = *lock(queue);
            for waker in wakers {
                waker.join().expect("the model's thread");
            }
            let rang = rings.load(Ordering::SeqCst);
            assert!(found == 2 || rang > 0, "asleep with {found} of 2 found and no ring");
            assert!(rang <= 1, "{rang} rings for one sleep");
        });
    }
}
