//! A reactor: its core, which is one owned value, and one turn of it.
//!
//! ```text
//!   other threads                       the thread that holds the core
//!   ┌────────┐ post   ┌──────────────┐  ┌──────────────────────────────────────────────┐
//!   │ Remote ├───────►│ commands     ├─►│ Core  driver ─► events ─► operators (by token)│
//!   └────────┘ wake   │ waker        │  │       ready   scheduled, to be run            │
//!                     └──────────────┘  │       timers  given the time                  │
//!                                       └──────────────────────────────────────────────┘
//! ```
//!
//! A turn, in order: wait → for each event of a stream, deliver it and run the connection that it
//! scheduled → run the connections that had used up their budget → pass accepted streams on → run
//! the commands of other threads, which also close streams → timers. [`Core::next`] is that turn.
//! It leaves nothing on the stack while a connection is run: the rest of the batch, the ready list
//! and the timers are in the core, so another thread that takes the core can go on. `Remote` stands
//! in `connection/mailbox.rs`.

mod delivery;
mod ending;
mod listeners;
pub(crate) mod nest;
mod registry;
mod sources;
mod spinning;
mod timers;
mod waiting;

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::base::clock;
use crate::connection::Shared;
use crate::connection::group::ConnectionGroup;
use crate::connection::mailbox::{Command, Remote};
use crate::connection::scheduled::Scheduled;
use crate::io::driver::{Driver, DriverEvents};
use crate::io::readiness::{Readiness, StreamEvent};
use crate::io::waker::Waker;
use crate::pure::slab::{Slab, Token};
use crate::pure::spin::{Spin, Spinner};
use crate::pure::streak::Streak;
use crate::pure::task::Events;
use crate::pure::timer::Timers;
use registry::{FdOperator, StreamOperator, TimerId};
use timers::Action;
use waiting::FailedWaits;

/// How soon connections for which a pool had no capacity are tried again, even if no command says
/// that it has.
const CAPACITY_RETRY: Duration = Duration::from_millis(50);

/// So many tasks that others woke are run in one turn, those woken meanwhile included. Two tasks
/// that wake each other again and again do not pay for a wait at each step, and the connections of
/// the loop do not wait for longer than that.
const WOKEN_PER_TURN: u32 = 64;
/// So many of them may be run in one stretch with the core put down. To the monitor they are one
/// callback, so together they must not look like one that computes for long.
const WOKEN_AT_ONCE: u32 = 8;

/// A queue of commands with room for more than these gives its memory back when it is empty.
const COMMANDS_KEPT: usize = 1024;

/// All that a reactor owns, in one value that may move between threads.
#[derive(Debug)]
pub(crate) struct Core {
    remote: Arc<Remote>,
    driver: Box<dyn Driver>,
    operators: Slab<FdOperator>,
    /// The operators that are listeners.
    listeners: Vec<Token>,
    /// All acceptors had room for any number of connections, so they need not be asked again.
    all_unlimited: bool,
    events: DriverEvents,
    /// Scheduled tasks that wait for a turn; `due` of them have it now.
    ready: VecDeque<Scheduled>,
    due: usize,
    streak: Streak,
    /// Tasks that others woke, taken from the mailbox. So many of them are still run in this turn.
    woken: VecDeque<Scheduled>,
    woken_budget: u32,
    /// Scheduled tasks that wait for the capacity of a pool.
    crowded: Vec<Scheduled>,
    commands: VecDeque<Command>,
    timers: Timers<Action>,
    streams: usize,
    sources: usize,
    /// A timer is armed that frees unused memory.
    shrinks: bool,
    end: Ending,
    /// The thread that holds it is to look for an order.
    paused: bool,
    failed_waits: FailedWaits,
    spinner: Spinner,
}

/// Whether the reactor ends, and when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    Never,
    WhenEmpty,
    Stopping {
        deadline: Instant,
    },
    /// Its driver has failed, or code outside of callbacks has panicked.
    Failed,
}

impl Core {
    /// Opens the driver of loop `number`, which waits as `spin` says.
    pub(crate) fn new(number: usize, spin: Spin) -> io::Result<Self> {
        let (driver, waker) = crate::io::open()?;
        Ok(Self::with(number, spin, driver, waker))
    }

