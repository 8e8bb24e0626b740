//! Where blocks rest between two uses: a cache in every thread, a bounded store behind them.
//!
//! ```text
//!    thread 1            thread 2
//!   ┌─────────┐         ┌─────────┐     no lock, no atomic read-modify-write
//!   │ ▒ ▒ ▒ ▒ │         │ ▒       │
//!   └──┬───▲──┘         └──┬───▲──┘
//!      ▼   │ half a cache  ▼   │        one lock per half cache
//!   ┌─────────────────────────────┐
//!   │ shared store, bounded       │────▶ the allocator, when full
//!   └─────────────────────────────┘
//! ```
//!
//! A thread whose cache overflows hands half of it to the store; one whose cache is empty takes
//! half a cache out. So a pair of threads, one that reads and one that releases, allocates nothing
//! and meets at the lock once in many blocks (the magazines of Bonwick and Adams, *Vmem*, 2001). A
//! thread that ends gives its cache to the store.

use std::cell::RefCell;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::block::{self, Idle};
use crate::chain::Spill;
use crate::stats::{self, Counters};

/// Gives the memory of all resting blocks back to the system.
///
/// Frees the shared store and the calling thread's cache; the caches of other threads (at most 5.3
/// MiB each) stay. On glibc it also has the allocator return its free pages, which takes
/// milliseconds when there are many. For use after a burst, or by a process that goes idle; what
/// rests is bounded without it.
///
/// ```
/// use netpoll_buffer::{LinkBuffer, trim};
///
/// drop(LinkBuffer::from(vec![0; 100_000]));
/// trim();
/// ```
pub fn trim() {
    for class in 0..Class::COUNT {
        // Both are taken first and dropped later: freeing needs neither the lock nor the borrow.
        let shared = std::mem::take(&mut *lock(&STORE.blocks[class]));
        let local = LOCAL.try_with(|local| std::mem::take(&mut local.borrow_mut().blocks[class]));
        drop((shared, local));
    }
    block::return_free_memory();
}

/// A size of blocks, as an index into [`CLASSES`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Class(u8);

/// What a class is: how large its blocks are, and how many of them may rest.
#[derive(Clone, Copy)]
struct Size {
    capacity: usize,
    /// In the cache of each thread.
    local: usize,
    /// In the store that all threads share.
    shared: usize,
}

/// Less than 5.3 MiB rest in the cache of a thread and less than 47 MiB in the store: see the test.
const CLASSES: [Size; Class::COUNT] = [
    size(0, 64, 1024), // headers of foreign memory
    size(512, 64, 1024),
    size(4 * KIB, 64, 2048),
    size(16 * KIB, 16, 512),
    size(64 * KIB, 32, 256),
    size(256 * KIB, 2, 16),
    size(1024 * KIB, 2, 8),
];

const KIB: usize = 1 << 10;

const fn size(capacity: usize, local: usize, shared: usize) -> Size {
    Size { capacity, local, shared }
}

impl Class {
    /// How many classes have blocks that rest.
    pub(crate) const COUNT: usize = 7;
    /// Blocks without bytes of their own.
    pub(crate) const FOREIGN: Self = Self(0);
    /// Blocks of any size that never rest.
    pub(crate) const LARGE: Self = Self(Self::COUNT as u8);

    /// The smallest class with room for `room` bytes.
    pub(crate) fn of(room: usize) -> Self {
        match room {
            0..=512 => Self(1),
            513..=0x1000 => Self(2),
            0x1001..=0x4000 => Self(3),
            0x4001..=0x1_0000 => Self(4),
            0x1_0001..=0x4_0000 => Self(5),
            0x4_0001..=0x10_0000 => Self(6),
            _ => Self::LARGE,
        }
    }

    /// How many bytes the class's blocks have; `None` when each has its own size.
    pub(crate) fn capacity(self) -> Option<usize> {
        CLASSES.get(self.index()).map(|size| size.capacity)
    }

    /// Bytes of a block of the class with this index.
    pub(crate) fn capacity_of(index: usize) -> u64 {
        CLASSES[index].capacity as u64
    }

