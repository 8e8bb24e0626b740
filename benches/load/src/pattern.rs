//! What is sent, and therefore what must come back: each connection's bytes are a function of the
//! connection and of the position in its stream, so that nothing needs to be kept to check them.
//!
//! ```text
//! a message:  [what the framing puts in front] connection: 4 | sequence: 8 | filler: size - 12
//!                                              '------------------ size ------------------'
//! ```
//!
//! An answer may have something else in front than its request.
//!
//! The filler is a piece of one table of pseudo-random bytes. Where it begins in the table depends
//! on the connection and the sequence, so bytes of another message don't pass for those of this.

use std::fmt;

/// The least size of a message: the connection and the sequence.
pub(crate) const SIZE_MIN: usize = 12;

/// At how many places of the table a message's filler may begin; a power of two.
const BEGINNINGS: usize = 4096;

/// What stands in front of each message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Framing {
    Bare,
    /// Its length: 4 bytes, big-endian.
    Length,
    /// The head of a binary frame; a request is masked with zeros.
    WebSocket,
}

#[derive(Debug)]
pub(crate) struct Pattern {
    size: usize,
    /// In front of a request, and in front of its answer.
    asked: Box<[u8]>,
    answered: Box<[u8]>,
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
    front: &'a [u8],
    name: [u8; SIZE_MIN],
    filler: &'a [u8],
}

impl Pattern {
    /// Messages of `size` bytes, without what the framing adds.
    ///
    /// # Panics
    ///
    /// If the size is less than `SIZE_MIN`.
    pub(crate) fn new(size: usize, framing: Framing) -> Self {
        assert!(size >= SIZE_MIN, "the options are checked");
        let words = (size + BEGINNINGS).div_ceil(8) as u64;
        let table = (0..words).flat_map(|word| mix(word).to_le_bytes()).collect();
        let (asked, answered) = framing.fronts(size);
        Self { size, asked: asked.into(), answered: answered.into(), table }
    }

    /// Bytes of a request with all that belongs to it.
    pub(crate) fn request_size(&self) -> u64 {
        (self.asked.len() + self.size) as u64
    }

    /// Bytes of an answer with all that belongs to it.
    pub(crate) fn answer_size(&self) -> u64 {
        (self.answered.len() + self.size) as u64
    }

    /// Bytes of answers that can have come at most when so many of requests went.
    pub(crate) fn answers_to(&self, sent: u64) -> u64 {
        let (whole, part) = place(sent, self.request_size());
        let begun = match part {
            0 => 0,
            _ => self.answered.len() + part.saturating_sub(self.asked.len()),
        };
        whole * self.answer_size() + begun as u64
    }

    /// The requests of `connection` from `position` of their stream on.
    pub(crate) fn fill(&self, connection: u32, position: u64, mut into: &mut [u8]) {
        let (mut sequence, mut skipped) = place(position, self.request_size());
        while !into.is_empty() {
            let message = self.message(&self.asked, connection, sequence);
            for part in message.parts_from(skipped) {
                let length = part.len().min(into.len());
                let (now, later) = into.split_at_mut(length);
                now.copy_from_slice(&part[..length]);
                into = later;
            }
            (sequence, skipped) = (sequence + 1, 0);
        }
    }

