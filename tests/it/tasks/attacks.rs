//! What a careless user and a poor system do to tasks.

use std::future::{pending, poll_fn};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::task::Poll;
use std::thread;
use std::time::{Duration, Instant};

use netpoll::{Dispatch, Error};
use netpoll_async::{JoinHandle, Spawner, block_on, sleep, spawn, try_block_on, yield_now};

use super::{Kept, spawner, spawner_on};
use crate::util::{
    NoThreads, Process, alone, eventually, hand_off, is_role, lock, modes, pool, refusing_threads,
    set_fd_limit,
};

const MS: Duration = Duration::from_millis(1);

#[test]
fn a_task_may_drop_its_own_handle_inside_its_poll() {
    for mode in modes() {
        let spawner = spawner(mode);
        let own = Arc::new(Mutex::new(None::<JoinHandle<()>>));
        let drops = own.clone();
        let polls = Arc::new(AtomicUsize::new(0));
        let counts = polls.clone();
        let handle = spawner.spawn(poll_fn(move |context| {
            counts.fetch_add(1, Ordering::SeqCst);
            context.waker().wake_by_ref();
            drop(lock(&drops).take());
            Poll::Pending
        }));
        *lock(&own) = Some(handle);
        eventually("it is cancelled", || spawner.live() == 0);
        assert!(lock(&own).is_none());
        assert!(polls.load(Ordering::SeqCst) >= 1);
    }
}

#[test]
fn a_task_may_join_itself_and_is_cancelled_with_its_handle() {
    for mode in modes() {
        let spawner = spawner(mode);
        let (give, given) = mpsc::channel::<JoinHandle<()>>();
        let handle = spawner.spawn(async move {
            // It waits for its own end, which does not come.
            let own = given.recv().expect("the test sends it");
            let _ = own.await;
        });
        let abort = handle.abort_handle();
        give.send(handle).expect("it waits");
        block_on(spawner.spawn(yield_now())).expect("it ends");
        abort.abort();
        eventually("it is cancelled", || spawner.live() == 0);
    }
}

#[test]
fn a_future_whose_drop_panics_ends_no_more_than_its_task() {
    struct Malicious;
    impl Drop for Malicious {
        fn drop(&mut self) {
            panic!("in the drop of a future");
        }
    }
    for mode in modes() {
        let spawner = spawner(mode);
        let ends = spawner.spawn(async {
            let _malicious = Malicious;
        });
        assert!(block_on(ends).expect_err("it panics in its poll").is_panic());
        let malicious = Malicious;
        let cancelled = spawner.spawn(async move {
            let _malicious = malicious;
            pending::<()>().await;
        });
        block_on(spawner.spawn(yield_now())).expect("it ends");
        cancelled.abort();
        assert!(block_on(cancelled).expect_err("it is cancelled").is_cancelled());
        // An output with that habit, which is not wanted.
        spawner.spawn(async { Malicious }).detach();
        assert_eq!(block_on(spawner.spawn(async { 1 })).expect("it ends"), 1);
        eventually("all have ended", || spawner.live() == 0);
    }
}

#[test]
fn a_destructor_of_a_future_may_spawn_and_sleep_and_block() {
    struct Late(mpsc::Sender<&'static str>, bool);
    impl Drop for Late {
        fn drop(&mut self) {
            let told = self.0.clone();
            spawn(async move {
                sleep(MS).await;
                let _ = told.send("spawned");
            })
            .detach();
            if self.1 {
                block_on(sleep(MS));
            }
            let _ = self.0.send("dropped");
        }
    }
    for mode in modes() {
        let may_wait = !matches!(mode, Dispatch::Inline);
        let (spawner, (told, hears)) = (spawner(mode), mpsc::channel());
        let late = Late(told, may_wait);
        let handle = spawner.spawn(async move {
            let _late = late;
            pending::<()>().await;
        });
        block_on(spawner.spawn(yield_now())).expect("it ends");
        drop(handle);
        let mut heard: Vec<_> = hears.iter().collect();
        heard.sort_unstable();
        assert_eq!(heard, ["dropped", "spawned"]);
    }
}

#[test]
fn wakers_that_are_kept_past_the_end_hold_neither_the_future_nor_the_manager() {
    for mode in modes() {
        let held = Arc::new(());
        let kept = Kept::default();
        let spawner = spawner(mode);
        let (in_task, waits) = (held.clone(), kept.clone());
        let handle = spawner.spawn(async move {
            waits.pending().await;
            drop(in_task);
        });
        eventually("it was polled", || kept.waker().is_some());
        handle.abort();
        assert!(block_on(handle).is_err());
        assert_eq!(Arc::strong_count(&held), 1);
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let waker = kept.waker().expect("it was polled");
                thread::spawn(move || (0..1000).for_each(|_| waker.wake_by_ref()))
            })
            .collect();
        drop(spawner);
        for each in threads {
            each.join().expect("a wake does not panic");
        }
        kept.waker().expect("it was polled").wake();
    }
}

#[test]
fn a_million_tasks_are_spawned_and_end() {
    const TASKS: usize = 1_000_000;
    let spawner = spawner_on(2, hand_off());
    let done = Arc::new(AtomicUsize::new(0));
    for _ in 0..TASKS {
        let done = done.clone();
        spawner
            .spawn(async move {
                done.fetch_add(1, Ordering::Relaxed);
            })
            .detach();
    }
    eventually("all have ended", || spawner.live() == 0);
    assert_eq!(done.load(Ordering::Relaxed), TASKS);
}

