//! The reading side: peek, next, skip, slice and the owned forms.

use std::mem;
use std::string::FromUtf8Error;

use bytes::Bytes;

use super::LinkBuffer;
use crate::block::{MAX_SEGMENT, Segment};
use crate::{Chunks, Shortfall, pool};

/// Copying this many bytes costs no more than sharing them does.
const TRIVIAL: usize = 256;

/// The most bytes that are copied so that they don't keep a much larger block alive.
const SMALL: usize = 4 << 10;

/// How many times its size a small piece may keep alive.
const MAX_PINNED: usize = 64;

impl LinkBuffer {
    /// The next `n` bytes, contiguous, without consuming them.
    ///
    /// Costs nothing when they lie in one block. Otherwise they are copied into one first (counted
    /// in [`Stats::bytes_copied`](crate::Stats::bytes_copied)), which then replaces the pieces:
    /// peeking again, or at more, copies only what is new.
    ///
    /// # Errors
    ///
    /// [`Shortfall`] when fewer than `n` bytes are readable. The largest block holds 4 GiB less 65
    /// bytes, so when more than that are asked for and lie in several blocks, a shortfall says that
    /// only those are available in one piece.
    ///
    /// ```
    /// # use netpoll_buffer::LinkBuffer;
    /// let mut buffer = LinkBuffer::from("abc");
    /// assert_eq!(buffer.peek(2), Ok(&b"ab"[..]));
    /// assert_eq!(buffer.len(), 3);
    /// ```
    #[inline]
    pub fn peek(&mut self, n: usize) -> Result<&[u8], Shortfall> {
        Shortfall::check(n, self.len)?;
        self.release();
        self.make_contiguous(n)?;
        Ok(self.chain.first().map_or(&[], |first| &first.bytes()[..n]))
    }

    /// The next `n` bytes, contiguous and consumed.
    ///
    /// Costs what [`peek`](Self::peek) costs. The slice lives until the next operation on the
    /// buffer, which gives the block back if nothing is left in it.
    ///
    /// # Errors
    ///
    /// As [`peek`](Self::peek); nothing is consumed then.
    ///
    /// ```
    /// # use netpoll_buffer::LinkBuffer;
    /// let mut buffer = LinkBuffer::from("abc");
    /// assert_eq!(buffer.next(2), Ok(&b"ab"[..]));
    /// assert_eq!(buffer.len(), 1);
    /// ```
    ///
    /// A slice that would outlive the next operation does not compile:
    ///
    /// ```compile_fail,E0499
    /// # use netpoll_buffer::LinkBuffer;
    /// let mut buffer = LinkBuffer::from("abc");
    /// let first = buffer.next(1)?;
    /// let second = buffer.next(1)?;
    /// assert_eq!((first, second), (&b"a"[..], &b"b"[..]));
    /// # Ok::<_, netpoll_buffer::Shortfall>(())
    /// ```
    #[inline]
    pub fn next(&mut self, n: usize) -> Result<&[u8], Shortfall> {
        Shortfall::check(n, self.len)?;
        // A first segment that has them all, and at least one, was not lent out.
        let in_first = n > 0 && self.chain.first().is_some_and(|first| first.len() >= n);
        if !in_first {
            self.release();
            self.make_contiguous(n)?;
        }
        self.took(n);
        Ok(self.chain.first_mut().map_or(&[], |first| first.lend(n)))
    }

    /// Consumes `n` bytes without looking at them. Never copies; blocks go back at once.
    ///
    /// # Errors
    ///
    /// [`Shortfall`] when fewer than `n` bytes are readable; nothing is consumed then.
    ///
    /// ```
    /// # use netpoll_buffer::LinkBuffer;
    /// let mut buffer = LinkBuffer::from("abc");
    /// buffer.skip(2)?;
    /// assert_eq!(buffer.read_byte(), Ok(b'c'));
    /// # Ok::<_, netpoll_buffer::Shortfall>(())
    /// ```
    #[inline]
    pub fn skip(&mut self, n: usize) -> Result<(), Shortfall> {
        Shortfall::check(n, self.len)?;
        self.consume(n);
        Ok(())
    }

    /// Consumes `n` bytes, or all of them if there are fewer. Blocks go back at once.
    ///
    /// The other half of [`gather`](Self::gather): consumes what the socket took.
    ///
    /// ```
    /// # use netpoll_buffer::LinkBuffer;
    /// let mut buffer = LinkBuffer::from("abc");
    /// buffer.consume(2);
    /// assert_eq!(buffer.len(), 1);
    /// ```
    #[inline]
    pub fn consume(&mut self, n: usize) {
        let n = n.min(self.len);
        match self.chain.first_mut() {
            Some(first) if n < first.len() => {
                first.advance(n);
                self.took(n);
            }
            _ => self.drop_front(n),
        }
    }

