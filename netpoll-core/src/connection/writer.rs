//! Writing: into blocks that belong to the owner, until a flush sends them in one piece.

use std::io::{self, IoSlice, Write};

use bytes::Bytes;
use netpoll_buffer::LinkBuffer;

use super::backlog::COALESCED;
use super::pace::{Ahead, Pace};
use super::shared::Shared;
use super::unflushed::Noted;
use crate::base::error::{Error, Result};
use crate::pure::task::Events;

/// The writing side of a connection.
///
/// Written bytes stay with the owner until [`flush`](Self::flush) sends them, in one piece and
/// behind all that was flushed or sent by a [`Handle`](crate::Handle) before. What this thread
/// [sends by a handle](crate::Handle::send) before the flush stands behind them. When a callback
/// returns, what it wrote is flushed, and so it is when a dialled connection is dropped in order.
/// Writing itself never waits; a flush may.
///
/// If the reads of a callback may wait and it never flushes, its next write after a read flushes,
/// once as many bytes are written as the high-water mark allows, at least 64 KiB.
///
/// It is also [`io::Write`], which keeps no more written bytes than the high-water mark allows:
/// see [`write`](#method.write).
#[derive(Debug)]
pub struct Writer<'a> {
    shared: &'a Shared,
    staged: &'a mut LinkBuffer,
    pace: &'a Pace,
}

impl<'a> Writer<'a> {
    #[inline]
    pub(crate) fn new(shared: &'a Shared, staged: &'a mut LinkBuffer, pace: &'a Pace) -> Self {
        Self { shared, staged, pace }
    }

    /// Reserves `n` contiguous bytes, and returns them to be written in place.
    #[inline]
    pub fn malloc(&mut self, n: usize) -> &mut [u8] {
        self.open().malloc(n)
    }

    /// Keeps the first `n` of the bytes written since the last flush, and drops the rest.
    ///
    /// # Errors
    /// `UnexpectedEof` if fewer were written.
    pub fn malloc_ack(&mut self, n: usize) -> Result<()> {
        self.staged.malloc_ack(n).map_err(|error| io::Error::from(error).into())
    }

    /// The number of bytes written since the last flush.
    pub fn malloc_len(&self) -> usize {
        self.staged.malloc_len()
    }

    /// Writes a copy of `bytes`.
    #[inline]
    pub fn write_bytes(&mut self, bytes: &[u8]) {
        self.open().write_bytes(bytes);
    }

    /// Writes a copy of `text`.
    #[inline]
    pub fn write_string(&mut self, text: &str) {
        self.open().write_string(text);
    }

    /// Writes one byte.
    #[inline]
    pub fn write_byte(&mut self, byte: u8) {
        self.open().write_byte(byte);
    }

    /// The buffer of what was written since the last flush: a [`bytes::BufMut`], to write numbers.
    #[inline]
    pub fn buf(&mut self) -> &mut LinkBuffer {
        self.open()
    }

    /// Writes `bytes` by reference, before the last `remain` bytes that were written: for a payload
    /// inside a frame that was reserved around it.
    ///
    /// # Errors
    /// `UnexpectedEof` if fewer than `remain` bytes were written since the last flush.
    pub fn write_direct(&mut self, bytes: Bytes, remain: usize) -> Result<()> {
        if remain == 0 {
            self.note_write();
        }
        self.staged.write_direct(bytes, remain).map_err(|error| io::Error::from(error).into())
    }

    /// Writes `bytes` by reference; copies them only if a copy is cheaper.
    pub fn write_shared(&mut self, bytes: Bytes) {
        self.open().write_shared(bytes);
    }

    /// Writes a whole buffer by moving its blocks. A small one behind other bytes is copied, so
    /// that it does not keep a block for itself.
    #[inline]
    pub fn append(&mut self, buffer: LinkBuffer) {
        if self.staged.malloc_len() > 0 {
            return self.append_more(buffer);
        }
        self.note_write();
        self.staged.append(buffer);
    }

    #[inline(never)]
    fn append_more(&mut self, mut buffer: LinkBuffer) {
        let staged = self.open();
        buffer.flush();
        if buffer.len() <= COALESCED {
            buffer.chunks().for_each(|chunk| staged.write_bytes(chunk));
        } else {
            staged.append(buffer);
        }
    }

