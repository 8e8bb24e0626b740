//! The policy on loads that are made up: what it settles on, and how often it changes.

use super::*;

/// What a load does on so many threads.
type Load = fn(f64) -> Sample;

/// Threads that all do the same.
fn sample(threads: f64, computed: f64, waited: f64, callbacks: f64) -> Sample {
    let busiest = (computed + waited) / threads;
    Sample { computed, waited, busiest, callbacks, ..Sample::default() }
}

/// Much less than one thread can do.
fn light(threads: f64) -> Sample {
    let computed = 0.25 + 0.05 * threads;
    sample(threads, computed, 0.02 * threads, 20e3)
}

/// Nothing left to gain by fewer threads, nor a processor for more.
fn full(threads: f64) -> Sample {
    sample(threads, 0.97 * threads, 0.03, 5e3 * threads)
}

/// Clients on the same two processors: the fewer threads, the more is done.
fn crowded(threads: f64) -> Sample {
    let (computed, waited) = if threads > 1.0 { (1.0, 0.5) } else { (0.93, 0.04) };
    let callbacks = if threads > 1.0 { 145e3 } else { 180e3 };
    sample(threads, computed, waited, callbacks)
}

/// It looks crowded, but fewer threads do less.
fn deceiving(threads: f64) -> Sample {
    let (computed, waited) = if threads > 1.0 { (1.0, 0.4) } else { (0.8, 0.1) };
    let callbacks = if threads > 1.0 { 100e3 } else { 80e3 };
    sample(threads, computed, waited, callbacks)
}

/// Threads of other processes compute on both processors: each thread of ours always has
/// something to do, and has its processor for a part of the time.
fn besides_others(threads: f64) -> Sample {
    sample(threads, 0.7 * threads, 0.28 * threads, 28e3 * threads)
}

/// The same, and the processors are shared with so many that two threads look light.
fn besides_many(threads: f64) -> Sample {
    sample(threads, 0.25 * threads, 0.73 * threads, 10e3 * threads)
}

/// A load that comes at a constant rate, and no more of it is done by more threads.
fn constant_besides_others(threads: f64) -> Sample {
    sample(threads, 0.3, 0.6, 20e3)
}

/// As light, on one loop.
fn alone(threads: f64) -> Sample {
    let sample = light(threads);
    Sample { busiest: sample.computed + sample.waited, alone: 1.0, ..sample }
}

struct Machine {
    gathering: Gathering,
    threads: u32,
    loops: u32,
    changes: u32,
    noise: u32,
}

impl Machine {
    fn with(loops: u32) -> Self {
        Self { gathering: Gathering::default(), threads: loops, loops, changes: 0, noise: 1 }
    }

    /// Each number is up to 4 % off.
    fn off(&mut self, number: f64) -> f64 {
        self.noise = self.noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        number * (0.96 + 0.08 * f64::from(self.noise >> 16) / 65_536.0)
    }

    fn tick(&mut self, load: Load, long: bool) {
        let exact = load(f64::from(self.threads));
        let sample = Sample {
            threads: self.threads,
            loops: self.loops,
            computed: self.off(exact.computed),
            busiest: self.off(exact.busiest),
            waited: self.off(exact.waited),
            callbacks: self.off(exact.callbacks),
            alone: exact.alone,
            long,
        };
        if let Some(threads) = self.gathering.tick(sample) {
            assert!((1..=self.loops).contains(&threads), "{threads}");
            self.changes += u32::from(threads != self.threads);
            self.threads = threads;
        }
    }

    /// In how many of so many ticks it had each number of threads.
    fn run(&mut self, load: Load, ticks: u32) -> Vec<u32> {
        let mut had = vec![0; self.loops as usize + 1];
        for _ in 0..ticks {
            self.tick(load, false);
            had[self.threads as usize] += 1;
        }
        had
    }
}

const SECOND: u32 = 50;

#[test]
fn a_light_load_is_gathered_and_stays_so() {
    for loops in [2, 3, 8, 64] {
        let mut machine = Machine::with(loops);
        let had = machine.run(light, SECOND);
        assert_eq!(machine.threads, 1, "{had:?}");
        machine.changes = 0;
        machine.run(light, 60 * SECOND);
        assert_eq!((machine.threads, machine.changes), (1, 0));
    }
}

#[test]
fn a_load_that_fills_its_threads_keeps_them() {
    for loops in [2, 8] {
        let mut machine = Machine::with(loops);
        machine.run(full, 60 * SECOND);
        assert_eq!((machine.threads, machine.changes), (loops, 0));
    }
}

