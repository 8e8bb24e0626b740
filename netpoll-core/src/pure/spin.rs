//! Whether a reactor without work sleeps at once or first spins: looks for events for a while.
//!
//! A sleep and its wake cost two changes of threads and, on a virtual machine, exits to the host,
//! on the side that sleeps and on the side that wakes it. Where the next event comes within some
//! microseconds it is cheaper to stay awake; elsewhere a spin only burns a processor. Which of the
//! two is cheaper depends on the machine and on the load, so it is measured, in windows of
//! [`WAITS`]:
//!
//! ```text
//!              most sleeps were short                     cheaper by 5 %
//!   Sleeping ──────────────────────────► Spinning, on trial ────────────► Spinning
//!      ▲  ▲      their cost is noted            │                            │
//!      │  └─── dearer, missed or preempted ─────┴── missed or preempted ─────┤
//!      │       (no trial for twice as many windows as after the last)        │
//!      └────── dearer by now, another thread has the reactor, or it is ──────┘
//!              time to measure again
//! ```
//! The cost is the processor time of the reactor's thread, for each byte that its connections moved
//! and for each callback: both must fall, so that neither larger messages nor shorter callbacks
//! look like a success. The cost includes the wakes of other threads and the spins themselves. A
//! spin is *missed* if no event came before it gave up, and *preempted* if another thread took the
//! processor for long. Several missed spins in a window, or [`AWAY`] without the processor, end the
//! spinning early, so that a load that has ended costs [`MISSES`] spins. Where all bytes of a
//! window were received, no peer waits for an answer, and no spin is tried: a loop that stays awake
//! takes fewer datagrams with each receive, and gains nothing. KVM's halt polling and competitive
//! spinning (Karlin, Li, Manasse & Owicki, 1991) have the same idea. They compare times with a
//! fixed limit; here the measured costs of both are compared.

use std::time::Duration;

/// What a loop without work does: it sleeps at once, or looks for events for some microseconds
/// first.
///
/// A sleep costs both sides, since the sender has to wake the loop. On the virtual machine of
/// `docs/benchmarks.md`, a loop that stays awake serves one client that waits for each answer three
/// times as often, for less processor time. On other machines, or where other threads need the
/// processor, spinning may not pay. A loop that spins yields to other threads now and then.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Spin {
    /// Spins, 50 µs at most, where the loop has measured that spinning takes *less* processor time
    /// than sleeping, by 5 % at least, for each byte moved and for each callback. The loop measures
    /// again every now and then.
    #[default]
    WhenCheaper,
    /// Sleeps at once.
    Never,
    /// Spins for so long before each sleep, whatever that costs: for machines that can spend a
    /// processor on latency. The loop sleeps sooner if other threads keep the processor from it. A
    /// loop without any traffic spins once each time that it is woken.
    For(Duration),
}

/// The longest spin where the cost decides.
const LIMIT: Duration = Duration::from_micros(50);
/// A spin might have saved a sleep of up to this time. It is more than [`LIMIT`], since a sleep
/// includes the wake, and since peers answer sooner if they need not be woken either.
const SHORT: Duration = Duration::from_micros(150);
/// The waits in a window.
const WAITS: u32 = 128;
/// One of so many sleeps is timed.
const TIMED: u32 = 8;
/// So many missed spins in a window end the spinning.
const MISSES: u32 = 16;
/// So long without the processor, in preempted spins of a window, ends the spinning: it is more
/// than the spins of a window save where a thread that yields gives a whole time slice away, as on
/// Linux 6.18.
const AWAY: Duration = Duration::from_millis(1);
/// Preemptions count as the first ones again after so many windows of spinning without an end.
const UNDISTURBED: u32 = 16;
/// Spinning must cost so many percent of what sleeping costs, at most.
const WORTHWHILE: u128 = 95;
/// After so many windows of spinning, the cost of sleeping is measured again.
const AGREED: u32 = 256;
/// The most windows from one trial to the next.
const PAUSE_AT_MOST: u32 = 256;

/// The work of a reactor's thread so far.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Reading {
    /// The processor time of the thread.
    pub(crate) computed: Duration,
    /// The bytes that the reactor's connections have received and sent.
    pub(crate) moved: u64,
    /// Those of them that were sent.
    pub(crate) sent: u64,
    /// The callbacks that those connections have run.
    pub(crate) callbacks: u64,
}

/// How a spin ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Spun {
    /// An event or a command came.
    pub(crate) found: bool,
    /// For how long another thread had the processor meanwhile; zero if that was short.
    pub(crate) away: Duration,
}

/// Decides how a reactor waits; the module's page has the states.
#[derive(Debug)]
pub(crate) struct Spinner {
    spin: Spin,
    phase: Phase,
    window: Window,
    /// The cost of the last window of sleeps.
    sleeping: Cost,
    /// How many windows of sleeps pass before the next trial, and how many after it if it fails.
    pause: u32,
    penalty: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Sleeping,
    /// With the number of windows so far; at 0 it is on trial.
    Spinning(u32),
}

#[derive(Debug, Default)]
struct Window {
    start: Option<Reading>,
    waits: u32,
    short: u32,
    misses: u32,
    away: Duration,
}

