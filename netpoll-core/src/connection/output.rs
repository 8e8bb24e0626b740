//! The output lane of a connection: a queue of blocks behind a small lock.
//!
//! ```text
//!   a callback's Writer ──flush──┐          ┌── backlog empty: sent at once, from the sender's
//!                                ├─► lock ──┤   blocks, on its thread; what the socket leaves is
//!   Handle::send, any thread ────┘          │   the backlog
//!                                           └── else behind the backlog, which the reactor sends
//!                                               at each writable edge
//! ```
//!
//! It is a lane of its own, so other threads send and the reactor drains while a callback of the
//! same connection is busy or blocked. What enters it enters in one piece and leaves in that order.
//!
//! There is no backlog unless `blocked` is set: then the socket took less than it was offered, and
//! the next writable edge goes on. `blocked` is set *before* the last try, so that an edge which
//! comes right after that try finds it set.

use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use netpoll_buffer::{Charge, LinkBuffer};

use super::receipt::{self, Receipt, Receipts, Settled};
use crate::callbacks::guard;
use crate::dial::Doorbell;
use crate::error::{Error, Result, Wait};
use crate::group::Group;
use crate::hand_off::before_waiting;
use crate::limits::OutputLimits;
use crate::socket::Stream;
use crate::sync::{AtomicBool, AtomicU64, Condvar, Mutex, Ordering, lock, wait_until};
use crate::task::Events;

/// Messages of this many bytes and fewer are copied behind what is queued already: each in a block
/// of its own would hold 4 KiB, and a peer that doesn't read could make a queue of tiny answers
/// hold thousands of times what the water marks count.
const COALESCED: usize = 1 << 10;

/// How much of a peer's unread bytes a close takes out of the kernel: more than a request that was
/// refused early, and not without end.
const DISCARDS_AT_MOST: usize = 64;
const DISCARD_BYTES: usize = 64 << 10;

/// See the module.
#[derive(Debug)]
pub(crate) struct Lane {
    queue: Mutex<Queue>,
    /// Whoever waits for the queue to fall below the low-water mark, or for the end.
    below: Condvar,
    /// The socket is full: a writable edge has work here.
    blocked: AtomicBool,
    /// Above the high-water mark and not yet below the low one.
    congested: AtomicBool,
    /// How many bytes the socket has taken in all. Written under the lock, read without it.
    sent: AtomicU64,
}

#[derive(Debug)]
struct Queue {
    /// What the socket has not taken; allocated when it doesn't take all, for it mostly does.
    backlog: Option<Box<Backlog>>,
    stream: Option<Arc<Stream>>,
    phase: Phase,
    /// The errno that ended sending.
    failure: Option<i32>,
    /// Rung when a dialled stream is not on its way any more.
    bell: Option<Arc<Doorbell>>,
    /// How many threads wait: to wake nobody is a system call all the same.
    waiting: u32,
}

/// See [`Queue`]. It is there while there are bytes in it.
#[derive(Debug)]
struct Backlog {
    bytes: LinkBuffer,
    /// Who wants to know what becomes of a message.
    receipts: Receipts,
    /// Counts the bytes, where there is a budget.
    charge: Option<Charge>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Dialled, not connected yet: the first writable edge opens it.
    Connecting,
    Open,
    /// Our stream is to end: what is queued goes out, nothing more comes in.
    Closing,
    /// Our stream has ended: the FIN is behind what was queued.
    Ended,
    /// The socket was given away: nothing here touches it any more, but to stop watching it.
    Detached,
}

impl Lane {
    /// The lane of a connected stream.
    pub(crate) fn open(stream: Arc<Stream>) -> Self {
        Self::new(stream, Phase::Open, None)
    }

    /// The lane of a stream that is being connected: its first writable edge rings `bell`, and so
    /// does whatever ends the connection before that.
    pub(crate) fn connecting(stream: Arc<Stream>, bell: Arc<Doorbell>) -> Self {
        Self::new(stream, Phase::Connecting, Some(bell))
    }

