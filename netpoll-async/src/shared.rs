//! What a stream object and the callbacks of its connection share.
//!
//! ```text
//!     callbacks of the connection (session.rs)        the stream object (halves.rs), in the
//!        Connection ── feed ──► input ─────────────►  connection's own future, in another task,
//!                               end                   or on a thread of another runtime
//!        Handle ◄─ send_staged ── staged ◄──────────
//!                               reader, writer: which task waits
//! ```
//! The bytes stay in their blocks. `feed` takes from the connection only what a reader waits for,
//! so what nobody reads stays in the kernel. What is written inside a poll of the connection's own
//! future is staged, and leaves with a flush or at the end of the poll; elsewhere each write leaves
//! at once.
//!
//! The lock is held for some moves of pointers: never during a system call, and no waker is woken
//! or dropped under it.

pub(crate) mod reading;
mod writing;

use std::cell::Cell;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Wake, Waker};

use netpoll_buffer::LinkBuffer;
use netpoll_core::{Handle, Woken};

use crate::failure::Failure;
use crate::signal::{Signal, Signalled};
use crate::waiter::Waiter;

/// See the module.
pub(crate) struct Shared {
    pub(crate) handle: Handle,
    /// The connection's own future was woken, and not polled since. Wakes before the next poll are
    /// one.
    woken: Woken,
    state: Mutex<State>,
}

/// See the module.
#[derive(Default)]
pub(crate) struct State {
    /// What has come and was not taken by the reader.
    input: LinkBuffer,
    /// What stands behind `input`.
    end: Option<End>,
    reader: Waiter,
    /// Bytes were left in the connection, which receives nothing more until a reader waits.
    is_stalled: bool,
    /// Bytes were given to the reader, and nothing was written since.
    is_unanswered: bool,
    /// A run has looked into the socket for the reader, and found nothing.
    has_looked: bool,
    /// The time of the reader is over: it is to be woken by such a look.
    asks_look: bool,
    /// How many [`TakenCounts`](crate::TakenCounts) there are.
    taken_counts: u32,

    /// What was written and not sent: flushed bytes, then those that were not flushed.
    staged: LinkBuffer,
    /// A thread has taken what was staged, and is sending it: what others write must wait.
    is_sending: bool,
    writer: Waiter,
    /// The bytes written since the callback fed the reader, which it does before it polls the
    /// connection's own future.
    written_in_poll: usize,
    is_write_ended: bool,
    /// Why a send has failed, perhaps on another thread than the writer's.
    send_failure: Option<Failure>,

    /// The halves of the stream object that are left.
    halves: u8,
    is_shutting_down: bool,
    /// Raised when a shutdown begins. A future that has asked for it
    /// ends its work by itself.
    shutdown: Option<Signal>,
    /// The connection has ended, for this reason.
    over: Option<Failure>,
}

/// How the peer's stream ended.
#[derive(Debug, Clone)]
pub(crate) enum End {
    /// In order; or a shutdown has begun, and nothing was under way.
    Finished,
    Failed(Failure),
}

thread_local! {
    /// The address of the `Shared` whose connection's own future this thread polls; 0 without one.
    static POLLED: Cell<usize> = const { Cell::new(0) };
}

