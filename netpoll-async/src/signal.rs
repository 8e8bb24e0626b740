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
    waiting: Waiting,
    next_number: u64,
}

/// One waker for each future that was polled, by its number. Mostly there is one future, and a node
/// of the map would be ten times as large.
#[derive(Default)]
struct Waiting {
    one: Option<(u64, Waker)>,
    others: BTreeMap<u64, Waker>,
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
        waiting.one.into_iter().for_each(|(_, waker)| waker.wake());
        waiting.others.into_values().for_each(Waker::wake);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    /// Keeps a waker; returns the one that it kept before for that number.
    fn insert(&mut self, number: u64, waker: Waker) -> Option<Waker> {
        match &mut self.one {
            Some((of, kept)) if *of == number => Some(mem::replace(kept, waker)),
            None if !self.others.contains_key(&number) => {
                self.one = Some((number, waker));
                None
            }
            _ => self.others.insert(number, waker),
        }
    }

    fn remove(&mut self, number: u64) -> Option<Waker> {
        match self.one.take_if(|(of, _)| *of == number) {
            Some((_, waker)) => Some(waker),
            None => self.others.remove(&number),
        }
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
        let kept = self.signal.lock().waiting.remove(number);
        drop(kept); // without the lock
    }
}

impl fmt::Debug for Signalled {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_raised = self.signal.lock().is_raised;
        out.debug_struct("Signalled").field("is_raised", &is_raised).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    use super::*;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn poll(signalled: &mut Signalled, count: &Arc<Count>) -> Poll<()> {
        Pin::new(signalled).poll(&mut Context::from_waker(&count.clone().into()))
    }

    /// Futures come and go in another order than that in which they began to wait.
    #[test]
    fn a_signal_wakes_each_future_that_waits_and_none_that_was_dropped() {
        let signal = Signal::default();
        let counts: Vec<_> = (0..4).map(|_| Arc::new(Count::default())).collect();
        let mut waiting: Vec<_> = counts.iter().map(|_| signal.wait()).collect();
        for (signalled, count) in waiting.iter_mut().zip(&counts) {
            assert!(poll(signalled, count).is_pending());
        }
        waiting.remove(0); // after it the second is polled again, and another one begins
        assert!(poll(&mut waiting[0], &counts[1]).is_pending());
        let late = Arc::new(Count::default());
        let mut last = signal.wait();
        assert!(poll(&mut last, &late).is_pending());
        waiting.remove(1);
        signal.raise();
        let woken: Vec<_> = counts.iter().map(|it| it.0.load(Ordering::Relaxed)).collect();
        assert_eq!((woken, late.0.load(Ordering::Relaxed)), (vec![0, 1, 0, 1], 1));
        assert!(poll(&mut waiting[0], &counts[1]).is_ready() && poll(&mut last, &late).is_ready());
        assert_eq!(counts.iter().map(Arc::strong_count).max(), Some(1), "no waker is kept");
    }
}
