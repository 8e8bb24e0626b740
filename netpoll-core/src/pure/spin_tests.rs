//! What the spinner decides, by the processor time that a load costs on a pretend machine.

use super::*;
use crate::base::chance::Random;

/// A load: how long after the beginning of a wait the next event comes, and what its callback
/// does. Times are in microseconds.
#[derive(Debug, Clone, Copy)]
struct Load {
    /// The processor time of a sleep and its wake.
    sleep: u64,
    /// The time to the next event, awake and asleep.
    gap: u64,
    gap_asleep: u64,
    /// The processor time and the bytes of a callback.
    work: u64,
    bytes: u64,
    /// How many of the bytes are sent.
    sent: u64,
}

/// A client that waits for each answer, on a virtual machine: what `docs/benchmarks.md` measures.
const PING_PONG: Load = Load { sleep: 20, gap: 12, gap_asleep: 60, work: 5, bytes: 128, sent: 64 };
/// The same rate where sleeping is cheap.
const METAL: Load = Load { sleep: 3, gap: 40, gap_asleep: 40, ..PING_PONG };
const SPARSE: Load = Load { gap: 5_000, gap_asleep: 5_000, ..PING_PONG };

/// A reactor's thread.
struct Machine {
    spinner: Spinner,
    now: Reading,
    computed: Duration,
    /// The processor time of the same load if each wait had been a sleep.
    asleep: Duration,
    spins: u32,
}

impl Machine {
    fn new(spin: Spin) -> Self {
        let (now, none) = (Reading::default(), Duration::ZERO);
        Self { spinner: Spinner::new(spin), now, computed: none, asleep: none, spins: 0 }
    }

    fn wait(&mut self, load: Load) {
        let now = self.now;
        let cost = match self.spinner.plan(|| now) {
            Plan::Sleep { timed } => {
                if timed {
                    self.spinner.slept(Duration::from_micros(load.gap_asleep));
                }
                load.sleep
            }
            Plan::Spin(limit) => {
                self.spins += 1;
                let limit = limit.as_micros() as u64;
                let found = load.gap <= limit;
                self.spinner.spun(Spun { found, away: Duration::ZERO });
                if found { load.gap } else { limit + load.sleep }
            }
        };
        self.now.computed += Duration::from_micros(cost + load.work);
        self.computed += Duration::from_micros(cost + load.work);
        self.now.moved += load.bytes;
        self.now.sent += load.sent;
        self.now.callbacks += 1;
        self.asleep += Duration::from_micros(load.sleep + load.work);
    }

    fn windows(&mut self, load: Load, count: u32) -> u32 {
        let before = self.spins;
        (0..count * WAITS).for_each(|_| self.wait(load));
        self.spins - before
    }

    /// The processor time, divided by that of sleeps alone.
    fn ratio(&self) -> f64 {
        self.computed.as_secs_f64() / self.asleep.as_secs_f64()
    }
}

#[test]
fn it_spins_where_that_is_cheaper() {
    let mut machine = Machine::new(Spin::WhenCheaper);
    let spins = machine.windows(PING_PONG, 1_000);
    assert!(spins > 985 * WAITS, "{spins} of {}", 1_000 * WAITS);
    assert!(machine.ratio() < 0.7, "{}", machine.ratio());
}

#[test]
fn it_sleeps_where_that_is_cheaper() {
    let mut machine = Machine::new(Spin::WhenCheaper);
    machine.windows(METAL, 10_000);
    assert!(machine.spins > 0, "it never tried");
    assert!(machine.ratio() < 1.05, "{}", machine.ratio());
    // The longer the load lasts, the rarer are the trials.
    let spins = machine.windows(METAL, 10_000);
    assert!(spins <= 10_000 / PAUSE_AT_MOST * WAITS, "{spins}");
}

#[test]
fn long_sleeps_are_not_tried_to_be_saved() {
    let mut machine = Machine::new(Spin::WhenCheaper);
    assert_eq!(machine.windows(SPARSE, 1_000), 0);
}

#[test]
fn a_load_that_has_gone_costs_a_few_spins() {
    let mut machine = Machine::new(Spin::WhenCheaper);
    machine.windows(PING_PONG, 50);
    assert_eq!(machine.windows(SPARSE, 1_000), MISSES);
}

#[test]
fn what_has_become_dearer_is_measured_again() {
    let mut machine = Machine::new(Spin::WhenCheaper);
    machine.windows(PING_PONG, 50);
    let spins = machine.windows(METAL, 1_000);
    assert!(spins <= 12 * WAITS, "{spins}");
    let spins = machine.windows(PING_PONG, 1_000);
    assert!(spins > 600 * WAITS, "{spins}");
}

/// Where no peer is answered, none waits, so it does not matter how soon the loop is there.
#[test]
fn one_direction_is_no_reason_to_spin() {
    let mut machine = Machine::new(Spin::WhenCheaper);
    assert_eq!(machine.windows(Load { sent: 0, ..PING_PONG }, 1_000), 0);
    assert!(machine.windows(PING_PONG, 50) > 40 * WAITS);
    let spins = machine.windows(Load { sent: 0, ..PING_PONG }, 1_000);
    assert!(spins <= 2 * WAITS, "{spins}");
}

