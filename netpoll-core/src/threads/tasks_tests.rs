//! Tasks with futures on loops that threads turn, in each mode of dispatch.

use std::collections::HashSet;
use std::future::{pending, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::sync::mpsc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::Duration;

use super::manager::PollManager;
use super::options::{Dispatch, HandOffOptions, PoolOptions};
use crate::base::clock;
use crate::base::sync::{AtomicBool, Mutex, Ordering, lock};
use crate::connection::schedule::Dispatcher;
use crate::connection::spawned::{Place, TaskGroup};
use crate::pure::balance::LoadBalance;
use crate::tasks::current::current_place;
use crate::tasks::future::spawn_at;
use crate::tasks::timer::{Expiry, LoopTimer};

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

fn wait<F: Future>(future: F) -> F::Output {
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => return output,
            Poll::Pending => thread::park_timeout(Duration::from_secs(10)),
        }
    }
}

fn modes() -> [Dispatch; 3] {
    let pool = Dispatch::Pool(PoolOptions::default());
    [Dispatch::Inline, Dispatch::HandOff(HandOffOptions::default()), pool]
}

fn place(manager: &PollManager, dispatch: Dispatch) -> Arc<Place> {
    let dispatcher = Dispatcher::new(dispatch).expect("options that can be used");
    TaskGroup::new(dispatcher).place_on(&manager.pick(None))
}

fn manager() -> PollManager {
    PollManager::new(1, LoadBalance::default()).expect("a loop")
}

#[test]
fn a_task_runs_on_its_loop_and_what_it_spawns_runs_there_too() {
    let manager = manager();
    for mode in modes() {
        let place = place(&manager, mode);
        let spawned = place.clone();
        let handle = spawn_at(place.clone(), async move {
            let here = current_place().expect("it is polled");
            assert!(Arc::ptr_eq(&here, &spawned));
            spawn_at(here, async { thread::current().name().map(str::to_owned) }).await
        });
        let name = wait(handle).expect("it ends").expect("so does that").expect("a name");
        assert!(name.starts_with("netpoll-"), "{name}");
        assert_eq!(place.group.wait_empty(None), 0);
        assert!(!place.remote.has_tasks());
    }
}

#[test]
fn two_tasks_that_wake_each_other_do_not_keep_the_loop_from_a_third() {
    let manager = manager();
    for mode in modes() {
        let place = place(&manager, mode);
        let handles = [(); 2].map(|()| {
            spawn_at(
                place.clone(),
                poll_fn(|context: &mut Context<'_>| {
                    context.waker().wake_by_ref();
                    Poll::<()>::Pending
                }),
            )
        });
        assert_eq!(wait(spawn_at(place.clone(), async { 3 })).expect("it ends"), 3);
        drop(handles);
        assert_eq!(place.group.wait_empty(None), 0);
    }
}

/// A task that wakes the other one of two at each poll, for ever.
fn wakes_the_other(
    wakers: &Arc<Mutex<[Option<Waker>; 2]>>,
    at: usize,
) -> impl Future<Output = ()> + Send + 'static {
    let wakers = wakers.clone();
    poll_fn(move |context| {
        let mut wakers = lock(&wakers);
        wakers[at] = Some(context.waker().clone());
        if let Some(other) = &wakers[1 - at] {
            other.wake_by_ref();
        }
        Poll::Pending
    })
}

#[test]
fn two_tasks_that_wake_each_other_do_not_keep_the_loop_from_its_timers() {
    let manager = manager();
    for mode in modes() {
        let place = place(&manager, mode);
        let wakers = Arc::<Mutex<[Option<Waker>; 2]>>::default();
        let handles = [0, 1].map(|at| spawn_at(place.clone(), wakes_the_other(&wakers, at)));
        let waker = Waker::from(Arc::new(Unpark(thread::current())));
        let at = clock::now() + Duration::from_millis(5);
        let timer = LoopTimer::start(place.remote.clone(), at, &waker);
        assert_eq!(wait(poll_fn(|context| timer.poll(context))), Expiry::Due);
        drop(handles);
        assert_eq!(place.group.wait_empty(None), 0);
        lock(&wakers).fill(None);
    }
}

#[test]
fn a_task_that_one_of_another_loop_wakes_is_polled_on_its_own() {
    let managers = [manager(), manager()];
    let wakers = Arc::<Mutex<[Option<Waker>; 2]>>::default();
    let is_over = Arc::new(AtomicBool::new(false));
    let handles = [0, 1].map(|at| {
        let mut wakes = Box::pin(wakes_the_other(&wakers, at));
        let (is_over, mut polls, mut threads) = (is_over.clone(), 0, HashSet::new());
        let body = poll_fn(move |context| {
            polls += 1;
            threads.insert(thread::current().id());
            is_over.fetch_or(polls == 1000, Ordering::SeqCst);
            let _: Poll<()> = wakes.as_mut().poll(context);
            if is_over.load(Ordering::SeqCst) { Poll::Ready(threads.len()) } else { Poll::Pending }
        });
        spawn_at(place(&managers[at], Dispatch::Inline), body)
    });
    assert_eq!(handles.map(|handle| wait(handle).expect("it ends")), [1, 1]);
    lock(&wakers).fill(None);
}

#[test]
fn the_end_of_a_loop_ends_its_timers() {
    let manager = manager();
    let remote = manager.pick(None);
    let far = clock::now() + Duration::from_secs(3600);
    let timer = LoopTimer::start(remote.clone(), far, Waker::noop());
    drop(manager);
    assert_eq!(wait(poll_fn(|context| timer.poll(context))), Expiry::LoopEnded);
    let late = LoopTimer::start(remote, far, Waker::noop());
    assert_eq!(wait(poll_fn(|context| late.poll(context))), Expiry::LoopEnded);
}

#[test]
fn the_end_of_a_loop_cancels_its_tasks_and_refuses_further_ones() {
    struct Spawns(Option<Arc<Place>>, mpsc::Sender<bool>);
    impl Drop for Spawns {
        fn drop(&mut self) {
            let place = self.0.take().expect("it is dropped once");
            let handle = spawn_at(place.clone(), async {});
            self.1.send(handle.is_finished()).expect("the test waits");
        }
    }
    for mode in modes() {
        let manager = manager();
        let place = place(&manager, mode);
        let (told, was_refused) = mpsc::channel();
        let spawns = Spawns(Some(place.clone()), told);
        let handle = spawn_at(place.clone(), async move {
            let _spawns = spawns;
            pending::<()>().await;
        });
        drop(manager);
        assert!(wait(handle).expect_err("it is cancelled").is_cancelled());
        assert!(was_refused.recv().expect("the future was dropped"));
        assert_eq!(place.group.live(), 0);
        let error = wait(spawn_at(place.clone(), async {})).expect_err("the loop has ended");
        assert_eq!(error.to_string(), "the task was not started: its loop has ended");
    }
}

#[test]
fn a_poll_that_blocks_does_not_hold_up_other_tasks_of_the_loop() {
    let manager = manager();
    let place = place(&manager, Dispatch::HandOff(HandOffOptions::default()));
    let (go, wait_for_it) = mpsc::channel::<()>();
    let blocks = spawn_at(place.clone(), async move { wait_for_it.recv().is_ok() });
    assert_eq!(wait(spawn_at(place.clone(), async { 2 })).expect("it ends"), 2);
    assert!(!blocks.is_finished());
    go.send(()).expect("it waits");
    assert!(wait(blocks).expect("it ends"));
}
