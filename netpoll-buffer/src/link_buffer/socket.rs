//! The socket's side: room for `readv` that adapts to the traffic, and chunks for `sendmsg`.

use std::io::{self, IoSlice, IoSliceMut};

use super::LinkBuffer;
use super::read_hint::{Filled, ReadHint};
use crate::block::Segment;

/// Space is taken in blocks of at most this size.
const LARGEST_BLOCK: usize = 64 << 10;

/// The room behind the last bytes, and the largest offer in the largest blocks.
const MAX_PIECES: usize = 1 + 4;

/// Less room than this behind the last bytes is not worth an `iovec` and a message cut in two.
const WORTH_FILLING: usize = 512;

impl LinkBuffer {
    /// Reserves space, calls `read` once with it, and makes the bytes that were read readable.
    ///
    /// The space is the room behind the last bytes and as many pooled blocks as the recent traffic
    /// suggests: 4 KiB at first, more while reads fill it, less again when they don't; never more
    /// than `max` bytes. Where the bytes are consumed as they come, that is up to 64 KiB, a single
    /// block that stays in the processor's cache. It is up to 256 KiB, in several blocks, while
    /// they are passed on ([`slice`](Self::slice), [`read_bytes`](Self::read_bytes)) or stay for
    /// the rest of a large message. Blocks that were not filled go back to the
    /// pool, so a read of nothing leaves an empty buffer without a block. Pending bytes are flushed
    /// first, to keep the order. With a `max` of 0, `read` is not called and nothing is reserved.
    ///
    /// The space is initialised but not cleared: `read` must not look at it, and must not return
    /// more than it wrote, which a system call never does. To read from code that can't be trusted
    /// with that, use [`malloc`](Self::malloc).
    ///
    /// # Errors
    ///
    /// The error of `read`; and [`InvalidData`](io::ErrorKind::InvalidData) if it claims more bytes
    /// than there was space. The buffer is unchanged then.
    ///
    /// ```
    /// # use netpoll_buffer::LinkBuffer;
    /// use std::io::Read;
    ///
    /// let mut source = &b"some input"[..];
    /// let mut buffer = LinkBuffer::new();
    /// let filled = buffer.fill(1 << 20, |space| source.read_vectored(space))?;
    /// assert_eq!(filled.read, 10);
    /// assert!(filled.read < filled.reserved); // the source had no more
    /// # std::io::Result::Ok(())
    /// ```
    pub fn fill(
        &mut self,
        max: usize,
        read: impl FnOnce(&mut [IoSliceMut<'_>]) -> io::Result<usize>,
    ) -> io::Result<Filled> {
        self.flush();
        self.release();
        let (waiting, offer) = (self.len, self.read_hint.offer());
        let least = offer.min(max);
        if self.chain.first().is_none() && (1..=LARGEST_BLOCK).contains(&least) {
            let filled = self.fill_one(least, max, read)?;
            self.read_hint.learn(0, filled.read, filled.reserved, offer);
            return Ok(filled);
        }
        let (pieces, room) = self.reserve(least);
        let reserved = room.min(max);
        if reserved == 0 {
            return Ok(Filled { read: 0, reserved });
        }
        let mut reservation = Reservation { buffer: self, pieces, read: 0 };
        let read = reservation.buffer.read_into(pieces, reserved, read)?;
        reservation.read = read;
        drop(reservation);
        self.read_hint.learn(waiting, read, reserved, offer);
        Ok(Filled { read, reserved })
    }

    /// Takes out what past reads suggest for the next [`fill`](Self::fill): 0 if nothing. A later
    /// buffer for the same source [can go on with it](Self::set_read_hint), so an empty buffer need
    /// not be kept for that alone.
    ///
    /// ```
    /// # use netpoll_buffer::LinkBuffer;
    /// let mut buffer = LinkBuffer::new();
    /// buffer.fill(1 << 20, |space| Ok(space.iter().map(|it| it.len()).sum()))?; // it was all full
    /// let hint = buffer.take_read_hint();
    /// assert_eq!(buffer.take_read_hint(), 0);
    ///
    /// let mut next = LinkBuffer::new();
    /// next.set_read_hint(hint);
    /// assert!(next.fill(1 << 20, |_| Ok(0))?.reserved > 4096);
    /// # std::io::Result::Ok(())
    /// ```
    #[inline]
    pub fn take_read_hint(&mut self) -> u16 {
        std::mem::take(&mut self.read_hint).to_bits()
    }

    /// Goes on with the hint of another buffer.
    #[inline]
    pub fn set_read_hint(&mut self, hint: u16) {
        self.read_hint = ReadHint::from_bits(hint);
    }

    /// Reserves and reads as `fill` does, where one block is enough: that is so for most reads, and
    /// a list of one piece would cost them as much as a copy.
    #[inline]
    fn fill_one(
        &mut self,
        room: usize,
        max: usize,
        read: impl FnOnce(&mut [IoSliceMut<'_>]) -> io::Result<usize>,
    ) -> io::Result<Filled> {
        let mut only = OnlyPiece { buffer: self, read: 0 };
        let room = only.buffer.chain.push_room(room).room();
        let reserved = room.len().min(max);
        let read = checked(read(&mut [IoSliceMut::new(&mut room[..reserved])])?, reserved)?;
        only.read = read;
        Ok(Filled { read, reserved })
    }

    /// Puts the readable chunks into `out`, for `writev` or `sendmsg`, and says how many there are.
    ///
    /// At most as many as `out` has places. The caller [consumes](Self::consume) what the socket
    /// took.
    ///
    /// ```
    /// # use netpoll_buffer::LinkBuffer;
    /// use std::io::{IoSlice, Write};
    ///
    /// let mut buffer = LinkBuffer::from("some output");
    /// let mut chunks = [IoSlice::new(&[]); 16];
    /// let n = buffer.gather(&mut chunks);
    /// let written = std::io::sink().write_vectored(&chunks[..n])?;
    /// buffer.consume(written);
    /// assert!(buffer.is_empty());
    /// # std::io::Result::Ok(())
    /// ```
    #[inline]
    pub fn gather<'a>(&'a self, out: &mut [IoSlice<'a>]) -> usize {
        let mut n = 0;
        for (place, chunk) in out.iter_mut().zip(self.chunks()) {
            *place = IoSlice::new(chunk);
            n += 1;
        }
        n
    }

    /// Provides about `target` bytes of room in the last segments; says in how many, and how much.
    #[inline]
    fn reserve(&mut self, target: usize) -> (usize, usize) {
        let mut pieces = 0;
        let mut room = 0;
        let mut enough = target;
        // Not in a huge block that a pull-up left room in: the few bytes behind the message would
        // keep all of it alive.
        let worth_filling = |last: &&mut Segment| {
            last.room_len() >= WORTH_FILLING && last.pinned() <= LARGEST_BLOCK
        };
        if let Some(last) = self.chain.last_mut().filter(worth_filling) {
            pieces = 1;
            room = last.room_len();
            // Less room is enough when it continues a block: a further block for the rest is not
            // worth it.
            enough = target / 2;
        }
        while room < enough {
            pieces += 1;
            room += self.chain.push_room((target - room).min(LARGEST_BLOCK)).room_len();
        }
        (pieces, room)
    }

    /// Calls `read` with the room of the last `pieces` segments, `reserved` bytes of it.
    #[inline]
    fn read_into(
        &mut self,
        pieces: usize,
        reserved: usize,
        read: impl FnOnce(&mut [IoSliceMut<'_>]) -> io::Result<usize>,
    ) -> io::Result<usize> {
        let mut space: [IoSliceMut<'_>; MAX_PIECES] =
            std::array::from_fn(|_| IoSliceMut::new(&mut []));
        let mut left = reserved;
        for (piece, segment) in space.iter_mut().zip(self.chain.last_segments_mut(pieces)) {
            let room = segment.room();
            let n = room.len().min(left);
            left -= n;
            *piece = IoSliceMut::new(&mut room[..n]);
        }
        checked(read(&mut space[..pieces])?, reserved)
    }

    /// Commits the `read` bytes in the room of the last `pieces` segments, and gives back the
    /// segments that stayed empty.
    #[inline]
    fn commit(&mut self, pieces: usize, read: usize) {
        let mut left = read;
        for segment in self.chain.last_segments_mut(pieces) {
            let n = left.min(segment.room_len());
            segment.commit(n);
            left -= n;
        }
        while self.chain.last_mut().is_some_and(|last| last.is_empty()) {
            self.chain.pop_back();
        }
        self.len += read;
    }
}

/// Space that a read may fill. When it is dropped, the space is committed or given back, whether
/// the read succeeded, failed or panicked.
struct Reservation<'a> {
    buffer: &'a mut LinkBuffer,
    pieces: usize,
    /// How many bytes were read into it.
    read: usize,
}

impl Drop for Reservation<'_> {
    #[inline]
    fn drop(&mut self) {
        self.buffer.commit(self.pieces, self.read);
    }
}

/// Space in the first and only block; else as [`Reservation`].
struct OnlyPiece<'a> {
    buffer: &'a mut LinkBuffer,
    read: usize,
}

impl Drop for OnlyPiece<'_> {
    #[inline]
    fn drop(&mut self) {
        let Self { buffer, read } = self;
        match buffer.chain.first_mut() {
            Some(first) if *read > 0 => first.commit(*read),
            _ => buffer.chain.clear(),
        }
        buffer.len += *read;
    }
}

/// What a read claims to have read, if there was room for it.
#[inline]
fn checked(read: usize, reserved: usize) -> io::Result<usize> {
    if read > reserved {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "read more than there was room for",
        ));
    }
    Ok(read)
}