    fn new(stream: Arc<Stream>, phase: Phase, bell: Option<Arc<Doorbell>>) -> Self {
        Self {
            queue: Mutex::new(Queue {
                backlog: None,
                stream: Some(stream),
                phase,
                failure: None,
                bell,
                waiting: 0,
            }),
            below: Condvar::new(),
            blocked: AtomicBool::new(phase == Phase::Connecting),
            congested: AtomicBool::new(false),
            sent: AtomicU64::new(0),
        }
    }

    /// Sends `bytes` behind what is queued, in one piece. For the connection's owner: it is
    /// accepted whole, however much is queued. Returns what the connection's owner should know of.
    pub(crate) fn send(&self, bytes: &mut LinkBuffer, group: &Group) -> Result<Events> {
        let mut spent = Spent::default();
        let mut queue = lock(&self.queue);
        queue.check_open()?;
        self.push(&mut queue, bytes, &mut None, group, &mut spent)
    }

    /// Sends `bytes` behind what is queued, in one piece, unless the queue is above the high-water
    /// mark. A receipt that was taken is told once what became of them; one that was left means
    /// that nothing was accepted.
    pub(crate) fn offer(
        &self,
        bytes: Bytes,
        receipt: &mut Option<Receipt>,
        group: &Group,
    ) -> Result<Events> {
        let mut spent = Spent::default();
        let mut message = LinkBuffer::new();
        message.write_shared(bytes);
        message.flush();
        let mut queue = lock(&self.queue);
        queue.check_open()?;
        if self.is_congested() {
            return Err(Error::Full);
        }
        self.push(&mut queue, &mut message, receipt, group, &mut spent)
    }

    /// A writable edge: sends what is queued. Returns what the connection's owner should know of.
    #[inline]
    pub(crate) fn writable(&self, limits: OutputLimits) -> Events {
        if !self.blocked.load(Ordering::SeqCst) {
            return Events::NONE;
        }
        self.go_on(limits)
    }

    /// The edge that `blocked` waits for.
    fn go_on(&self, limits: OutputLimits) -> Events {
        let mut spent = Spent::default();
        let mut queue = lock(&self.queue);
        self.blocked.store(false, Ordering::SeqCst);
        let connected = queue.phase == Phase::Connecting;
        if connected {
            queue.phase = Phase::Open;
            if let Some(bell) = queue.bell.take() {
                bell.ring();
            }
        }
        if self.drain(&mut queue, &mut spent).is_err() {
            return Events::FAILED | Events::READABLE;
        }
        let relieved = self.is_congested() && queue.pending() <= limits.low;
        if relieved {
            self.congested.store(false, Ordering::Release);
            self.wake(&queue);
        }
        let closed = queue.end_stream();
        if relieved || closed { Events::DRAINED } else { Events::NONE }
    }

    /// Waits until the queue is below the low-water mark, or `interrupted`, or `deadline`, which is
    /// asked for again after each [`interrupt`](Self::interrupt).
    pub(crate) fn wait_below(
        &self,
        deadline: impl Fn() -> Option<Instant>,
        interrupted: impl Fn() -> Result<()>,
    ) -> Result<()> {
        if self.is_congested() {
            before_waiting();
        }
        let mut queue = lock(&self.queue);
        while self.is_congested() {
            interrupted()?;
            let deadline = deadline();
            if deadline.is_some_and(|at| at <= Instant::now()) {
                return Err(Error::TimedOut(Wait::Write));
            }
            queue.waiting += 1;
            (queue, _) = wait_until(&self.below, queue, deadline);
            queue.waiting -= 1;
        }
        queue.check_open()
    }

    /// Makes whoever waits in `wait_below` look at its `interrupted` and its deadline again.
    pub(crate) fn interrupt(&self) {
        let queue = lock(&self.queue);
        self.wake(&queue);
        let bell = queue.bell.clone();
        drop(queue);
        if let Some(bell) = bell {
            bell.ring();
        }
    }

    /// Whether more is queued than the high-water mark allows, and not yet less than the low one.
    pub(crate) fn is_congested(&self) -> bool {
        self.congested.load(Ordering::Acquire)
    }

    /// Bytes accepted and not yet taken by the socket.
    pub(crate) fn pending(&self) -> usize {
        lock(&self.queue).pending()
    }

