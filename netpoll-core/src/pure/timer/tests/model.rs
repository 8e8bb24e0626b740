//! Random operations on the wheel and on its model, a sorted map that promises the same.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

proptest! {
    #![proptest_config(config())]

    #[test]
    fn behaves_like_a_sorted_map(ops in prop::collection::vec(op(), 1..120)) {
        let mut pair = Pair::new();
        for op in ops {
            pair.run(op);
        }
        pair.finish();
    }
}

fn config() -> ProptestConfig {
    ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() }
}

#[derive(Clone, Copy, Debug)]
enum Op {
    Arm(Duration),
    ArmPassed(Duration),
    /// Several for one deadline.
    ArmTogether(Duration, usize),
    /// Any key that was ever handed out.
    Cancel(prop::sample::Index),
    Advance(Duration),
    /// Fires a few of those that are due, and then arms one that has passed.
    FireAndArm(usize, Duration),
    FireAll,
    /// Sleeps as it is told to until something fires.
    Sleep,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => span().prop_map(Op::Arm),
        1 => span().prop_map(Op::ArmPassed),
        1 => (span(), 2..5_usize).prop_map(|(span, count)| Op::ArmTogether(span, count)),
        4 => any::<prop::sample::Index>().prop_map(Op::Cancel),
        3 => span().prop_map(Op::Advance),
        1 => (0..4_usize, span()).prop_map(|(count, span)| Op::FireAndArm(count, span)),
        3 => Just(Op::FireAll),
        2 => Just(Op::Sleep),
    ]
}

/// From within a tick to years, and near the ticks at which digits turn over.
fn span() -> impl Strategy<Value = Duration> {
    let turn = (1..7_u32, 0..3_u64).prop_map(|(digit, off)| (1 << (6 * digit)) + off - 1);
    prop_oneof![
        1 => (0..3_000_000_u64).prop_map(Duration::from_nanos),
        4 => (0..200_u64).prop_map(Duration::from_millis),
        2 => (0..100_000_000_u64).prop_map(Duration::from_micros),
        2 => turn.prop_map(Duration::from_millis),
        2 => (0..4 * HOUR).prop_map(Duration::from_millis),
        1 => (0..1_000 * 24 * HOUR).prop_map(Duration::from_millis),
    ]
}

/// The wheel and its model, which get the same calls.
struct Pair {
    timers: Timers<usize>,
    /// The armed timers, by the tick at which they are due and the number of the arming.
    model: BTreeSet<(u64, usize)>,
    /// The key and the tick of each timer, by the number of the arming.
    armed: Vec<(TimerKey, u64)>,
    origin: Instant,
    now: Duration,
    /// The ticks that were over when it last fired.
    current: u64,
    /// The most timers that were armed at one time.
    peak: usize,
}

impl Pair {
    fn new() -> Self {
        // A day later, so that there is a time before it.
        let origin = Instant::now() + Duration::from_secs(24 * 3_600);
        Self {
            timers: Timers::new(origin),
            model: BTreeSet::new(),
            armed: Vec::new(),
            origin,
            now: Duration::ZERO,
            current: 0,
            peak: 0,
        }
    }

    fn run(&mut self, op: Op) {
        match op {
            Op::Arm(span) => self.arm(self.origin + self.now + span),
            Op::ArmPassed(span) => self.arm(self.passed(span)),
            Op::ArmTogether(span, count) => {
                (0..count).for_each(|_| self.arm(self.origin + self.now + span));
            }
            Op::Cancel(index) => self.cancel(index),
            Op::Advance(span) => self.now += span,
            Op::FireAndArm(count, span) => {
                (0..count).for_each(|_| _ = self.fire());
                self.arm(self.passed(span));
            }
            Op::FireAll => while self.fire() {},
            Op::Sleep => self.sleep(),
        }
        assert_eq!(self.timers.len(), self.model.len());
        assert_eq!(self.timers.is_empty(), self.model.is_empty());
        self.wait();
    }

    /// Whatever is left fires in order too.
    fn finish(&mut self) {
        while !self.model.is_empty() {
            self.sleep();
        }
        assert_eq!(self.timers.len(), 0);
    }

    /// An instant that has passed, though hardly one before there were clocks.
    fn passed(&self, span: Duration) -> Instant {
        let span = span.min(self.now + Duration::from_secs(3_600));
        (self.origin + self.now).checked_sub(span).expect("an instant within the last hours")
    }

    fn arm(&mut self, at: Instant) {
        let number = self.armed.len();
        let key = self.timers.arm(at, number);
        let since_origin = at.saturating_duration_since(self.origin);
        let tick = since_origin.as_nanos().div_ceil(1_000_000) as u64;
        let tick = tick.max(self.current);
        self.model.insert((tick, number));
        self.armed.push((key, tick));
        self.peak = self.peak.max(self.model.len());
        let slot = (key.0.to_u64() & u64::from(u32::MAX)) as usize;
        assert!(slot < self.peak, "slot {slot} though there were never more than {}", self.peak);
    }

    fn cancel(&mut self, index: prop::sample::Index) {
        if self.armed.is_empty() {
            return;
        }
        let number = index.index(self.armed.len());
        let (key, tick) = self.armed[number];
        let expected = self.model.remove(&(tick, number)).then_some(number);
        assert_eq!(self.timers.cancel(key), expected);
    }

    /// Whether something fired.
    fn fire(&mut self) -> bool {
        self.current = self.now.as_millis() as u64;
        let due = self.model.first().is_some_and(|&(tick, _)| tick <= self.current);
        let expected = if due { self.model.pop_first().map(|(_, number)| number) } else { None };
        assert_eq!(self.timers.fire(self.origin + self.now), expected);
        expected.is_some()
    }

    /// How long it says to wait: not beyond the first deadline.
    fn wait(&self) -> Option<Duration> {
        let wait = self.timers.wait(|| self.origin + self.now);
        let first = self.model.first().map(|&(tick, _)| tick);
        assert_eq!(wait.is_some(), first.is_some());
        let until = Duration::from_millis(first?).saturating_sub(self.now);
        assert!(wait? <= until, "would sleep for {wait:?}, and the next is due in {until:?}");
        wait
    }

    fn sleep(&mut self) {
        for _ in 0..LEVELS {
            let Some(wait) = self.wait() else { return };
            self.now += wait;
            if self.fire() {
                return;
            }
        }
        panic!("woke once for each level, and nothing was due");
    }
}
