//! The modes in which callbacks run, and their options: what users choose from.

use std::time::Duration;

use crate::base::error::{Error, Result};

/// Where the callbacks of an event loop run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Dispatch {
    /// On a pool of worker threads: callbacks may block.
    Pool(PoolOptions),
    /// On the reactor's thread, without a change of threads: the fastest, for callbacks that never
    /// block. Under it a read that lacks bytes returns `WouldBlock`, and so does a flush where a
    /// callback has queued several times the high-water mark.
    Inline,
    /// On the reactor's thread, and they may block: when one does, another thread goes on with the
    /// reactor. Callbacks that are expected to block, from what the last ones of their connection
    /// did, go to workers at once. See `docs/hand-off.md`. The default.
    HandOff(HandOffOptions),
}

/// How many threads turn the loops of a manager.
///
/// Under a light load, loops on several threads wake each other's processors for a few events at a
/// time. One thread that serves them all needs less processor time, and where processors are few
/// and clients run on the same machine, it answers sooner. Loops that are turned by one thread keep
/// their connections, timers and counters; only the thread changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Gather {
    /// Fewer threads than loops where that has been measured to cost no throughput, and one for
    /// each again when the load grows. Where the system does not show how long threads wait for a
    /// processor (no `/proc`), each loop stays on a thread of its own.
    WhenCheaper,
    /// Each loop has a thread of its own.
    #[default]
    Never,
}

/// How long a callback may hold its reactor up, and the workers for callbacks that are expected to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HandOffOptions {
    /// How long a callback may block before another thread goes on with its reactor; where other
    /// callbacks have blocked just now, it goes on at once. A callback that computes may take ten
    /// times as long. Default 50 µs: a change of threads costs some 10 µs. Of several event loops
    /// on one manager the least threshold holds for all.
    pub threshold: Duration,
    /// The workers for callbacks that are expected to block. As many again may be away from their
    /// reactors, and one thread a loop is beside both.
    pub workers: PoolOptions,
}

/// The limits of a pool of workers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolOptions {
    /// Threads at the most, reached only while callbacks block. Default 256: as many callbacks may
    /// block at once before further ones wait, but an eighth of them is kept for connections that
    /// have shown that their callbacks return.
    pub max_threads: usize,
    /// How many connections may wait for a worker, of those that have shown that and as many of the
    /// others; further ones wait at their reactors. Default 4 096, at the most 65 536.
    pub queue: usize,
    /// How long a worker without work stays. Default 10 s.
    pub idle: Duration,
}

impl Default for Dispatch {
    fn default() -> Self {
        Self::HandOff(HandOffOptions::default())
    }
}

impl Default for HandOffOptions {
    fn default() -> Self {
        Self { threshold: Duration::from_micros(50), workers: PoolOptions::default() }
    }
}

impl Default for PoolOptions {
    fn default() -> Self {
        Self { max_threads: 256, queue: 4096, idle: Duration::from_secs(10) }
    }
}

impl PoolOptions {
    /// With a queue that fits into memory.
    pub(super) fn within_reason(self) -> Self {
        Self { queue: self.queue.min(1 << 16), ..self }
    }
}

impl Dispatch {
    /// Checks the mode's options.
    ///
    /// # Errors
    /// [`Error::Config`], one sentence that names the first option that can't be used.
    pub fn validate(&self) -> Result<()> {
        let options = match self {
            Self::Inline => return Ok(()),
            Self::Pool(options) => options,
            Self::HandOff(HandOffOptions { threshold, .. }) if threshold.is_zero() => {
                return Err(Error::config(
                    "threshold is 0, so every callback would lose its reactor; 50 µs is usual",
                ));
            }
            Self::HandOff(HandOffOptions { workers, .. }) => workers,
        };
        if options.max_threads == 0 {
            return Err(Error::config("max_threads is 0, so no callback could ever run"));
        }
        if options.queue == 0 {
            return Err(Error::config("queue is 0, so no connection could reach a worker"));
        }
        if options.idle.is_zero() {
            return Err(Error::config(
                "idle is 0, so every worker would end with its first callback",
            ));
        }
        Ok(())
    }
}
