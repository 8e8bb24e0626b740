//! Blocks of memory and the segments that own pieces of them: all unsafe operations of the crate.
//!
//! ```text
//!   Segment a       Segment b
//!   block  start end/limit    block  start  end        limit
//!     │      │     │            │      │     │           │
//!     │      ▼     ▼            │      ▼     ▼           ▼
//!     │    ┌──────────────────────────────────────────────┐
//!     └───▶│Header│ bytes of a │    bytes of b │ b's room │   one allocation, references = 2
//!          └──────────────────────────────────────────────┘
//! ```
//!
//! Everything rests on one rule: **the territories `[start, limit)` of a block's segments never
//! overlap.** A block starts with one segment that owns all of it; [`Segment::split_to`] divides a
//! territory, [`Segment::join`] unites two neighbours, nothing else makes or widens one. So code
//! with a `&mut Segment` may write its territory while other threads read theirs, and only the
//! count of references is shared. A [`ReadOnly`] reads a part of another segment's bytes; while one
//! is there, that segment only adds bytes behind its own: [`Segment::reclaim`], which takes bytes
//! back as room, needs the last reference.
//!
//! The second rule is that every byte of a block is initialised from the start (it is mapped, or
//! allocated zeroed), so spare room as `&mut [u8]` is sound. Bytes that a *former* use left there
//! must not be exposed to the next one: see `LinkBuffer::malloc`.
#![expect(unsafe_code, reason = "owns raw memory, which `slab.rs` maps")]

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::{self, NonNull};
use std::{fmt, slice, thread};

use bytes::Bytes;

use crate::account::Account;
use crate::class::Class;
use crate::ledger::Ledger;
use crate::pool;
use crate::slab::{self, Place};
use crate::stats;
use crate::sync::{AtomicPtr, AtomicUsize, Ordering, Witness, fence};

/// A piece of a block that has one owner: some bytes, and perhaps room for more behind them.
pub(crate) struct Segment {
    block: Block,
    /// `start <= end <= limit <= capacity of the block`, kept by every method here.
    start: u32,
    end: u32,
    /// Where the territory ends. Foreign memory has no room: there `limit == end`, always.
    limit: u32,
}

/// The most bytes that one segment can hold: 4 GiB less 65 bytes.
pub(crate) const MAX_SEGMENT: usize = u32::MAX as usize - DATA;

impl Segment {
    /// An empty segment with room for at least `room` bytes, from the pool where it has such
    /// blocks.
    ///
    /// # Panics
    ///
    /// When `room` is more than [`MAX_SEGMENT`].
    #[expect(clippy::inline_always, reason = "made in place: see `Chain::push_room`")]
    #[inline(always)]
    pub(crate) fn with_room(room: usize) -> Self {
        let block = Block::take(room);
        let limit = block.header().capacity;
        Self { block, start: 0, end: 0, limit }
    }

    /// Links memory that lives elsewhere, without copying it. At most [`MAX_SEGMENT`] bytes.
    pub(crate) fn foreign(bytes: Bytes) -> Self {
        assert!(bytes.len() <= MAX_SEGMENT, "foreign memory is linked in pieces");
        let end = bytes.len() as u32;
        Self { block: Block::link(bytes), start: 0, end, limit: end }
    }

