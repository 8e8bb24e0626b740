//! What the blocks of this process are doing, counted without contention.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use crate::class::Class;
use crate::sync::lock;

/// What [`stats`] counts, over all threads since the process began.
///
/// ```
/// use netpoll_buffer::{LinkBuffer, Stats, stats};
///
/// let mut buffer = LinkBuffer::from("abc");
/// buffer.append(LinkBuffer::from("def"));
/// buffer.flush();
/// let before = stats().bytes_copied;
/// buffer.peek(6)?; // lies in two blocks
/// let Stats { blocks_out, bytes_held, bytes_copied, .. } = stats();
/// assert!(blocks_out >= 1 && bytes_held >= 6 && bytes_copied > before);
/// # Ok::<_, netpoll_buffer::Shortfall>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Blocks that buffers hold now, those that stand for foreign memory included.
    pub blocks_out: u64,
    /// The memory of those blocks in bytes. Foreign memory belongs to its owner and is not counted.
    pub bytes_held: u64,
    /// The memory of blocks that no buffer holds, in the threads' caches and in the store.
    /// `bytes_held` and this are all the memory of blocks.
    pub bytes_resting: u64,
    /// Blocks taken so far.
    pub blocks_taken: u64,
    /// How many of them had to be allocated because none was resting.
    pub blocks_allocated: u64,
    /// Bytes copied so far because contiguous bytes were asked for and lay in several blocks.
    pub bytes_copied: u64,
}

/// Adds up the counters of all threads.
///
/// Takes a lock and looks at every thread's counters; counting itself costs a plain store. Figures
/// of threads that are running may be a moment old, and `blocks_out` briefly off when a block
/// passes from one thread to another during the call.
///
/// ```
/// let before = netpoll_buffer::stats();
/// let buffer = netpoll_buffer::LinkBuffer::from(&[7; 5000][..]);
/// assert!(netpoll_buffer::stats().blocks_taken > before.blocks_taken);
/// # drop(buffer);
/// ```
pub fn stats() -> Stats {
    let threads = lock(&THREADS);
    let total = Counters::new();
    total.absorb(&threads.retired);
    for counters in &threads.live {
        total.absorb(counters);
    }
    drop(threads);
    let classes = (0..Class::COUNT).map(|index| total.out(index) * Class::capacity_of(index));
    let large = total.large_taken.load(Relaxed).saturating_sub(total.large_returned.load(Relaxed));
    let bytes_held = classes.sum::<u64>() + large;
    Stats {
        blocks_out: (0..=Class::COUNT).map(|index| total.out(index)).sum(),
        bytes_held,
        bytes_resting: (bytes_existing() as u64).saturating_sub(bytes_held),
        blocks_taken: total.taken.iter().map(|taken| taken.load(Relaxed)).sum(),
        blocks_allocated: total.allocated.load(Relaxed),
        bytes_copied: total.copied.load(Relaxed),
    }
}

/// The memory of all blocks that there are, held or resting, in bytes: one load.
///
/// ```
/// let mut buffer = netpoll_buffer::LinkBuffer::new();
/// buffer.write_bytes(&[7; 5000]);
/// assert!(netpoll_buffer::bytes_existing() >= 5000);
/// ```
pub fn bytes_existing() -> usize {
    EXISTING.load(Relaxed)
}

static EXISTING: AtomicUsize = AtomicUsize::new(0);

/// A block was made.
pub(crate) fn count_made(capacity: usize) {
    EXISTING.fetch_add(capacity, Relaxed);
}

/// A block was freed.
pub(crate) fn count_gone(capacity: usize) {
    EXISTING.fetch_sub(capacity, Relaxed);
}

/// One thread's counters. Only that thread writes them, so a load and a store suffice.
#[derive(Debug)]
pub(crate) struct Counters {
    /// By class, the last being blocks that never rest.
    taken: [AtomicU64; Class::COUNT + 1],
    returned: [AtomicU64; Class::COUNT + 1],
    large_taken: AtomicU64,
    large_returned: AtomicU64,
    allocated: AtomicU64,
    copied: AtomicU64,
}

impl Counters {
    const fn new() -> Self {
        Self {
            taken: [const { AtomicU64::new(0) }; Class::COUNT + 1],
            returned: [const { AtomicU64::new(0) }; Class::COUNT + 1],
            large_taken: AtomicU64::new(0),
            large_returned: AtomicU64::new(0),
            allocated: AtomicU64::new(0),
            copied: AtomicU64::new(0),
        }
    }

    #[inline]
    pub(crate) fn taken(&self, class: Class, capacity: usize, rested: bool) {
        add(&self.taken[class.index()], 1);
        if !rested {
            add(&self.allocated, 1);
            if class == Class::LARGE {
                add(&self.large_taken, capacity);
            }
        }
    }

    #[inline]
    pub(crate) fn returned(&self, class: Class, capacity: usize) {
        add(&self.returned[class.index()], 1);
        if class == Class::LARGE {
            add(&self.large_returned, capacity);
        }
    }

    pub(crate) fn copied(&self, bytes: usize) {
        add(&self.copied, bytes);
    }

    fn out(&self, class: usize) -> u64 {
        self.taken[class].load(Relaxed).saturating_sub(self.returned[class].load(Relaxed))
    }

    fn absorb(&self, other: &Self) {
        for (own, others) in self.all().zip(other.all()) {
            own.store(own.load(Relaxed) + others.load(Relaxed), Relaxed);
        }
    }

    fn all(&self) -> impl Iterator<Item = &AtomicU64> {
        let single = [&self.large_taken, &self.large_returned, &self.allocated, &self.copied];
        self.taken.iter().chain(&self.returned).chain(single)
    }
}

/// Counters for the calling thread.
pub(crate) fn register() -> Arc<Counters> {
    let counters = Arc::new(Counters::new());
    lock(&THREADS).live.push(Arc::clone(&counters));
    counters
}

/// Keeps the figures of a thread that ends.
pub(crate) fn retire(counters: &Arc<Counters>) {
    let mut threads = lock(&THREADS);
    threads.live.retain(|other| !Arc::ptr_eq(other, counters));
    threads.retired.absorb(counters);
}

/// Counts for a thread after its counters were retired.
pub(crate) fn count_late(count: impl FnOnce(&Counters)) {
    count(&lock(&THREADS).retired);
}

struct Threads {
    live: Vec<Arc<Counters>>,
    /// Written under the lock only.
    retired: Counters,
}

static THREADS: Mutex<Threads> = Mutex::new(Threads { live: Vec::new(), retired: Counters::new() });

/// For counters with one writer.
#[inline]
fn add(counter: &AtomicU64, n: usize) {
    counter.store(counter.load(Relaxed) + n as u64, Relaxed);
}
