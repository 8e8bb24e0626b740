//! The task: one atomic word that says which thread owns a connection, and the cell that its owner
//! may enter.
//!
//! ```text
//!            notify            begin               release, nothing new
//!    idle ───────────► scheduled ─────► running ───────────────────────► idle
//!                         ▲               │  ▲ │
//!                         └───────────────┘  └─┘ notify while running sets NOTIFIED:
//!                            reschedule          release fails, the owner looks again
//!                                         │
//!                                         └── close ──► closed, for good
//!
//!    bit  31 ............................ 4      3        2      1 0
//!        [ events, see `Events`            ][WAITING][NOTIFIED][state]
//! ```
//!
//! The thread that moves the word from scheduled to running, the *owner*, has the cell to itself
//! until it moves the word on. That one rule replaces the processing, connecting and closing locks
//! of `CloudWeGo` netpoll. An event that comes while the owner runs is never lost and never needs a
//! second thread: its bits and NOTIFIED are set in one step, and `release` succeeds only while
//! NOTIFIED is clear.

#![expect(unsafe_code, reason = "the cell: its exclusivity is what the word proves")]

use std::fmt;
use std::marker::PhantomData;
use std::ops::{BitOr, Deref, DerefMut};
use std::time::Instant;

use crate::base::sync::{AtomicU32, Condvar, Mutex, Ordering, UnsafeCell, lock, wait_until};

/// Messages to the owner of a connection, as bits of its word.
///
/// The owner takes a request back: [`READABLE`](Events::READABLE) as it looks, and
/// [`WAKE`](Events::WAKE), [`JOBS`](Events::JOBS), [`HIGH_WATER`](Events::HIGH_WATER) and
/// [`RESUMED`](Events::RESUMED) as it does what they ask for. These are states that end:
/// [`PAUSED`](Events::PAUSED), [`STALLED`](Events::STALLED), [`HELD`](Events::HELD),
/// [`WATCHED`](Events::WATCHED), [`PARTIAL`](Events::PARTIAL), [`FALTERED`](Events::FALTERED),
/// [`CALLERS`](Events::CALLERS). The other bits, once set, stay.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Events(u32);

