//! The atomics that blocks and accounts are counted with: std's, or loom's in a model.

use std::sync::{Mutex, MutexGuard, PoisonError};

#[cfg(not(loom))]
pub(crate) use std::sync::atomic::{AtomicPtr, AtomicU64, AtomicUsize, Ordering, fence};

#[cfg(loom)]
pub(crate) use loom::sync::atomic::{AtomicPtr, AtomicU64, AtomicUsize, Ordering, fence};

/// Locks, whether or not a thread panicked while it held the lock: what the locks of this crate
/// guard is whole at every step, and no user code runs under one.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Represents a block's bytes, so that loom sees each read and each reuse of them: raw pointers are
/// invisible to it. Outside of a model this is nothing.
#[derive(Debug, Default)]
pub(crate) struct Witness {
    #[cfg(loom)]
    bytes: loom::cell::UnsafeCell<()>,
}

#[cfg_attr(not(loom), expect(clippy::unused_self, reason = "nothing outside a model"))]
impl Witness {
    /// This thread reads the block's bytes.
    #[inline]
    pub(crate) fn read(&self) {
        #[cfg(loom)]
        self.bytes.with(|_| ());
    }

    /// The last owner takes the block back: no thread may read the bytes any more.
    #[inline]
    pub(crate) fn reuse(&self) {
        #[cfg(loom)]
        self.bytes.with_mut(|_| ());
    }
}
