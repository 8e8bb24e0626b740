//! The writing side: what was written goes to the output of the connection, in its order.

use std::mem;
use std::sync::{Arc, MutexGuard};
use std::task::{Context, Poll, ready};

use netpoll_buffer::LinkBuffer;
use netpoll_core::{Error, Result, Wait};

use super::{AfterPoll, Shared, State};
use crate::failure::Failure;
use crate::waiter::Waiter;
use crate::waits::WaitTimer;

/// How many bytes one poll of the connection's own future writes at the most. Then others have
/// their turn: a future that can always write must not keep its loop.
const WRITTEN_IN_POLL: usize = 256 << 10;
/// The least that may be staged, so that small high-water marks cause no small sends.
const STAGED_AT_LEAST: usize = 64 << 10;

impl Shared {
    /// Waits until there is room below the high-water mark, and has `write` write. It is given how
    /// many bytes it may write, and returns how many it has written.
    pub(crate) fn poll_write(
        self: &Arc<Self>,
        context: &mut Context<'_>,
        timer: &mut WaitTimer,
        write: impl FnOnce(&mut LinkBuffer, usize) -> usize,
    ) -> Poll<Result<usize>> {
        let mut state = ready!(self.poll_state(context, timer, Self::has_room))?;
        let room = self.most_staged().saturating_sub(state.staged.malloc_len());
        let written = write(&mut state.staged, room);
        // Other threads add to it, too, and only a poll of the own future begins it anew.
        state.written_in_poll = state.written_in_poll.saturating_add(written);
        state.is_unanswered = false;
        drop(state);
        if !self.is_polled_here() {
            self.send_staged()?;
        }
        Poll::Ready(Ok(written))
    }

    /// Passes on what was written: the output of the connection sends it, at once if it can.
    pub(crate) fn poll_flush(
        self: &Arc<Self>,
        context: &mut Context<'_>,
        timer: &mut WaitTimer,
    ) -> Poll<Result<()>> {
        let state = ready!(self.poll_state(context, timer, |_, _| true))?;
        Poll::Ready(self.send_from(state))
    }

    /// Ends this side's stream behind all that was written.
    pub(crate) fn poll_shutdown(
        self: &Arc<Self>,
        context: &mut Context<'_>,
        timer: &mut WaitTimer,
    ) -> Poll<Result<()>> {
        if self.lock().is_write_ended {
            return Poll::Ready(Ok(()));
        }
        let mut state = ready!(self.poll_state(context, timer, |_, _| true))?;
        if self.handle.is_gone() {
            return Poll::Ready(Err(Error::Closed));
        }
        state.is_write_ended = true;
        drop(state);
        let sent = self.send_staged();
        self.handle.shutdown_write();
        Poll::Ready(sent)
    }

    /// Waits until no other thread sends for this connection and `is_ready` says so.
    fn poll_state(
        self: &Arc<Self>,
        context: &mut Context<'_>,
        timer: &mut WaitTimer,
        is_ready: impl Fn(&Arc<Self>, &State) -> bool,
    ) -> Poll<Result<MutexGuard<'_, State>>> {
        let mut is_stored = false;
        loop {
            let mut state = self.lock();
            if let Some(why) = state.write_failure() {
                return Poll::Ready(Err(why));
            }
            if state.is_write_ended {
                return Poll::Ready(Err(Error::Closed));
            }
            // Looked at once more after the waiter is stored: the output may have drained in
            // between, and told nobody.
            if !state.is_sending && is_ready(self, &state) {
                return Poll::Ready(Ok(state));
            }
            if is_stored {
                drop(state);
                return self.end_write(context, timer);
            }
            let is_own = self.is_own(context.waker());
            let before = state.writer.wait(context.waker(), is_own);
            is_stored = true;
            drop(state);
            drop(before);
        }
    }

    /// A write waits: for ever, or until the write deadline.
    fn end_write<T>(
        self: &Arc<Self>,
        context: &mut Context<'_>,
        timer: &mut WaitTimer,
    ) -> Poll<Result<T>> {
        let Some(until) = self.handle.write_deadline() else { return Poll::Pending };
        if !timer.is_over(until, context) {
            return Poll::Pending;
        }
        if self.has_socket_room() {
            // It waits for the end of this poll, or for another thread, and not for the peer.
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        let waiter = self.lock().writer.take();
        drop(waiter);
        Poll::Ready(Err(Error::TimedOut(Wait::Write)))
    }

    /// Sends what is staged, unless another thread is doing that. Then wakes the writer that waits
    /// for room, if there is some.
    pub(crate) fn send_staged(self: &Arc<Self>) -> Result<()> {
        let state = self.lock();
        if let Some(why) = state.write_failure() {
            return Err(why);
        }
        if state.is_sending {
            return Ok(());
        }
        self.send_from(state)
    }

    /// As [`send_staged`](Self::send_staged), for a callback after a poll; says what that has left.
    /// If the send fails, the connection keeps the cause, and ends by it.
    pub(crate) fn send_after_poll(self: &Arc<Self>) -> AfterPoll {
        let state = self.lock();
        if state.staged.malloc_len() == 0 && !state.writer.is_waiting() {
            return state.after_poll();
        }
        drop(state);
        drop(self.send_staged());
        self.after_poll()
    }

    /// Sends what is staged, for a thread that has found that no other one does.
    fn send_from<'a>(self: &'a Arc<Self>, mut state: MutexGuard<'a, State>) -> Result<()> {
        let mut sent = Ok(());
        if state.staged.malloc_len() > 0 {
            state.is_sending = true;
            let staged = mem::take(&mut state.staged);
            drop(state);
            // What is staged is bounded, and more is staged only below the mark.
            sent = self.handle.send_buffer(staged);
            state = self.lock();
            state.is_sending = false;
            if let Err(error) = &sent {
                state.send_failure.get_or_insert_with(|| Failure::of_error(error));
            }
        }
        let told = if self.has_socket_room() { state.writer.take() } else { Waiter::None };
        drop(state);
        self.tell(told);
        sent
    }

    /// For a callback: drops what was written since the last flush.
    pub(crate) fn drop_staged(&self) {
        let staged = mem::take(&mut self.lock().staged);
        drop(staged);
    }

    /// For a callback: the output has fallen below its low-water mark.
    pub(crate) fn drained(&self) {
        let writer = self.lock().writer.take();
        self.tell_in_callback(writer);
    }

    fn has_room(self: &Arc<Self>, state: &State) -> bool {
        let is_over_budget = state.written_in_poll >= WRITTEN_IN_POLL && self.is_polled_here();
        !is_over_budget && state.staged.malloc_len() < self.most_staged() && self.has_socket_room()
    }

    fn has_socket_room(&self) -> bool {
        !self.handle.is_congested()
    }

    fn most_staged(&self) -> usize {
        self.handle.high_water().max(STAGED_AT_LEAST)
    }
}

impl State {
    /// Why nothing more can be written. The end of the connection has dropped what was staged.
    fn write_failure(&self) -> Option<Error> {
        self.over.as_ref().or(self.send_failure.as_ref()).map(Failure::error)
    }
}
