//! A reactor: its core, which is one owned value, and the queue by which others reach it.
//!
//! ```text
//!   other threads                       the thread that holds the core
//!   ┌────────┐ post   ┌──────────────┐  ┌──────────────────────────────────────────────┐
//!   │ Remote ├───────►│ commands     ├─►│ Core  poll ─► events ─► operators (by token)  │
//!   └────────┘ wake   │ waker        │  │       ready   scheduled, to be run            │
//!                     └──────────────┘  │       timers  given the time                  │
//!                                       └──────────────────────────────────────────────┘
//! ```
//!
//! A turn, in order: wait → for each event of a stream, deliver it and run the connection that it
//! scheduled → run those that had used up their budget → pass on what was accepted → commands from
//! other threads, the closing of sockets among them → timers → count. [`Core::next`] is that turn,
//! written so that the core is whole whenever a connection is run: the rest of the batch, the ready
//! list and the timers are in it, and whoever holds the core can go on.

mod delivery;
mod ending;
mod timers;
mod waiting;

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use crate::baton::Baton;
use crate::connection::Shared;
use crate::connection::job::Job;
use crate::forecast::Prior;
use crate::group::Group;
use crate::hand_off::{self, Backing, Crew};
use crate::operator::{Accept, FdOperator, Preamble, StreamOperator, TimerId};
use timers::Timer;
use waiting::Waits;

use crate::poll::{self, Poll, PollEvents};
use crate::slab::{Slab, Token};
use crate::socket::Stream;
use crate::spin::{Spin, Spinner};
use crate::stats::{Counters, LoopStats, Traffic};
use crate::sync::{AtomicBool, AtomicUsize, Condvar, Mutex, Ordering, lock, wait_until};
use crate::task::Events;
use crate::ticks::Tick;
use crate::timer::Timers;
use crate::waker::Waker;
pub use timers::later;

mod listeners;

/// How soon connections for which there was no room are tried again though nobody said that there
/// is.
const CROWDED: Duration = Duration::from_millis(50);

/// A queue of commands with room for more than these gives its memory back when it is empty.
const COMMANDS_KEPT: usize = 1024;

/// What other threads may ask of a reactor.
#[derive(Debug)]
pub(crate) enum Command {
    /// Watch this connection and start its callbacks.
    Register(Arc<Shared>),
    /// This connection is scheduled: see that it is run.
    Run(Arc<Shared>),
    /// Send more of what this connection has queued.
    Transmit(Token),
    /// There is room again for connections that were to be run elsewhere.
    Room,
    /// This connection has ended: close its socket. Behind its registration, if that is on its way.
    Finish(Arc<Shared>),
    /// End this connection's orderly close at that time.
    Linger(Token, Instant),
    /// Have this connection do that, at that time.
    Later(Arc<Shared>, Instant, Arc<Job>),
    /// Forget this job of that connection.
    Cancel(Arc<Shared>, usize),
    /// What is watched of this connection has changed.
    Watch(Arc<Shared>),
    /// Memory has run short for this connection: have it try to receive again, in a while.
    Retry(Token),
    /// Tick, at that time for the first time.
    Tick(Instant, Weak<Tick>),
    /// Close this group's connections when each has nothing left to serve.
    Drain(Arc<Group>),
    /// Close this group's connections now.
    Abort(Arc<Group>),
    /// Whoever is to be of this group must have said by now what comes before a connection.
    EndPreambles(Arc<Group>),
    /// Accept on this listener.
    Listen(Arc<OwnedFd>, Box<dyn Accept>),
    /// Watch a stream until it has said what must come first, or that time.
    Await(Box<dyn Preamble>, Instant),
    /// Stop accepting on this listener.
    Unlisten(Arc<OwnedFd>),
    /// Go on until the last connection has closed, then end.
    Retire,
    /// Close everything and end.
    Stop(Duration),
}

/// A reactor as other threads see it.
#[derive(Debug)]
pub struct Remote {
    /// Which loop of its manager it is.
    number: usize,
    commands: Mutex<Queue>,
    ended: Condvar,
    waker: Waker,
    /// It has ended though nobody asked it to.
    failed: AtomicBool,
    /// Written by whoever holds the core.
    pub(crate) counters: Counters,
    pub(crate) traffic: Traffic,
    /// What its connections' callbacks have done lately.
    pub(crate) prior: Prior,
    /// Connections that were given to it and whose sockets are not closed. It counts them from the
    /// moment of the choice, before the reactor has heard of them: so a burst spreads evenly.
    load: AtomicUsize,
}