/// How the reactor is to wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Plan {
    /// It sleeps; the sleep is timed or not.
    Sleep { timed: bool },
    /// It looks for events for so long at most, and then sleeps.
    Spin(Duration),
}

impl Spinner {
    pub(crate) fn new(spin: Spin) -> Self {
        let (phase, window) = (Phase::Sleeping, Window::default());
        Self { spin, phase, window, sleeping: Cost::default(), pause: 0, penalty: 1 }
    }

    /// One that waits in the same way, and has measured nothing.
    pub(crate) fn alike(&self) -> Self {
        Self::new(self.spin)
    }

    /// Another thread has the reactor. The times of two threads can't be compared, so the window
    /// has no cost: it begins no trial, and it ends a spinning that it can't measure.
    pub(crate) fn change_threads(&mut self) {
        self.window.start = None;
    }

    /// Decides how the reactor waits, which has nothing to do.
    #[inline]
    pub(crate) fn plan(&mut self, read: impl FnOnce() -> Reading) -> Plan {
        match self.spin {
            Spin::Never | Spin::For(Duration::ZERO) => return Plan::Sleep { timed: false },
            Spin::For(limit) => return Plan::Spin(limit),
            Spin::WhenCheaper => {}
        }
        if self.window.waits.is_multiple_of(WAITS) {
            let now = read();
            self.end_window(now);
            self.window = Window { start: Some(now), ..Window::default() };
        }
        self.window.waits += 1;
        match self.phase {
            Phase::Sleeping => Plan::Sleep { timed: self.window.waits.is_multiple_of(TIMED) },
            Phase::Spinning(_) => Plan::Spin(LIMIT),
        }
    }

    /// Counts a timed sleep.
    pub(crate) fn slept(&mut self, time: Duration) {
        self.window.short += u32::from(time <= SHORT);
    }

    /// Counts a spin.
    pub(crate) fn spun(&mut self, Spun { found, away }: Spun) {
        if self.spin != Spin::WhenCheaper {
            return;
        }
        self.window.misses += u32::from(!found);
        self.window.away += away;
        if self.window.misses >= MISSES || self.window.away >= AWAY {
            self.give_up();
        }
    }

    /// Decides the next phase by the cost of the window that has ended. A window without a start
    /// has no cost: it is the first, or the reactor has changed threads in it.
    fn end_window(&mut self, now: Reading) {
        let cost = self.window.start.map(|start| Cost::between(start, now));
        let answers = self.window.start.is_some_and(|start| start.sent != now.sent);
        match (self.phase, cost) {
            (Phase::Spinning(_), _) if !answers => self.phase = Phase::Sleeping,
            (Phase::Sleeping, Some(cost))
                if self.pause == 0 && answers && self.window.is_of_short_sleeps() =>
            {
                self.sleeping = cost;
                self.phase = Phase::Spinning(0);
            }
            (Phase::Sleeping, _) => self.pause = self.pause.saturating_sub(1),
            (Phase::Spinning(0), Some(cost)) if cost.is_at_most(WORTHWHILE, self.sleeping) => {
                self.phase = Phase::Spinning(1);
            }
            (Phase::Spinning(windows @ 1..AGREED), Some(cost))
                if cost.is_at_most(100, self.sleeping) =>
            {
                self.phase = Phase::Spinning(windows + 1);
                if windows == UNDISTURBED {
                    self.penalty = 1;
                }
            }
            (Phase::Spinning(0), Some(_)) => self.give_up(),
            (Phase::Spinning(_), _) => self.phase = Phase::Sleeping,
        }
    }

    fn give_up(&mut self) {
        self.phase = Phase::Sleeping;
        self.pause = self.penalty;
        self.penalty = (self.penalty * 2).min(PAUSE_AT_MOST);
        self.window = Window::default();
    }
}

impl Window {
    /// Whether three of four timed sleeps were short; else there is no trial.
    fn is_of_short_sleeps(&self) -> bool {
        self.short * TIMED * 4 >= WAITS * 3
    }
}

/// Processor time, and the work done in it.
#[derive(Debug, Clone, Copy, Default)]
struct Cost {
    nanoseconds: u128,
    bytes: u128,
    callbacks: u128,
}

impl Cost {
    fn between(start: Reading, now: Reading) -> Self {
        Self {
            nanoseconds: now.computed.saturating_sub(start.computed).as_nanos(),
            bytes: now.moved.wrapping_sub(start.moved).into(),
            callbacks: now.callbacks.wrapping_sub(start.callbacks).into(),
        }
    }

    /// Whether a byte and a callback cost at most `percent` of what they cost in `other`; `false`
    /// if either had none.
    fn is_at_most(self, percent: u128, other: Self) -> bool {
        let each_is = |ours: u128, theirs: u128| {
            let bound = other.nanoseconds * ours * percent;
            ours > 0 && theirs > 0 && self.nanoseconds * theirs * 100 <= bound
        };
        each_is(self.bytes, other.bytes) && each_is(self.callbacks, other.callbacks)
    }
}

#[cfg(all(test, not(loom)))]
#[path = "spin_tests.rs"]
mod tests;
