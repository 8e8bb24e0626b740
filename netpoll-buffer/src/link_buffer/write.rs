//! The writing side: malloc and its acknowledgement, copying and linking writes, append, flush.

use std::mem;

use bytes::Bytes;

use super::LinkBuffer;
use crate::Shortfall;
use crate::block::{MAX_SEGMENT, Segment};

/// The smallest and the largest block that writing takes of its own accord.
const SMALLEST_BLOCK: usize = 4 << 10;
const LARGEST_BLOCK: usize = 64 << 10;

/// Below this, copying foreign bytes is cheaper than linking them and sending one more piece:
/// measured through a pair of sockets, where both cost the same at 4 KiB.
const WORTH_LINKING: usize = 4 << 10;

impl LinkBuffer {
    /// Adds `n` pending bytes, contiguous and zero, to be overwritten by the caller.
    ///
    /// Costs a `memset` of `n` bytes: pooled memory still holds bytes of other connections, and a
    /// caller that acknowledges more than it wrote must not send those. Writes that pass their
    /// bytes in ([`write_bytes`](Self::write_bytes) and the others) clear nothing.
    ///
    /// # Panics
    ///
    /// When `n` is more than 4 GiB less 65 bytes, which is what the largest block holds. The
    /// program must choose `n`: compare a length that a peer sent with a limit first.
    ///
    /// ```
    /// # use netpoll_buffer::LinkBuffer;
    /// let mut buffer = LinkBuffer::new();
    /// buffer.malloc(2).copy_from_slice(b"ok");
    /// buffer.flush();
    /// assert_eq!(buffer.chunk(), b"ok");
    /// ```
    pub fn malloc(&mut self, n: usize) -> &mut [u8] {
        if n == 0 {
            return &mut [];
        }
        self.release();
        let fits = self.chain.last_mut().is_some_and(|last| last.room_len() >= n);
        if !fits {
            let room = self.block_size(n).max(n);
            self.chain.push_back(Segment::with_room(room));
        }
        self.pending += n;
        let last = self.chain.last_mut().expect("one with room was pushed");
        last.commit_zeroed(n)
    }

    /// Adds what `write` puts into contiguous room for `n` bytes: as many as it returns, pending.
    ///
    /// As [`malloc`](Self::malloc) and [`malloc_ack`](Self::malloc_ack) in one, without the
    /// `memset`, for code that encodes into a slice. The room holds bytes of other connections:
    /// `write` must not look at it, and must not return more than it wrote.
    ///
    /// # Panics
    ///
    /// As [`malloc`](Self::malloc), and when `write` returns more than `n`. Nothing is added then,
    /// nor when `write` panics.
    ///
    /// ```
    /// # use netpoll_buffer::LinkBuffer;
    /// let mut buffer = LinkBuffer::new();
    /// let written = buffer.write_with(10, |room| {
    ///     room[..2].copy_from_slice(b"ok");
    ///     2
    /// });
    /// assert_eq!((written, buffer.malloc_len()), (2, 2));
    /// ```
    pub fn write_with(&mut self, n: usize, write: impl FnOnce(&mut [u8]) -> usize) -> usize {
        if n == 0 {
            return 0;
        }
        self.release();
        let block = self.block_size(n).max(n);
        let last = self.chain.with_room(n, block);
        let written = write(&mut last.room()[..n]);
        assert!(written <= n, "{written} bytes were written into room for {n}");
        last.commit(written);
        if last.is_empty() {
            self.chain.pop_back();
        }
        self.pending += written;
        written
    }

    /// How many bytes are pending: written or malloc'd, and not yet flushed.
    ///
    /// ```
    /// # use netpoll_buffer::LinkBuffer;
    /// let mut buffer = LinkBuffer::new();
    /// buffer.malloc(10);
    /// assert_eq!(buffer.malloc_len(), 10);
    /// ```
    #[inline]
    pub fn malloc_len(&self) -> usize {
        self.pending
    }

