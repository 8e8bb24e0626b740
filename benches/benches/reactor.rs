//! What a reactor does for each event and each timer, beside the usual alternatives.
//!
//! `cargo bench -p netpoll-benches --bench reactor`. Figures of one run can be compared with each
//! other.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use criterion::{
    BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main, measurement::WallTime,
};
use netpoll_core::bench::{Key, Timers, Word};

criterion_group!(benches, task_word, rearm, fire);
criterion_main!(benches);

/// An event that finds its connection idle, and one that finds it scheduled already; beside them an
/// uncontended lock, which does not even say which thread runs the connection: two locked
/// operations, where a turn of the word has three.
fn task_word(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("task_word");
    let (word, scheduled) = (Word::default(), Word::default());
    scheduled.notify_again();
    group.bench_function("idle to idle", |bencher| bencher.iter(|| assert!(word.turn())));
    group.bench_function("an event more", |bencher| bencher.iter(|| scheduled.notify_again()));
    let lock = Mutex::new(0_u64);
    group.bench_function("std Mutex", |bencher| {
        bencher.iter(|| {
            if let Ok(mut counter) = black_box(&lock).lock() {
                *counter += 1;
            }
        });
    });
    group.finish();
}

/// Bytes of one of many connections have come: its timeout begins anew.
fn rearm(criterion: &mut Criterion) {
    for timers in [100, 10_000] {
        let mut group = criterion.benchmark_group(format!("rearm/{timers}"));
        rearm_with::<Wheel>(&mut group, timers);
        rearm_with::<Tree>(&mut group, timers);
        group.finish();
    }
}

fn rearm_with<T: Deadlines>(group: &mut BenchmarkGroup<'_, WallTime>, timers: usize) {
    let start = Instant::now();
    let mut all = T::new(start);
    let at = |turn: usize| start + Duration::from_secs(60) + Duration::from_micros(turn as u64);
    let mut keys: Vec<_> = (0..timers).map(|it| all.arm(at(it), it)).collect();
    let mut turn = timers;
    group.bench_function(T::NAME, |bencher| {
        bencher.iter(|| {
            let place = turn % timers;
            all.cancel(keys[place]);
            keys[place] = all.arm(at(turn), place);
            turn += 1;
        });
    });
}

/// A thousand timers, spread over ten seconds, are armed and fire as the time goes on.
fn fire(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("fire/1000");
    group.throughput(Throughput::Elements(1000));
    fire_with::<Wheel>(&mut group);
    fire_with::<Tree>(&mut group);
    group.finish();
}

fn fire_with<T: Deadlines>(group: &mut BenchmarkGroup<'_, WallTime>) {
    let mut now = Instant::now();
    let mut all = T::new(now);
    group.bench_function(T::NAME, |bencher| {
        bencher.iter(|| {
            for place in 0..1000_usize {
                // In no order that helps: 7 919 is a prime.
                let ahead = (place as u64 * 7_919) % 10_000;
                all.arm(now + Duration::from_millis(ahead), place);
            }
            let mut fired = 0;
            for _ in 0..1000 {
                now += Duration::from_millis(10);
                while all.fire(now).is_some() {
                    fired += 1;
                }
            }
            assert_eq!(fired, 1000);
        });
    });
}

/// What deadlines are kept in.
trait Deadlines {
    const NAME: &'static str;
    type Key: Copy;
    fn new(now: Instant) -> Self;
    fn arm(&mut self, at: Instant, what: usize) -> Self::Key;
    fn cancel(&mut self, key: Self::Key);
    fn fire(&mut self, now: Instant) -> Option<usize>;
}

struct Wheel(Timers);

impl Deadlines for Wheel {
    const NAME: &'static str = "wheel";
    type Key = Key;

    fn new(now: Instant) -> Self {
        Self(Timers::new(now))
    }

    fn arm(&mut self, at: Instant, what: usize) -> Key {
        self.0.arm(at, what)
    }

    fn cancel(&mut self, key: Key) {
        self.0.cancel(key);
    }

    fn fire(&mut self, now: Instant) -> Option<usize> {
        self.0.fire(now)
    }
}

/// Sorted by deadline, and by number among equals.
#[derive(Default)]
struct Tree {
    sorted: BTreeMap<(Instant, u64), usize>,
    armed: u64,
}

impl Deadlines for Tree {
    const NAME: &'static str = "BTreeMap";
    type Key = (Instant, u64);

    fn new(_: Instant) -> Self {
        Self::default()
    }

    fn arm(&mut self, at: Instant, what: usize) -> Self::Key {
        self.armed += 1;
        self.sorted.insert((at, self.armed), what);
        (at, self.armed)
    }

    fn cancel(&mut self, key: Self::Key) {
        self.sorted.remove(&key);
    }

    fn fire(&mut self, now: Instant) -> Option<usize> {
        let first = self.sorted.first_entry().filter(|it| it.key().0 <= now)?;
        Some(first.remove())
    }
}
