//! The baton's rules: one by one, and in every interleaving (loom).

use super::*;

#[cfg(not(loom))]
mod rules {
    use super::*;

    #[test]
    fn who_puts_it_down_takes_it_up_again() {
        let lying = Baton::held(7).put_down();
        let mut held = lying.take_up().expect("nobody took it");
        *held += 1;
        assert_eq!(held.into_inner(), Some(8));
    }

    #[test]
    fn what_was_taken_is_lost_to_who_put_it_down() {
        let lying = Baton::held(7).put_down();
        let baton = lying.baton().clone();
        let thief = baton.take(lying.epoch()).expect("it lies");
        assert!(baton.take(lying.epoch()).is_none());
        assert!(lying.take_up().is_none());
        assert_eq!(*thief, 7);
    }

    #[test]
    fn who_comes_back_late_cannot_take_a_later_lap() {
        let first = Baton::held(7).put_down();
        let baton = first.baton().clone();
        let second = baton.take(first.epoch()).expect("it lies").put_down();
        assert_ne!(first.epoch(), second.epoch());
        assert!(first.take_up().is_none());
        assert_eq!(baton.epoch(), Some(second.epoch()));
        assert!(second.take_up().is_some());
        assert_eq!(baton.epoch(), None);
    }

    #[test]
    fn what_is_gone_is_nobodys() {
        let lying = Baton::held(7).put_down();
        let (baton, epoch) = (lying.baton().clone(), lying.epoch());
        assert_eq!(lying.take_up().expect("it lies").into_inner(), Some(7));
        assert!(baton.is_gone());
        assert!(baton.take(epoch).is_none());
        assert_eq!(baton.epoch(), None);
    }

    #[test]
    fn what_a_panic_lets_go_of_is_not_lost() {
        let held = Baton::held(7);
        let baton = held.baton().clone();
        assert!(baton.take_abandoned().is_none(), "it is held");
        drop(held);
        assert_eq!(baton.epoch(), None, "nobody takes it by chance");
        let lying = baton.take_abandoned().expect("it was abandoned").put_down();
        let epoch = lying.epoch();
        drop(lying);
        assert!(baton.take(epoch).is_none());
        let again = baton.take_abandoned().expect("it was abandoned where it lay");
        let lying = again.put_down();
        let thief = baton.take(lying.epoch()).expect("it lies");
        drop(lying);
        assert!(baton.take_abandoned().is_none(), "the thief has it");
        assert_eq!(thief.into_inner(), Some(7));
        assert!(baton.is_gone() && baton.take_abandoned().is_none());
    }
}

#[cfg(loom)]
mod loom_models {
    use loom::thread;

    use super::*;
    use crate::base::sync::{AtomicUsize, Mutex, explore, lock};
    use crate::pure::task::{Events, Task};

    /// The owner and two thieves try to take one epoch: exactly one of them gets it, and loom's
    /// cell checks that the first holder's write is seen, and that no two threads write at once.
    #[test]
    fn loom_exactly_one_gets_an_epoch() {
        explore(|| {
            let mut held = Baton::held(0);
            *held += 1;
            let lying = held.put_down();
            let holders = Arc::new(AtomicUsize::new(0));
            let thieves: Vec<_> = (0..2)
                .map(|_| {
                    let (baton, epoch, holders) =
                        (lying.baton().clone(), lying.epoch(), holders.clone());
                    thread::spawn(move || {
                        if let Some(mut held) = baton.take(epoch) {
                            *held += 1;
                            holders.fetch_add(1, Ordering::Relaxed);
                        }
                    })
                })
                .collect();
            if let Some(mut held) = lying.take_up() {
                *held += 1;
                holders.fetch_add(1, Ordering::Relaxed);
            }
            for thief in thieves {
                thief.join().expect("the model's thread");
            }
            assert_eq!(holders.load(Ordering::Relaxed), 1, "the number of threads that took it");
        });
    }

    /// A thief that reads the epoch itself, as the monitor does, against an owner that runs one
    /// callback after another. At the end one of them holds the baton, and no turn is lost.
    #[test]
    fn loom_a_thief_against_callback_after_callback() {
        explore(|| {
            let held = Baton::held(0);
            let baton = held.baton().clone();
            let thief = thread::spawn(move || {
                let mut held = baton.take(baton.epoch()?)?;
                *held += 10;
                // The stolen core runs callbacks of its own.
                held.put_down().take_up().map(|mut held| {
                    *held += 10;
                    held
                })
            });
            let mut kept = Some(held);
            for _ in 0..2 {
                kept = kept.and_then(|mut held| {
                    *held += 1;
                    held.put_down().take_up()
                });
            }
            let stolen = thief.join().expect("the model's thread");
            assert!(kept.is_some() != stolen.is_some(), "no thread holds it, or both do");
            let sum = kept.or(stolen).and_then(Held::into_inner);
            assert!(matches!(sum, Some(2 | 21 | 22)), "{sum:?}: a turn is lost");
        });
    }

    /// A callback that outlasts its hold of the core: its thread gives the connection back (through
    /// the reactor's queue if it is still scheduled), while the thread that took the core delivers
    /// an event to it. No event is lost, and the connection has one owner at a time.
    #[test]
    fn loom_giving_a_connection_back_against_new_events() {
        struct Model {
            task: Task<usize>,
            arrived: AtomicUsize,
            seen: AtomicUsize,
            commands: Mutex<usize>,
        }
        impl Model {
            fn run(&self, rounds: usize) {
                let Some((mut run, mut events)) = self.task.begin_and_look() else { return };
                for round in 0..rounds {
                    if round > 0 {
                        events = run.look();
                    }
                    *run += 1;
                    if events.has_any(Events::READABLE) {
                        let arrived = self.arrived.load(Ordering::SeqCst);
                        self.seen.store(arrived, Ordering::SeqCst);
                    }
                    match run.release() {
                        Ok(()) => return,
                        Err(notified) => run = notified,
                    }
                }
                run.reschedule();
                *lock(&self.commands) += 1;
            }

            fn edge(&self) -> bool {
                self.arrived.fetch_add(1, Ordering::SeqCst);
                self.task.word.notify(Events::READABLE)
            }
        }
        explore(|| {
            let model = Arc::new(Model {
                task: Task::new(0),
                arrived: AtomicUsize::new(1),
                seen: AtomicUsize::new(0),
                commands: Mutex::new(0),
            });
            model.task.word.notify(Events::READABLE);
            let lying = Baton::held(()).put_down();
            let (baton, epoch) = (lying.baton().clone(), lying.epoch());
            let reactor = model.clone();
            let thief = thread::spawn(move || {
                let core = baton.take(epoch);
                if core.is_some() && reactor.edge() {
                    reactor.run(9);
                }
                core
            });
            model.run(1);
            let core = lying.take_up();
            let stolen = thief.join().expect("the model's thread");
            assert!(core.is_some() != stolen.is_some());
            // The thread that has the core serves the commands posted to it.
            while std::mem::take(&mut *lock(&model.commands)) > 0 {
                model.run(9);
            }
            let (arrived, seen) =
                (model.arrived.load(Ordering::SeqCst), model.seen.load(Ordering::SeqCst));
            assert_eq!(arrived, seen, "an event was lost");
            assert!(model.task.begin().is_none(), "left scheduled, and no thread would run it");
        });
    }
}