    /// Keeps the first `n` pending bytes and discards the others.
    ///
    /// # Errors
    ///
    /// [`Shortfall`] when fewer than `n` bytes are pending; all are kept then.
    ///
    /// ```
    /// # use netpoll_buffer::LinkBuffer;
    /// let mut buffer = LinkBuffer::new();
    /// buffer.malloc(10)[..4].copy_from_slice(b"four");
    /// buffer.malloc_ack(4)?;
    /// buffer.flush();
    /// assert_eq!(buffer.chunk(), b"four");
    /// # Ok::<_, netpoll_buffer::Shortfall>(())
    /// ```
    pub fn malloc_ack(&mut self, n: usize) -> Result<(), Shortfall> {
        Shortfall::check(n, self.pending)?;
        while self.pending > n {
            let surplus = self.pending - n;
            let last = self.chain.last_mut().expect("the chain holds the pending bytes");
            let held = last.len();
            if held > surplus {
                last.truncate(held - surplus);
                self.pending = n;
            } else {
                // Each block is counted before it goes: the owner of foreign memory may panic.
                self.pending -= held;
                self.chain.pop_back();
            }
        }
        Ok(())
    }

    /// Adds a copy of `bytes`.
    ///
    /// Fills the last block and takes new ones as needed. To hand over memory instead of copying
    /// it, use [`write_shared`](Self::write_shared).
    ///
    /// ```
    /// # use netpoll_buffer::LinkBuffer;
    /// let mut buffer = LinkBuffer::new();
    /// buffer.write_bytes(b"abc");
    /// buffer.flush();
    /// assert_eq!(buffer.chunk(), b"abc");
    /// ```
    #[inline]
    pub fn write_bytes(&mut self, bytes: &[u8]) {
        self.release();
        match self.chain.last_mut() {
            Some(last) if last.room_len() >= bytes.len() => _ = last.write(bytes),
            None if bytes.len() <= SMALLEST_BLOCK => {
                _ = self.chain.push_room(SMALLEST_BLOCK).write(bytes);
            }
            _ => self.write_over(bytes),
        }
        self.pending += bytes.len();
    }

    /// Adds a copy of a string. As [`write_bytes`](Self::write_bytes).
    ///
    /// ```
    /// # use netpoll_buffer::LinkBuffer;
    /// let mut buffer = LinkBuffer::new();
    /// buffer.write_string("grüße");
    /// assert_eq!(buffer.malloc_len(), 7);
    /// ```
    #[inline]
    pub fn write_string(&mut self, string: &str) {
        self.write_bytes(string.as_bytes());
    }

    /// Adds one byte.
    ///
    /// ```
    /// # use netpoll_buffer::LinkBuffer;
    /// let mut buffer = LinkBuffer::new();
    /// buffer.write_byte(b'\n');
    /// assert_eq!(buffer.malloc_len(), 1);
    /// ```
    #[inline]
    pub fn write_byte(&mut self, byte: u8) {
        self.write_bytes(&[byte]);
    }

    /// Links memory that has an owner of its own, without copying it.
    ///
    /// A `Vec<u8>`, a `&'static [u8]` and anything that [`Bytes::from_owner`] takes become
    /// [`Bytes`] without a copy too. Less than 4 KiB is copied: that costs less than one more piece
    /// to send.
    ///
    /// ```
    /// # use netpoll_buffer::LinkBuffer;
    /// let page = bytes::Bytes::from(vec![b'x'; 10_000]);
    /// let mut buffer = LinkBuffer::new();
    /// buffer.write_shared(page.clone());
    /// buffer.flush();
    /// assert_eq!(buffer.chunk().as_ptr(), page.as_ptr());
    /// ```
    pub fn write_shared(&mut self, mut bytes: Bytes) {
        if bytes.len() < WORTH_LINKING {
            return self.write_bytes(&bytes);
        }
        self.release();
        self.pending += bytes.len();
        while bytes.len() > MAX_SEGMENT {
            self.chain.push_back(Segment::foreign(bytes.split_to(MAX_SEGMENT)));
        }
        self.chain.push_back(Segment::foreign(bytes));
    }

