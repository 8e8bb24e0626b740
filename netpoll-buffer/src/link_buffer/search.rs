//! Searches for a byte or several bytes, without looking twice at what an earlier search has seen.

use memchr::{memchr, memmem};

use super::LinkBuffer;
use super::last_search::Key;

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
        let from = self.last_search.resume(key);
        let mut found = None;
        for chunk in self.chunks() {
            let skip = from.saturating_sub(offset).min(chunk.len());
            if let Some(at) = memchr(byte, &chunk[skip..]) {
                found = Some(offset + skip + at);
                break;
            }
            offset += chunk.len();
        }
        self.last_search.remember(key, found.unwrap_or(self.len));
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
        let found = self.search_from(needle, self.last_search.resume(key));
        // A needle that is not complete yet may have begun with the last bytes, but not before
        // them.
        let looked = found.unwrap_or((self.len + 1).saturating_sub(needle.len()));
        self.last_search.remember(key, looked);
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

    /// Where a search for `needle` begins, in bytes from the front: it looks at none before that.
    /// For tests of what a search costs.
    #[doc(hidden)]
    pub fn search_begins_at(&self, needle: &[u8]) -> usize {
        self.last_search.resume(Key::of(needle))
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
            looked_at += buffer.len() - buffer.search_begins_at(needle);
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
}