    #[inline]
    pub(crate) fn len(&self) -> usize {
        (self.end - self.start) as usize
    }

    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.end == self.start
    }

    /// How many bytes the whole block has, so how much memory this segment keeps alive.
    #[inline]
    pub(crate) fn pinned(&self) -> usize {
        self.block.header().capacity as usize
    }

    /// Charges the whole block to `account`, unless it is charged already or stands for foreign
    /// memory; says whether it did.
    #[inline]
    pub(crate) fn charge(&mut self, account: &Account) -> bool {
        self.block.charge(account.ledger())
    }

    /// Charges the block to the account of `other`'s block, if that has one: for a block that bytes
    /// of `other` were copied to.
    pub(crate) fn charge_like(&mut self, other: &Self) {
        self.block.charge_like(&other.block);
    }

    #[inline]
    pub(crate) fn is_foreign(&self) -> bool {
        self.block.header().class == Class::FOREIGN
    }

    /// Whether both are pieces of one block.
    #[inline]
    pub(crate) fn shares_block(&self, other: &Self) -> bool {
        self.block.header == other.block.header
    }

    /// Whether a copy of the bytes in smaller blocks would free more than half of the memory: the
    /// block is not half full, no other segment has a piece of it, and there are smaller ones.
    pub(crate) fn is_loose(&self) -> bool {
        let Header { class, references, .. } = self.block.header();
        let may_be_freed = *class > Class::SMALLEST && references.load(Ordering::Relaxed) == 1;
        may_be_freed && self.len() <= self.pinned() / 2
    }

    #[inline]
    pub(crate) fn bytes(&self) -> &[u8] {
        let header = self.block.header();
        header.witness.read();
        // SAFETY: start <= capacity (the fields' invariant), so the pointer stays inside the
        // block's data, which `self.block` keeps alive.
        let first = unsafe { header.data.add(self.start as usize) };
        // SAFETY: [start, end) lies inside the data and is initialised. It is this segment's
        // territory, and `&self` keeps `room` and `split_to` from being called meanwhile.
        unsafe { slice::from_raw_parts(first.as_ptr(), self.len()) }
    }

    /// The room behind the bytes. It is initialised, but may hold bytes of a former use.
    #[inline]
    pub(crate) fn room(&mut self) -> &mut [u8] {
        self.behind(self.end)
    }

    #[inline]
    pub(crate) fn room_len(&self) -> usize {
        (self.limit - self.end) as usize
    }

    /// Takes the first `n` bytes of the room, as they are now, among the bytes.
    #[inline]
    pub(crate) fn commit(&mut self, n: usize) {
        assert!(n <= self.room_len(), "committed {n} bytes of {}", self.room_len());
        self.end += n as u32;
    }

    /// Takes the first `n` bytes of the room, zeroed, among the bytes, and shows them.
    #[inline]
    pub(crate) fn commit_zeroed(&mut self, n: usize) -> &mut [u8] {
        let end = self.end;
        self.commit(n);
        let bytes = &mut self.behind(end)[..n];
        bytes.fill(0);
        bytes
    }

    /// Copies as much of `bytes` as there is room for, and says how much that was.
    #[inline]
    pub(crate) fn write(&mut self, bytes: &[u8]) -> usize {
        let n = bytes.len().min(self.room_len());
        self.room()[..n].copy_from_slice(&bytes[..n]);
        self.commit(n);
        n
    }

    /// Forgets the first `n` bytes.
    #[inline]
    pub(crate) fn advance(&mut self, n: usize) {
        assert!(n <= self.len(), "advanced {n} bytes of {}", self.len());
        self.start += n as u32;
    }

    /// Forgets the first `n` bytes, but shows them once more.
    #[inline]
    pub(crate) fn lend(&mut self, n: usize) -> &[u8] {
        let lent = self.start as usize;
        self.advance(n);
        // SAFETY: the former start is inside the block's data, as the start always is.
        let first = unsafe { self.block.header().data.add(lent) };
        // SAFETY: [lent, lent + n) was this segment's territory until now and has not passed to
        // another segment; the borrow of `self` keeps the block alive and the segment untouched.
        unsafe { slice::from_raw_parts(first.as_ptr(), n) }
    }

    /// Keeps the first `n` bytes. The others become room, unless they are foreign.
    pub(crate) fn truncate(&mut self, n: usize) {
        assert!(n <= self.len(), "truncated {} bytes to {n}", self.len());
        let end = self.start + n as u32;
        if self.block.header().class == Class::FOREIGN {
            self.limit = end;
        }
        self.end = end;
    }

    /// A reader of some of the bytes, which shares the block. It has no room, so it never writes,
    /// and this segment writes none of its bytes before [`reclaim`](Self::reclaim).
    pub(crate) fn reader(&self, from: usize, n: usize) -> ReadOnly {
        assert!(from <= self.len() && n <= self.len() - from, "{n} bytes from {from} on");
        let start = self.start + from as u32;
        let end = start + n as u32;
        ReadOnly(Self { block: self.block.share(), start, end, limit: end })
    }

    /// Whether no other segment has a piece of the block.
    #[inline]
    pub(crate) fn is_alone(&self) -> bool {
        self.block.header().references.load(Ordering::Acquire) == 1
    }

    /// Makes the whole block room again, unless another segment has a piece of it; says whether it
    /// did.
    #[inline]
    pub(crate) fn reclaim(&mut self) -> bool {
        // Acquire pairs with the Release of the references dropped before: their reads come first.
        let is_alone = self.is_alone();
        let header = self.block.header();
        if header.class == Class::FOREIGN || !is_alone {
            return false;
        }
        header.witness.reuse();
        (self.start, self.end, self.limit) = (0, 0, header.capacity);
        true
    }

    /// Divides the territory: the first `n` bytes go to a new segment without room, the other bytes
    /// and the room stay here.
    #[inline]
    pub(crate) fn split_to(&mut self, n: usize) -> Self {
        assert!(n <= self.len(), "split {n} bytes off {}", self.len());
        let middle = self.start + n as u32;
        let front =
            Self { block: self.block.share(), start: self.start, end: middle, limit: middle };
        self.start = middle;
        front
    }

    /// Takes `next` in if it is the neighbour behind in the same block; else gives it back.
    #[inline]
    pub(crate) fn join(&mut self, next: Self) -> Option<Self> {
        if self.block.header != next.block.header || self.end != next.start {
            return Some(next);
        }
        debug_assert_eq!(self.limit, next.start, "the territories would overlap");
        self.end = next.end;
        self.limit = next.limit;
        None
    }

    /// The territory from `from`, which was the end of the bytes a moment ago, to the limit.
    #[inline]
    fn behind(&mut self, from: u32) -> &mut [u8] {
        let header = self.block.header();
        // SAFETY: from <= limit <= capacity (the fields' invariant), so the pointer stays inside
        // the block's data, which `self.block` keeps alive.
        let first = unsafe { header.data.add(from as usize) };
        // SAFETY: [from, limit) is the territory of this segment alone; `&mut self` makes this the
        // only reference into it. It is empty for foreign memory, which may be read-only.
        unsafe { slice::from_raw_parts_mut(first.as_ptr(), (self.limit - from) as usize) }
    }

    /// The bytes as [`Bytes`], without copying them.
    pub(crate) fn into_bytes(self) -> Bytes {
        if let Some(bytes) = &self.block.header().foreign {
            return bytes.slice(self.start as usize..self.end as usize);
        }
        Bytes::from_owner(self)
    }
}