#[test]
fn tasks_of_many_threads_end_while_the_spawner_shuts_down() {
    for mode in modes() {
        let spawner = spawner_on(2, mode);
        thread::scope(|scope| {
            for _ in 0..4 {
                let spawner = spawner.clone();
                scope.spawn(move || {
                    let start = Instant::now();
                    while start.elapsed() < 20 * MS {
                        let handles: Vec<_> =
                            (0..10).map(|n| spawner.spawn(sleep(n % 3 * MS))).collect();
                        for handle in handles {
                            // It ends, is cancelled or is refused; it answers.
                            let _ = block_on(handle);
                        }
                    }
                });
            }
            scope.spawn(|| {
                block_on(sleep(5 * MS));
                spawner.shutdown(MS);
            });
        });
        assert_eq!(spawner.live(), 0);
    }
}

const FORKED: &str = "tasks::attacks::a_process_that_forks_with_tasks";

/// The forked process's part: what it spawns is refused by name.
#[test]
fn a_process_that_forks_with_tasks() {
    if !is_role(FORKED) {
        return;
    }
    let own = spawner(hand_off());
    block_on(own.spawn(async {})).expect("it ends");
    block_on(spawn(async {})).expect("it ends");
    // The child goes on here, without the threads; its parent ends at once.
    let parent = std::process::id();
    nix::unistd::daemon(true, true).expect("a child");
    eventually("its parent has ended", || std::os::unix::process::parent_id() != parent);
    let is_refused = |handle| {
        let outcome: Result<(), netpoll_async::JoinError> = block_on(handle);
        outcome.is_err_and(|error| error.to_string().contains("was forked"))
    };
    let (of_own, of_shared) = (is_refused(own.spawn(async {})), is_refused(spawn(async {})));
    println!("refused {of_own} {of_shared}");
}

#[test]
fn tasks_are_refused_by_name_in_a_forked_process() {
    assert_eq!(Process::start(FORKED, &[]).said("refused "), "true true");
}

#[test]
fn where_threads_are_refused_tasks_run_and_waits_fail_by_name() {
    refusing_threads(
        "tasks::attacks::where_threads_are_refused_tasks_run_and_waits_fail_by_name",
        || {
            for mode in [hand_off(), pool()] {
                let spawner = spawner(mode);
                block_on(spawner.spawn(async {})).expect("it ends");
                let refusal = NoThreads::from_now_on();
                for _ in 0..100 {
                    block_on(spawner.spawn(yield_now())).expect("it ends");
                    block_on(spawner.spawn(sleep(MS))).expect("it ends");
                }
                drop(refusal);
            }
            let spawner = spawner(hand_off());
            block_on(spawner.spawn(async {})).expect("it ends");
            let refusal = NoThreads::from_now_on();
            let outcomes: Vec<_> = (0..4)
                .map(|_| {
                    block_on(spawner.spawn(async { try_block_on(sleep(MS)) })).expect("it ends")
                })
                .collect();
            let is_expected =
                |outcome: &netpoll::Result<()>| matches!(outcome, Ok(()) | Err(Error::NoThread));
            assert!(outcomes.iter().all(is_expected), "{outcomes:?}");
            drop(refusal);
        },
    );
}

/// No descriptor is left for the shared manager: a sleep is kept, and a spawn says what is missing.
#[test]
fn where_descriptors_have_run_out_spawns_are_refused_and_sleeps_are_kept() {
    let name =
        "tasks::attacks::where_descriptors_have_run_out_spawns_are_refused_and_sleeps_are_kept";
    alone(name, || {
        // The three of its streams are there; a further one would have a number beyond the limit.
        set_fd_limit(3);
        let refused = block_on(spawn(async {})).expect_err("there is no loop").to_string();
        assert!(refused.contains("descriptors"), "{refused}");
        assert!(Spawner::shared().is_err());
        let start = Instant::now();
        block_on(sleep(5 * MS));
        assert!(start.elapsed() >= 5 * MS);
    });
}

/// Each way to end a task twice, in each order, and after its end.
#[test]
fn a_task_that_is_aborted_again_and_again_is_dropped_once() {
    struct Counts(Arc<AtomicUsize>);
    impl Drop for Counts {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }
    for mode in modes() {
        let (spawner, drops) = (spawner(mode), Arc::new(AtomicUsize::new(0)));
        let waits = || {
            let counts = Counts(drops.clone());
            spawner.spawn(async move {
                let _counts = counts;
                pending::<()>().await;
            })
        };
        let first = waits();
        let aborts = [first.abort_handle(), first.abort_handle()];
        thread::scope(|scope| {
            for abort in &aborts {
                scope.spawn(|| (0..100).for_each(|_| abort.abort()));
            }
        });
        first.abort();
        assert!(block_on(first).expect_err("it is cancelled").is_cancelled());
        for abort in &aborts {
            abort.abort();
        }
        // Aborted and dropped, before its first poll or after it.
        for _ in 0..100 {
            let handle = waits();
            let abort = handle.abort_handle();
            handle.abort();
            drop(handle);
            abort.abort();
        }
        // Ended, and then aborted.
        let ended = spawner.spawn(async { 7 });
        eventually("it has ended", || spawner.live() == 0);
        ended.abort();
        assert_eq!(block_on(ended).expect("it was there before"), 7);
        assert_eq!(drops.load(Ordering::SeqCst), 101, "{mode:?}");
    }
}
