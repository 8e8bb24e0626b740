//! The outbox: the one way out of a datagram socket, and what waits because the kernel takes no
//! more.
//!
//! ```text
//!   the owner, any thread ── send ──┬─ nothing waits ──► the kernel, on the caller's thread
//!                                   │                       │ no room: BLOCKED
//!                                   └─ else ──► queue ◄─────┘ what is left
//!   the reactor ── go_on, when there is room ──► queue ──► the kernel
//! ```
//! All of it is under one lock, so what one thread sends keeps its order. No user code runs under
//! the lock: what is done with is dropped behind it.

use std::collections::VecDeque;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use netpoll_buffer::Charge;

use super::limits::{DatagramLimits, WhenFull};
use super::scratch::with_envelopes;
use super::stats::Counters;
use crate::base::address::Address;
use crate::base::panic::drop_each;
use crate::base::sync::{AtomicBool, Mutex, MutexGuard, Ordering, lock};
use crate::io::datagram::{DatagramSocket, Envelopes, Message, Sent};

/// How many messages one burst sends, before other sockets of the loop have their turn.
const BURST: usize = if cfg!(loom) { 1 } else { 256 };

/// See the module.
#[derive(Debug)]
pub(super) struct Outbox<S = DatagramSocket> {
    inner: Mutex<Inner<S>>,
    /// The kernel had no room, and says when it has. Set before the try that is not repeated.
    blocked: AtomicBool,
    /// What the models must find.
    #[cfg(all(test, loom))]
    bug: loom_models::Bug,
}

/// What it sends by: a socket, or in models what stands for one.
pub(super) trait SendMessages {
    /// Sends `count` messages, until the kernel takes no more.
    fn send<'a>(
        &self,
        envelopes: &mut Envelopes,
        count: usize,
        message: impl Fn(usize) -> Message<'a>,
    ) -> Sent;
}

#[derive(Debug)]
struct Inner<S> {
    /// `None` once the socket is closed.
    socket: Option<Arc<S>>,
    queue: VecDeque<Queued>,
    /// How many bytes of the first message are sent.
    part: usize,
    bytes: usize,
    datagrams: usize,
    is_sealed: bool,
    charge: Option<Charge>,
}

/// A message that waits.
#[derive(Debug)]
pub(super) struct Queued {
    pub(super) peer: Option<Address>,
    pub(super) source: Option<IpAddr>,
    pub(super) payload: Bytes,
    pub(super) size: usize,
}

/// Messages that are done with. Their drop is the user's code, so this is declared before the guard
/// of the lock, and dropped after it.
#[derive(Debug, Default)]
struct Released(Vec<Queued>);

impl Drop for Released {
    fn drop(&mut self) {
        drop_each("the release of sent memory", self.0.drain(..));
    }
}

/// What became of messages that were given to it.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    /// Datagrams that were dropped.
    pub(super) dropped: usize,
    /// What the kernel said of the last one that it refused.
    pub(super) error: Option<io::Error>,
    /// The outbox takes nothing any more.
    pub(super) is_sealed: bool,
    /// The kernel has no room from now on, and the reactor is to watch for it.
    pub(super) is_full: bool,
}

/// What is to be done after a burst.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// Nothing: the queue is empty.
    Empty {
        /// Nothing more will come.
        is_sealed: bool,
    },
    /// The kernel will say when it has room.
    Wait,
    /// Another burst, after others had their turn.
    Again,
}

impl Queued {
    fn message(&self) -> Message<'_> {
        let Self { peer, source, payload, size } = self;
        Message { peer: peer.as_ref(), source: *source, payload, size: *size }
    }
}

impl SendMessages for DatagramSocket {
    fn send<'a>(
        &self,
        envelopes: &mut Envelopes,
        count: usize,
        message: impl Fn(usize) -> Message<'a>,
    ) -> Sent {
        self.send(envelopes, count, message)
    }
}