    /// Cuts the next `n` bytes off into a buffer of their own, readable and independent of this
    /// one.
    ///
    /// Whole blocks are moved, the last one is shared, nothing is copied; with one exception: of a
    /// block larger than 4 KiB, a piece of at most 4 KiB that is less than 1/64 of it is copied, so
    /// that a small slice never keeps a huge block alive. It may keep one of 4 KiB alive, even if
    /// it is a single byte.
    ///
    /// # Errors
    ///
    /// [`Shortfall`] when fewer than `n` bytes are readable; nothing is cut off then.
    ///
    /// ```
    /// # use netpoll_buffer::LinkBuffer;
    /// let mut buffer = LinkBuffer::from("header and body");
    /// let mut header = buffer.slice(6)?;
    /// drop(buffer);
    /// assert_eq!(header.next(6), Ok(&b"header"[..]));
    /// # Ok::<_, netpoll_buffer::Shortfall>(())
    /// ```
    #[inline]
    pub fn slice(&mut self, n: usize) -> Result<Self, Shortfall> {
        Shortfall::check(n, self.len)?;
        self.release();
        self.read_hint.passed_on();
        let is_all = n == self.len && self.pending == 0;
        if is_all && self.chain.only().is_some_and(worth_sharing) {
            self.took(n);
            let mut all = Self { len: n, ..Self::new() };
            mem::swap(&mut all.chain, &mut self.chain);
            return Ok(all);
        }
        Ok(self.slice_by_pieces(n))
    }

    fn slice_by_pieces(&mut self, n: usize) -> Self {
        let mut slice = Self::new();
        let mut left = n;
        while left > 0 {
            let piece = self.cut(left);
            left -= piece.len();
            self.took(piece.len());
            if piece.is_empty() {
                continue;
            }
            slice.chain.push_back(if worth_sharing(&piece) { piece } else { copy_of(&piece) });
        }
        slice.len = n;
        slice
    }

    /// The next `n` bytes as a `String`. One allocation and one copy.
    ///
    /// # Errors
    ///
    /// [`Shortfall`] when fewer than `n` bytes are readable. The inner result says whether the
    /// bytes were UTF-8; they are consumed and in the error if not.
    ///
    /// ```
    /// # use netpoll_buffer::LinkBuffer;
    /// let mut buffer = LinkBuffer::from("grüße");
    /// assert_eq!(buffer.read_string(7)?, Ok("grüße".to_owned()));
    /// # Ok::<_, netpoll_buffer::Shortfall>(())
    /// ```
    pub fn read_string(&mut self, n: usize) -> Result<Result<String, FromUtf8Error>, Shortfall> {
        Shortfall::check(n, self.len)?;
        let mut bytes = Vec::with_capacity(n);
        for chunk in self.chain.chunks(n) {
            bytes.extend_from_slice(chunk);
        }
        self.consume(n);
        Ok(String::from_utf8(bytes))
    }

    /// The next `n` bytes as [`Bytes`], which may outlive the buffer.
    ///
    /// More than 256 bytes in one block are shared (one small allocation), unless they are so few
    /// of so large a block that [`slice`](Self::slice) would copy them. Up to 256 bytes are copied,
    /// and so are bytes in several blocks.
    ///
    /// # Errors
    ///
    /// [`Shortfall`] when fewer than `n` bytes are readable; nothing is consumed then.
    ///
    /// ```
    /// # use netpoll_buffer::LinkBuffer;
    /// let mut buffer = LinkBuffer::from("abc");
    /// let bytes = buffer.read_bytes(3)?;
    /// drop(buffer);
    /// assert_eq!(bytes, "abc");
    /// # Ok::<_, netpoll_buffer::Shortfall>(())
    /// ```
    pub fn read_bytes(&mut self, n: usize) -> Result<Bytes, Shortfall> {
        self.read_bytes_as(n, Segment::into_bytes, Bytes::from)
    }

    /// The next byte, consumed.
    ///
    /// # Errors
    ///
    /// [`Shortfall`] when there is none.
    ///
    /// ```
    /// # use netpoll_buffer::LinkBuffer;
    /// assert_eq!(LinkBuffer::from("a").read_byte(), Ok(b'a'));
    /// ```
    #[inline]
    pub fn read_byte(&mut self) -> Result<u8, Shortfall> {
        let byte = self.peek(1)?[0];
        self.consume(1);
        Ok(byte)
    }

    /// Copies out and consumes as many bytes as there are and as `out` has place for.
    ///
    /// ```
    /// # use netpoll_buffer::LinkBuffer;
    /// let mut out = [0; 8];
    /// assert_eq!(LinkBuffer::from("abc").copy_to(&mut out), 3);
    /// assert_eq!(&out[..3], b"abc");
    /// ```
    #[inline]
    pub fn copy_to(&mut self, out: &mut [u8]) -> usize {
        let n = out.len().min(self.len);
        if let Some(first) = self.chain.first().filter(|first| first.len() >= n) {
            out[..n].copy_from_slice(&first.bytes()[..n]);
            self.consume(n);
            return n;
        }
        let mut left = &mut out[..n];
        for chunk in self.chain.chunks(n) {
            let (now, later) = left.split_at_mut(chunk.len());
            now.copy_from_slice(chunk);
            left = later;
        }
        self.consume(n);
        n
    }

