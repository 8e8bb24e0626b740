//! Looking for a byte or for several, without looking twice at what is already known.

use memchr::{memchr, memmem};

use super::LinkBuffer;

/// What the last search found out: `key` does not begin anywhere before `looked`.
///
/// The key is the needle, or its first four bytes, so that what is remembered holds for every
/// needle that begins alike.
#[derive(Clone, Copy, Default)]
pub(super) struct Search {
    /// In bytes from the front. Stays at 4 GiB, where looking twice costs less than room here.
    looked: u32,
    key: [u8; KEY],
    key_len: u8,
}

const KEY: usize = 4;

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
        let from = self.search.resume(&[byte]);
        let mut found = None;
        for chunk in self.chunks() {
            let skip = from.saturating_sub(offset).min(chunk.len());
            if let Some(at) = memchr(byte, &chunk[skip..]) {
                found = Some(offset + skip + at);
                break;
            }
            offset += chunk.len();
        }
        self.search.remember(&[byte], found.unwrap_or(self.len));
        found
    }

    /// Where the first `needle` is, as an offset from the front; 0 for an empty needle.
    ///
    /// The needle may lie across blocks. Remembers how far it looked, as [`find`](Self::find) does:
    /// exactly for needles of up to four bytes; for longer ones up to the first place where their
    /// first four bytes are.
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
        let from = self.search.resume(needle);
        let key = &needle[..needle.len().min(KEY)];
        let key_at = self.search_from(key, from);
        // Nothing before the first place where the key is, or may yet be completed, needs another
        // look.
        self.search.remember(key, key_at.unwrap_or((self.len + 1).saturating_sub(key.len())));
        if key.len() == needle.len() { key_at } else { self.search_from(needle, key_at?) }
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
            // Or it begins at the end of this chunk and goes on in the next ones.
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
        Self { looked: 0, key: [0; KEY], key_len: 0 }
    }

    pub(super) fn forget(&mut self) {
        *self = Self::new();
    }

    /// The first `n` bytes are gone.
    #[inline]
    pub(super) fn consumed(&mut self, n: usize) {
        self.looked = self.looked.saturating_sub(u32::try_from(n).unwrap_or(u32::MAX));
    }

    /// Where a search for `needle` may begin.
    #[inline]
    fn resume(&self, needle: &[u8]) -> usize {
        let known = self.key_len > 0 && needle.starts_with(&self.key[..usize::from(self.key_len)]);
        if known { self.looked as usize } else { 0 }
    }

    #[inline]
    fn remember(&mut self, key: &[u8], looked: usize) {
        self.looked = u32::try_from(looked).unwrap_or(u32::MAX);
        self.key_len = key.len() as u8;
        self.key[..key.len()].copy_from_slice(key);
    }
}