impl<S: SendMessages> Outbox<S> {
    pub(super) fn new(socket: Arc<S>, charge: Option<Charge>) -> Self {
        let inner = Inner {
            socket: Some(socket),
            queue: VecDeque::new(),
            part: 0,
            bytes: 0,
            datagrams: 0,
            is_sealed: false,
            charge,
        };
        Self {
            inner: Mutex::new(inner),
            blocked: AtomicBool::new(false),
            #[cfg(all(test, loom))]
            bug: loom_models::Bug::None,
        }
    }

    /// Sends messages, or queues what the kernel does not take; `keep` makes a message its own
    /// owner.
    pub(super) fn send<'a>(
        &self,
        count: usize,
        message: impl Fn(usize) -> Message<'a>,
        keep: impl Fn(usize) -> Queued,
        limits: &DatagramLimits,
        counters: &Counters,
    ) -> Outcome {
        let mut outcome = Outcome::default();
        let mut old = Released::default();
        let mut inner = lock(&self.inner);
        if inner.is_sealed {
            outcome.dropped = (0..count).map(|at| message(at).count()).sum();
            outcome.is_sealed = true;
            counters.dropped.add(outcome.dropped);
            return outcome;
        }
        let Sent { done, part, error, full, .. } = match (&inner.socket, inner.queue.is_empty()) {
            (Some(socket), is_empty) if self.may_send_now(is_empty) => {
                self.send_now(socket, count, &message, counters)
            }
            _ => Sent::default(),
        };
        (outcome.error, outcome.is_full) = (error, full);
        for at in done..count {
            let mut kept = keep(at);
            if at == done && part > 0 {
                kept.payload = kept.payload.slice(part..);
            }
            outcome.dropped += inner.queue(kept, limits, &mut old);
        }
        inner.charge_queued();
        drop(inner);
        let dropped = old.0.iter().map(|it| it.message().count());
        counters.dropped.add(outcome.dropped + dropped.sum::<usize>());
        outcome
    }

    /// Sends a burst of what waits.
    pub(super) fn go_on(&self, counters: &Counters) -> Next {
        let mut done = Released::default();
        let mut inner = lock(&self.inner);
        self.blocked.store(false, Ordering::SeqCst);
        let Some(socket) = inner.socket.clone() else { return Next::Empty { is_sealed: true } };
        let count = inner.queue.len().min(BURST);
        let part = inner.part;
        let message = |at: usize| inner.queue[at].message().behind(if at == 0 { part } else { 0 });
        let sent = self.send_now(&socket, count, &message, counters);
        inner.remove(&sent, &mut done);
        inner.charge_queued();
        let (is_empty, is_sealed) = (inner.queue.is_empty(), inner.is_sealed);
        drop(inner);
        match (is_empty, sent.full) {
            (true, _) => Next::Empty { is_sealed },
            (false, true) => Next::Wait,
            (false, false) => Next::Again,
        }
    }

    /// Sends until all is done, or the kernel is known to say when it has room.
    fn send_now<'a>(
        &self,
        socket: &S,
        count: usize,
        message: &impl Fn(usize) -> Message<'a>,
        counters: &Counters,
    ) -> Sent {
        let mut all = Sent::default();
        with_envelopes(|envelopes| {
            loop {
                let (done, part) = (all.done, all.part);
                let sent = socket.send(envelopes, count - done, |at| {
                    message(done + at).behind(if at == 0 { part } else { 0 })
                });
                all.take(sent);
                if !all.full || self.mark() {
                    break;
                }
                // There may have been room before the mark was set, which no event says again.
                all.full = false;
            }
        });
        if !all.full {
            self.blocked.store(false, Ordering::SeqCst);
        }
        counters.sent.add(all.datagrams);
        counters.sent_bytes.add(all.bytes);
        counters.refused.add(all.refused);
        all
    }

    /// Notes that there is no room; says whether that was noted before, so that an event will tell.
    fn mark(&self) -> bool {
        let was_marked = self.blocked.swap(true, Ordering::SeqCst);
        #[cfg(all(test, loom))]
        let was_marked = was_marked || self.bug == loom_models::Bug::TriesOnce;
        was_marked
    }

    /// Whether a message may go to the kernel at once: nothing waits that it would overtake.
    #[inline]
    fn may_send_now(&self, is_empty: bool) -> bool {
        #[cfg(all(test, loom))]
        let is_empty = is_empty || self.bug == loom_models::Bug::Overtakes;
        is_empty && !self.is_blocked()
    }

    /// Whether the kernel had no room and has not said since that it has.
    #[inline]
    pub(super) fn is_blocked(&self) -> bool {
        self.blocked.load(Ordering::SeqCst)
    }

    /// How many datagrams wait, and their bytes.
    pub(super) fn queued(&self) -> (usize, usize) {
        let inner = lock(&self.inner);
        (inner.datagrams, inner.bytes)
    }

    /// Takes nothing from now on. Says whether nothing waits.
    pub(super) fn seal(&self) -> bool {
        let mut inner = self.lock();
        inner.is_sealed = true;
        inner.queue.is_empty()
    }

    /// Gives up its hold of the socket, and what waits, which is counted.
    pub(super) fn close(&self, counters: &Counters) {
        let mut inner = self.lock();
        inner.is_sealed = true;
        let socket = inner.socket.take();
        let queue = Released(std::mem::take(&mut inner.queue).into());
        let dropped = std::mem::take(&mut inner.datagrams);
        (inner.bytes, inner.part) = (0, 0);
        inner.charge = None;
        drop(inner);
        counters.dropped.add(dropped);
        drop((socket, queue));
    }

    /// The socket; `None` once it is closed.
    pub(super) fn socket(&self) -> Option<Arc<S>> {
        self.lock().socket.clone()
    }

    fn lock(&self) -> MutexGuard<'_, Inner<S>> {
        lock(&self.inner)
    }
}

