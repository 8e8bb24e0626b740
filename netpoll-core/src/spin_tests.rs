//! What the spinner decides, by the processor time that it is charged for a load on a machine.

use super::*;

/// A load: how long after each wait the next event comes.
#[derive(Debug, Clone, Copy)]
struct Load {
    /// What a sleep and its end take of processor time, in microseconds.
    sleep: u64,
    /// Until the next event, awake and asleep.
    gap: u64,
    gap_asleep: u64,
}

/// A client that waits for each answer, on a virtual machine: what `docs/benchmarks.md` measures.
const PING_PONG: Load = Load { sleep: 20, gap: 12, gap_asleep: 60 };
/// The same rate where sleeping is cheap.
const METAL: Load = Load { sleep: 3, gap: 40, gap_asleep: 40 };
const SPARSE: Load = Load { sleep: 20, gap: 5_000, gap_asleep: 5_000 };
/// What a callback takes.
const WORK: u64 = 5;

/// A reactor's thread, in microseconds.
struct Machine {
    spinner: Spinner,
    now: Reading,
    /// What it would have computed had it slept each time.
    asleep: Duration,
    spins: u32,
}

impl Machine {
    fn new(spin: Spin) -> Self {
        let (now, asleep) = (Reading::default(), Duration::ZERO);
        Self { spinner: Spinner::new(spin), now, asleep, spins: 0 }
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
                self.spinner.spun(Spun { found, robbed: false });
                if found { load.gap } else { limit + load.sleep }
            }
        };
        self.now.computed += Duration::from_micros(cost + WORK);
        self.now.moved += 128;
        self.asleep += Duration::from_micros(load.sleep + WORK);
    }

    fn windows(&mut self, load: Load, count: u32) -> u32 {
        let before = self.spins;
        (0..count * WAITS).for_each(|_| self.wait(load));
        self.spins - before
    }

    /// What it has computed, by what it would have, had it slept.
    fn ratio(&self) -> f64 {
        self.now.computed.as_secs_f64() / self.asleep.as_secs_f64()
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
    // The longer it goes on the less it tries.
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
    assert_eq!(machine.windows(SPARSE, 1_000), IN_VAIN);
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

#[test]
fn who_is_robbed_sleeps_and_tries_less_and_less() {
    let mut machine = Machine::new(Spin::WhenCheaper);
    let mut robberies = Vec::new();
    for wait in 0..2_000 * WAITS {
        let now = machine.now;
        if let Plan::Spin(_) = machine.spinner.plan(|| now) {
            machine.spinner.spun(Spun { found: true, robbed: true });
            robberies.push(wait);
        } else {
            machine.spinner.slept(Duration::from_micros(60));
        }
        machine.now.computed += Duration::from_micros(1);
        machine.now.moved += 1;
    }
    let ends = robberies.iter().skip(ROBBERIES as usize - 1).step_by(ROBBERIES as usize);
    let pauses: Vec<u32> = ends.clone().zip(ends.skip(1)).map(|(a, b)| b - a).collect();
    assert!((6..20).contains(&pauses.len()), "{pauses:?}");
    assert!(pauses.is_sorted(), "{pauses:?}");
}

/// Whatever comes, in whatever order, it costs little more than to sleep each time.
#[test]
fn no_load_makes_it_dear() {
    for seed in 1..=20 {
        let mut random = Random(seed);
        let mut machine = Machine::new(Spin::WhenCheaper);
        for _ in 0..400 {
            let gap = 1 << random.below(10);
            let load = Load { sleep: 1 + random.below(30), gap, gap_asleep: gap };
            let windows = 1 + random.below(100);
            machine.windows(load, windows as u32);
        }
        assert!(machine.ratio() < 1.05, "seed {seed}: {}", machine.ratio());
    }
}

/// The second thread has had less time: its readings must not look like a cheap window.
#[test]
fn times_of_two_threads_are_not_compared() {
    let mut machine = Machine::new(Spin::WhenCheaper);
    for _ in 0..1_000 {
        (0..WAITS - 1).for_each(|_| machine.wait(PING_PONG));
        machine.spinner.change_threads();
        machine.now.computed = Duration::ZERO;
    }
    assert_eq!(machine.spins, 0);
}

#[test]
fn who_knows_better_is_obeyed() {
    assert_eq!(Machine::new(Spin::Never).windows(PING_PONG, 100), 0);
    let always = Spin::For(Duration::from_micros(20));
    assert_eq!(Machine::new(always).windows(SPARSE, 100), 100 * WAITS);
}

#[test]
fn a_spin_ends_with_what_it_looks_for_or_with_its_time() {
    let mut looks = 0;
    let spun = spin(Duration::MAX, || {
        looks += 1;
        Ok::<_, ()>(looks == 100)
    });
    assert!(spun.unwrap().found && looks == 100);
    let spun = spin(Duration::from_micros(50), || Ok::<_, ()>(false));
    assert!(!spun.unwrap().found);
    assert_eq!(spin(Duration::MAX, || Err(1)), Err(1));
}

/// xorshift64*.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % limit
    }
}
