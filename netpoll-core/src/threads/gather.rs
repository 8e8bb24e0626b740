//! The gatherer: a thread that measures the loops of a manager, and decides how many threads turn
//! them.
//!
//! ```text
//!     loops ── turns ──► wake ──► samples ──► pure/gather.rs ──► orders ──► stations
//!                                 each 20 ms, while the loops turn
//! ```
//! It takes no core itself: it gives orders to the threads that hold them ([`station`]), one at a
//! time, and sees at a later tick what has become of it. It is started by the first turns of the
//! loops, and sleeps while they turn less often than [`QUIET`]: so a server without load makes no
//! system call. Where it can't be started, or can't measure, each loop keeps its thread.
//!
//! [`station`]: super::station

mod samples;

use std::fmt;
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;

use super::options::Gather;
use super::pool::Starter;
use super::station::{Order, Station};
use crate::base::clock;
use crate::base::panic::{guard, join};
use crate::base::sync::{AtomicBool, AtomicU64, Condvar, Mutex, Ordering, lock, wait_until};
use crate::io::driver_set::DriverSet;
use crate::pure::gather::{Gathering, TICK};
use samples::{Measured, Samples};

/// It sleeps after so many ticks in which the loops turned less often than this.
const QUIET: u64 = 20;
const QUIET_FOR: u32 = 5;
/// After so many ticks that could not be measured in a row each loop gets its thread.
const UNMEASURED: u32 = 25;

/// See the module.
pub(crate) struct Gatherer {
    state: Mutex<State>,
    changed: Condvar,
    /// It has to be woken: it sleeps, or its thread is not started.
    asleep: AtomicBool,
    stations: Mutex<Vec<Weak<Station>>>,
    changes: AtomicU64,
    starter: Starter,
}

struct State {
    gather: Gather,
    thread: Option<JoinHandle<()>>,
    stopping: bool,
    /// The threads that a test asks for.
    forced: Option<usize>,
}