    /// Loop `number` on a driver that is open.
    pub(crate) fn with(number: usize, spin: Spin, driver: Box<dyn Driver>, waker: Waker) -> Self {
        Self {
            remote: Remote::new(number, waker),
            driver,
            operators: Slab::new(),
            listeners: Vec::new(),
            all_unlimited: true,
            events: DriverEvents::default(),
            ready: VecDeque::new(),
            due: 0,
            streak: Streak::default(),
            woken: VecDeque::new(),
            woken_budget: WOKEN_PER_TURN,
            crowded: Vec::new(),
            commands: VecDeque::new(),
            timers: Timers::new(clock::now()),
            streams: 0,
            sources: 0,
            shrinks: false,
            end: Ending::Never,
            paused: false,
            failed_waits: FailedWaits::default(),
            spinner: Spinner::new(spin),
        }
    }

    pub(crate) fn remote(&self) -> &Arc<Remote> {
        &self.remote
    }

    /// Takes a task that used up its budget, having `received` so much, and runs it again after all
    /// others had a turn, or before them: see [`Streak`].
    pub(crate) fn run_again(&mut self, scheduled: Scheduled, received: u64) {
        if let Scheduled::Connection(shared) = &scheduled
            && received >= shared.group.limits().turn.bytes as u64
            && self.streak.goes_on(shared.id, clock::now)
        {
            self.ready.push_front(scheduled);
        } else {
            self.ready.push_back(scheduled);
        }
    }

    /// Takes a task for which a pool has no capacity, and runs it again when a command says that
    /// there is some, or after a while.
    pub(crate) fn run_when_there_is_capacity(&mut self, scheduled: Scheduled) {
        if self.crowded.is_empty() {
            self.timers.arm(clock::now() + CAPACITY_RETRY, Action::Capacity);
        }
        self.crowded.push(scheduled);
    }

    /// Turns until a task is to be run; `None` when the reactor has ended, or is to
    /// [pause](Self::take_pause). It calls `before_wait` before each wait for events.
    #[inline]
    pub(crate) fn next(&mut self, mut before_wait: impl FnMut()) -> Option<Scheduled> {
        loop {
            if let Some(scheduled) = self.next_of_batch() {
                return Some(scheduled);
            }
            if !self.turn_over(&mut before_wait) {
                return None;
            }
        }
    }

    /// The next task that is to be run before the turn is over.
    #[expect(clippy::inline_always, reason = "each task that is run")]
    #[inline(always)]
    fn next_of_batch(&mut self) -> Option<Scheduled> {
        while let Some(event) = self.events.streams.pop_front() {
            if let Some(shared) = self.deliver(event) {
                return Some(Scheduled::Connection(shared));
            }
        }
        if self.due > 0 {
            self.due -= 1;
            if let Some(scheduled) = self.ready.pop_front() {
                if let Scheduled::Connection(shared) = &scheduled {
                    self.streak.begins_turn(shared.id);
                }
                return Some(scheduled);
            }
        }
        if self.has_woken() { self.next_woken() } else { None }
    }

    /// Whether there are tasks that others woke.
    #[inline]
    fn has_woken(&self) -> bool {
        !self.woken.is_empty() || self.remote.has_woken()
    }

    #[inline(never)] // so that the check, of each turn, is inlined
    fn next_woken(&mut self) -> Option<Scheduled> {
        self.woken_budget = self.woken_budget.checked_sub(1)?;
        if self.woken.is_empty() {
            self.remote.take_woken(&mut self.woken);
        }
        self.woken.pop_front()
    }

    /// How many woken tasks may be run after the one that is about to be run, without a look at the
    /// core: none where there are some that come before them.
    #[inline]
    pub(crate) fn woken_at_once(&self) -> u32 {
        if self.woken.is_empty() { self.woken_budget.min(WOKEN_AT_ONCE) } else { 0 }
    }

    /// So many of them were run.
    #[inline]
    pub(crate) fn has_run_woken(&mut self, tasks: u32) {
        self.woken_budget = self.woken_budget.saturating_sub(tasks);
    }

    /// The driver has been looked at: a turn begins.
    fn begin_batch(&mut self) {
        self.due = self.ready.len();
        self.woken_budget = WOKEN_PER_TURN;
    }

