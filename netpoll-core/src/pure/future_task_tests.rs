//! The rules of a task with a future: one by one, and in every interleaving (loom).

use super::*;

#[cfg(not(loom))]
mod rules {
    use std::future::{pending, poll_fn, ready};

    use super::*;
    use crate::base::sync::{AtomicUsize, Mutex, Ordering};

    /// Counts how often its task was scheduled.
    #[derive(Default)]
    struct Counting(AtomicUsize);

    impl Home for Counting {
        fn schedule<F>(task: Arc<FutureTask<F, Self>>)
        where
            F: Future<Output: Send> + Send + 'static,
        {
            task.home().0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn task<F>(future: F) -> Arc<FutureTask<F, Counting>>
    where
        F: Future<Output: Send> + Send + 'static,
    {
        FutureTask::new(future, Counting::default())
    }

    fn scheduled<F: Future>(task: &FutureTask<F, Counting>) -> usize {
        task.home.0.load(Ordering::Relaxed)
    }

    fn outcome<F>(task: &FutureTask<F, Counting>) -> Option<Outcome<F::Output>>
    where
        F: Future<Output: Send> + Send + 'static,
    {
        match task.join().poll(&Context::from_waker(Waker::noop())) {
            Poll::Ready(outcome) => outcome,
            Poll::Pending => None,
        }
    }

    /// Calls the closure when it is dropped.
    struct OnDrop<F: FnMut()>(F);

    impl<F: FnMut()> Drop for OnDrop<F> {
        fn drop(&mut self) {
            (self.0)();
        }
    }

    fn count(counter: &AtomicUsize) {
        counter.fetch_add(1, Ordering::Relaxed);
    }

    #[test]
    fn wakes_before_a_poll_are_one_schedule() {
        let task = task(pending::<()>());
        assert_eq!(task.run(), Ran::Pending);
        for _ in 0..3 {
            task.wake_by_ref();
        }
        assert_eq!(scheduled(&task), 1);
        assert_eq!(task.run(), Ran::Pending);
        assert_eq!(task.run(), Ran::Pending, "it is idle, so this is no run");
    }

    #[test]
    fn a_wake_in_a_poll_is_another_poll_and_no_schedule() {
        let mut polls = 0;
        let task = task(poll_fn(move |context| {
            polls += 1;
            context.waker().wake_by_ref();
            if polls == 3 { Poll::Ready(polls) } else { Poll::Pending }
        }));
        assert_eq!([task.run(), task.run(), task.run()], [Ran::Again, Ran::Again, Ran::Ended]);
        assert_eq!(scheduled(&task), 0);
        assert!(matches!(outcome(&task), Some(Ok(3))));
        assert!(outcome(&task).is_none(), "it is taken once");
    }

    #[test]
    fn a_waker_that_outlives_the_task_does_nothing() {
        let kept = Arc::new(Mutex::new(None));
        let keeps = kept.clone();
        let task = task(poll_fn(move |context| {
            *keeps.lock().unwrap() = Some(context.waker().clone());
            Poll::Ready(())
        }));
        assert_eq!(task.run(), Ran::Ended);
        let waker = kept.lock().unwrap().take().expect("it was polled");
        waker.wake_by_ref();
        task.abort();
        drop(task);
        waker.wake();
    }

    #[test]
    fn an_abort_drops_the_future_and_not_an_output() {
        let drops = Arc::new(AtomicUsize::new(0));
        let counts = drops.clone();
        let guard = OnDrop(move || count(&counts));
        let aborted = task(async move {
            let _guard = guard;
            pending::<()>().await;
        });
        assert_eq!(aborted.run(), Ran::Pending);
        aborted.abort();
        assert_eq!((scheduled(&aborted), drops.load(Ordering::Relaxed)), (1, 0));
        assert_eq!(aborted.run(), Ran::Ended);
        assert_eq!(drops.load(Ordering::Relaxed), 1);
        assert!(matches!(outcome(&aborted), Some(Err(error)) if error.is_cancelled()));

        let ended = task(ready(7));
        assert_eq!(ended.run(), Ran::Ended);
        ended.abort();
        assert!(matches!(outcome(&ended), Some(Ok(7))));
    }

    #[test]
    fn an_abort_in_a_poll_ends_the_task_when_the_poll_returns() {
        let this = Arc::new(Mutex::new(None::<Box<dyn Fn() + Send>>));
        let aborts = this.clone();
        let aborted = task(poll_fn(move |_| {
            (aborts.lock().unwrap().as_ref().expect("it is set"))();
            Poll::<()>::Pending
        }));
        let weak = Arc::downgrade(&aborted);
        let abort = move || weak.upgrade().expect("it runs").abort();
        *this.lock().unwrap() = Some(Box::new(abort));
        assert_eq!(aborted.run(), Ran::Ended);
        assert_eq!(scheduled(&aborted), 0);
    }

    #[test]
    fn a_panic_reaches_the_handle() {
        let task = task(async { std::panic::panic_any("first") });
        assert_eq!(task.run(), Ran::Ended);
        let error = outcome(&task).expect("an outcome").expect_err("a panic");
        assert!(error.is_panic() && !error.is_cancelled());
        let payload = error.into_panic().expect("what it panicked with");
        assert_eq!(payload.downcast_ref::<&str>(), Some(&"first"));
    }

    #[test]
    fn a_future_whose_drop_panics_ends_its_task_with_the_output() {
        struct Malicious;
        impl Future for Malicious {
            type Output = u8;
            fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<u8> {
                Poll::Ready(1)
            }
        }
        impl Drop for Malicious {
            fn drop(&mut self) {
                panic!("in the drop of a future");
            }
        }
        let ready = task(Malicious);
        assert_eq!(ready.run(), Ran::Ended);
        assert!(matches!(outcome(&ready), Some(Ok(1))));
        let aborted = task(Malicious);
        aborted.note_abort();
        assert_eq!(aborted.run(), Ran::Ended);
        assert!(matches!(outcome(&aborted), Some(Err(_))));
    }

    #[test]
    fn an_output_that_nobody_wants_is_dropped_once() {
        let drops = Arc::new(AtomicUsize::new(0));
        for abandon_first in [true, false] {
            let counts = drops.clone();
            let output = OnDrop(move || count(&counts));
            let task = task(ready(output));
            if abandon_first {
                assert!(task.join().abandon());
            }
            assert_eq!(task.run(), Ran::Ended);
            assert!(!task.join().abandon(), "it has ended");
            assert_eq!(drops.swap(0, Ordering::Relaxed), 1);
        }
    }

    #[test]
    fn the_waker_of_a_join_may_panic() {
        struct Malicious;
        impl Wake for Malicious {
            fn wake(self: Arc<Self>) {
                panic!("in a waker");
            }
        }
        let task = task(ready(1));
        let waker = Waker::from(Arc::new(Malicious));
        assert!(task.join().poll(&Context::from_waker(&waker)).is_pending());
        assert_eq!(task.run(), Ran::Ended);
        assert!(matches!(outcome(&task), Some(Ok(1))));
    }
}

#[cfg(loom)]
mod loom_models {
    use std::sync::Arc;

