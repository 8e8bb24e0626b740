//! The threads behind the loops of one manager: how one of them takes a loop over, and when there
//! is a thread for it.
//!
//! ```text
//!     a loop ─ Takeover ──► LoopThreads ─┬─ the pool: netpoll-loop-N, netpoll-spare-N
//!                 │                      └─ the monitor, which looks at
//!                 └── Activity ◄──────────────────────────────────┘
//! ```
//! A thread is reserved before the core is taken, since a core that no thread turns serves no
//! connection.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::gather::Gatherer;
use super::monitor::{Monitor, SpareThreads};
use super::options::Gather;
use super::pool::{Next, ThreadPool, ThreadPoolOptions};
use super::station::{Batch, Station};
use crate::base::stats::{Cause, HandOffStats};
use crate::base::sync::{AtomicU64, AtomicUsize, Ordering};
use crate::base::waits::Waits;
use crate::connection::schedule::Terms;
use crate::connection::scheduled::Scheduled;
use crate::pure::baton::{Baton, Epoch, Held};
use crate::reactor::Core;
use crate::reactor::nest::Nest;
use crate::sys;

/// What changes threads as one value: a reactor's core, and what lets other threads take it over.
#[derive(Debug)]
pub(crate) struct Loop {
    /// The core in hand: of several that one thread turns the one that has its turn.
    pub(crate) core: Core,
    /// The others.
    pub(crate) nest: Option<Box<Nest>>,
    pub(crate) takeover: Takeover,
}

impl Loop {
    /// A core that is turned alone.
    pub(crate) fn of(core: Core, takeover: Takeover) -> Self {
        Self { core, nest: None, takeover }
    }

    /// One of the cores in hand, and the others in a nest; `None` if there are none.
    pub(super) fn of_batch(batch: Batch, takeover: Takeover) -> Option<Self> {
        let Batch { mut cores, set } = batch;
        let core = cores.pop()?;
        let mut nest = None;
        if !cores.is_empty() {
            let fresh = nest.insert(Box::new(Nest::around(&core, set)));
            for each in cores {
                fresh.add(each);
            }
        }
        Some(Self { core, nest, takeover })
    }

    /// Turns until a task of the core in hand is to be run; `None` when that core has ended,
    /// or is to pause. It calls `end_turn` before each wait for events.
    #[inline]
    pub(crate) fn next(&mut self, mut end_turn: impl FnMut()) -> Option<Scheduled> {
        let Self { core, nest, takeover } = self;
        let before_wait = || {
            takeover.begin_wait();
            end_turn();
        };
        match nest {
            None => core.next(before_wait),
            Some(nest) => nest.next(core, before_wait),
        }
    }
}

/// What a thread does with a loop that it is given.
pub(crate) type Turn = fn(Held<Loop>) -> Next;

/// How long a thread without a loop stays.
const IDLE: Duration = Duration::from_secs(10);
/// So many turns of a loop wake the gatherer.
const TURNS: u32 = 32;
/// Stands in `LoopThreads::away` while the system refuses threads: so one load tells both.
const REFUSED: usize = 1 << (usize::BITS - 1);

/// See the module. None of the threads is started before it is needed.
#[derive(Debug)]
pub(crate) struct LoopThreads {
    pool: Arc<ThreadPool>,
    monitor: Arc<Monitor<Loop>>,
    /// Decides how many threads turn loops.
    gatherer: Arc<Gatherer>,
    /// Threads that lost their core to others inside a callback, which goes on, and [`REFUSED`].
    away: AtomicUsize,
    /// Times that a reactor had to stand still because there was no thread to take it over.
    stalls: AtomicU64,
    /// The waits of callbacks on these threads.
    waits: Arc<Waits>,
    turn: Turn,
}

/// What became of passing a core on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Passed {
    Done,
    /// Its epoch was over.
    Late,
    /// There is no thread for it.
    NoThread,
}

impl LoopThreads {
    /// No thread yet; each will run `turn` with a loop.
    pub(crate) fn new(turn: Turn, gather: Gather) -> Arc<Self> {
        Arc::new(Self {
            turn,
            pool: ThreadPool::new(ThreadPoolOptions {
                name: |number| format!("netpoll-spare-{number}"),
                what: "a spare thread, so callbacks that wait may fail",
                max_threads: usize::MAX,
                idle: IDLE,
            }),
            monitor: Monitor::new(),
            gatherer: Gatherer::new(gather),
            away: AtomicUsize::new(0),
            stalls: AtomicU64::new(0),
            waits: Waits::new(),
        })
    }