/// What a peer can cause is bounded by the connections there are: each is registered, run, watched
/// and finished by one command at a time. What users ask for has one for each job and tick.
#[derive(Debug, Default)]
struct Queue {
    list: VecDeque<Command>,
    /// The reactor has ended: nobody would run them.
    dead: bool,
    /// What it had left to do is done as well: its thread only returns any more.
    ended: bool,
    /// Why it ended, if nobody asked it to.
    failure: Option<io::Error>,
}

impl Remote {
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

    pub(crate) fn wake(&self) {
        self.waker.wake();
    }

    /// Closes the connections of `group` as each comes to have nothing left to serve.
    pub fn drain(&self, group: &Arc<Group>) {
        drop(self.post(Command::Drain(group.clone())));
    }

    /// Closes the connections of `group` now; those inside a callback close when it returns.
    pub fn abort(&self, group: &Arc<Group>) {
        drop(self.post(Command::Abort(group.clone())));
    }

    /// Says that there may be room again for those that were to be run elsewhere.
    pub(crate) fn tell_of_room(&self) {
        drop(self.post(Command::Room));
    }

    /// Ends the reactor when its last connection has closed.
    pub(crate) fn retire(&self) {
        drop(self.post(Command::Retire));
    }

    /// Closes everything and ends the reactor, which waits `patience` for connections whose
    /// callbacks are still running elsewhere. Returns at once.
    pub fn stop(&self, patience: Duration) {
        drop(self.post(Command::Stop(patience)));
    }

    /// Which loop of its manager it is; 0 for one without.
    pub(crate) fn number(&self) -> usize {
        self.number
    }

    /// Whether the reactor has ended though nobody asked it to: it must not be picked.
    pub(crate) fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Acquire)
    }

    fn fail(&self, error: io::Error) {
        lock(&self.commands).failure.get_or_insert(error);
        self.failed.store(true, Ordering::Release);
    }

    /// Whether the reactor has ended.
    pub(crate) fn has_ended(&self) -> bool {
        lock(&self.commands).ended
    }

    /// Waits until the reactor has ended, or `deadline`; says whether it has.
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

/// A reactor that nobody runs yet.
#[derive(Debug)]
pub struct Reactor {
    core: Core,
}

impl Reactor {
    /// Opens the descriptors that a reactor needs.
    ///
    /// # Errors
    /// The system's: out of descriptors, out of memory.
    pub fn new() -> io::Result<Self> {
        Self::numbered(0)
    }

    /// As [`Reactor::new`], for one of a manager's loops.
    pub(crate) fn numbered(number: usize) -> io::Result<Self> {
        Ok(Self { core: Core::new(number)? })
    }

    /// The reactor's core, which the threads of `crew` may take over from each other, and which
    /// waits as `spin` says.
    pub(crate) fn with_crew(mut self, crew: Arc<Crew>, spin: Spin) -> Core {
        self.core.backing = Backing::of(crew);
        self.core.spinner = Spinner::new(spin);
        self.core
    }

    /// What other threads need to reach it.
    pub fn remote(&self) -> Arc<Remote> {
        self.core.remote.clone()
    }

    /// Turns the loop on this thread until the reactor is stopped. Without a manager's threads
    /// behind it, it stays on this thread whatever a callback does. It never spins.
    ///
    /// # Errors
    /// Why it ended though nobody stopped it: the system lets it wait no more, or a panic came from
    /// outside of callbacks.
    pub fn run(self) -> io::Result<()> {
        let remote = self.remote();
        hand_off::turn(Baton::held(self.core));
        let failure = lock(&remote.commands).failure.take();
        failure.map_or(Ok(()), Err)
    }
}

