//! A signal that is raised once, and the futures that wait for it.

use std::collections::BTreeMap;
use std::fmt;
use std::mem;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

/// See the module.
#[derive(Clone, Default)]
pub(crate) struct Signal(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    is_raised: bool,
    /// One waker for each future that was polled, by its number.
    waiting: BTreeMap<u64, Waker>,
    next_number: u64,
}

/// A future that is ready once a signal was raised.
pub struct Signalled {
    signal: Signal,
    /// Its number among those that wait.
    number: Option<u64>,
}

impl Signal {
    /// A future that waits for it.
    pub(crate) fn wait(&self) -> Signalled {
        Signalled { signal: self.clone(), number: None }
    }

    /// Wakes all that wait, and those that come are ready.
    pub(crate) fn raise(&self) {
        let mut state = self.lock();
        state.is_raised = true;
        let waiting = mem::take(&mut state.waiting);
        drop(state);
        waiting.into_values().for_each(Waker::wake);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Future for Signalled {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        // Cloned before the lock: it is foreign code.
        let waker = context.waker().clone();
        let signal = self.signal.clone();
        let mut state = signal.lock();
        if state.is_raised {
            return Poll::Ready(());
        }
        let number = *self.number.get_or_insert_with(|| {
            state.next_number += 1;
            state.next_number
        });
        let before = state.waiting.insert(number, waker);
        drop(state);
        drop(before);
        Poll::Pending
    }
}

impl Drop for Signalled {
    fn drop(&mut self) {
        let Some(number) = self.number else { return };
        let kept = self.signal.lock().waiting.remove(&number);
        drop(kept); // without the lock
    }
}

impl fmt::Debug for Signalled {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_raised = self.signal.lock().is_raised;
        out.debug_struct("Signalled").field("is_raised", &is_raised).finish_non_exhaustive()
    }
}
