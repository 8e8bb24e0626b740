//! The monitor: one thread that sees which reactor has stood still for too long, and has it taken
//! over.
//!
//! It looks at the batons of all reactors of a manager. One that lies in the same lap as at an
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
//! # How often it looks
//!
//! A look costs about 15 µs: two changes of threads, and, where it takes a processor from a
//! reactor, what the caches lose by them. At a steal rate `r` a pause of `t` makes each blocking
//! callback be seen `t / 2` late on average, in which its reactor stands still. The sum of both in
//! each second, `15 µs / t + r · t / 2`, is least at `t = sqrt(2 · 15 µs / r)`. That is the pause,
//! between 50 µs and 10 ms, where `r` is what was taken within the last quarter of a second or so.
//! After a sleep it begins with 50 µs and doubles from there (as Go's `sysmon` does). Where all
//! reactors wait for events it sleeps, and the first that runs a callback rouses it.

use std::fmt;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::baton::{Baton, Lap};
use crate::callbacks::join;
use crate::hand_off::{Cause, Crew, Passed};
use crate::reactor::Core;
use crate::starter::Starter;
use crate::sync::{
    AtomicBool, AtomicU32, AtomicU64, Condvar, Mutex, MutexGuard, Ordering, lock, wait_until,
};
use crate::sys::{self, TimerSlack};

/// What a look costs: see the module.
const LOOK: f64 = 15e-6;
const SHORTEST: Duration = Duration::from_micros(50);
const LONGEST: Duration = Duration::from_millis(10);
/// How far back the rate of steals reaches, in seconds.
const MEMORY: f64 = 0.25;
/// From this rate on who sleeps is believed to sleep for long: one steal within that time.
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
    watched: Vec<Watched>,
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
    baton: Arc<Baton<Core>>,
    watch: Arc<Watch>,
    seen: Option<Sighting>,
    /// The lap that it was in, or had behind it, at the last look.
    laps: u64,
}

/// A baton that lay there.
#[derive(Clone, Copy)]
struct Sighting {
    lap: Lap,
    since: Instant,
    /// What its thread had computed when it was first found awake.
    computed: Option<Duration>,
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
                watched: Vec::new(),
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
        baton: &Arc<Baton<Core>>,
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
        if !state.watched.iter().any(|each| Arc::ptr_eq(&each.baton, baton)) {
            let (baton, watch) = (baton.clone(), watch.clone());
            state.watched.push(Watched { baton, watch, seen: None, laps: 0 });
        }
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
            state.watched.clear();
            state.thread.take()
        };
        self.changed.notify_all();
        if let Some(thread) = thread {
            join(thread);
        }
    }

    fn watch(&self, crew: &Crew) {
        TimerSlack::LEAST.set();
        let mut due = Instant::now();
        let mut cadence = Cadence::new(due);
        let mut state = lock(&self.state);
        while !state.stopping {
            let now = Instant::now();
            let regular = now >= due;
            let at = Glance { now, regular, often: cadence.rate >= OFTEN };
            let look = state.look(crew, at);
            self.looks.fetch_add(1, Ordering::Relaxed);
            if look.taken > 0 {
                // Not before the core has its thread, and not while others wait to be watched.
                drop(state);
                crew.spares.keep_one_ready();
                state = lock(&self.state);
            }
            let mut pause = LONGEST;
            if regular || look.taken > 0 {
                pause = cadence.pause(now, look.taken);
                due = now + pause;
            }
            state = if look.quiet && regular && pause >= LONGEST {
                let state = self.sleep(state);
                due = Instant::now();
                cadence = Cadence::new(due);
                state
            } else {
                let next = look.soon.map_or(due, |soon| due.min(now + soon));
                wait_until(&self.changed, state, Some(next)).0
            };
        }
    }

    /// Sleeps until it is roused, unless a reactor has gone on meanwhile: they say so before they
    /// look whether it sleeps, as it says that it sleeps before it looks.
    fn sleep<'a>(&self, mut state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.asleep.store(true, Ordering::SeqCst);
        if state.watched.iter().all(Watched::is_idle) {
            while self.asleep.load(Ordering::SeqCst) && !state.stopping {
                state = wait_until(&self.changed, state, None).0;
            }
        }
        self.asleep.store(false, Ordering::SeqCst);
        state
    }
}

/// One look at all of them.
#[derive(Clone, Copy)]
struct Glance {
    now: Instant,
    /// Its time had come; else it is to see again what an earlier one has seen.
    regular: bool,
    /// Callbacks have blocked just now, and more than one.
    often: bool,
}

/// What one look has found.
#[derive(Default)]
struct Look {
    taken: u32,
    /// When to look again to be sure of what was seen.
    soon: Option<Duration>,
    /// Nothing has happened since the last one.
    quiet: bool,
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

    fn look(&mut self, crew: &Crew, at: Glance) -> Look {
        let mut all = Look { quiet: true, ..Look::default() };
        let threshold = self.threshold;
        self.watched.retain_mut(|each| {
            let gone = each.baton.is_gone();
            if !gone {
                each.look(crew, at, threshold, &mut all);
            }
            !gone
        });
        all
    }
}

impl Watched {
    fn is_idle(&self) -> bool {
        self.watch.idle.load(Ordering::SeqCst) && self.baton.lap().is_none()
    }