/// Bytes of a segment that only read: nothing widens its territory, so it never writes.
#[derive(Debug)]
pub(crate) struct ReadOnly(Segment);

impl AsRef<[u8]> for ReadOnly {
    fn as_ref(&self) -> &[u8] {
        self.0.bytes()
    }
}

impl AsRef<[u8]> for Segment {
    fn as_ref(&self) -> &[u8] {
        self.bytes()
    }
}

impl fmt::Debug for Segment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Segment")
            .field("block", &self.block.header)
            .field("bytes", &(self.start..self.end))
            .field("limit", &self.limit)
            .finish()
    }
}

/// Where a block's bytes begin.
const DATA: usize = size_of::<Header>().next_multiple_of(CACHE_LINE);
const CACHE_LINE: usize = 64;
// The documentation's figures rest on this. The headers of a model are larger.
const _: () = assert!(DATA == 64 || cfg!(loom));

/// What lies before a block's bytes.
struct Header {
    references: AtomicUsize,
    /// The first byte: behind this header, or wherever `foreign` has its own.
    data: NonNull<u8>,
    capacity: u32,
    class: Class,
    backing: Backing,
    witness: Witness,
    /// The account that is charged with the block's capacity: null, then once a ledger, which those
    /// bytes keep alive. Only the last owner of the block releases them, so it stays valid for as
    /// long as there is a `Block`. Null while the block is idle, and for foreign memory.
    account: AtomicPtr<Ledger>,
    /// Foreign memory, kept alive by keeping this. Changes only while the block has one owner.
    foreign: Option<Bytes>,
}

/// Where a block's memory is from.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Backing {
    Allocator,
    /// The block with this number in a slab.
    Slab(u8),
}

/// One of the counted references to a block.
struct Block {
    header: NonNull<Header>,
}

// SAFETY: the header is shared only through atomics, one of which points to an account, which is
// for any thread, and fields that change while there is one owner; the bytes are divided among the
// segments (see the rule at the top).
unsafe impl Send for Block {}
// SAFETY: as above; a shared `&Block` gives no access to bytes, a `&Segment` reads its own only.
unsafe impl Sync for Block {}

impl Block {
    #[inline]
    fn take(room: usize) -> Self {
        assert!(room <= MAX_SEGMENT, "{room} bytes are more than one block can hold");
        let class = Class::of(room);
        let idle = pool::take(class, room).unwrap_or_else(|| Idle::allocate(class, room));
        idle.into_block()
    }

