//! One block that a system call fills, that is read in pieces, and that is filled again.

use std::ops::Range;

use bytes::Bytes;

use crate::account::Account;
use crate::block::Segment;

/// A slice of a block keeps all of it. One that is smaller than the block by more than this factor
/// is copied instead.
const WASTE: usize = 64;

/// A block to receive datagrams into: its room is lent to a system call, what that wrote is read in
/// place or shared in slices, and the block is used again when no slice of it is left.
///
/// ```text
///   reclaim        commit(n)                    slice(a..b)
///   ┌──────────┐   ┌─────────┬──────┐           ┌──┬─────┬─┬──────┐
///   │ room     │──►│ n bytes │ room │──────────►│  │Bytes│ │ room │──► reclaim: false
///   └──────────┘   └─────────┴──────┘           └──┴─────┴─┴──────┘    while the slice lives
/// ```
///
/// ```
/// use netpoll_buffer::ReceiveBlock;
///
/// let mut block = ReceiveBlock::new(2048);
/// block.room()[..8].copy_from_slice(b"one, two");
/// block.commit(8);
/// let slice = block.slice(5..8);
/// assert_eq!((&block.bytes()[..3], &slice[..]), (&b"one"[..], &b"two"[..]));
/// assert!(block.reclaim() && block.bytes().is_empty()); // so short a slice was copied
/// ```
#[derive(Debug)]
pub struct ReceiveBlock(Segment);

impl ReceiveBlock {
    /// A block with room for at least `room` bytes, from the pool where it has such blocks.
    ///
    /// # Panics
    /// Where `room` is more than 4 GiB less 65 bytes.
    pub fn new(room: usize) -> Self {
        Self(Segment::with_room(room))
    }

    /// The room behind the bytes. It is initialised, but may show bytes of a former use: it is for
    /// system calls to write to.
    #[inline]
    pub fn room(&mut self) -> &mut [u8] {
        self.0.room()
    }

    /// Takes the first `n` bytes of the room among the bytes.
    ///
    /// # Panics
    /// Where the room has fewer.
    #[inline]
    pub fn commit(&mut self, n: usize) {
        self.0.commit(n);
    }

    /// The bytes.
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        self.0.bytes()
    }

    /// How many bytes of memory it has, which is what a slice keeps.
    #[inline]
    pub fn capacity(&self) -> usize {
        self.0.pinned()
    }

    /// A part of the bytes that any code may keep: it shares the block, or is a copy where it would
    /// keep a block of more than 64 times its size. An allocation.
    ///
    /// # Panics
    /// Where the range is not one of the bytes.
    pub fn slice(&self, range: Range<usize>) -> Bytes {
        let wanted = &self.bytes()[range.clone()];
        if wanted.len().saturating_mul(WASTE) < self.capacity() {
            return Bytes::copy_from_slice(wanted);
        }
        Bytes::from_owner(self.0.reader(range.start, range.len()))
    }

    /// Forgets the bytes and makes all of the block room again. `false`: a slice of it is left, and
    /// nothing has changed.
    #[inline]
    pub fn reclaim(&mut self) -> bool {
        self.0.reclaim()
    }

    /// Whether no slice of it is left.
    #[inline]
    pub fn is_alone(&self) -> bool {
        self.0.is_alone()
    }

    /// Charges the block to `account` until its last owner drops it, unless it is charged already;
    /// says whether it did.
    pub fn charge(&mut self, account: &Account) -> bool {
        self.0.charge(account)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn filled(with: u8) -> ReceiveBlock {
        let mut block = ReceiveBlock::new(4096);
        block.room()[..2000].fill(with);
        block.commit(2000);
        block
    }

    #[test]
    fn a_block_is_not_used_again_while_a_slice_of_it_lives() {
        let mut block = filled(1);
        let slices = [block.slice(0..1000), block.slice(500..2000)];
        let keep = slices[1].slice(100..200);
        assert!(!block.reclaim());
        block.room().fill(2);
        block.commit(96); // behind what the slices read
        assert!(slices[0].iter().chain(&slices[1]).all(|it| *it == 1));
        drop(slices);
        assert!(!block.reclaim(), "a part of a slice is left");
        assert_eq!(keep[..], [1; 100]);
        drop(keep);
        assert!(block.reclaim() && block.bytes().is_empty());
        assert_eq!(block.room().len(), block.capacity());
    }

    #[test]
    fn a_slice_outlives_its_block_and_a_small_one_is_a_copy() {
        let (mut block, other) = (filled(7), filled(8));
        let small = block.slice(0..63);
        assert!(block.reclaim(), "a copy keeps nothing");
        let large = other.slice(0..64);
        drop((block, other));
        assert_eq!((small[..] == [7; 63], large[..] == [8; 64]), (true, true));
    }

    #[test]
    fn an_account_is_charged_until_the_last_slice_has_gone() {
        let (account, mut block) = (Account::new(), filled(1));
        assert!(block.charge(&account) && !block.charge(&account));
        let slice = block.slice(0..2000);
        drop(block);
        assert_eq!(account.held(), 4096);
        drop(slice);
        assert_eq!(account.held(), 0);
    }
}
