//! Memory of blocks that have pages of their own: mapped, and given back block by block.
//!
//! ```text
//!   a slab, one mapping
//!   ┌─────────────┬────────────┬────────────┬── … ──┬────────────┐
//!   │ h0 h1 h2 …  │ block 0    │ block 1    │       │ block n    │
//!   └─────────────┴────────────┴────────────┴── … ──┴────────────┘
//!    all headers   whole pages: `madvise` takes those of a free block out of the process
//! ```
//!
//! An allocator keeps the memory below its last block in use, in as many arenas as there are
//! threads, and writes zeros to the memory that it hands out. Here a free block holds no page, and
//! a fresh one is zero without a write. Blocks that are freed and taken again soon do not come
//! here: they rest in the pool, so two system calls and the page faults of a block are rare.
//!
//! Slabs of a class are filled from the lowest address on, so that the higher ones become empty. An
//! empty slab is unmapped, except for one of each class. A block larger than those of every class
//! is a mapping of its own. Where the system refuses a mapping, for lack of addresses (`RLIMIT_AS`)
//! or because it overcommits nothing, the block comes from the allocator. A forked child has copies
//! of all mappings, and what it frees is freed in the child only.
#![expect(unsafe_code, reason = "maps memory and unmaps it, which the compiler knows nothing of")]

use std::num::NonZeroUsize;
use std::ptr::NonNull;
use std::sync::Mutex;

use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap_anonymous, munmap};

use crate::class::Class;
use crate::sync::lock;

/// The least capacity of blocks that are mapped: smaller ones would share their pages.
const SMALLEST: usize = 4 << 10;

/// Models count no pages; and tools that watch the allocator do not see mappings: miri, the address
/// sanitizer and valgrind, the latter with `--cfg system_allocator`.
const MAPS: bool = cfg!(not(any(loom, miri, system_allocator)));

/// A multiple of every page size that Linux has, so that the page size need not be queried. Headers
/// take as much of a slab's addresses, and one page of its memory.
const UNIT: usize = 64 << 10;

/// How much a slab holds in blocks of a class.
const SLAB: usize = 4 << 20;

/// A header's place; it starts a cache line.
const HEADER: usize = 64;

/// Where a block's header and its bytes are.
pub(crate) struct Place {
    pub(crate) header: NonNull<u8>,
    pub(crate) data: NonNull<u8>,
    /// Its number in the slab.
    pub(crate) number: u8,
}

/// Memory for a block of a class, all bytes zero. `None`: take it from the allocator.
pub(crate) fn take(class: Class, capacity: usize) -> Option<Place> {
    if !MAPS || capacity < SMALLEST {
        return None;
    }
    match SLABS.get(class.index()) {
        Some(slabs) => lock(slabs).take(capacity),
        None => Slab::map(capacity).map(|slab| std::mem::ManuallyDrop::new(slab).place(0)),
    }
}

/// Takes back what [`take`] gave for that class and capacity, and gives its pages to the system.
///
/// # Safety
///
/// `header` and `number` are those of a place that `take` returned for `class` and `capacity` and
/// that was not given back since; no reference into it is left.
pub(crate) unsafe fn give(class: Class, capacity: usize, header: NonNull<u8>, number: u8) {
    // SAFETY: by the caller's promise this is the place of the header with that number, and those
    // before it lie in the same mapping.
    let start = unsafe { header.byte_sub(usize::from(number) * HEADER) };
    let Some(slabs) = SLABS.get(class.index()) else {
        return drop(Slab { start, capacity, free: 0 });
    };
    let slab = std::mem::ManuallyDrop::new(Slab { start, capacity, free: 0 });
    // SAFETY: the block still belongs to the caller, which has no reference into it any more.
    unsafe { slab.discard(number) };
    let empty = lock(slabs).give(start, number);
    drop(empty); // unmapped without the lock
}

