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

use super::monitor::{Monitor, Watch};
use crate::base::blocking::{self, Hook, Permission};
use crate::base::stats::{Cause, HandOffStats};
use crate::base::sync::{AtomicU64, AtomicUsize, Ordering};
use crate::base::waits::{Listing, Waits};
use crate::connection::mailbox::Remote;
use crate::connection::run::{self, Outcome};
use crate::connection::schedule::Terms;
use crate::connection::{Shared, schedule};
use crate::pure::baton::{Baton, Epoch, Held};
use crate::pure::placement::Behaviour;
use crate::reactor::Core;
use crate::sys;
use crate::threads::pool::{Next, ThreadPool, ThreadPoolOptions};

/// What changes threads as one value: a reactor's core, and what is known of the threads behind it.
#[derive(Debug)]
pub(crate) struct Loop {
    pub(crate) core: Core,
    pub(crate) backing: Backing,
}

/// What a thread does with a loop that it is given.
pub(crate) type Turn = fn(Held<Loop>) -> Next;

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
    let _: Permission = blocking::about_to_wait(Cause::InPlace);
    block()
}

/// How long a thread without a reactor stays.
const IDLE: Duration = Duration::from_secs(10);
/// Stands in `Crew::away` while the system refuses threads: so one load tells both.
const REFUSED: usize = 1 << (usize::BITS - 1);

/// What became of passing a core on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Passed {
    Done,
    /// Its epoch was over.
    Late,
    /// There is no thread for it.
    NoThread,
}

/// Passes a core that lies in `epoch` on to a thread that is had before it is taken: a core that is
/// held by nobody who turns it serves nobody.
fn pass_on<T, S>(
    baton: &Arc<Baton<T>>,
    epoch: Epoch,
    reserve: impl FnOnce() -> Option<S>,
    go: impl FnOnce(S, Held<T>),
) -> Passed {
    let Some(spare) = reserve() else {
        // Whoever else had one may have taken it meanwhile.
        return if baton.epoch() == Some(epoch) { Passed::NoThread } else { Passed::Late };
    };
    let Some(core) = baton.take(epoch) else { return Passed::Late };
    go(spare, core);
    Passed::Done
}

/// The threads behind the reactors of one manager: those that take over, and the one that sees
/// when. None of them is started before it is needed.
#[derive(Debug)]
pub(crate) struct Crew {
    pub(crate) pool: Arc<ThreadPool>,
    pub(crate) monitor: Monitor,
    /// Threads whose core was taken and whose callback has not ended, and [`REFUSED`].
    away: AtomicUsize,
    /// Times that a reactor had to stand still because there was no thread to take it over.
    stalls: AtomicU64,
    /// Those of its threads.
    waits: Arc<Waits>,
    turn: Turn,
}

