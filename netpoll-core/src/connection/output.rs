//! The output of a connection: a queue of blocks under a small lock.
//!
//! ```text
//!   a callback's Writer ──flush──┐          ┌── no backlog: sent at once, from the sender's
//!                                ├─► lock ──┤   blocks, on its thread; what the socket does not
//!   Handle::send, any thread ────┘          │   take becomes the backlog
//!                                           └── a backlog: queued behind it; the reactor sends
//!                                               it when the socket takes more
//! ```
//!
//! It has a lock of its own, so other threads and the reactor send while a callback of the
//! same connection is busy or blocked. A message is queued in one piece, and the messages are sent
//! in the order in which they were queued.
//!
//! A message of a thread that has written bytes and not flushed them waits for that flush, and so
//! do all messages after it; `deferred.rs` has the picture.
//!
//! Other bytes are queued only while `blocked` is set: the socket took less than it was offered,
//! and the next event that says it may take more goes on. `transmit` sets `blocked` *before* its
//! last try, so that an event that comes right after the try finds it set.
//!
//! If the connection has a filter, `filtered` is set, and the bytes pass through the filter as they
//! leave (`output/filtered.rs`). A send looks at both flags in one load.

mod deferred;
mod filtered;
mod queue;
mod sealing;
mod sending;
mod write_side;

use std::io;
use std::num::NonZeroI32;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use netpoll_buffer::LinkBuffer;

use super::backlog::Spent;
use super::marks::Marks;
use super::policy::Policy;
use super::receipt::Receipt;
use super::socket::Socket;
use super::unflushed::Unflushed;
use crate::base::clock;
use crate::base::error::{Error, Result, Wait};
use crate::base::limits::OutputLimits;
use crate::base::notify::Notify;
use crate::base::sync::{
    AtomicBool, AtomicU8, AtomicU64, Condvar, Mutex, Ordering, lock, wait_until,
};
use crate::io::stream::{Stream, UNKNOWN};
use crate::pure::task::Events;
use queue::{Queue, Rare};
use write_side::{SharedSide, WriteSide};

/// How many of a peer's unread bytes a close takes out of the kernel, 4 MiB in all: more than a
/// request that was refused early, and bounded.
const DISCARDS_AT_MOST: usize = 64;
const DISCARD_BYTES: usize = 64 << 10;
/// The flags of an output. `BLOCKED`: the socket is full, or another burst is due, and an event
/// that it takes more has work here. `FILTERED`: a filter stands between the queue and the socket.
const BLOCKED: u8 = 1;
const FILTERED: u8 = 2;
/// The events for the owner after an error that no event follows.
const FAILURE: Events = Events::FAILED.or(Events::READABLE);

/// The write side of a connection and what is queued there.
#[derive(Debug)]
pub(crate) struct Output {
    socket: Socket,
    queue: Mutex<Queue>,
    side: SharedSide,
    /// Wakes threads that wait until the queue is below the low-water mark, or the stream ends.
    below: Condvar,
    /// [`BLOCKED`] and [`FILTERED`]. Written under the lock.
    flags: AtomicU8,
    /// Above the high-water mark and not yet below the low one.
    congested: AtomicBool,
    /// Whether a send failed, so that accepted bytes are lost. The stream must end by a reset then:
    /// after a FIN the peer would take what it has for the whole. What else is marked is not of the
    /// output; it stands here to save room.
    pub(super) marks: Marks,
    /// The number of bytes that the socket has taken. Written under the lock, read without it.
    sent: AtomicU64,
}

/// What is left to do after a send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FollowUp {
    /// The events for the connection's owner.
    pub(crate) events: Events,
    /// The socket may take more, and no event will say so: another burst is due.
    pub(crate) unsent: bool,
    /// The queue has fallen below its low-water mark, or our stream has ended: the owner is to
    /// look.
    pub(crate) relieved: bool,
}

/// Which of the messages of a stream are offered: those from `from` to before `to`, if they are
/// next there.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Several<'a> {
    /// The number of the next message, which changes under the output's lock.
    pub(crate) position: &'a AtomicU64,
    pub(crate) from: u64,
    pub(crate) to: u64,
}

impl FollowUp {
    const NONE: Self = Self { events: Events::NONE, unsent: false, relieved: false };
    const UNSENT: Self = Self { unsent: true, ..Self::NONE };