    /// How many bytes the socket has taken in all.
    pub(crate) fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Takes no more, and ends our stream (FIN) when all that was accepted is sent: for one whose
    /// socket is not closed then.
    pub(crate) fn close(&self) {
        let mut queue = lock(&self.queue);
        queue.seal();
        self.wake(&queue);
        queue.end_stream();
    }

    /// Takes no more. Returns whether all that was accepted is sent. The FIN is left to the close
    /// of the socket, unless it has to wait for the rest.
    pub(crate) fn seal(&self) -> bool {
        let mut queue = lock(&self.queue);
        queue.seal();
        self.wake(&queue);
        queue.backlog.is_none()
    }

    /// Ends our stream (FIN) ahead of the close of the socket, if it was sealed and all is sent.
    pub(crate) fn end_stream(&self) {
        lock(&self.queue).end_stream();
    }

    /// Whether a dialled stream is still on its way.
    pub(crate) fn is_connecting(&self) -> bool {
        lock(&self.queue).phase == Phase::Connecting
    }

    /// Gives the socket away: a descriptor of its own, and what was accepted and not sent.
    pub(crate) fn detach(&self) -> Result<(OwnedFd, LinkBuffer)> {
        let mut spent = Spent::default();
        let mut queue = lock(&self.queue);
        queue.check_open()?;
        let stream = queue.stream.as_ref().ok_or(Error::Closed)?;
        let socket = stream.as_fd().try_clone_to_owned()?;
        queue.phase = Phase::Detached;
        let unsent = queue.give_up(self.sent(), &mut spent);
        self.congested.store(false, Ordering::Release);
        self.wake(&queue);
        Ok((socket, unsent))
    }

    /// Whether the socket was given away.
    pub(crate) fn is_detached(&self) -> bool {
        lock(&self.queue).phase == Phase::Detached
    }

    /// Whether nothing is left to send.
    pub(crate) fn is_empty(&self) -> bool {
        lock(&self.queue).backlog.is_none()
    }

    /// Takes out of the kernel what the peer has sent unread: a close that leaves it there resets
    /// the connection, and the reset would overtake what we sent last.
    pub(crate) fn discard_unread(&self) {
        let Some(stream) = self.stream() else { return };
        if self.is_detached() {
            return;
        }
        let mut unread = LinkBuffer::new();
        for _ in 0..DISCARDS_AT_MOST {
            match stream.receive(&mut unread, DISCARD_BYTES) {
                Ok(filled) if filled.read == filled.reserved => unread.clear(),
                _ => break,
            }
        }
    }

    /// Notes an error that was met outside of sending, if none was before.
    pub(crate) fn fail(&self, error: &io::Error) {
        lock(&self.queue).failure.get_or_insert(error.raw_os_error().unwrap_or(0));
    }

    /// The error that ended sending, if one did.
    pub(crate) fn failure(&self) -> Option<io::Error> {
        lock(&self.queue).failure.map(io::Error::from_raw_os_error)
    }

    /// The stream, while it is not closed.
    pub(crate) fn stream(&self) -> Option<Arc<Stream>> {
        lock(&self.queue).stream.clone()
    }

    /// Takes the stream out for closing: from here on no send can reach its number. Returns how
    /// many accepted bytes are lost by it.
    pub(crate) fn take_stream(&self) -> (Option<Arc<Stream>>, usize) {
        let mut spent = Spent::default();
        let mut queue = lock(&self.queue);
        queue.seal();
        let lost = queue.pending();
        let mut unsent = queue.give_up(self.sent(), &mut spent);
        spent.take_all(&mut unsent);
        self.wake(&queue);
        (queue.stream.take(), lost)
    }

