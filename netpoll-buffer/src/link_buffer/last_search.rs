//! What the last search has found out, so that the next one begins where it ended.

use std::hash::{BuildHasher, RandomState};
use std::sync::OnceLock;

/// The result of the last search: its needle does not begin anywhere before `looked`.
#[derive(Clone, Copy, Default)]
pub(super) struct LastSearch {
    /// In bytes from the front. Stays at 4 GiB: to look twice from there on costs less than a
    /// larger field.
    looked: u32,
    needle: Key,
}

/// Which needle was looked for: its length and all of its bytes, if they are seven at most.
///
/// Of a longer needle it is 56 bits of a hash. The hash's key is drawn once per process, so a peer
/// that may choose needles (the boundary of a multipart message, say) can't choose two with the
/// same hash; that two have it by chance is so rare that storing whole needles is not worth the
/// memory.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Key([u8; 8]);

impl LastSearch {
    pub(super) const fn new() -> Self {
        Self { looked: 0, needle: Key::NONE }
    }

    pub(super) fn forget(&mut self) {
        *self = Self::new();
    }

    /// The first `n` bytes were removed.
    #[inline]
    pub(super) fn consumed(&mut self, n: usize) {
        self.looked = self.looked.saturating_sub(u32::try_from(n).unwrap_or(u32::MAX));
    }

    /// Where a search for `needle` may begin.
    #[inline]
    pub(super) fn resume(&self, needle: Key) -> usize {
        if self.needle == needle { self.looked as usize } else { 0 }
    }

    #[inline]
    pub(super) fn remember(&mut self, needle: Key, looked: usize) {
        self.looked = u32::try_from(looked).unwrap_or(u32::MAX);
        self.needle = needle;
    }
}

impl Key {
    const NONE: Self = Self([0; 8]);
    /// Marks a hash, in the place of a short needle's length.
    const HASHED: u8 = u8::MAX;

    #[inline]
    pub(super) fn of(needle: &[u8]) -> Self {
        let mut key = [0; 8];
        if let Some(place) = key.get_mut(1..=needle.len()) {
            place.copy_from_slice(needle);
            key[0] = needle.len() as u8;
        } else {
            key = hash(needle);
            key[0] = Self::HASHED;
        }
        Self(key)
    }
}

fn hash(needle: &[u8]) -> [u8; 8] {
    static SECRET: OnceLock<RandomState> = OnceLock::new();
    SECRET.get_or_init(RandomState::new).hash_one(needle).to_ne_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_tells_needles_apart() {
        let needles: [&[u8]; 7] =
            [b"", b"\0", b"\0\0", b"1234567", b"12345678", b"12345679", b"1234567\0"];
        for (i, one) in needles.iter().enumerate() {
            let copied = one.to_vec();
            assert!(Key::of(one) == Key::of(&copied));
            assert!(needles[..i].iter().all(|other| Key::of(one) != Key::of(other)));
        }
    }
}