/// All that a reactor owns, in one value that may move between threads.
#[derive(Debug)]
pub(crate) struct Core {
    remote: Arc<Remote>,
    poll: Box<dyn Poll>,
    operators: Slab<FdOperator>,
    /// Those operators that are listeners.
    listeners: Vec<Token>,
    /// All of them had room for any number of connections: they need not be asked again.
    doors_open: bool,
    events: PollEvents,
    /// Scheduled connections that wait for a turn; `due` of them have it now.
    ready: VecDeque<Arc<Shared>>,
    due: usize,
    /// Scheduled connections that wait until a wake says that there is room for them.
    crowded: Vec<Arc<Shared>>,
    commands: VecDeque<Command>,
    timers: Timers<Timer>,
    streams: usize,
    /// A timer is armed that gives back memory which rests.
    shrinks: bool,
    end: End,
    waits: Waits,
    spinner: Spinner,
    pub(crate) backing: Backing,
}

/// Whether the reactor is to end, and when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Never,
    WhenEmpty,
    Stopping {
        deadline: Instant,
    },
    /// It can't go on.
    Failed,
}

impl Core {
    fn new(number: usize) -> io::Result<Self> {
        let waker = Waker::new()?;
        let poll = poll::driver(&waker)?;
        let counters = Counters::default();
        let remote = Arc::new(Remote {
            number,
            failed: AtomicBool::new(false),
            commands: Mutex::new(Queue::default()),
            ended: Condvar::new(),
            waker,
            counters,
            prior: Prior::default(),
            load: AtomicUsize::new(0),
            traffic: Traffic::default(),
        });
        Ok(Self {
            remote,
            poll,
            operators: Slab::new(),
            listeners: Vec::new(),
            doors_open: true,
            events: PollEvents::default(),
            ready: VecDeque::new(),
            due: 0,
            crowded: Vec::new(),
            commands: VecDeque::new(),
            timers: Timers::new(Instant::now()),
            streams: 0,
            shrinks: false,
            end: End::Never,
            waits: Waits::default(),
            spinner: Spinner::new(Spin::Never),
            backing: Backing::default(),
        })
    }

    /// Whether it may be turned by one thread now and by another later.
    pub(crate) fn may_change_threads(&self) -> bool {
        self.poll.may_change_threads()
    }

    pub(crate) fn remote(&self) -> &Arc<Remote> {
        &self.remote
    }

    /// A connection that used up its budget: it is run again when all others had their turn.
    pub(crate) fn run_again(&mut self, shared: Arc<Shared>) {
        self.ready.push_back(shared);
    }

    /// A connection for which there is no room: it is run again when somebody says that there is,
    /// or after a while.
    pub(crate) fn run_when_there_is_room(&mut self, shared: Arc<Shared>) {
        if self.crowded.is_empty() {
            self.timers.arm(Instant::now() + CROWDED, Timer::Crowded);
        }
        self.crowded.push(shared);
    }

    /// Turns until a connection is to be run; `None` when the reactor has come to its end.
    pub(crate) fn next(&mut self) -> Option<Arc<Shared>> {
        loop {
            while let Some(event) = self.events.streams.pop_front() {
                if let Some(scheduled) = self.deliver(event) {
                    return Some(scheduled);
                }
            }
            if self.due > 0 {
                self.due -= 1;
                if let Some(scheduled) = self.ready.pop_front() {
                    return Some(scheduled);
                }
            }
            if !self.turn_over() {
                return None;
            }
        }
    }

    /// All that is done once a turn, up to the next batch of events. False: the reactor has come to
    /// its end.
    #[inline(never)] // so that `next`, which runs for each event, stays small
    fn turn_over(&mut self) -> bool {
        while let Some(event) = self.events.accepts.pop_front() {
            self.deliver_to_acceptor(event);
        }
        self.run_commands();
        self.fire_timers();
        if self.has_ended() {
            return false;
        }
        self.wait();
        self.due = self.ready.len();
        true
    }