    /// What is left to do after this send and another one.
    fn and(self, other: Self) -> Self {
        Self {
            events: self.events | other.events,
            unsent: self.unsent || other.unsent,
            relieved: self.relieved || other.relieved,
        }
    }

    /// Whether nothing is left to do.
    #[inline]
    pub(crate) fn is_none(self) -> bool {
        self == Self::NONE
    }
}

impl Output {
    /// Makes the output of a connected stream.
    pub(crate) fn open(stream: Stream) -> Self {
        Self::new(stream, WriteSide::Open, None)
    }

    /// Makes the output of a stream that is being connected. [`connected`](Self::connected) wakes
    /// `notify`; so does anything that ends the connection before that.
    pub(crate) fn connecting(stream: Stream, notify: Arc<Notify>) -> Self {
        Self::new(stream, WriteSide::Connecting, Some(notify))
    }

    fn new(stream: Stream, side: WriteSide, notify: Option<Arc<Notify>>) -> Self {
        let (socket, hold) = Socket::new(stream);
        let rare = notify.map(|notify| Box::new(Rare { notify: Some(notify), sealing: None }));
        Self {
            socket,
            queue: Mutex::new(Queue {
                backlog: None,
                hold: Some(hold),
                failure: None,
                rare,
                waiting: 0,
            }),
            side: SharedSide::new(side),
            below: Condvar::new(),
            flags: AtomicU8::new(0),
            congested: AtomicBool::new(false),
            marks: Marks::default(),
            sent: AtomicU64::new(0),
        }
    }

    /// Sends all that the connection's owner has written behind what is queued, in one piece, and
    /// then what was deferred behind it. All is accepted, however much is queued.
    #[inline]
    pub(crate) fn flush(
        &self,
        written: &mut LinkBuffer,
        policy: &Policy,
        unflushed: &Unflushed,
    ) -> Result<FollowUp> {
        let mut spent = Spent::default();
        let mut queue = lock(&self.queue);
        unflushed.clear();
        self.check_open(&queue)?;
        if queue.defers() {
            return self.flush_all(&mut queue, written, policy, &mut spent);
        }
        self.push(&mut queue, written, &mut None, policy, &mut spent)
    }

    /// Sends `bytes` behind what is queued, in one piece, and behind what this thread has written
    /// and not flushed. For a handle: all its bytes are accepted, however much is queued.
    pub(crate) fn send(
        &self,
        bytes: &mut LinkBuffer,
        policy: &Policy,
        unflushed: &Unflushed,
    ) -> Result<FollowUp> {
        let mut spent = Spent::default();
        let mut queue = lock(&self.queue);
        self.check_open(&queue)?;
        if queue.defers() || unflushed.is_mine() {
            unflushed.defer();
            return Ok(self.defer(&mut queue, bytes, &mut None, policy, &mut spent));
        }
        self.push(&mut queue, bytes, &mut None, policy, &mut spent)
    }

    /// As [`send`](Self::send), unless the queue is above the high-water mark. If `receipt` was
    /// taken, it is called once with the result; if it is left, nothing was accepted.
    pub(crate) fn offer(
        &self,
        bytes: Bytes,
        receipt: &mut Option<Receipt>,
        policy: &Policy,
        unflushed: &Unflushed,
    ) -> Result<FollowUp> {
        let mut spent = Spent::default();
        let mut message = LinkBuffer::new();
        message.write_shared(bytes);
        message.flush();
        let mut queue = lock(&self.queue);
        self.check_open(&queue)?;
        if self.is_congested() {
            return Err(Error::Full);
        }
        if queue.defers() || unflushed.is_mine() {
            unflushed.defer();
            return Ok(self.defer(&mut queue, &mut message, receipt, policy, &mut spent));
        }
        self.push(&mut queue, &mut message, receipt, policy, &mut spent)
    }

