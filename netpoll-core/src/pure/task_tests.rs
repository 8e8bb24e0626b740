//! The task word's rules: one by one, and in every interleaving (loom).

use super::*;

#[cfg(not(loom))]
mod rules {
    use super::*;

    fn idle_task() -> Task<u32> {
        let task = Task::new(0);
        let run = task.begin().expect("a new task is scheduled");
        assert!(run.release().is_ok());
        task
    }

    /// Two changes that each add one may choose the same bit, and merge without a conflict.
    #[test]
    fn no_two_events_have_the_same_bit() {
        let source = include_str!("task.rs").split("Self = Self(1 << ").skip(1);
        let mut bits: Vec<_> = source.filter_map(|rest| rest.split(')').next()).collect();
        let count = bits.len();
        bits.sort_unstable();
        bits.dedup();
        assert!(count > 15 && bits.len() == count, "{bits:?}, of {count}");
    }

    /// A `Run` lends out references, so threads that share one could use a `Cell` at once.
    #[test]
    fn a_run_is_shared_by_threads_only_if_what_it_owns_may_be() {
        use std::cell::Cell;

        trait Ambiguous<A> {
            const NOT_SYNC: bool = true;
        }
        struct IfSync;
        impl<T> Ambiguous<()> for T {}
        impl<T: Sync> Ambiguous<IfSync> for T {}

        fn is_sync<T: Sync>() {}
        is_sync::<Run<'_, u8>>();
        // These two lines don't compile where it is.
        const { assert!(<Run<'_, Cell<u8>> as Ambiguous<_>>::NOT_SYNC) };
        const { assert!(<crate::pure::baton::Held<Cell<u8>> as Ambiguous<_>>::NOT_SYNC) };
    }

    #[test]
    fn the_first_event_schedules_and_the_next_ones_join_it() {
        let task = idle_task();
        assert!(task.word.notify(Events::READABLE));
        assert!(!task.word.notify(Events::CLOSE));
        let run = task.begin().expect("scheduled");
        assert!(run.look().has_any(Events::READABLE));
        assert!(run.look().has_any(Events::CLOSE));
    }

    #[test]
    fn a_running_task_cannot_be_begun_and_an_event_makes_its_release_fail() {
        let task = idle_task();
        assert!(task.word.notify(Events::READABLE));
        let run = task.begin().expect("scheduled");
        assert!(task.begin().is_none());
        let _ = run.look();
        assert!(
            !task.word.notify(Events::WAKE),
            "the owner looks again, no other thread need be sent"
        );
        let run = run.release().expect_err("it was notified since it looked");
        assert!(run.look().has_any(Events::WAKE));
        assert!(run.release().is_ok());
    }

    #[test]
    fn an_idle_task_cannot_be_begun() {
        assert!(idle_task().begin().is_none());
    }

    #[test]
    fn a_closed_task_is_never_scheduled_again() {
        let task = idle_task();
        assert!(task.word.notify(Events::CLOSE));
        task.begin().expect("scheduled").close();
        assert!(!task.word.notify(Events::READABLE));
        assert!(task.begin().is_none());
        assert!(task.word.is_closed());
    }

    #[test]
    fn a_kept_task_is_handed_over_once() {
        let task = Task::new(0);
        task.begin().expect("scheduled").keep();
        assert!(!task.word.notify(Events::READABLE));
        task.word.hand_over(Events::CLOSE);
        let run = task.begin().expect("handed over");
        assert!(run.look().has_any(Events::CLOSE));
        assert!(task.begin().is_none());
    }

    #[test]
    fn a_wait_ends_at_its_deadline_without_an_event() {
        let task = Task::new(0);
        let soon = Instant::now() + std::time::Duration::from_millis(1);
        assert_eq!(task.word.wait(Events::READABLE, || Some(soon)), Events::NONE);
        assert!(Instant::now() >= soon);
    }
}

#[cfg(loom)]
mod loom_models {
    use loom::sync::Arc;
    use loom::thread;

    use super::*;
    use crate::base::sync::{AtomicUsize, explore};

    /// A pretend socket: `arrived` counts edges, the owner must see each. The cell counts rounds,
    /// and loom checks that no two owners are in it at once.
    #[derive(Default)]
    struct Progress {
        arrived: AtomicUsize,
        seen: AtomicUsize,
        closed: AtomicUsize,
    }

    struct Model {
        task: Task<usize>,
        progress: Progress,
    }

    impl Model {
        fn scheduled() -> Arc<Self> {
            Arc::new(Self { task: Task::new(0), progress: Progress::default() })
        }

        fn idle() -> Arc<Self> {
            let model = Self::scheduled();
            if let Some(run) = model.task.begin() {
                assert!(run.release().is_ok());
            }
            model
        }

        /// A reactor: bytes arrive, the edge is delivered, and the thread that schedules also runs.
        fn edge(&self) {
            self.progress.arrived.fetch_add(1, Ordering::SeqCst);
            if self.task.word.notify(Events::READABLE) {
                self.run();
            }
        }

        fn close(&self) {
            if self.task.word.notify(Events::CLOSE) {
                self.run();
            }
        }

        /// The owner's loop, as in `connection/run.rs`.
        fn run(&self) {
            let Some((mut run, mut events)) = self.task.begin_and_look() else {
                return;
            };
            loop {
                *run += 1;
                if events.has_any(Events::CLOSE) {
                    self.progress.closed.fetch_add(1, Ordering::SeqCst);
                    return run.close();
                }
                if events.has_any(Events::READABLE) {
                    let arrived = self.progress.arrived.load(Ordering::SeqCst);
                    self.progress.seen.store(arrived, Ordering::SeqCst);
                }
                match run.release() {
                    Ok(()) => return,
                    Err(notified) => run = notified,
                }
                events = run.look();
            }
        }

        fn seen(&self) -> usize {
            self.progress.seen.load(Ordering::SeqCst)
        }

        fn closed(&self) -> usize {
            self.progress.closed.load(Ordering::SeqCst)
        }
    }

    fn join(threads: Vec<thread::JoinHandle<()>>) {
        for each in threads {
            each.join().expect("the model's thread");
        }
    }

    /// Edges from two threads: none is lost, and loom's cell sees no two owners at once.
    #[test]
    fn loom_no_edge_is_lost_and_there_is_one_owner() {
        explore(|| {
            let model = Model::idle();
            let other = model.clone();
            let threads = vec![thread::spawn(move || other.edge())];
            model.edge();
            join(threads);
            assert_eq!((model.seen(), model.closed()), (2, 0));
            assert!(model.task.begin().is_none(), "left scheduled, and no thread would run it");
        });
    }

    /// A close from the user and one from elsewhere while bytes arrive: exactly one disconnect.
    #[test]
    fn loom_exactly_one_disconnect() {
        explore(|| {
            let model = Model::idle();
            let (user, shutdown) = (model.clone(), model.clone());
            let threads =
                vec![thread::spawn(move || user.close()), thread::spawn(move || shutdown.close())];
            model.edge();
            join(threads);
            assert_eq!(model.closed(), 1);
        });
    }

    /// An owner that waits for bytes on its own thread wakes when they come, at any moment.
    #[test]
    fn loom_a_waiting_owner_is_woken() {
        explore(|| {
            let model = Arc::new(Task::new(()));
            let run = model.begin();
            let reactor = model.clone();
            let threads = vec![thread::spawn(move || {
                reactor.word.notify(Events::READABLE);
            })];
            assert_eq!(model.word.wait(Events::READABLE, || None), Events::READABLE);
            join(threads);
            run.expect("a new task is scheduled").keep();
        });
    }

    /// A caller drops the connection that it drove while a last event comes: the task is handed
    /// over to exactly one owner, and the event is not lost.
    #[test]
    fn loom_a_handed_over_task_is_run_once() {
        explore(|| {
            let model = Model::scheduled();
            model.task.begin().expect("a new task is scheduled").keep();
            let reactor = model.clone();
            let threads = vec![thread::spawn(move || reactor.edge())];
            model.task.word.hand_over(Events::CLOSE);
            model.run();
            join(threads);
            assert_eq!(model.closed(), 1);
        });
    }
}
