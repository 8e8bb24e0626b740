//! Spares: reused newest first, none lost, and gone when they are told to; and their orders in
//! every interleaving (loom).

use super::*;

#[cfg(not(loom))]
mod rules {
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
        let soon = Instant::now() + Duration::from_millis(20);
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

    #[test]
    fn who_waits_too_long_withdraws() {
        let berths = Berths::<()>::new();
        let berth = Arc::new(Berth::new());
        assert!(berths.park(&berth));
        assert!(berths.wait(&berth, Some(Duration::from_millis(1))).is_none());
        assert_eq!(berths.parked(), 0);
    }
}

#[cfg(loom)]
mod loom_models {
    use loom::thread;

    use super::*;
    use crate::baton::Baton;

    fn explore(model: impl Fn() + Send + Sync + 'static) {
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound = builder.preemption_bound.or(Some(3));
        builder.check(model);
    }

    /// A shutdown against a hand-off in flight: a spare is parked, the monitor reserves it and
    /// takes the core, and the crew is stopped meanwhile. The core is with exactly one thread,
    /// which turns it once, and the spare ends.
    #[test]
    fn loom_a_stop_against_a_hand_off_in_flight() {
        explore(|| {
            let berths = Arc::new(Berths::new());
            let lying = Baton::held(0).put_down();
            let core = lying.baton().clone();
            let lap = lying.lap();
            let spare = {
                let berths = berths.clone();
                let berth = Arc::new(Berth::new());
                assert!(berths.park(&berth));
                thread::spawn(move || {
                    let mut turns = 0;
                    while let Some(held) = berths.wait(&berth, None) {
                        let mut held: crate::baton::Held<i32> = held;
                        *held += 1;
                        turns += 1;
                        drop(held);
                        if !berths.park(&berth) {
                            break;
                        }
                    }
                    turns
                })
            };
            let monitor = {
                let berths = berths.clone();
                thread::spawn(move || {
                    let Some(berth) = berths.reserve() else { return };
                    match core.take(lap) {
                        Some(held) => berth.give(Order::Go(held)),
                        None => berths.give_back(&berth),
                    }
                })
            };
            berths.close();
            let kept = usize::from(lying.take_up().is_some());
            monitor.join().expect("the model's thread");
            let turns = spare.join().expect("the model's thread");
            assert!(kept + turns == 1, "kept {kept}, turned {turns}");
        });
    }

    /// Two who want the one spare, while one of them gives it back: every order is carried out.
    #[test]
    fn loom_no_order_is_overtaken() {
        explore(|| {
            let berths = Arc::new(Berths::new());
            let berth = Arc::new(Berth::new());
            assert!(berths.park(&berth));
            let worker = {
                let (berths, berth) = (berths.clone(), berth.clone());
                thread::spawn(move || {
                    let mut done = 0;
                    while let Some(n) = berths.wait(&berth, None) {
                        done += n;
                        if !berths.park(&berth) {
                            break;
                        }
                    }
                    done
                })
            };
            let undecided = {
                let berths = berths.clone();
                thread::spawn(move || {
                    if let Some(berth) = berths.reserve() {
                        berths.give_back(&berth);
                    }
                })
            };
            let given = berths.reserve().map_or(0, |berth| {
                berth.give(Order::Go(1));
                1
            });
            undecided.join().expect("the model's thread");
            berths.close();
            assert_eq!(worker.join().expect("the model's thread"), given);
        });
    }
}
