//! Locks and timed waits that ignore poison.

use netpoll_core::clock;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// Locks, whether or not a holder panicked: what these locks guard is whole at every step, and no
/// user code runs under one.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits while `condition` holds, until `deadline` at most. The caller looks which of the two ended
/// the wait.
pub(crate) fn wait_while<'a, T>(
    changed: &Condvar,
    guard: MutexGuard<'a, T>,
    deadline: Instant,
    mut condition: impl FnMut(&T) -> bool,
) -> MutexGuard<'a, T> {
    let left = deadline.saturating_duration_since(clock::now());
    let waited = changed.wait_timeout_while(guard, left, |it| condition(it));
    waited.unwrap_or_else(PoisonError::into_inner).0
}
