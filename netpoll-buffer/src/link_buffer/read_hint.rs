//! How much space to offer to the next read, by what earlier reads filled, and by what became of
//! those bytes.

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

/// The highest level where bytes are consumed as they come: each read is into the block that the
/// last one has left, which is in the processor's cache. The level above takes four blocks in turn,
/// and pays only where the bytes stay: a large message takes fewer reads, and its blocks are cold
/// either way.
const HOT: u8 = 2;
const HIGHEST: u8 = OFFERS.len() as u8 - 1;

/// So many bytes that wait for the rest of their message are a large one, not the beginning of the
/// next small one.
const PART: usize = OFFERS[HOT as usize] / 2;

/// How many small reads in a row lead to a smaller offer.
const PATIENCE: u8 = 4;

/// How much to offer to the next read.
#[derive(Clone, Copy, Default)]
pub(super) struct ReadHint {
    level: u8,
    /// Reads in a row that would have fitted the next lower level, and [`KEPT`](Self::KEPT).
    notes: u8,
}

impl ReadHint {
    /// Bytes of the last read were passed on or wait for more, instead of being consumed.
    const KEPT: u8 = 1 << 7;

    pub(super) const fn new() -> Self {
        Self { level: 0, notes: 0 }
    }

    /// At the lowest level nothing is noted that matters.
    #[inline]
    pub(super) fn is_new(self) -> bool {
        self.level == 0
    }

    #[inline]
    pub(super) fn to_bits(self) -> u16 {
        u16::from_le_bytes([self.level, self.notes])
    }

    #[inline]
    pub(super) fn from_bits(bits: u16) -> Self {
        let [level, notes] = bits.to_le_bytes();
        Self { level: level.min(HIGHEST), notes }
    }

    #[inline]
    pub(super) fn offer(self) -> usize {
        OFFERS[usize::from(self.level)]
    }

    /// Notes that bytes live on in blocks that were passed on.
    #[inline]
    pub(super) fn passed_on(&mut self) {
        self.notes |= Self::KEPT;
    }

    /// Learns from a read behind `waiting` bytes.
    #[inline]
    pub(super) fn learn(&mut self, waiting: usize, read: usize, reserved: usize, offer: usize) {
        if self.level == 0 && read < reserved {
            self.notes = 0;
        } else {
            self.learn_more(waiting, read, reserved, offer);
        }
    }

    fn learn_more(&mut self, waiting: usize, read: usize, reserved: usize, offer: usize) {
        let is_kept = waiting >= PART || self.notes & Self::KEPT != 0;
        let highest = if is_kept { HIGHEST } else { HOT };
        let small_reads = self.notes & !Self::KEPT;
        self.notes = 0;
        if read == reserved {
            // A reservation that was cut short by the caller's maximum says nothing about the
            // traffic.
            if reserved >= offer / 2 {
                self.level += 2;
            }
        } else if self.level > 0 && read < OFFERS[usize::from(self.level) - 1] {
            // Strictly less: a read that fills the lower offer would go up again.
            if small_reads + 1 >= PATIENCE {
                self.level -= 1;
            } else {
                self.notes = small_reads + 1;
            }
        }
        self.level = self.level.min(highest);
    }
}
