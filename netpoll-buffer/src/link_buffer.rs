//! The buffer: a chain of segments of which the first bytes are readable and the others pending.

mod buf_mut;
mod charge;
mod last_search;
mod read;
mod read_hint;
mod search;
mod socket;
mod traits;
mod write;

use std::{fmt, mem};

use crate::block::Segment;
use crate::chain::Chain;
use last_search::LastSearch;
pub use read_hint::Filled;
use read_hint::ReadHint;

/// A queue of bytes in linked blocks.
///
/// ```text
///        next, slice, until                            malloc, write_bytes, append
///       ◀───────────────────                           ◀──────────────────────────
///   ┌────────────────┐   ┌────────────────────────────┐   ┌──────────────────────┐
///   │ block          │──▶│ block                      │──▶│ block       │  room  │
///   └────────────────┘   └────────────────────────────┘   └──────────────────────┘
///    ◀────────────── len ──────────────▶◀─── malloc_len ───────────────▶
///            readable                 flush        pending
/// ```
///
/// One side reads, the other writes, and [`flush`](Self::flush) makes written bytes readable. Bytes
/// stay where they are: slicing and appending pass blocks on. An empty buffer holds no block at
/// all, and is small, so that ten thousand idle connections cost little.
///
/// ```
/// use netpoll_buffer::LinkBuffer;
///
/// let mut buffer = LinkBuffer::new();
/// buffer.write_string("hello, ");
/// buffer.write_string("world\n");
/// assert_eq!(buffer.len(), 0); // not yet
/// buffer.flush();
/// assert_eq!(buffer.until(b'\n'), Some(&b"hello, world\n"[..]));
/// ```
#[derive(Default)]
pub struct LinkBuffer {
    /// Holds `len` readable bytes, then `pending` ones. The first segment may be empty: its bytes
    /// were lent out by `next`, and the next operation releases it.
    chain: Chain,
    len: usize,
    pending: usize,
    last_search: LastSearch,
    read_hint: ReadHint,
}

impl LinkBuffer {
    /// An empty buffer. Allocates nothing and holds no block.
    ///
    /// ```
    /// let buffer = netpoll_buffer::LinkBuffer::new();
    /// assert!(buffer.is_empty());
    /// ```
    #[inline]
    pub const fn new() -> Self {
        Self {
            chain: Chain::new(),
            len: 0,
            pending: 0,
            last_search: LastSearch::new(),
            read_hint: ReadHint::new(),
        }
    }

    /// How many bytes are readable.
    ///
    /// ```
    /// assert_eq!(netpoll_buffer::LinkBuffer::from("abc").len(), 3);
    /// ```
    #[inline]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether no byte is readable. Bytes may be pending all the same.
    ///
    /// ```
    /// let mut buffer = netpoll_buffer::LinkBuffer::new();
    /// buffer.write_byte(1);
    /// assert!(buffer.is_empty());
    /// buffer.flush();
    /// assert!(!buffer.is_empty());
    /// ```
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether it equals a new buffer: it holds no byte and no block, and its reads have not led it
    /// to [offer](Self::fill) more. So it can be replaced by a new one, and nothing is lost.
    ///
    /// ```
    /// let mut buffer = netpoll_buffer::LinkBuffer::from("abc");
    /// assert_eq!(buffer.next(3)?, b"abc");
    /// assert!(!buffer.is_new()); // those bytes are lent
    /// buffer.release();
    /// assert!(buffer.is_new());
    /// # Ok::<_, netpoll_buffer::Shortfall>(())
    /// ```
    #[inline]
    pub fn is_new(&self) -> bool {
        // Without a segment there are no bytes, neither readable nor pending.
        self.chain.first().is_none() && self.read_hint.is_new()
    }

    /// Forgets all bytes, readable and pending, and gives the blocks back.
    ///
    /// ```
    /// let mut buffer = netpoll_buffer::LinkBuffer::from("abc");
    /// buffer.clear();
    /// assert!(buffer.is_empty());
    /// ```
    pub fn clear(&mut self) {
        self.len = 0;
        self.pending = 0;
        self.last_search.forget();
        // Taken out first: the owner of foreign memory may panic.
        drop(mem::take(&mut self.chain));
    }

    /// Gives back the block that the last [`next`](Self::next) or [`until`](Self::until) lent out.
    ///
    /// Every other operation does this first, so call it only where no operation follows for long.
    ///
    /// ```
    /// let mut buffer = netpoll_buffer::LinkBuffer::from("abc");
    /// let message = buffer.next(3)?;
    /// assert_eq!(message, b"abc");
    /// buffer.release(); // holds no block any more
    /// # Ok::<_, netpoll_buffer::Shortfall>(())
    /// ```
    #[inline]
    pub fn release(&mut self) {
        if self.chain.first().is_some_and(Segment::is_empty) {
            self.release_empty();
        }
    }
}

impl LinkBuffer {
    #[cold]
    fn release_empty(&mut self) {
        while self.chain.first().is_some_and(Segment::is_empty) {
            self.chain.drop_front();
        }
    }
}

impl fmt::Debug for LinkBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LinkBuffer")
            .field("len", &self.len)
            .field("malloc_len", &self.pending)
            .field("segments", &self.chain.segments())
            .finish_non_exhaustive()
    }
}
