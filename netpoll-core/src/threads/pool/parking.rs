//! Where the threads of a pool park, and how each gets its next order.
//!
//! ```text
//!                reserve               give(order)
//!     parked ─────────────► reserved ───────────────► at work ──► parked again, or gone
//!       │ ▲     give_back │
//!       │ └───────────────┘
//!       └── gone: withdrawn after a while without an order, or told to leave by `close`
//! ```
//!
//! The stack is last in, first out: the caches of the thread that parked last are warm, and the
//! threads at the bottom grow old and leave. A slot that was taken off the stack is *reserved*: its
//! thread waits for an order, and only the code that reserved it gives one.

use std::sync::Arc;
use std::time::Duration;

use crate::base::clock;
use crate::base::sync::{AtomicUsize, Condvar, Mutex, Ordering, lock, wait_until};

/// See the module.
pub(crate) struct Parking<T> {
    stack: Mutex<Stack<T>>,
    /// The length of the stack, to be read without its lock.
    parked: AtomicUsize,
    /// Threads that are awake and look for work; see [`searching`](super::searching).
    pub(super) searching: AtomicUsize,
}

/// What one thread of a pool waits on.
pub(crate) struct Slot<T> {
    order: Mutex<Option<Order<T>>>,
    changed: Condvar,
}

/// What a thread does next.
pub(crate) enum Order<T> {
    Run(T),
    /// It is on the stack again, and waits on.
    Wait,
    Leave,
}

impl<T> Parking<T> {
    pub(crate) fn new() -> Self {
        let stack = Mutex::new(Stack { parked: Vec::new(), closed: false });
        Self { stack, parked: AtomicUsize::new(0), searching: AtomicUsize::new(0) }
    }

    /// How many threads are parked. Of a thread that parks and then looks for work, and a thread
    /// that adds work and then reads this number, one sees the other.
    pub(crate) fn parked(&self) -> usize {
        self.parked.load(Ordering::SeqCst)
    }

    /// The slot of the thread that parked last. The caller owes it an order.
    pub(crate) fn reserve(&self) -> Option<Arc<Slot<T>>> {
        let mut stack = lock(&self.stack);
        let slot = stack.parked.pop();
        self.count(&stack);
        slot
    }

    /// Parks the calling thread; `false`: it has to leave.
    pub(crate) fn park(&self, slot: &Arc<Slot<T>>) -> bool {
        // Other threads can use the blocks in this one's cache, or there would be as many unused
        // ones as there are threads.
        netpoll_buffer::share_cache();
        let mut stack = lock(&self.stack);
        let may_stay = stack.push(slot);
        self.count(&stack);
        may_stay
    }

    /// Parks a reserved thread again.
    pub(crate) fn give_back(&self, slot: &Arc<Slot<T>>) {
        // Under the lock, so that this order comes before the one of the next reservation.
        let mut stack = lock(&self.stack);
        let order = if stack.push(slot) { Order::Wait } else { Order::Leave };
        self.count(&stack);
        slot.give(order);
    }

    /// Waits for the calling thread's next order, for `idle` at the most; `None`: it has to leave.
    pub(crate) fn wait(&self, slot: &Arc<Slot<T>>, idle: Option<Duration>) -> Option<T> {
        let from_now = || idle.and_then(|idle| clock::now().checked_add(idle));
        let mut deadline = from_now();
        let mut order = lock(&slot.order);
        let mut late = false;
        loop {
            match order.take() {
                Some(Order::Run(work)) => return Some(work),
                Some(Order::Leave) => return None,
                Some(Order::Wait) => deadline = from_now(),
                None if late => {
                    drop(order);
                    if self.withdraw(slot) {
                        return None;
                    }
                    // It was reserved meanwhile: an order will come.
                    deadline = None;
                    order = lock(&slot.order);
                    if order.is_some() {
                        continue;
                    }
                }
                None => {}
            }
            (order, late) = wait_until(&slot.changed, order, deadline);
        }
    }

    /// Takes the calling thread off the stack; `false`: it is reserved.
    pub(crate) fn withdraw(&self, slot: &Arc<Slot<T>>) -> bool {
        let mut stack = lock(&self.stack);
        let index = stack.parked.iter().position(|each| Arc::ptr_eq(each, slot));
        let found = index.map(|index| stack.parked.remove(index)).is_some();
        self.count(&stack);
        found
    }

    /// Has the parked threads leave, and from now on each thread that would park.
    pub(crate) fn close(&self) {
        let parked = {
            let mut stack = lock(&self.stack);
            stack.closed = true;
            let parked = std::mem::take(&mut stack.parked);
            self.count(&stack);
            parked
        };
        for slot in parked {
            slot.give(Order::Leave);
        }
    }

    fn count(&self, stack: &Stack<T>) {
        self.parked.store(stack.parked.len(), Ordering::SeqCst);
    }
}

impl<T> Slot<T> {
    pub(crate) fn new() -> Self {
        Self { order: Mutex::new(None), changed: Condvar::new() }
    }

    pub(crate) fn give(&self, order: Order<T>) {
        // It may replace an `Order::Wait` that the thread has not seen: it never stopped waiting.
        *lock(&self.order) = Some(order);
        self.changed.notify_one();
    }
}

struct Stack<T> {
    parked: Vec<Arc<Slot<T>>>,
    closed: bool,
}

impl<T> Stack<T> {
    fn push(&mut self, slot: &Arc<Slot<T>>) -> bool {
        if !self.closed {
            self.parked.push(slot.clone());
        }
        !self.closed
    }
}

#[cfg(test)]
#[path = "parking_tests.rs"]
mod tests;
