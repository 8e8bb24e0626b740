//! The history: whether the next callback of a connection will block, from what the last ones did.
//!
//! There are two places for a callback, and a cost for guessing wrong in either. In units of one
//! *hop* to a worker (about 2 µs of processor time):
//!
//! ```text
//!                       it returns at once    it waits in our calls    it blocks elsewhere
//!     on the reactor            0                  PASSED = 8             STOLEN = 190
//!     on a worker               1                       1                      1
//! ```
//!
//! This is a metrical task system of two states (Borodin, Linial & Saks, 1992), and its answer is
//! the work function: add up by how much the reactor was dearer than the worker would have been,
//! within bounds, and change places when the sum reaches one. So a connection's level goes up by
//! `cost - 1` with a callback that blocks, and down by 1 with one that doesn't; it drifts upwards
//! where the share of blocking callbacks is above the break-even, 1 / 190 = 0.5 %, downwards where
//! it is below, and never farther from the other end than some hundred callbacks. Whatever a
//! workload does, what this costs stays within a small factor of the best that a seer could do,
//! and it needs no window, no clock and no division: two bytes a connection.
//!
//! Beside its own level a connection has a share in the *loop's history*. Every callback of its
//! reactor moves that in the same way, only slower. It is worth up to 160 of a connection's own
//! callbacks: enough to send a new connection to the workers where many block, not enough to keep
//! there one that has shown 160 times that it doesn't.
//!
//! ```text
//!     -160 ............ 0 ............... 128 ........................... 384    own level
//!      quiet            new                                               blocks
//!                       |<── to the reactor  to the workers ──>|     own level + loop's history
//! ```
//!
//! No probes are needed: workers see as well as reactors how long a callback takes.

use crate::base::sync::{AtomicU32, Ordering};

/// What a callback costs on the reactor that blocks outside of our calls, in hops: the time until
/// the monitor sees it, in which everybody waits, and the change of threads.
const STOLEN: i32 = 190;
/// What one costs there that waits in one of our calls, and so passes the core on by itself.
const PASSED: i32 = 8;

/// The bounds of a connection's level.
const QUIET: i32 = -PRIOR_WEIGHT;
const BLOCKS: i32 = 2 * STOLEN + 4;
/// From here on a connection has shown that its callbacks return.
const PROVEN: i32 = -PASSED;
/// Own level and loop's history together: from here on callbacks run on workers …
const TO_WORKERS: i32 = 128;
/// … and from here on they run on the reactor.
const TO_REACTOR: i32 = 0;

/// What the loop's history adds at the most. It moves as a level does, and weighs 1 / 32 of it.
const PRIOR_WEIGHT: i32 = 160;
const PRIOR_SCALE: i32 = 32;

/// What a callback did to the thread that it ran on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Behaviour {
    /// It returned soon.
    Returned,
    /// It waited in one of our calls.
    Waited,
    /// It blocked, or computed, for longer than a reactor waits.
    Blocked,
}

/// Where the next callback should run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Placement {
    Reactor,
    Worker,
}

/// What one connection has shown. Written by whoever runs it; where two write at once, by a
/// connection that is on its way between threads, one of their steps is lost, which does no harm.
///
/// ```text
///    bit 31 .. 17      16      15 ............ 0
///       [ unused ][ at workers ][ level, signed ]
/// ```
#[derive(Debug, Default)]
pub(crate) struct History(AtomicU32);

/// What all connections of one reactor have shown lately.
#[derive(Debug, Default)]
pub(crate) struct LoopHistory(AtomicU32);

impl History {
    /// Where the next callback should run. To be asked once for each run: it remembers the answer.
    pub(crate) fn place(&self, loop_history: &LoopHistory) -> Placement {
        let (level, before) = self.read();
        let now = decide(level, before, loop_history.weight());
        if now != before {
            self.write(level, now);
        }
        now
    }

    /// Notes what a callback did.
    pub(crate) fn note(&self, behaviour: Behaviour, loop_history: &LoopHistory) {
        self.note_alone(behaviour);
        loop_history.note(behaviour);
    }

    /// The same, where the loop's history is not moved: on a pool it would be others' as well.
    pub(crate) fn note_alone(&self, behaviour: Behaviour) {
        let (level, place) = self.read();
        let next = level_after(level, behaviour);
        if next != level {
            self.write(next, place);
        }
    }

    /// Whether it has shown that its callbacks return: more than one that waits could make good.
    pub(crate) fn is_proven(&self) -> bool {
        self.read().0 <= PROVEN
    }

    fn read(&self) -> (i32, Placement) {
        let bits = self.0.load(Ordering::Relaxed);
        let place = if bits & AT_WORKERS == 0 { Placement::Reactor } else { Placement::Worker };
        (i32::from((bits & LEVEL).cast_signed() as i16), place)
    }

    fn write(&self, level: i32, place: Placement) {
        let place = if place == Placement::Worker { AT_WORKERS } else { 0 };
        self.0.store(level.cast_unsigned() & LEVEL | place, Ordering::Relaxed);
    }
}

const LEVEL: u32 = 0xFFFF;
const AT_WORKERS: u32 = 1 << 16;

impl LoopHistory {
    /// By how much it moves the decision.
    fn weight(&self) -> i32 {
        self.0.load(Ordering::Relaxed).cast_signed() / PRIOR_SCALE
    }

    fn note(&self, behaviour: Behaviour) {
        let sum = self.0.load(Ordering::Relaxed).cast_signed();
        let next = prior_after(sum, behaviour);
        // While nothing blocks it rests at 0, and no two threads fight for its cache line.
        if next != sum {
            self.0.store(next.cast_unsigned(), Ordering::Relaxed);
        }
    }
}

fn decide(level: i32, before: Placement, loop_history: i32) -> Placement {
    match level + loop_history {
        TO_WORKERS.. => Placement::Worker,
        ..=TO_REACTOR => Placement::Reactor,
        _ => before,
    }
}

/// The regret of having run on the reactor, within bounds.
fn level_after(level: i32, behaviour: Behaviour) -> i32 {
    (level + step(behaviour)).clamp(QUIET, BLOCKS)
}

fn prior_after(sum: i32, behaviour: Behaviour) -> i32 {
    (sum + step(behaviour)).clamp(0, PRIOR_WEIGHT * PRIOR_SCALE)
}

/// How much dearer the reactor was than a worker would have been, in hops.
fn step(behaviour: Behaviour) -> i32 {
    match behaviour {
        Behaviour::Returned => -1,
        Behaviour::Waited => PASSED - 1,
        Behaviour::Blocked => STOLEN - 1,
    }
}

#[cfg(all(test, not(loom)))]
#[path = "placement_tests.rs"]
mod tests;