    /// Whether `bytes` are the answers to `connection` from `position` of their stream on.
    pub(crate) fn check(
        &self,
        connection: u32,
        position: u64,
        bytes: &[u8],
    ) -> Result<(), Mismatch> {
        let mut rest = bytes;
        let (mut sequence, mut skipped) = place(position, self.answer_size());
        while !rest.is_empty() {
            let message = self.message(&self.answered, connection, sequence);
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

    fn message<'a>(&'a self, front: &'a [u8], connection: u32, sequence: u64) -> Message<'a> {
        let mut name = [0; SIZE_MIN];
        name[..4].copy_from_slice(&connection.to_le_bytes());
        name[4..].copy_from_slice(&sequence.to_le_bytes());
        let begin = mix(u64::from(connection) << 32 ^ sequence) as usize % BEGINNINGS;
        let filler = &self.table[begin..begin + self.size - SIZE_MIN];
        Message { front, name, filler }
    }
}

impl Framing {
    /// In front of a request of `size` bytes, and in front of its answer.
    fn fronts(self, size: usize) -> (Vec<u8>, Vec<u8>) {
        match self {
            Self::Bare => (Vec::new(), Vec::new()),
            Self::Length => {
                let length = (size as u32).to_be_bytes().to_vec();
                (length.clone(), length)
            }
            Self::WebSocket => ([frame_head(0x80, size), vec![0; 4]].concat(), frame_head(0, size)),
        }
    }
}

/// The head of a final binary frame (RFC 6455, 5.2), without a key.
fn frame_head(masked: u8, size: usize) -> Vec<u8> {
    let mut head = vec![0x82];
    match size {
        0..126 => head.push(masked | size as u8),
        126..0x1_0000 => {
            head.push(masked | 0x7e);
            head.extend((size as u16).to_be_bytes());
        }
        _ => {
            head.push(masked | 0x7f);
            head.extend((size as u64).to_be_bytes());
        }
    }
    head
}

/// The message that `position` is in, where each has so many bytes, and how far into it.
fn place(position: u64, size: u64) -> (u64, usize) {
    (position / size, (position % size) as usize)
}

impl Message<'_> {
    /// What is left of the message behind its first `skipped` bytes.
    fn parts_from(&self, skipped: usize) -> [&[u8]; 3] {
        let of_front = skipped.min(self.front.len());
        let of_name = (skipped - of_front).min(SIZE_MIN);
        let of_filler = skipped - of_front - of_name;
        [&self.front[of_front..], &self.name[of_name..], &self.filler[of_filler..]]
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
        let bytes = stream(&Pattern::new(16, Framing::Bare), 7, 32);
        assert_eq!(bytes[..4], 7_u32.to_le_bytes());
        assert_eq!(bytes[4..12], 0_u64.to_le_bytes());
        assert_eq!(bytes[16..20], 7_u32.to_le_bytes());
        assert_eq!(bytes[20..28], 1_u64.to_le_bytes());
        assert_ne!(bytes[12..16], bytes[28..]);
    }

    #[test]
    fn a_length_stands_in_front_big_endian() {
        let pattern = Pattern::new(300, Framing::Length);
        assert_eq!(pattern.request_size(), 304);
        let bytes = stream(&pattern, 0, 608);
        assert_eq!(bytes[..4], [0, 0, 1, 44]);
        assert_eq!(bytes[304..308], [0, 0, 1, 44]);
    }

    #[test]
    fn a_frame_has_the_head_that_fits_its_size() {
        let small = Pattern::new(64, Framing::WebSocket);
        assert_eq!(stream(&small, 0, 6), [0x82, 0x80 | 64, 0, 0, 0, 0]);
        assert_eq!((small.request_size(), small.answer_size()), (70, 66));
        let medium = Pattern::new(300, Framing::WebSocket);
        assert_eq!(stream(&medium, 0, 8), [0x82, 0xfe, 1, 44, 0, 0, 0, 0]);
        assert_eq!(medium.answer_size(), 304);
        let large = Pattern::new(1 << 16, Framing::WebSocket);
        assert_eq!(stream(&large, 0, 10), [0x82, 0xff, 0, 0, 0, 0, 0, 1, 0, 0]);
        assert_eq!(large.answer_size(), 10 + (1 << 16));
    }

    #[test]
    fn an_answer_has_its_own_front_and_the_same_message() {
        let pattern = Pattern::new(64, Framing::WebSocket);
        let requests = stream(&pattern, 3, 140);
        let answers = [&[0x82, 64][..], &requests[6..70], &[0x82, 64], &requests[76..]].concat();
        for begin in 0..answers.len() {
            assert_eq!(pattern.check(3, begin as u64, &answers[begin..]), Ok(()));
        }
        assert_eq!(pattern.check(3, 0, &requests[..10]).unwrap_err().position, 1);
    }

    #[test]
    fn no_more_answers_can_come_than_requests_went() {
        let pattern = Pattern::new(64, Framing::Bare);
        assert_eq!([0, 1, 64, 65].map(|sent| pattern.answers_to(sent)), [0, 1, 64, 65]);
        let pattern = Pattern::new(64, Framing::WebSocket);
        assert_eq!([0, 70, 140].map(|sent| pattern.answers_to(sent)), [0, 66, 132]);
        assert_eq!(pattern.answers_to(69), 65);
    }

    #[test]
    fn the_stream_is_the_same_however_it_is_cut() {
        for pattern in [Pattern::new(SIZE_MIN, Framing::Bare), Pattern::new(50, Framing::Length)] {
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
        let pattern = Pattern::new(30, Framing::Length);
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
        let pattern = Pattern::new(64, Framing::Bare);
        let message = stream(&pattern, 1, 64);
        assert!(pattern.check(2, 0, &message).is_err(), "another connection's");
        assert!(pattern.check(1, 64, &message).is_err(), "the message before");
        assert!(pattern.check(1, 0, &message[1..]).is_err(), "one byte was lost");
        assert!(pattern.check(2, 12, &message[12..]).is_err(), "another's filler alone");
    }

    #[test]
    fn a_mismatch_reads_well() {
        let pattern = Pattern::new(12, Framing::Bare);
        let mut bytes = stream(&pattern, 0x0403_0201, 12);
        bytes[1] = 0xff;
        let text = pattern.check(0x0403_0201, 0, &bytes).unwrap_err().to_string();
        let expected = "connection 67305985: byte 1 of its stream, in message 0, was sent as 0x02 \
                        and came back as 0xff";
        assert_eq!(text, expected);
    }
}
