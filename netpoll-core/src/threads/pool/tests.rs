//! Pools: threads are reused newest first, none is lost, and each ends when it is told to.

use std::sync::mpsc;
use std::thread::ThreadId;

use super::*;

const PATIENCE: Duration = Duration::from_secs(30);

/// Work that sends the id of its thread.
fn report(sender: &mpsc::Sender<ThreadId>) -> Closure {
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

fn pool() -> Arc<ThreadPool> {
    ThreadPool::new(ThreadPoolOptions {
        name: |number| format!("netpoll-spare-{number}"),
        what: "a thread of a test",
        max_threads: usize::MAX,
        idle: Duration::from_secs(10),
    })
}

fn order(pool: &Arc<ThreadPool>, work: Closure) {
    pool.reserve().expect("a thread").run(work);
}

#[test]
fn the_thread_that_parked_last_is_reused_first() {
    let (sender, reports) = mpsc::channel();
    let pool = pool();
    let (first, second) = (pool.reserve(), pool.reserve());
    first.expect("a thread").run(report(&sender));
    let first = reports.recv_timeout(PATIENCE).expect("a report");
    eventually(|| pool.parked() == 1);
    second.expect("a thread").run(report(&sender));
    let second = reports.recv_timeout(PATIENCE).expect("a report");
    assert_ne!(first, second);
    eventually(|| pool.parked() == 2);
    order(&pool, report(&sender));
    assert_eq!(reports.recv_timeout(PATIENCE), Ok(second));
    assert_eq!((pool.threads(), pool.peak()), (2, 2));
    assert_eq!(pool.stop(Instant::now().checked_add(PATIENCE)), 0);
}

#[test]
fn a_refusal_is_asked_about_again_after_a_while() {
    let (sender, reports) = mpsc::channel();
    let pool = pool();
    pool.deny(true);
    assert!(pool.reserve().is_none() && pool.is_exhausted());
    pool.deny(false);
    eventually(|| !pool.is_exhausted());
    order(&pool, report(&sender));
    assert!(reports.recv_timeout(PATIENCE).is_ok());
    eventually(|| pool.parked() == 1);
    pool.deny(true);
    // The parked one needs no start, and while it is reserved the system has refused nothing yet.
    let reserved = pool.reserve().expect("the parked one");
    assert!(!pool.is_exhausted());
    assert!(pool.reserve().is_none() && pool.is_exhausted());
    drop(reserved);
    assert!(!pool.is_exhausted(), "one is parked again");
}

#[test]
fn a_reserved_thread_that_was_not_needed_serves_the_next() {
    let (sender, reports) = mpsc::channel();
    let pool = pool();
    for _ in 0..100 {
        drop(pool.reserve());
        order(&pool, report(&sender));
        reports.recv_timeout(PATIENCE).expect("a report");
        eventually(|| pool.parked() == 1);
    }
    assert_eq!(pool.peak(), 1);
    pool.keep_one_ready();
    assert_eq!(pool.threads(), 1);
    assert_eq!(pool.stop(Instant::now().checked_add(PATIENCE)), 0);
}

#[test]
fn a_thread_that_the_monitor_starts_sleeps_as_long_as_all_others() {
    let (sender, slacks) = mpsc::channel();
    let pool = pool();
    let (before, starter) = (TimerSlack::here(), pool.clone());
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
    assert_eq!(pool.stop(Instant::now().checked_add(PATIENCE)), 0);
}

#[test]
fn a_stop_waits_for_work_until_its_deadline_and_counts_what_is_left() {
    let pool = pool();
    let (release, held) = mpsc::channel::<()>();
    let (entered, inside) = mpsc::channel();
    order(
        &pool,
        Box::new(move || {
            let _ = entered.send(());
            let _ = held.recv();
            Next::Park
        }),
    );
    inside.recv_timeout(PATIENCE).expect("it runs");
    pool.keep_one_ready();
    let soon = Instant::now() + Duration::from_secs(1);
    assert_eq!(pool.stop(Some(soon)), 1);
    assert!(pool.reserve().is_none(), "a thread after the stop");
    drop(release);
    assert_eq!(pool.stop(Instant::now().checked_add(PATIENCE)), 0);
    assert_eq!(pool.threads(), 0);
}

#[test]
fn a_thread_leaves_when_its_work_says_so_or_panics() {
    let pool = pool();
    pool.start("leaves".into(), Box::new(|| Next::Leave)).expect("a thread");
    eventually(|| pool.threads() == 0);
    pool.start("panics".into(), Box::new(|| panic!("on purpose"))).expect("a thread");
    eventually(|| pool.threads() == 0);
}

/// What comes for a thread that has no work left, but is not parked yet, needs no second thread.
#[test]
fn a_thread_that_looks_once_more_is_parked_by_then() {
    let pool = pool();
    let (sender, seen) = mpsc::channel();
    let (its, inner) = (pool.clone(), pool.clone());
    let again = move || {
        let _ = sender.send((its.parked(), its.threads()));
        Next::Park
    };
    let look = move || {
        eventually(|| inner.threads() == 1); // this thread, which may be ahead of its maker
        inner.deny(true);
        inner.run(again).expect("its own thread");
    };
    pool.run(move || Next::ParkAndLook(Box::new(look))).expect("a thread");
    assert_eq!(seen.recv_timeout(PATIENCE), Ok((0, 1)));
    assert_eq!(pool.stop(Instant::now().checked_add(PATIENCE)), 0);
}

/// The resolver of a process may have 256 threads for a moment, and none ever again.
#[test]
fn threads_that_have_left_keep_no_stacks() {
    const THREADS: usize = 16;
    let pool = pool();
    let releases: Vec<_> = (0..THREADS)
        .map(|_| {
            let (release, held) = mpsc::channel::<()>();
            let work = move || {
                let _ = held.recv();
                Next::Leave
            };
            pool.run(work).expect("a thread");
            release
        })
        .collect();
    for (left, release) in releases.into_iter().enumerate() {
        drop(release);
        eventually(|| pool.threads() == THREADS - 1 - left);
    }
    let kept = lock(&pool.members).take_gone().len();
    assert!(kept <= THREADS / 2, "{kept} of {THREADS} have left and are kept");
}

#[test]
fn work_after_a_refusal_asks_the_system_again_at_once() {
    let pool = pool();
    pool.deny(true);
    assert!(pool.run(|| Next::Leave).is_err());
    pool.deny(false);
    pool.run(|| Next::Leave).expect("there are threads again");
    assert_eq!(pool.stop(Instant::now().checked_add(PATIENCE)), 0);
}
