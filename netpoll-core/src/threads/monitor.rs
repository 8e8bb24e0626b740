//! The monitor: one thread that sees which reactor has stood still for too long, and has it taken
//! over.
//!
//! It looks at the batons of all reactors of a manager. One that lies in the same epoch as at an
//! earlier look has spent all the time between in one callback. Whether that callback *blocks* only
//! the system knows:
//!
//! ```text
//!     the thread of the callback     is looked at again     and loses its core
//!     sleeps                         after a threshold      if it sleeps still; at once where
//!                                                           others have blocked just now
//!     runs, or waits for a core      after ten              if it has computed for so long
//! ```
//! One that waits for a processor is left alone, since its successor would wait just so.
//!
//! That a thread sleeps is read in procfs, in a file that stays open while it has the core. Where
//! that is not possible the clock of the thread tells: one that has stood still for a threshold is
//! that of a thread that sleeps. It may also be that of one that waits for a processor; then its
//! core is taken though that helps nobody. Where clocks are denied as well, ten thresholds in one
//! callback are enough.
//!
//! # How often it looks
//!
//! A look costs about 15 µs: two changes of threads, and, where it takes a processor from a
//! reactor, what the caches lose by them. At a steal rate `r` a pause of `t` makes each blocking
//! callback be seen `t / 2` late on average, in which its reactor stands still. The sum of both in
//! each second, `15 µs / t + r · t / 2`, is least at `t = sqrt(2 · 15 µs / r)`. That is the pause,
//! between 50 µs and 10 ms, where `r` is what was taken within the last quarter of a second or so.
//! After a sleep it begins with 50 µs and doubles from there (as Go's `sysmon` does). Where all
//! reactors wait for events it sleeps, and the first that runs a callback rouses it.

mod cadence;

use std::fmt;
use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::hand_off::{Crew, Loop, Passed};
use crate::base::clock;
use crate::base::panic::join;
use crate::base::stats::Cause;
use crate::base::sync::{
    AtomicBool, AtomicU32, AtomicU64, Condvar, Mutex, MutexGuard, Ordering, lock, wait_until,
};
use crate::pure::baton::{Baton, Epoch};
use crate::sys::{self, TimerSlack};
use crate::threads::asleep::{Clock, StateReader, ThreadClock};
use crate::threads::pool::Starter;
use cadence::{Cadence, LONGEST};

/// Where steals come more often than this, in a second, who sleeps is believed to sleep for long.
const OFTEN: f64 = 1.0;
/// A callback that computes is let go on for so many thresholds: to take its core costs two changes
/// of threads, and where all processors are busy gains nothing.
pub(crate) const COMPUTING: u32 = 10;

/// See the module.
pub(crate) struct Monitor {
    state: Mutex<State>,
    changed: Condvar,
    /// It waits for somebody to rouse it.
    asleep: AtomicBool,
    looks: AtomicU64,
    starter: Starter,
}

struct State {
    /// Who is to be watched from the next look on.
    newcomers: Vec<Watched>,
    /// The least that anybody asked for.
    threshold: Duration,
    thread: Option<JoinHandle<()>>,
    stopping: bool,
}

/// What a reactor lets the monitor know.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    /// It has run no callback since it last waited for events.
    idle: AtomicBool,
    /// The number of the thread that holds its core, or put it down last.
    holder: AtomicU32,
}

struct Watched {
    baton: Arc<Baton<Loop>>,
    watch: Arc<Watch>,
    seen: Option<Sighting>,
    /// The epoch that it was in, or had behind it, at the last look.
    epochs: u64,
    /// Keeps the file of the thread that was found in a callback last; none while the monitor
    /// sleeps.
    state: StateReader,
}

/// A baton that lay there.
#[derive(Clone, Copy)]
struct Sighting {
    epoch: Epoch,
    since: Instant,
    /// What its thread had computed when it was first found awake.
    computed: Option<Duration>,
    /// Used only where the state of its thread can't be read.
    clock: ThreadClock,
}