    pub(crate) fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// A resting block of this class, if there is one; counts a block as taken either way.
#[inline]
pub(crate) fn take(class: Class, capacity: usize) -> Option<Idle> {
    let taken = LOCAL.try_with(move |local| {
        let local = &mut *local.borrow_mut();
        let idle = local.take(class);
        local.counters.taken(class, capacity, idle.is_some());
        idle
    });
    taken.unwrap_or_else(|_| {
        stats::count_late(|counters| counters.taken(class, capacity, false));
        None
    })
}

/// Lets a block rest, or frees it when enough of its class do.
#[inline]
pub(crate) fn put(class: Class, capacity: usize, idle: Idle) {
    let put = LOCAL.try_with(move |local| {
        let local = &mut *local.borrow_mut();
        local.counters.returned(class, capacity);
        local.put(class, idle);
    });
    // A thread whose cache is already gone has freed the block: it was dropped with the closure.
    if put.is_err() {
        stats::count_late(|counters| counters.returned(class, capacity));
    }
}

/// Counts bytes that were copied to make them contiguous.
pub(crate) fn count_copied(bytes: usize) {
    let counted = LOCAL.try_with(|local| local.borrow().counters.copied(bytes));
    if counted.is_err() {
        stats::count_late(|counters| counters.copied(bytes));
    }
}

/// An empty list for the segments that a chain can't hold inline.
#[expect(clippy::unnecessary_box_returns, reason = "a chain holds the box, to be small")]
pub(crate) fn take_spill() -> Box<Spill> {
    let resting = LOCAL.try_with(|local| {
        let spills = &mut local.borrow_mut().spills;
        if spills.is_empty() {
            refill(spills, &STORE.spills, SPILLS.local);
        }
        spills.pop()
    });
    resting.ok().flatten().unwrap_or_default()
}

/// Lets an empty list rest, unless it has grown out of proportion.
pub(crate) fn put_spill(spill: Box<Spill>) {
    debug_assert!(spill.is_empty(), "a list is given back with segments in it");
    if spill.capacity() > MAX_SPILL {
        return;
    }
    let _ = LOCAL.try_with(|local| {
        let spills = &mut local.borrow_mut().spills;
        if spills.len() >= SPILLS.local {
            spill_over(spills, &STORE.spills, SPILLS);
        }
        spills.push(spill);
    });
}

/// How many lists of segments may rest, and how many segments long (24 bytes each).
const SPILLS: Size = size(0, 32, 256);
const MAX_SPILL: usize = 256;

/// What one thread has at hand.
struct Local {
    blocks: [Vec<Idle>; Class::COUNT],
    #[expect(clippy::vec_box, reason = "the boxes move in and out of chains as they are")]
    spills: Vec<Box<Spill>>,
    counters: Arc<Counters>,
}

impl Local {
    fn new() -> Self {
        Self {
            blocks: [const { Vec::new() }; Class::COUNT],
            spills: Vec::new(),
            counters: stats::register(),
        }
    }

    #[inline]
    fn take(&mut self, class: Class) -> Option<Idle> {
        let resting = self.blocks.get_mut(class.index()).filter(|_| POOLED)?;
        if resting.is_empty() {
            refill(resting, &STORE.blocks[class.index()], CLASSES[class.index()].local);
        }
        resting.pop()
    }

    #[inline]
    fn put(&mut self, class: Class, idle: Idle) {
        let Some(resting) = self.blocks.get_mut(class.index()).filter(|_| POOLED) else {
            return;
        };
        let size = CLASSES[class.index()];
        if resting.len() >= size.local {
            spill_over(resting, &STORE.blocks[class.index()], size);
        }
        resting.push(idle);
    }
}

impl Drop for Local {
    fn drop(&mut self) {
        for (class, resting) in self.blocks.iter_mut().enumerate() {
            give(resting.drain(..), &STORE.blocks[class], CLASSES[class].shared);
        }
        give(self.spills.drain(..), &STORE.spills, SPILLS.shared);
        stats::retire(&self.counters);
    }
}

/// What all threads share.
struct Store {
    blocks: [Mutex<Vec<Idle>>; Class::COUNT],
    #[expect(clippy::vec_box, reason = "as in `Local`")]
    spills: Mutex<Vec<Box<Spill>>>,
}

thread_local! {
    static LOCAL: RefCell<Local> = RefCell::new(Local::new());
}

static STORE: Store = Store {
    blocks: [const { Mutex::new(Vec::new()) }; Class::COUNT],
    spills: Mutex::new(Vec::new()),
};

/// A model must begin every execution with fresh blocks, so it runs without the pool.
const POOLED: bool = cfg!(not(loom));

/// Takes up to half a cache out of the store.
#[cold]
fn refill<T>(local: &mut Vec<T>, store: &Mutex<Vec<T>>, size: usize) {
    let mut store = lock(store);
    let keep = store.len().saturating_sub((size / 2).max(1));
    local.extend(store.drain(keep..));
}

/// Moves half a cache into the store; what the store has no place for is freed.
#[cold]
fn spill_over<T>(local: &mut Vec<T>, store: &Mutex<Vec<T>>, size: Size) {
    give(local.drain(size.local / 2..), store, size.shared);
}

fn give<T>(mut items: impl ExactSizeIterator<Item = T>, store: &Mutex<Vec<T>>, bound: usize) {
    let mut store = lock(store);
    let room = bound.saturating_sub(store.len());
    store.extend(items.by_ref().take(room));
    // Freed without the lock.
    drop(store);
    items.for_each(drop);
}

/// The store's lists stay whole whatever a thread does, so a poisoned lock means nothing here.
fn lock<T>(store: &Mutex<Vec<T>>) -> MutexGuard<'_, Vec<T>> {
    store.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_room_gets_the_smallest_class_that_has_it() {
        for (class, size) in (0..).zip(CLASSES).skip(1) {
            assert_eq!(Class::of(size.capacity), Class(class));
            assert_eq!(Class::of(size.capacity + 1), Class(class + 1));
        }
        assert_eq!(Class::of(0), Class(1));
        assert_eq!(Class::of(usize::MAX), Class::LARGE);
        assert_eq!(Class::LARGE.capacity(), None);
    }

    #[test]
    fn as_much_rests_as_is_documented() {
        const HEADER: usize = 64;
        let most = |resting: fn(&Size) -> usize| {
            let blocks = CLASSES.iter().map(|size| resting(size) * (HEADER + size.capacity));
            let spill = MAX_SPILL * size_of::<block::Segment>() + size_of::<Spill>();
            (blocks.sum::<usize>() + resting(&SPILLS) * spill) * 10 / (1 << 20)
        };
        let tenths_of_a_mib = (most(|size| size.local), most(|size| size.shared));
        assert_eq!(tenths_of_a_mib, (52, 463));
    }
}
