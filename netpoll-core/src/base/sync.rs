//! The locks, atomics and cells of this crate, and their twins in loom's models.
//!
//! Everything that two threads share goes through here, so that `--cfg loom` swaps all of it at
//! once.

#[cfg(not(loom))]
pub(crate) use std::sync::{
    Condvar, Mutex, MutexGuard,
    atomic::{AtomicBool, AtomicU8, AtomicU16, AtomicU32, AtomicU64, AtomicUsize, Ordering},
};

#[cfg(loom)]
pub(crate) use loom::{
    cell::UnsafeCell,
    sync::{
        Condvar, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicU8, AtomicU16, AtomicU32, AtomicU64, AtomicUsize, Ordering},
    },
};

/// For statics, which loom's atomics can't be: no model may depend on one.
pub(crate) use std::sync::atomic::AtomicU64 as StaticU64;

#[cfg(not(loom))]
pub(crate) use crossbeam_channel as channel;

use crate::base::clock;
use std::sync::PoisonError;
use std::time::Instant;

/// Locks, whether or not a holder panicked: what our locks guard is whole at every step, and no
/// user code runs under one.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits on `condvar` until notified or `deadline`; says whether the deadline has passed.
pub(crate) fn wait_until<'a, T>(
    condvar: &Condvar,
    guard: MutexGuard<'a, T>,
    deadline: Option<Instant>,
) -> (MutexGuard<'a, T>, bool) {
    let Some(deadline) = deadline else {
        return (condvar.wait(guard).unwrap_or_else(PoisonError::into_inner), false);
    };
    let left = deadline.saturating_duration_since(clock::now());
    if left.is_zero() {
        return (guard, true);
    }
    let (guard, _) = condvar.wait_timeout(guard, left).unwrap_or_else(PoisonError::into_inner);
    (guard, false)
}

/// `std::cell::UnsafeCell` with the closures of loom's, which checks each access in a model.
#[cfg(not(loom))]
#[derive(Debug)]
pub(crate) struct UnsafeCell<T>(std::cell::UnsafeCell<T>);

#[cfg(not(loom))]
impl<T> UnsafeCell<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(std::cell::UnsafeCell::new(value))
    }

    pub(crate) fn with_mut<R>(&self, access: impl FnOnce(*mut T) -> R) -> R {
        access(self.0.get())
    }
}

/// Runs a model in all interleavings with at most three preemptions, unless `LOOM_MAX_PREEMPTIONS`
/// says otherwise: bugs of this kind need one or two, and models with three threads would run for
/// hours.
#[cfg(all(test, loom))]
pub(crate) fn explore(model: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = builder.preemption_bound.or(Some(3));
    builder.check(model);
}

/// In models it stands for `crossbeam_channel`, with as much of it as the crate uses.
///
/// Each call is one step that loom does not take apart, so a model stays small enough to explore.
/// A fence orders the calls among other sequentially consistent accesses here; the accesses of the
/// real channel are sequentially consistent themselves.
#[cfg(loom)]
pub(crate) mod channel {
    use std::collections::VecDeque;
    use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

    use loom::sync::atomic::{Ordering, fence};

    type Queue<T> = Arc<Mutex<VecDeque<T>>>;

    pub(crate) struct Sender<T>(Queue<T>);

    pub(crate) struct Receiver<T>(Queue<T>);

    /// A message that was not sent; there is none.
    pub(crate) struct SendError<T>(pub(crate) T);

    pub(crate) fn unbounded<T>() -> (Sender<T>, Receiver<T>) {
        let queue = Queue::default();
        (Sender(queue.clone()), Receiver(queue))
    }

    fn lock<T>(queue: &Mutex<VecDeque<T>>) -> MutexGuard<'_, VecDeque<T>> {
        queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    impl<T> Sender<T> {
        pub(crate) fn send(&self, message: T) -> Result<(), SendError<T>> {
            lock(&self.0).push_back(message);
            fence(Ordering::SeqCst);
            Ok(())
        }
    }

    impl<T> Receiver<T> {
        pub(crate) fn try_recv(&self) -> Result<T, ()> {
            fence(Ordering::SeqCst);
            lock(&self.0).pop_front().ok_or(())
        }

        pub(crate) fn len(&self) -> usize {
            fence(Ordering::SeqCst);
            lock(&self.0).len()
        }
    }
}