impl Watch {
    /// Whether the reactor has no callback that could block. Between `false` and the callback the
    /// monitor is to be roused.
    pub(crate) fn set_idle(&self, idle: bool) {
        self.idle.store(idle, Ordering::SeqCst);
    }

    pub(crate) fn set_holder(&self, number: i32) {
        self.holder.store(number.cast_unsigned(), Ordering::Relaxed);
    }

    fn holder(&self) -> i32 {
        self.holder.load(Ordering::Relaxed).cast_signed()
    }
}

impl Monitor {
    pub(crate) fn new() -> Self {
        Self {
            state: Mutex::new(State {
                newcomers: Vec::new(),
                threshold: Duration::MAX,
                thread: None,
                stopping: false,
            }),
            changed: Condvar::new(),
            asleep: AtomicBool::new(false),
            looks: AtomicU64::new(0),
            starter: Starter::new("the monitor, so all callbacks go to workers"),
        }
    }

    /// Watches a reactor from now on, so that no callback keeps it for longer than `threshold`.
    /// `false`: there is no thread to do so.
    pub(crate) fn enroll(
        &self,
        crew: &Arc<Crew>,
        baton: &Arc<Baton<Loop>>,
        watch: &Arc<Watch>,
        threshold: Duration,
    ) -> bool {
        let mut state = lock(&self.state);
        if state.stopping || !state.start(crew) {
            drop(state);
            self.starter.tell();
            return false;
        }
        state.threshold = state.threshold.min(threshold);
        state.newcomers.push(Watched::new(baton.clone(), watch.clone()));
        drop(state);
        self.rouse();
        true
    }

    /// For a reactor that runs its first callback after a wait. Costs a load while the monitor is
    /// awake.
    pub(crate) fn rouse(&self) {
        if self.asleep.load(Ordering::SeqCst) && self.asleep.swap(false, Ordering::SeqCst) {
            drop(lock(&self.state));
            self.changed.notify_all();
        }
    }

    /// How often it has looked.
    pub(crate) fn looks(&self) -> u64 {
        self.looks.load(Ordering::Relaxed)
    }

