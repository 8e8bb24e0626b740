//! Tasks without a connection: the promises of `netpoll::futures::spawn` and what belongs to it, in
//! each dispatch mode.

mod attacks;
mod blocking;
mod ending;
mod running;
mod served;
mod timing;

use std::future::poll_fn;
use std::sync::{Arc, Mutex};
use std::task::{Poll, Waker};

use netpoll::{Dispatch, LoadBalance, PollManager};
use netpoll_async::Spawner;

use crate::util::lock;

/// A spawner on a manager of its own, with one loop.
fn spawner(dispatch: Dispatch) -> Spawner {
    spawner_on(1, dispatch)
}

fn spawner_on(loops: usize, dispatch: Dispatch) -> Spawner {
    let manager = PollManager::new(loops, LoadBalance::default()).expect("loops");
    Spawner::new(&Arc::new(manager), dispatch).expect("options that can be used")
}

/// The waker of the last poll of a future that is pending for ever.
#[derive(Clone, Default)]
struct Kept(Arc<Mutex<Option<Waker>>>);

impl Kept {
    async fn pending(self) {
        poll_fn(|context| {
            *lock(&self.0) = Some(context.waker().clone());
            Poll::<()>::Pending
        })
        .await;
    }

    fn waker(&self) -> Option<Waker> {
        lock(&self.0).clone()
    }
}
