//! The atomics that blocks and accounts are counted with: std's, or loom's in a model.

#[cfg(not(loom))]
pub(crate) use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering, fence};

#[cfg(loom)]
pub(crate) use loom::sync::atomic::{AtomicPtr, AtomicUsize, Ordering, fence};

/// Stands for a block's bytes, so that loom sees who reads and who reuses them: raw pointers are
/// invisible to it. Outside a model this is nothing.
#[derive(Debug, Default)]
pub(crate) struct Witness {
    #[cfg(loom)]
    bytes: loom::cell::UnsafeCell<()>,
}

#[cfg_attr(not(loom), expect(clippy::unused_self, reason = "nothing outside a model"))]
impl Witness {
    /// Somebody reads the block's bytes.
    #[inline]
    pub(crate) fn read(&self) {
        #[cfg(loom)]
        self.bytes.with(|_| ());
    }

    /// The last owner takes the block back: nobody may be reading any more.
    #[inline]
    pub(crate) fn reuse(&self) {
        #[cfg(loom)]
        self.bytes.with_mut(|_| ());
    }
}
