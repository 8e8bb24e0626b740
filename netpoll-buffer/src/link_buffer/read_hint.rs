//! How much space to offer to the next read, by what earlier reads filled.

/// What a [`LinkBuffer::fill`](super::LinkBuffer::fill) did.
///
/// ```
/// use netpoll_buffer::{Filled, LinkBuffer};
///
/// let ended = LinkBuffer::new().fill(4096, |_| Ok(0))?;
/// assert_eq!(ended, Filled { read: 0, reserved: 4096 });
/// # std::io::Result::Ok(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Filled {
    /// How many bytes were read. 0 of a `reserved` that is not 0 is the end of the stream.
    pub read: usize,
    /// How much space was offered. If fewer bytes were read, the source had no more.
    pub reserved: usize,
}

/// How much space is offered, by level. A read that fills all of it goes up two levels; several
/// reads in a row that would have fitted a lower level go down one.
const OFFERS: [usize; 4] = [4 << 10, 16 << 10, 64 << 10, 256 << 10];

/// How many small reads in a row lead to a smaller offer.
const PATIENCE: u8 = 4;

/// How much to offer to the next read.
#[derive(Clone, Copy, Default)]
pub(super) struct ReadHint {
    level: u8,
    /// Reads in a row that would have fitted the next lower level.
    small_reads: u8,
}

impl ReadHint {
    pub(super) const fn new() -> Self {
        Self { level: 0, small_reads: 0 }
    }

    /// At the lowest level no small reads are counted.
    #[inline]
    pub(super) fn is_new(self) -> bool {
        self.level == 0
    }

    #[inline]
    pub(super) fn to_bits(self) -> u16 {
        u16::from_le_bytes([self.level, self.small_reads])
    }

    #[inline]
    pub(super) fn from_bits(bits: u16) -> Self {
        let [level, small_reads] = bits.to_le_bytes();
        Self { level: level.min(OFFERS.len() as u8 - 1), small_reads }
    }

    #[inline]
    pub(super) fn offer(self) -> usize {
        OFFERS[usize::from(self.level)]
    }

    #[inline]
    pub(super) fn learn(&mut self, read: usize, reserved: usize, offer: usize) {
        if read == reserved {
            // A reservation that was cut short by the caller's maximum says nothing about the
            // traffic.
            if reserved >= offer / 2 {
                self.level = (self.level + 2).min(OFFERS.len() as u8 - 1);
            }
            self.small_reads = 0;
        } else if self.level > 0 && read < OFFERS[usize::from(self.level) - 1] {
            // Strictly less: a read that fills the lower offer would go up again.
            self.small_reads = self.small_reads.saturating_add(1);
            if self.small_reads >= PATIENCE {
                *self = Self { level: self.level - 1, small_reads: 0 };
            }
        } else {
            self.small_reads = 0;
        }
    }
}
