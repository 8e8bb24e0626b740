//! Locks of this crate, and timed waits on them.

use netpoll_core::clock;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// Locks, whether or not a thread panicked while it held the lock: what the locks of this crate
/// guard is whole at every step, and no user code runs under one.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits on `condvar` until it is notified, or until the time `until` if there is one. May return
/// early, so the caller must check its condition again.
pub(crate) fn wait_until<'a, T>(
    condvar: &Condvar,
    guard: MutexGuard<'a, T>,
    until: Option<Instant>,
) -> MutexGuard<'a, T> {
    let Some(until) = until else {
        return condvar.wait(guard).unwrap_or_else(PoisonError::into_inner);
    };
    let left = until.saturating_duration_since(clock::now());
    condvar.wait_timeout(guard, left).unwrap_or_else(PoisonError::into_inner).0
}
