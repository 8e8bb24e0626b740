//! What a future can be told of its connection: that a shutdown has begun, and that the peer is
//! gone.

use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use netpoll_core::{GoneWatch, Handle};

use crate::shared::Shared;

/// See [`AsyncConnection::shutting_down`](crate::AsyncConnection::shutting_down).
pub struct ShuttingDown {
    shared: Arc<Shared>,
    /// Its number in the list of those who wait.
    number: Option<u64>,
}

impl ShuttingDown {
    pub(crate) fn new(shared: &Arc<Shared>) -> Self {
        shared.lock().shutdown.is_asked_for = true;
        Self { shared: shared.clone(), number: None }
    }
}

impl Future for ShuttingDown {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        // Cloned before the lock: it is foreign code.
        let waker = context.waker().clone();
        let shared = self.shared.clone();
        let mut state = shared.lock();
        if state.shutdown.has_begun || state.is_over() {
            return Poll::Ready(());
        }
        let list = &mut state.shutdown;
        let number = *self.number.get_or_insert_with(|| {
            list.next_number += 1;
            list.next_number
        });
        let stored = list.waiting.iter_mut().find(|(it, _)| *it == number);
        let Some((_, stored)) = stored else {
            list.waiting.push((number, waker));
            return Poll::Pending;
        };
        let before = std::mem::replace(stored, waker);
        drop(state);
        drop(before);
        Poll::Pending
    }
}

impl Drop for ShuttingDown {
    fn drop(&mut self) {
        let Some(number) = self.number else { return };
        let mut state = self.shared.lock();
        let waiting = &mut state.shutdown.waiting;
        let at = waiting.iter().position(|(it, _)| *it == number);
        let stored = at.map(|at| waiting.swap_remove(at));
        drop(state);
        drop(stored);
    }
}

/// See [`AsyncConnection::closed`](crate::AsyncConnection::closed).
pub struct Closed {
    slot: Arc<Mutex<Slot>>,
    /// Its drop ends the watch.
    _watch: GoneWatch,
}

#[derive(Default)]
struct Slot {
    is_gone: bool,
    waker: Option<Waker>,
}

impl Closed {
    pub(crate) fn new(handle: &Handle) -> Self {
        let slot = Arc::<Mutex<Slot>>::default();
        let told = slot.clone();
        let watch = handle.on_gone(move || {
            let mut slot = lock(&told);
            slot.is_gone = true;
            let waker = slot.waker.take();
            drop(slot);
            if let Some(waker) = waker {
                waker.wake();
            }
        });
        Self { slot, _watch: watch }
    }
}

impl Future for Closed {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let waker = context.waker().clone();
        let mut slot = lock(&self.slot);
        if slot.is_gone {
            return Poll::Ready(());
        }
        let before = slot.waker.replace(waker);
        drop(slot);
        drop(before);
        Poll::Pending
    }
}

fn lock(slot: &Mutex<Slot>) -> MutexGuard<'_, Slot> {
    slot.lock().unwrap_or_else(PoisonError::into_inner)
}

impl fmt::Debug for ShuttingDown {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_tuple("ShuttingDown").field(&self.shared).finish()
    }
}

impl fmt::Debug for Closed {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Closed").finish_non_exhaustive()
    }
}
