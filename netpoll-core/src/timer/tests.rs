//! What the wheel promises, one by one; `tests/model.rs` has them all at once.

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
    // The time doesn't go back.
    assert_eq!(timers.fire(start), Some("passed"));
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