    #[inline]
    fn push(
        &self,
        queue: &mut Queue,
        bytes: &mut LinkBuffer,
        receipt: &mut Option<Receipt>,
        group: &Group,
        spent: &mut Spent,
    ) -> Result<Events> {
        let start = self.sent() + queue.pending() as u64;
        let len = bytes.len();
        let must_queue = queue.backlog.is_some() || self.blocked.load(Ordering::SeqCst);
        // Straight from the caller's blocks: what the socket takes at once is never queued.
        let sent = if must_queue { Ok(()) } else { self.transmit(queue, bytes, spent) };
        if sent.is_ok() && !(bytes.is_empty() && queue.backlog.is_none()) {
            let backlog = queue.backlog.get_or_insert_with(|| Box::new(Backlog::new(group)));
            backlog.append(bytes, spent);
            if let Some(receipt) = receipt.take() {
                backlog.receipts.push(start, len, receipt);
            }
            let before = backlog.bytes.len() <= group.limits().output.high
                || self.congested.swap(true, Ordering::AcqRel);
            return Ok(if before { Events::NONE } else { Events::HIGH_WATER });
        }
        if let Some(receipt) = receipt.take() {
            let written = (self.sent() - start) as usize;
            spent.settled.push(Settled::new(receipt, written, len, queue.failure));
        }
        sent.map(|()| Events::NONE)
    }

    /// Wakes those who wait in `wait_below`.
    fn wake(&self, queue: &Queue) {
        if queue.waiting > 0 {
            self.below.notify_all();
        }
    }

    /// Sends what is queued.
    fn drain(&self, queue: &mut Queue, spent: &mut Spent) -> Result<()> {
        let Some(mut backlog) = queue.backlog.take() else { return Ok(()) };
        let sent = self.transmit(queue, &mut backlog.bytes, spent);
        backlog.receipts.settle_to(self.sent(), &mut spent.settled);
        if sent.is_err() {
            backlog.receipts.settle_all(self.sent(), queue.failure, &mut spent.settled);
        } else if !backlog.bytes.is_empty() {
            backlog.count();
            queue.backlog = Some(backlog);
        }
        sent
    }