    use loom::sync::Mutex;
    use loom::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
    use loom::thread;

    use super::*;
    use crate::base::sync::{explore, lock};

    /// What is wrong in a model that has to fail.
    #[derive(Clone, Copy, PartialEq, Eq)]
    enum Bug {
        None,
        /// A poll gives the task back without a look whether it was woken meanwhile.
        ReleasesBlindly,
        /// A task that has ended is idle, as one that is pending.
        StaysOpen,
        /// An abort sets its bit, and does not schedule the task.
        AbortsQuietly,
        /// A join that has found the task at work keeps its waker without a second look.
        JoinsBlindly,
    }

    /// The thread that schedules a task runs it, at once.
    struct Here(Bug);

    impl Home for Here {
        fn schedule<F>(task: Arc<FutureTask<F, Self>>)
        where
            F: Future<Output: Send> + Send + 'static,
        {
            assert!(!task.join().has_ended(), "a task was scheduled after its end");
            while run(&task) == Ran::Again {}
        }
    }

    fn run<F>(task: &Arc<FutureTask<F, Here>>) -> Ran
    where
        F: Future<Output: Send> + Send + 'static,
    {
        match task.home().0 {
            Bug::ReleasesBlindly | Bug::StaysOpen => run_wrongly(task),
            _ => task.run(),
        }
    }

    /// As `FutureTask::run`, with a bug.
    fn run_wrongly<F>(task: &Arc<FutureTask<F, Here>>) -> Ran
    where
        F: Future<Output: Send> + Send + 'static,
    {
        let Some(mut run) = task.task.begin() else { return Ran::Pending };
        let waker = Waker::from(task.clone());
        let context = &mut Context::from_waker(&waker);
        match pinned(&mut run).as_pin_mut().map(|future| future.poll(context)) {
            Some(Poll::Ready(output)) => {
                pinned(&mut run).set(None);
                if task.home().0 == Bug::StaysOpen {
                    run.release_blindly();
                } else {
                    run.close();
                }
                task.join.complete(Ok(output));
                Ran::Ended
            }
            _ if task.home().0 == Bug::ReleasesBlindly => {
                run.release_blindly();
                Ran::Pending
            }
            _ => match run.release() {
                Ok(()) => Ran::Pending,
                Err(run) => {
                    run.reschedule();
                    Ran::Again
                }
            },
        }
    }

    fn abort<F>(task: &Arc<FutureTask<F, Here>>)
    where
        F: Future<Output: Send> + Send + 'static,
    {
        match task.home().0 {
            Bug::AbortsQuietly => task.task.word.note(Events::ABORT),
            _ => task.abort(),
        }
    }

    /// Ready when `needed` has arrived; keeps its waker for those that bring it.
    struct Waits {
        arrived: Arc<AtomicUsize>,
        needed: usize,
        drops: Arc<AtomicUsize>,
        waker: Arc<Mutex<Option<Waker>>>,
    }

