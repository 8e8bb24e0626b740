//! The reading side: bytes from the connection to the reader that waits for them.

use std::mem;
use std::sync::Arc;
use std::task::{Context, Poll};

use netpoll_buffer::LinkBuffer;
use netpoll_core::{Connection, Error, Reader, Result, Wait};

use super::{End, Shared, State};
use crate::failure::Failure;
use crate::waiter::Waiter;
use crate::waits::ReadWait;

impl Shared {
    /// Waits until there are bytes, and moves them behind those of `input`; `false` at the end of
    /// the stream. `is_within`: the reader has consumed a part of what it waits for.
    pub(crate) fn poll_input(
        self: &Arc<Self>,
        context: &mut Context<'_>,
        input: &mut LinkBuffer,
        wait: &mut ReadWait,
        is_within: bool,
    ) -> Poll<Result<bool>> {
        // An idle connection keeps no block that a read has lent out. Before the lock: a part of
        // the buffer may be the user's, and its drop is the user's code.
        input.release();
        let mut state = self.lock();
        if let Some(outcome) = state.take_input(input) {
            return Poll::Ready(outcome);
        }
        let is_own = self.is_own(context.waker());
        let before = state.reader.wait(context.waker(), is_own);
        let is_stalled = mem::take(&mut state.is_stalled);
        let may_end = state.may_end_idle() && !self.is_polled_here();
        let is_partial = is_within || !input.is_empty() || state.counts_taken();
        self.handle.set_partial(is_partial);
        drop(state);
        drop(before);
        if is_stalled {
            self.handle.unstall();
        } else if may_end {
            self.handle.wake();
        }
        if wait.is_over(&self.handle, context) { self.end_read(input) } else { Poll::Pending }
    }

    /// The time of a read is over. It fails once the run has looked into the socket: what has come
    /// is read without a wait.
    fn end_read(self: &Arc<Self>, input: &mut LinkBuffer) -> Poll<Result<bool>> {
        let mut state = self.lock();
        if let Some(outcome) = state.take_input(input) {
            return Poll::Ready(outcome);
        }
        if !mem::take(&mut state.has_looked) {
            state.asks_look = true;
            drop(state);
            self.handle.wake();
            return Poll::Pending;
        }
        let waiter = state.reader.take();
        self.handle.set_partial(false);
        drop(state);
        drop(waiter);
        Poll::Ready(Err(Error::TimedOut(Wait::Read)))
    }

    /// For a callback: moves what has come to the reader, if one waits, and wakes it. What nobody
    /// waits for stays, and nothing more is received. A shutdown ends the input of an idle
    /// connection only after the run has looked into the socket.
    pub(crate) fn feed(&self, connection: &mut Connection, has_looked: bool) {
        let mut reader = connection.reader();
        let mut state = self.lock();
        state.written_in_poll = 0;
        if !state.reader.is_waiting() {
            state.has_looked = false;
            state.note_end(&mut reader);
            if !reader.is_empty() && !mem::replace(&mut state.is_stalled, true) {
                self.handle.stall();
            }
            return;
        }
        let is_fed = state.take_from(&mut reader, has_looked);
        if is_fed {
            self.handle.set_partial(false);
        }
        state.has_looked |= has_looked;
        let is_told = is_fed || (has_looked && mem::take(&mut state.asks_look));
        let told = if is_told { state.reader.take() } else { Waiter::None };
        drop(state);
        self.tell_in_callback(told);
    }
}

impl State {
    /// What a read finds without a wait.
    fn take_input(&mut self, input: &mut LinkBuffer) -> Option<Result<bool>> {
        if !self.input.is_empty() {
            (self.has_looked, self.asks_look) = (false, false);
            if input.is_empty() {
                mem::swap(input, &mut self.input);
            } else {
                input.append(mem::take(&mut self.input));
                input.flush();
            }
            return Some(Ok(true));
        }
        match (&self.end, &self.over) {
            (Some(End::Finished), _) => Some(Ok(false)),
            (Some(End::Failed(why)), _) | (None, Some(why)) => Some(Err(why.error())),
            (None, None) => None,
        }
    }

    /// Takes what the connection has for a reader that waits; whether there was anything.
    fn take_from(&mut self, reader: &mut Reader<'_>, has_looked: bool) -> bool {
        let has_bytes = !reader.is_empty();
        // All that is buffered is there.
        if has_bytes && let Ok(bytes) = reader.slice(reader.len()) {
            self.input.append(bytes);
            self.input.flush();
            self.is_unanswered = true;
        }
        self.note_end(reader);
        if has_looked && !has_bytes && self.may_end_idle() {
            self.end = Some(End::Finished);
        }
        has_bytes || self.end.is_some()
    }

    /// Whether what was taken is a part of a request, though the reader keeps none of it.
    fn counts_taken(&self) -> bool {
        self.taken_counts > 0 && self.is_unanswered
    }

    /// Notes the end of a stream that was read out. It is announced once, whether or not anybody
    /// waits then.
    fn note_end(&mut self, reader: &mut Reader<'_>) {
        if self.end.is_none() && reader.is_finished() {
            self.end = end_of(reader);
        }
    }
}

/// How the stream of a reader that has come to its end has ended.
fn end_of(reader: &mut Reader<'_>) -> Option<End> {
    match reader.try_peek(1) {
        Err(Error::EndOfStream) => Some(End::Finished),
        Ok(_) | Err(Error::WouldBlock) => None,
        Err(error) => Some(End::Failed(Failure::of_error(&error))),
    }
}
