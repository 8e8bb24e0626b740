//! `bytes::BufMut`, so that encoders write into the blocks.
#![expect(
    unsafe_code,
    reason = "the trait is unsafe to implement; nothing in here is an unsafe operation"
)]

use bytes::BufMut;
use bytes::buf::UninitSlice;

use super::LinkBuffer;

/// Less room than this is not offered, so that a number never has to be cut in two.
const LEAST_ROOM: usize = 64;

/// Bytes that are put are pending until [`flush`](LinkBuffer::flush).
///
/// ```
/// use bytes::BufMut;
///
/// let mut buffer = netpoll_buffer::LinkBuffer::new();
/// buffer.put_u16(0x1234);
/// buffer.flush();
/// assert_eq!(buffer.chunk(), [0x12, 0x34]);
/// ```
// SAFETY: `chunk_mut` shows the room of the last segment, which `&mut self` keeps in place until
// `advance_mut` commits a part of it: that is what the trait demands. A former user's bytes can't
// be read through an `UninitSlice`, and the caller of `advance_mut` promises to have written over
// them.
unsafe impl BufMut for LinkBuffer {
    #[inline]
    fn remaining_mut(&self) -> usize {
        isize::MAX as usize - self.len - self.pending
    }

    /// # Panics
    ///
    /// When `n` is more than the last [`chunk_mut`](BufMut::chunk_mut) showed.
    // SAFETY: safe with any `n`: one that is too large panics, and the room is initialised.
    #[inline]
    unsafe fn advance_mut(&mut self, n: usize) {
        if n > 0 {
            self.chain.last_mut().expect("no chunk was shown").commit(n);
            self.pending += n;
        }
    }

    #[inline]
    fn chunk_mut(&mut self) -> &mut UninitSlice {
        self.release();
        let block = self.block_size(LEAST_ROOM);
        UninitSlice::new(self.chain.with_room(LEAST_ROOM, block).room())
    }

    #[inline]
    fn put_slice(&mut self, bytes: &[u8]) {
        self.write_bytes(bytes);
    }
}
