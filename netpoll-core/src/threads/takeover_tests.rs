//! Passing a core on, where the system refuses the thread for it: at every point (loom).

use loom::sync::Condvar;
use loom::thread;

use super::*;
use crate::base::sync::{Mutex, explore, lock};

/// What a thread waits for that only the holder of the core does, and the threads that there are.
#[derive(Default)]
struct World {
    delivered: Mutex<bool>,
    there: Condvar,
    parked: Mutex<usize>,
    cores: Mutex<usize>,
}

/// A thread that was reserved. One that was not needed goes back.
struct Reserved<'a>(&'a World, bool);

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        if !self.1 {
            *lock(&self.0.parked) += 1;
        }
    }
}

impl World {
    fn reserve(&self) -> Option<Reserved<'_>> {
        let mut parked = lock(&self.parked);
        *parked = parked.checked_sub(1)?;
        Some(Reserved(self, false))
    }

    /// The turn of a reactor that others wait for.
    fn turn(&self, core: Held<()>) {
        *lock(&self.delivered) = true;
        self.there.notify_all();
        *lock(&self.cores) += 1;
        drop(core);
    }

    fn pass_on(self: &Arc<Self>, baton: &Arc<Baton<()>>, epoch: Epoch) -> Passed {
        let go = |mut reserved: Reserved<'_>, core| {
            reserved.1 = true;
            let world = self.clone();
            thread::spawn(move || world.turn(core));
        };
        pass_on(baton, epoch, || self.reserve(), go)
    }
}

/// A callback is about to wait, the monitor looks, and a thread comes free: whichever of them is
/// refused, no thread waits while its core lies there, which would be a deadlock.
#[test]
fn loom_no_thread_waits_with_its_core_in_its_hands() {
    for parked in 0..2 {
        explore(move || {
            let world = Arc::new(World { parked: Mutex::new(parked), ..World::default() });
            let lying = Baton::held(()).put_down();
            let (baton, epoch) = (lying.baton().clone(), lying.epoch());
            let monitor = {
                let (world, baton) = (world.clone(), baton.clone());
                thread::spawn(move || {
                    let passed = world.pass_on(&baton, epoch);
                    // Another callback has ended.
                    *lock(&world.parked) += 1;
                    passed
                })
            };
            let passed = world.pass_on(&baton, epoch);
            if passed == Passed::NoThread {
                // The wait has failed, and with it the callback. The monitor may have had a thread.
                if let Some(core) = lying.take_up() {
                    world.turn(core);
                }
            }
            let mut delivered = lock(&world.delivered);
            while !*delivered {
                delivered = world.there.wait(delivered).expect("no thread panics");
            }
            drop(delivered);
            let monitors = monitor.join().expect("the model's thread");
            assert!(!(passed == Passed::Done && monitors == Passed::Done), "passed on twice");
        });
    }
}