impl Events {
    pub(crate) const NONE: Self = Self(0);
    /// The socket may have bytes. The owner takes it as it looks, *before* the read that may empty
    /// the socket, so that an edge in between is not lost.
    pub(crate) const READABLE: Self = Self(1 << 4);
    /// The peer ended its stream (FIN).
    pub(crate) const PEER_CLOSED: Self = Self(1 << 6);
    /// The socket failed or hung up.
    pub(crate) const FAILED: Self = Self(1 << 7);
    /// Either of the two: no bytes will come beyond those that the socket has.
    pub(crate) const PEER_GONE: Self = Self::PEER_CLOSED.or(Self::FAILED);
    /// From now on a pull may end before the stream is drained, though it says that it is.
    pub(crate) const IN_PIECES: Self = Self(1 << 14);
    /// `wake` was called: a callback is due.
    pub(crate) const WAKE: Self = Self(1 << 8);
    /// An orderly close was asked for.
    pub(crate) const CLOSE: Self = Self(1 << 9);
    /// The event loop shuts down: the connection closes when there is nothing left to serve.
    pub(crate) const SHUTDOWN: Self = Self(1 << 10);
    /// The connection is to close at once, whatever is left.
    pub(crate) const ABORT: Self = Self(1 << 11);
    /// The reactor has registered the connection: callbacks may start.
    pub(crate) const STARTED: Self = Self(1 << 12);
    /// The time that an orderly close may take is over.
    pub(crate) const LINGERED: Self = Self(1 << 13);
    /// The time watch found a time to be over: the connection closes at once.
    pub(crate) const EXPIRED: Self = Self(1 << 15);
    /// There are jobs to run.
    pub(crate) const JOBS: Self = Self(1 << 16);
    /// The output went above its high-water mark.
    pub(crate) const HIGH_WATER: Self = Self(1 << 17);
    /// Runs receive nothing until `resume_reading`.
    pub(crate) const PAUSED: Self = Self(1 << 18);
    /// The close is to be a reset.
    pub(crate) const RESET: Self = Self(1 << 20);
    /// A part of a request is buffered, and the rest is missing. The owner sets and clears it.
    pub(crate) const PARTIAL: Self = Self(1 << 21);
    /// Reading goes on after a pause: what is buffered is to be served.
    pub(crate) const RESUMED: Self = Self(1 << 22);
    /// The user has seen the descriptor and may have duplicated it: the socket may outlive us.
    pub(crate) const SHOWN: Self = Self(1 << 23);
    /// A read or a flush of the caller has failed. The owner sets and clears it.
    pub(crate) const FALTERED: Self = Self(1 << 25);
    /// The connection is in a relay, or its callback has just joined it to another one.
    pub(crate) const RELAYED: Self = Self(1 << 24);
    /// Work for the peer is under way elsewhere; see [`Hold`](crate::Hold). It changes under the
    /// lock of the extras, with their count.
    pub(crate) const HELD: Self = Self(1 << 26);
    /// Runs receive nothing until work that is under way elsewhere is done.
    pub(crate) const STALLED: Self = Self(1 << 27);
    /// A user's closure is to be called when the peer is gone. It changes under the lock of the
    /// extras, with their list.
    pub(crate) const WATCHED: Self = Self(1 << 31);
    /// Either of the two: runs receive nothing.
    pub(crate) const NOT_READ: Self = Self::PAUSED.or(Self::STALLED);
    /// The connection is a member of a group, or was: what is broadcast comes before what is sent.
    pub(crate) const MEMBER: Self = Self(1 << 28);
    /// The connection has reached its age, so it closes as in a shutdown.
    pub(crate) const AGED: Self = Self(1 << 29);
    /// The caller that dialled the connection owns it. For that owner alone.
    pub(crate) const CALLERS: Self = Self(1 << 5);
    /// A write that must not wait found the output congested: `on_request` is due when it is not
    /// any more. The owner sets and clears it.
    pub(crate) const AWAITS_ROOM: Self = Self(1 << 30);
    /// The close callbacks were taken: nothing more is kept for the connection. Set and looked at
    /// under the lock of its extras.
    pub(crate) const ENDED: Self = Self(1 << 19);
    /// Any of the three ends a wait: the connection is closed on this side.
    pub(crate) const OVER: Self = Self::CLOSE.or(Self::ABORT).or(Self::EXPIRED);

    /// `|`, for constants.
    pub(crate) const fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    pub(crate) fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    pub(crate) fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    pub(crate) fn has_any(self, of: Self) -> bool {
        self.0 & of.0 != 0
    }
}

impl BitOr for Events {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        self.or(other)
    }
}

impl fmt::Debug for Events {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Events({:#x})", self.0)
    }
}

const STATE: u32 = 0b11;
const IDLE: u32 = 0;
const SCHEDULED: u32 = 1;
const RUNNING: u32 = 2;
const CLOSED: u32 = 3;
const NOTIFIED: u32 = 1 << 2;
const WAITING: u32 = 1 << 3;

/// A connection's word, and the cell that it guards.
pub(crate) struct Task<T> {
    pub(crate) word: Word,
    cell: UnsafeCell<T>,
}

// SAFETY: only a `Run` reaches the cell, and the word allows one `Run` at a time; so `T` moves
// between threads, one after the other, which is what `Send` allows.
unsafe impl<T: Send> Sync for Task<T> {}

impl<T> Task<T> {
    /// Makes a scheduled task. The caller begins it, and so decides when it becomes idle.
    pub(crate) fn new(value: T) -> Self {
        Self { word: Word::new(SCHEDULED), cell: UnsafeCell::new(value) }
    }

    /// Takes the cell, if the task is scheduled. Only this and
    /// [`begin_and_look`](Self::begin_and_look) make a thread the owner.
    pub(crate) fn begin(&self) -> Option<Run<'_, T>> {
        self.word.begin(Events::NONE)?;
        Some(Run { task: self, value: PhantomData })
    }

