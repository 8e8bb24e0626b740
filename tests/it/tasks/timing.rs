//! Sleeps, timeouts and intervals: on a loop, off the loops, at the ends of their ranges.

use std::future::pending;
use std::pin::pin;
use std::sync::mpsc;
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::{Duration, Instant};

use netpoll_async::{
    MissedTicks, block_on, interval, interval_at, sleep, sleep_until, timeout, yield_now,
};

use super::{Kept, spawner};
use crate::util::{eventually, modes};

const MS: Duration = Duration::from_millis(1);

#[test]
fn a_sleep_is_never_early_on_a_loop_and_off_the_loops() {
    for mode in modes() {
        let spawner = spawner(mode);
        let sleeps: Vec<_> = (0..20)
            .map(|n| {
                spawner.spawn(async move {
                    let start = Instant::now();
                    sleep(n * MS).await;
                    start.elapsed() >= n * MS
                })
            })
            .collect();
        for handle in sleeps {
            assert!(block_on(handle).expect("it ends"), "it was early");
        }
    }
    let start = Instant::now();
    block_on(sleep(5 * MS));
    assert!(start.elapsed() >= 5 * MS);
}

#[test]
fn timers_of_no_time_are_due_and_timers_of_all_time_wait() {
    for mode in modes() {
        let spawner = spawner(mode);
        block_on(spawner.spawn(async {
            sleep(Duration::ZERO).await;
            sleep_until(Instant::now().checked_sub(MS).expect("a time")).await;
            assert!(timeout(Duration::ZERO, pending::<()>()).await.is_err());
            assert_eq!(timeout(Duration::MAX, async { 3 }).await, Ok(3));
            assert!(timeout(5 * MS, sleep(Duration::MAX)).await.is_err());
            let mut ticks = interval(Duration::MAX);
            ticks.tick().await;
            assert!(timeout(5 * MS, ticks.tick()).await.is_err());
            let mut ticks = interval(Duration::ZERO);
            for _ in 0..5 {
                ticks.tick().await;
            }
        }))
        .expect("it ends");
    }
}

#[test]
fn a_timeout_drops_its_future_and_says_so() {
    struct OnDrop(mpsc::Sender<()>);
    impl Drop for OnDrop {
        fn drop(&mut self) {
            let _ = self.0.send(());
        }
    }
    let (dropped, was_dropped) = mpsc::channel();
    let guard = OnDrop(dropped);
    let elapsed = block_on(timeout(MS, async move {
        let _guard = guard;
        pending::<()>().await;
    }));
    assert_eq!(elapsed.expect_err("the time is over").to_string(), "the time for it was over");
    was_dropped.try_recv().expect("the future was dropped");
}

#[test]
fn a_sleep_can_be_put_off_pulled_forward_and_started_again() {
    for mode in modes() {
        let spawner = spawner(mode);
        block_on(spawner.spawn(async {
            let start = Instant::now();
            let mut later = pin!(sleep(5 * MS));
            let _ = timeout(MS, later.as_mut()).await;
            later.reset(start + 20 * MS);
            later.as_mut().await;
            assert!(start.elapsed() >= 20 * MS);

            let mut sooner = pin!(sleep(Duration::from_secs(3600)));
            assert!(timeout(MS, sooner.as_mut()).await.is_err());
            sooner.reset(Instant::now() + MS);
            sooner.as_mut().await;
            sooner.reset(Instant::now() + MS);
            sooner.as_mut().await;
        }))
        .expect("it ends");
    }
}

#[test]
fn a_dropped_sleep_wakes_nothing() {
    for mode in modes() {
        let spawner = spawner(mode);
        let polls = spawner.spawn(async {
            for _ in 0..100 {
                assert!(timeout(Duration::from_secs(3600), yield_now()).await.is_ok());
            }
            let kept = Kept::default();
            assert!(timeout(20 * MS, kept.pending()).await.is_err());
        });
        block_on(polls).expect("it ends");
    }
}

#[test]
fn an_interval_ticks_at_its_period_and_does_with_late_ticks_as_it_is_told() {
    block_on(async {
        let start = Instant::now();
        let mut ticks = interval(2 * MS);
        let due: Vec<_> = [ticks.tick().await, ticks.tick().await, ticks.tick().await].into();
        assert!(due.windows(2).all(|pair| pair[1] - pair[0] >= 2 * MS));
        assert!(start.elapsed() >= 4 * MS);

        let begun = Instant::now();
        let mut ticks = interval_at(begun, 10 * MS).missed_ticks(MissedTicks::Burst);
        ticks.tick().await;
        // sleep: ticks that come late are what is tested
        thread::sleep(35 * MS);
        for due in 1..=3 {
            assert_eq!(ticks.tick().await, begun + 10 * due * MS);
        }
    });
}

/// A future that this library does not poll, in an executor that is only a thread.
#[test]
fn a_sleep_works_in_any_executor_and_outlives_the_loop_that_it_began_on() {
    let (moved, moves) = mpsc::channel();
    let first = spawner(netpoll::Dispatch::Inline);
    first
        .spawn(async move {
            let mut sleep = Box::pin(sleep(20 * MS));
            assert!(sleep.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
            moved.send(sleep).expect("the test waits");
        })
        .detach();
    let mut sleep = moves.recv().expect("it was polled");
    let kept = Kept::default();
    // Another waker, before and after its loop has ended.
    assert!(sleep.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    drop(first);
    drop(kept);
    block_on(sleep);
}

#[test]
fn a_timer_that_is_armed_on_a_thread_wakes_the_task_of_another() {
    let spawner = spawner(netpoll::Dispatch::Inline);
    let mut sleep = Box::pin(sleep(10 * MS));
    assert!(sleep.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    block_on(spawner.spawn(sleep)).expect("it ends");
}

#[test]
fn a_hundred_thousand_timers_are_armed_and_cancelled() {
    let spawner = spawner(netpoll::Dispatch::Inline);
    block_on(spawner.spawn(async {
        let mut sleeps: Vec<_> =
            (0..100_000).map(|n| Box::pin(sleep(Duration::from_secs(10 + n % 100)))).collect();
        let poll = |sleep: &mut std::pin::Pin<Box<netpoll_async::Sleep>>| {
            sleep.as_mut().poll(&mut Context::from_waker(Waker::noop()))
        };
        assert!(sleeps.iter_mut().all(|sleep| poll(sleep).is_pending()));
        yield_now().await;
        drop(sleeps);
        yield_now().await;
    }))
    .expect("it ends");
    eventually("it has ended", || spawner.live() == 0);
}

#[test]
fn a_poll_of_a_sleep_that_is_over_is_ready_again() {
    let mut sleep = sleep(Duration::ZERO);
    let mut context = Context::from_waker(Waker::noop());
    for _ in 0..2 {
        assert_eq!(pin!(&mut sleep).poll(&mut context), Poll::Ready(()));
    }
}