impl Crew {
    pub(crate) fn new(turn: Turn) -> Arc<Self> {
        Arc::new(Self {
            turn,
            pool: ThreadPool::new(ThreadPoolOptions {
                name: |number| format!("netpoll-spare-{number}"),
                what: "a spare thread, so callbacks that wait may fail",
                max_threads: usize::MAX,
                idle: IDLE,
            }),
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
    pub(crate) fn start(self: &Arc<Self>, name: String, core: Core) -> io::Result<()> {
        let (turn, backing) = (self.turn, Backing::of(self.clone()));
        self.pool.start(name, Box::new(move || turn(Baton::held(Loop { core, backing }))))
    }

    /// Has the baton taken over by a spare, if it still lies in that epoch.
    pub(crate) fn take_over(
        &self,
        baton: &Arc<Baton<Loop>>,
        epoch: Epoch,
        cause: Cause,
        stalled: Duration,
    ) -> Passed {
        let reserve = || {
            let spare = self.pool.reserve();
            if spare.is_none() {
                self.stalls.fetch_add(1, Ordering::Relaxed);
                self.away.fetch_or(REFUSED, Ordering::SeqCst);
            }
            spare
        };
        pass_on(baton, epoch, reserve, |spare, held| {
            held.core.remote().counters.hand_off(cause, stalled);
            self.away.fetch_add(1, Ordering::SeqCst);
            let turn = self.turn;
            spare.run(Box::new(move || turn(held)));
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

    /// Ends all threads, waiting for those inside callbacks until `deadline`. Returns how many are
    /// left there.
    pub(crate) fn stop(&self, deadline: Option<Instant>) -> usize {
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
        }
    }
}

thread_local! {
    /// The reactor that this thread turns, or turned until it lost the core in this callback.
    static SEAT: RefCell<Option<Seat>> = const { RefCell::new(None) };
    static HANDS: Cell<Hands> = const { Cell::new(Hands::Free) };
    /// The reactor of the callback that this thread is in, where it has not turned that reactor.
    static REACTOR: Cell<*const Remote> = const { Cell::new(ptr::null()) };
}

/// What a thread has of a reactor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hands {
    /// Nothing, or nothing any more: nobody waits for it.
    Free,
    /// The core.
    Core,
    /// The core, which it has put down for the callback that it is in, for that epoch; somebody
    /// else may have taken it.
    PutDown(Epoch),
}

struct Seat {
    baton: Arc<Baton<Loop>>,
    /// Weak, since a retired reactor ends when nobody else can reach it.
    remote: Weak<Remote>,
    crew: Option<Arc<Crew>>,
}

/// Restores what this thread did before: a callback may serve another event loop.
pub(crate) struct Seated {
    before: (Option<Seat>, Hands, Option<Hook>),
    _listing: Listing,
}

impl Seated {
    pub(crate) fn at(held: &Held<Loop>) -> Self {
        let seat = Seat {
            baton: held.baton().clone(),
            remote: Arc::downgrade(held.core.remote()),
            crew: held.backing.crew.clone(),
        };
        let listing = Listing::at(seat.crew.as_ref().map(|crew| &crew.waits));
        let hook = blocking::replace_hook(Some(give_away));
        let before = (replace_seat(Some(seat)), HANDS.replace(Hands::Core), hook);
        Self { before, _listing: listing }
    }

    /// This thread has no core any more, and nothing waits for it.
    pub(crate) fn let_go() {
        HANDS.set(Hands::Free);
    }
}

impl Drop for Seated {
    fn drop(&mut self) {
        let seat = self.before.0.take();
        drop(replace_seat(seat));
        HANDS.set(self.before.1);
        blocking::replace_hook(self.before.2);
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

/// Whether this thread is inside a callback of that reactor.
pub(crate) fn is_inside(remote: &Arc<Remote>) -> bool {
    let reactor = Arc::as_ptr(remote);
    REACTOR.get() == reactor || with_seat(|seat| seat.remote.as_ptr() == reactor).unwrap_or(false)
}

/// Runs a connection of that reactor on a worker.
pub(crate) fn run_for<R>(remote: &Arc<Remote>, run: impl FnOnce() -> R) -> R {
    REACTOR.set(Arc::as_ptr(remote));
    let outcome = run();
    REACTOR.set(ptr::null());
    outcome
}

/// Runs a scheduled connection on this thread, the core put down meanwhile. Returns the core,
/// unless another thread has it by now.
pub(crate) fn run(mut held: Held<Loop>, shared: Arc<Shared>) -> Option<Held<Loop>> {
    held.backing.begin_callback();
    let lying = held.put_down();
    HANDS.set(Hands::PutDown(lying.epoch()));
    let (outcome, work) = run::run_counted(&shared);
    HANDS.set(Hands::Core);
    let waited = blocking::take_waited();
    let Some(mut held) = lying.take_up() else {
        HANDS.set(Hands::Free);
        shared.reactor.traffic.add(work);
        shared.note(if waited { Behaviour::Waited } else { Behaviour::Blocked });
        if outcome == Outcome::Again {
            schedule(&shared);
        }
        came_back();
        return None;
    };
    held.core.remote().counters.add(work);
    shared.note(Behaviour::Returned);
    if outcome == Outcome::Again {
        held.core.run_again(shared);
    }
    Some(held)
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
fn give_away(cause: Cause) -> Permission {
    let epoch = match HANDS.get() {
        Hands::Free => return Permission::Granted,
        Hands::Core => return Permission::HoldsCore,
        Hands::PutDown(epoch) => epoch,
    };
    let passed = with_seat(|seat| {
        let crew = seat.crew.as_ref()?;
        Some(crew.take_over(&seat.baton, epoch, cause, Duration::ZERO))
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
pub(crate) fn want_thread(held: &Held<Loop>) {
    if let Some(crew) = &held.backing.crew {
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

    /// This thread holds the core from here on.
    pub(crate) fn begin_hold(&self) {
        self.watch.set_holder(sys::thread_number());
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

/// Whether a callback may be run with the core put down: somebody watches, and there may be one
/// more thread if it blocks.
pub(crate) fn may_run(held: &mut Held<Loop>, terms: Terms, shared: &Shared) -> bool {
    if held.backing.watched.is_none_or(|least| least > terms.threshold) && !enroll(held, terms) {
        return false;
    }
    let Some(crew) = &held.backing.crew else { return false };
    crew.away.load(Ordering::Relaxed) < terms.away_unproven || crew.has_thread_for(shared, terms)
}

/// Whether the core may be put down because somebody sees to it that it does not lie for long.
pub(crate) fn is_watched(held: &Held<Loop>) -> bool {
    held.backing.watched.is_some()
}

fn enroll(held: &mut Held<Loop>, terms: Terms) -> bool {
    let (baton, Backing { crew, watch, .. }) = (held.baton().clone(), &held.backing);
    let Some(crew) = crew else { return false };
    let watched =
        held.core.may_change_threads() && crew.monitor.enroll(crew, &baton, watch, terms.threshold);
    if watched {
        held.backing.watched = Some(terms.threshold);
    }
    watched
}

#[cfg(all(test, loom))]
#[path = "hand_off_tests.rs"]
mod tests;