    /// [`begin`](Self::begin) and the first [`look`](Run::look) in one step.
    pub(crate) fn begin_and_look(&self) -> Option<(Run<'_, T>, Events)> {
        let events = self.word.begin(Events::READABLE)?;
        Some((Run { task: self, value: PhantomData }, events))
    }
}

impl<T> fmt::Debug for Task<T> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Task").field("word", &self.word).finish_non_exhaustive()
    }
}

/// The proof that this thread owns a task's cell. One of its consuming methods must end it.
#[must_use = "a task that is not moved on stays running for ever"]
pub(crate) struct Run<'a, T> {
    task: &'a Task<T>,
    /// It lends out `&T`, so threads may share it only if they may share `T`.
    value: PhantomData<T>,
}

impl<'a, T> Run<'a, T> {
    /// Returns the events so far; events that come from now on make `release` fail. READABLE is
    /// taken out of the word, and the caller must remember it.
    pub(crate) fn look(&self) -> Events {
        self.task.word.look()
    }

    /// Gives the cell back, unless an event has come since the last `look`.
    pub(crate) fn release(self) -> Result<(), Self> {
        if self.task.word.release() { Ok(()) } else { Err(self) }
    }

    /// Gives the cell to the next `begin`; the caller sees to it that a thread calls that.
    pub(crate) fn reschedule(self) {
        self.task.word.hand_over(Events::NONE);
    }

    /// Gives the cell back whatever has happened: the bug that the models must find.
    #[cfg(all(test, loom))]
    pub(crate) fn release_blindly(self) {
        self.task.word.update(|now| (now & !(STATE | NOTIFIED)) | IDLE);
    }

    /// Leaves the task running, for an owner that goes on with the word alone: a dialled
    /// connection, which its caller drives until it calls [`Word::hand_over`].
    pub(crate) fn keep(self) -> &'a Word {
        &self.task.word
    }

    /// Ends the task: no later `begin` succeeds.
    pub(crate) fn close(self) {
        self.task.word.close();
    }

    fn pointer(&self) -> *mut T {
        self.task.cell.with_mut(|pointer| pointer)
    }
}

impl<T> Deref for Run<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: `begin` made this the only `Run` of the task, and it is the only one until a
        // method that consumes it moves the word out of running; the borrow of `self` ends
        // before that.
        unsafe { &*self.pointer() }
    }
}

impl<T> DerefMut for Run<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as in `deref`; `&mut self` makes this the only borrow through this `Run`.
        unsafe { &mut *self.pointer() }
    }
}

/// The word alone, and the lock under which its owner waits for events.
pub(crate) struct Word {
    bits: AtomicU32,
    parked: Mutex<()>,
    unpark: Condvar,
}

impl Word {
    fn new(state: u32) -> Self {
        Self { bits: AtomicU32::new(state), parked: Mutex::new(()), unpark: Condvar::new() }
    }

    /// Adds events. `true`: the task was idle and is now scheduled, and the caller must see to it
    /// that a thread begins it.
    pub(crate) fn notify(&self, events: Events) -> bool {
        let before = self.update(|now| match now & STATE {
            IDLE => (now & !STATE) | SCHEDULED | events.0,
            RUNNING => now | NOTIFIED | events.0,
            _ => now | events.0,
        });
        if before & WAITING != 0 {
            // The owner checks the bits under this lock before it sleeps, so it either saw ours or
            // is asleep by now.
            drop(lock(&self.parked));
            self.unpark.notify_all();
        }
        before & STATE == IDLE
    }

    /// The events so far.
    pub(crate) fn events(&self) -> Events {
        Events(self.bits.load(Ordering::Acquire))
    }

    /// Whether the task has ended.
    pub(crate) fn is_closed(&self) -> bool {
        self.bits.load(Ordering::Acquire) & STATE == CLOSED
    }

    /// Clears these events, and returns those that were set. For the owner; other threads may only
    /// clear what no owner waits for, such as [`Events::PAUSED`].
    pub(crate) fn clear(&self, events: Events) -> Events {
        if !self.events().has_any(events) {
            return Events::NONE;
        }
        Events(self.bits.fetch_and(!events.0, Ordering::AcqRel) & events.0)
    }

