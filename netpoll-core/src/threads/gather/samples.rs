//! What the gatherer measures of the threads that turn loops.

use std::collections::HashMap;
use std::ops::{Add, Sub};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crate::base::clock;
use crate::connection::mailbox::Remote;
use crate::pure::gather::{Sample, TICK};
use crate::sys::{self, QueueFile};
use crate::threads::asleep::StateReader;
use crate::threads::station::Station;

/// So many denials in a row are taken as an answer; descriptors may run out for a while.
const DENIALS: u32 = 50;
/// A thread that sleeps inside a callback is looked at again after this time.
const SOON: Duration = Duration::from_millis(1);

/// The last sample of each thread and of each loop.
#[derive(Debug, Default)]
pub(super) struct Samples {
    at: Option<Instant>,
    threads: Vec<Thread>,
    /// By the number of the loop.
    loops: HashMap<usize, Counts>,
    /// How often in a row no thread showed its wait.
    denied: u32,
}

/// What a loop has done so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Counts {
    turns: u64,
    callbacks: u64,
    /// Take-overs because a callback took long.
    steals: u64,
}

/// A thread that turns the loops of a station.
#[derive(Debug)]
struct Thread {
    station: Arc<Station>,
    number: i32,
    file: QueueFile,
    state: StateReader,
    computed: Duration,
    waited: Duration,
    /// What its loops had done, and the callbacks of that since the sample before.
    done: Counts,
    load: u64,
    /// What its loops had done, if it was not in its wait.
    inside: Option<Counts>,
}

pub(super) enum Measured {
    Sample {
        sample: Sample,
        turns: u64,
    },
    /// There is nothing yet to compare with.
    First,
    /// A thread has changed, or time has leapt.
    Nothing,
    /// The system does not show for how long threads wait.
    Never,
}

impl Samples {
    pub(super) fn forget(&mut self) {
        *self = Self::default();
    }

    /// How much the loops of a station did.
    pub(super) fn load_of(&self, station: &Arc<Station>) -> u64 {
        let of = self.threads.iter().find(|it| Arc::ptr_eq(&it.station, station));
        of.map_or(0, |thread| thread.load)
    }

    /// Measures all threads, and compares with the last time.
    pub(super) fn take(&mut self, stations: &[Arc<Station>]) -> Measured {
        let now = clock::now();
        let passed = self.at.replace(now).map(|before| now.duration_since(before));
        let mut total = Sample { threads: number(stations.len()), ..Sample::default() };
        let done = self.count(stations, &mut total);
        let (mut known, mut complete, mut denied) =
            (std::mem::take(&mut self.threads), true, false);
        let share = |time: Duration| time.as_secs_f64() / passed.unwrap_or(TICK).as_secs_f64();
        for station in stations {
            let of_it = known.iter().position(|it| it.is_at(station));
            let Some(of_it) = of_it else {
                let first = Thread::at(station);
                denied |= first.is_none();
                complete = false;
                self.threads.extend(first);
                continue;
            };
            let mut thread = known.swap_remove(of_it);
            let Some((computed, waited)) = thread.measure() else {
                complete = false;
                continue;
            };
            total.computed += share(computed);
            total.busiest = total.busiest.max(share(computed + waited));
            total.waited += share(waited);
            total.long |= thread.is_in_long_callback();
            self.threads.push(thread);
        }
        self.denied = if denied { self.denied + 1 } else { 0 };
        let Some(passed) = passed else { return Measured::First };
        if self.denied > DENIALS {
            return Measured::Never;
        }
        if !complete || passed.is_zero() || passed > TICK * 3 {
            return Measured::Nothing;
        }
        total.long |= done.steals > 0;
        total.callbacks = f64::from(number(done.callbacks)) / passed.as_secs_f64();
        Measured::Sample { sample: total, turns: done.turns }
    }

