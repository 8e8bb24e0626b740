//! What is sent, and therefore what must come back: each connection's bytes are a function of the
//! connection and of the position in its stream, so that nothing needs to be kept to check them.
//!
//! ```text
//! a message:  [length: 4, big-endian, rpc only] connection: 4 | sequence: 8 | filler: size - 12
//!                                               '------------------ size ------------------'
//! ```
//!
//! The filler is a piece of one table of pseudo-random bytes. Where it begins in the table depends
//! on the connection and the sequence, so bytes of another message don't pass for those of this.

use std::fmt;
use std::ops::Range;

/// The least size of a message: the connection and the sequence.
pub(crate) const SIZE_MIN: usize = 12;

const LENGTH_SIZE: usize = 4;
/// At how many places of the table a message's filler may begin; a power of two.
const BEGINNINGS: usize = 4096;

#[derive(Debug)]
pub(crate) struct Pattern {
    size: usize,
    prefixed: bool,
    table: Box<[u8]>,
}

/// The first byte that is not what was sent.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Mismatch {
    connection: u32,
    /// In the connection's stream.
    position: u64,
    sequence: u64,
    expected: u8,
    received: u8,
}

struct Message<'a> {
    head: [u8; LENGTH_SIZE + SIZE_MIN],
    /// The part of the head that is sent.
    sent: Range<usize>,
    filler: &'a [u8],
}

impl Pattern {
    /// Messages of `size` bytes, with their length in front if they are `prefixed`.
    ///
    /// # Panics
    ///
    /// If the size is less than `SIZE_MIN`.
    pub(crate) fn new(size: usize, prefixed: bool) -> Self {
        assert!(size >= SIZE_MIN, "the options are checked");
        let words = (size + BEGINNINGS).div_ceil(8) as u64;
        let table = (0..words).flat_map(|word| mix(word).to_le_bytes()).collect();
        Self { size, prefixed, table }
    }

    /// Bytes of a message with all that belongs to it.
    pub(crate) fn message_size(&self) -> u64 {
        let length = if self.prefixed { LENGTH_SIZE } else { 0 };
        (length + self.size) as u64
    }

    /// The bytes of `connection` from `position` on.
    pub(crate) fn fill(&self, connection: u32, position: u64, mut into: &mut [u8]) {
        let (mut sequence, mut skipped) = self.place(position);
        while !into.is_empty() {
            let message = self.message(connection, sequence);
            for part in message.parts_from(skipped) {
                let length = part.len().min(into.len());
                let (now, later) = into.split_at_mut(length);
                now.copy_from_slice(&part[..length]);
                into = later;
            }
            (sequence, skipped) = (sequence + 1, 0);
        }
    }

    /// Whether `bytes` are those of `connection` from `position` on.
    pub(crate) fn check(
        &self,
        connection: u32,
        position: u64,
        bytes: &[u8],
    ) -> Result<(), Mismatch> {
        let mut rest = bytes;
        let (mut sequence, mut skipped) = self.place(position);
        while !rest.is_empty() {
            let message = self.message(connection, sequence);
            for part in message.parts_from(skipped) {
                let length = part.len().min(rest.len());
                let (now, later) = rest.split_at(length);
                if now != &part[..length] {
                    let position = position + (bytes.len() - rest.len()) as u64;
                    return Err(Mismatch::find(connection, sequence, position, part, now));
                }
                rest = later;
            }
            (sequence, skipped) = (sequence + 1, 0);
        }
        Ok(())
    }

    /// The message that `position` is in, and how far into it.
    fn place(&self, position: u64) -> (u64, usize) {
        let size = self.message_size();
        (position / size, (position % size) as usize)
    }

    fn message(&self, connection: u32, sequence: u64) -> Message<'_> {
        let mut head = [0; LENGTH_SIZE + SIZE_MIN];
        head[..4].copy_from_slice(&(self.size as u32).to_be_bytes());
        head[4..8].copy_from_slice(&connection.to_le_bytes());
        head[8..].copy_from_slice(&sequence.to_le_bytes());
        let begin = mix(u64::from(connection) << 32 ^ sequence) as usize % BEGINNINGS;
        let filler = &self.table[begin..begin + self.size - SIZE_MIN];
        let sent = if self.prefixed { 0 } else { LENGTH_SIZE }..head.len();
        Message { head, sent, filler }
    }
}