    /// Inserts `bytes` before the last `remain` pending bytes, without copying either.
    ///
    /// For a body that is known only after its header and trailer were malloc'd together.
    ///
    /// # Errors
    ///
    /// [`Shortfall`] when fewer than `remain` bytes are pending; nothing is inserted then.
    ///
    /// ```
    /// # use netpoll_buffer::LinkBuffer;
    /// let mut buffer = LinkBuffer::new();
    /// buffer.malloc(4).copy_from_slice(b"<>\r\n");
    /// buffer.write_direct(bytes::Bytes::from_static(b"body"), 3)?;
    /// buffer.flush();
    /// assert_eq!(buffer.next(8), Ok(&b"<body>\r\n"[..]));
    /// # Ok::<_, netpoll_buffer::Shortfall>(())
    /// ```
    pub fn write_direct(&mut self, bytes: Bytes, remain: usize) -> Result<(), Shortfall> {
        Shortfall::check(remain, self.pending)?;
        let mut inserted = Self::new();
        inserted.write_shared(bytes);
        let tail = self.split_off_pending(remain);
        self.append(inserted);
        self.append(tail);
        Ok(())
    }

    /// Moves all bytes of `other`, readable and pending, behind this buffer's, to be flushed with
    /// them.
    ///
    /// Passes blocks on and never copies; pieces that were cut from one block and meet again become
    /// one piece.
    ///
    /// ```
    /// # use netpoll_buffer::LinkBuffer;
    /// let mut buffer = LinkBuffer::from("abc");
    /// buffer.append(LinkBuffer::from("def"));
    /// assert_eq!(buffer.len(), 3);
    /// buffer.flush();
    /// assert_eq!(buffer.len(), 6);
    /// ```
    ///
    /// What was appended is gone, to the compiler too:
    ///
    /// ```compile_fail,E0382
    /// # use netpoll_buffer::LinkBuffer;
    /// let (mut buffer, other) = (LinkBuffer::new(), LinkBuffer::from("abc"));
    /// buffer.append(other);
    /// other.len();
    /// ```
    #[inline]
    pub fn append(&mut self, mut other: Self) {
        self.release();
        other.release();
        self.pending += other.len + other.pending;
        if self.chain.first().is_none() {
            mem::swap(&mut self.chain, &mut other.chain);
            return;
        }
        while let Some(segment) = other.chain.pop_front() {
            if !segment.is_empty() {
                self.chain.push_back(segment);
            }
        }
    }

    /// Makes everything written so far readable. Costs two additions.
    ///
    /// ```
    /// # use netpoll_buffer::LinkBuffer;
    /// let mut buffer = LinkBuffer::new();
    /// buffer.write_bytes(b"abc");
    /// assert_eq!(buffer.len(), 0);
    /// buffer.flush();
    /// assert_eq!(buffer.len(), 3);
    /// ```
    #[inline]
    pub fn flush(&mut self) {
        self.len += self.pending;
        self.pending = 0;
    }

    /// How large a block to take for `n` more bytes: the more there is, the larger.
    #[inline]
    pub(super) fn block_size(&self, n: usize) -> usize {
        n.max(self.len + self.pending).clamp(SMALLEST_BLOCK, LARGEST_BLOCK)
    }

    /// Fills the room there is, then new blocks. The caller counts the bytes.
    fn write_over(&mut self, bytes: &[u8]) {
        let mut left = bytes;
        if let Some(last) = self.chain.last_mut() {
            left = &left[last.write(left)..];
        }
        while !left.is_empty() {
            let room = self.block_size(left.len());
            left = &left[self.chain.push_room(room).write(left)..];
        }
    }

    /// Cuts the last `n` pending bytes off.
    fn split_off_pending(&mut self, n: usize) -> Self {
        let mut tail = Self::new();
        let mut left = n;
        while left > 0 {
            let last = self.chain.last_mut().expect("the chain holds the pending bytes");
            let piece = if last.len() > left {
                let front = last.split_to(last.len() - left);
                mem::replace(last, front)
            } else {
                self.chain.pop_back().expect("there is a last")
            };
            left -= piece.len();
            tail.chain.push_front(piece);
        }
        tail.pending = n;
        self.pending -= n;
        tail
    }
}
