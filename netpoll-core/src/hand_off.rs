//! The hand-off: a reactor goes on with another thread when the callback that it is in takes long.
//!
//! ```text
//!    netpoll-loop-0   ─ turn ─ put down ─ callback, blocks ………………………………… lost it: parks
//!                                  │
//!                   before_waiting │ or the monitor
//!    netpoll-spare-1               └─ take ─ turn ─ put down ─ callback ─ take up ─ turn ──►
//! ```
//!
//! [`turn`] is what a thread does that holds a core; [`run`] is one callback of it. Both are the
//! same on the thread that started the reactor and on a spare, so it makes no difference which of
//! them has the core, and none of them is ever waited for.

use std::cell::{Cell, RefCell};
use std::io;
use std::ptr;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use crate::baton::{Baton, Held, Lap};
use crate::callbacks::{Panicked, guard};
use crate::connection::{Shared, schedule};
use crate::dispatch;
use crate::forecast::Conduct;
use crate::monitor::{COMPUTING, Monitor, Watch};
use crate::reactor::{Core, Remote};
use crate::runner::{self, Outcome};
use crate::spares::{Next, Spares};
use crate::stats::HandOffStats;
use crate::sync::{AtomicU64, AtomicUsize, Ordering};
use crate::sys::{self, Usage};
use crate::waits::{Listing, Waits};

/// Runs `block`, which may block, so that nobody waits for it: where the calling callback runs on
/// a reactor's thread, another thread goes on with the reactor.
///
/// Under `Dispatch::HandOff` a callback that blocks is found out by itself, but only after the
/// reactor has stood still for some 100 µs. This says so beforehand, for about 10 µs. The callback
/// stays on its thread. Anywhere else, on a worker, under `Dispatch::Inline` or outside of
/// callbacks, it only calls `block`.
///
/// ```
/// let answer = netpoll_core::block_in_place(|| {
///     std::thread::sleep(std::time::Duration::from_millis(1)); // a query to a database, say
///     42
/// });
/// assert_eq!(answer, 42);
/// ```
pub fn block_in_place<R>(block: impl FnOnce() -> R) -> R {
    // Without a thread that goes on with it the reactor stands still meanwhile, which is counted.
    let _: Permission = give_away(Cause::InPlace);
    block()
}

/// Whether a thread may wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Permission {
    /// It may: it has no reactor, or none any more.
    Granted,
    /// Its reactor would stand still: it holds the core, and no callback is what it is in.
    HoldsCore,
    /// The same, since the system refuses the thread that would go on with it.
    NoThread,
}

/// Why a core changed threads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cause {
    /// The callback waited in one of our calls.
    Waited,
    /// It said that it would block.
    InPlace,
    /// It blocked elsewhere.
    Blocked,
    /// It computed for long.
    Computed,
}

/// Stands in `Crew::away` while the system refuses threads: so one load tells both.
const REFUSED: usize = 1 << (usize::BITS - 1);

/// What became of passing a core on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Passed {
    Done,
    /// Its lap was over.
    Late,
    /// There is no thread for it.
    NoThread,
}

/// Passes a core that lies in `lap` on to a thread that is had before it is taken: a core that is
/// held by nobody who turns it serves nobody.
fn pass_on<T, S>(
    baton: &Arc<Baton<T>>,
    lap: Lap,
    reserve: impl FnOnce() -> Option<S>,
    go: impl FnOnce(S, Held<T>),
) -> Passed {
    let Some(spare) = reserve() else {
        // Whoever else had one may have taken it meanwhile.
        return if baton.lap() == Some(lap) { Passed::NoThread } else { Passed::Late };
    };
    let Some(core) = baton.take(lap) else { return Passed::Late };
    go(spare, core);
    Passed::Done
}

/// The threads behind the reactors of one manager: those that take over, and the one that sees
/// when. None of them is started before it is needed.
#[derive(Debug)]
pub(crate) struct Crew {
    pub(crate) spares: Arc<Spares>,
    pub(crate) monitor: Monitor,
    /// Threads whose core was taken and whose callback has not ended, and [`REFUSED`].
    away: AtomicUsize,
    /// Times that a reactor had to stand still because there was no thread to take it over.
    stalls: AtomicU64,
    /// Those of its threads.
    waits: Arc<Waits>,
}