    /// Adds events without scheduling the task: the owner has found them itself, or will see them
    /// when it looks next.
    pub(crate) fn note(&self, events: Events) {
        if events != Events::NONE {
            self.bits.fetch_or(events.0, Ordering::AcqRel);
        }
    }

    /// Waits until one of `events` is set or the deadline has passed, and returns those that are
    /// set. It asks for the deadline again after each [`nudge`](Self::nudge). For the owner, on a
    /// thread that has [entered](crate::base::blocking::enter) a wait.
    pub(crate) fn wait(&self, events: Events, deadline: impl Fn() -> Option<Instant>) -> Events {
        let already = self.bits.fetch_or(WAITING, Ordering::AcqRel);
        let mut guard = lock(&self.parked);
        let mut now = Events(already & events.0);
        let mut late = false;
        while now == Events::NONE && !late {
            now = Events(self.bits.load(Ordering::Acquire) & events.0);
            if now == Events::NONE {
                (guard, late) = wait_until(&self.unpark, guard, deadline());
            }
        }
        drop(guard);
        let end = self.bits.fetch_and(!WAITING, Ordering::AcqRel);
        Events(end & events.0)
    }

    /// Makes a thread in `wait` ask for its deadline again.
    pub(crate) fn nudge(&self) {
        // A waiter that isn't seen here has not asked yet, and will find what the caller has
        // changed: both take the lock that guards the deadline.
        if self.bits.load(Ordering::Acquire) & WAITING != 0 {
            drop(lock(&self.parked));
            self.unpark.notify_all();
        }
    }

    /// Whether a thread works for the connection: it runs and waits for no event, or is about to.
    pub(crate) fn is_busy(&self) -> bool {
        let bits = self.bits.load(Ordering::Acquire);
        bits & STATE == SCHEDULED || bits & (STATE | WAITING) == RUNNING
    }

    /// Moves running to scheduled and adds events; the caller passes the task on. For the owner.
    pub(crate) fn hand_over(&self, events: Events) {
        self.update(|now| (now & !(STATE | NOTIFIED)) | SCHEDULED | events.0);
    }

    /// Moves scheduled to running and clears the events of `taken`. Returns the events before that.
    fn begin(&self, taken: Events) -> Option<Events> {
        let mut now = self.bits.load(Ordering::Relaxed);
        while now & STATE == SCHEDULED {
            let next = (now & !(STATE | taken.0)) | RUNNING;
            match self.bits.compare_exchange_weak(now, next, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => return Some(Events(now)),
                Err(changed) => now = changed,
            }
        }
        None
    }

    fn look(&self) -> Events {
        const TAKEN: u32 = NOTIFIED | Events::READABLE.0;
        let now = self.bits.load(Ordering::Acquire);
        if now & TAKEN == 0 {
            return Events(now);
        }
        Events(self.bits.fetch_and(!TAKEN, Ordering::AcqRel))
    }

    fn release(&self) -> bool {
        let mut now = self.bits.load(Ordering::Relaxed);
        while now & NOTIFIED == 0 {
            let next = (now & !STATE) | IDLE;
            match self.bits.compare_exchange_weak(now, next, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => return true,
                Err(changed) => now = changed,
            }
        }
        false
    }

    fn close(&self) {
        self.bits.fetch_or(CLOSED, Ordering::AcqRel);
    }

    fn update(&self, change: impl Fn(u32) -> u32) -> u32 {
        let mut now = self.bits.load(Ordering::Relaxed);
        loop {
            match self.bits.compare_exchange_weak(
                now,
                change(now),
                Ordering::AcqRel,
                Ordering::Relaxed,
            ) {
                Ok(before) => return before,
                Err(changed) => now = changed,
            }
        }
    }
}

impl fmt::Debug for Word {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bits = self.bits.load(Ordering::Relaxed);
        let state = ["idle", "scheduled", "running", "closed"][(bits & STATE) as usize];
        write!(out, "{state}, bits {bits:#x}")
    }
}

#[cfg(test)]
#[path = "task_tests.rs"]
mod tests;