    fn link(bytes: Bytes) -> Self {
        let mut idle =
            pool::take(Class::FOREIGN, 0).unwrap_or_else(|| Idle::allocate(Class::FOREIGN, 0));
        let header = idle.header_mut();
        header.capacity = bytes.len() as u32;
        // Never written through: a foreign segment has no room.
        header.data = NonNull::from(&*bytes).cast();
        header.foreign = Some(bytes);
        idle.into_block()
    }

    #[inline]
    fn header(&self) -> &Header {
        // SAFETY: written by `Idle::allocate`, freed by `Idle::drop`, which needs the last
        // reference; this is one of them. No `&mut Header` exists while a `Block` does.
        unsafe { self.header.as_ref() }
    }

    #[inline]
    fn share(&self) -> Self {
        // Relaxed, as in `Arc`: a new reference is made from one that already keeps the block
        // alive.
        let before = self.header().references.fetch_add(1, Ordering::Relaxed);
        assert!(before < usize::MAX / 2, "too many references to one block");
        Self { header: self.header }
    }

    #[inline]
    fn charge(&mut self, ledger: &Ledger) -> bool {
        let header = self.header();
        // Asked first: if the others have left, what they charged is seen below.
        let is_alone = header.references.load(Ordering::Acquire) == 1;
        let charged = !header.account.load(Ordering::Relaxed).is_null();
        if charged || header.class == Class::FOREIGN {
            return false;
        }
        let own = ptr::from_ref(ledger).cast_mut();
        let first = if is_alone {
            // `&mut self`: nothing else reaches the only owner, so this races with no other charge.
            header.account.store(own, Ordering::Relaxed);
            true
        } else {
            header.charge_first(own)
        };
        if first {
            // Until here the caller keeps the ledger alive, from here on the bytes do: they are
            // released by the last owner of the block, and `self` is one.
            ledger.add_block(header.capacity as usize);
        }
        first
    }

    fn charge_like(&mut self, other: &Self) {
        let ledger = NonNull::new(other.header().account.load(Ordering::Acquire));
        if let Some(ledger) = ledger {
            // SAFETY: the ledger of `other`, which is borrowed and so keeps it (see the field).
            self.charge(unsafe { ledger.as_ref() });
        }
    }
}

impl Header {
    /// Sets the account, where several owners may; false: another was first.
    #[cold]
    fn charge_first(&self, account: *mut Ledger) -> bool {
        // Release pairs with the Acquire in `charge_like`. `settle`, which takes the account back,
        // needs neither: the reference of this owner is dropped by then, and the count has ordered
        // that.
        let null = ptr::null_mut();
        self.account.compare_exchange(null, account, Ordering::Release, Ordering::Relaxed).is_ok()
    }
}

impl Drop for Block {
    #[inline]
    fn drop(&mut self) {
        let references = &self.header().references;
        // The only owner needs no read-modify-write: no thread can race with it. Acquire here, and
        // the fence below, pair with the Release of the references dropped before: their reads of
        // the bytes happen before the block is used again.
        if references.load(Ordering::Acquire) != 1 {
            if references.fetch_sub(1, Ordering::Release) != 1 {
                return;
            }
            fence(Ordering::Acquire);
        }
        self.header().witness.reuse();
        let mut idle = Idle { header: self.header };
        idle.settle();
        let header = idle.header_mut();
        let (class, capacity) = (header.class, header.capacity as usize);
        if class == Class::FOREIGN {
            return put_foreign(idle);
        }
        pool::put(class, capacity, idle);
    }
}

/// Puts a block that stands for foreign memory into the pool, and gives that memory back.
#[inline(never)] // so that the drop of all other blocks stays small
fn put_foreign(mut idle: Idle) {
    let header = idle.header_mut();
    let (capacity, foreign) = (header.capacity as usize, header.foreign.take());
    pool::put(Class::FOREIGN, capacity, idle);
    // Last, as it runs the owner's code, which may use the pool or panic.
    if let Some(foreign) = foreign {
        release(foreign);
    }
}

/// Gives foreign memory back to its owner. While a panic unwinds, perhaps one from other foreign
/// memory of the same buffer, a second panic is caught here: it would abort the process.
fn release(foreign: Bytes) {
    if !thread::panicking() {
        drop(foreign);
    } else if let Err(payload) = catch_unwind(AssertUnwindSafe(|| drop(foreign))) {
        // The payload's drop may panic as well; the payload of that panic is leaked.
        if let Err(second) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
            mem::forget(second);
        }
    }
}

