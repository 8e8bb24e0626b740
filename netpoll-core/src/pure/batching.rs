//! Whether the thread of a loop that sends its callbacks to workers is scheduled in batches.
//!
//! Where loop and workers share a processor, each event wakes the loop, and the loop takes the
//! processor from the worker in the middle of its callbacks. A thread that is scheduled in batches
//! (Linux: `SCHED_BATCH`) takes the processor from no other thread when it wakes: the worker goes
//! on until its queue is empty, and then the loop finds all events that came meanwhile. Where many
//! connections are busy, that is half as many changes of threads for each callback. Where few are,
//! there is nothing to gather. Beside a thread that computes it is ruinous then: whenever loop and
//! workers have nothing to do for a moment, that thread has the processor for a whole time slice.
//! So a loop tries it where its batches are large, and keeps it where it does no harm:
//!
//! ```text
//!             batches of ENTER jobs                   ENOUGH jobs a second
//!    Alone ────────────────────────► Measuring ─► Trial ──────────────────► Kept
//!     ▲ ▲                              ▲           │                        │ │ │
//!     │ └── a pause, doubled each time ┼───────────┴── FALLEN jobs a second ┘ │ │
//!     │                                └── the same, or RECHECK, after SURE ──┘ │
//!     └── batches of fewer than LEAVE jobs, or a callback is to run on the loop ┘
//! ```
//! The size of the batches is the average number of jobs that were sent in the turn of each of the
//! last [`MEMORY`] jobs. So single events between two large batches don't count for more than they
//! are. A callback that is to run on the loop never finds its thread in batches, and after it the
//! next [`SETTLE`] turns with jobs must bring none.
//!
//! A process with a quota of processor time stands still for a part of each 100 ms, and so do its
//! jobs, in batches or not. Where a loop meets pauses of [`PAUSE_FROM`] to [`PAUSED`], its windows
//! last from the end of one pause to the end of another, at least [`LONG_WINDOW`]. Only windows of
//! one kind are compared: after the first such pause, and when there was none for [`PAUSES_FOR`],
//! the loop leaves the batches and measures anew.

use std::time::{Duration, Instant};

const MEMORY: i32 = 256;
/// The average is kept in so many parts of a job.
const PARTS: i32 = 256;
/// More jobs in one turn count as so many, so that a burst is soon forgotten.
const MOST: u32 = 64;
const ENTER: i32 = 5;
const LEAVE: i32 = 3;
const SETTLE: u32 = 256;
/// How long a rate is measured: several time slices of the system.
const WINDOW: Duration = Duration::from_millis(20);
/// Turns so far apart are a pause, and so far that the load itself has paused: a rate over that
/// means nothing.
const PAUSE_FROM: Duration = Duration::from_millis(16);
const PAUSED: Duration = Duration::from_millis(200);
/// How long a rate is measured where there are pauses, and for how long after one there are.
const LONG_WINDOW: Duration = Duration::from_millis(150);
const PAUSES_FOR: Duration = Duration::from_millis(300);
/// In batches there must be so many percent of the jobs a second that there were before. It is far
/// below 100, since other loops of the process may have the gain, and rates are noisy.
const ENOUGH: u64 = 60;
/// If so few percent of the usual jobs a second come in two windows, something has changed.
const FALLEN: u64 = 40;
/// What was kept for so long was no mistake.
const SURE: Duration = Duration::from_secs(1);
/// What was kept for so long is tried anew.
const RECHECK: Duration = Duration::from_secs(10);
/// The pause after a trial that has failed, the first and the longest.
const PAUSE: Duration = Duration::from_millis(50);
const PAUSE_AT_MOST: Duration = Duration::from_secs(3);

/// What the jobs of the last turns say. It has no clock: it is given the time, and asks for it only
/// while batches are large.
#[derive(Debug)]
pub(crate) struct Batching {
    phase: Phase,
    /// Jobs sent to workers in this turn.
    jobs: u32,
    /// The size of the batches, in [`PARTS`].
    average: i32,
    /// Turns with jobs that must bring no callback that runs on the loop.
    settling: u32,
    /// No trial begins before that time; and the next pause.
    not_before: Option<Instant>,
    pause: Duration,
    /// The last turn with a large batch, and the end of the last pause between two of them.
    last: Option<Instant>,
    paused: Option<Instant>,
}

#[derive(Debug, Clone, Copy)]
enum Phase {
    Alone,
    Measuring(Window),
    /// In batches; with the jobs a second before.
    Trial(Window, u64),
    /// In batches.
    Kept(Window, Kept),
}

#[derive(Debug, Clone, Copy)]
struct Kept {
    since: Instant,
    /// The usual jobs a second.
    usual: u64,
    /// There were far fewer in the last window.
    has_fallen: bool,
}

/// Jobs since a moment.
#[derive(Debug, Clone, Copy)]
struct Window {
    since: Instant,
    jobs: u64,
    /// It lasts from the end of one pause to the end of another.
    by_pauses: bool,
}

impl Batching {
    pub(crate) fn new() -> Self {
        let (phase, pause) = (Phase::Alone, PAUSE);
        let (not_before, last, paused) = (None, None, None);
        Self { phase, jobs: 0, average: 0, settling: 0, not_before, pause, last, paused }
    }