    fn look(&mut self, crew: &Crew, at: Glance, threshold: Duration, all: &mut Look) {
        let laps = self.baton.laps();
        all.quiet &= laps == self.laps && self.is_idle();
        self.laps = laps;
        let Some(lap) = self.baton.lap() else {
            self.seen = None;
            return;
        };
        let seen = match &mut self.seen {
            Some(seen) if seen.lap == lap => seen,
            // A busy reactor is in some callback at each look: a second look is for what the
            // first has seen, or it would follow one with the next for ever.
            seen if !at.regular => {
                *seen = None;
                return;
            }
            seen => seen.insert(Sighting { lap, since: at.now, computed: None }),
        };
        let stalled = at.now.duration_since(seen.since);
        match seen.judge(at, threshold, self.watch.holder()) {
            Verdict::Take(cause) => {
                let passed = crew.take_over(&self.baton, lap, cause, stalled);
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
    fn judge(&mut self, at: Glance, threshold: Duration, holder: i32) -> Verdict {
        let stalled = at.now.duration_since(self.since);
        if sys::is_thread_asleep(holder) {
            let rest = threshold.saturating_sub(stalled);
            let is_long = rest.is_zero() || at.often;
            return if is_long { Verdict::Take(Cause::Blocked) } else { Verdict::LookAgain(rest) };
        }
        // It computes, or waits for a processor, which it may do for long and is no reason.
        let enough = threshold.saturating_mul(COMPUTING);
        let computed = sys::thread_time(holder).unwrap_or_default();
        let before = *self.computed.get_or_insert(computed);
        if computed.saturating_sub(before) >= enough {
            return Verdict::Take(Cause::Computed);
        }
        // It may block yet; but the longer it did not, the longer it is let be.
        Verdict::LookAgain((stalled / 2).max(enough))
    }
}

/// When to look next: see the module. It has no clock: it is given the time.
struct Cadence {
    /// Steals a second.
    rate: f64,
    pause: Duration,
    last: Instant,
}

impl Cadence {
    fn new(now: Instant) -> Self {
        Self { rate: 0.0, pause: SHORTEST / 2, last: now }
    }

    /// How long to pause after a look that took so many.
    fn pause(&mut self, now: Instant, taken: u32) -> Duration {
        let passed = now.duration_since(self.last).as_secs_f64();
        self.last = now;
        self.rate = self.rate * (1.0 - passed / MEMORY).max(0.0) + f64::from(taken) / MEMORY;
        self.pause = (self.pause * 2).min(self.best());
        self.pause
    }

    fn best(&self) -> Duration {
        let best = (2.0 * LOOK / self.rate).sqrt().min(LONGEST.as_secs_f64());
        Duration::from_secs_f64(best).max(SHORTEST)
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

    use super::*;
    use crate::baton::Held;
    use crate::reactor::Reactor;
    use crate::spin::Spin;

    /// A reactor in the hands of a test, and a thread that holds its core.
    fn watched(crew: &Arc<Crew>, holder: i32) -> (Held<Core>, Watched) {
        let held =
            Baton::held(Reactor::new().expect("a reactor").with_crew(crew.clone(), Spin::Never));
        let (baton, watch) = (held.baton().clone(), Arc::<Watch>::default());
        watch.set_holder(holder);
        (held, Watched { baton, watch, seen: None, laps: 0 })
    }

    fn glance(now: Instant, regular: bool) -> Glance {
        Glance { now, regular, often: false }
    }

    #[test]
    fn a_busy_reactor_is_looked_at_twice_and_not_without_end() {
        let crew = Crew::new();
        let (held, mut watched) = watched(&crew, sys::thread_number()); // this one, which runs
        let (now, threshold) = (Instant::now(), SHORTEST);
        let mut look = |regular| {
            let mut all = Look::default();
            watched.look(&crew, glance(now, regular), threshold, &mut all);
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
        let (sender, number) = mpsc::channel();
        let (wake, asleep) = mpsc::channel::<()>();
        let sleeper = thread::spawn(move || {
            let _ = sender.send(sys::thread_number());
            let _ = asleep.recv();
        });
        let holder = number.recv().unwrap();
        while !sys::is_thread_asleep(holder) {
            thread::yield_now();
        }
        let (now, threshold) = (Instant::now(), SHORTEST);
        let lap = Baton::held(()).put_down().lap();
        let mut seen = Sighting { lap, since: now, computed: None };
        let mut judge = |at: Glance| seen.judge(at, threshold, holder);
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
    fn the_pause_grows_while_nothing_is_taken_and_follows_the_rate_of_steals() {
        let mut now = Instant::now();
        let mut cadence = Cadence::new(now);
        let mut pauses = Vec::new();
        for _ in 0..10 {
            let pause = cadence.pause(now, 0);
            pauses.push(pause.as_micros());
            now += pause;
        }
        assert_eq!(pauses, [50, 100, 200, 400, 800, 1600, 3200, 6400, 10_000, 10_000]);
        // 100 a second for a second: sqrt(30 µs / 100) is 548 µs.
        let mut pause = cadence.pause(now, 1);
        for _ in 0..100 {
            now += Duration::from_millis(10);
            pause = cadence.pause(now, 1);
        }
        assert!((460..640).contains(&pause.as_micros()), "{pause:?}");
        // A thousand: sqrt(30 µs / 1 000) is 173 µs.
        for _ in 0..1000 {
            now += Duration::from_millis(1);
            pause = cadence.pause(now, 1);
        }
        assert!((145..205).contains(&pause.as_micros()), "{pause:?}");
        // And back.
        for _ in 0..20 {
            now += Duration::from_millis(100);
            pause = cadence.pause(now, 0);
        }
        assert_eq!(pause, LONGEST);
    }
}