impl Crew {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            spares: Spares::new(),
            monitor: Monitor::new(),
            away: AtomicUsize::new(0),
            stalls: AtomicU64::new(0),
            waits: Waits::new(),
        })
    }

    /// Starts a reactor on a thread of its own.
    ///
    /// # Errors
    /// The system's, where it has no more threads.
    pub(crate) fn start(&self, name: String, core: Core) -> io::Result<()> {
        self.spares.start(name, Box::new(move || turn(Baton::held(core))))
    }

    /// Has the baton taken over by a spare, if it still lies in that lap.
    pub(crate) fn take_over(
        &self,
        baton: &Arc<Baton<Core>>,
        lap: Lap,
        cause: Cause,
        stalled: Duration,
    ) -> Passed {
        let reserve = || {
            let spare = self.spares.reserve();
            if spare.is_none() {
                self.stalls.fetch_add(1, Ordering::Relaxed);
                self.away.fetch_or(REFUSED, Ordering::SeqCst);
            }
            spare
        };
        pass_on(baton, lap, reserve, |spare, core| {
            core.remote().counters.hand_off(cause, stalled);
            self.away.fetch_add(1, Ordering::SeqCst);
            spare.go(Box::new(move || turn(core)));
        })
    }

    /// As `may_run` asks where there is no plain answer: whether a callback that is run on the
    /// reactor has a thread to be away on, if it should block.
    #[cold]
    fn has_thread_for(&self, shared: &Shared, terms: Terms) -> bool {
        let is_proven = shared.is_proven();
        if self.away.load(Ordering::SeqCst) & REFUSED != 0 && !is_proven && !self.may_start() {
            return false;
        }
        let most = if is_proven { terms.away_at_most } else { terms.away_unproven };
        self.away() < most
    }

    /// Whether there is a spare again, after the system has refused one.
    fn may_start(&self) -> bool {
        if self.spares.is_refused() {
            return false;
        }
        self.away.fetch_and(!REFUSED, Ordering::SeqCst);
        self.spares.keep_one_ready();
        if self.spares.parked() > 0 {
            return true;
        }
        self.away.fetch_or(REFUSED, Ordering::SeqCst);
        false
    }

    /// How many threads are inside callbacks that have lost their reactor.
    fn away(&self) -> usize {
        self.away.load(Ordering::SeqCst) & !REFUSED
    }

    /// Ends all threads, waiting for those inside callbacks until `deadline`. Returns how many are
    /// left there.
    pub(crate) fn stop(&self, deadline: Option<Instant>) -> usize {
        self.monitor.stop();
        self.spares.stop(deadline)
    }

    pub(crate) fn stats(&self) -> HandOffStats {
        HandOffStats {
            threads: self.spares.threads(),
            threads_peak: self.spares.peak(),
            parked: self.spares.parked(),
            away: self.away(),
            stalls: self.stalls.load(Ordering::Relaxed),
            waits_ended: self.waits.ended(),
            monitor_looks: self.monitor.looks(),
        }
    }
}

thread_local! {
    /// The reactor that this thread turns, or turned until it lost the core in this callback.
    static SEAT: RefCell<Option<Seat>> = const { RefCell::new(None) };
    static HANDS: Cell<Hands> = const { Cell::new(Hands::Free) };
    /// The reactor of the callback that this thread is in, where it has not turned that reactor.
    static HOME: Cell<*const Remote> = const { Cell::new(ptr::null()) };
    /// The callback that this thread is in has waited in one of our calls.
    static WAITED: Cell<bool> = const { Cell::new(false) };
}

/// What a thread has of a reactor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hands {
    /// Nothing, or nothing any more: nobody waits for it.
    Free,
    /// The core.
    Core,
    /// The core, which it has put down for the callback that it is in, for that lap; somebody else
    /// may have taken it.
    PutDown(Lap),
}

struct Seat {
    baton: Arc<Baton<Core>>,
    /// Weak, since a retired reactor ends when nobody else can reach it.
    remote: Weak<Remote>,
    crew: Option<Arc<Crew>>,
}

/// Restores what this thread did before: a callback may serve another event loop.
struct Seated {
    before: (Option<Seat>, Hands),
    _listing: Listing,
}

impl Seated {
    fn at(core: &Held<Core>) -> Self {
        let seat = Seat {
            baton: core.baton().clone(),
            remote: Arc::downgrade(core.remote()),
            crew: core.backing.crew.clone(),
        };
        let listing = Listing::at(seat.crew.as_ref().map(|crew| &crew.waits));
        Self { before: (replace_seat(Some(seat)), HANDS.replace(Hands::Core)), _listing: listing }
    }
}

impl Drop for Seated {
    fn drop(&mut self) {
        let seat = self.before.0.take();
        drop(replace_seat(seat));
        HANDS.set(self.before.1);
    }
}

/// Looks at the seat. There is none on a thread that ends, where destructors of the user's
/// thread-locals may still call us.
fn with_seat<R>(look: impl FnOnce(&Seat) -> R) -> Option<R> {
    SEAT.try_with(|seat| seat.borrow().as_ref().map(look)).ok().flatten()
}

