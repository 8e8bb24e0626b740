//! Who is answerable for the memory of a buffer, and of what was read from it.

use bytes::Bytes;

use super::LinkBuffer;
use crate::block::Segment;
use crate::{Account, Shortfall};

impl LinkBuffer {
    /// Charges every block that this buffer holds now to `account`, until the block's last owner,
    /// whoever that is and on whatever thread, lets go of it.
    ///
    /// A block is charged with all its memory, as that is what it keeps from others, and once,
    /// however many buffers share it: if it is charged already, it stays with whom it is charged
    /// to. Where this buffer, or a slice of it, copies charged bytes into a block of its own, that
    /// block is charged to the same account. Foreign memory is its owner's and not charged.
    ///
    /// Costs a look at each block, and a few atomic additions for each that was not charged; never
    /// allocates. See [`Account`].
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
    pub fn charge(&self, account: &Account) {
        if let Some(first) = self.chain.first() {
            first.charge(account);
        }
        self.chain.rest().for_each(|segment| segment.charge(account));
    }

    /// The next `n` bytes as [`Bytes`], charged to `account` for as long as they live.
    ///
    /// Shares and copies as [`read_bytes`](Self::read_bytes) does. What is shared is charged as
    /// [`charge`](Self::charge) does it, by the block; a copy with its size, and costs one more
    /// small allocation.
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
        let share = |piece: Segment| {
            piece.charge(account);
            piece.into_bytes()
        };
        self.read_bytes_as(n, share, |copy| account.keep(copy))
    }
}
