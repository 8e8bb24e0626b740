//! What a loop decides about its batches, on a pretend machine.

use super::*;
use crate::base::chance::Random;

/// A loop, and the time.
struct Machine {
    batching: Batching,
    now: Instant,
    in_batches: bool,
    changes: u32,
}

impl Machine {
    fn new() -> Self {
        let (batching, now) = (Batching::new(), Instant::now());
        Self { batching, now, in_batches: false, changes: 0 }
    }

    /// A turn that takes so long and sends so many jobs.
    fn turn(&mut self, microseconds: u64, jobs: u32) {
        self.now += Duration::from_micros(microseconds);
        self.batching.jobs = jobs - jobs.min(1);
        (0..jobs.min(1)).for_each(|_| self.batching.sent());
        let now = self.now;
        if let Some(in_batches) = self.batching.end_turn(|| now) {
            self.change_to(in_batches);
        }
    }

    fn run_here(&mut self) {
        if self.batching.runs_here() {
            self.change_to(false);
        }
    }

    fn change_to(&mut self, in_batches: bool) {
        assert_ne!(in_batches, self.in_batches, "no change");
        self.in_batches = in_batches;
        self.changes += 1;
    }

    /// Turns of that kind for that time, alone and in batches.
    fn load(&mut self, milliseconds: u64, alone: (u64, u32), in_batches: (u64, u32)) {
        let end = self.now + Duration::from_millis(milliseconds);
        while self.now < end {
            let (microseconds, jobs) = if self.in_batches { in_batches } else { alone };
            self.turn(microseconds, jobs);
        }
    }

    /// The same for so many tenths of a second, in each of which it runs for a while and then has
    /// used up its quota. Returns in how many of them it ended in batches.
    fn load_under_quota(&mut self, tenths: u32, runs: u64, kinds: [(u64, u32); 2]) -> u32 {
        let mut ended_in_batches = 0;
        for _ in 0..tenths {
            let begun = self.now;
            self.load(runs, kinds[0], kinds[1]);
            ended_in_batches += u32::from(self.in_batches);
            self.now = self.now.max(begun + Duration::from_millis(100));
        }
        ended_in_batches
    }
}

#[test]
fn small_batches_cost_no_look_at_the_clock() {
    let mut batching = Batching::new();
    for turn in 0..10_000 {
        (0..turn % 5).for_each(|_| batching.sent());
        assert_eq!(batching.end_turn(|| unreachable!("it asks for the time")), None);
    }
}

#[test]
fn large_batches_are_kept_while_they_are_large() {
    let mut machine = Machine::new();
    machine.load(1_000, (80, 12), (150, 30));
    assert_eq!((machine.in_batches, machine.changes), (true, 1));
    // Single events in between change nothing, and neither does a pause.
    for _ in 0..1_000 {
        machine.turn(150, 30);
        (0..8).for_each(|_| machine.turn(4, 1));
    }
    machine.turn(3_000_000, 30);
    machine.load(1_000, (80, 12), (150, 30));
    assert_eq!(machine.changes, 1);
    machine.load(100, (10, 2), (10, 2));
    assert_eq!((machine.in_batches, machine.changes), (false, 2));
}

#[test]
fn beside_a_thread_that_computes_they_are_given_up_more_and_more_rarely() {
    // Eight connections: alone 65 000 jobs a second; in batches each turn waits for a time slice.
    let (alone, in_batches) = ((120, 8), (4_000, 8));
    let mut machine = Machine::new();
    machine.load(1_000, alone, in_batches);
    assert!(!machine.in_batches && (2..=10).contains(&machine.changes), "{}", machine.changes);
    let before = machine.changes;
    machine.load(60_000, alone, in_batches);
    assert!(machine.changes - before <= 60, "{} in a minute", machine.changes - before);
}

