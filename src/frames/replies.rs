//! The replies of one connection that are under way: how many, and, where they leave in the order
//! of their requests, what waits for its turn.
//!
//! ```text
//!   in any order    Reply::send ──────────────────────────────────► the connection's output
//!
//!   in order        defer, send ──► queue  Ready Awaited Ready Awaited
//!                   Reply::send ─────────────────┴── becomes Ready
//!                   the ready places at the front ────────────────► the output, by one thread
//!                                                                   at a time, without the lock
//! ```
//! The lock is held for a few instructions, and never while something is sent: a send may run
//! receipts, which may complete a reply of the same connection.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use netpoll_buffer::LinkBuffer;
use netpoll_core::{Error, Handle, Hold, Result};

/// How the frames of a server are answered later.
#[derive(Debug, Clone, Copy)]
pub(super) struct ReplyOptions {
    /// How many replies of one connection may be outstanding before no more frames are decoded.
    pub(super) outstanding_max: usize,
    /// Frames leave in the order of the calls of `send` and `defer`.
    pub(super) in_order: bool,
}

/// See the module. Made by the first `defer` of a connection.
pub(super) struct Replies {
    handle: Handle,
    options: ReplyOptions,
    state: Mutex<RepliesState>,
}

#[derive(Default)]
struct RepliesState {
    outstanding: usize,
    /// Held while an answer is outstanding, or waits in the queue.
    hold: Option<Hold>,
    /// No frame is decoded until then.
    stalled: Option<Until>,
    /// In order only: what has not left yet, from the place with the number `first`.
    queue: VecDeque<Place>,
    first: u64,
    /// How many bytes are in the queue.
    queued: usize,
    /// A thread has taken ready places out, and sends them.
    sending: bool,
    /// A send has failed, so nothing more leaves.
    broken: bool,
}

enum Place {
    Ready(LinkBuffer),
    Awaited,
}

/// What a connection waits for before it decodes another frame.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Until {
    Room,
    /// All has left: the connection closes then.
    AllLeft,
}

impl Replies {
    pub(super) fn new(handle: Handle, options: ReplyOptions) -> Self {
        Self { handle, options, state: Mutex::default() }
    }

    pub(super) fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Whether frames leave in order.
    pub(super) fn in_order(&self) -> bool {
        self.options.in_order
    }

    /// Begins a reply; returns the number of its place.
    pub(super) fn begin(&self) -> u64 {
        let mut state = self.lock();
        state.outstanding += 1;
        if state.hold.is_none() {
            // A connection that has ended needs no hold: the send of the reply says so.
            state.hold = self.handle.hold().ok();
        }
        let place = state.first + state.queue.len() as u64;
        if self.options.in_order && !state.broken {
            state.queue.push_back(Place::Awaited);
        }
        place
    }

    /// In order only: whether frames that are written now have to wait for others.
    pub(super) fn is_queueing(&self) -> bool {
        let state = self.lock();
        !state.queue.is_empty() || state.sending
    }

    /// In order only: frames behind all others; [`send_ready`](Self::send_ready) is to follow.
    pub(super) fn push(&self, mut frames: LinkBuffer) {
        frames.flush();
        let mut state = self.lock();
        if state.broken || frames.is_empty() {
            return;
        }
        state.queued += frames.len();
        match state.queue.back_mut() {
            Some(Place::Ready(last)) => {
                last.append(frames);
                last.flush();
            }
            _ => state.queue.push_back(Place::Ready(frames)),
        }
    }

    /// Completes the reply at `place` by `frame`.
    pub(super) fn complete(&self, place: u64, mut frame: LinkBuffer) -> Result<()> {
        frame.flush();
        let sent = if self.options.in_order {
            self.fill(place, frame).and_then(|()| self.send_ready())
        } else {
            self.handle.send_buffer(frame)
        };
        self.end_one();
        sent
    }

    /// Ends the reply at `place` without an answer: the connection closes for that reason.
    pub(super) fn give_up(&self, error: Error) {
        // If the connection has ended, nothing is left to close.
        let _ = self.handle.run(move |_| Err(error));
        self.break_off(&mut self.lock());
        self.end_one();
    }