#[test]
fn threads_that_take_each_others_processors_are_gathered() {
    let mut machine = Machine::with(2);
    machine.run(crowded, SECOND);
    let had = machine.run(crowded, 120 * SECOND);
    // One thread that is busy is tried against two, every eight seconds.
    assert!(had[1] >= 117 * SECOND, "{had:?}");
}

#[test]
fn threads_that_wait_for_their_processors_are_as_busy_as_those_that_compute() {
    let mut machine = Machine::with(2);
    machine.run(light, SECOND);
    assert_eq!(machine.threads, 1);
    let had = machine.run(besides_others, 2 * SECOND);
    assert!(had[2] >= 2 * SECOND - 10, "{had:?}");
    for load in [besides_others as Load, besides_many] {
        machine.run(load, 10 * SECOND);
        machine.changes = 0;
        let had = machine.run(load, 120 * SECOND);
        assert!(had[2] >= 114 * SECOND, "{had:?}");
        assert!(machine.changes <= 32, "{} changes", machine.changes);
    }
}

#[test]
fn a_load_that_more_threads_do_not_help_stays_gathered_beside_others() {
    let mut machine = Machine::with(2);
    machine.run(light, SECOND);
    machine.run(constant_besides_others, 30 * SECOND);
    machine.changes = 0;
    let had = machine.run(constant_besides_others, 120 * SECOND);
    assert!(had[1] >= 114 * SECOND, "{had:?}");
    assert!(machine.changes <= 32, "{} changes", machine.changes);
}

#[test]
fn a_trial_that_fails_is_repeated_every_eight_seconds_at_most() {
    let mut machine = Machine::with(2);
    machine.run(deceiving, 30 * SECOND);
    machine.changes = 0;
    let had = machine.run(deceiving, 120 * SECOND);
    assert!((2..=32).contains(&machine.changes), "{} changes", machine.changes);
    assert!(had[2] >= 116 * SECOND, "{had:?}");
}

#[test]
fn a_load_that_jumps_finds_its_threads_within_a_fifth_of_a_second() {
    let mut machine = Machine::with(2);
    for _ in 0..20 {
        let had = machine.run(light, 2 * SECOND);
        assert!(had[1] >= 2 * SECOND - 10, "light: {had:?}");
        let had = machine.run(full, 2 * SECOND);
        assert!(had[2] >= 2 * SECOND - 10, "full: {had:?}");
    }
    // From one thread to 64 it takes six doublings, each on trial.
    let mut machine = Machine::with(64);
    machine.run(light, SECOND);
    machine.run(full, 2 * SECOND);
    assert_eq!(machine.threads, 64);
}

#[test]
fn one_loop_that_is_busy_alone_has_its_thread() {
    for loops in [2, 8] {
        let mut machine = Machine::with(loops);
        machine.run(alone, 60 * SECOND);
        assert_eq!((machine.threads, machine.changes), (loops, 0));
        machine.run(light, SECOND);
        assert_eq!(machine.threads, 1);
        machine.changes = 0;
        machine.run(alone, 60 * SECOND);
        assert_eq!((machine.threads, machine.changes), (loops, 1));
    }
}

#[test]
fn callbacks_that_take_long_spread_the_loops() {
    let mut machine = Machine::with(4);
    machine.run(light, SECOND);
    assert_eq!(machine.threads, 1);
    // Once is no habit.
    machine.tick(light, true);
    machine.run(light, SECOND);
    assert_eq!(machine.threads, 1);
    for _ in 0..5 {
        machine.tick(light, true);
    }
    assert_eq!(machine.threads, 4);
    let had = machine.run(light, 8 * SECOND);
    assert!(had[4] >= 7 * SECOND, "{had:?}");
    machine.run(light, 2 * SECOND);
    assert_eq!(machine.threads, 1, "it is long ago");
}

#[test]
fn a_change_that_is_not_carried_out_is_given_up() {
    let mut gathering = Gathering::default();
    let sample = Sample { threads: 2, loops: 2, ..light(2.0) };
    let asked = (0..20 * SECOND).filter_map(|_| gathering.tick(sample)).count();
    // The thread that was to take the loops is inside a callback, say.
    assert!((2..=12).contains(&asked), "{asked}");
}

#[test]
fn nothing_is_decided_by_a_load_that_is_over() {
    let mut gathering = Gathering::default();
    let hot = Sample { threads: 1, loops: 2, ..full(1.0) };
    assert_eq!(gathering.tick(hot), None);
    gathering.forget();
    assert_eq!(gathering.tick(hot), None);
    assert_eq!(gathering.tick(hot), Some(2));
}