    /// Offers several messages, each in one piece, if they are not sent yet: they are next at
    /// `several.position`, which moves behind them. Returns how many were accepted and what is left
    /// to do; those after them found the queue above the high-water mark, or met the error. `None`:
    /// the position was another one, and nothing was done.
    pub(super) fn offer_several<'a>(
        &self,
        several: Several<'_>,
        messages: impl Iterator<Item = &'a Bytes>,
        policy: &Policy,
        spent: &mut Spent,
    ) -> Option<(usize, Result<FollowUp>)> {
        let mut queue = lock(&self.queue);
        let Several { position, from, to } = several;
        if position.load(Ordering::Relaxed) != from {
            return None;
        }
        position.store(to, Ordering::Relaxed);
        if let Err(closed) = self.check_open(&queue) {
            return Some((0, Err(closed)));
        }
        let (mut messages, mut next) = (messages.peekable(), FollowUp::NONE);
        let mut accepted = 0;
        while messages.peek().is_some() && !self.is_congested() {
            // As many in one piece as would be accepted one by one, and one that goes over.
            let room = policy.limits.output.high.saturating_sub(queue.pending());
            let (mut piece, mut count) = (LinkBuffer::new(), 0);
            let fits = |piece: &LinkBuffer, it: &&Bytes| piece.malloc_len() + it.len() <= room;
            while let Some(it) = messages.next_if(|it| count == 0 || fits(&piece, it)) {
                piece.write_shared(it.clone());
                count += 1;
            }
            piece.flush();
            let sent = if queue.defers() {
                Ok(self.defer(&mut queue, &mut piece, &mut None, policy, spent))
            } else {
                self.push(&mut queue, &mut piece, &mut None, policy, spent)
            };
            match sent {
                Ok(more) => next = next.and(more),
                Err(error) => return Some((accepted, Err(error))),
            }
            accepted += count;
        }
        Some((accepted, Ok(next)))
    }

    /// Whether an event that the socket takes more has work here.
    #[inline]
    pub(crate) fn is_blocked(&self) -> bool {
        self.flags.load(Ordering::SeqCst) & BLOCKED != 0
    }

    /// Sends what is queued, at the event that `blocked` waits for or when another burst is due.
    pub(crate) fn go_on(&self, limits: OutputLimits) -> FollowUp {
        let mut spent = Spent::default();
        let mut queue = lock(&self.queue);
        self.set_blocked(false);
        let Ok(unfinished) = self.send_backlog(&mut queue, &mut spent) else {
            return FollowUp { events: FAILURE, ..FollowUp::NONE };
        };
        let relieved = self.is_congested() && queue.pending() <= limits.low;
        if relieved {
            self.congested.store(false, Ordering::Release);
            self.wake(&queue);
        }
        let ended = self.end(&mut queue);
        if ended && queue.failure.is_some() {
            return FollowUp { events: FAILURE, ..unfinished };
        }
        FollowUp { relieved: relieved || ended, ..unfinished }
    }

    /// Waits until the queue is below the low-water mark, `interrupted` fails or `deadline` has
    /// passed. It asks for both again after each [`interrupt`](Self::interrupt).
    pub(crate) fn wait_below(
        &self,
        deadline: impl Fn() -> Option<Instant>,
        interrupted: impl Fn() -> Result<()>,
    ) -> Result<()> {
        let mut queue = lock(&self.queue);
        while self.is_congested() {
            // The owner may have begun a close; then the queue is sent within the linger time.
            self.check_open(&queue)?;
            interrupted()?;
            let deadline = deadline();
            if deadline.is_some_and(|at| at <= clock::now()) {
                return Err(Error::TimedOut(Wait::Write));
            }
            queue.waiting += 1;
            (queue, _) = wait_until(&self.below, queue, deadline);
            queue.waiting -= 1;
        }
        self.check_open(&queue)
    }

    /// Makes threads in `wait_below` ask for their `interrupted` and their deadline again.
    pub(crate) fn interrupt(&self) {
        let queue = lock(&self.queue);
        self.wake(&queue);
        let notify = queue.rare.as_ref().and_then(|rare| rare.notify.clone());
        drop(queue);
        if let Some(notify) = notify {
            notify.notify();
        }
    }

    /// Whether the queue went above its high-water mark and is not below its low one yet.
    pub(crate) fn is_congested(&self) -> bool {
        self.congested.load(Ordering::Acquire)
    }

    /// Whether so much is queued that a flush of the owner has to wait.
    pub(crate) fn must_wait(&self, policy: &Policy) -> bool {
        self.is_congested() && self.pending() > policy.waits_above()
    }

    /// The number of bytes accepted in all, taken by the socket or not.
    pub(crate) fn accepted(&self) -> u64 {
        let queue = lock(&self.queue);
        self.sent() + queue.pending() as u64
    }

    /// Bytes accepted and not yet taken by the socket.
    pub(crate) fn pending(&self) -> usize {
        lock(&self.queue).pending()
    }

    /// The memory that is counted for the backlog, and its length in bytes.
    pub(crate) fn holds(&self) -> (usize, usize) {
        let queue = lock(&self.queue);
        let (held, len) =
            queue.backlog.as_ref().map_or((0, 0), |backlog| (backlog.held(), backlog.len()));
        (held + queue.rare.as_ref().map_or(0, |rare| rare.held()), len)
    }

    /// Moves the backlog into less memory, if copies of its own bytes are enough for that.
    pub(crate) fn compact(&self) {
        if let Some(backlog) = &mut lock(&self.queue).backlog {
            backlog.compact();
        }
    }

    /// The number of bytes that the socket has taken in all.
    pub(crate) fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Seals the write side, and ends our stream (FIN) when all that was accepted is sent. For a
    /// connection that keeps its socket open then.
    pub(crate) fn close(&self) -> FollowUp {
        let mut spent = Spent::default();
        let mut queue = lock(&self.queue);
        let next = self.seal_side(&mut queue, &mut spent);
        self.wake(&queue);
        let failed = self.end(&mut queue) && queue.failure.is_some();
        if failed { FollowUp { events: FAILURE, ..next } } else { next }
    }

    /// Seals the write side. Returns whether all that was accepted is sent; then the close of the
    /// socket sends the FIN. Otherwise the FIN follows the rest.
    pub(crate) fn seal(&self) -> (bool, FollowUp) {
        let mut spent = Spent::default();
        let mut queue = lock(&self.queue);
        let next = self.seal_side(&mut queue, &mut spent);
        self.wake(&queue);
        self.give_up_handshake(&mut queue, &mut spent);
        if queue.backlog.is_none() {
            self.finish_filter(&mut queue);
        }
        (queue.is_drained(), next)
    }

    /// Ends our stream (FIN) before the socket is closed, if the side is sealed and all is sent.
    pub(crate) fn end_stream(&self) {
        self.end(&mut lock(&self.queue));
    }

    /// A dialled stream is connected, or has failed.
    pub(crate) fn connected(&self) {
        let mut queue = lock(&self.queue);
        if self.side.now() != WriteSide::Connecting {
            return;
        }
        self.side.set(WriteSide::Open);
        let notify = queue.take_notify();
        drop(queue);
        if let Some(notify) = notify {
            notify.notify();
        }
    }

    /// Whether a dialled stream is still being connected.
    pub(crate) fn is_connecting(&self) -> bool {
        self.side.now() == WriteSide::Connecting
    }

    /// Gives the socket away: a duplicate of its descriptor, and what was accepted and not sent.
    pub(crate) fn detach(&self) -> Result<(OwnedFd, LinkBuffer)> {
        if self.is_filtered() {
            return Err(Error::config(
                "cannot detach a connection that has a filter, such as TLS: the bytes of its \
                 socket mean nothing without it",
            ));
        }
        let mut spent = Spent::default();
        let mut queue = lock(&self.queue);
        self.check_open(&queue)?;
        let hold = queue.hold.as_ref().ok_or(Error::Closed)?;
        let socket = self.socket.stream(hold).detach()?;
        self.side.set(WriteSide::Detached);
        let unsent = queue.give_up(self.sent(), &mut spent);
        self.congested.store(false, Ordering::Release);
        self.wake(&queue);
        Ok((socket, unsent))
    }

    /// Whether the socket was given away.
    pub(crate) fn is_detached(&self) -> bool {
        self.side.now() == WriteSide::Detached
    }

    /// Whether it accepts no more bytes: a close has begun, or `shutdown_write` was called. One
    /// load.
    #[inline]
    pub(crate) fn is_sealed(&self) -> bool {
        self.side.is_sealed()
    }

    /// Whether nothing is left to send.
    pub(crate) fn is_empty(&self) -> bool {
        lock(&self.queue).is_drained()
    }

    /// Takes the unread bytes of the peer: a close that leaves them there resets the connection,
    /// and the reset would overtake the last bytes that we sent. A stream that arrives in pieces is
    /// not empty after a short read.
    pub(crate) fn discard_unread(&self, in_pieces: bool) {
        if self.is_detached() {
            return;
        }
        let mut unread = LinkBuffer::new();
        self.with_stream(|stream| {
            for _ in 0..DISCARDS_AT_MOST {
                match stream.pull(&mut unread, DISCARD_BYTES) {
                    Ok(pulled) if pulled.read > 0 && (in_pieces || !pulled.drained) => {
                        unread.clear();
                    }
                    _ => break,
                }
            }
        });
    }

    /// Keeps an error that came from elsewhere than a send, unless there is one already.
    pub(crate) fn fail(&self, error: &io::Error) {
        lock(&self.queue).failure.get_or_insert(errno_of(error));
    }

    /// The error that ended sending, if one did.
    pub(crate) fn failure(&self) -> Option<io::Error> {
        lock(&self.queue).error()
    }

    /// The socket, for its other holder, the owner.
    #[inline]
    pub(crate) fn socket(&self) -> &Socket {
        &self.socket
    }

    /// Whether the output has released the socket; the owner may still hold it.
    pub(crate) fn is_closed(&self) -> bool {
        lock(&self.queue).hold.is_none()
    }

    /// Calls `ask` with the stream, unless it is closed. Sends wait for the lock meanwhile.
    pub(crate) fn with_stream<R>(&self, ask: impl FnOnce(&Stream) -> R) -> Option<R> {
        let queue = lock(&self.queue);
        Some(ask(self.socket.stream(queue.hold.as_ref()?)))
    }

    /// Releases the socket, which closes it unless the owner still holds it. From here on no send
    /// can reach its number. If accepted bytes are lost by that, or a reset is `meant`, the stream
    /// ends by a reset. Returns how many bytes are lost, and whether the system refused the reset.
    pub(crate) fn close_stream(&self, meant: bool) -> (usize, io::Result<()>) {
        let mut spent = Spent::default();
        let mut queue = lock(&self.queue);
        if !self.side.is_sealed() {
            self.side.set(WriteSide::Closing);
        }
        let lost = queue.pending();
        if lost == 0 && !meant {
            self.finish_filter(&mut queue);
        }
        let mut unsent = queue.give_up(self.sent(), &mut spent);
        spent.take_all(&mut unsent);
        self.wake(&queue);
        // The duplicate of a detached socket shares its options, so none may be set here.
        let meant = (meant || self.marks.is_cut()) && self.side.now() != WriteSide::Detached;
        let must_reset = lost > 0 || meant;
        let (hold, sealing) = (queue.hold.take(), queue.take_sealing());
        drop(queue);
        drop(sealing);
        let Some(hold) = hold else { return (lost, Ok(())) };
        let stream = self.socket.stream(&hold);
        let reset = if must_reset { stream.reset_on_close() } else { Ok(()) };
        self.socket.release(hold);
        (lost, reset)
    }

    /// For a holder of the lock. The owner can't flush any more, so what was deferred is queued.
    #[inline]
    fn seal_side(&self, queue: &mut Queue, spent: &mut Spent) -> FollowUp {
        if !self.side.is_sealed() {
            self.side.set(WriteSide::Closing);
        }
        if queue.defers() { self.release(queue, spent) } else { FollowUp::NONE }
    }

    /// Fails if no more bytes are accepted. For a holder of the lock.
    #[inline]
    fn check_open(&self, queue: &Queue) -> Result<()> {
        match queue.failure {
            Some(_) => Err(why_failed(queue)),
            None if self.side.is_sealed() => Err(Error::Closed),
            None => Ok(()),
        }
    }

    /// Wakes the threads in `wait_below`.
    fn wake(&self, queue: &Queue) {
        if queue.waiting > 0 {
            self.below.notify_all();
        }
    }

    /// Ends our stream if the side is sealed and all is sent; returns whether it did. Sends no FIN
    /// if accepted bytes were lost.
    fn end(&self, queue: &mut Queue) -> bool {
        if self.side.now() != WriteSide::Closing || queue.backlog.is_some() {
            return false;
        }
        self.finish_filter(queue);
        if !self.is_filter_over(queue) {
            return false;
        }
        self.side.set(WriteSide::Ended);
        if let (Some(hold), false) = (&queue.hold, self.marks.is_cut())
            && let Err(error) = self.socket.stream(hold).end_write()
        {
            // The peer would wait for an end that does not come, so the connection must close. The
            // error is not logged: the lock is held, and a logger may send through this output.
            queue.failure.get_or_insert(errno_of(&error));
        }
        true
    }
}

#[cold]
fn why_failed(queue: &Queue) -> Error {
    queue.error().map_or(Error::Closed, Error::from)
}

fn errno_of(error: &io::Error) -> NonZeroI32 {
    error.raw_os_error().and_then(NonZeroI32::new).unwrap_or(UNKNOWN)
}

#[cfg(all(test, not(loom)))]
#[path = "output_tests.rs"]
mod tests;