    /// The readable bytes of the first block that has any; empty when none are. Never copies.
    ///
    /// ```
    /// # use netpoll_buffer::LinkBuffer;
    /// assert_eq!(LinkBuffer::from("abc").chunk(), b"abc");
    /// ```
    #[inline]
    pub fn chunk(&self) -> &[u8] {
        match self.chain.first() {
            Some(first) if !first.is_empty() => &first.bytes()[..first.len().min(self.len)],
            _ => self.chunks().next().unwrap_or_default(),
        }
    }

    /// The readable bytes of every block, in order, none of them empty. Never copies.
    ///
    /// ```
    /// # use netpoll_buffer::LinkBuffer;
    /// let mut buffer = LinkBuffer::from("abc");
    /// buffer.append(LinkBuffer::from("def"));
    /// buffer.flush();
    /// assert_eq!(buffer.chunks().collect::<Vec<_>>(), [b"abc", b"def"]);
    /// ```
    #[inline]
    pub fn chunks(&self) -> Chunks<'_> {
        self.chain.chunks(self.len)
    }

    /// The next `n` bytes, made of a piece that is shared or of a copy;
    /// [`read_bytes`](Self::read_bytes) says which of them.
    #[inline]
    pub(super) fn read_bytes_as(
        &mut self,
        n: usize,
        share: impl FnOnce(Segment) -> Bytes,
        copy: impl FnOnce(Vec<u8>) -> Bytes,
    ) -> Result<Bytes, Shortfall> {
        Shortfall::check(n, self.len)?;
        self.release();
        if self.chain.first().is_some_and(|first| n > TRIVIAL && n <= first.len()) {
            let piece = self.cut(n);
            self.took(n);
            self.read_hint.passed_on();
            return Ok(if worth_sharing(&piece) {
                share(piece)
            } else {
                copy(piece.bytes().to_vec())
            });
        }
        let mut bytes = Vec::with_capacity(n);
        for chunk in self.chain.chunks(n) {
            bytes.extend_from_slice(chunk);
        }
        self.consume(n);
        Ok(copy(bytes))
    }

    /// Counts `n` bytes as consumed.
    #[inline]
    pub(super) fn took(&mut self, n: usize) {
        self.len -= n;
        self.last_search.consumed(n);
    }

    /// Drops the first `n` bytes and the blocks that held nothing else. Counts each block before it
    /// goes: the owner of foreign memory may panic.
    fn drop_front(&mut self, n: usize) {
        let mut left = n;
        while let Some(first) = self.chain.first_mut() {
            let held = first.len();
            if left < held {
                first.advance(left);
                return self.took(left);
            }
            left -= held;
            self.took(held);
            self.chain.drop_front();
        }
    }

    /// Takes up to `n` (> 0) bytes off the front, as one piece. The caller counts them.
    #[inline]
    fn cut(&mut self, n: usize) -> Segment {
        let first = self.chain.first_mut().expect("the chain holds `len` bytes");
        if n < first.len() {
            first.split_to(n)
        } else {
            self.chain.pop_front().expect("there is a first")
        }
    }

    /// Makes the first segment hold the first `n` bytes.
    #[inline]
    fn make_contiguous(&mut self, n: usize) -> Result<(), Shortfall> {
        match self.chain.first() {
            Some(first) if first.len() < n => self.pull_up(n),
            _ => Ok(()),
        }
    }

    /// Copies into the first segment what it lacks of `n` bytes; into a larger one if it is too
    /// small.
    ///
    /// Every byte is in the chain exactly once at every moment: the owner of foreign memory may
    /// panic when a segment that was copied is dropped.
    #[cold]
    fn pull_up(&mut self, n: usize) -> Result<(), Shortfall> {
        Shortfall::check(n, MAX_SEGMENT)?;
        let first = self.chain.first_mut().expect("it was too short");
        let held = first.len();
        if first.room_len() < n - held {
            pool::count_copied(held);
            // Grown by half at least, so that looking at ever more of a message copies it a few
            // times only.
            let room = n.max(held + held / 2).min(MAX_SEGMENT);
            let mut whole = Segment::with_room(room);
            whole.write(first.bytes());
            whole.charge_like(first);
            drop(mem::replace(first, whole));
        }
        pool::count_copied(n - held);
        while let (Some(first), Some(next)) = self.chain.first_two_mut() {
            let missing = n - first.len();
            if missing == 0 {
                break;
            }
            let piece = next.len().min(missing);
            first.write(&next.bytes()[..piece]);
            first.charge_like(next);
            next.advance(piece);
            if next.is_empty() {
                self.chain.drop_second();
            }
        }
        Ok(())
    }
}

/// Whether a piece may keep its block alive. See [`LinkBuffer::slice`] for the rule.
#[inline]
fn worth_sharing(piece: &Segment) -> bool {
    piece.len() > SMALL || piece.pinned() <= SMALL.max(MAX_PINNED * piece.len())
}

fn copy_of(piece: &Segment) -> Segment {
    let mut copy = Segment::with_room(piece.len());
    copy.write(piece.bytes());
    copy.charge_like(piece);
    copy
}
