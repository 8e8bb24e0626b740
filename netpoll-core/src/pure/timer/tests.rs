//! What the wheel promises, one test for each; `tests/model.rs` checks all at once.

use super::*;

mod model;

const HOUR: u64 = 3_600_000;
const LEVELS: usize = 8;

/// Timers, and the instant so many milliseconds after their beginning.
fn timers<T>() -> (Timers<T>, impl Fn(u64) -> Instant) {
    let start = Instant::now();
    (Timers::new(start), move |millis| start + Duration::from_millis(millis))
}

fn fired<T>(timers: &mut Timers<T>, now: Instant) -> Vec<T> {
    std::iter::from_fn(|| timers.fire(now)).collect()
}

#[test]
fn fires_in_order_of_time_then_of_arming_and_never_early() {
    let (mut timers, after) = timers();
    timers.arm(after(20), 'c');
    timers.arm(after(10), 'a');
    timers.arm(after(10), 'b');
    assert_eq!(timers.wait(|| after(0)), Some(Duration::from_millis(10)));
    assert_eq!(timers.fire(after(9)), None);
    assert_eq!(timers.fire(after(10)), Some('a'));
    assert_eq!(timers.fire(after(HOUR)), Some('b'));
    assert_eq!(timers.fire(after(HOUR)), Some('c'));
    assert!(timers.is_empty());
    assert_eq!(timers.wait(|| unreachable!("no clock is read for nothing")), None);
}

#[test]
fn a_deadline_within_a_tick_is_due_when_the_tick_is_over() {
    let (mut timers, after) = timers();
    timers.arm(after(5) + Duration::from_nanos(1), ());
    let just_before = after(5) + Duration::from_nanos(999_999);
    assert_eq!(timers.fire(just_before), None);
    assert_eq!(timers.wait(|| just_before), Some(Duration::from_nanos(1)));
    assert_eq!(timers.fire(after(6)), Some(()));
}

#[test]
fn a_jump_of_hours_fires_in_order() {
    let (mut timers, after) = timers();
    // 7 919 is prime to the count, so this arms each of them once, far from sorted.
    for index in 0..5_000 {
        let millis = index * 7_919 % 5_000 * 3_000;
        timers.arm(after(millis), millis);
    }
    let sorted: Vec<u64> = (0..5_000).map(|index| index * 3_000).collect();
    assert_eq!(fired(&mut timers, after(5 * HOUR)), sorted);
}

#[test]
fn the_same_deadline_fires_in_the_order_of_arming_whatever_it_was_armed_from() {
    let (mut timers, after) = timers();
    let deadline = 30 * 24 * HOUR;
    let armed_at = [0, HOUR, deadline - 5_000, deadline - 70, deadline - 2, deadline - 1];
    for (order, now) in armed_at.into_iter().enumerate() {
        assert_eq!(timers.fire(after(now)), None);
        timers.arm(after(deadline), order);
    }
    assert_eq!(fired(&mut timers, after(deadline)), [0, 1, 2, 3, 4, 5]);
}

#[test]
fn a_deadline_beyond_the_last_tick_is_due_then() {
    let (mut timers, after) = timers();
    timers.arm(after(LAST + HOUR), "beyond");
    timers.arm(after(u64::MAX), "far beyond");
    assert_eq!(timers.fire(after(LAST - 1)), None);
    assert_eq!(timers.wait(|| after(LAST - 1)), Some(Duration::from_millis(1)));
    assert_eq!(fired(&mut timers, after(LAST)), ["beyond", "far beyond"]);
    // When the time comes that far, it fires at once.
    timers.arm(after(u64::MAX), "beyond");
    assert_eq!(timers.fire(after(LAST + HOUR)), Some("beyond"));
}

#[test]
fn a_deadline_that_has_passed_is_due_at_once() {
    let before = Instant::now();
    let start = before + Duration::from_secs(60);
    let mut timers = Timers::new(start);
    timers.arm(before, "before the beginning");
    assert_eq!(timers.wait(|| start), Some(Duration::ZERO));
    assert_eq!(timers.fire(start), Some("before the beginning"));
    let later = start + Duration::from_secs(60);
    assert_eq!(timers.fire(later), None);
    timers.arm(start, "passed");
    assert_eq!(timers.wait(|| later), Some(Duration::ZERO));
    assert_eq!(timers.fire(later), Some("passed"));
}

#[test]
fn the_time_does_not_go_back() {
    let (mut timers, after) = timers();
    timers.arm(after(100), "later");
    assert_eq!(timers.fire(after(99)), None);
    timers.arm(after(50), "passed");
    assert_eq!(fired(&mut timers, after(40)), ["passed"]);
    assert_eq!(fired(&mut timers, after(100)), ["later"]);
}

#[test]
fn what_is_armed_while_firing_comes_after_what_was_due() {
    let (mut timers, after) = timers();
    timers.arm(after(10), "first");
    timers.arm(after(30), "second");
    assert_eq!(timers.fire(after(40)), Some("first"));
    timers.arm(after(20), "armed while firing");
    timers.arm(after(41), "later");
    assert_eq!(fired(&mut timers, after(40)), ["second", "armed while firing"]);
    assert_eq!(fired(&mut timers, after(41)), ["later"]);
}