    /// Starts a reactor on a thread of its own.
    ///
    /// # Errors
    /// The system's, where it has no more threads.
    pub(crate) fn start(self: &Arc<Self>, name: String, core: Core) -> io::Result<()> {
        let (turn, takeover) = (self.turn, Takeover::by(self.clone()));
        self.pool.start(name, Box::new(move || turn(Baton::held(Loop::of(core, takeover)))))
    }

    /// Has a thread turn cores that another one has turned until now.
    ///
    /// # Errors
    /// The cores, where the system has no more threads.
    pub(super) fn start_more(self: Arc<Self>, batch: Batch) -> Result<(), Batch> {
        let Some(reserved) = self.pool.reserve() else { return Err(batch) };
        let (turn, takeover) = (self.turn, Takeover::by(self.clone()));
        if let Some(of) = Loop::of_batch(batch, takeover) {
            reserved.run(Box::new(move || turn(Baton::held(of))));
        }
        Ok(())
    }

    pub(crate) fn gatherer(&self) -> &Arc<Gatherer> {
        &self.gatherer
    }

    /// Has another thread take the baton over, if it still lies in that epoch.
    pub(crate) fn pass_on(
        &self,
        baton: &Arc<Baton<Loop>>,
        epoch: Epoch,
        cause: Cause,
        stalled: Duration,
    ) -> Passed {
        let reserve = || {
            let reserved = self.pool.reserve();
            if reserved.is_none() {
                self.stalls.fetch_add(1, Ordering::Relaxed);
                self.away.fetch_or(REFUSED, Ordering::SeqCst);
            }
            reserved
        };
        pass_on(baton, epoch, reserve, |reserved, held| {
            held.core.remote().counters.hand_off(cause, stalled);
            self.away.fetch_add(1, Ordering::SeqCst);
            let turn = self.turn;
            reserved.run(Box::new(move || turn(held)));
        })
    }

    /// The callback that cost a thread its core has ended.
    pub(crate) fn came_back(&self) {
        self.away.fetch_sub(1, Ordering::SeqCst);
    }

    /// The waits of callbacks on these threads.
    pub(crate) fn waits(&self) -> &Arc<Waits> {
        &self.waits
    }

    /// Ends all threads, waiting for those inside callbacks until `deadline`. Returns how many are
    /// left there.
    pub(crate) fn stop(&self, deadline: Option<Instant>) -> usize {
        self.gatherer.stop();
        self.monitor.stop();
        self.pool.stop(deadline)
    }

    pub(crate) fn stats(&self) -> HandOffStats {
        HandOffStats {
            threads: self.pool.threads(),
            threads_peak: self.pool.peak(),
            parked: self.pool.parked(),
            away: self.away(),
            stalls: self.stalls.load(Ordering::Relaxed),
            waits_ended: self.waits.ended(),
            monitor_looks: self.monitor.looks(),
            turning: self.gatherer.turning(),
            regrouped: self.gatherer.changes(),
        }
    }

    /// For [`may_run`], where there is no plain answer: whether a callback that is run on the
    /// reactor has a thread to be away on, if it should block.
    #[cold]
    fn has_thread_for(&self, scheduled: &Scheduled, terms: Terms) -> bool {
        let is_proven = scheduled.is_proven();
        if self.away.load(Ordering::SeqCst) & REFUSED != 0 && !is_proven && !self.may_start() {
            return false;
        }
        let most = if is_proven { terms.away_at_most } else { terms.away_unproven };
        self.away() < most
    }

    /// Whether there is a thread again, after the system has refused one.
    fn may_start(&self) -> bool {
        if self.pool.is_exhausted() {
            return false;
        }
        self.away.fetch_and(!REFUSED, Ordering::SeqCst);
        self.pool.keep_one_ready();
        if self.pool.parked() > 0 {
            return true;
        }
        self.away.fetch_or(REFUSED, Ordering::SeqCst);
        false
    }

    /// How many threads are inside callbacks that have lost their reactor.
    fn away(&self) -> usize {
        self.away.load(Ordering::SeqCst) & !REFUSED
    }
}

impl SpareThreads<Loop> for LoopThreads {
    fn take_over(
        &self,
        baton: &Arc<Baton<Loop>>,
        epoch: Epoch,
        cause: Cause,
        stalled: Duration,
    ) -> bool {
        self.pass_on(baton, epoch, cause, stalled) == Passed::Done
    }

