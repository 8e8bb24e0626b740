//! How tasks end with what they run on: a shutdown, a scope, a manager, a loop that retires.

use std::future::pending;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, mpsc};
use std::thread;
use std::time::Duration;

use netpoll::{Dispatch, LoadBalance, PollManager};
use netpoll_async::{JoinHandle, Scope, Spawner, block_on, sleep, spawn};

use super::{Kept, spawner};
use crate::util::{PATIENCE, eventually, hand_off, modes, pool};

const MS: Duration = Duration::from_millis(1);

/// Counts its drops.
#[derive(Clone)]
struct Counted(Arc<AtomicUsize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[test]
fn the_end_of_a_manager_cancels_its_tasks_and_their_handles_answer() {
    for mode in modes() {
        let drops = Arc::new(AtomicUsize::new(0));
        let spawner = spawner(mode);
        let kept = Kept::default();
        let handles: Vec<_> = (0..100)
            .map(|n| {
                let (counted, kept) = (Counted(drops.clone()), kept.clone());
                spawner.spawn(async move {
                    let _counted = counted;
                    match n % 3 {
                        0 => kept.pending().await,
                        1 => sleep(Duration::from_secs(3600)).await,
                        _ => {
                            let _ = spawn(pending::<()>()).await;
                            // Its turn to be cancelled comes next.
                            pending::<()>().await;
                        }
                    }
                })
            })
            .collect();
        eventually("they were polled", || kept.waker().is_some());
        drop(spawner);
        assert_eq!(drops.load(Ordering::SeqCst), 100, "all futures were dropped");
        for handle in handles {
            assert!(block_on(handle).expect_err("it is cancelled").is_cancelled());
        }
        // A waker that was kept does nothing any more.
        kept.waker().expect("it was polled").wake();
    }
}

#[test]
fn a_shutdown_lets_tasks_end_that_can_and_cancels_the_rest() {
    for mode in modes() {
        let spawner = spawner(mode);
        let signal = spawner.shutting_down();
        let finishes = spawner.spawn(async move {
            signal.await;
            sleep(5 * MS).await;
            "finished"
        });
        let waits = spawner.spawn(pending::<()>());
        assert_eq!(spawner.shutdown(1500 * MS), 1);
        assert_eq!(block_on(finishes).expect("it ends"), "finished");
        assert!(block_on(waits).expect_err("it is cancelled").is_cancelled());
        let late = block_on(spawner.spawn(async {})).expect_err("it is refused");
        assert_eq!(late.to_string(), "the task was not started: its group is shut down");
        block_on(spawner.shutting_down());
        assert_eq!(spawner.shutdown(PATIENCE), 0, "the second time there is nothing to do");
    }
}

#[test]
fn a_scope_joins_its_tasks_when_it_is_dropped() {
    let done = Arc::new(AtomicUsize::new(0));
    let scope = Scope::new(PATIENCE).expect("loops");
    for _ in 0..10 {
        let done = done.clone();
        let signal = scope.shutting_down();
        scope.spawn(async move {
            signal.await;
            sleep(MS).await;
            done.fetch_add(1, Ordering::SeqCst);
        });
    }
    let joined = scope.spawn_joined(async { 4 });
    assert_eq!(block_on(joined).expect("it ends"), 4);
    assert_eq!(done.load(Ordering::SeqCst), 0);
    drop(scope);
    assert_eq!(done.load(Ordering::SeqCst), 10);
}

#[test]
fn a_shutdown_from_inside_its_own_task_ends() {
    for mode in modes() {
        let (told, hears) = mpsc::channel();
        let (spawner, owned) = (spawner(mode), mpsc::channel::<Spawner>());
        let handle = spawner.spawn(async move {
            let spawner = owned.1.recv().expect("the test sends it");
            told.send(spawner.shutdown(MS)).expect("the test waits");
        });
        let others = spawner.spawn(pending::<()>());
        owned.0.send(spawner).expect("it waits");
        assert_eq!(hears.recv_timeout(PATIENCE), Ok(2), "{mode:?}");
        assert!(block_on(others).expect_err("it is cancelled").is_cancelled());
        drop(handle);
    }
}

#[test]
fn a_poll_that_blocks_is_left_behind_by_a_shutdown_and_ends_when_it_returns() {
    for mode in [hand_off(), pool()] {
        let spawner = spawner(mode);
        let (go, wait) = mpsc::channel::<()>();
        let (begun, begins) = mpsc::channel();
        let blocks = spawner.spawn(async move {
            begun.send(()).expect("the test waits");
            wait.recv().expect("the test sends it");
            pending::<()>().await;
        });
        begins.recv().expect("it is polled");
        assert_eq!(spawner.shutdown(MS), 1);
        assert!(!blocks.is_finished());
        go.send(()).expect("it waits");
        assert!(block_on(blocks).expect_err("it is cancelled").is_cancelled());
    }
}

#[test]
fn a_retired_loop_runs_its_tasks_to_their_end() {
    let manager = Arc::new(PollManager::new(2, LoadBalance::RoundRobin).expect("loops"));
    for mode in modes() {
        let spawner = Spawner::new(&manager, mode).expect("options that can be used");
        let handles = [(); 4].map(|()| spawner.spawn(sleep(20 * MS)));
        manager.set_loops(1).expect("fewer loops");
        for handle in handles {
            block_on(handle).expect("it ends");
        }
        eventually("the retired loop has ended", || {
            manager.remotes().iter().filter(|it| !it.has_ended()).count() == 1
        });
        manager.set_loops(2).expect("loops");
    }
}

#[test]
fn a_manager_may_be_dropped_by_one_of_its_tasks() {
    for mode in modes() {
        let (spawner, moved) = (spawner(mode), mpsc::channel::<Spawner>());
        let handle = spawner.spawn(async move {
            drop(moved.1.recv().expect("the test sends it"));
            pending::<()>().await;
        });
        moved.0.send(spawner).expect("it waits");
        assert!(block_on(handle).expect_err("it is cancelled").is_cancelled());
    }
}

#[test]
fn a_task_of_another_manager_is_joined_across_them() {
    let (one, two) = (spawner(Dispatch::Inline), spawner(hand_off()));
    let joined = one.spawn(async move {
        let inner = two.spawn(async {
            thread::yield_now();
            9
        });
        inner.await.expect("it ends")
    });
    assert_eq!(block_on(joined).expect("it ends"), 9);
}

#[test]
fn a_task_that_is_spawned_beside_a_shutdown_is_cancelled_or_refused() {
    let manager = Arc::new(PollManager::new(1, LoadBalance::default()).expect("a loop"));
    for _ in 0..500 {
        let spawner = Spawner::new(&manager, Dispatch::Inline).expect("options that can be used");
        let start = Barrier::new(2);
        let handles = thread::scope(|scope| {
            let spawning = scope.spawn(|| {
                start.wait();
                let mut handles = Vec::new();
                // The last one is refused.
                while !handles.last().is_some_and(JoinHandle::is_finished) {
                    handles.push(spawner.spawn(pending::<()>()));
                }
                handles
            });
            start.wait();
            spawner.shutdown(Duration::ZERO);
            spawning.join().expect("it is refused in the end")
        });
        eventually("all have ended", || handles.iter().all(JoinHandle::is_finished));
        assert_eq!(spawner.live(), 0);
    }
}
