//! The extensions of a PROXY header: type, length, value, one behind the other.
//!
//! ```text
//!   type (1) │ length (2, big-endian) │ value        as often as there is room
//! ```

/// The protocol that was agreed on by ALPN.
pub const ALPN: u8 = 0x01;
/// The host name that the client asked for, in UTF-8.
pub const AUTHORITY: u8 = 0x02;
/// A checksum over the whole header.
pub const CRC32C: u8 = 0x03;
/// Padding.
pub const NOOP: u8 = 0x04;
/// What identifies the connection, 128 bytes at the most.
pub const UNIQUE_ID: u8 = 0x05;
/// How the client spoke TLS; its value has extensions of its own.
pub const SSL: u8 = 0x20;
/// The name of a network namespace.
pub const NETNS: u8 = 0x30;

/// Type and length.
const HEAD: usize = 3;

/// The extensions of a header, in their order: their types and their values.
#[derive(Debug, Clone)]
pub struct Tlvs<'a>(&'a [u8]);

impl<'a> Tlvs<'a> {
    /// Those in `bytes`; at the first one that is cut off it ends.
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }
}

impl<'a> Iterator for Tlvs<'a> {
    type Item = (u8, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let (&[kind, high, low], rest) = self.0.split_first_chunk::<HEAD>()?;
        let (value, rest) = rest.split_at_checked(u16::from_be_bytes([high, low]).into())?;
        self.0 = rest;
        Some((kind, value))
    }
}

/// Whether `bytes` are whole extensions and nothing else.
pub(super) fn are_whole(bytes: &[u8]) -> bool {
    let mut all = Tlvs(bytes);
    all.by_ref().for_each(drop);
    all.0.is_empty()
}

/// Adds an extension; `false` if its value is too long to be one, and nothing is added.
pub(super) fn push(to: &mut Vec<u8>, kind: u8, value: &[u8]) -> bool {
    let Ok(len) = u16::try_from(value.len()) else { return false };
    to.push(kind);
    to.extend(len.to_be_bytes());
    to.extend(value);
    true
}

/// Where the values of the checksums stand in `bytes`, and how long they are.
pub(super) fn checksums(bytes: &[u8]) -> impl Iterator<Item = (usize, usize)> {
    let mut at = 0;
    Tlvs(bytes).filter_map(move |(kind, value)| {
        let start = at + HEAD;
        at = start + value.len();
        (kind == CRC32C).then_some((start, value.len()))
    })
}

/// The checksum of bytes that stand one behind the other.
pub(super) fn crc32c(bytes: &[u8], so_far: u32) -> u32 {
    let step = |sum: u32, byte: &u8| TABLE[usize::from(sum as u8 ^ byte)] ^ (sum >> 8);
    !bytes.iter().fold(!so_far, step)
}

/// Of each byte, what it adds (Castagnoli's polynomial, reflected).
const TABLE: [u32; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let (mut sum, mut bit) = (byte as u32, 0);
        while bit < 8 {
            sum = if sum & 1 == 1 { (sum >> 1) ^ 0x82F6_3B78 } else { sum >> 1 };
            bit += 1;
        }
        table[byte] = sum;
        byte += 1;
    }
    table
};

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_that_of_rfc_3720() {
        assert_eq!(crc32c(b"123456789", 0), 0xE306_9283);
        assert_eq!(crc32c(b"56789", crc32c(b"1234", 0)), 0xE306_9283);
        assert_eq!(crc32c(&[0; 32], 0), 0x8A91_36AA);
    }

    #[test]
    fn what_is_cut_off_is_not_whole() {
        let mut bytes = Vec::new();
        assert!(push(&mut bytes, ALPN, b"h2") && push(&mut bytes, NOOP, b""));
        assert!(push(&mut bytes, CRC32C, b"1234") && !push(&mut bytes, NOOP, &vec![0; 0x1_0000]));
        let ends = [0, 5, 8, bytes.len()];
        for end in 0..=bytes.len() {
            assert_eq!(are_whole(&bytes[..end]), ends.contains(&end), "{end}");
        }
        assert_eq!(checksums(&bytes).collect::<Vec<_>>(), [(11, 4)]);
    }
}
