//! Where blocks rest between two uses: a cache in every thread, and a bounded store that all share.
//!
//! ```text
//!    thread 1            thread 2
//!   ┌─────────┐         ┌─────────┐     no lock, no atomic read-modify-write
//!   │ ▒ ▒ ▒ ▒ │         │ ▒       │
//!   └──┬───▲──┘         └──┬───▲──┘
//!      ▼   │ half a cache  ▼   │        one lock per half cache
//!   ┌─────────────────────────────┐
//!   │ shared store, bounded       │────▶ the system, when full or for long not needed
//!   └─────────────────────────────┘
//! ```
//!
//! A thread moves half of its cache to the store when the cache overflows, and takes half a cache
//! out when it is empty. So two threads, of which one reads and the other releases, allocate
//! nothing and take the lock once in many blocks (the magazines of Bonwick and Adams, *Vmem*,
//! 2001). A thread that ends gives its cache to the store, and so does a thread that is going to
//! wait for long ([`share_cache`]): otherwise a thousand parked threads would hold a thousand
//! caches.

use std::cell::RefCell;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use crate::block::Idle;
use crate::chain::Spill;
use crate::class::{CLASSES, Class, Size, size};
use crate::stats::{self, Counters};
use crate::sync::lock;

/// Gives the memory of all resting blocks back to the system.
///
/// Frees the shared store and the calling thread's cache; the caches of other threads (at most 2.5
/// MiB each) stay. Takes a millisecond or two when much rests. Use it after a burst, or when the
/// process goes idle; without it, too, the resting memory is bounded.
///
/// ```
/// use netpoll_buffer::{LinkBuffer, trim};
///
/// LinkBuffer::new().write_bytes(&[0; 100_000]);
/// trim();
/// ```
pub fn trim() {
    for (class, size) in CLASSES.into_iter().enumerate() {
        // Both are taken out first and dropped after it: freeing needs neither the lock nor the
        // borrow.
        let shared = STORE.blocks[class].take_all(size);
        let local = LOCAL.try_with(|local| std::mem::take(&mut local.borrow_mut().blocks[class]));
        drop((shared, local));
    }
}

/// How many bytes rest in the store that all threads share: one load.
///
/// ```
/// netpoll_buffer::trim();
/// let stored = netpoll_buffer::bytes_stored(); // by other threads meanwhile
/// # assert!(stored < 48 << 20);
/// ```
pub fn bytes_stored() -> usize {
    STORED.load(Ordering::Relaxed)
}

/// Moves the blocks in the calling thread's cache, except for a few small ones, to the store that
/// all threads share.
///
/// For a thread that is going to wait for long. Costs a look at each class, and a lock for each
/// that has something to give.
///
/// ```
/// use netpoll_buffer::{LinkBuffer, share_cache};
///
/// LinkBuffer::new().write_bytes(&[0; 100_000]);
/// share_cache(); // another thread may use the blocks from here on
/// ```
pub fn share_cache() {
    // A thread that ends has shared its cache already.
    let _ = LOCAL.try_with(|local| local.borrow_mut().share());
}

/// Frees the blocks of the store that no thread has needed since the last call, and returns how
/// many bytes that were.
///
/// For a program that calls it a few times after a burst, some time apart. Unlike [`trim`], it
/// keeps blocks that are in use now and then, and does not take long.
///
/// ```
/// # use netpoll_buffer::{LinkBuffer, share_cache, shrink_store};
/// LinkBuffer::new().write_bytes(&[0; 100_000]);
/// share_cache();
/// shrink_store(); // from here on it notes what is needed
/// shrink_store(); // nothing was, unless other threads are at work
/// ```
pub fn shrink_store() -> usize {
    let lists = STORE.blocks.iter().zip(CLASSES);
    // Freed after the locks are released.
    let freed = lists.map(|(list, size)| list.take_unneeded(size).len() * size.capacity);
    freed.sum()
}

/// Whether more than 1 MiB rests in the store, or a block of 64 KiB or more in the calling thread's
/// cache. Costs a few loads.
///
/// ```
/// use netpoll_buffer::{LinkBuffer, rests_much};
///
/// LinkBuffer::new().write_bytes(&[0; 100_000]);
/// assert!(rests_much());
/// ```
pub fn rests_much() -> bool {
    let local = LOCAL.try_with(|local| local.borrow().has_large());
    STORED.load(Ordering::Relaxed) > MUCH || local.unwrap_or(false)
}

const MUCH: usize = 1 << 20;

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

/// Puts a block into the pool, or frees it when enough of its class rest there.
#[inline]
pub(crate) fn put(class: Class, capacity: usize, idle: Idle) {
    let put = LOCAL.try_with(move |local| {
        let local = &mut *local.borrow_mut();
        local.counters.returned(class, capacity);
        local.put(class, idle);
    });
    // If the cache of this thread is already dropped, the block was freed: it went with the
    // closure.
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
            refill(spills, &STORE.spills, SPILLS);
        }
        spills.pop()
    });
    resting.ok().flatten().unwrap_or_default()
}