static SLABS: [Mutex<Slabs>; Class::COUNT] = [const { Mutex::new(Slabs::new()) }; Class::COUNT];

/// One mapping. Dropping it unmaps it.
struct Slab {
    start: NonNull<u8>,
    /// Of each block.
    capacity: usize,
    /// A bit for each free block.
    free: u64,
}

// SAFETY: it owns the mapping, which any thread may unmap.
unsafe impl Send for Slab {}

impl Slab {
    fn map(capacity: usize) -> Option<Self> {
        let free = u64::MAX >> (64 - Self::blocks(capacity));
        let length = Self::length(capacity);
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        let flags = MapFlags::MAP_PRIVATE | MapFlags::MAP_NORESERVE;
        // SAFETY: at an address of the system's choice, so it replaces no other mapping.
        let start = unsafe { mmap_anonymous(None, NonZeroUsize::new(length)?, protection, flags) };
        let start = start.ok()?;
        // A huge page would be as resident for one block as for 32. Kernels without them refuse.
        // SAFETY: changes no byte of the mapping, which is ours.
        let _ = unsafe { madvise(start, length, MmapAdvise::MADV_NOHUGEPAGE) };
        Some(Self { start: start.cast(), capacity, free })
    }

    /// How many blocks of `capacity` bytes are in a slab: at most as many as `free` has bits.
    fn blocks(capacity: usize) -> usize {
        (SLAB / capacity).clamp(1, 64)
    }

    fn length(capacity: usize) -> usize {
        UNIT + (Self::blocks(capacity) * capacity).next_multiple_of(UNIT)
    }

    fn is_empty(&self) -> bool {
        self.free.count_ones() as usize == Self::blocks(self.capacity)
    }

    fn place(&self, number: u8) -> Place {
        let n = usize::from(number);
        // SAFETY: there are fewer than 64 blocks before this one, and their headers fit the first
        // unit.
        let header = unsafe { self.start.byte_add(n * HEADER) };
        // SAFETY: the number is of a block of this slab, all of which lie in its mapping.
        let data = unsafe { self.start.byte_add(UNIT + n * self.capacity) };
        Place { header, data, number }
    }

    /// Gives the pages of a block back; its bytes are zero after that.
    ///
    /// # Safety
    ///
    /// No reference into the block is left.
    unsafe fn discard(&self, number: u8) {
        let data = self.place(number).data.cast();
        // It fails for locked pages (`mlockall`) and for those that are larger than the block. They
        // stay as they are, initialised if not zero, which is all that a block's user relies on.
        // SAFETY: whole pages of this slab's mapping, into which no reference is left: the caller's
        // promise.
        let _ = unsafe { madvise(data, self.capacity, MmapAdvise::MADV_DONTNEED) };
    }
}

impl Drop for Slab {
    fn drop(&mut self) {
        let length = Self::length(self.capacity);
        // SAFETY: mapped by `map` with this length, and all its blocks are free, or, in a mapping
        // of one block, that has just been given back.
        if unsafe { munmap(self.start.cast(), length) }.is_err() {
            // The process has too many mappings to cut one in two: the addresses stay.
            // SAFETY: as above, and it is mapped still.
            let _ = unsafe { madvise(self.start.cast(), length, MmapAdvise::MADV_DONTNEED) };
        }
    }
}

/// The slabs of one class, by address.
struct Slabs {
    list: Vec<Slab>,
    /// No slab before this one has a free block.
    first: usize,
    /// Slabs without a block in use: one at the most, so that no slab is mapped each time that the
    /// last block of a class comes and goes.
    empty: usize,
}

impl Slabs {
    const fn new() -> Self {
        Self { list: Vec::new(), first: 0, empty: 0 }
    }

