//! Berths: where threads park, and how each gets its next order.
//!
//! ```text
//!                reserve               give(order)
//!     parked ─────────────► reserved ───────────────► at work ──► parked again, or gone
//!       │ ▲     give_back │
//!       │ └───────────────┘
//!       └── gone: withdrawn after a while without an order, or sent away by `close`
//! ```
//!
//! The stack is last in, first out: the caches of the thread that parked last are warm, and the
//! first grow old and leave. Who has a berth that is not on the stack owes its thread an order, and
//! nobody else can give one.

use std::sync::Arc;
use std::time::Duration;

use crate::base::clock;
use crate::base::sync::{AtomicUsize, Condvar, Mutex, Ordering, lock, wait_until};

/// See the module.
pub(crate) struct Berths<T> {
    stack: Mutex<Stack<T>>,
    /// How many are on the stack, to be read without its lock.
    parked: AtomicUsize,
}

struct Stack<T> {
    parked: Vec<Arc<Berth<T>>>,
    closed: bool,
}

/// The place of one thread.
pub(crate) struct Berth<T> {
    order: Mutex<Option<Order<T>>>,
    bell: Condvar,
}

/// What a thread is to do.
pub(crate) enum Order<T> {
    Go(T),
    /// Back on the stack: wait on.
    Rest,
    Leave,
}

impl<T> Berths<T> {
    pub(crate) fn new() -> Self {
        let stack = Mutex::new(Stack { parked: Vec::new(), closed: false });
        Self { stack, parked: AtomicUsize::new(0) }
    }

    /// How many threads are parked. Whoever parks and then looks for work sees what was there
    /// before somebody else saw here that nobody is parked.
    pub(crate) fn parked(&self) -> usize {
        self.parked.load(Ordering::SeqCst)
    }

    /// The one that parked last, for an order.
    pub(crate) fn reserve(&self) -> Option<Arc<Berth<T>>> {
        let mut stack = lock(&self.stack);
        let berth = stack.parked.pop();
        self.count(&stack);
        berth
    }

    /// Puts a thread on the stack, for itself; `false`: it is to leave.
    pub(crate) fn park(&self, berth: &Arc<Berth<T>>) -> bool {
        // Others can use the blocks that rest with it, which else are as many as threads.
        netpoll_buffer::share_cache();
        let mut stack = lock(&self.stack);
        let may_stay = stack.push(berth);
        self.count(&stack);
        may_stay
    }

    /// Puts a reserved thread back on the stack.
    pub(crate) fn give_back(&self, berth: &Arc<Berth<T>>) {
        // Under the lock: the next who reserves it must not have his order overtaken by ours.
        let mut stack = lock(&self.stack);
        let order = if stack.push(berth) { Order::Rest } else { Order::Leave };
        self.count(&stack);
        berth.give(order);
    }

    /// For the thread of a berth: its next order; `None`: it is to leave.
    pub(crate) fn wait(&self, berth: &Arc<Berth<T>>, idle: Option<Duration>) -> Option<T> {
        let from_now = || idle.and_then(|idle| clock::now().checked_add(idle));
        let mut deadline = from_now();
        let mut order = lock(&berth.order);
        let mut late = false;
        loop {
            match order.take() {
                Some(Order::Go(work)) => return Some(work),
                Some(Order::Leave) => return None,
                Some(Order::Rest) => deadline = from_now(),
                None if late => {
                    drop(order);
                    if self.withdraw(berth) {
                        return None;
                    }
                    // Reserved meanwhile: an order will come.
                    deadline = None;
                    order = lock(&berth.order);
                    if order.is_some() {
                        continue;
                    }
                }
                None => {}
            }
            (order, late) = wait_until(&berth.bell, order, deadline);
        }
    }

    /// Takes a thread off the stack, for itself; `false`: somebody has reserved it.
    pub(crate) fn withdraw(&self, berth: &Arc<Berth<T>>) -> bool {
        let mut stack = lock(&self.stack);
        let place = stack.parked.iter().position(|each| Arc::ptr_eq(each, berth));
        let found = place.map(|place| stack.parked.remove(place)).is_some();
        self.count(&stack);
        found
    }

    /// Sends the parked away, and from now on all who would park.
    pub(crate) fn close(&self) {
        let parked = {
            let mut stack = lock(&self.stack);
            stack.closed = true;
            let parked = std::mem::take(&mut stack.parked);
            self.count(&stack);
            parked
        };
        for berth in parked {
            berth.give(Order::Leave);
        }
    }

    fn count(&self, stack: &Stack<T>) {
        self.parked.store(stack.parked.len(), Ordering::SeqCst);
    }
}

impl<T> Stack<T> {
    fn push(&mut self, berth: &Arc<Berth<T>>) -> bool {
        if !self.closed {
            self.parked.push(berth.clone());
        }
        !self.closed
    }
}

impl<T> Berth<T> {
    pub(crate) fn new() -> Self {
        Self { order: Mutex::new(None), bell: Condvar::new() }
    }

    pub(crate) fn give(&self, order: Order<T>) {
        // It may replace a `Rest` that the thread has not seen: it never stopped waiting.
        *lock(&self.order) = Some(order);
        self.bell.notify_one();
    }
}

#[cfg(test)]
#[path = "berths_tests.rs"]
mod tests;