    /// Counts what all loops have done since the last time.
    fn count(&mut self, stations: &[Arc<Station>], total: &mut Sample) -> Counts {
        let before = std::mem::take(&mut self.loops);
        let (mut done, mut busiest) = (Counts::default(), 0);
        for remote in stations.iter().flat_map(|station| station.loops()) {
            let counts = Counts::of(&remote);
            // A loop that was not there has done nothing yet.
            let last = before.get(&remote.number()).copied().unwrap_or(counts);
            let its = counts - last;
            done = done + its;
            busiest = busiest.max(its.callbacks);
            total.loops += 1;
            self.loops.insert(remote.number(), counts);
        }
        total.alone = f64::from(number(busiest)) / f64::from(number(done.callbacks).max(1));
        done
    }
}

impl Thread {
    /// The thread that turns the loops of a station now; `None` if the system does not show it.
    fn at(station: &Arc<Station>) -> Option<Self> {
        let number = station.activity.holder();
        let file = QueueFile::open(number).ok()?;
        let (computed, waited) = (sys::thread_time(number)?, file.waited().ok()?);
        let (station, state) = (station.clone(), StateReader::default());
        let done = Counts::of_all(&station);
        Some(Self { station, number, file, state, computed, waited, done, load: 0, inside: None })
    }

    fn is_at(&self, station: &Arc<Station>) -> bool {
        Arc::ptr_eq(&self.station, station) && self.number == station.activity.holder()
    }

    /// For how long it computed, and waited for a processor, since the last time; `None` when it
    /// has ended.
    fn measure(&mut self) -> Option<(Duration, Duration)> {
        let (computed, waited) = (sys::thread_time(self.number)?, self.file.waited().ok()?);
        let done = Counts::of_all(&self.station);
        self.load = (done - std::mem::replace(&mut self.done, done)).callbacks;
        let before = std::mem::replace(&mut self.computed, computed);
        let waited_before = std::mem::replace(&mut self.waited, waited);
        Some((computed.saturating_sub(before), waited.saturating_sub(waited_before)))
    }

    /// Whether it was in one callback from the last tick to this one, or sleeps in one.
    fn is_in_long_callback(&mut self) -> bool {
        let inside = self.inside();
        let was_inside = std::mem::replace(&mut self.inside, inside);
        if inside.is_none() || was_inside == inside {
            return inside.is_some();
        }
        if !self.state.is_asleep(self.number).unwrap_or(false) {
            return false;
        }
        // sleep: it may have slept for a lock, for less than a change of threads takes
        thread::sleep(SOON);
        self.inside() == inside && self.state.is_asleep(self.number).unwrap_or(false)
    }

    /// What its loops have done, unless all of them wait for events or are called just now.
    fn inside(&self) -> Option<Counts> {
        let mut loops = self.station.loops().into_iter();
        loops.any(|remote| remote.waker().is_awake()).then(|| Counts::of_all(&self.station))
    }
}

impl Counts {
    fn of(remote: &Remote) -> Self {
        let (counters, work) = (&remote.counters, remote.counters.work() + remote.traffic.work());
        let steals = counters.steals();
        Self { turns: counters.turns.read(), callbacks: work.callbacks, steals }
    }

    fn of_all(station: &Station) -> Self {
        let loops = station.loops();
        loops.iter().fold(Self::default(), |sum, remote| sum + Self::of(remote))
    }
}

impl Add for Counts {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            turns: self.turns.wrapping_add(other.turns),
            callbacks: self.callbacks.wrapping_add(other.callbacks),
            steals: self.steals.wrapping_add(other.steals),
        }
    }
}

impl Sub for Counts {
    type Output = Self;

    /// None of them where the other has done more: other loops are counted.
    fn sub(self, other: Self) -> Self {
        Self {
            turns: self.turns.saturating_sub(other.turns),
            callbacks: self.callbacks.saturating_sub(other.callbacks),
            steals: self.steals.saturating_sub(other.steals),
        }
    }
}

fn number(count: impl TryInto<u32>) -> u32 {
    count.try_into().unwrap_or(u32::MAX)
}
