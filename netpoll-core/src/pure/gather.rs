//! How many threads turn the loops of a manager: fewer under a light load, where loops that wake
//! each other's processors for tiny batches cost more than they gain.
//!
//! It is given a [`Sample`] each [`TICK`]. `k` is how many threads turn loops now, `c` which share
//! of the time each of them computes, `w` which share it waits for a processor, `R` how many
//! callbacks run in a second. All are smoothed.
//!
//! ```text
//!   light     Σ(c+w) < 0.65 (k-1), for 4 ticks      ──► as few as have Σc < 0.65 each
//!   crowded   Σw > 0.12 k and Σc < 1.05 (k-1) + 0.15 ──► k-1 on trial: stays if R ≥ 0.97 of before
//!                                                       and a callback costs < 1.03 of before
//!   hot       max (c+w) > 0.88, for 2 ticks         ──► twice k on trial: stays if R > 1.07, or
//!                                                       if R > 0.97 and Σw < 0.12 k
//!   alone     one loop runs 98 % of the callbacks      ──► all threads, and fewer below 90 %
//!   long      a callback held a loop's thread up    ──► all threads, and no fewer for 8 s
//! ```
//! In a closed loop `c` alone never tells: the fewer threads, the more each computes. What tells is
//! `w`: threads that wait for processors while there is time left on others' are too many. And a
//! thread that always has something to do, but waits for its processor for a part of the time,
//! since another thread computes there, is as busy as one that computes all the time.
//!
//! A trial lasts [`TRIAL`] ticks. After one that failed there is no other of its kind for a pause,
//! which doubles from 0.25 s to 8 s, until the load changes: `R`, or what a callback costs, leaves
//! 0.6 to 1.6 of what it was.

use std::time::Duration;

/// The time from one sample to the next.
pub(crate) const TICK: Duration = Duration::from_millis(20);
/// How many ticks a trial lasts, and the pause between two changes.
const TRIAL: u32 = 6;
const REST: u32 = 4;
/// A change that was not carried out in so many ticks is given up.
const PATIENCE: u32 = 50;
const LIGHT_FOR: u32 = 4;
const HOT_FOR: u32 = 2;
/// The weight of a new sample.
const WEIGHT: f64 = 0.4;
const LIGHT: f64 = 0.65;
const CROWDED: f64 = 0.12;
const HOT: f64 = 0.88;
/// The share of the busiest loop in all callbacks above which, for so many ticks, gathering has
/// nothing to gain, and below which it has.
const ALONE: f64 = 0.98;
const ALONE_FOR: u32 = 10;
const NOT_ALONE: f64 = 0.9;
/// The pauses after trials that failed, in ticks.
const PAUSE: u32 = 13;
const PAUSE_AT_MOST: u32 = 400;
/// The weight of a new look at whether callbacks take long, and from which share on they do.
const LONG_WEIGHT: f64 = 0.1;
const LONG: f64 = 0.15;

/// What was measured since the last tick.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Sample {
    pub(crate) threads: u32,
    pub(crate) loops: u32,
    /// The share of the time that the threads computed, their sum.
    pub(crate) computed: f64,
    /// The share of the time that they waited for a processor, their sum.
    pub(crate) waited: f64,
    /// The share of the time that the busiest of them did one of both.
    pub(crate) busiest: f64,
    /// Callbacks in a second, and the share of them that one loop has run.
    pub(crate) callbacks: f64,
    pub(crate) alone: f64,
    /// A callback has held a thread up that has to turn other loops, or would have to.
    pub(crate) long: bool,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Gathering {
    smooth: Option<Sample>,
    long: f64,
    light: u32,
    hot: u32,
    alone: u32,
    change: Option<Change>,
    /// Ticks until the next change.
    rest: u32,
    fewer: Pause,
    more: Pause,
}

/// A change on its way, or on trial.
#[derive(Debug, Clone, Copy)]
struct Change {
    from: u32,
    to: u32,
    trial: Option<Load>,
    ticks: u32,
    is_done: bool,
}

/// How much was done, and what each of it cost.
#[derive(Debug, Clone, Copy)]
struct Load {
    callbacks: f64,
    cost: f64,
}

/// No trial of one kind, after such trials have failed.
#[derive(Debug, Default)]
struct Pause {
    left: u32,
    next: u32,
    failed: Option<Load>,
}

impl Gathering {
    /// There was no sample for a while, since nothing ran: what was measured before is over.
    pub(crate) fn forget(&mut self) {
        (self.smooth, self.light, self.hot) = (None, 0, 0);
        self.change = None;
    }

    /// A tick, with what was measured since the last one. Returns how many threads there are to
    /// be from now on, where that changes.
    pub(crate) fn tick(&mut self, sample: Sample) -> Option<u32> {
        let now = self.smooth(sample);
        self.pass(now);
        self.count(now, sample);
        if let Some(change) = self.change {
            return self.follow(change, now);
        }
        if self.long > LONG && now.threads < now.loops {
            return Some(self.begin(now, now.loops, false));
        }
        if self.rest > 0 {
            return None;
        }
        self.judge(now)
    }

    fn smooth(&mut self, sample: Sample) -> Sample {
        let before = self.smooth.unwrap_or(sample);
        let mix = |before: f64, new: f64| before + WEIGHT * (new - before);
        let now = Sample {
            computed: mix(before.computed, sample.computed),
            busiest: mix(before.busiest, sample.busiest),
            waited: mix(before.waited, sample.waited),
            callbacks: mix(before.callbacks, sample.callbacks),
            alone: mix(before.alone, sample.alone),
            ..sample
        };
        self.smooth = Some(now);
        now
    }

