//! How tasks run: their output, their panics, their loop, and their wakes.

use std::future::{pending, poll_fn};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::{Poll, Waker};
use std::thread;

use netpoll_async::{JoinHandle, block_on, spawn, yield_now};

use super::{Kept, spawner, spawner_on};
use crate::util::{Journal, PATIENCE, eventually, lock, modes, within};

#[test]
fn a_handle_returns_the_output_of_its_task() {
    for mode in modes() {
        let spawner = spawner(mode);
        let handles: Vec<_> = (0..100).map(|n| spawner.spawn(async move { n })).collect();
        let sum = block_on(async {
            let mut sum = 0;
            for handle in handles {
                sum += handle.await.expect("it ends");
            }
            sum
        });
        assert_eq!((sum, spawner.live()), (4950, 0));
    }
}

#[test]
fn a_task_is_polled_on_a_thread_of_the_library_never_on_that_of_the_spawn() {
    for mode in modes() {
        let spawner = spawner(mode);
        let name = || thread::current().name().unwrap_or_default().to_owned();
        let polled_on = block_on(spawner.spawn(async move { name() })).expect("it ends");
        assert!(polled_on.starts_with("netpoll-"), "{polled_on}");
    }
}

#[test]
fn a_task_spawns_onto_its_own_loop() {
    let spawner = spawner_on(4, netpoll::Dispatch::Inline);
    for _ in 0..8 {
        let (outer, inner) = block_on(spawner.spawn(async {
            let inner = spawn(async { thread::current().id() }).await;
            (thread::current().id(), inner.expect("it ends"))
        }))
        .expect("it ends");
        assert_eq!(outer, inner);
    }
}

#[test]
fn a_panic_of_a_task_reaches_its_handle_and_nothing_else() {
    for mode in modes() {
        let spawner = spawner(mode);
        let panics = spawner.spawn(async { std::panic::panic_any(7_u8) });
        let payload = block_on(panics).expect_err("it panics").into_panic();
        assert_eq!(payload.expect("a panic").downcast_ref::<u8>(), Some(&7));
        // One that is not looked at.
        spawner.spawn(async { panic!("nobody joins it") }).detach();
        assert_eq!(block_on(spawner.spawn(async { 1 })).expect("it ends"), 1);
        eventually("all have ended", || spawner.live() == 0);
    }
}

