//! The baton: one value that one thread holds, and that other threads may take while it is down.
//!
//! A reactor's thread puts its core down before a callback and takes it up after the callback.
//! While the core lies there, any thread that knows the epoch may try to take it; the first gets
//! it:
//!
//! ```text
//!              put_down: begins an epoch
//!     held ───────────────────────────► lies, epoch n ───┐
//!      ▲                                                 │ take(epoch n): the first of three
//!      └─────────────────────────────────────────────────┘   owner: its callback has ended
//!      │                                                     owner: its callback is about to wait
//!      │                                                     thief: the callback takes too long
//!      ├── into_inner ──► gone
//!      └── dropped by a panic ──► abandoned, until take_abandoned
//!
//!    bit 63 ..................... 2 1   0
//!       [ epoch                    ][state]
//! ```
//!
//! Putting down is one store and taking is one compare-exchange. While no other thread takes the
//! core, both touch only memory that no other thread writes. The epochs make this safe: a thread
//! that returns from epoch n can't take what a thief has put down in epoch n + 1, and a monitor
//! that sees one epoch twice knows that one callback took all the time in between.

#![expect(unsafe_code, reason = "the cell: its exclusivity is what the word proves")]

use std::fmt;
use std::marker::PhantomData;
use std::mem::ManuallyDrop;
use std::ops::{Deref, DerefMut};
use std::ptr;
use std::sync::Arc;

use crate::base::sync::{AtomicU64, Ordering, UnsafeCell};

const STATE: u64 = 0b11;
const HELD: u64 = 0;
const LIES: u64 = 1;
const GONE: u64 = 2;
const ABANDONED: u64 = 3;
const EPOCH: u64 = STATE + 1;

/// The state word and the cell of the value; the module's page has the picture.
pub(crate) struct Baton<T> {
    word: AtomicU64,
    /// Empty when the value is gone.
    cell: UnsafeCell<Option<T>>,
}

// SAFETY: only a `Held` reaches the cell, and the word allows one `Held` at a time; so `T` moves
// between threads, one after the other, which is what `Send` allows.
unsafe impl<T: Send> Sync for Baton<T> {}

/// The number of one stretch of time in which a baton lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Epoch(u64);

/// The proof that this thread holds a baton; it dereferences to the value until it is put down.
#[must_use = "a baton that is dropped is abandoned"]
pub(crate) struct Held<T> {
    baton: ManuallyDrop<Arc<Baton<T>>>,
    /// It lends out `&T`, so threads may share it only if they may share `T`.
    value: PhantomData<T>,
}

/// A baton that this thread has put down, and the epoch that it lies in.
#[must_use = "a baton that is dropped where it lies is abandoned, unless a thread takes it before"]
pub(crate) struct Lying<T> {
    baton: Arc<Baton<T>>,
    epoch: Epoch,
}

impl<T> Baton<T> {
    /// Makes a baton that the caller holds.
    pub(crate) fn held(value: T) -> Held<T> {
        let word = AtomicU64::new(HELD);
        Held::of(Arc::new(Self { word, cell: UnsafeCell::new(Some(value)) }))
    }

    /// The epoch that the baton lies in; `None` if it does not lie.
    pub(crate) fn epoch(&self) -> Option<Epoch> {
        let word = self.word.load(Ordering::Acquire);
        (word & STATE == LIES).then_some(Epoch(word & !STATE))
    }

    /// How many epochs have begun.
    pub(crate) fn epochs(&self) -> u64 {
        self.word.load(Ordering::Acquire) / EPOCH
    }

    /// Takes the baton, if it still lies in that epoch.
    pub(crate) fn take(self: &Arc<Self>, epoch: Epoch) -> Option<Held<T>> {
        self.claim(epoch).then(|| Held::of(self.clone()))
    }

    /// Takes the baton, if the thread that held it has dropped it; a panic does so.
    pub(crate) fn take_abandoned(self: &Arc<Self>) -> Option<Held<T>> {
        let word = self.word.load(Ordering::Relaxed);
        let held = (word & !STATE) | HELD;
        let is_ours = word & STATE == ABANDONED
            && self.word.compare_exchange(word, held, Ordering::AcqRel, Ordering::Relaxed).is_ok();
        is_ours.then(|| Held::of(self.clone()))
    }

    /// Whether [`into_inner`](Held::into_inner) has taken the value out.
    pub(crate) fn is_gone(&self) -> bool {
        self.word.load(Ordering::Acquire) & STATE == GONE
    }

