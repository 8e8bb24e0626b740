//! Spares: reused newest first, none lost, and gone when they are told to.

use std::sync::mpsc;

use super::*;

const PATIENCE: Duration = Duration::from_secs(20);

/// Work that says who did it.
fn report(sender: &mpsc::Sender<ThreadId>) -> Work {
    let sender = sender.clone();
    Box::new(move || {
        let _ = sender.send(thread::current().id());
        Next::Park
    })
}

fn eventually(condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < PATIENCE, "it never came true");
        thread::sleep(Duration::from_millis(1)); // sleep: the pace of looking
    }
}

fn order(spares: &Arc<Spares>, work: Work) {
    spares.reserve().expect("a thread").go(work);
}

#[test]
fn the_thread_that_parked_last_is_reused_first() {
    let (sender, reports) = mpsc::channel();
    let spares = Spares::new();
    let (first, second) = (spares.reserve(), spares.reserve());
    first.expect("a thread").go(report(&sender));
    let first = reports.recv_timeout(PATIENCE).expect("a report");
    eventually(|| spares.parked() == 1);
    second.expect("a thread").go(report(&sender));
    let second = reports.recv_timeout(PATIENCE).expect("a report");
    assert_ne!(first, second);
    eventually(|| spares.parked() == 2);
    order(&spares, report(&sender));
    assert_eq!(reports.recv_timeout(PATIENCE), Ok(second));
    assert_eq!((spares.threads(), spares.peak()), (2, 2));
    assert_eq!(spares.stop(Instant::now().checked_add(PATIENCE)), 0);
}

#[test]
fn a_refusal_is_asked_about_again_after_a_while() {
    let (sender, reports) = mpsc::channel();
    let spares = Spares::new();
    spares.deny(true);
    assert!(spares.reserve().is_none() && spares.is_refused());
    spares.deny(false);
    eventually(|| !spares.is_refused());
    order(&spares, report(&sender));
    assert!(reports.recv_timeout(PATIENCE).is_ok());
    eventually(|| spares.parked() == 1);
    spares.deny(true);
    // The one who is there needs no start, and who is away is no refusal yet.
    let reserved = spares.reserve().expect("the parked one");
    assert!(!spares.is_refused());
    assert!(spares.reserve().is_none() && spares.is_refused());
    drop(reserved);
    assert!(!spares.is_refused(), "one is parked again");
}

#[test]
fn a_thread_that_was_reserved_in_vain_serves_the_next() {
    let (sender, reports) = mpsc::channel();
    let spares = Spares::new();
    for _ in 0..100 {
        drop(spares.reserve());
        order(&spares, report(&sender));
        reports.recv_timeout(PATIENCE).expect("a report");
        eventually(|| spares.parked() == 1);
    }
    assert_eq!(spares.peak(), 1);
    spares.keep_one_ready();
    assert_eq!(spares.threads(), 1);
    assert_eq!(spares.stop(Instant::now().checked_add(PATIENCE)), 0);
}

#[test]
fn a_thread_that_the_monitor_starts_sleeps_as_long_as_all_others() {
    let (sender, slacks) = mpsc::channel();
    let spares = Spares::new();
    let (before, starter) = (TimerSlack::here(), spares.clone());
    let like_the_monitor = thread::spawn(move || {
        TimerSlack::LEAST.set();
        let tell = move || {
            let _ = sender.send(TimerSlack::here());
            Next::Park
        };
        order(&starter, Box::new(tell));
    });
    like_the_monitor.join().expect("it only starts one");
    assert_ne!(before, TimerSlack::LEAST);
    assert_eq!(slacks.recv_timeout(PATIENCE), Ok(before));
    assert_eq!(spares.stop(Instant::now().checked_add(PATIENCE)), 0);
}

#[test]
fn a_stop_waits_for_work_until_its_deadline_and_counts_what_is_left() {
    let spares = Spares::new();
    let (release, held) = mpsc::channel::<()>();
    let (entered, inside) = mpsc::channel();
    order(
        &spares,
        Box::new(move || {
            let _ = entered.send(());
            let _ = held.recv();
            Next::Park
        }),
    );
    inside.recv_timeout(PATIENCE).expect("it runs");
    spares.keep_one_ready();
    let soon = Instant::now() + Duration::from_secs(1);
    assert_eq!(spares.stop(Some(soon)), 1);
    assert!(spares.reserve().is_none(), "a thread after the stop");
    drop(release);
    assert_eq!(spares.stop(Instant::now().checked_add(PATIENCE)), 0);
    assert_eq!(spares.threads(), 0);
}

#[test]
fn a_thread_leaves_when_its_work_says_so_or_panics() {
    let spares = Spares::new();
    spares.start("leaves".into(), Box::new(|| Next::Leave)).expect("a thread");
    eventually(|| spares.threads() == 0);
    spares.start("panics".into(), Box::new(|| panic!("on purpose"))).expect("a thread");
    eventually(|| spares.threads() == 0);
}