fn replace_seat(next: Option<Seat>) -> Option<Seat> {
    SEAT.try_with(|seat| seat.replace(next)).ok().flatten()
}

/// Turns a reactor on this thread until it ends, or until another thread has taken it over.
pub(crate) fn turn(core: Held<Core>) -> Next {
    let (_seated, baton) = (Seated::at(&core), core.baton().clone());
    guard("a loop, outside of callbacks", || go_on(core)).unwrap_or_else(|Panicked| {
        // What it was about to do is not known, so its connections end.
        HANDS.set(Hands::Free);
        if let Some(core) = baton.take_abandoned().and_then(Held::into_inner) {
            core.fail(io::Error::other("a panic outside of callbacks"));
        }
        Next::Leave
    })
}

fn go_on(mut core: Held<Core>) -> Next {
    core.backing.watch.set_holder(sys::thread_number());
    core.change_threads();
    while let Some(scheduled) = core.next() {
        match dispatch::run(core, scheduled) {
            Some(kept) => core = kept,
            None => return Next::Park,
        }
    }
    if let Some(core) = core.into_inner() {
        HANDS.set(Hands::Free);
        core.end();
    }
    Next::Leave
}

/// Whether this thread is inside a callback of that reactor.
pub(crate) fn is_inside(remote: &Arc<Remote>) -> bool {
    let home = Arc::as_ptr(remote);
    HOME.get() == home || with_seat(|seat| seat.remote.as_ptr() == home).unwrap_or(false)
}

/// Runs a connection of that reactor on a worker.
pub(crate) fn run_for<R>(remote: &Arc<Remote>, run: impl FnOnce() -> R) -> R {
    HOME.set(Arc::as_ptr(remote));
    let outcome = run();
    HOME.set(ptr::null());
    outcome
}

/// Runs a scheduled connection on this thread, the core put down meanwhile. Returns the core,
/// unless another thread has it by now.
pub(crate) fn run(mut core: Held<Core>, shared: Arc<Shared>) -> Option<Held<Core>> {
    core.backing.begin_callback();
    let lying = core.put_down();
    HANDS.set(Hands::PutDown(lying.lap()));
    let (outcome, work) = runner::run_counted(&shared);
    HANDS.set(Hands::Core);
    let waited = WAITED.take();
    let Some(mut core) = lying.take_up() else {
        HANDS.set(Hands::Free);
        shared.home.traffic.add(work);
        shared.note(if waited { Conduct::Waited } else { Conduct::Blocked });
        if outcome == Outcome::Again {
            schedule(&shared);
        }
        came_back();
        return None;
    };
    core.remote().counters.add(work);
    shared.note(Conduct::Returned);
    if outcome == Outcome::Again {
        core.run_again(shared);
    }
    Some(core)
}

/// The callback that cost this thread its core has ended.
fn came_back() {
    with_seat(|seat| {
        if let Some(crew) = &seat.crew {
            crew.away.fetch_sub(1, Ordering::SeqCst);
        }
    });
}

/// Passes the reactor of this thread on to another, if it has one, and says whether it goes on.
pub(crate) fn give_away(cause: Cause) -> Permission {
    WAITED.set(true);
    let lap = match HANDS.get() {
        Hands::Free => return Permission::Granted,
        Hands::Core => return Permission::HoldsCore,
        Hands::PutDown(lap) => lap,
    };
    let passed = with_seat(|seat| {
        let crew = seat.crew.as_ref()?;
        Some(crew.take_over(&seat.baton, lap, cause, Duration::ZERO))
    });
    match passed.flatten() {
        Some(Passed::Done | Passed::Late) => {
            HANDS.set(Hands::Free);
            Permission::Granted
        }
        // It lies there still: the monitor takes it when there is a thread.
        Some(Passed::NoThread) | None => {
            with_seat(|seat| seat.crew.as_ref().map(|crew| crew.waits.want_one()));
            Permission::NoThread
        }
    }
}

/// A callback of this reactor has to go to the workers, since there is no thread for it here: has
/// the next find one.
#[cold]
pub(crate) fn want_thread(core: &Held<Core>) {
    if let Some(crew) = &core.backing.crew {
        crew.waits.want_one();
    }
}

/// What a core knows of the threads that may take it over.
#[derive(Debug, Default)]
pub(crate) struct Backing {
    /// None for a reactor that stays on its thread.
    crew: Option<Arc<Crew>>,
    watch: Arc<Watch>,
    /// For how long the monitor lets it stand still; none while it is not watched.
    watched: Option<Duration>,
    /// It has run a callback since it last waited for events, and the monitor knows.
    astir: bool,
}

