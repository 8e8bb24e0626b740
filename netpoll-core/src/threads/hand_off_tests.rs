//! Passing a core on, where the system refuses the thread for it: at every point (loom).

use loom::sync::Condvar;
use loom::thread;

use super::*;
use crate::base::sync::{Mutex, lock};

/// All interleavings with at most three preemptions.
fn explore(model: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = builder.preemption_bound.or(Some(3));
    builder.check(model);
}

/// What a thread waits for that only the holder of the core does, and the threads that there are.
#[derive(Default)]
struct World {
    delivered: Mutex<bool>,
    there: Condvar,
    spares: Mutex<usize>,
    cores: Mutex<usize>,
}

/// A thread that was reserved. One that was not needed goes back.
struct Spare<'a>(&'a World, bool);

impl Drop for Spare<'_> {
    fn drop(&mut self) {
        if !self.1 {
            *lock(&self.0.spares) += 1;
        }
    }
}

impl World {
    fn reserve(&self) -> Option<Spare<'_>> {
        let mut spares = lock(&self.spares);
        *spares = spares.checked_sub(1)?;
        Some(Spare(self, false))
    }

    /// The turn of a reactor that others wait for.
    fn turn(&self, core: Held<()>) {
        *lock(&self.delivered) = true;
        self.there.notify_all();
        *lock(&self.cores) += 1;
        drop(core);
    }

    fn pass_on(self: &Arc<Self>, baton: &Arc<Baton<()>>, epoch: Epoch) -> Passed {
        let go = |mut spare: Spare<'_>, core| {
            spare.1 = true;
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
    for spares in 0..2 {
        explore(move || {
            let world = Arc::new(World { spares: Mutex::new(spares), ..World::default() });
            let lying = Baton::held(()).put_down();
            let (baton, epoch) = (lying.baton().clone(), lying.epoch());
            let monitor = {
                let (world, baton) = (world.clone(), baton.clone());
                thread::spawn(move || {
                    let passed = world.pass_on(&baton, epoch);
                    // Another callback has ended.
                    *lock(&world.spares) += 1;
                    passed
                })
            };
            let passed = world.pass_on(&baton, epoch);
            if passed == Passed::NoThread {
                // The wait has failed, and with it the callback. The monitor may have been luckier.
                if let Some(core) = lying.take_up() {
                    world.turn(core);
                }
            }
            let mut delivered = lock(&world.delivered);
            while !*delivered {
                delivered = world.there.wait(delivered).expect("nobody panics");
            }
            drop(delivered);
            let monitors = monitor.join().expect("the model's thread");
            assert!(!(passed == Passed::Done && monitors == Passed::Done), "passed on twice");
        });
    }
}