    /// Ends the thread and waits for it.
    pub(crate) fn stop(&self) {
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

    fn watch(&self, crew: &Crew) {
        TimerSlack::LEAST.set();
        let mut due = clock::now();
        let mut cadence = Cadence::new(due);
        let mut all = All::default();
        loop {
            let threshold = {
                let mut state = lock(&self.state);
                all.welcome(state.newcomers.drain(..));
                state.threshold
            };
            // Without the lock: it may start threads and write to the log.
            let now = clock::now();
            let regular = now >= due;
            let at = Glance { now, regular, often: cadence.rate >= OFTEN, threshold };
            let look = all.look(crew, at);
            self.looks.fetch_add(1, Ordering::Relaxed);
            if look.taken > 0 {
                // Not before the core has its thread.
                crew.pool.keep_one_ready();
            }
            let mut pause = LONGEST;
            if regular || look.taken > 0 {
                pause = cadence.pause(now, look.taken);
                due = now + pause;
            }
            let state = lock(&self.state);
            if state.stopping {
                return;
            }
            if look.quiet && regular && pause >= LONGEST {
                self.sleep(state, &mut all);
                due = clock::now();
                cadence = Cadence::new(due);
            } else {
                let soon = look.soon.and_then(|soon| now.checked_add(soon));
                let next = soon.map_or(due, |soon| due.min(soon));
                drop(wait_until(&self.changed, state, Some(next)));
            }
        }
    }

    /// Sleeps until it is roused, unless a reactor has gone on meanwhile: they say so before they
    /// look whether it sleeps, as it says that it sleeps before it looks.
    fn sleep(&self, mut state: MutexGuard<'_, State>, all: &mut All) {
        self.asleep.store(true, Ordering::SeqCst);
        if state.newcomers.is_empty() && all.watched.iter().all(Watched::is_idle) {
            all.close_files();
            while self.asleep.load(Ordering::SeqCst) && !state.stopping {
                state = wait_until(&self.changed, state, None).0;
            }
        }
        self.asleep.store(false, Ordering::SeqCst);
    }
}

/// All that is watched, which the monitor's thread has to itself.
#[derive(Default)]
struct All {
    watched: Vec<Watched>,
    /// The state of a thread could not be read, and the log says so.
    complained: bool,
}

/// One look at all of them.
#[derive(Clone, Copy)]
struct Glance {
    now: Instant,
    /// Its time had come; else it is to see again what an earlier one has seen.
    regular: bool,
    /// Callbacks have blocked just now, and more than one.
    often: bool,
    threshold: Duration,
}

/// What one look has found.
#[derive(Default)]
struct Look {
    taken: u32,
    /// When to look again to be sure of what was seen.
    soon: Option<Duration>,
    /// Nothing has happened since the last one.
    quiet: bool,
    /// Why the state of a thread can't be read.
    blind: Option<io::Error>,
}

impl State {
    /// Starts the thread if there is none; says whether there is.
    fn start(&mut self, crew: &Arc<Crew>) -> bool {
        if self.thread.is_some() {
            return true;
        }
        let starter = &crew.monitor.starter;
        if !starter.is_refused() {
            let crew = crew.clone();
            let watch = move || crew.monitor.watch(&crew);
            self.thread = starter.start("netpoll-monitor".into(), watch).ok();
        }
        self.thread.is_some()
    }
}

impl All {
    /// One that enrolls for a second time asks for a lower threshold.
    fn welcome(&mut self, newcomers: impl Iterator<Item = Watched>) {
        for each in newcomers {
            if !self.watched.iter().any(|it| Arc::ptr_eq(&it.baton, &each.baton)) {
                self.watched.push(each);
            }
        }
    }

    fn look(&mut self, crew: &Crew, at: Glance) -> Look {
        let mut look = Look { quiet: true, ..Look::default() };
        self.watched.retain_mut(|each| {
            let gone = each.baton.is_gone();
            if !gone {
                each.look(crew, at, &mut look);
            }
            !gone
        });
        if let Some(error) = look.blind.take()
            && !std::mem::replace(&mut self.complained, true)
        {
            log::warn!(
                "cannot read in /proc whether a thread sleeps: {error}; its clock tells, so that \
                 a callback that waits for a processor may be taken for one that blocks"
            );
        }
        look
    }

    /// Nobody is looked at for a while.
    fn close_files(&mut self) {
        for each in &mut self.watched {
            each.state.close();
        }
    }
}

impl Watched {
    fn new(baton: Arc<Baton<Loop>>, watch: Arc<Watch>) -> Self {
        Self { baton, watch, seen: None, epochs: 0, state: StateReader::default() }
    }

    fn is_idle(&self) -> bool {
        self.watch.idle.load(Ordering::SeqCst) && self.baton.epoch().is_none()
    }