impl Gatherer {
    pub(crate) fn new(gather: Gather) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State { gather, thread: None, stopping: false, forced: None }),
            changed: Condvar::new(),
            asleep: AtomicBool::new(false),
            stations: Mutex::new(Vec::new()),
            changes: AtomicU64::new(0),
            starter: Starter::new("the gatherer, so each loop keeps a thread of its own"),
        })
    }

    /// There may be several loops from now on: their turns wake it, if it may gather them.
    pub(crate) fn allow(&self) {
        if lock(&self.state).gather != Gather::Never && !lock(&self.stations).is_empty() {
            self.asleep.store(true, Ordering::Relaxed);
        }
    }

    pub(super) fn open_station(&self) -> Arc<Station> {
        let station = Arc::<Station>::default();
        let mut all = lock(&self.stations);
        all.retain(|it| it.strong_count() > 0);
        all.push(Arc::downgrade(&station));
        station
    }

    /// For a loop, which counts turns for it if so.
    #[inline]
    pub(super) fn is_asleep(&self) -> bool {
        self.asleep.load(Ordering::Relaxed)
    }

    /// For a loop that has turned for a while.
    #[cold]
    pub(super) fn wake(self: &Arc<Self>) {
        if !self.asleep.swap(false, Ordering::SeqCst) {
            return;
        }
        let mut state = lock(&self.state);
        if state.thread.is_none() && !state.stopping {
            let gatherer = self.clone();
            let run = move || {
                guard("the gatherer", || gatherer.run()).ok();
            };
            // Without a thread it is not asked again: loops keep theirs.
            state.thread = self.starter.start("netpoll-gather".into(), run).ok();
        }
        drop(state);
        self.starter.tell();
        self.changed.notify_all();
    }

    /// Ends the thread and waits for it. No order is given after this.
    pub(crate) fn stop(&self) {
        self.asleep.store(false, Ordering::SeqCst);
        let thread = {
            let mut state = lock(&self.state);
            state.stopping = true;
            state.thread.take()
        };
        self.changed.notify_all();
        if let Some(thread) = thread {
            join(thread);
        }
    }

    /// How many threads turn loops.
    pub(crate) fn turning(&self) -> usize {
        self.stations().iter().filter(|station| !station.loops().is_empty()).count()
    }

    /// How often it has had loops change threads.
    pub(crate) fn changes(&self) -> u64 {
        self.changes.load(Ordering::Relaxed)
    }

    /// See [`PollManager::gather_on`](super::manager::PollManager::gather_on).
    pub(crate) fn force(self: &Arc<Self>, threads: usize) {
        lock(&self.state).forced = Some(threads);
        self.asleep.store(true, Ordering::SeqCst);
        self.wake();
    }

    fn stations(&self) -> Vec<Arc<Station>> {
        lock(&self.stations).iter().filter_map(Weak::upgrade).collect()
    }

    /// The life of its thread.
    fn run(&self) {
        let mut samples = Samples::default();
        let (mut gathering, mut wanted) = (Gathering::default(), None);
        let (mut quiet, mut unmeasured) = (0, 0);
        while let Some(forced) = self.pause(quiet >= QUIET_FOR) {
            if quiet >= QUIET_FOR {
                (quiet, unmeasured) = (0, 0);
                samples.forget();
                gathering.forget();
            }
            let stations: Vec<_> =
                self.stations().into_iter().filter(|it| !it.loops().is_empty()).collect();
            if let Some(forced) = forced {
                self.approach(&stations, &samples, forced);
                continue;
            }
            match samples.take(&stations) {
                Measured::Sample { sample, turns } => {
                    quiet = if turns < QUIET { quiet + 1 } else { 0 };
                    unmeasured = 0;
                    let threads = gathering.tick(sample).map(|threads| threads as usize);
                    wanted = threads.or(wanted);
                }
                Measured::First => {}
                Measured::Nothing => unmeasured += 1,
                Measured::Never => {
                    let loops = stations.iter().map(|it| it.loops().len()).sum();
                    self.approach(&stations, &samples, loops);
                    if stations.len() >= loops {
                        return; // it is not woken any more
                    }
                }
            }
            if unmeasured >= UNMEASURED {
                gathering.forget();
                wanted = Some(usize::MAX);
            }
            if let Some(threads) = wanted
                && !self.approach(&stations, &samples, threads)
            {
                wanted = None;
            }
        }
    }

    /// Waits for the next tick; sleeps until it is woken, if all is quiet. Returns what a test asks
    /// for; `None` ends the thread.
    #[expect(clippy::option_option, reason = "the outer one is whether to go on")]
    fn pause(&self, quiet: bool) -> Option<Option<usize>> {
        let mut state = lock(&self.state);
        if quiet && state.forced.is_none() {
            self.asleep.store(true, Ordering::SeqCst);
            while self.asleep.load(Ordering::SeqCst) && !state.stopping {
                state = wait_until(&self.changed, state, None).0;
            }
        }
        let (until, before) = (clock::now() + TICK, state.forced);
        let mut late = false;
        while !late && !state.stopping && state.forced == before {
            (state, late) = wait_until(&self.changed, state, Some(until));
        }
        (!state.stopping).then_some(state.forced)
    }

    /// Gives the next order towards so many threads, unless one is still under way. Says whether
    /// there is more to do.
    fn approach(&self, stations: &[Arc<Station>], samples: &Samples, threads: usize) -> bool {
        if stations.iter().any(|it| it.is_busy()) {
            return true;
        }
        let load = |station: &&Arc<Station>| samples.load_of(station);
        let several = |station: &&Arc<Station>| station.loops().len() > 1;
        let (station, order) = if stations.len() > threads.max(1) {
            let Some(least) = stations.iter().min_by_key(load) else { return false };
            let others = stations.iter().filter(|it| !Arc::ptr_eq(it, least));
            let Some(to) = others.min_by_key(load) else { return false };
            let Some(set) = Self::open_set() else { return false };
            (least, Order::Join(to.clone(), set))
        } else if stations.len() < threads
            && let Some(most) = stations.iter().filter(several).max_by_key(load)
        {
            let Some(set) = Self::open_set() else { return false };
            (most, Order::Part(most.loops().len() / 2, set))
        } else {
            return false;
        };
        self.changes.fetch_add(1, Ordering::Relaxed);
        station.order(order);
        true
    }

    fn open_set() -> Option<DriverSet> {
        DriverSet::new()
            .inspect_err(|error| log::debug!("cannot watch loops together: {error}"))
            .ok()
    }
}

impl fmt::Debug for Gatherer {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Gatherer")
            .field("asleep", &self.asleep.load(Ordering::Relaxed))
            .field("changes", &self.changes())
            .finish_non_exhaustive()
    }
}