    /// Sends what was written. While nothing is queued, it tries the socket at once, on this
    /// thread, with one system call; what the socket does not take is sent, in order, when the
    /// socket is writable again.
    ///
    /// In a callback it usually returns at once. If more than the high-water mark is left queued,
    /// the callback is not called again until the queue has fallen below the low-water mark. The
    /// flush itself waits for that only if this callback has queued more than four times the
    /// high-water mark; under `Dispatch::Inline` it then returns
    /// [`WouldBlock`](crate::Error::WouldBlock). On a dialled connection it waits above the
    /// high-water mark.
    ///
    /// # Errors
    /// [`TimedOut`](crate::Error::TimedOut) after the write timeout or at the write deadline: all
    /// bytes were accepted and stay queued. [`WouldBlock`](crate::Error::WouldBlock) if it must not
    /// wait: no byte was accepted, and what was written is sent when the callback returns.
    /// [`Config`](crate::Error::Config) on a dialled connection, on a thread that must not wait:
    /// all bytes were accepted. [`Closed`](crate::Error::Closed) if the connection is closed on
    /// this side meanwhile. The socket's error, after which nothing more can be sent.
    pub fn flush(&mut self) -> Result<()> {
        if self.pace.is_ahead() {
            self.check_room()?;
        }
        self.staged.flush();
        if self.staged.is_empty() {
            if self.shared.unflushed.is_any() {
                self.pass_on();
            }
            return Ok(());
        }
        if let Err(over) = self.shared.check_before_send() {
            return self.flush_late(over);
        }
        self.shared.send(self.staged).inspect_err(|_| self.falter())?;
        if self.shared.output.is_congested() { self.settle() } else { Ok(()) }
    }

    /// The number of flushed bytes that the socket has not taken yet.
    pub fn pending(&self) -> usize {
        self.shared.output.pending()
    }

    /// Whether the queue went above its high-water mark and is not below its low one yet.
    pub fn is_congested(&self) -> bool {
        self.shared.output.is_congested()
    }

    /// A flush after a close. What this thread wrote before it closed by a handle is sent.
    #[cold]
    fn flush_late(&mut self, over: Error) -> Result<()> {
        if self.shared.unflushed.is_deferring() {
            self.pass_on();
        }
        if self.staged.is_empty() {
            return Ok(());
        }
        self.staged.clear();
        Err(over)
    }

    /// Fails where a flush must not wait and too much is queued, so that the queue stays bounded.
    #[cold]
    fn check_room(&self) -> Result<()> {
        if self.pace.ahead() == Ahead::Congested && self.is_out_of_room() {
            return Err(Error::WouldBlock);
        }
        self.pace.clear();
        Ok(())
    }

    /// Whether a flush of what is written would have to wait, and must not.
    fn is_out_of_room(&self) -> bool {
        let Shared { output, group, .. } = self.shared;
        self.staged.malloc_len() > 0 && !group.may_wait() && output.must_wait(&group.policy)
    }

    /// After a flush that left the queue above its high-water mark: waits, if this flush has to.
    #[cold]
    fn settle(&self) -> Result<()> {
        let Shared { output, group, .. } = self.shared;
        self.pace.tell_congested();
        if !group.may_wait() || !output.must_wait(&group.policy) {
            return Ok(());
        }
        self.shared.wait_for_peer().inspect_err(|_| self.falter())
    }

    #[cold]
    fn falter(&self) {
        self.shared.task.word.note(Events::FALTERED);
    }

    /// Begins a write; returns the buffer for it.
    #[inline]
    fn open(&mut self) -> &mut LinkBuffer {
        if Pace::must_hear_of(self.staged.malloc_len()) {
            keep_pace(self.shared, self.staged, self.pace);
        }
        // Last, since a flush forgets it.
        self.note_write();
        self.staged
    }

    /// Notes that this thread writes, so that what it sends by a handle before a flush does not
    /// overtake this write; and that this write does not overtake what it has sent so.
    #[inline]
    fn note_write(&mut self) {
        if !self.shared.unflushed.note() {
            self.note_write_anew();
        }
    }

    #[cold]
    fn note_write_anew(&mut self) {
        let mut noted = self.shared.unflushed.note_anew();
        if noted == Noted::Deferring {
            self.pass_on();
            noted = self.shared.unflushed.note_anew();
        }
        if noted == Noted::OfMember {
            self.shared.note_written();
        }
    }

    /// Sends what is staged, and then what this thread has sent by a handle behind it. Never waits.
    /// If it fails, the connection keeps the cause, so the next flush fails too.
    #[cold]
    pub(super) fn pass_on(&mut self) {
        self.staged.flush();
        if self.shared.send(self.staged).is_ok() && self.shared.output.is_congested() {
            self.pace.tell_congested();
        }
    }

    /// Flushes if `io::Write` may take no more bytes; returns how many it may take then.
    fn make_room(&mut self) -> Result<usize> {
        let most = self.most_staged();
        if self.staged.malloc_len() >= most {
            self.flush()?;
        }
        self.note_write();
        Ok(most - self.staged.malloc_len())
    }

