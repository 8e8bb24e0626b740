//! Berths: orders in every interleaving (loom), and a thread that gets none.

use super::*;

#[cfg(not(loom))]
#[test]
fn who_waits_too_long_withdraws() {
    let berths = Berths::<()>::new();
    let berth = Arc::new(Berth::new());
    assert!(berths.park(&berth));
    assert!(berths.wait(&berth, Some(Duration::from_millis(1))).is_none());
    assert_eq!(berths.parked(), 0);
}

#[cfg(loom)]
mod loom_models {
    use loom::thread;

    use super::*;
    use crate::pure::baton::Baton;

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
            let epoch = lying.epoch();
            let spare = {
                let berths = berths.clone();
                let berth = Arc::new(Berth::new());
                assert!(berths.park(&berth));
                thread::spawn(move || {
                    let mut turns = 0;
                    while let Some(held) = berths.wait(&berth, None) {
                        let mut held: crate::pure::baton::Held<i32> = held;
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
                    match core.take(epoch) {
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