    impl Future for Waits {
        type Output = usize;

        fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<usize> {
            *lock(&self.waker) = Some(context.waker().clone());
            match self.arrived.load(SeqCst) {
                arrived if arrived >= self.needed => Poll::Ready(arrived),
                _ => Poll::Pending,
            }
        }
    }

    impl Drop for Waits {
        fn drop(&mut self) {
            self.drops.fetch_add(1, SeqCst);
        }
    }

    #[derive(Clone)]
    struct Model {
        task: Arc<FutureTask<Waits, Here>>,
        arrived: Arc<AtomicUsize>,
        drops: Arc<AtomicUsize>,
        waker: Waker,
    }

    impl Model {
        /// A task that was polled once, and is pending.
        fn pending(needed: usize, bug: Bug) -> Self {
            let (arrived, drops) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
            let waker = Arc::new(Mutex::new(None));
            let (counts, keeps) = (drops.clone(), waker.clone());
            let future = Waits { arrived: arrived.clone(), needed, drops: counts, waker: keeps };
            let task = FutureTask::new(future, Here(bug));
            assert_eq!(run(&task), Ran::Pending);
            let waker = lock(&waker).take().expect("it was polled");
            Self { task, arrived, drops, waker }
        }

        /// What the task waits for comes, and wakes it.
        fn arrive(&self) {
            self.arrived.fetch_add(1, SeqCst);
            self.waker.wake_by_ref();
        }

        fn has_ended(&self) -> bool {
            self.task.join().has_ended()
        }
    }

    fn wakes_against_a_poll(bug: Bug) {
        explore(move || {
            let model = Model::pending(2, bug);
            let other = model.clone();
            let other = thread::spawn(move || other.arrive());
            model.arrive();
            other.join().expect("the model's thread");
            assert!(model.has_ended(), "a wake was lost");
            assert_eq!(model.drops.load(SeqCst), 1);
        });
    }

    fn wakes_against_the_end(bug: Bug) {
        explore(move || {
            let model = Model::pending(1, bug);
            let other = model.clone();
            let other = thread::spawn(move || other.arrive());
            model.arrive();
            other.join().expect("the model's thread");
            assert!(model.has_ended());
            assert_eq!(model.drops.load(SeqCst), 1);
        });
    }

    fn an_abort_against_a_wake(bug: Bug) {
        explore(move || {
            let model = Model::pending(2, bug);
            let other = model.clone();
            let other = thread::spawn(move || other.arrive());
            abort(&model.task);
            other.join().expect("the model's thread");
            assert!(model.has_ended(), "an abort was lost");
            assert_eq!(model.drops.load(SeqCst), 1);
        });
    }

    struct Flag(AtomicBool);

    impl Wake for Flag {
        fn wake(self: Arc<Self>) {
            self.0.store(true, SeqCst);
        }
    }

    fn a_join_against_the_end(bug: Bug) {
        explore(move || {
            let model = Model::pending(1, bug);
            let other = model.clone();
            let other = thread::spawn(move || other.arrive());
            let flag = Arc::new(Flag(AtomicBool::new(false)));
            let waker = Waker::from(flag.clone());
            let (join, context) = (model.task.join(), Context::from_waker(&waker));
            let polled = match bug {
                Bug::JoinsBlindly => join.poll_and_look_once(&context),
                _ => join.poll(&context),
            };
            other.join().expect("the model's thread");
            match polled {
                Poll::Ready(outcome) => assert!(matches!(outcome, Some(Ok(1)))),
                Poll::Pending => assert!(flag.0.load(SeqCst), "the joiner was not woken"),
            }
        });
    }

    #[test]
    fn loom_no_wake_is_lost_to_a_poll() {
        wakes_against_a_poll(Bug::None);
    }

    #[test]
    #[should_panic(expected = "a wake was lost")]
    fn loom_finds_a_poll_that_releases_blindly() {
        wakes_against_a_poll(Bug::ReleasesBlindly);
    }

    #[test]
    fn loom_a_wake_after_the_end_does_nothing() {
        wakes_against_the_end(Bug::None);
    }

    #[test]
    #[should_panic(expected = "a task was scheduled after its end")]
    fn loom_finds_a_task_that_stays_open() {
        wakes_against_the_end(Bug::StaysOpen);
    }

    #[test]
    fn loom_an_abort_ends_the_task_once() {
        an_abort_against_a_wake(Bug::None);
    }

    #[test]
    #[should_panic(expected = "an abort was lost")]
    fn loom_finds_an_abort_that_schedules_nothing() {
        an_abort_against_a_wake(Bug::AbortsQuietly);
    }

    #[test]
    fn loom_a_join_sees_the_end_or_is_woken() {
        a_join_against_the_end(Bug::None);
    }

    #[test]
    #[should_panic(expected = "the joiner was not woken")]
    fn loom_finds_a_join_that_looks_once() {
        a_join_against_the_end(Bug::JoinsBlindly);
    }
}