#[test]
fn dropping_a_handle_cancels_its_task_and_detaching_it_does_not() {
    struct OnDrop(Journal, &'static str);
    impl Drop for OnDrop {
        fn drop(&mut self) {
            self.0.add(self.1);
        }
    }
    for mode in modes() {
        let (spawner, journal) = (spawner(mode), Journal::default());
        let task = |name| {
            let (kept, guard) = (Kept::default(), OnDrop(journal.clone(), name));
            let waits = kept.clone();
            let handle = spawner.spawn(async move {
                let _guard = guard;
                waits.pending().await;
            });
            eventually("it was polled", || kept.waker().is_some());
            handle
        };
        drop(task("dropped"));
        assert_eq!(journal.wait(1), ["dropped"]);
        let detached = task("detached");
        let abort = detached.abort_handle();
        detached.detach();
        block_on(spawner.spawn(async {})).expect("it ends");
        assert_eq!((spawner.live(), abort.is_finished()), (1, false));
        abort.abort();
        assert_eq!(journal.wait(2), ["dropped", "detached"]);
        let aborted = task("aborted");
        aborted.abort();
        assert!(block_on(aborted).expect_err("it is cancelled").is_cancelled());
        assert_eq!(journal.len(), 3);
    }
}

#[test]
fn a_future_that_is_always_ready_does_not_starve_its_loop() {
    for mode in modes() {
        let spawner = spawner(mode);
        let always_woken = spawner.spawn(poll_fn(|context| {
            context.waker().wake_by_ref();
            Poll::<()>::Pending
        }));
        // In one poll it never finds anything that is pending.
        let never_pending = spawner.spawn(async {
            loop {
                let done = spawn(async {});
                while !done.is_finished() {
                    yield_now().await;
                }
                done.await.expect("it ends");
                netpoll_async::sleep(std::time::Duration::ZERO).await;
            }
        });
        for _ in 0..100 {
            block_on(spawner.spawn(yield_now())).expect("it ends");
        }
        always_woken.abort();
        never_pending.abort();
        eventually("both have ended", || spawner.live() == 0);
    }
}

#[test]
fn a_task_whose_sleeps_are_always_over_gives_way() {
    let spawner = spawner(netpoll::Dispatch::Inline);
    let greedy: JoinHandle<()> = spawner.spawn(async {
        loop {
            netpoll_async::sleep(std::time::Duration::ZERO).await;
        }
    });
    block_on(spawner.spawn(async {})).expect("it ends");
    greedy.abort();
    assert!(block_on(greedy).expect_err("it is cancelled").is_cancelled());
}

/// Wakes from four threads, each of which says first that it has something for the task.
fn wakes(wakes_each: u64, mode: netpoll::Dispatch) {
    let spawner = spawner(mode);
    let kept = Kept::default();
    let (said, over) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let seen = Arc::new(AtomicU64::new(0));
    let task = spawner.spawn({
        let (kept, said, seen) = (kept.clone(), said.clone(), seen.clone());
        poll_fn(move |context| {
            *lock(&kept.0) = Some(context.waker().clone());
            seen.store(said.load(Ordering::SeqCst), Ordering::SeqCst);
            if over.load(Ordering::SeqCst) { Poll::Ready(()) } else { Poll::Pending }
        })
    });
    eventually("it was polled", || kept.waker().is_some());
    let waker = kept.waker().expect("it was polled");
    thread::scope(|scope| {
        for _ in 0..4 {
            let (said, waker) = (said.clone(), waker.clone());
            scope.spawn(move || {
                for _ in 0..wakes_each {
                    said.fetch_add(1, Ordering::SeqCst);
                    waker.wake_by_ref();
                }
            });
        }
    });
    let all = || seen.load(Ordering::SeqCst) == 4 * wakes_each;
    assert!(within(PATIENCE, all), "a wake was lost: {seen:?} of {}", 4 * wakes_each);
    drop(task);
}

#[test]
fn no_wake_of_four_threads_is_lost() {
    for mode in modes() {
        wakes(50_000, mode);
    }
}

/// As above, and each wake must be seen before the next one: so each finds the task idle, or about
/// to be.
fn wakes_one_by_one(wakes_each: usize, mode: netpoll::Dispatch) {
    let spawner = spawner(mode);
    let tasks: Vec<_> = (0..4)
        .map(|_| {
            let (kept, seen) = (Kept::default(), Arc::new(AtomicUsize::new(0)));
            let (keeps, counts) = (kept.clone(), seen.clone());
            let handle = spawner.spawn(poll_fn(move |context| {
                *lock(&keeps.0) = Some(context.waker().clone());
                counts.fetch_add(1, Ordering::SeqCst);
                Poll::<()>::Pending
            }));
            eventually("it was polled", || kept.waker().is_some());
            (handle, kept.waker().expect("it was polled"), seen)
        })
        .collect();
    let wait = |waker: &Waker, seen: &AtomicUsize| {
        for _ in 0..wakes_each {
            let before = seen.load(Ordering::SeqCst);
            waker.wake_by_ref();
            let polled = || seen.load(Ordering::SeqCst) > before;
            assert!(polled() || within(PATIENCE, polled), "a wake was lost");
        }
    };
    thread::scope(|scope| {
        for (_, waker, seen) in &tasks {
            scope.spawn(move || wait(waker, seen));
        }
    });
}

#[test]
fn a_wake_of_an_idle_task_is_one_more_poll() {
    for mode in modes() {
        wakes_one_by_one(300, mode);
    }
}

/// Ten million wakes.
#[test]
#[ignore = "takes a minute; to be asked for with --release"]
fn no_wake_of_ten_million_is_lost() {
    for mode in modes() {
        wakes(2_500_000, mode);
    }
}

#[test]
fn many_tasks_wait_at_once_and_all_end() {
    for mode in modes() {
        let spawner = spawner_on(2, mode);
        let open = Arc::new(AtomicBool::new(false));
        let handles: Vec<_> = (0..10_000)
            .map(|_| {
                let open = open.clone();
                spawner.spawn(async move {
                    while !open.load(Ordering::Relaxed) {
                        yield_now().await;
                    }
                })
            })
            .collect();
        open.store(true, Ordering::Relaxed);
        block_on(async {
            for handle in handles {
                handle.await.expect("it ends");
            }
        });
        assert_eq!(spawner.live(), 0);
    }
}

#[test]
fn an_aborted_handle_of_a_task_that_was_never_woken_answers() {
    for mode in modes() {
        let spawner = spawner(mode);
        let handle = spawner.spawn(pending::<()>());
        handle.abort();
        assert!(block_on(handle).expect_err("it is cancelled").is_cancelled());
    }
}