    /// Sends until `bytes` is empty or the socket full; in the latter case `blocked` is set. What
    /// can't be sent at all is spent as well.
    fn transmit(&self, queue: &mut Queue, bytes: &mut LinkBuffer, spent: &mut Spent) -> Result<()> {
        let Some(stream) = &queue.stream else { return Err(Error::Closed) };
        let mut blocked = false;
        while !bytes.is_empty() {
            match stream.send(bytes) {
                Ok(went) => {
                    self.sent.store(self.sent() + went.bytes as u64, Ordering::Relaxed);
                    spent.take(bytes, went.bytes);
                    if went.all_offered {
                        continue;
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => {
                    queue.failure = Some(error.raw_os_error().unwrap_or(0));
                    spent.take_all(bytes);
                    self.congested.store(false, Ordering::Release);
                    self.wake(queue);
                    return Err(error.into());
                }
            }
            if blocked {
                return Ok(());
            }
            self.blocked.store(true, Ordering::SeqCst);
            blocked = true;
        }
        if blocked {
            // The last try went through. An edge that came before `blocked` was set is gone, and no
            // other need follow: whoever sends next must try the socket.
            self.blocked.store(false, Ordering::SeqCst);
        }
        Ok(())
    }
}

impl Queue {
    /// Bytes accepted and not yet taken by the socket.
    fn pending(&self) -> usize {
        self.backlog.as_ref().map_or(0, |backlog| backlog.bytes.len())
    }

    /// Nothing more will be sent than was, for a close or a detach: tells all who wait for a
    /// receipt, and returns what was queued.
    fn give_up(&mut self, sent: u64, spent: &mut Spent) -> LinkBuffer {
        let Some(mut backlog) = self.backlog.take() else { return LinkBuffer::new() };
        backlog.receipts.settle_all(sent, None, &mut spent.settled);
        backlog.bytes
    }

    fn seal(&mut self) {
        if matches!(self.phase, Phase::Connecting | Phase::Open) {
            self.phase = Phase::Closing;
        }
    }

    /// Ends our stream if that is what is left to do, and says whether it was. A peer that is gone
    /// has no use for it.
    fn end_stream(&mut self) -> bool {
        if self.phase != Phase::Closing || self.backlog.is_some() {
            return false;
        }
        self.phase = Phase::Ended;
        if let Some(Err(error)) = self.stream.as_ref().map(|stream| stream.shutdown_write()) {
            log::debug!("cannot end a stream in order: {error}");
        }
        true
    }

    #[inline]
    fn check_open(&self) -> Result<()> {
        match (self.failure, self.phase) {
            (Some(errno), _) => Err(io::Error::from_raw_os_error(errno).into()),
            (None, Phase::Closing | Phase::Ended | Phase::Detached) => Err(Error::Closed),
            (None, _) => Ok(()),
        }
    }
}

impl Backlog {
    fn new(group: &Group) -> Self {
        let (bytes, receipts) = (LinkBuffer::new(), Receipts::default());
        Self { bytes, receipts, charge: group.memory.open_charge() }
    }

    fn append(&mut self, bytes: &mut LinkBuffer, spent: &mut Spent) {
        if bytes.len() <= COALESCED && !self.bytes.is_empty() {
            bytes.chunks().for_each(|chunk| self.bytes.write_bytes(chunk));
            spent.take_all(bytes);
        } else {
            self.bytes.append(std::mem::take(bytes));
        }
        self.bytes.flush();
        self.count();
    }

    fn count(&mut self) {
        if let Some(charge) = &mut self.charge {
            charge.resize(self.bytes.len());
        }
    }
}

/// Blocks that were sent or given up, and receipts that are due, on their way out of the lock: the
/// memory and the callbacks are the user's, and may do anything, call this connection's handle or
/// panic.
///
/// It is declared before the guard of the lock, so that it is dropped after it.
#[derive(Default)]
struct Spent {
    blocks: LinkBuffer,
    settled: Vec<Settled>,
}

impl Spent {
    fn take(&mut self, from: &mut LinkBuffer, n: usize) {
        if n == from.len() {
            self.take_all(from);
        } else if let Ok(sent) = from.slice(n) {
            self.blocks.append(sent);
            self.blocks.flush();
        }
    }

    fn take_all(&mut self, from: &mut LinkBuffer) {
        if self.blocks.is_empty() {
            // Cheaper than to append, and mostly there is nothing yet.
            std::mem::swap(&mut self.blocks, from);
        } else {
            self.blocks.append(std::mem::take(from));
            self.blocks.flush();
        }
    }
}

impl Drop for Spent {
    fn drop(&mut self) {
        if !self.blocks.is_empty() {
            guard("the release of sent memory", || self.blocks.clear()).ok();
        }
        if !self.settled.is_empty() {
            receipt::tell(std::mem::take(&mut self.settled));
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::os::unix::net::UnixStream;
    use std::thread;

    use super::*;
    use crate::limits::Limits;

    /// A send that waits for an edge which came before would wait for ever.
    #[test]
    fn a_lane_that_has_sent_everything_waits_for_no_edge() {
        const MUCH: usize = 128 << 20;
        let (ours, mut peer) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let lane = Lane::open(Arc::new(Stream::new(ours.into())));
        let limits = Limits::default();
        let group = Group::dialled(limits).unwrap();
        let reading = thread::spawn(move || io::copy(&mut peer, &mut io::sink()));
        let message = Bytes::from(vec![0; 256 << 10]);
        let mut accepted = 0;
        while accepted < MUCH {
            lane.offer(message.clone(), &mut None, &group).unwrap();
            accepted += message.len();
            while lane.pending() > 0 {
                // In place of the reactor, an edge a round.
                lane.writable(limits.output);
            }
            let waits = lane.blocked.load(Ordering::SeqCst);
            assert!(!waits, "it waits for an edge after {accepted} bytes, with none queued");
        }
        drop(lane);
        assert_eq!(reading.join().unwrap().unwrap(), accepted as u64);
    }

    #[test]
    fn a_queue_of_tiny_messages_holds_little_more_than_their_bytes() {
        let (ours, _peer_that_never_reads) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let lane = Lane::open(Arc::new(Stream::new(ours.into())));
        let output = OutputLimits { low: 1 << 20, high: 2 << 20 };
        let group = Group::dialled(Limits { output, ..Limits::default() }).unwrap();
        while !lane.blocked.load(Ordering::SeqCst) {
            lane.offer(Bytes::from(vec![0; 64 << 10]), &mut None, &group).unwrap();
        }
        let before = netpoll_buffer::stats().bytes_held;
        for _ in 0..10_000 {
            lane.offer(Bytes::from_static(b"tiny"), &mut None, &group).unwrap();
        }
        let held = netpoll_buffer::stats().bytes_held - before;
        assert!(held < 1 << 20, "40 000 bytes are held in {held}");
    }
}