/// A block that is not in use; dropping it frees the memory.
pub(crate) struct Idle {
    header: NonNull<Header>,
}

// SAFETY: an idle block has one owner, on any thread.
unsafe impl Send for Idle {}

impl Idle {
    fn allocate(class: Class, room: usize) -> Self {
        let capacity = class.capacity().unwrap_or(room);
        let (header, data, backing) = match slab::take(class, capacity) {
            Some(Place { header, data, number }) => (header.cast(), data, Backing::Slab(number)),
            None => allocate(class, capacity),
        };
        let value = Header {
            references: AtomicUsize::new(1),
            data,
            capacity: capacity as u32,
            class,
            backing,
            witness: Witness::default(),
            account: AtomicPtr::default(),
            foreign: None,
        };
        // SAFETY: fresh memory, aligned for a header, with no other pointer to it.
        unsafe { header.write(value) };
        stats::count_made(capacity);
        Self { header }
    }

    /// Takes the block off its account, if it is on one.
    #[inline]
    fn settle(&mut self) {
        // No other owner is left, so a read and a write are enough, without an exchange.
        let account = NonNull::new(self.header().account.load(Ordering::Relaxed));
        if let Some(ledger) = account {
            self.header().account.store(ptr::null_mut(), Ordering::Relaxed);
            // SAFETY: `Block::charge` charged it with the block's capacity, and the block has just
            // forgotten it.
            unsafe { Ledger::remove_block(ledger, self.header().capacity as usize) };
        }
    }

    fn header_mut(&mut self) -> &mut Header {
        // SAFETY: an idle block has no `Block`, so this is the only way to its header.
        unsafe { self.header.as_mut() }
    }

    #[inline]
    fn into_block(self) -> Block {
        // The count was left at 1 or 0, depending on how the last owner went.
        self.header().references.store(1, Ordering::Relaxed);
        let block = Block { header: self.header };
        mem::forget(self);
        block
    }

    fn header(&self) -> &Header {
        // SAFETY: as in `header_mut`; `&self` allows reading only.
        unsafe { self.header.as_ref() }
    }
}

impl Drop for Idle {
    fn drop(&mut self) {
        let Header { class, backing, .. } = *self.header();
        // An idle block with a foreign header carries no foreign memory any more, and no bytes.
        let capacity = class.capacity().unwrap_or(self.header().capacity as usize);
        stats::count_gone(capacity);
        // SAFETY: written by `allocate` and dropped here only; the `Bytes` inside goes with it.
        unsafe { self.header.drop_in_place() };
        match backing {
            // SAFETY: allocated with this very layout: the class and, where it has no capacity of
            // its own, the header's capacity never change.
            Backing::Allocator => unsafe {
                dealloc(self.header.as_ptr().cast(), layout(class, capacity));
            },
            // SAFETY: a place of that class, capacity and number; this was its last owner.
            Backing::Slab(number) => unsafe {
                slab::give(class, capacity, self.header.cast(), number);
            },
        }
    }
}

/// Memory for a block from the system's allocator: where its header and its bytes are.
#[expect(clippy::cast_ptr_alignment, reason = "the layout has a header's alignment")]
fn allocate(class: Class, capacity: usize) -> (NonNull<Header>, NonNull<u8>, Backing) {
    let layout = layout(class, capacity);
    // SAFETY: the layout has a header in it, so its size is not zero.
    let memory = unsafe { alloc_zeroed(layout) };
    let Some(header) = NonNull::new(memory.cast::<Header>()) else { handle_alloc_error(layout) };
    // SAFETY: the allocation has `DATA` bytes, in which a header fits, and `capacity` behind them.
    let data = unsafe { header.byte_add(DATA) }.cast::<u8>();
    (header, data, Backing::Allocator)
}

/// How a block lies in memory: its bytes begin with a cache line, behind the header.
///
/// Large blocks are not aligned: for aligned zeroed memory the system's allocator writes the zeros,
/// while it maps other large memory, page by page as it is used.
fn layout(class: Class, capacity: usize) -> Layout {
    let alignment = if class == Class::LARGE { align_of::<Header>() } else { CACHE_LINE };
    Layout::from_size_align(DATA + capacity, alignment).expect("a block's size is at most u32::MAX")
}

#[cfg(all(test, loom))]
mod loom_tests;