    fn take(&mut self, capacity: usize) -> Option<Place> {
        while self.list.get(self.first).is_some_and(|slab| slab.free == 0) {
            self.first += 1;
        }
        if self.first == self.list.len() {
            self.add(Slab::map(capacity)?);
        }
        let slab = &mut self.list[self.first];
        self.empty -= usize::from(slab.is_empty());
        let number = slab.free.trailing_zeros();
        slab.free &= slab.free - 1;
        Some(slab.place(number as u8))
    }

    fn add(&mut self, slab: Slab) {
        self.first = self.list.partition_point(|other| other.start < slab.start);
        self.list.insert(self.first, slab);
        self.empty += 1;
    }

    /// Takes a block back. Returns a slab that must be unmapped.
    fn give(&mut self, start: NonNull<u8>, number: u8) -> Option<Slab> {
        let index = self.list.binary_search_by_key(&start, |slab| slab.start);
        let index = index.expect("the slab of a block is in the list");
        let slab = &mut self.list[index];
        debug_assert_eq!(slab.free & 1 << number, 0, "a block was given back twice");
        slab.free |= 1 << number;
        self.first = self.first.min(index);
        if !slab.is_empty() {
            return None;
        }
        if self.empty == 1 {
            return Some(self.list.remove(index));
        }
        self.empty = 1;
        None
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    const CAPACITY: usize = 64 << 10;

    fn take(slabs: &mut Slabs, n: usize) -> Vec<Place> {
        (0..n).map(|_| slabs.take(CAPACITY).expect("the system maps memory")).collect()
    }

    fn start(place: &Place) -> NonNull<u8> {
        // SAFETY: the headers before it lie in the same mapping.
        unsafe { place.header.byte_sub(usize::from(place.number) * HEADER) }
    }

    #[test]
    fn an_empty_slab_is_unmapped_unless_it_is_the_only_empty_one() {
        let mut slabs = Slabs::new();
        let taken = take(&mut slabs, 3 * 64);
        assert_eq!((slabs.list.len(), slabs.empty), (3, 0));
        let unmapped = taken.iter().filter_map(|place| slabs.give(start(place), place.number));
        assert_eq!(unmapped.count(), 2);
        assert_eq!((slabs.list.len(), slabs.empty), (1, 1));
        take(&mut slabs, 1);
        assert_eq!((slabs.list.len(), slabs.empty), (1, 0), "the one that was kept is used");
    }

    #[test]
    fn the_lowest_slab_with_a_free_block_is_filled_first() {
        let mut slabs = Slabs::new();
        let taken = take(&mut slabs, 3 * 64);
        for place in taken.iter().filter(|place| place.number % 2 == 1) {
            assert!(slabs.give(start(place), place.number).is_none());
        }
        let lowest = taken.iter().map(start).min();
        assert!(take(&mut slabs, 32).iter().all(|place| Some(start(place)) == lowest));
        assert!(take(&mut slabs, 64).iter().all(|place| Some(start(place)) != lowest));
        assert_eq!(slabs.list.len(), 3);
    }

    #[test]
    fn the_blocks_of_a_slab_do_not_overlap_and_are_zero() {
        for capacity in [CAPACITY, 256 << 10, 1 << 20] {
            let mut slabs = Slabs::new();
            let blocks = 0..Slab::blocks(capacity);
            let places: Vec<_> = blocks.map(|_| slabs.take(capacity).expect("memory")).collect();
            for (mark, place) in (1..).zip(&places) {
                // SAFETY: `capacity` bytes are mapped there, and only this test knows of them.
                let bytes =
                    unsafe { std::slice::from_raw_parts_mut(place.data.as_ptr(), capacity) };
                assert!(bytes.iter().all(|&byte| byte == 0));
                bytes.fill(mark);
            }
            for (mark, place) in (1..).zip(&places) {
                // SAFETY: as above.
                let bytes = unsafe { std::slice::from_raw_parts(place.data.as_ptr(), capacity) };
                assert!(bytes.iter().all(|&byte| byte == mark));
            }
            assert_eq!(slabs.list.len(), 1, "one slab has them all");
        }
    }
}
