//! One run of a datagram socket: from the moment a thread owns its task until it gives it back.
//!
//! ```text
//!   Open ── a shutdown: what has been received by then is answered ──► ShuttingDown
//!    │ close                                                               │ drained
//!    └───────────────► Closing: the outbox sends what waits ◄──────────────┘
//!                          │ empty, or the linger time is over, or an abort
//!                          ▼
//!                       ended: the reactor closes the socket
//! ```

use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::batch::DatagramBatch;
use super::callbacks::{DatagramService, PrepareDatagrams};
use super::handle::DatagramHandle;
use super::scratch::Scratch;
use super::task::DatagramTask;
use crate::base::clock::{self, later};
use crate::base::error::{Error, Result};
use crate::base::memory::Holding;
use crate::base::panic::guard;
use crate::base::stats::Work;
use crate::connection::run::Outcome;
use crate::io::datagram::{Brought, DatagramSocket, Failure, MOST_PLACES, Place, Places, failure};
use crate::pure::task::{Events, Run};

/// How soon a socket is received from again for which memory was too short.
const SHORT_OF_MEMORY: Duration = Duration::from_millis(10);
/// So many places a receive has at the least: the second says that nothing stands behind the first.
const FEWEST_PLACES: usize = 2;
/// So many failures in a row that are said to be about sent datagrams, and it pauses.
const FAILURES_IN_A_ROW: u32 = 16;
/// So many entries of the error queue are taken at once.
const FAULTS_AT_ONCE: usize = 64;
/// How much memory of the receive buffer a datagram takes beside its payload, at the least.
const OVERHEAD: usize = 256;

/// What stands in the cell of a socket's task: what its owner owns.
pub(super) struct Runner {
    /// Gone once it has ended.
    socket: Option<Arc<DatagramSocket>>,
    role: Role,
    life: Life,
    /// An event said that there may be something to receive, and no receive has found nothing
    /// since.
    is_announced: bool,
    /// How many places the next receive has.
    places: usize,
    /// How many were filled since a receive last left nothing behind.
    burst: usize,
    /// What the kernel said last of its drops.
    drops: u32,
    failures: u32,
    wakes: bool,
    /// The last callback was that of a wake. What else is due comes before the next wake, as each
    /// of these callbacks may cause one.
    was_woken: bool,
}