    /// Whether [`next`](Self::next) returned because the thread is to look for an order.
    pub(crate) fn take_pause(&mut self) -> bool {
        std::mem::take(&mut self.paused)
    }

    /// Tells the connection what happened. Returns it if it is to be run.
    #[inline]
    fn deliver(&mut self, event: StreamEvent) -> Option<Arc<Shared>> {
        let StreamEvent { token, readiness } = event;
        let Some(FdOperator::Stream(StreamOperator { shared, .. })) =
            self.operators.find_mut(token)
        else {
            self.deliver_to_others(token, readiness);
            return None;
        };
        let of_output = if readiness.sendable { shared.writable() } else { None };
        let events = events_of(readiness);
        if of_output.is_some() || events != Events::READABLE {
            return deliver_other_than_bytes(shared, events, of_output);
        }
        shared.task.word.notify(Events::READABLE).then(|| shared.clone())
    }

    /// Does what is done once a turn, up to the next batch of events. False: the reactor has ended,
    /// or is to pause.
    #[inline(never)] // so that `next`, which runs for each event, stays small
    fn turn_over(&mut self, before_wait: impl FnMut()) -> bool {
        if !self.end_turn() {
            return false;
        }
        self.wait(before_wait);
        self.begin_batch();
        true
    }

    /// What comes between a batch and the next wait. False as in [`turn_over`](Self::turn_over).
    #[expect(clippy::inline_always, reason = "each turn")]
    #[inline(always)]
    fn end_turn(&mut self) -> bool {
        while let Some(event) = self.events.others.pop_front() {
            self.deliver_other(event);
        }
        if self.remote.waker().answer() {
            self.run_commands();
            if self.paused {
                return false;
            }
        }
        self.fire_timers();
        !self.has_ended()
    }

    #[inline(never)] // so that the check, of each turn, is inlined
    fn run_commands(&mut self) {
        self.remote.swap_commands(&mut self.commands);
        // One by one: after a panic the rest is still there, and `end` ends it.
        while let Some(command) = self.commands.pop_front() {
            self.run_command(command);
        }
        if self.commands.capacity() > COMMANDS_KEPT {
            self.commands = VecDeque::new();
        }
    }

    fn run_command(&mut self, command: Command) {
        match command {
            Command::Register(shared) => self.register(shared),
            Command::Run(shared) => {
                self.streak.end();
                self.ready.push_back(shared.into());
            }
            Command::Transmit(token) => self.transmit(token),
            Command::Attach(source) => self.attach(&source),
            Command::Detach(source) => self.detach(&source),
            Command::AwaitRoom(source) => self.await_room(&source),
            Command::Alarm(source, at, events) => self.arm_alarm(&source, at, events),
            Command::Capacity => self.ready.extend(self.crowded.drain(..)),
            Command::Finish(shared) => self.finish(&shared),
            Command::Linger(token, at) => {
                self.arm_for(token, at, TimerId::Linger, Action::Stream(token, TimerId::Linger));
            }
            Command::Later(shared, at, job) => self.arm_job(&shared, at, job),
            Command::Cancel(shared, job) => self.disarm(shared.token(), TimerId::Job(job)),
            Command::TimeWatch(shared) => self.arm_look(&shared, clock::now),
            Command::Retry(token) => self.arm_retry(token),
            Command::Timer(entry) => entry.arm(&mut self.timers, Action::Wake),
            Command::Tick(at, tick) => {
                self.timers.arm(at, Action::Tick(tick));
            }
            Command::ShutDown(group) => self.shut_down(&group),
            Command::Abort(group) => {
                self.tell(&group, Events::ABORT);
                self.tell_sources(|source| source.is_of(&group), Events::ABORT);
            }
            Command::EndPreambles(group) => self.end_preambles(|it| it.is_of(&group)),
            Command::Listen(listener, accept) => self.listen(listener, accept),
            Command::Await(preamble, late) => self.await_preamble(preamble, late),
            Command::Unlisten(listener) => self.unlisten(&listener),
            Command::Call(call) => call.make(),
            Command::Pause => self.paused = true,
            Command::Retire => self.retire(),
            Command::Stop(patience) => self.stop(patience),
        }
    }