    /// In order only: sends what is ready at the front. If another thread sends, that one goes on
    /// with what has become ready meanwhile.
    pub(super) fn send_ready(&self) -> Result<()> {
        loop {
            let mut state = self.lock();
            if state.sending {
                return Ok(());
            }
            let Some(ready) = state.take_ready() else { return Ok(()) };
            state.sending = true;
            drop(state);
            // What the callback has written since stands behind these, and is not in the queue yet.
            let sent = self.handle.send_ahead(ready);
            let mut state = self.lock();
            state.sending = false;
            if sent.is_err() {
                self.break_off(&mut state);
                return sent;
            }
        }
    }

    /// After something has left: lets the connection go on, or go.
    pub(super) fn go_on(&self) {
        let mut state = self.lock();
        let all_left = state.all_left();
        let goes_on = match state.stalled {
            Some(Until::Room) => !self.is_full(&state),
            Some(Until::AllLeft) => all_left,
            None => false,
        };
        if goes_on {
            state.stalled = None;
        }
        let hold = if all_left { state.hold.take() } else { None };
        drop(state);
        if goes_on {
            self.handle.unstall();
        }
        // Last: the callback that is due now must find the connection still there.
        drop(hold);
    }

    /// Whether the next frame has to wait. If so, nothing is received until it need not, and
    /// `on_request` runs then.
    pub(super) fn must_wait(&self) -> bool {
        let mut state = self.lock();
        if state.stalled.is_none() && self.is_full(&state) {
            self.stall(&mut state, Until::Room);
        }
        state.stalled.is_some()
    }

    /// Whether all has left. If not, `on_request` runs when it has.
    pub(super) fn have_left(&self) -> bool {
        let mut state = self.lock();
        let all_left = state.all_left();
        if !all_left {
            self.stall(&mut state, Until::AllLeft);
        }
        all_left
    }

    fn fill(&self, place: u64, frame: LinkBuffer) -> Result<()> {
        let state = &mut *self.lock();
        if state.broken || self.handle.is_gone() {
            return Err(Error::Closed);
        }
        let index = usize::try_from(place.wrapping_sub(state.first)).unwrap_or(usize::MAX);
        if let Some(place) = state.queue.get_mut(index) {
            state.queued += frame.len();
            *place = Place::Ready(frame);
        }
        Ok(())
    }

    fn end_one(&self) {
        self.lock().outstanding -= 1;
        self.go_on();
    }

    fn stall(&self, state: &mut RepliesState, until: Until) {
        state.stalled = Some(until);
        self.handle.stall();
    }

    fn is_full(&self, state: &RepliesState) -> bool {
        state.outstanding >= self.options.outstanding_max || state.queued > self.handle.high_water()
    }

    /// Nothing more leaves.
    fn break_off(&self, state: &mut RepliesState) {
        if self.options.in_order {
            state.broken = true;
            state.queue.clear();
            state.queued = 0;
        }
    }

    fn lock(&self) -> MutexGuard<'_, RepliesState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl RepliesState {
    fn all_left(&self) -> bool {
        self.outstanding == 0 && self.queue.is_empty() && !self.sending
    }

    /// The ready places at the front, as one buffer.
    fn take_ready(&mut self) -> Option<LinkBuffer> {
        let mut ready: Option<LinkBuffer> = None;
        while let Some(Place::Ready(_)) = self.queue.front() {
            if let Some(Place::Ready(frames)) = self.queue.pop_front() {
                self.first += 1;
                self.queued -= frames.len();
                match &mut ready {
                    Some(ready) => ready.append(frames),
                    none => *none = Some(frames),
                }
            }
        }
        if let Some(ready) = &mut ready {
            ready.flush();
        }
        ready
    }
}

impl fmt::Debug for Replies {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.lock();
        out.debug_struct("Replies")
            .field("outstanding", &state.outstanding)
            .field("queued", &state.queued)
            .finish_non_exhaustive()
    }
}