/// What is called back.
#[derive(Default)]
enum Role {
    #[default]
    None,
    /// What makes the service, until it has.
    Callbacks(Arc<dyn PrepareDatagrams>),
    Service(Box<dyn DatagramService>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Life {
    /// `on_open` has not run.
    New,
    Open,
    /// A shutdown has begun; so many bytes of the receive buffer may still be older than it.
    ShuttingDown {
        left: usize,
    },
    /// Nothing more is received.
    Closing,
}

enum Step {
    /// There may be more to do at once.
    More,
    /// Nothing to do until something happens.
    Wait,
    /// The close is complete.
    Closed,
}

impl Default for Runner {
    fn default() -> Self {
        Self {
            socket: None,
            role: Role::None,
            life: Life::New,
            is_announced: false,
            places: FEWEST_PLACES,
            burst: 0,
            drops: 0,
            failures: 0,
            wakes: false,
            was_woken: false,
        }
    }
}

/// Runs a scheduled socket, within the budget of a turn.
pub(super) fn run(task: &Arc<DatagramTask>) -> (Outcome, Work) {
    let Some((mut run, mut events)) = task.task.begin_and_look() else {
        return (Outcome::Done, Work::default());
    };
    let mut turn = Turn { scratch: Scratch::take(), work: Work::default(), kept: FEWEST_PLACES };
    let sent = task.counters.sent_bytes.read();
    let mut rounds = 1;
    let outcome = loop {
        // Callbacks have their own guard. What may panic beside them is the release of memory that
        // the user lent.
        let step = guard("the release of lent memory", || run.step(task, events, &mut turn));
        match step.unwrap_or(Step::More) {
            Step::More => {}
            Step::Wait => match run.release() {
                Ok(()) => break Outcome::Done,
                Err(notified) => run = notified,
            },
            Step::Closed => {
                end(run, task);
                break Outcome::Done;
            }
        }
        let limits = &task.limits.turn;
        if rounds >= limits.rounds || turn.work.received >= limits.bytes as u64 {
            run.reschedule();
            break Outcome::Again;
        }
        rounds += 1;
        events = run.look();
    };
    let Turn { scratch, mut work, kept } = turn;
    scratch.leave(kept);
    work.sent = task.counters.sent_bytes.read() - sent;
    (outcome, work)
}

/// What a run works with, and what it has done.
struct Turn {
    scratch: Scratch,
    work: Work,
    /// How many places the thread keeps afterwards.
    kept: usize,
}

/// The last of a socket, outside of its cell.
fn end(mut run: Run<'_, Runner>, task: &Arc<DatagramTask>) {
    let role = std::mem::take(&mut run.role);
    run.socket = None;
    run.close();
    // The user's callbacks, session and what they captured: their drops are user code.
    guard("the end of a datagram socket", || match role {
        Role::Service(service) => service.closed(),
        Role::Callbacks(callbacks) => drop(callbacks),
        Role::None => {}
    })
    .ok();
    log::debug!("{task} has closed");
    task.leave();
}

impl Runner {
    pub(super) fn serving(
        socket: Arc<DatagramSocket>,
        callbacks: Arc<dyn PrepareDatagrams>,
    ) -> Self {
        Self { socket: Some(socket), role: Role::Callbacks(callbacks), ..Self::default() }
    }

    fn step(&mut self, task: &Arc<DatagramTask>, events: Events, turn: &mut Turn) -> Step {
        self.is_announced |= events.has_any(Events::READABLE);
        self.wakes |= task.task.word.clear(events.and(Events::WAKE)) != Events::NONE;
        if events.has_any(Events::ABORT) {
            return Step::Closed;
        }
        if !events.has_any(Events::STARTED) {
            return Step::Wait;
        }
        if self.life == Life::Closing {
            let is_done = events.has_any(Events::LINGERED) || task.outbox.queued().0 == 0;
            return if is_done { Step::Closed } else { Step::Wait };
        }
        if events.has_any(Events::CLOSE) {
            return self.begin_close(task);
        }
        match &self.life {
            Life::New => self.open(task),
            Life::Open if events.has_any(Events::SHUTDOWN) => {
                self.shut_down(task, turn);
                Step::More
            }
            _ if self.wakes && !(self.was_woken && self.has_more_than_wakes(events)) => {
                (self.wakes, self.was_woken) = (false, true);
                self.call(task, turn, |service, batch| service.woken(batch));
                Step::More
            }
            _ if task.task.word.clear(events.and(Events::FAILED)) != Events::NONE => {
                self.take_faults(task);
                Step::More
            }
            _ if self.is_announced && !events.has_any(Events::PAUSED) => self.receive(task, turn),
            // Nothing that came before the shutdown is left.
            Life::ShuttingDown { .. } => self.begin_close(task),
            _ => Step::Wait,
        }
    }

    /// Whether there is something to receive, or to end.
    fn has_more_than_wakes(&self, events: Events) -> bool {
        let may_receive = self.is_announced && !events.has_any(Events::PAUSED);
        may_receive || matches!(self.life, Life::ShuttingDown { .. })
    }

    fn open(&mut self, task: &Arc<DatagramTask>) -> Step {
        let Role::Callbacks(callbacks) = std::mem::take(&mut self.role) else {
            return Step::Closed;
        };
        let handle = DatagramHandle::new(task.clone());
        let opened = guard("on_open", || callbacks.open(&handle));
        match opened {
            Ok(Ok(service)) => self.role = Role::Service(service),
            Ok(Err(error)) => {
                log::error!("{task} closes: its on_open failed: {error}");
                return Step::Closed;
            }
            Err(_) => return Step::Closed, // it was logged
        }
        self.life = Life::Open;
        Step::More
    }

    /// Notes how much may be left that came before a shutdown, and tells the service.
    fn shut_down(&mut self, task: &Arc<DatagramTask>, turn: &mut Turn) {
        let left = self.socket.as_ref().map_or(0, |socket| socket.receive_buffer());
        self.life = Life::ShuttingDown { left };
        (self.is_announced, self.was_woken) = (true, false);
        self.call(task, turn, |service, batch| service.shutdown(batch));
    }

    fn begin_close(&mut self, task: &Arc<DatagramTask>) -> Step {
        self.life = Life::Closing;
        if task.outbox.seal() {
            return Step::Closed;
        }
        let linger = task.group.limits().linger;
        task.alarm(later(clock::now(), linger), Events::LINGERED);
        Step::Wait
    }

    /// Receives once, and calls back with what came.
    fn receive(&mut self, task: &Arc<DatagramTask>, turn: &mut Turn) -> Step {
        if !has_memory(task) {
            task.alarm(later(clock::now(), SHORT_OF_MEMORY), Events::READABLE);
            self.is_announced = false;
            return Step::Wait;
        }
        let Some(socket) = &self.socket else { return Step::Closed };
        let most = self.places.min(task.limits.places);
        match socket.receive(&mut turn.scratch.places, most, task.limits.longest) {
            Ok(brought) => self.take(task, turn, most, brought),
            Err(error) => self.failed(task, &error),
        }
    }

    fn take(
        &mut self,
        task: &Arc<DatagramTask>,
        turn: &mut Turn,
        most: usize,
        brought: Brought,
    ) -> Step {
        (self.failures, self.was_woken) = (0, false);
        self.is_announced = !brought.drained;
        self.burst = self.burst.saturating_add(brought.places);
        // The next burst will be like this one, and one more place says that nothing stands behind.
        let wanted = if brought.drained { std::mem::take(&mut self.burst) + 1 } else { most * 2 };
        self.places = wanted.min(MOST_PLACES).next_power_of_two().max(FEWEST_PLACES);
        turn.kept = self.places;
        let bytes = self.count(task, turn.scratch.places.used());
        turn.work.received += bytes as u64;
        self.call(task, turn, |service, batch| service.received(batch));
        turn.work.callbacks += 1;
        if let Some(account) = &task.account {
            charge_kept(&mut turn.scratch.places, account);
        }
        if let Life::ShuttingDown { left } = &mut self.life {
            *left = left.saturating_sub(bytes + OVERHEAD * brought.places);
            if *left == 0 {
                self.is_announced = false; // the rest came later
            }
        }
        Step::More
    }

    /// Adds what came to the counters; returns how many bytes it is.
    fn count(&mut self, task: &DatagramTask, places: &[Place]) -> usize {
        let counters = &task.counters;
        let (mut datagrams, mut bytes, mut cut) = (0, 0, 0);
        for place in places {
            datagrams += place.count();
            bytes += place.block.bytes().len();
            cut += usize::from(place.is_truncated);
        }
        counters.receives.add_alone(1);
        counters.received.add_alone(datagrams);
        counters.received_bytes.add_alone(bytes);
        if cut > 0 {
            counters.truncated.add_alone(cut);
        }
        // The counter of the kernel wraps.
        if let Some(drops) = places.last().and_then(|place| place.ancillary.drops) {
            counters.dropped_by_kernel.add_alone(drops.wrapping_sub(self.drops) as usize);
            self.drops = drops;
        }
        bytes
    }

    fn failed(&mut self, task: &Arc<DatagramTask>, error: &io::Error) -> Step {
        match failure(error) {
            Failure::Drained => {
                self.is_announced = false;
                self.burst = 0;
                return Step::More;
            }
            Failure::OfSent if self.failures < FAILURES_IN_A_ROW => {
                self.failures += 1;
                task.counters.receive_errors.add_alone(1);
                self.tell(task, error);
                self.take_faults(task);
                return Step::More;
            }
            Failure::Broken => {
                task.counters.receive_errors.add_alone(1);
                log::error!("{task} is not a socket any more, and ends: {error}");
                return Step::Closed;
            }
            Failure::OfSent | Failure::NotInBatches | Failure::ForNow => {}
        }
        task.counters.receive_errors.add_alone(1);
        self.failures = 0;
        self.is_announced = false;
        if let Some(unlogged) = task.log.pass(clock::now(), 1) {
            log::warn!(
                "{task} cannot receive, and tries again: {error} ({unlogged} more unlogged)"
            );
        }
        task.alarm(later(clock::now(), SHORT_OF_MEMORY), Events::READABLE);
        Step::Wait
    }

    /// Takes what ICMP said of sent datagrams out of the error queue.
    fn take_faults(&mut self, task: &Arc<DatagramTask>) {
        let Some(socket) = self.socket.clone() else { return };
        for _ in 0..FAULTS_AT_ONCE {
            let Some(fault) = socket.take_fault() else { return };
            self.tell(task, &io::Error::from_raw_os_error(fault.errno));
        }
    }

    fn tell(&mut self, task: &DatagramTask, error: &io::Error) {
        log::debug!("{task}: an earlier datagram was not delivered: {error}");
        if let Role::Service(service) = &mut self.role {
            guard("on_error", || service.failed(error)).ok();
        }
    }

    /// Calls back, and sends what the callback has gathered.
    fn call(
        &mut self,
        task: &Arc<DatagramTask>,
        turn: &mut Turn,
        call: impl FnOnce(&mut dyn DatagramService, &DatagramBatch<'_>) -> Result<()>,
    ) {
        let Role::Service(service) = &mut self.role else { return };
        let Scratch { places, staged } = &mut turn.scratch;
        let watch = task.group.watchdog().begin();
        let batch = DatagramBatch::new(task, places.used(), staged);
        let outcome = guard("on_datagrams", || call(&mut **service, &batch));
        let staged = staged.get_mut();
        if !staged.is_empty() {
            task.send_staged(places.used(), staged);
        }
        task.counters.callbacks.add_alone(1);
        if let Some(watch) = watch
            && let Some(slow) = task.group.watchdog().end(watch, &task.reactor.traffic)
        {
            log::warn!(
                "a callback took {:?}, longer than {:?}: {task} ({} more since the last such line)",
                slow.took,
                slow.limit,
                slow.unlogged
            );
        }
        match outcome {
            Ok(Ok(()) | Err(Error::WouldBlock)) => {}
            Ok(Err(error)) => {
                task.counters.callback_errors.add_alone(1);
                if let Some(unlogged) = task.log.pass(clock::now(), 1) {
                    log::warn!("a callback of {task} failed: {error} ({unlogged} more unlogged)");
                }
            }
            Err(_) => task.counters.panics.add_alone(1), // it was logged
        }
    }
}

/// Whether the memory that slices of received datagrams keep leaves room for more.
fn has_memory(task: &DatagramTask) -> bool {
    let Some(account) = &task.account else { return true };
    let (slices, memory) = (account.held(), &task.group.policy.memory);
    memory.is_ample(slices) || {
        let all = slices + task.outbox.queued().1;
        memory.allows(Holding { slices, all }, || task.group.live())
    }
}

/// Charges the blocks that the user keeps a slice of.
fn charge_kept(places: &mut Places, account: &netpoll_buffer::Account) {
    for place in places.used_mut() {
        if !place.block.is_alone() {
            place.block.charge(account);
            place.is_charged = true;
        }
    }
}