    /// A job goes to the workers.
    #[inline]
    pub(crate) fn sent(&mut self) {
        self.jobs += 1;
    }

    /// A callback is to run on the loop's thread. `true`: the thread must leave the batches first.
    #[inline]
    pub(crate) fn runs_here(&mut self) -> bool {
        self.settling = SETTLE;
        !matches!(self.phase, Phase::Alone) && self.leave()
    }

    /// A turn has ended. Returns whether the thread is to be scheduled in batches, if that changes.
    #[inline]
    pub(crate) fn end_turn(&mut self, now: impl FnOnce() -> Instant) -> Option<bool> {
        // A loop without workers pays for one comparison.
        if self.jobs == 0 { None } else { self.count(now) }
    }

    fn count(&mut self, now: impl FnOnce() -> Instant) -> Option<bool> {
        self.settling = self.settling.saturating_sub(1);
        let jobs = std::mem::take(&mut self.jobs);
        let counted = jobs.min(MOST).cast_signed();
        self.average += (counted * PARTS - self.average) * counted / MEMORY;
        let is_alone = matches!(self.phase, Phase::Alone);
        let least = if is_alone { ENTER } else { LEAVE };
        if self.average >= least * PARTS && self.settling == 0 {
            self.weigh(jobs, now())
        } else {
            self.last = None;
            (!is_alone && self.leave()).then_some(false)
        }
    }

    /// Ends whatever is under way; says whether the thread was in batches.
    fn leave(&mut self) -> bool {
        let before = std::mem::replace(&mut self.phase, Phase::Alone);
        matches!(before, Phase::Trial(..) | Phase::Kept(..))
    }

    fn weigh(&mut self, jobs: u32, now: Instant) -> Option<bool> {
        let apart = self.last.replace(now).map_or(Duration::ZERO, |last| now.duration_since(last));
        let has_paused = apart >= PAUSE_FROM && apart <= PAUSED;
        if has_paused {
            self.paused = Some(now);
        }
        let by_pauses = self.paused.is_some_and(|at| now.duration_since(at) < PAUSES_FOR);
        let next = Window { since: now, jobs: 0, by_pauses };
        let window = match &mut self.phase {
            Phase::Alone => {
                if self.not_before.is_none_or(|at| now >= at) {
                    self.phase = Phase::Measuring(next);
                }
                return None;
            }
            Phase::Measuring(window) | Phase::Trial(window, _) | Phase::Kept(window, _) => window,
        };
        if window.by_pauses != by_pauses {
            return self.measure_anew(next);
        }
        window.jobs += u64::from(jobs);
        let passed = now.duration_since(window.since);
        let is_over =
            if by_pauses { has_paused && passed >= LONG_WINDOW } else { passed >= WINDOW };
        if !is_over && apart <= PAUSED {
            return None;
        }
        let micros = u64::try_from(passed.as_micros()).unwrap_or(u64::MAX);
        let rate = std::mem::replace(window, next).jobs.saturating_mul(1_000_000) / micros;
        if apart > PAUSED { None } else { self.judge(rate, next) }
    }

    /// Pauses have begun or ended: what was measured before compares with nothing that is to come.
    fn measure_anew(&mut self, next: Window) -> Option<bool> {
        let before = std::mem::replace(&mut self.phase, Phase::Measuring(next));
        match before {
            Phase::Alone | Phase::Measuring(_) => None,
            // They may come from the batches.
            Phase::Trial(..) if next.by_pauses => Some(self.fail(next.since)),
            Phase::Trial(..) | Phase::Kept(..) => Some(false),
        }
    }

    /// Goes on after a window with so many jobs a second.
    fn judge(&mut self, rate: u64, next: Window) -> Option<bool> {
        let now = next.since;
        match &mut self.phase {
            Phase::Alone => None,
            Phase::Measuring(_) => {
                self.phase = Phase::Trial(next, rate);
                Some(true)
            }
            Phase::Trial(_, before) if rate.saturating_mul(100) < before.saturating_mul(ENOUGH) => {
                Some(self.fail(now))
            }
            Phase::Trial(..) => {
                let kept = Kept { since: now, usual: rate, has_fallen: false };
                self.phase = Phase::Kept(next, kept);
                None
            }
            Phase::Kept(_, Kept { since, usual, has_fallen }) => {
                let kept = now.duration_since(*since);
                let had_fallen = *has_fallen;
                *has_fallen = rate.saturating_mul(100) < usual.saturating_mul(FALLEN);
                if *has_fallen && had_fallen && kept < SURE {
                    return Some(self.fail(now));
                }
                if !*has_fallen {
                    *usual = *usual - *usual / 8 + rate / 8;
                }
                if kept >= SURE {
                    self.pause = PAUSE;
                }
                if (*has_fallen && had_fallen) || kept >= RECHECK {
                    self.phase = Phase::Measuring(next);
                    return Some(false);
                }
                None
            }
        }
    }

    /// Batches do harm here: no other trial for a while.
    fn fail(&mut self, now: Instant) -> bool {
        self.phase = Phase::Alone;
        self.not_before = now.checked_add(self.pause);
        self.pause = (self.pause * 2).min(PAUSE_AT_MOST);
        false
    }
}

#[cfg(all(test, not(loom)))]
#[path = "batching_tests.rs"]
mod tests;
