//! What the handles of an account share, and what keeps it alive: handles, and blocks on it.
//!
//! ```text
//!    63                                1 0
//!   ┌───────────────────────────────────┬───┐   1: there are handles
//!   │ bytes of the blocks on it         │ 1 │   The one that makes the word 0 frees the ledger.
//!   └───────────────────────────────────┴───┘
//! ```
//!
//! So a block that is charged needs no count of its own: its bytes are one. To charge it is one
//! addition, and to release it one subtraction, which matters, as every slice of a connection does
//! both.
#![expect(unsafe_code, reason = "a word counts its owners, where an `Arc` would need two")]

use std::ops::Deref;
use std::ptr::NonNull;

use crate::sync::{AtomicU64, AtomicUsize, Ordering, fence};

/// What is charged to an account.
pub(crate) struct Ledger {
    /// The word of the picture. Blocks are memory that is there, so 63 bits hold their bytes.
    word: AtomicU64,
    /// Bytes that lie in no block. The user chooses them, so they keep nothing alive.
    others: AtomicUsize,
    handles: AtomicUsize,
    parent: Option<Handle>,
}

/// The bit of the word that says that there are handles.
const OPEN: u64 = 1;

/// How much a byte of a block adds to the word.
const BYTE: u64 = 2;

impl Ledger {
    /// Charges a block's bytes. The caller has a handle, or a block that is charged.
    ///
    /// Relaxed, here and below: a figure orders nothing else. Bytes are removed after they were
    /// added, which the reference that passed from one thread to the other orders, so no figure
    /// falls below zero.
    #[inline]
    pub(crate) fn add_block(&self, bytes: usize) {
        self.word.fetch_add(BYTE * bytes as u64, Ordering::Relaxed);
        if let Some(parent) = &self.parent {
            parent.add_block(bytes);
        }
    }

    /// Releases what [`add_block`](Self::add_block) has charged.
    ///
    /// # Safety
    ///
    /// A block of so many bytes was charged to this ledger and was not released since. The caller
    /// uses the pointer no more.
    #[inline]
    pub(crate) unsafe fn remove_block(this: NonNull<Self>, bytes: usize) {
        // SAFETY: by the caller's promise the word has these bytes, so no owner has freed it.
        let ledger = unsafe { this.as_ref() };
        if let Some(parent) = &ledger.parent {
            parent.remove_child(bytes);
        }
        if ledger.word.fetch_sub(BYTE * bytes as u64, Ordering::Release) == BYTE * bytes as u64 {
            // SAFETY: the word is 0 now, for the first time.
            unsafe { Self::free(this) };
        }
    }

    /// Releases a block of a child. Nothing is freed: the child has a handle of its parent.
    fn remove_child(&self, bytes: usize) {
        self.word.fetch_sub(BYTE * bytes as u64, Ordering::Relaxed);
        if let Some(parent) = &self.parent {
            parent.remove_child(bytes);
        }
    }

    pub(crate) fn add_others(&self, bytes: usize) {
        self.others.fetch_add(bytes, Ordering::Relaxed);
        if let Some(parent) = &self.parent {
            parent.add_others(bytes);
        }
    }

    pub(crate) fn remove_others(&self, bytes: usize) {
        self.others.fetch_sub(bytes, Ordering::Relaxed);
        if let Some(parent) = &self.parent {
            parent.remove_others(bytes);
        }
    }

    #[inline]
    pub(crate) fn held(&self) -> usize {
        let blocks = self.word.load(Ordering::Relaxed) / BYTE;
        (blocks as usize).wrapping_add(self.others.load(Ordering::Relaxed))
    }

    #[inline]
    pub(crate) fn parent(&self) -> Option<&Handle> {
        self.parent.as_ref()
    }

    /// # Safety
    ///
    /// The word is 0, and the caller made it 0.
    #[cold]
    unsafe fn free(this: NonNull<Self>) {
        // Pairs with the Release of every owner that has left: their uses come before.
        fence(Ordering::Acquire);
        // SAFETY: from `Box::leak` in `Handle::new`. The word says that there is no owner, without
        // one none can be added, and only one thread makes the word 0.
        drop(unsafe { Box::from_raw(this.as_ptr()) });
    }
}

