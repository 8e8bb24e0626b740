//! Where the next callback of a connection runs, by the history of its last callbacks.
//!
//! A callback runs on the reactor or on a worker, and a wrong guess costs something on either. The
//! unit is one *hop* to a worker, which is about 2 µs of processor time:
//!
//! ```text
//!                       it returns at once    it waits in our calls    it blocks elsewhere
//!     on the reactor            0                  PASSED = 8             STOLEN = 190
//!     on a worker               1                       1                      1
//! ```
//!
//! This is a metrical task system of two states (Borodin, Linial & Saks, 1992), and the solution
//! is the work function: it adds up, within bounds, by how much the reactor cost more than a
//! worker would have, and moves the callbacks when the sum reaches a bound. So a connection's level
//! goes up by `cost - 1` with each callback that blocks, and down by 1 with each that doesn't. It
//! rises where the share of blocking callbacks is above the break-even, 1 / 190 = 0.5 %, and falls
//! where the share is below. Some hundred callbacks take it from one end to the other. For every
//! workload the cost stays within a small factor of the optimal offline algorithm's, which knows
//! all callbacks in advance. It needs no window, no clock and no division: two bytes a connection.
//!
//! The *loop's history* is added to the level of each connection. Every callback of the reactor
//! moves it in the same way, only slower. It weighs up to 160 of a connection's own callbacks: this
//! is enough to send a new connection to the workers of a loop where many callbacks block, and not
//! enough to keep a connection there after 160 callbacks that did not block.
//!
//! ```text
//!     -160 ............ 0 ............... 128 ........................... 384    own level
//!      quiet            new                                               blocks
//!                       |<── to the reactor  to the workers ──>|     own level + loop's history
//! ```
//!
//! No probes are needed: a worker sees how long a callback takes, as a reactor does.

use crate::base::sync::{AtomicU32, Ordering};

/// The cost of a callback that blocks on the reactor outside of our calls, in hops: the time until
/// the monitor sees it, in which all connections of the loop wait, and the change of threads.
const STOLEN: i32 = 190;
/// The cost of a callback there that waits in one of our calls, which pass the core on first.
const PASSED: i32 = 8;

/// The bounds of a connection's level.
const QUIET: i32 = -LOOP_WEIGHT;
const BLOCKS: i32 = 2 * STOLEN + 4;
/// At this level and below, a connection has shown that its callbacks return.
const PROVEN: i32 = -PASSED;
/// The sum of own level and loop's history at which callbacks move to the workers …
const TO_WORKERS: i32 = 128;
/// … and at which they move back to the reactor.
const TO_REACTOR: i32 = 0;

/// The most that the loop's history adds. It moves as a level does, and weighs 1 / 32 of it.
const LOOP_WEIGHT: i32 = 160;
const LOOP_SCALE: i32 = 32;

/// How long a callback kept the thread that it ran on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Behaviour {
    /// It returned soon.
    Returned,
    /// It waited in one of our calls.
    Waited,
    /// It blocked or computed for longer than a reactor may stand still.
    Blocked,
}

/// Where the next callback should run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Placement {
    Reactor,
    Worker,
}

/// The history of one connection. The thread that runs the connection writes it. Two threads may
/// write at once while the connection moves between them: one step is lost, which does no harm.
///
/// ```text
///    bit 31 .. 17      16      15 ............ 0
///       [ unused ][ at workers ][ level, signed ]
/// ```
#[derive(Debug, Default)]
pub(crate) struct History(AtomicU32);

/// The recent history of all connections of one reactor.
#[derive(Debug, Default)]
pub(crate) struct LoopHistory(AtomicU32);

impl History {
    /// Where the next callback should run. The caller asks once for each run, since the answer is
    /// remembered.
    pub(crate) fn place(&self, loop_history: &LoopHistory) -> Placement {
        let (level, before) = self.read();
        let now = decide(level, before, loop_history.weight());
        if now != before {
            self.write(level, now);
        }
        now
    }

    /// Counts what a callback did, here and in the loop's history.
    pub(crate) fn note(&self, behaviour: Behaviour, loop_history: &LoopHistory) {
        self.note_alone(behaviour);
        loop_history.note(behaviour);
    }

    /// Counts what a callback did on a pool, here alone: the loop's history places the callbacks of
    /// other groups on the same loop, and this callback shows nothing of them.
    pub(crate) fn note_alone(&self, behaviour: Behaviour) {
        let (level, place) = self.read();
        let next = level_after(level, behaviour);
        if next != level {
            self.write(next, place);
        }
    }

    /// Whether its callbacks returned so often that one that waits would not undo it.
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
    /// What it adds to a connection's level.
    fn weight(&self) -> i32 {
        self.0.load(Ordering::Relaxed).cast_signed() / LOOP_SCALE
    }

    fn note(&self, behaviour: Behaviour) {
        let sum = self.0.load(Ordering::Relaxed).cast_signed();
        let next = sum_after(sum, behaviour);
        // While no callback blocks it stays 0: no store, so no contention for its cache line.
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

/// The level after one more callback, within bounds.
fn level_after(level: i32, behaviour: Behaviour) -> i32 {
    (level + step(behaviour)).clamp(QUIET, BLOCKS)
}

fn sum_after(sum: i32, behaviour: Behaviour) -> i32 {
    (sum + step(behaviour)).clamp(0, LOOP_WEIGHT * LOOP_SCALE)
}

/// By how much the reactor cost more than a worker would have, in hops.
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
