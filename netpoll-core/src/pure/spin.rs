//! Whether a reactor that has nothing to do sleeps at once or first looks again for a while.
//!
//! To sleep and be woken costs two changes of threads and, on a virtual machine, exits to its host:
//! on the side that sleeps and on the side that wakes it. Where the next event comes within some
//! microseconds it is cheaper to stay awake; elsewhere that only burns a processor. Which of the
//! two it is depends on the machine and on the load, so it is measured, in windows of [`WAITS`]:
//!
//! ```text
//!              most sleeps were short                     cheaper by 5 %
//!   Sleeping ──────────────────────────► Spinning, on trial ────────────► Spinning
//!      ▲  ▲      their cost is noted            │                            │
//!      │  └─── dearer, in vain, or robbed ──────┴──── in vain, robbed ───────┤
//!      │       (not again for twice as many windows as the last time)        │
//!      └────── dearer by now, another thread has the reactor, or it is ──────┘
//!              time to measure again
//! ```
//! The cost is the processor time of the reactor's thread, for each byte that its connections moved
//! and for each callback: it must be less by both, so that neither larger messages nor shorter
//! callbacks pass for a success. It includes the wakes of others and the spinning itself. *In vain*
//! is a spin that found nothing before it gave up, *robbed* one in which somebody else had use for
//! the processor, and took it for long: both end the spinning early in the window, so that a load
//! that has gone costs [`IN_VAIN`] spins. The idea is that of KVM's halt polling and of competitive
//! spinning (Karlin, Li, Manasse & Owicki, 1991). They compare times with a fixed limit; here it is
//! what each of the two really costs.

use std::time::Duration;

/// What a loop does that has nothing to do: sleep at once, or look again for some microseconds
/// before.
///
/// A sleep costs both sides: whoever sends has to wake the loop. On the virtual machine of
/// `docs/benchmarks.md` one client that waits for each answer is served three times as often by a
/// loop that stays awake, for less processor time. On other machines, or where somebody else has
/// use for the processor, it is not worth it. A loop that spins yields to other threads now and
/// then.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Spin {
    /// Spins, 50 µs at most, where it has measured that this takes *less* processor time than to
    /// sleep, by 5 % at least, for each byte moved and for each callback; and measures again every
    /// now and then.
    #[default]
    WhenCheaper,
    /// Sleeps at once.
    Never,
    /// Spins for so long before each sleep, whatever that costs: for those who have a processor to
    /// give for latency. It sleeps sooner where other threads keep the processor from it. A loop
    /// without any traffic spins once for each time that it is woken.
    For(Duration),
}

/// The longest spin where the cost decides.
const LIMIT: Duration = Duration::from_micros(50);
/// A sleep up to this is one that a spin might have saved. More than [`LIMIT`], since being woken
/// is in it, and since peers answer sooner when they need not be woken either.
const SHORT: Duration = Duration::from_micros(150);
/// Waits in a window.
const WAITS: u32 = 128;
/// Every so many waits of a window the sleep is timed.
const TIMED: u32 = 8;
/// So many spins in vain end the spinning.
const IN_VAIN: u32 = 16;
/// So many of those end it as well.
const ROBBERIES: u32 = 4;
/// To spin must cost so many percent of what it costs to sleep, at most.
const WORTHWHILE: u128 = 95;
/// After so many windows of spinning the cost of sleeping is measured again.
const AGREED: u32 = 256;
/// The most windows for which it is not tried again.
const PAUSE_AT_MOST: u32 = 256;

/// What a reactor's thread had done when it was asked.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Reading {
    /// Processor time that the thread has had.
    pub(crate) computed: Duration,
    /// Bytes that the reactor's connections have received and sent.
    pub(crate) moved: u64,
    /// Callbacks of theirs that have run.
    pub(crate) callbacks: u64,
}

/// How a spin ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Spun {
    /// There is something to do.
    pub(crate) found: bool,
    /// Somebody else took the processor meanwhile, and kept it.
    pub(crate) robbed: bool,
}

/// Decides how a reactor waits; see the module.
#[derive(Debug)]
pub(crate) struct Spinner {
    spin: Spin,
    phase: Phase,
    window: Window,
    /// Of the last window of sleeps.
    sleeping: Cost,
    /// Windows of sleeps to go before a trial, and how many after the next that fails.
    pause: u32,
    penalty: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Sleeping,
    /// With how many windows behind it; in the first it is on trial.
    Spinning(u32),
}

#[derive(Debug, Default)]
struct Window {
    start: Option<Reading>,
    waits: u32,
    short: u32,
    in_vain: u32,
    robberies: u32,
}

/// How the next wait is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Plan {
    /// Asleep; timed or not.
    Sleep { timed: bool },
    /// Awake for so long at most, and only then asleep.
    Spin(Duration),
}

impl Spinner {
    pub(crate) fn new(spin: Spin) -> Self {
        let (phase, window) = (Phase::Sleeping, Window::default());
        Self { spin, phase, window, sleeping: Cost::default(), pause: 0, penalty: 1 }
    }

    /// Another thread has the reactor: what was read of the last one's time says nothing. So this
    /// window decides nothing, but that nobody spins on unmeasured.
    pub(crate) fn change_threads(&mut self) {
        self.window.start = None;
    }

    /// The reactor has nothing to do, and may sleep.
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

    /// It slept for so long, in a wait that was to be timed.
    pub(crate) fn slept(&mut self, time: Duration) {
        self.window.short += u32::from(time <= SHORT);
    }

    /// It spun.
    pub(crate) fn spun(&mut self, Spun { found, robbed }: Spun) {
        if self.spin != Spin::WhenCheaper {
            return;
        }
        self.window.in_vain += u32::from(!found);
        self.window.robberies += u32::from(robbed);
        if self.window.in_vain >= IN_VAIN || self.window.robberies >= ROBBERIES {
            self.give_up();
        }
    }

    /// Says what the window that has ended tells of the next. It tells nothing if it had no start:
    /// there was none yet, or the reactor has changed threads in it.
    fn end_window(&mut self, now: Reading) {
        let cost = self.window.start.map(|start| Cost::between(start, now));
        match (self.phase, cost) {
            (Phase::Sleeping, Some(cost))
                if self.pause == 0 && self.window.is_of_short_sleeps() =>
            {
                self.sleeping = cost;
                self.phase = Phase::Spinning(0);
            }
            (Phase::Sleeping, _) => self.pause = self.pause.saturating_sub(1),
            (Phase::Spinning(0), Some(cost)) if cost.is_at_most(WORTHWHILE, self.sleeping) => {
                self.phase = Phase::Spinning(1);
                self.penalty = 1;
            }
            (Phase::Spinning(windows @ 1..AGREED), Some(cost))
                if cost.is_at_most(100, self.sleeping) =>
            {
                self.phase = Phase::Spinning(windows + 1);
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
    /// Most of those that were timed. A loop that is busy beside many long sleeps is left alone.
    fn is_of_short_sleeps(&self) -> bool {
        self.short * TIMED * 4 >= WAITS * 3
    }
}

/// Processor time, and what was done in it.
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

    /// Whether a byte and a callback cost at most `percent` of what they cost by `other`. Not where
    /// there were none.
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
