//! Which account is charged with the memory of a buffer, and of what was read from it.

use bytes::Bytes;

use super::LinkBuffer;
use crate::block::Segment;
use crate::chain::Chain;
use crate::class::Class;
use crate::pool;
use crate::{Account, Shortfall};

/// The largest blocks to copy to: as large as the blocks that are read into.
const LARGEST_COPY: usize = 64 << 10;

impl LinkBuffer {
    /// Charges every block that this buffer holds now to `account`, until the last owner of the
    /// block drops it, on any thread.
    ///
    /// A block is charged with all its memory, since none of it is free for other uses, and once,
    /// however many buffers share it: a block that is charged already stays with its account. Where
    /// this buffer, or a slice of it, copies charged bytes into a block of its own, that block is
    /// charged to the same account. Foreign memory belongs to its owner and is not charged.
    ///
    /// Costs a look at each block, and an atomic addition or a few for each that was not charged;
    /// never allocates. See [`Account`].
    ///
    /// ```
    /// # use netpoll_buffer::{Account, LinkBuffer};
    /// let account = Account::new();
    /// let mut buffer = LinkBuffer::new();
    /// buffer.write_bytes(&[b'x'; 10_000]);
    /// buffer.charge(&account);
    /// buffer.charge(&account); // nothing more
    /// assert_eq!(account.held(), 16 << 10);
    /// buffer.clear();
    /// assert_eq!(account.held(), 0);
    /// ```
    #[inline]
    pub fn charge(&mut self, account: &Account) {
        // Not by `backwards_mut`, which costs more for the one block that most slices have.
        if let Some(first) = self.chain.first_mut() {
            first.charge(account);
        }
        self.chain.rest_mut().for_each(|segment| _ = segment.charge(account));
    }

    /// Charges the last blocks to `account`, back to one that is charged already: for a buffer that
    /// is charged each time after something was added. Foreign memory counts as charged.
    ///
    /// ```
    /// # use netpoll_buffer::{Account, LinkBuffer};
    /// let account = Account::new();
    /// let mut buffer = LinkBuffer::new();
    /// for _ in 0..100 {
    ///     buffer.write_bytes(&[b'x'; 1000]);
    ///     buffer.charge_added(&account); // looks at one block or two
    /// }
    /// assert_eq!(account.held(), buffer.held());
    /// ```
    #[inline]
    pub fn charge_added(&mut self, account: &Account) {
        let mut added = self.chain.backwards_mut();
        while added.next().is_some_and(|segment| segment.charge(account)) {}
    }

    /// How many bytes of memory its blocks have, those that it shares with other buffers included.
    /// Foreign memory belongs to its owner and is not counted.
    ///
    /// Costs a look at each block.
    ///
    /// ```
    /// # use netpoll_buffer::LinkBuffer;
    /// let mut buffer = LinkBuffer::from("abc");
    /// let slice = buffer.slice(1)?;
    /// assert_eq!((buffer.held(), slice.held()), (4096, 4096)); // the same block
    /// # Ok::<_, netpoll_buffer::Shortfall>(())
    /// ```
    pub fn held(&self) -> usize {
        let mut behind: Option<&Segment> = None;
        let mut held = 0;
        for segment in self.chain.backwards() {
            if !segment.is_foreign() && !behind.is_some_and(|it| it.shares_block(segment)) {
                held += segment.pinned();
            }
            behind = Some(segment);
        }
        held
    }

    /// How many bytes of foreign memory it links.
    ///
    /// Costs a look at each block.
    ///
    /// ```
    /// # use netpoll_buffer::LinkBuffer;
    /// let buffer = LinkBuffer::from(vec![0; 10_000]);
    /// assert_eq!((buffer.linked(), buffer.held()), (10_000, 0));
    /// ```
    pub fn linked(&self) -> usize {
        self.chain.backwards().filter(|it| it.is_foreign()).map(Segment::len).sum()
    }

    /// Copies bytes out of blocks that are not half full into smaller ones, to hold less memory.
    ///
    /// Blocks that another buffer shares, and foreign memory, stay as they are. Costs a look at
    /// each block, and the copies, which are counted in
    /// [`Stats::bytes_copied`](crate::Stats::bytes_copied) and charged to the account of the blocks
    /// that they replace.
    ///
    /// ```
    /// # use netpoll_buffer::LinkBuffer;
    /// let mut buffer = LinkBuffer::new();
    /// buffer.malloc(64 << 10)[..3].copy_from_slice(b"abc");
    /// buffer.malloc_ack(3)?;
    /// buffer.compact();
    /// assert_eq!(buffer.held(), 512);
    /// # Ok::<_, netpoll_buffer::Shortfall>(())
    /// ```
    pub fn compact(&mut self) {
        self.release();
        if !self.chain.backwards().any(Segment::is_loose) {
            return;
        }
        let mut loose = std::mem::take(&mut self.chain);
        while let Some(segment) = loose.pop_front() {
            if segment.is_loose() {
                self.copy_tight(&segment, &loose);
            } else {
                self.chain.push_back(segment);
            }
        }
    }

    /// Copies a segment into room behind the last one, and into blocks that it and those of `next`
    /// which will be copied as well can fill.
    fn copy_tight(&mut self, segment: &Segment, next: &Chain) {
        let mut left = segment.bytes();
        pool::count_copied(left.len());
        if let Some(last) = self.chain.last_mut().filter(|last| last.pinned() <= LARGEST_COPY) {
            left = &left[last.write(left)..];
        }
        while !left.is_empty() {
            let copied = left.len() + next.len_while(Segment::is_loose);
            let block = Class::filled_by(copied, LARGEST_COPY);
            let last = self.chain.push_room(block);
            left = &left[last.write(left)..];
            last.charge_like(segment);
        }
    }

    /// The next `n` bytes as [`Bytes`], charged to `account` for as long as they live.
    ///
    /// Shares and copies as [`read_bytes`](Self::read_bytes) does. A shared block is charged as by
    /// [`charge`](Self::charge), with all its memory; a copy is charged with its size, and costs
    /// one more small allocation.
    ///
    /// # Errors
    ///
    /// [`Shortfall`] when fewer than `n` bytes are readable; nothing is consumed or charged then.
    ///
    /// ```
    /// # use netpoll_buffer::{Account, LinkBuffer};
    /// let account = Account::new();
    /// let mut buffer = LinkBuffer::from("abcdef");
    /// let bytes = buffer.read_bytes_charged(3, &account)?;
    /// assert_eq!((&bytes[..], account.held()), (&b"abc"[..], 3));
    /// drop(bytes);
    /// assert_eq!(account.held(), 0);
    /// # Ok::<_, netpoll_buffer::Shortfall>(())
    /// ```
    pub fn read_bytes_charged(&mut self, n: usize, account: &Account) -> Result<Bytes, Shortfall> {
        let share = |mut piece: Segment| {
            piece.charge(account);
            piece.into_bytes()
        };
        self.read_bytes_as(n, share, |copy| account.keep(copy))
    }
}