    fn keep_one_ready(&self) {
        self.pool.keep_one_ready();
    }
}

/// What a loop knows of the threads that may take it over.
#[derive(Debug, Default)]
pub(crate) struct Takeover {
    /// None for a reactor that stays on its thread.
    threads: Option<Arc<LoopThreads>>,
    station: Arc<Station>,
    /// For how long the monitor lets it stand still; none while it is not watched.
    watched: Option<Duration>,
    /// It has run a callback since it last waited for events, and the monitor knows.
    is_active: bool,
    gatherer: Option<Arc<Gatherer>>,
    /// Turns while the gatherer sleeps, up to so many that wake it.
    turns: u32,
}

impl Takeover {
    fn by(threads: Arc<LoopThreads>) -> Self {
        let gatherer = threads.gatherer.clone();
        let station = gatherer.open_station();
        Self { threads: Some(threads), station, gatherer: Some(gatherer), ..Self::default() }
    }

    /// The same threads and the same station, for another baton.
    pub(super) fn anew(self) -> Self {
        let Self { threads, station, gatherer, .. } = self;
        Self { threads, station, gatherer, ..Self::default() }
    }

    pub(super) fn station(&self) -> &Arc<Station> {
        &self.station
    }

    pub(crate) fn threads(&self) -> Option<&Arc<LoopThreads>> {
        self.threads.as_ref()
    }

    /// This thread holds the core from here on.
    pub(crate) fn begin_hold(&self) {
        self.station.activity.set_holder(sys::thread_number());
    }

    /// The reactor is about to wait for events.
    pub(crate) fn begin_wait(&mut self) {
        if std::mem::replace(&mut self.is_active, false) {
            self.station.activity.set_idle(true);
        }
        if let Some(gatherer) = &self.gatherer
            && gatherer.is_asleep()
        {
            self.turns += 1;
            if self.turns >= TURNS {
                self.turns = 0;
                gatherer.wake();
            }
        }
    }

    /// It is about to run a callback.
    pub(crate) fn begin_callback(&mut self) {
        if self.is_active {
            return;
        }
        self.is_active = true;
        self.station.activity.set_idle(false);
        if let Some(threads) = &self.threads {
            threads.monitor.wake();
        }
    }

    /// Whether the core may be put down because the monitor makes sure that it does not lie for
    /// long.
    pub(crate) fn is_watched(&self) -> bool {
        self.watched.is_some()
    }

    /// A callback of this reactor has to go to the workers, since there is no thread for it here:
    /// makes sure that the next one finds a thread.
    #[cold]
    pub(crate) fn want_thread(&self) {
        if let Some(threads) = &self.threads {
            threads.waits.want_one();
        }
    }
}

/// Whether a callback may be run with the core put down: the monitor watches, and there may be one
/// more thread if the callback blocks.
pub(crate) fn may_run(held: &mut Held<Loop>, terms: Terms, next: &Scheduled) -> bool {
    if held.takeover.watched.is_none_or(|least| least > terms.threshold) && !enroll(held, terms) {
        return false;
    }
    let Some(threads) = &held.takeover.threads else { return false };
    threads.away.load(Ordering::Relaxed) < terms.away_unproven
        || threads.has_thread_for(next, terms)
}

fn enroll(held: &mut Held<Loop>, terms: Terms) -> bool {
    let (baton, Takeover { threads, station, .. }) = (held.baton().clone(), &held.takeover);
    let Some(threads) = threads else { return false };
    let watched = threads.monitor.enroll(threads, &baton, &station.activity, terms.threshold);
    if watched {
        held.takeover.watched = Some(terms.threshold);
    }
    watched
}

/// Passes a core that lies in `epoch` on to a thread that is reserved before the core is taken.
fn pass_on<T, S>(
    baton: &Arc<Baton<T>>,
    epoch: Epoch,
    reserve: impl FnOnce() -> Option<S>,
    run: impl FnOnce(S, Held<T>),
) -> Passed {
    let Some(reserved) = reserve() else {
        // Another caller that had a thread may have taken it meanwhile.
        return if baton.epoch() == Some(epoch) { Passed::NoThread } else { Passed::Late };
    };
    let Some(core) = baton.take(epoch) else { return Passed::Late };
    run(reserved, core);
    Passed::Done
}

#[cfg(all(test, loom))]
#[path = "takeover_tests.rs"]
mod tests;
