//! Parking: orders in every interleaving (loom), and a thread that gets none.

use super::*;

#[cfg(not(loom))]
#[test]
fn a_thread_that_waits_too_long_withdraws() {
    let parking = Parking::<()>::new();
    let slot = Arc::new(Slot::new());
    assert!(parking.park(&slot));
    assert!(parking.wait(&slot, Some(Duration::from_millis(1))).is_none());
    assert_eq!(parking.parked(), 0);
}

#[cfg(loom)]
mod loom_models {
    use loom::thread;

    use super::*;
    use crate::base::sync::explore;
    use crate::pure::baton::Baton;

    /// A stop against a hand-off in flight: a thread is parked, the monitor reserves it and takes
    /// the core, and the pool is stopped meanwhile. Exactly one thread gets the core and turns it
    /// once, and the parked thread ends.
    #[test]
    fn loom_a_stop_against_a_hand_off_in_flight() {
        explore(|| {
            let parking = Arc::new(Parking::new());
            let lying = Baton::held(0).put_down();
            let core = lying.baton().clone();
            let epoch = lying.epoch();
            let parked = {
                let parking = parking.clone();
                let slot = Arc::new(Slot::new());
                assert!(parking.park(&slot));
                thread::spawn(move || {
                    let mut turns = 0;
                    while let Some(held) = parking.wait(&slot, None) {
                        let mut held: crate::pure::baton::Held<i32> = held;
                        *held += 1;
                        turns += 1;
                        drop(held);
                        if !parking.park(&slot) {
                            break;
                        }
                    }
                    turns
                })
            };
            let monitor = {
                let parking = parking.clone();
                thread::spawn(move || {
                    let Some(slot) = parking.reserve() else { return };
                    match core.take(epoch) {
                        Some(held) => slot.give(Order::Run(held)),
                        None => parking.give_back(&slot),
                    }
                })
            };
            parking.close();
            let kept = usize::from(lying.take_up().is_some());
            monitor.join().expect("the model's thread");
            let turns = parked.join().expect("the model's thread");
            assert!(kept + turns == 1, "kept {kept}, turned {turns}");
        });
    }

    /// Two threads reserve the one that is parked, and one of them gives it back: each order is
    /// carried out.
    #[test]
    fn loom_no_order_is_overtaken() {
        explore(|| {
            let parking = Arc::new(Parking::new());
            let slot = Arc::new(Slot::new());
            assert!(parking.park(&slot));
            let worker = {
                let (parking, slot) = (parking.clone(), slot.clone());
                thread::spawn(move || {
                    let mut done = 0;
                    while let Some(n) = parking.wait(&slot, None) {
                        done += n;
                        if !parking.park(&slot) {
                            break;
                        }
                    }
                    done
                })
            };
            let undecided = {
                let parking = parking.clone();
                thread::spawn(move || {
                    if let Some(slot) = parking.reserve() {
                        parking.give_back(&slot);
                    }
                })
            };
            let given = parking.reserve().map_or(0, |slot| {
                slot.give(Order::Run(1));
                1
            });
            undecided.join().expect("the model's thread");
            parking.close();
            assert_eq!(worker.join().expect("the model's thread"), given);
        });
    }
}