#[test]
fn a_timer_that_arms_itself_again_at_once_holds_up_nobody() {
    let (mut timers, after) = timers();
    timers.arm(after(1), "again");
    timers.arm(after(9), "patient");
    let now = after(10);
    assert_eq!(timers.fire(now), Some("again"));
    timers.arm(after(1), "again");
    assert_eq!(timers.fire(now), Some("patient"));
    assert_eq!(timers.fire(now), Some("again"));
    assert_eq!(timers.fire(now), None);
}

#[test]
fn a_cancelled_timer_neither_fires_nor_is_waited_for() {
    let (mut timers, after) = timers();
    let [a, b, c] = ['a', 'b', 'c'].map(|name| timers.arm(after(10), name));
    let late = timers.arm(after(HOUR), 'd');
    assert_eq!(timers.cancel(b), Some('b'));
    assert_eq!(timers.len(), 3);
    assert_eq!(timers.fire(after(10)), Some('a'));
    // What is due can still be taken back.
    assert_eq!(timers.cancel(c), Some('c'));
    assert_eq!(timers.fire(after(10)), None);
    assert_eq!(timers.cancel(a), None);
    assert_eq!(timers.cancel(late), Some('d'));
    assert_eq!(timers.wait(|| after(10)), None);
}

#[test]
fn a_stale_key_finds_nothing_though_its_place_is_taken_again() {
    let (mut timers, after) = timers();
    let fired = timers.arm(after(1), "fired");
    assert_eq!(timers.fire(after(1)), Some("fired"));
    let cancelled = timers.arm(after(2), "cancelled");
    assert_eq!(timers.cancel(cancelled), Some("cancelled"));
    timers.arm(after(2), "alive");
    assert_eq!(timers.cancel(fired), None);
    assert_eq!(timers.cancel(cancelled), None);
    assert_eq!(timers.fire(after(2)), Some("alive"));
    assert_eq!(size_of::<TimerKey>(), 8);
}

/// How many looks at entries a call may take, however many timers there are.
const STEPS_TO_LINK: usize = 5;
const STEPS_TO_UNLINK: usize = 5;
/// A move for each level, and the removal.
const STEPS_TO_FIRE: usize = LEVELS * (STEPS_TO_UNLINK + STEPS_TO_LINK) + STEPS_TO_UNLINK;

/// The cost of `call`, in looks at entries.
fn steps<T, R>(timers: &mut Timers<T>, call: impl FnOnce(&mut Timers<T>) -> R) -> (usize, R) {
    let before = timers.wheel.entries.steps;
    let result = call(timers);
    (timers.wheel.entries.steps - before, result)
}

#[test]
fn arming_and_cancelling_cost_the_same_among_100_000() {
    let (mut timers, after) = timers();
    let mut keys = Vec::new();
    for index in 0..100_000 {
        // All of them within 60 s, some hundred in each slot of 4 s.
        let at = after(index * 7_919 % 60_000);
        let (steps, key) = steps(&mut timers, |timers| timers.arm(at, index));
        assert!(steps <= STEPS_TO_LINK, "{steps} steps to arm timer {index}");
        keys.push((key, index));
    }
    for &(key, index) in keys.iter().rev() {
        let (steps, what) = steps(&mut timers, |timers| timers.cancel(key));
        assert!(steps <= STEPS_TO_UNLINK, "{steps} steps to cancel timer {index}");
        assert_eq!(what, Some(index));
    }
    assert!(timers.is_empty());
}

#[test]
fn a_timer_moves_once_per_level_at_most() {
    let (mut timers, after) = timers();
    // The digit of every level is 1: the most moves that a timer can make.
    let millis = (0..LEVELS).map(|level| 1 << (6 * level)).sum();
    timers.arm(after(millis), ());
    let mut now = after(0);
    let (total, fired) = steps(&mut timers, |timers| {
        let mut wakes = 0..LEVELS;
        wakes.any(|_| {
            now += timers.wait(|| now).expect("the timer has not fired");
            timers.fire(now).is_some()
        })
    });
    assert!(fired, "woke once for each level, and it was not due");
    assert_eq!(now, after(millis));
    assert!(total <= STEPS_TO_FIRE, "{total} steps, more than {STEPS_TO_FIRE}");
}

#[test]
fn a_jump_costs_what_fires_and_not_the_ticks_between() {
    let (mut timers, after) = timers();
    let months = 6 * 30 * 24 * HOUR;
    for index in 0..1_000 {
        timers.arm(after(months / 1_000 * index), index);
    }
    let (total, fired) = steps(&mut timers, |timers| fired(timers, after(months)));
    assert!(fired.iter().copied().eq(0..1_000));
    assert!(total <= 1_000 * STEPS_TO_FIRE, "{total} steps");
}