/// Puts an empty list into the pool, unless it has grown out of proportion.
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
const SPILLS: Size = size(0, 32, 2, 256);
const MAX_SPILL: usize = 256;

/// The cache of one thread.
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
            refill(resting, &STORE.blocks[class.index()], CLASSES[class.index()]);
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

    fn has_large(&self) -> bool {
        self.blocks[Class::FIRST_LARGE..].iter().any(|resting| !resting.is_empty())
    }

    /// Moves to the store what a thread that waits for long does not keep.
    fn share(&mut self) {
        for (class, resting) in self.blocks.iter_mut().enumerate() {
            share(resting, &STORE.blocks[class], CLASSES[class]);
        }
        share(&mut self.spills, &STORE.spills, SPILLS);
    }
}

impl Drop for Local {
    fn drop(&mut self) {
        for (class, resting) in self.blocks.iter_mut().enumerate() {
            give(resting.drain(..), &STORE.blocks[class], CLASSES[class]);
        }
        give(self.spills.drain(..), &STORE.spills, SPILLS);
        stats::retire(&self.counters);
    }
}

/// The store that all threads share.
struct Store {
    blocks: [StoreList<Idle>; Class::COUNT],
    spills: StoreList<Box<Spill>>,
}

/// One list of the store.
struct StoreList<T>(Mutex<Resting<T>>);

struct Resting<T> {
    /// The last ones are used first.
    items: Vec<T>,
    /// The fewest items that there were since the store was last shrunk: so many were never needed.
    least: usize,
}

thread_local! {
    static LOCAL: RefCell<Local> = RefCell::new(Local::new());
}

static STORE: Store =
    Store { blocks: [const { StoreList::new() }; Class::COUNT], spills: StoreList::new() };

/// How many bytes rest in the store. Changes under the locks of its lists.
static STORED: AtomicUsize = AtomicUsize::new(0);

/// A model must begin every execution with fresh blocks, so it runs without the pool.
const POOLED: bool = cfg!(not(loom));

impl<T> StoreList<T> {
    const fn new() -> Self {
        Self(Mutex::new(Resting { items: Vec::new(), least: 0 }))
    }

    fn take_all(&self, size: Size) -> Vec<T> {
        let mut resting = lock(&self.0);
        let all = resting.items.len();
        resting.take_last(all, size).collect()
    }

    /// The items that no thread has needed since the last time.
    fn take_unneeded(&self, size: Size) -> Vec<T> {
        let mut resting = lock(&self.0);
        let unneeded = resting.least;
        resting.least = resting.items.len() - unneeded;
        STORED.fetch_sub(unneeded * size.capacity, Ordering::Relaxed);
        // The oldest ones: the others may still be in a core's cache.
        resting.items.drain(..unneeded).collect()
    }
}

impl<T> Resting<T> {
    /// Takes the last `n` out.
    fn take_last(&mut self, n: usize, size: Size) -> impl Iterator<Item = T> {
        let left = self.items.len() - n;
        self.least = self.least.min(left);
        STORED.fetch_sub(n * size.capacity, Ordering::Relaxed);
        self.items.drain(left..)
    }
}

/// Takes up to half a cache out of the store.
#[cold]
fn refill<T>(local: &mut Vec<T>, store: &StoreList<T>, size: Size) {
    let mut resting = lock(&store.0);
    let n = resting.items.len().min((size.local / 2).max(1));
    local.extend(resting.take_last(n, size));
}

/// Moves half a cache into the store; items that the store has no place for are freed.
#[cold]
fn spill_over<T>(local: &mut Vec<T>, store: &StoreList<T>, size: Size) {
    give(local.drain(size.local / 2..), store, size);
}

/// Moves what a thread that waits for long does not keep into the store.
fn share<T>(local: &mut Vec<T>, store: &StoreList<T>, size: Size) {
    if local.len() > size.parked {
        give(local.drain(size.parked..), store, size);
    }
}

fn give<T>(mut items: impl ExactSizeIterator<Item = T>, store: &StoreList<T>, size: Size) {
    let mut resting = lock(&store.0);
    let room = size.shared.saturating_sub(resting.items.len()).min(items.len());
    STORED.fetch_add(room * size.capacity, Ordering::Relaxed);
    resting.items.extend(items.by_ref().take(room));
    // Freed after the lock is released.
    drop(resting);
    items.for_each(drop);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_much_rests_as_is_documented() {
        const HEADER: usize = 64;
        let most = |resting: fn(&Size) -> usize| {
            let blocks = CLASSES.iter().map(|size| resting(size) * (HEADER + size.capacity));
            let spill = MAX_SPILL * size_of::<crate::block::Segment>() + size_of::<Spill>();
            (blocks.sum::<usize>() + resting(&SPILLS) * spill) * 10 / (1 << 20)
        };
        let tenths_of_a_mib = (most(|size| size.local), most(|size| size.shared));
        assert_eq!(tenths_of_a_mib, (24, 463));
        assert_eq!(most(|size| size.parked), 0, "a thread that is parked");
    }
}
