//! How loops change between the threads that turn them: what such a thread does with the orders and
//! the cores that it finds at its [`station`](super::station).

use std::sync::Arc;

use super::hand_off::Entered;
use super::station::{Batch, Order, Station};
use super::takeover::Loop;
use crate::io::driver_set::DriverSet;
use crate::pure::baton::{Baton, Held};
use crate::reactor::Core;
use crate::reactor::nest::{self, Nest};

/// Does what the station of the baton asks for. Returns the baton, or another one, to go on with;
/// `None` if all that the thread held is another thread's by now.
#[cold]
pub(super) fn obey(mut held: Held<Loop>) -> Option<Held<Loop>> {
    let station = held.takeover.station().clone();
    let (arrived, order) = station.take();
    if let Some(batch) = arrived {
        admit(&mut held, batch);
    }
    match order {
        None => {}
        Some(Order::Part(count, set)) => part(&mut held, count, set),
        Some(Order::Join(to, set)) => return join(held, &to, set),
    }
    Some(held)
}

/// Takes the core that is in hand out of the baton. A baton without a core is gone, and its station
/// closed, where it was the last one.
#[cold]
pub(super) fn leave(mut held: Held<Loop>) -> (Option<Core>, Option<Held<Loop>>) {
    if held.nest.is_none()
        && let Some(batch) = held.takeover.station().close()
    {
        admit(&mut held, batch);
    }
    let Loop { core, nest, .. } = &mut *held;
    if let Some(left) = nest.as_mut().and_then(|nest| nest.replace(core)) {
        changed(&mut held);
        return (Some(left), Some(held));
    }
    Entered::let_go();
    (held.into_inner().map(|it| it.core), None)
}

/// Says which cores a thread has that begins to turn them.
pub(super) fn begin(held: &mut Held<Loop>) {
    held.core.change_threads();
    if let Some(nest) = &mut held.nest {
        nest.change_threads();
    }
    let loops = nest::remotes(&held.core, held.nest.as_deref()).map(Arc::downgrade).collect();
    held.takeover.station().show(loops);
}

fn admit(held: &mut Held<Loop>, Batch { cores, set }: Batch) {
    let Loop { core, nest, .. } = &mut **held;
    let nest = nest.get_or_insert_with(|| Box::new(Nest::around(core, set)));
    for each in cores {
        nest.add(each);
    }
    let (is_watched, count) = (nest.is_watched(), nest.others().count());
    changed(held);
    if !is_watched {
        // Such a loop is looked at now and then: on threads of their own they are better off.
        for _ in 0..count {
            let Ok(set) = DriverSet::new() else { break };
            part(held, 1, set);
        }
    }
}

fn part(held: &mut Held<Loop>, count: usize, set: DriverSet) {
    let Loop { nest, takeover, .. } = &mut **held;
    let (Some(nest), Some(threads)) = (nest, takeover.threads()) else { return };
    let cores: Vec<_> = (0..count).map_while(|_| nest.take()).collect();
    if cores.is_empty() {
        return;
    }
    if let Err(Batch { cores, .. }) = threads.clone().start_more(Batch { cores, set }) {
        for each in cores {
            nest.add(each);
        }
    }
    changed(held);
}

fn join(mut held: Held<Loop>, to: &Station, set: DriverSet) -> Option<Held<Loop>> {
    while let Some(batch) = held.takeover.station().close() {
        admit(&mut held, batch);
    }
    Entered::let_go();
    let Loop { core, mut nest, takeover } = held.into_inner()?;
    let mut cores = vec![core];
    cores.extend(std::iter::from_fn(|| nest.as_mut().and_then(|nest| nest.take())));
    let Err(batch) = to.push(Batch { cores, set }) else { return None };
    // That one has ended meanwhile.
    takeover.station().reopen();
    Loop::of_batch(batch, takeover.anew()).map(Baton::held)
}

/// The baton has other cores than before.
fn changed(held: &mut Held<Loop>) {
    held.core.change_threads();
    if held.nest.as_ref().is_some_and(|nest| nest.is_single()) {
        held.nest = None;
    }
    let loops = nest::remotes(&held.core, held.nest.as_deref()).map(Arc::downgrade).collect();
    held.takeover.station().show(loops);
    Entered::refresh(held);
}