    /// The one step by which a thread takes a baton that lies.
    fn claim(&self, Epoch(epoch): Epoch) -> bool {
        let (lies, held) = (epoch | LIES, epoch | HELD);
        self.word.compare_exchange(lies, held, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    fn pointer(&self) -> *mut Option<T> {
        self.cell.with_mut(|pointer| pointer)
    }
}

impl<T> Held<T> {
    fn of(baton: Arc<Baton<T>>) -> Self {
        Self { baton: ManuallyDrop::new(baton), value: PhantomData }
    }

    /// Gives up the hold without abandoning the baton.
    fn into_baton(self) -> Arc<Baton<T>> {
        let mut this = ManuallyDrop::new(self);
        // SAFETY: `this` is not used any more, and its drop, which would take it too, never runs.
        unsafe { ManuallyDrop::take(&mut this.baton) }
    }

    /// Puts the baton down. From here on the first thread that takes it has it.
    pub(crate) fn put_down(self) -> Lying<T> {
        // Only the holder writes the word of a baton that is held.
        let epoch = (self.baton.word.load(Ordering::Relaxed) & !STATE).wrapping_add(EPOCH);
        self.baton.word.store(epoch | LIES, Ordering::Release);
        Lying { baton: self.into_baton(), epoch: Epoch(epoch) }
    }

    /// The baton, for threads that may take it.
    pub(crate) fn baton(&self) -> &Arc<Baton<T>> {
        &self.baton
    }

    /// Takes the value out for good. Never returns `None`: a baton without a value can't be held.
    pub(crate) fn into_inner(self) -> Option<T> {
        // SAFETY: as in `deref_mut`.
        let value = unsafe { &mut *self.baton.pointer() }.take();
        self.into_baton().word.store(GONE, Ordering::Release);
        value
    }
}

impl<T> Lying<T> {
    /// The baton, for threads that may take it.
    #[cfg(test)]
    pub(crate) fn baton(&self) -> &Arc<Baton<T>> {
        &self.baton
    }

    pub(crate) fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Whether no other thread has taken it.
    pub(crate) fn lies(&self) -> bool {
        self.baton.epoch() == Some(self.epoch)
    }

    /// Takes the baton up again, unless another thread has taken it.
    pub(crate) fn take_up(self) -> Option<Held<T>> {
        let claimed = self.baton.claim(self.epoch);
        let mut this = ManuallyDrop::new(self);
        // SAFETY: `this` is not used any more, and its drop never runs.
        let baton = unsafe { ptr::read(&raw mut this.baton) };
        claimed.then(|| Held::of(baton))
    }
}

impl<T> Drop for Held<T> {
    fn drop(&mut self) {
        // Only the holder writes the word of a baton that is held.
        let word = self.baton.word.load(Ordering::Relaxed);
        self.baton.word.store((word & !STATE) | ABANDONED, Ordering::Release);
        // SAFETY: only this and `into_baton` take the field, and `into_baton` never runs this drop.
        unsafe { ManuallyDrop::drop(&mut self.baton) };
    }
}

impl<T> Drop for Lying<T> {
    fn drop(&mut self) {
        let Epoch(epoch) = self.epoch;
        let (lies, abandoned) = (epoch | LIES, epoch | ABANDONED);
        let word = &self.baton.word;
        // If this fails, another thread has taken the baton.
        let _ = word.compare_exchange(lies, abandoned, Ordering::AcqRel, Ordering::Relaxed);
    }
}

impl<T> Deref for Held<T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: `claim`, or `Baton::held`, made this the only `Held` of the baton, and it is the
        // only one until `put_down` or `into_inner` consumes it; the borrow of `self` ends before.
        let value = unsafe { &*self.baton.pointer() };
        value.as_ref().expect(NOT_GONE)
    }
}

impl<T> DerefMut for Held<T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as in `deref`; `&mut self` makes this the only borrow through this `Held`.
        let value = unsafe { &mut *self.baton.pointer() };
        value.as_mut().expect(NOT_GONE)
    }
}

/// Only `into_inner` empties the cell, and after it no epoch can be claimed.
const NOT_GONE: &str = "a baton that is held has its value";

impl<T> fmt::Debug for Baton<T> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = self.word.load(Ordering::Relaxed);
        let state = ["held", "lies", "gone", "abandoned"][(word & STATE) as usize];
        write!(out, "{state}, epoch {}", word / EPOCH)
    }
}

impl<T> fmt::Debug for Held<T> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_tuple("Held").field(&self.baton).finish()
    }
}

#[cfg(test)]
#[path = "baton_tests.rs"]
mod tests;
