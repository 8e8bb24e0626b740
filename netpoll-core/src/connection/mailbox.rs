//! The mailbox of a reactor: the queue of its commands, its waker and its counters.
//!
//! ```text
//!   other threads                      the thread that holds the core
//!   Remote::post ──► queue ──────────► takes all commands, once a turn
//!                └─► waker: ends the wait that the reactor is in
//! ```
//! It is on a floor below the reactor, so a connection posts commands without knowing what runs
//! them.

mod tasks;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};
use std::{fmt, io};

use super::group::ConnectionGroup;
use super::incoming::{Accept, Preamble};
use super::job::Job;
use super::shared::Shared;
use super::source::Source;
use crate::base::clock;
use crate::base::stats::{Counters, LoopStats, Traffic};
use crate::base::sync::{AtomicBool, AtomicUsize, Condvar, Mutex, Ordering, lock, wait_until};
use crate::io::listener::Listener;
use crate::io::waker::Waker;
use crate::pure::placement::LoopHistory;
use crate::pure::slab::Token;
use crate::pure::task::Events;
use crate::pure::tick::Tick;
use crate::pure::timer_entry::TimerEntry;
use tasks::Tasks;

/// A command to a reactor. Any thread may post it; the thread that holds the core runs it.
#[derive(Debug)]
pub(crate) enum Command {
    /// Watch this connection and start its callbacks.
    Register(Arc<Shared>),
    /// Run this connection, which is scheduled.
    Run(Arc<Shared>),
    /// Send more of what this connection has queued.
    Transmit(Token),
    /// Watch this source's socket and start its callbacks.
    Attach(Arc<dyn Source>),
    /// Close the socket of this source, which has ended. It stands behind the attachment.
    Detach(Arc<dyn Source>),
    /// Watch this source's socket for room, unless it has some by now.
    AwaitRoom(Arc<dyn Source>),
    /// Tell this source these events at that time.
    Alarm(Arc<dyn Source>, Instant, Events),
    /// A pool that had no room for a connection of this reactor has room again.
    Capacity,
    /// Close the socket of this connection, which has ended. It stands behind the registration.
    Finish(Arc<Shared>),
    /// End this connection's orderly close at that time.
    Linger(Token, Instant),
    /// Run this job of that connection at that time.
    Later(Arc<Shared>, Instant, Arc<Job>),
    /// Forget this job of that connection.
    Cancel(Arc<Shared>, usize),
    /// The time watch of this connection has changed: look when it is due next.
    TimeWatch(Arc<Shared>),
    /// Let this connection, for which memory was too short, try to receive again after a while.
    Retry(Token),
    /// Arm this timer of a future as it says now, or forget it.
    Timer(Arc<TimerEntry>),
    /// Tick, at that time for the first time.
    Tick(Instant, Tick),
    /// Close this group's connections when each has nothing left to serve.
    ShutDown(Arc<ConnectionGroup>),
    /// Close this group's connections now.
    Abort(Arc<ConnectionGroup>),
    /// End the preambles of this group: what has arrived by now completes them or not.
    EndPreambles(Arc<ConnectionGroup>),
    /// Accept on this listener.
    Listen(Arc<Listener>, Box<dyn Accept>),
    /// Watch a stream until its preamble is complete, or that time has come.
    Await(Box<dyn Preamble>, Instant),
    /// Stop accepting on this listener.
    Unlisten(Arc<Listener>),
    /// Make this call, on the thread that holds the core. Also where the reactor ends.
    Call(Call),
    /// Let the thread that holds the core look whether it has an order.
    Pause,
    /// Go on until the last connection has closed, then end.
    Retire,
    /// Close everything and end.
    Stop(Duration),
}

/// A call that a reactor makes: it is short, and does not block.
pub(crate) struct Call(Box<dyn FnOnce() + Send>);

impl Call {
    pub(crate) fn new(call: impl FnOnce() + Send + 'static) -> Self {
        Self(Box::new(call))
    }

    /// Makes the call.
    pub(crate) fn make(self) {
        (self.0)();
    }
}

impl fmt::Debug for Call {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Call")
    }
}