impl<S> Inner<S> {
    /// Queues a message, as the limits say. Returns how many datagrams of it are dropped; their
    /// bytes are the caller's, too, so no user code runs at their drop.
    fn queue(&mut self, new: Queued, limits: &DatagramLimits, old: &mut Released) -> usize {
        let DatagramLimits { queued_bytes, queued_datagrams, when_full, .. } = *limits;
        let (count, len) = (new.message().count(), new.payload.len());
        if count > queued_datagrams || len > queued_bytes {
            return count;
        }
        while self.datagrams + count > queued_datagrams || self.bytes + len > queued_bytes {
            if when_full == WhenFull::DropNewest {
                return count;
            }
            self.drop_oldest(old);
        }
        self.datagrams += count;
        self.bytes += len;
        self.queue.push_back(new);
        0
    }

    fn drop_oldest(&mut self, old: &mut Released) {
        let Some(mut oldest) = self.queue.pop_front() else { return };
        oldest.payload = oldest.payload.slice(std::mem::take(&mut self.part)..);
        self.datagrams -= oldest.message().count();
        self.bytes -= oldest.payload.len();
        old.0.push(oldest);
    }

    /// Takes what was sent, or given up, out of the queue.
    fn remove(&mut self, sent: &Sent, done: &mut Released) {
        for _ in 0..sent.done {
            self.drop_oldest(done);
        }
        if sent.part > 0
            && let Some(first) = self.queue.front()
        {
            let message = first.message();
            let before = message.behind(self.part).count();
            let after = message.behind(self.part + sent.part).count();
            self.part += sent.part;
            self.datagrams -= before - after;
            self.bytes -= sent.part;
        }
    }

    fn charge_queued(&mut self) {
        if let Some(charge) = &mut self.charge {
            charge.resize(self.bytes);
        }
    }
}

#[cfg(all(test, loom))]
#[path = "outbox_models.rs"]
mod loom_models;