    /// How many bytes `io::Write` keeps at the most before it flushes.
    fn most_staged(&self) -> usize {
        self.shared.group.limits().output.high.max(Pace::QUIET_BELOW)
    }

    /// As [`make_room`](Self::make_room), for a caller that never waits: `WouldBlock` while the
    /// queue is above its high-water mark. The callback is called again when it is below its low
    /// one.
    pub(super) fn try_make_room(&mut self) -> Result<usize> {
        self.shared.check_over()?;
        let most = self.most_staged();
        if self.staged.malloc_len() >= most {
            self.try_flush()?;
        }
        if self.shared.output.is_congested() {
            self.shared.task.word.note(Events::AWAITS_ROOM);
            return Err(Error::WouldBlock);
        }
        self.note_write();
        Ok(most - self.staged.malloc_len())
    }

    /// As [`flush`](Self::flush), but never waits: all is accepted, however much is queued. For a
    /// caller that writes no more while the queue [is congested](Self::is_congested).
    ///
    /// # Errors
    /// [`Closed`](crate::Error::Closed) if the connection is closed on this side; the socket's
    /// error, after which nothing more can be sent.
    pub fn try_flush(&mut self) -> Result<()> {
        self.staged.flush();
        if self.staged.is_empty() && !self.shared.unflushed.is_any() {
            return Ok(());
        }
        if let Err(over) = self.shared.check_before_send() {
            return self.flush_late(over);
        }
        self.shared.send(self.staged).inspect_err(|_| self.falter())?;
        if self.shared.output.is_congested() {
            self.pace.tell_congested();
        }
        Ok(())
    }

    /// Writes copies of the first `room` bytes of `pieces`; returns how many it wrote.
    pub(super) fn copy_from(&mut self, pieces: &[IoSlice<'_>], room: usize) -> usize {
        let mut left = room;
        for piece in pieces {
            let taken = piece.len().min(left);
            self.staged.write_bytes(&piece[..taken]);
            left -= taken;
            if left == 0 {
                break;
            }
        }
        room - left
    }
}

/// Called while much is staged: counts it and tells the reading side, or flushes if that side has
/// asked for it.
#[cold]
fn keep_pace(shared: &Shared, staged: &mut LinkBuffer, pace: &Pace) {
    shared.group.policy.memory.count_staged(staged);
    if pace.take_asked() {
        // The connection keeps the cause of a failure, also a peer that takes too little, so the
        // next read or flush fails too.
        let _ = Writer::new(shared, staged, pace).flush();
    } else {
        pace.tell_staged(staged.malloc_len());
    }
}

/// Code that uses [`Sink`](netpoll_buffer::Sink) writes to a connection, a file or a test vector.
impl netpoll_buffer::Sink for Writer<'_> {
    fn staged(&mut self) -> &mut LinkBuffer {
        self.open()
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(Writer::flush(self)?)
    }
}

impl Write for Writer<'_> {
    /// Writes a copy. If as many bytes are written and not flushed as the high-water mark allows,
    /// at least 64 KiB, it flushes them first: it then waits or fails as
    /// [`flush`](Writer::flush) does, and has taken no byte if it fails. It takes only as many
    /// bytes as fit below that.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(self.make_room()?);
        self.staged.write_bytes(&bytes[..taken]);
        Ok(taken)
    }

    /// As [`write`](#method.write), for several pieces.
    fn write_vectored(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        let room = self.make_room()?;
        Ok(self.copy_from(pieces, room))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(Writer::flush(self)?)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::os::unix::net::UnixStream;
    use std::sync::Arc;

    use super::*;
    use crate::base::address::Address;
    use crate::base::limits::Limits;
    use crate::connection::group::ConnectionGroup;
    use crate::connection::mailbox::Remote;
    use crate::connection::output::Output;
    use crate::io::stream::Stream;

    #[test]
    fn small_buffers_that_are_written_hold_little_more_than_their_bytes() {
        let (ours, _peer) = UnixStream::pair().unwrap();
        let output = Output::open(Stream::new(ours.into()));
        let group = ConnectionGroup::dialled(Limits::default()).unwrap();
        let reactor = Remote::alone();
        let shared = Arc::new(Shared::dialled(output, group, reactor, Address::Unnamed, None));
        let (mut staged, pace) = (LinkBuffer::new(), Pace::default());
        let mut writer = Writer::new(&shared, &mut staged, &pace);
        for _ in 0..1000 {
            writer.append(LinkBuffer::from("aaaaaaaa"));
        }
        assert_eq!(writer.malloc_len(), 8000);
        staged.flush();
        let held = staged.held();
        assert!(held < 256 << 10, "8 000 bytes are held in {held}");
        assert!(staged.chunks().all(|chunk| chunk.iter().all(|byte| *byte == b'a')));
    }
}