    fn look(&mut self, crew: &Crew, at: Glance, all: &mut Look) {
        let epochs = self.baton.epochs();
        all.quiet &= epochs == self.epochs && self.is_idle();
        self.epochs = epochs;
        let Some(epoch) = self.baton.epoch() else {
            self.seen = None;
            return;
        };
        let mut seen = match self.seen.take() {
            Some(seen) if seen.epoch == epoch => seen,
            // A busy reactor is in some callback at each look: a second look is for what the
            // first has seen, or it would follow one with the next for ever.
            _ if !at.regular => return,
            _ => Sighting::new(epoch, at.now),
        };
        let holder = self.watch.holder();
        let is_asleep = self.state.is_asleep(holder);
        let verdict = seen.judge(at, holder, is_asleep.as_ref().ok().copied());
        all.blind = all.blind.take().or(is_asleep.err());
        self.seen = Some(seen);
        match verdict {
            Verdict::Take(cause) => {
                let stalled = at.now.duration_since(seen.since);
                let passed = crew.take_over(&self.baton, epoch, cause, stalled);
                all.taken += u32::from(passed == Passed::Done);
            }
            Verdict::LookAgain(soon) => {
                all.soon = Some(all.soon.map_or(soon, |other| other.min(soon)));
            }
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Take(Cause),
    LookAgain(Duration),
}

impl Sighting {
    fn new(epoch: Epoch, since: Instant) -> Self {
        Self { epoch, since, computed: None, clock: ThreadClock::default() }
    }

    /// What is to be done about a thread that is in the same callback since it was first seen;
    /// whether it sleeps is not always known.
    fn judge(&mut self, at: Glance, holder: i32, is_asleep: Option<bool>) -> Verdict {
        let stalled = at.now.duration_since(self.since);
        if is_asleep == Some(true) {
            let rest = at.threshold.saturating_sub(stalled);
            let is_long = rest.is_zero() || at.often;
            return if is_long { Verdict::Take(Cause::Blocked) } else { Verdict::LookAgain(rest) };
        }
        let enough = at.threshold.saturating_mul(COMPUTING);
        let computed = sys::thread_time(holder);
        if is_asleep.is_none()
            && let Some(verdict) = self.judge_by_clock(at, computed, enough)
        {
            return verdict;
        }
        // It computes, or waits for a processor, which it may do for long and is no reason.
        let computed = computed.unwrap_or_default();
        let before = *self.computed.get_or_insert(computed);
        if computed.saturating_sub(before) >= enough {
            return Verdict::Take(Cause::Computed);
        }
        // It may block yet; but the longer it did not, the longer it is let be.
        Verdict::LookAgain((stalled / 2).max(enough))
    }

    /// The verdict on a thread whose clock stands still; none where it goes on.
    fn judge_by_clock(
        &mut self,
        at: Glance,
        computed: Option<Duration>,
        enough: Duration,
    ) -> Option<Verdict> {
        let (since, rest) = match self.clock.look(computed, at.now) {
            Clock::Hidden => (self.since, enough),
            Clock::Still(since) => (since, at.threshold),
            Clock::Unknown => return Some(Verdict::LookAgain(at.threshold)),
            Clock::Runs => return None,
        };
        let rest = rest.saturating_sub(at.now.duration_since(since));
        let is_long = rest.is_zero();
        Some(if is_long { Verdict::Take(Cause::Blocked) } else { Verdict::LookAgain(rest) })
    }
}

impl fmt::Debug for Monitor {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Monitor")
            .field("asleep", &self.asleep.load(Ordering::Relaxed))
            .field("looks", &self.looks())
            .finish_non_exhaustive()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::sync::mpsc;
    use std::thread;

    use super::super::hand_off::Backing;
    use super::cadence::SHORTEST;
    use super::*;
    use crate::pure::baton::Held;
    use crate::pure::spin::Spin;
    use crate::reactor::Core;
    use crate::sys::StateFile;
    use crate::threads::pool::Next;

    /// A reactor in the hands of a test, and a thread that holds its core.
    fn watched(crew: &Arc<Crew>, holder: i32) -> (Held<Loop>, Watched) {
        let core = Core::new(0, Spin::Never).expect("two descriptors");
        let held = Baton::held(Loop { core, backing: Backing::of(crew.clone()) });
        let (baton, watch) = (held.baton().clone(), Arc::<Watch>::default());
        watch.set_holder(holder);
        (held, Watched::new(baton, watch))
    }

    fn glance(now: Instant, regular: bool) -> Glance {
        Glance { now, regular, often: false, threshold: SHORTEST }
    }

    /// A thread that sleeps until the sender is dropped, and its number.
    fn sleeper() -> (JoinHandle<()>, mpsc::Sender<()>, i32) {
        let (sender, number) = mpsc::channel();
        let (wake, asleep) = mpsc::channel::<()>();
        let sleeper = thread::spawn(move || {
            let _ = sender.send(sys::thread_number());
            let _ = asleep.recv();
        });
        let holder = number.recv().expect("its number");
        let file = StateFile::open(holder).expect("procfs");
        while !file.is_asleep().expect("procfs") {
            thread::yield_now();
        }
        (sleeper, wake, holder)
    }

    #[test]
    fn a_busy_reactor_is_looked_at_twice_and_not_without_end() {
        let crew = Crew::new(|_| Next::Leave);
        let (held, mut watched) = watched(&crew, sys::thread_number()); // this one, which runs
        let (now, threshold) = (Instant::now(), SHORTEST);
        let mut look = |regular| {
            let mut all = Look::default();
            watched.look(&crew, glance(now, regular), &mut all);
            all.soon
        };
        let enough = Some(threshold * COMPUTING);
        let lying = held.put_down();
        assert_eq!(look(true), enough); // is it long, or only under way?
        assert_eq!(look(false), enough); // the same callback, not yet long
        let lying = lying.take_up().unwrap().put_down();
        assert_eq!(look(false), None); // another: it was only under way
        assert_eq!(look(true), enough);
        drop(lying);
    }

    #[test]
    fn who_sleeps_is_taken_from_after_a_threshold_or_at_once_where_many_do() {
        let (sleeper, wake, holder) = sleeper();
        let (now, threshold) = (Instant::now(), SHORTEST);
        let mut seen = Sighting::new(Baton::held(()).put_down().epoch(), now);
        let mut judge = |at: Glance| seen.judge(at, holder, Some(true));
        assert_eq!(judge(glance(now, true)), Verdict::LookAgain(threshold));
        let later = now + threshold / 5;
        assert_eq!(judge(glance(later, false)), Verdict::LookAgain(threshold * 4 / 5));
        let often = Glance { often: true, ..glance(now, true) };
        assert_eq!(judge(often), Verdict::Take(Cause::Blocked));
        assert_eq!(judge(glance(now + threshold, false)), Verdict::Take(Cause::Blocked));
        drop(wake);
        sleeper.join().unwrap();
    }

    #[test]
    fn where_nothing_shows_its_state_the_clock_of_a_thread_does() {
        let (sleeper, wake, holder) = sleeper();
        let (now, threshold) = (Instant::now(), SHORTEST);
        let epoch = Baton::held(()).put_down().epoch();
        let mut seen = Sighting::new(epoch, now);
        let mut judge = |at: Glance| seen.judge(at, holder, None);
        assert_eq!(judge(glance(now, true)), Verdict::LookAgain(threshold));
        let later = now + threshold / 5;
        assert_eq!(judge(glance(later, false)), Verdict::LookAgain(threshold * 4 / 5));
        assert_eq!(judge(glance(now + threshold, false)), Verdict::Take(Cause::Blocked));
        drop(wake);
        sleeper.join().unwrap();

        // This thread computes from one look to the next, which are hours apart.
        let hour = Duration::from_secs(3600);
        let mut seen = Sighting::new(epoch, now);
        let mut judge = |at: Glance| seen.judge(at, sys::thread_number(), None);
        assert_eq!(judge(glance(now, true)), Verdict::LookAgain(threshold));
        assert_eq!(judge(glance(now + hour, true)), Verdict::LookAgain(hour / 2));
        let until = sys::own_time() + threshold * (COMPUTING + 1);
        while sys::own_time() < until {}
        assert_eq!(judge(glance(now + 2 * hour, true)), Verdict::Take(Cause::Computed));

        // There is no such thread, and no such clock: numbers end at 2^22.
        let mut seen = Sighting::new(epoch, now);
        let mut judge = |at: Glance| seen.judge(at, (1 << 22) + 1, None);
        let enough = threshold * COMPUTING;
        assert_eq!(judge(glance(now, true)), Verdict::LookAgain(enough));
        assert_eq!(judge(glance(now + enough, true)), Verdict::Take(Cause::Blocked));
    }
}