impl Backing {
    pub(crate) fn of(crew: Arc<Crew>) -> Self {
        Self { crew: Some(crew), ..Self::default() }
    }

    /// The reactor is going to wait for events.
    pub(crate) fn begin_wait(&mut self) {
        if std::mem::replace(&mut self.astir, false) {
            self.watch.set_idle(true);
        }
    }

    /// It is going to run a callback.
    fn begin_callback(&mut self) {
        if self.astir {
            return;
        }
        self.astir = true;
        self.watch.set_idle(false);
        if let Some(crew) = &self.crew {
            crew.monitor.rouse();
        }
    }
}

/// What an event loop asks of those who hand its reactors over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Terms {
    /// How long a callback may block before its core is taken away.
    pub(crate) threshold: Duration,
    /// How many callbacks may be away at once; beyond it the next go to the workers.
    away_at_most: usize,
    /// How many of them while the next is of a connection that has not shown that it returns.
    away_unproven: usize,
}

impl Terms {
    pub(crate) fn new(threshold: Duration, max_threads: usize) -> Self {
        let away_unproven = max_threads - kept_of(max_threads);
        Self { threshold, away_at_most: max_threads, away_unproven }
    }
}

/// How many of so many threads are kept for callbacks of connections that have shown that they
/// return: slow peers don't get them, however many there are.
pub(crate) const fn kept_of(max_threads: usize) -> usize {
    max_threads / 8
}

/// Whether a callback may be run with the core put down: somebody watches, and there may be one
/// more thread if it blocks.
pub(crate) fn may_run(core: &mut Held<Core>, terms: Terms, shared: &Shared) -> bool {
    if core.backing.watched.is_none_or(|least| least > terms.threshold) && !enroll(core, terms) {
        return false;
    }
    let Some(crew) = &core.backing.crew else { return false };
    crew.away.load(Ordering::Relaxed) < terms.away_unproven || crew.has_thread_for(shared, terms)
}

/// Whether the core may be put down because somebody sees to it that it does not lie for long.
pub(crate) fn is_watched(core: &Held<Core>) -> bool {
    core.backing.watched.is_some()
}

fn enroll(core: &mut Held<Core>, terms: Terms) -> bool {
    let (baton, Backing { crew, watch, .. }) = (core.baton().clone(), &core.backing);
    let Some(crew) = crew else { return false };
    let watched =
        core.may_change_threads() && crew.monitor.enroll(crew, &baton, watch, terms.threshold);
    if watched {
        core.backing.watched = Some(terms.threshold);
    }
    watched
}

/// Runs a connection on a worker of a pool, and notes whether it waited in one of our calls: so is
/// known which connections wait for slow peers.
pub(crate) fn run_on_pool(shared: &Arc<Shared>) -> Outcome {
    let outcome = runner::run(shared);
    let conduct = if WAITED.take() { Conduct::Waited } else { Conduct::Returned };
    shared.note_alone(conduct);
    outcome
}

/// Times the callbacks of a worker, and tells those that blocked from those that the system kept
/// from a core.
#[derive(Debug)]
pub(crate) struct Stopwatch {
    threshold: Duration,
    mark: Usage,
    runs: u32,
}

impl Stopwatch {
    pub(crate) fn new(threshold: Duration) -> Self {
        Self { threshold, mark: sys::usage(), runs: 0 }
    }

    /// The worker has slept until there was something to do.
    pub(crate) fn slept(&mut self) {
        self.mark = sys::usage();
        self.runs = 0;
    }

    /// Runs a connection, and notes what its callback did.
    pub(crate) fn run(&mut self, shared: &Arc<Shared>) -> Outcome {
        self.runs += 1;
        if self.runs >= RUNS_PER_MARK {
            self.slept();
        }
        let begun = Instant::now();
        let outcome = runner::run(shared);
        let conduct = if WAITED.take() { Conduct::Waited } else { self.judge(begun.elapsed()) };
        shared.note(conduct);
        outcome
    }

    fn judge(&mut self, took: Duration) -> Conduct {
        if took < self.threshold {
            return Conduct::Returned;
        }
        let before = self.mark;
        self.slept();
        let computed = self.mark.computed.saturating_sub(before.computed);
        let computes = computed >= self.threshold.saturating_mul(COMPUTING);
        if computes || self.mark.waits > before.waits {
            Conduct::Blocked
        } else {
            Conduct::Returned
        }
    }
}

/// After so many callbacks in a row the mark is renewed: together they must not look like one that
/// computes for long, and each of them takes less than a threshold.
const RUNS_PER_MARK: u32 = COMPUTING;

#[cfg(all(test, loom))]
#[path = "hand_off_tests.rs"]
mod tests;