/// Whether it is preempted for a short time at each spin, or once in some windows for a slice of
/// another thread.
#[test]
fn a_spinner_that_is_preempted_sleeps_and_tries_less_and_less() {
    let each = |wait: u32| if wait.is_multiple_of(4) { 250 } else { 0 };
    let seldom = |wait: u32| if wait.is_multiple_of(300) { 3_000 } else { 0 };
    for away in [each, seldom] {
        let mut machine = Machine::new(Spin::WhenCheaper);
        let (mut spins, mut ends, mut lost) = (0, Vec::new(), 0);
        for wait in 0..4_000 * WAITS {
            let now = machine.now;
            let (cost, is_spin) = match machine.spinner.plan(|| now) {
                Plan::Spin(_) => {
                    let away = away(spins);
                    machine.spinner.spun(Spun { found: true, away: Duration::from_micros(away) });
                    (spins, lost) = (spins + 1, lost + away);
                    if machine.spinner.phase == Phase::Sleeping {
                        ends.push(wait);
                    }
                    (17, true)
                }
                Plan::Sleep { .. } => (25, false),
            };
            if !is_spin {
                machine.spinner.slept(Duration::from_micros(60));
            }
            machine.now.computed += Duration::from_micros(cost);
            machine.now.moved += 128;
            machine.now.sent += 64;
            machine.now.callbacks += 1;
        }
        let pauses: Vec<u32> = ends.iter().zip(&ends[1..]).map(|(a, b)| b - a).collect();
        assert!((6..30).contains(&pauses.len()), "{pauses:?}");
        assert!(lost < 100_000, "{lost} µs were lost in {} ends", ends.len());
        assert!(pauses.last() >= Some(&(PAUSE_AT_MOST * WAITS)), "{pauses:?}");
    }
}

/// Loads that change at random, on machines of all kinds, cost little more than sleeps alone.
#[test]
fn no_load_makes_it_dear() {
    for seed in 1..=20 {
        let mut random = Random(seed);
        let mut machine = Machine::new(Spin::WhenCheaper);
        for _ in 0..400 {
            let load = random.load();
            machine.windows(load, 1 + random.below(100) as u32);
        }
        assert!(machine.ratio() < 1.05, "seed {seed}: {}", machine.ratio());
    }
}

/// A few answers are large, so the bytes and times of windows vary; a cheap window by luck is no
/// success.
#[test]
fn large_answers_now_and_then_do_not_make_it_dear() {
    for seed in 1..=20 {
        let mut random = Random(seed);
        let mut machine = Machine::new(Spin::WhenCheaper);
        for _ in 0..1_000 * WAITS {
            let large = random.below(200) == 0;
            let (work, bytes) = if large { (250, 1 << 20) } else { (5, 128) };
            machine.wait(Load { gap: 10, work, bytes, sent: bytes, ..METAL });
        }
        assert!(machine.ratio() < 1.05, "seed {seed}: {}", machine.ratio());
    }
}

/// Larger messages cost less for each byte, and shorter callbacks less for each callback: neither
/// keeps a loop spinning.
#[test]
fn another_load_is_no_success() {
    let large = Load { work: 60, bytes: 16 << 10, ..PING_PONG };
    for (before, after) in [(PING_PONG, Load { bytes: 16 << 10, ..METAL }), (large, METAL)] {
        let mut machine = Machine::new(Spin::WhenCheaper);
        assert!(machine.windows(before, 50) > 0);
        let spins = machine.windows(after, 1_000);
        assert!(spins <= 16 * WAITS, "{before:?}, then {after:?}: {spins} spins");
    }
}

/// A loop that spins can't see that sleeping has become cheap, unless it measures that again.
#[test]
fn what_a_sleep_costs_is_measured_again() {
    let mut machine = Machine::new(Spin::WhenCheaper);
    machine.windows(PING_PONG, 50);
    let spins = machine.windows(Load { sleep: 1, ..PING_PONG }, 1_000);
    assert!(spins <= (AGREED + 16) * WAITS, "{spins}");
}

/// The second thread has used less time: its readings must not look like a cheap window. And a
/// loop that can't be measured must not go on spinning.
#[test]
fn times_of_two_threads_are_not_compared() {
    for (before, after) in [(PING_PONG, PING_PONG), (PING_PONG, METAL), (PING_PONG, SPARSE)] {
        for waits in [15, 100, WAITS - 1] {
            let mut machine = Machine::new(Spin::WhenCheaper);
            machine.windows(before, 50);
            let spins = machine.spins;
            assert!(spins > 0);
            for _ in 0..1_000 {
                (0..waits).for_each(|_| machine.wait(after));
                machine.spinner.change_threads();
                machine.now.computed = Duration::ZERO;
            }
            let more = machine.spins - spins;
            assert!(more <= 2 * WAITS, "{after:?}, {waits} waits each: {more} spins");
        }
    }
}

#[test]
fn a_choice_of_the_user_is_obeyed() {
    assert_eq!(Machine::new(Spin::Never).windows(PING_PONG, 100), 0);
    let always = Spin::For(Duration::from_micros(20));
    assert_eq!(Machine::new(always).windows(SPARSE, 100), 100 * WAITS);
    assert_eq!(Machine::new(Spin::For(Duration::ZERO)).windows(SPARSE, 100), 0);
}

impl Random {
    fn load(&mut self) -> Load {
        let gap = 1 << self.below(10);
        let (sleep, work, bytes) = (1 + self.below(30), 1 + self.below(30), 1 << self.below(15));
        Load { sleep, gap, gap_asleep: gap, work, bytes, sent: 1 }
    }
}