/// A reactor, as other threads use it.
///
/// Its methods never wait for the reactor: they post a command and wake it, for the price of a
/// short lock, and of a system call if the reactor sleeps.
#[derive(Debug)]
pub struct Remote {
    /// Which loop of its manager it is.
    number: usize,
    commands: Mutex<Commands>,
    ended: Condvar,
    waker: Waker,
    /// It has ended though nothing asked it to.
    failed: AtomicBool,
    /// Written by the thread that holds the core.
    pub(crate) counters: Counters,
    pub(crate) traffic: Traffic,
    /// What the callbacks of its connections have done lately.
    pub(crate) loop_history: LoopHistory,
    /// Connections that were given to it and are not closed. A connection counts from the moment
    /// that this loop was picked for it, before the reactor knows it: so a burst spreads evenly.
    load: AtomicUsize,
    /// Tasks were woken that the reactor has not taken. It changes under the lock of the commands.
    has_woken: AtomicBool,
    /// Groups with members here to whose broadcasts some of these members have yet to be sent.
    passes: AtomicUsize,
}

/// The commands that were posted and not taken. Their number is bounded: of each connection one
/// command at a time registers, runs, watches and finishes it, and each job, each tick of a user
/// and each timer of a future has one, as has each group of which it is a member.
#[derive(Debug, Default)]
struct Commands {
    list: VecDeque<Command>,
    tasks: Tasks,
    /// The reactor has ended: nothing would run a command.
    dead: bool,
    /// The reactor has done all that was left, and its thread returns.
    ended: bool,
    /// Why it ended, if nothing asked it to.
    failure: Option<io::Error>,
}

impl Remote {
    /// Makes the mailbox of loop `number`; `waker` wakes its reactor.
    pub(crate) fn new(number: usize, waker: Waker) -> Arc<Self> {
        Arc::new(Self {
            number,
            failed: AtomicBool::new(false),
            commands: Mutex::new(Commands::default()),
            ended: Condvar::new(),
            waker,
            counters: Counters::default(),
            loop_history: LoopHistory::default(),
            load: AtomicUsize::new(0),
            has_woken: AtomicBool::new(false),
            passes: AtomicUsize::new(0),
            traffic: Traffic::default(),
        })
    }

    /// A mailbox without a reactor, for tests.
    #[cfg(test)]
    pub(crate) fn alone() -> Arc<Self> {
        Self::new(0, crate::io::open().expect("a driver").1)
    }

    /// Queues a command and wakes the reactor, or gives it back when the reactor has ended.
    pub(crate) fn post(&self, command: Command) -> Result<(), Command> {
        let mut queue = lock(&self.commands);
        if queue.dead {
            return Err(command);
        }
        queue.list.push_back(command);
        drop(queue);
        self.wake();
        Ok(())
    }

    /// Ends the wait that the reactor is in: it turns.
    pub fn wake(&self) {
        self.waker.wake();
    }

    /// Closes each connection of `group` when it has nothing left to serve.
    pub fn shut_down(&self, group: &Arc<ConnectionGroup>) {
        drop(self.post(Command::ShutDown(group.clone())));
    }

    /// Closes the connections of `group` now; those inside a callback close when it returns.
    pub fn abort(&self, group: &Arc<ConnectionGroup>) {
        drop(self.post(Command::Abort(group.clone())));
    }

    /// Calls `tick` on the loop's thread, the first time after one period.
    pub(crate) fn tick(&self, tick: Tick) {
        drop(self.post(Command::Tick(tick.first(clock::now()), tick)));
    }

    /// Says that a pool has room again for connections that this reactor keeps for it.
    pub(crate) fn tell_of_capacity(&self) {
        drop(self.post(Command::Capacity));
    }

    /// Has the thread that holds the core look whether it has an order. `false`: the reactor has
    /// ended.
    pub(crate) fn pause(&self) -> bool {
        self.post(Command::Pause).is_ok()
    }

    /// Ends the reactor when its last connection has closed.
    pub(crate) fn retire(&self) {
        drop(self.post(Command::Retire));
    }

    /// Closes everything and ends the reactor, which waits up to `patience` for callbacks that
    /// still run on other threads. Returns at once.
    pub fn stop(&self, patience: Duration) {
        drop(self.post(Command::Stop(patience)));
    }

    /// Which loop of its manager it is; 0 for one without.
    pub fn number(&self) -> usize {
        self.number
    }