    fn run_commands(&mut self) {
        if !self.remote.waker.answer() {
            return;
        }
        std::mem::swap(&mut self.commands, &mut lock(&self.remote.commands).list);
        // One by one: what a panic leaves is still there, to be ended.
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
            Command::Run(shared) => self.ready.push_back(shared),
            Command::Transmit(token) => self.transmit(token),
            Command::Room => self.ready.extend(self.crowded.drain(..)),
            Command::Finish(shared) => self.finish(&shared),
            Command::Linger(token, at) => {
                self.arm_for(token, at, TimerId::Linger, Timer::Stream(token, TimerId::Linger));
            }
            Command::Later(shared, at, job) => self.arm_job(&shared, at, job),
            Command::Cancel(shared, job) => self.disarm(shared.token(), TimerId::Job(job)),
            Command::Watch(shared) => self.arm_look(&shared, Instant::now),
            Command::Retry(token) => self.arm_retry(token),
            Command::Tick(at, tick) => {
                self.timers.arm(at, Timer::Tick(tick));
            }
            // A last request may stand in the kernel, its edge on the way: one more read will see.
            Command::Drain(group) => {
                self.end_preambles(|it| it.is_of(&group));
                self.tell(&group, Events::DRAIN | Events::READABLE);
            }
            Command::Abort(group) => self.tell(&group, Events::ABORT),
            Command::EndPreambles(group) => self.end_preambles(|it| it.is_of(&group)),
            Command::Listen(listener, accept) => self.listen(listener, accept),
            Command::Await(preamble, late) => self.await_preamble(preamble, late),
            Command::Unlisten(listener) => self.unlisten(&listener),
            Command::Retire => self.retire(),
            Command::Stop(patience) => self.stop(patience),
        }
    }

    fn register(&mut self, shared: Arc<Shared>) {
        if shared.lane.is_closed() {
            return;
        }
        let operator = StreamOperator::new(shared.clone());
        let token = self.operators.insert(FdOperator::Stream(operator));
        self.streams += 1;
        shared.set_token(token);
        self.arm_look(&shared, Instant::now);
        let mut events = Events::STARTED;
        let watch = |stream: &Stream| self.poll.add_stream(stream.as_fd(), token);
        if let Some(Err(error)) = shared.lane.with_stream(watch) {
            log::warn!("cannot watch the connection from {}: {error}", shared.peer());
            shared.lane.fail(&error);
            events = Events::STARTED | Events::ABORT;
        } else if matches!(self.end, End::Stopping { .. }) {
            events = Events::STARTED | Events::ABORT;
        }
        if events.has_any(Events::ABORT) {
            shared.lane.interrupt(); // whoever dialled it waits
        }
        if shared.task.word.notify(events) {
            self.ready.push_back(shared);
        }
    }

    /// Closes the socket of a connection that has ended. Nothing else in this crate closes one that
    /// is registered.
    fn finish(&mut self, shared: &Shared) {
        let Some(FdOperator::Stream(operator)) = self.operators.remove(shared.token()) else {
            // It was never registered.
            return shared.close_stream();
        };
        self.streams -= 1;
        // What nobody else has leaves the poll with its last descriptor, by the close that follows.
        if shared.may_outlive_close()
            && let Some(Err(error)) =
                shared.lane.with_stream(|stream| self.poll.remove_stream(stream.as_fd()))
        {
            log::debug!("cannot stop watching the connection from {}: {error}", shared.peer());
        }
        shared.close_stream();
        // After that: it drops what the user's jobs hold, for which the peer need not wait.
        if let Some(timers) = operator.timers {
            self.forget_timers(&timers);
        }
        self.shrink_soon();
    }

    fn tell(&mut self, group: &Arc<Group>, events: Events) {
        for operator in self.operators.iter() {
            let FdOperator::Stream(StreamOperator { shared, .. }) = operator else {
                continue;
            };
            if !Arc::ptr_eq(&shared.group, group) {
                continue;
            }
            if shared.task.word.notify(events) {
                self.ready.push_back(shared.clone());
            }
            if events.has_any(Events::ABORT) {
                shared.lane.interrupt();
            }
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_burst_of_commands_leaves_no_memory_behind() {
        let mut core = Core::new(0).expect("two descriptors");
        let remote = core.remote.clone();
        for _ in 0..2 {
            for _ in 0..100 * COMMANDS_KEPT {
                remote.tell_of_room();
            }
            core.run_commands();
            let queued = lock(&remote.commands).list.capacity();
            let kept = core.commands.capacity().max(queued);
            assert!(core.commands.is_empty() && kept <= COMMANDS_KEPT, "room for {kept}");
        }
    }
}
