//! The baton: one value that one thread holds, and that others may take while it is put down.
//!
//! A reactor's thread puts its core down before a callback and takes it up after. While it lies
//! there anybody may take it who knows the epoch, and one of them gets it:
//!
//! ```text
//!              put_down: begins a epoch
//!     held ───────────────────────────────► lies, epoch n ───┐
//!      ▲                                                   │ take(epoch n), by whoever is first:
//!      └───────────────────────────────────────────────────┘   the returner  the callback ended
//!      │                                                        the giver     it is about to wait
//!      └── into_inner ──► gone                                  the thief     it takes too long
//!      └── dropped by a panic ──► abandoned, until take_abandoned
//!
//!    bit 63 ..................... 2 1   0
//!       [ epoch                      ][state]
//! ```
//!
//! Putting down is one store, taking is one compare-exchange, and neither touches memory that
//! another thread writes while nobody takes it away. The epochs make it safe: who comes back from
//! epoch n can't take what a thief has put down in epoch n + 1, and a watcher who sees one epoch
//! twice knows that all the time between was spent in one callback.

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

/// See the module.
pub(crate) struct Baton<T> {
    word: AtomicU64,
    /// Empty when the value is gone.
    cell: UnsafeCell<Option<T>>,
}

// SAFETY: the cell is reached only through a `Held`, of which the word allows one at a time; `T`
// then moves between threads, one after the other, which is what `Send` allows.
unsafe impl<T: Send> Sync for Baton<T> {}

/// The number of one stretch of time in which a baton lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Epoch(u64);

/// The proof that this thread holds a baton: the value, for as long as it is not put down.
#[must_use = "a baton that is dropped is abandoned"]
pub(crate) struct Held<T> {
    baton: ManuallyDrop<Arc<Baton<T>>>,
    /// It lends out `&T`, so it may be shared by threads only if that may.
    value: PhantomData<T>,
}

/// A baton that this thread has put down.
#[must_use = "a baton that is dropped where it lies is abandoned, unless somebody takes it before"]
pub(crate) struct Lying<T> {
    baton: Arc<Baton<T>>,
    epoch: Epoch,
}

impl<T> Baton<T> {
    /// A baton in the hands of its maker.
    pub(crate) fn held(value: T) -> Held<T> {
        let word = AtomicU64::new(HELD);
        Held::of(Arc::new(Self { word, cell: UnsafeCell::new(Some(value)) }))
    }

    /// The epoch that it lies in, if it lies.
    pub(crate) fn epoch(&self) -> Option<Epoch> {
        let word = self.word.load(Ordering::Acquire);
        (word & STATE == LIES).then_some(Epoch(word & !STATE))
    }

    /// How many epochs it has begun.
    pub(crate) fn epochs(&self) -> u64 {
        self.word.load(Ordering::Acquire) / EPOCH
    }

    /// Takes it, if it still lies in that epoch.
    pub(crate) fn take(self: &Arc<Self>, epoch: Epoch) -> Option<Held<T>> {
        self.claim(epoch).then(|| Held::of(self.clone()))
    }

    /// Takes it, if the thread that had it has dropped it, as it does where it panics.
    pub(crate) fn take_abandoned(self: &Arc<Self>) -> Option<Held<T>> {
        let word = self.word.load(Ordering::Relaxed);
        let held = (word & !STATE) | HELD;
        let is_ours = word & STATE == ABANDONED
            && self.word.compare_exchange(word, held, Ordering::AcqRel, Ordering::Relaxed).is_ok();
        is_ours.then(|| Held::of(self.clone()))
    }

    /// Whether the value has been taken out for good.
    pub(crate) fn is_gone(&self) -> bool {
        self.word.load(Ordering::Acquire) & STATE == GONE
    }

    /// The one step by which a thread comes to hold it.
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

    /// Lets go of it without abandoning it.
    fn into_baton(self) -> Arc<Baton<T>> {
        let mut this = ManuallyDrop::new(self);
        // SAFETY: `this` is not used any more, and its drop, which would take it too, never runs.
        unsafe { ManuallyDrop::take(&mut this.baton) }
    }

    /// Lets go of it. From here on it is whoever's who takes it first.
    pub(crate) fn put_down(self) -> Lying<T> {
        // Nobody else writes the word of a baton that is held.
        let epoch = (self.baton.word.load(Ordering::Relaxed) & !STATE).wrapping_add(EPOCH);
        self.baton.word.store(epoch | LIES, Ordering::Release);
        Lying { baton: self.into_baton(), epoch: Epoch(epoch) }
    }

    /// The baton, for those who may take it.
    pub(crate) fn baton(&self) -> &Arc<Baton<T>> {
        &self.baton
    }

    /// Takes the value out for good. `None` never comes: a value that is gone can't be held.
    pub(crate) fn into_inner(self) -> Option<T> {
        // SAFETY: as in `deref_mut`.
        let value = unsafe { &mut *self.baton.pointer() }.take();
        self.into_baton().word.store(GONE, Ordering::Release);
        value
    }
}

impl<T> Lying<T> {
    /// The baton, for those who may take it.
    #[cfg(test)]
    pub(crate) fn baton(&self) -> &Arc<Baton<T>> {
        &self.baton
    }

    pub(crate) fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Takes it up again, unless somebody else took it.
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
        // Nobody else writes the word of a baton that is held.
        let word = self.baton.word.load(Ordering::Relaxed);
        self.baton.word.store((word & !STATE) | ABANDONED, Ordering::Release);
        // SAFETY: only here, and in `into_baton`, which forgets the rest.
        unsafe { ManuallyDrop::drop(&mut self.baton) };
    }
}

impl<T> Drop for Lying<T> {
    fn drop(&mut self) {
        let Epoch(epoch) = self.epoch;
        let (lies, abandoned) = (epoch | LIES, epoch | ABANDONED);
        let word = &self.baton.word;
        // Else somebody has taken it.
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

/// Only `into_inner` empties the cell, and no epoch lets itself be claimed after it.
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