    /// Whether the reactor has ended though nothing asked it to: it must not be picked.
    pub(crate) fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Acquire)
    }

    /// What ends the reactor's waits.
    pub(crate) fn waker(&self) -> &Waker {
        &self.waker
    }

    /// For the reactor: takes all commands in exchange for an empty list.
    pub(crate) fn swap_commands(&self, empty: &mut VecDeque<Command>) {
        std::mem::swap(empty, &mut lock(&self.commands).list);
    }

    /// For the reactor: it takes no command from here on. Returns those that are left.
    pub(crate) fn close(&self) -> VecDeque<Command> {
        let mut queue = lock(&self.commands);
        queue.dead = true;
        std::mem::take(&mut queue.list)
    }

    /// For the reactor: all that it had to do is done.
    pub(crate) fn end(&self) {
        lock(&self.commands).ended = true;
        self.ended.notify_all();
    }

    /// Why the reactor ended, if nothing asked it to.
    pub(crate) fn take_failure(&self) -> Option<io::Error> {
        lock(&self.commands).failure.take()
    }

    #[cfg(all(test, not(loom)))]
    pub(crate) fn queue_capacity(&self) -> usize {
        lock(&self.commands).list.capacity()
    }

    pub(crate) fn fail(&self, error: io::Error) {
        lock(&self.commands).failure.get_or_insert(error);
        self.failed.store(true, Ordering::Release);
    }

    /// Whether the reactor has ended.
    pub fn has_ended(&self) -> bool {
        lock(&self.commands).ended
    }

    /// Waits until the reactor has ended or `deadline` has passed; returns whether it has ended.
    pub(crate) fn wait_ended(&self, deadline: Option<Instant>) -> bool {
        let mut queue = lock(&self.commands);
        let mut late = false;
        while !queue.ended && !late {
            (queue, late) = wait_until(&self.ended, queue, deadline);
        }
        queue.ended
    }

    /// What the reactor has done so far.
    pub fn stats(&self) -> LoopStats {
        self.counters.snapshot(&self.traffic)
    }
}

impl Remote {
    /// Accepts on `listener` until [`unlisten`](Self::unlisten) or the end of the reactor. `false`:
    /// the reactor has ended before, and the acceptor is dropped.
    pub fn listen(&self, listener: Arc<Listener>, accept: Box<dyn Accept>) -> bool {
        self.post(Command::Listen(listener, accept)).is_ok()
    }

    /// Stops accepting on `listener`; its acceptor is dropped.
    pub fn unlisten(&self, listener: &Arc<Listener>) {
        drop(self.post(Command::Unlisten(listener.clone())));
    }

    /// Has `preamble` look at its stream until it is complete, or the time is `late`. An ended
    /// reactor drops it.
    pub fn await_preamble(&self, preamble: Box<dyn Preamble>, late: Instant) {
        drop(self.post(Command::Await(preamble, late)));
    }

    /// Ends the preambles of a group that takes no more connections: a preamble is complete if its
    /// bytes have arrived.
    pub fn end_preambles(&self, group: &Arc<ConnectionGroup>) {
        drop(self.post(Command::EndPreambles(group.clone())));
    }

    /// Has the reactor ask its acceptors again how much room they have.
    pub fn tell_of_accept_room(&self) {
        self.wake();
    }

    /// How many connections it has, with those on their way to it.
    pub(crate) fn load(&self) -> usize {
        self.load.load(Ordering::Relaxed)
    }

    pub(crate) fn enter(&self) {
        self.load.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn leave(&self) {
        self.load.fetch_sub(1, Ordering::Relaxed);
    }

    /// Some of its connections have yet to be sent what was broadcast to a group.
    pub(crate) fn begin_pass(&self) {
        self.passes.fetch_add(1, Ordering::Release);
    }

    /// Undoes [`begin_pass`](Self::begin_pass).
    pub(crate) fn end_pass(&self) {
        self.passes.fetch_sub(1, Ordering::Release);
    }

    /// Whether one of its connections may have yet to be sent a broadcast. A thread that has
    /// broadcast before sees that.
    pub(crate) fn has_passes(&self) -> bool {
        self.passes.load(Ordering::Acquire) > 0
    }
}