/// A counted handle of a ledger.
pub(crate) struct Handle {
    ledger: NonNull<Ledger>,
}

// SAFETY: a ledger is atomics and a handle, for any thread, and so is what frees it.
unsafe impl Send for Handle {}
// SAFETY: as above.
unsafe impl Sync for Handle {}

impl Handle {
    pub(crate) fn new(parent: Option<Handle>) -> Self {
        let (word, others) = (AtomicU64::new(OPEN), AtomicUsize::new(0));
        let ledger = Ledger { word, others, handles: AtomicUsize::new(1), parent };
        Self { ledger: NonNull::from(Box::leak(Box::new(ledger))) }
    }

    /// Whether this is the last owner of the ledger.
    #[cfg(test)]
    pub(crate) fn is_alone(&self) -> bool {
        let word = self.word.load(Ordering::Relaxed);
        (word, self.handles.load(Ordering::Relaxed)) == (OPEN, 1)
    }
}

impl Deref for Handle {
    type Target = Ledger;

    #[inline]
    fn deref(&self) -> &Ledger {
        // SAFETY: while there is a handle, the word has `OPEN`, so nothing frees the ledger.
        unsafe { self.ledger.as_ref() }
    }
}

impl Clone for Handle {
    #[inline]
    fn clone(&self) -> Self {
        // Relaxed, as in `Arc`: a new handle is made from one that already keeps the ledger alive.
        let before = self.handles.fetch_add(1, Ordering::Relaxed);
        assert!(before < usize::MAX / 2, "too many handles of one account");
        Self { ledger: self.ledger }
    }
}

impl Drop for Handle {
    #[inline]
    fn drop(&mut self) {
        if self.handles.fetch_sub(1, Ordering::Release) != 1 {
            return;
        }
        // Pairs with the Release of the handles that were dropped before, for the one that frees.
        fence(Ordering::Acquire);
        if self.word.fetch_sub(OPEN, Ordering::Release) == OPEN {
            // SAFETY: the word is 0 now, for the first time.
            unsafe { Ledger::free(self.ledger) };
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::account::Account;
    use crate::block::Segment;

    /// The parent tells whether its child was freed: a child has a handle of it.
    fn charged() -> (Account, Account, Segment) {
        let parent = Account::new();
        let child = Account::within(&parent);
        let mut block = Segment::with_room(8);
        assert!(block.charge(&child) && !parent.is_alone());
        (parent, child, block)
    }

    #[cfg(not(loom))]
    #[test]
    fn a_ledger_goes_with_the_last_of_its_handles_and_blocks() {
        let (parent, child, block) = charged();
        drop(child.clone());
        assert_eq!((child.held(), parent.held()), (512, 512));
        drop(child);
        assert!(!parent.is_alone(), "the block keeps it");
        assert_eq!(parent.held(), 512);
        drop(block);
        assert!(parent.is_alone());

        let (parent, child, block) = charged();
        drop(block);
        assert!(child.is_alone() && !parent.is_alone(), "the handle keeps it");
        drop(child);
        assert!(parent.is_alone());
    }

    #[cfg(not(loom))]
    #[test]
    fn bytes_of_the_user_keep_nothing_alive_and_free_nothing() {
        let account = Account::new();
        let charges = [usize::MAX, 1, usize::MAX / 2 + 1].map(|bytes| account.charge(bytes));
        let mut block = Segment::with_room(8);
        block.charge(&account);
        drop(charges);
        assert_eq!(account.held(), 512);
        drop(block);
        assert!(account.is_alone());
    }

    #[cfg(loom)]
    #[test]
    fn loom_handles_and_blocks_leave_in_any_order() {
        loom::model(|| {
            let (parent, child, block) = charged();
            let other = child.clone();
            let threads = [
                loom::thread::spawn(move || drop(block)),
                loom::thread::spawn(move || drop(other)),
            ];
            drop(child);
            for thread in threads {
                thread.join().unwrap();
            }
            assert!(parent.is_alone());
            assert_eq!(parent.held(), 0);
        });
    }
}