impl Shared {
    pub(crate) fn new(handle: Handle) -> Arc<Self> {
        let state = State { halves: 2, ..State::default() };
        Arc::new(Self { handle, woken: Woken::new(), state: Mutex::new(state) })
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        // No user code runs under the lock, so a poisoned state is whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Calls `poll` as a poll of the connection's own future.
    pub(crate) fn as_its_own<R>(self: &Arc<Self>, poll: impl FnOnce() -> R) -> R {
        /// Also after a panic.
        struct Before(usize);

        impl Drop for Before {
            fn drop(&mut self) {
                POLLED.set(self.0);
            }
        }

        let _before = Before(POLLED.replace(self.address()));
        poll()
    }

    /// Whether this thread polls the connection's own future.
    fn is_polled_here(self: &Arc<Self>) -> bool {
        POLLED.get() == self.address()
    }

    /// Whether `waker` is that of the connection's own future. Its data is the address of this
    /// value, and no other waker has that.
    fn is_own(self: &Arc<Self>, waker: &Waker) -> bool {
        waker.data().addr() == self.address()
    }

    fn address(self: &Arc<Self>) -> usize {
        Arc::as_ptr(self).addr()
    }

    /// Whether the connection's own future is to be polled. Forgets it.
    pub(crate) fn take_woken(&self) -> bool {
        self.woken.take()
    }

    /// Wakes a waiter, from any thread.
    fn tell(self: &Arc<Self>, waiter: Waiter) {
        match waiter {
            Waiter::None => {}
            Waiter::Own => self.wake_by_ref(),
            Waiter::Other(waker) => waker.wake(),
        }
    }

    /// The same in a callback of the connection, which then asks [`take_woken`](Self::take_woken).
    fn tell_in_callback(&self, waiter: Waiter) {
        match waiter {
            Waiter::None => {}
            Waiter::Own => self.woken.note(),
            Waiter::Other(waker) => waker.wake(),
        }
    }

    /// The connection has ended. All waiters are woken, and each later call fails.
    pub(crate) fn end(&self, why: Failure) {
        let mut state = self.lock();
        if state.over.is_some() {
            return;
        }
        state.over = Some(why);
        let staged = std::mem::take(&mut state.staged);
        let (reader, writer) = (state.reader.take(), state.writer.take());
        let asked = state.shutdown.clone();
        drop(state);
        drop(staged);
        self.woken.note();
        self.tell_in_callback(reader);
        self.tell_in_callback(writer);
        asked.iter().for_each(Signal::raise);
    }

    /// For a callback: what limits the waits has changed. Those that wait look at it.
    pub(crate) fn tell_waits(&self) {
        let mut state = self.lock();
        let (reader, writer) = (state.reader.take(), state.writer.take());
        drop(state);
        self.tell_in_callback(reader);
        self.tell_in_callback(writer);
    }

    /// Has taken bytes count as a part of a request, or one less do so.
    pub(crate) fn count_taken(&self, counts: bool) {
        let mut state = self.lock();
        if counts {
            state.taken_counts += 1;
            return;
        }
        state.taken_counts -= 1;
        if state.taken_counts == 0 {
            self.handle.set_partial(false);
        }
    }

    /// A shutdown has begun. Wakes the futures that have asked for it.
    pub(crate) fn begin_shutdown(&self) {
        let mut state = self.lock();
        state.is_shutting_down = true;
        let asked = state.shutdown.clone();
        drop(state);
        asked.iter().for_each(Signal::raise);
    }

    /// What is raised when a shutdown begins, or the connection ends.
    pub(crate) fn shutting_down(&self) -> Signalled {
        let mut state = self.lock();
        let is_raised = state.is_shutting_down || state.over.is_some();
        let signal = state.shutdown.get_or_insert_default().clone();
        drop(state);
        if is_raised {
            signal.raise();
        }
        signal.wait()
    }

    /// A half of the stream object is dropped. Returns whether it was the last.
    pub(crate) fn drop_half(self: &Arc<Self>) {
        let mut state = self.lock();
        state.halves -= 1;
        let is_last = state.halves == 0;
        let (reader, writer) = if is_last {
            (state.reader.take(), state.writer.take())
        } else {
            (Waiter::None, Waiter::None)
        };
        let input = if is_last { std::mem::take(&mut state.input) } else { LinkBuffer::new() };
        drop(state);
        drop((reader, writer, input));
        if is_last && !self.is_polled_here() {
            // The callback closes the connection.
            self.handle.wake();
        }
    }

    /// What a callback has to know after a poll.
    pub(crate) fn after_poll(&self) -> AfterPoll {
        self.lock().after_poll()
    }
}

/// See [`Shared::after_poll`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct AfterPoll {
    /// A reader waits for bytes.
    pub(crate) is_reading: bool,
    /// The stream object is gone.
    pub(crate) is_dropped: bool,
    /// A shutdown has begun, and the connection waits for its next request.
    pub(crate) may_end: bool,
}

impl State {
    fn after_poll(&self) -> AfterPoll {
        AfterPoll {
            is_reading: self.reader.is_waiting(),
            is_dropped: self.halves == 0,
            may_end: self.may_end_idle(),
        }
    }

    /// Whether a shutdown ends the input: a reader waits, nothing that came is unanswered, and
    /// nobody has asked to be told of the shutdown.
    fn may_end_idle(&self) -> bool {
        self.is_shutting_down
            && self.shutdown.is_none()
            && !self.is_unanswered
            && self.reader.is_waiting()
            && self.end.is_none()
    }
}

/// The waker of the connection's own future. A wake notes that, and has the callbacks run.
impl Wake for Shared {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.woken.wake() {
            self.handle.wake();
        }
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.handle.fmt(out)
    }
}
