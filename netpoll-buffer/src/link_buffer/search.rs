//! Searches for a byte or several bytes, without looking twice at what an earlier search has seen.

use std::hash::{BuildHasher, RandomState};
use std::sync::OnceLock;

use memchr::{memchr, memmem};

use super::LinkBuffer;

/// The result of the last search: its needle does not begin anywhere before `looked`.
#[derive(Clone, Copy, Default)]
pub(super) struct Search {
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
struct Key([u8; 8]);

impl LinkBuffer {
    /// Where the first `byte` is, as an offset from the front.
    ///
    /// A search that finds nothing is remembered: the next one for the same byte begins where this
    /// one ended, so waiting for a delimiter looks at every byte once.
    ///
    /// ```
    /// # use netpoll_buffer::LinkBuffer;
    /// let mut buffer = LinkBuffer::from("key: value");
    /// assert_eq!(buffer.find(b':'), Some(3));
    /// assert_eq!(buffer.find(b'\n'), None);
    /// ```
    #[inline]
    pub fn find(&mut self, byte: u8) -> Option<usize> {
        let mut offset = 0;
        let key = Key::of(&[byte]);
        let from = self.search.resume(key);
        let mut found = None;
        for chunk in self.chunks() {
            let skip = from.saturating_sub(offset).min(chunk.len());
            if let Some(at) = memchr(byte, &chunk[skip..]) {
                found = Some(offset + skip + at);
                break;
            }
            offset += chunk.len();
        }
        self.search.remember(key, found.unwrap_or(self.len));
        found
    }

    /// Where the first `needle` is, as an offset from the front; 0 for an empty needle.
    ///
    /// The needle may lie across blocks. Remembers how far it looked, as [`find`](Self::find) does:
    /// waiting for a needle of `m` bytes looks at every byte once, and at the last `m - 1` again
    /// when more have arrived, whatever they are. One needle is remembered, the last.
    ///
    /// ```
    /// # use netpoll_buffer::LinkBuffer;
    /// let mut buffer = LinkBuffer::from("GET / HTTP/1.1\r\n\r\nbody");
    /// assert_eq!(buffer.find_bytes(b"\r\n\r\n"), Some(14));
    /// ```
    pub fn find_bytes(&mut self, needle: &[u8]) -> Option<usize> {
        if let [] | [_] = needle {
            return needle.first().map_or(Some(0), |&byte| self.find(byte));
        }
        let key = Key::of(needle);
        let found = self.search_from(needle, self.search.resume(key));
        // A needle that is not complete yet may have begun with the last bytes, but not before
        // them.
        let looked = found.unwrap_or((self.len + 1).saturating_sub(needle.len()));
        self.search.remember(key, looked);
        found
    }

    /// The next bytes up to and including the first `delimiter`, contiguous and consumed.
    ///
    /// Costs what [`next`](Self::next) costs, and looks at every byte once however often it is
    /// called before the delimiter arrives. `None` when it is not there; nothing is consumed then.
    ///
    /// ```
    /// # use netpoll_buffer::LinkBuffer;
    /// let mut buffer = LinkBuffer::from("one\ntwo");
    /// assert_eq!(buffer.until(b'\n'), Some(&b"one\n"[..]));
    /// assert_eq!(buffer.until(b'\n'), None);
    /// assert_eq!(buffer.len(), 3);
    /// ```
    #[inline]
    pub fn until(&mut self, delimiter: u8) -> Option<&[u8]> {
        let at = self.find(delimiter)?;
        self.next(at + 1).ok()
    }

    /// Where the first `needle` (of two bytes or more) at or behind `from` is.
    fn search_from(&self, needle: &[u8], from: usize) -> Option<usize> {
        let finder = memmem::Finder::new(needle);
        let mut offset = 0;
        let mut chunks = self.chunks();
        while let Some(chunk) = chunks.next() {
            let skip = from.saturating_sub(offset).min(chunk.len());
            if let Some(at) = finder.find(&chunk[skip..]) {
                return Some(offset + skip + at);
            }
            // Or the needle begins at the end of this chunk and goes on in the next ones.
            let first_cut = skip.max((chunk.len() + 1).saturating_sub(needle.len()));
            for start in first_cut..chunk.len() {
                let (head, rest) = needle.split_at(chunk.len() - start);
                if chunk[start..] == *head && begins_with(chunks.clone(), rest) {
                    return Some(offset + start);
                }
            }
            offset += chunk.len();
        }
        None
    }
}

/// Whether the concatenated chunks begin with `bytes`.
fn begins_with<'a>(chunks: impl Iterator<Item = &'a [u8]>, mut bytes: &[u8]) -> bool {
    for chunk in chunks {
        let n = chunk.len().min(bytes.len());
        if chunk[..n] != bytes[..n] {
            return false;
        }
        bytes = &bytes[n..];
    }
    bytes.is_empty()
}

impl Search {
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
    fn resume(&self, needle: Key) -> usize {
        if self.needle == needle { self.looked as usize } else { 0 }
    }

    #[inline]
    fn remember(&mut self, needle: Key, looked: usize) {
        self.looked = u32::try_from(looked).unwrap_or(u32::MAX);
        self.needle = needle;
    }
}

impl Key {
    const NONE: Self = Self([0; 8]);
    /// Marks a hash, in the place of a short needle's length.
    const HASHED: u8 = u8::MAX;

    #[inline]
    fn of(needle: &[u8]) -> Self {
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

    /// How many bytes are looked at in a search for a needle that never comes, in messages of this
    /// many pieces, each of 4 KiB. The first piece begins as the needle does.
    fn looked_at(pieces: usize, needle: &[u8]) -> usize {
        let mut buffer = LinkBuffer::new();
        buffer.write_bytes(&needle[..needle.len() - 1]);
        let mut looked_at = 0;
        for _ in 0..pieces {
            buffer.write_bytes(&[b'x'; 4096]);
            buffer.flush();
            looked_at += buffer.len() - buffer.search.resume(Key::of(needle));
            assert_eq!(buffer.find_bytes(needle), None);
        }
        looked_at
    }

    #[test]
    fn a_beginning_that_a_peer_planted_is_looked_at_once() {
        for needle in [&b"\r\n\r\n"[..], b"\r\n--end", b"----boundary", &[b'-'; 70]] {
            for pieces in [10, 100, 1000] {
                let arrived = needle.len() - 1 + pieces * 4096;
                let again = (pieces - 1) * (needle.len() - 1);
                assert_eq!(looked_at(pieces, needle), arrived + again, "{needle:?}");
            }
        }
    }

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