#[test]
fn they_are_tried_anew_where_far_fewer_jobs_come_than_usual() {
    let mut machine = Machine::new();
    machine.load(2_000, (80, 12), (150, 30));
    assert!(machine.in_batches);
    // The other thread begins: it is soon known that batches do harm now.
    machine.load(200, (120, 8), (4_000, 8));
    assert!(!machine.in_batches);
    // A load that is less in both ways is no reason.
    let mut machine = Machine::new();
    machine.load(2_000, (80, 12), (150, 30));
    machine.load(300, (400, 12), (750, 30));
    assert_eq!((machine.in_batches, machine.changes), (true, 3));
}

#[test]
fn under_a_quota_the_time_without_a_processor_speaks_for_neither() {
    for runs in [12, 25, 33, 50, 70, 80] {
        let mut machine = Machine::new();
        machine.load_under_quota(10, runs, [(80, 12), (150, 30)]);
        let kept = machine.load_under_quota(100, runs, [(80, 12), (150, 30)]);
        assert!(kept >= 90, "runs for {runs} ms: {kept} of 100");
    }
    // Where batches do harm, they are found out under a quota as well.
    let mut machine = Machine::new();
    machine.load_under_quota(10, 50, [(120, 8), (4_000, 8)]);
    let kept = machine.load_under_quota(300, 50, [(120, 8), (4_000, 8)]);
    assert!(kept <= 30, "{kept} of 300");
}

#[test]
fn pauses_that_only_batches_have_count_against_them() {
    // Many threads compute: in batches each turn waits for the time slices of all.
    let (alone, in_batches) = ((120, 8), (20_000, 8));
    let mut machine = Machine::new();
    machine.load(1_000, alone, in_batches);
    let before = machine.changes;
    machine.load(60_000, alone, in_batches);
    assert!(machine.changes - before <= 60, "{} in a minute", machine.changes - before);
    // They begin to compute while it is in batches.
    let mut machine = Machine::new();
    machine.load(2_000, (80, 12), (150, 30));
    assert!(machine.in_batches);
    machine.load(100, alone, in_batches);
    assert!(!machine.in_batches);
}

#[test]
fn after_a_single_pause_batches_are_back_soon() {
    let mut machine = Machine::new();
    machine.load(2_000, (80, 12), (150, 30));
    machine.turn(50_000, 30);
    machine.load(500, (80, 12), (150, 30));
    assert!(machine.in_batches);
    assert!(machine.changes <= 3, "{}", machine.changes);
}

#[test]
fn a_callback_of_the_loop_ends_them_at_once_and_for_a_while() {
    let mut machine = Machine::new();
    machine.load(100, (80, 12), (150, 30));
    assert!(machine.in_batches);
    machine.run_here();
    assert!(!machine.in_batches);
    for _ in 0..1_000 {
        (0..SETTLE - 1).for_each(|_| machine.turn(150, 30));
        machine.run_here();
    }
    assert_eq!(machine.changes, 2);
    machine.load(200, (80, 12), (150, 30));
    assert!(machine.in_batches);
}

/// Whatever comes: a change back and forth takes two windows at the least, a thread is never in
/// batches while a callback runs on it, and sums don't overflow.
#[test]
fn no_load_makes_it_swing() {
    for seed in 1..40 {
        let (mut random, mut machine) = (Random(seed), Machine::new());
        let mut entered = machine.now;
        for _ in 0..random.below(100) {
            let (length, most) = (random.below(2_000), random.below(100) + 1);
            let slow = [1, 50, 5_000, 500_000][random.below(4) as usize];
            for _ in 0..length {
                let before = machine.in_batches;
                match random.below(200) {
                    0 if seed % 3 == 0 => machine.run_here(),
                    1 => machine.turn(0, u32::MAX >> 8),
                    _ => machine.turn(random.below(slow), random.below(most) as u32),
                }
                if machine.in_batches && !before {
                    let apart = machine.now.duration_since(entered);
                    assert!(apart >= WINDOW, "seed {seed}: {apart:?}");
                    entered = machine.now;
                }
            }
        }
    }
}