    /// Lets the pauses pass, and ends them where the load has changed.
    fn pass(&mut self, now: Sample) {
        self.rest = self.rest.saturating_sub(1);
        // On trial, and just after it, what is measured is the trial.
        let is_settled = self.change.is_none() && self.rest == 0;
        let load = is_settled.then(|| Load::of(now));
        self.fewer.pass(load);
        self.more.pass(load);
    }

    fn count(&mut self, now: Sample, sample: Sample) {
        let others = f64::from(now.threads.saturating_sub(1));
        let is_light = now.threads > 1 && now.computed + now.waited < LIGHT * others;
        let is_hot = sample.busiest > HOT && now.busiest > HOT * 0.9;
        self.light = if is_light { self.light + 1 } else { 0 };
        self.hot = if is_hot { self.hot + 1 } else { 0 };
        self.alone = if now.alone > ALONE { self.alone + 1 } else { 0 };
        self.long += LONG_WEIGHT * (f64::from(sample.long) - self.long);
        if self.long > LONG {
            self.fewer.left = PAUSE_AT_MOST;
        }
    }

    fn judge(&mut self, now: Sample) -> Option<u32> {
        let (threads, k) = (now.threads, f64::from(now.threads));
        if self.hot >= HOT_FOR && threads < now.loops && self.more.left == 0 {
            return Some(self.begin(now, (threads * 2).min(now.loops), true));
        }
        if self.alone >= ALONE_FOR && threads < now.loops {
            // The other threads have nothing to do, and a loop that is waited for directly saves
            // a look.
            return Some(self.begin(now, now.loops, false));
        }
        if self.fewer.left > 0 || threads < 2 || now.alone > NOT_ALONE {
            return None;
        }
        if self.light >= LIGHT_FOR {
            let enough = (now.computed / LIGHT).ceil().max(1.0);
            let fewer = (1..threads).rev().take_while(|&fewer| f64::from(fewer) >= enough);
            return Some(self.begin(now, fewer.last().unwrap_or(threads - 1), false));
        }
        let is_crowded = now.waited > CROWDED * k && now.computed < 1.05 * (k - 1.0) + 0.15;
        is_crowded.then(|| self.begin(now, threads - 1, true))
    }

    fn begin(&mut self, now: Sample, to: u32, on_trial: bool) -> u32 {
        let trial = on_trial.then(|| Load::of(now));
        self.change = Some(Change { from: now.threads, to, trial, ticks: 0, is_done: false });
        (self.light, self.hot) = (0, 0);
        to
    }

    /// Follows a change until it is done, and has been tried for long enough.
    fn follow(&mut self, mut change: Change, now: Sample) -> Option<u32> {
        change.ticks += 1;
        if !change.is_done && now.threads == change.to {
            (change.is_done, change.ticks) = (true, 0);
        }
        let time = match (change.is_done, change.trial) {
            (false, _) => PATIENCE,
            (true, None) => 0,
            (true, Some(_)) => TRIAL,
        };
        self.change = Some(change);
        if change.ticks < time {
            return None;
        }
        self.change = None;
        self.rest = REST;
        let is_fewer = change.to < change.from;
        let kept =
            change.is_done && change.trial.is_none_or(|before| is_better(before, now, is_fewer));
        let pause = if is_fewer { &mut self.fewer } else { &mut self.more };
        if kept {
            pause.next = 0;
            return None;
        }
        pause.fail(change.trial.unwrap_or(Load::of(now)));
        (now.threads != change.from).then(|| {
            let back = Change { from: now.threads, to: change.from, trial: None, ..change };
            self.change = Some(Change { ticks: 0, is_done: false, ..back });
            change.from
        })
    }
}

/// Whether a change on trial stays.
fn is_better(before: Load, now: Sample, is_fewer: bool) -> bool {
    let load = Load::of(now);
    let rate = load.callbacks / before.callbacks.max(1.0);
    if is_fewer {
        rate >= 0.97 && load.cost < 1.03 * before.cost
    } else {
        rate > 1.07 || (rate > 0.97 && now.waited < CROWDED * f64::from(now.threads))
    }
}

impl Load {
    fn of(sample: Sample) -> Self {
        let callbacks = sample.callbacks;
        Self { callbacks, cost: sample.computed / callbacks.max(1.0) }
    }

    fn is_like(self, other: Self) -> bool {
        let alike = |one: f64, other: f64| (0.6..=1.6).contains(&(one / other.max(1e-12)));
        alike(self.callbacks, other.callbacks) && alike(self.cost, other.cost)
    }
}

impl Pause {
    fn pass(&mut self, load: Option<Load>) {
        self.left = self.left.saturating_sub(1);
        if let (Some(failed), Some(load)) = (self.failed, load)
            && !load.is_like(failed)
        {
            *self = Self::default();
        }
    }

    fn fail(&mut self, load: Load) {
        self.left = self.next.max(PAUSE);
        self.next = (self.left * 2).min(PAUSE_AT_MOST);
        self.failed = Some(load);
    }
}

#[cfg(all(test, not(loom)))]
#[path = "gather_tests.rs"]
mod tests;