impl Message<'_> {
    /// What is left of the message behind its first `skipped` bytes.
    fn parts_from(&self, skipped: usize) -> [&[u8]; 2] {
        let head = &self.head[self.sent.clone()];
        let of_head = skipped.min(head.len());
        [&head[of_head..], &self.filler[skipped - of_head..]]
    }
}

impl Mismatch {
    /// Names the first byte of `received` that differs; `position` is that of its beginning.
    #[cold]
    fn find(
        connection: u32,
        sequence: u64,
        position: u64,
        expected: &[u8],
        received: &[u8],
    ) -> Self {
        let mut pairs = expected.iter().zip(received);
        let index = pairs.position(|(expected, received)| expected != received);
        let index = index.expect("the caller has seen that they differ");
        let (expected, received) = (expected[index], received[index]);
        Self { connection, position: position + index as u64, sequence, expected, received }
    }
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { connection, position, sequence, expected, received } = self;
        write!(
            f,
            "connection {connection}: byte {position} of its stream, in message {sequence}, was \
             sent as {expected:#04x} and came back as {received:#04x}"
        )
    }
}

/// The finisher of `SplitMix64`: every bit of the input changes half of the bits of the output.
fn mix(seed: u64) -> u64 {
    let z = seed.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(pattern: &Pattern, connection: u32, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        pattern.fill(connection, 0, &mut bytes);
        bytes
    }

    #[test]
    fn a_message_says_whose_and_which_it_is() {
        let bytes = stream(&Pattern::new(16, false), 7, 32);
        assert_eq!(bytes[..4], 7_u32.to_le_bytes());
        assert_eq!(bytes[4..12], 0_u64.to_le_bytes());
        assert_eq!(bytes[16..20], 7_u32.to_le_bytes());
        assert_eq!(bytes[20..28], 1_u64.to_le_bytes());
        assert_ne!(bytes[12..16], bytes[28..]);
    }

    #[test]
    fn a_length_stands_in_front_big_endian() {
        let pattern = Pattern::new(300, true);
        assert_eq!(pattern.message_size(), 304);
        let bytes = stream(&pattern, 0, 608);
        assert_eq!(bytes[..4], [0, 0, 1, 44]);
        assert_eq!(bytes[304..308], [0, 0, 1, 44]);
    }

    #[test]
    fn the_stream_is_the_same_however_it_is_cut() {
        for pattern in [Pattern::new(SIZE_MIN, false), Pattern::new(50, true)] {
            let whole = stream(&pattern, 3, 500);
            for begin in 0..whole.len() {
                for length in [1, 13, 77] {
                    let piece = &whole[begin..whole.len().min(begin + length)];
                    let mut filled = vec![0; piece.len()];
                    pattern.fill(3, begin as u64, &mut filled);
                    assert_eq!(filled, piece);
                    assert_eq!(pattern.check(3, begin as u64, piece), Ok(()));
                }
            }
        }
    }

    #[test]
    fn every_changed_byte_is_found_where_it_is() {
        let pattern = Pattern::new(30, true);
        let good = stream(&pattern, 9, 200);
        for position in 0..good.len() {
            let mut bad = good.clone();
            bad[position] ^= 0x40;
            let expected = Mismatch {
                connection: 9,
                position: position as u64,
                sequence: position as u64 / 34,
                expected: good[position],
                received: bad[position],
            };
            assert_eq!(pattern.check(9, 0, &bad), Err(expected));
        }
    }

    #[test]
    fn bytes_of_another_place_do_not_pass() {
        let pattern = Pattern::new(64, false);
        let message = stream(&pattern, 1, 64);
        assert!(pattern.check(2, 0, &message).is_err(), "another connection's");
        assert!(pattern.check(1, 64, &message).is_err(), "the message before");
        assert!(pattern.check(1, 0, &message[1..]).is_err(), "one byte was lost");
        assert!(pattern.check(2, 12, &message[12..]).is_err(), "another's filler alone");
    }

    #[test]
    fn a_mismatch_reads_well() {
        let pattern = Pattern::new(12, false);
        let mut bytes = stream(&pattern, 0x0403_0201, 12);
        bytes[1] = 0xff;
        let text = pattern.check(0x0403_0201, 0, &bytes).unwrap_err().to_string();
        let expected = "connection 67305985: byte 1 of its stream, in message 0, was sent as 0x02 \
                        and came back as 0xff";
        assert_eq!(text, expected);
    }
}