    fn register(&mut self, shared: Arc<Shared>) {
        if shared.output.is_closed() {
            return;
        }
        let operator = StreamOperator::new(shared.clone());
        let token = self.operators.insert(FdOperator::Stream(operator));
        self.streams += 1;
        shared.set_token(token);
        self.arm_look(&shared, clock::now);
        let mut events = Events::STARTED;
        let is_connecting = shared.output.is_connecting();
        let watched = shared.output.with_stream(|stream| {
            if is_connecting {
                self.driver.connect(stream, token)
            } else {
                self.driver.watch(stream, token)
            }
        });
        if let Some(Err(error)) = watched {
            log::warn!("cannot watch connection {shared}: {error}");
            shared.output.fail(&error);
            events = Events::STARTED | Events::ABORT;
        } else if matches!(self.end, Ending::Stopping { .. }) {
            events = Events::STARTED | Events::ABORT;
        }
        if events.has_any(Events::ABORT) {
            shared.output.interrupt(); // the thread that dialled it waits
        }
        if shared.task.word.notify(events) {
            self.ready.push_back(shared.into());
        }
    }

    /// Closes the stream of a connection that has ended. No other code of this crate closes a
    /// registered one.
    fn finish(&mut self, shared: &Shared) {
        let Some(FdOperator::Stream(operator)) = self.operators.remove(shared.token()) else {
            // It was never registered.
            return shared.close_stream();
        };
        self.streams -= 1;
        if !shared.may_outlive_close() {
            self.driver.closing(shared.token());
        } else if let Some(Err(error)) =
            shared.output.with_stream(|stream| self.driver.forget(stream, shared.token()))
        {
            log::debug!("cannot stop watching connection {shared}: {error}");
        }
        shared.close_stream();
        // After the close: this drops what the user's jobs hold, and the peer need not wait for it.
        if let Some(timers) = operator.timers {
            self.forget_timers(&timers);
        }
        self.shrink_soon();
    }

    fn tell(&mut self, group: &Arc<ConnectionGroup>, events: Events) {
        for operator in self.operators.iter() {
            let FdOperator::Stream(StreamOperator { shared, .. }) = operator else {
                continue;
            };
            if !Arc::ptr_eq(&shared.group, group) {
                continue;
            }
            if shared.task.word.notify(events) {
                self.ready.push_back(shared.clone().into());
            }
            if events.has_any(Events::ABORT) {
                shared.output.interrupt();
                shared.tell_if_gone();
            }
        }
    }
}

/// What tells a connection to close when it has nothing left to serve. A last request may have
/// arrived: one more pull will see.
fn shutdown() -> Events {
    Events::SHUTDOWN | events_of(Readiness::PERHAPS)
}

/// The rest of a delivery, where the event says more than that bytes may have come, or less.
#[inline(never)] // so that the usual delivery stays small
fn deliver_other_than_bytes(
    shared: &Arc<Shared>,
    events: Events,
    of_output: Option<Events>,
) -> Option<Arc<Shared>> {
    if of_output.is_none() && events == Events::NONE {
        return None;
    }
    let events = events | of_output.unwrap_or(Events::NONE);
    let must_run = shared.task.word.notify(events);
    if events.has_any(Events::PEER_GONE) {
        shared.tell_if_gone();
    }
    must_run.then(|| shared.clone())
}

/// The events by which the owner of a connection learns of a readiness. That the stream takes bytes
/// again is for the output, which tells the owner only if the owner waits for it.
#[inline]
fn events_of(readiness: Readiness) -> Events {
    let mut events = Events::NONE;
    if readiness.receivable {
        events = events | Events::READABLE;
    }
    if readiness.peer_closed {
        events = events | Events::PEER_CLOSED;
    }
    if readiness.failed {
        events = events | Events::FAILED;
    }
    if readiness.in_pieces {
        events = events | Events::IN_PIECES;
    }
    events
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_burst_of_commands_leaves_no_memory_behind() {
        let mut core = Core::new(0, Spin::Never).expect("a driver");
        let remote = core.remote.clone();
        for _ in 0..2 {
            for _ in 0..100 * COMMANDS_KEPT {
                remote.tell_of_capacity();
            }
            core.run_commands();
            let queued = remote.queue_capacity();
            let kept = core.commands.capacity().max(queued);
            assert!(core.commands.is_empty() && kept <= COMMANDS_KEPT, "room for {kept}");
        }
    }
}
