//! One look of the monitor at all batons: what reactors let it know, and what it finds.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::sighting::{Look, Sighting, Verdict};
use crate::base::stats::Cause;
use crate::base::sync::{AtomicBool, AtomicU32, Ordering};
use crate::pure::baton::{Baton, Epoch};
use crate::threads::asleep::StateReader;

/// The threads that may take a baton over.
pub(crate) trait SpareThreads<T>: Send + Sync + 'static {
    /// Has the baton taken over if it still lies in that epoch, where it has `stalled` for so long;
    /// says whether it was.
    fn take_over(
        &self,
        baton: &Arc<Baton<T>>,
        epoch: Epoch,
        cause: Cause,
        stalled: Duration,
    ) -> bool;

    /// Makes sure that the next take-over need not start a thread.
    fn keep_one_ready(&self);
}

/// What a reactor lets the monitor know.
#[derive(Debug, Default)]
pub(crate) struct Activity {
    /// It has run no callback since it last waited for events.
    idle: AtomicBool,
    /// The number of the thread that holds its core, or put it down last.
    holder: AtomicU32,
}

impl Activity {
    /// Whether the reactor has no callback that could block. A reactor that is not idle any more
    /// wakes the monitor before its callback.
    pub(crate) fn set_idle(&self, idle: bool) {
        self.idle.store(idle, Ordering::SeqCst);
    }

    pub(crate) fn set_holder(&self, number: i32) {
        self.holder.store(number.cast_unsigned(), Ordering::Relaxed);
    }

    fn is_idle(&self) -> bool {
        self.idle.load(Ordering::SeqCst)
    }

    pub(crate) fn holder(&self) -> i32 {
        self.holder.load(Ordering::Relaxed).cast_signed()
    }
}

/// All batons that are watched. Only the monitor's thread has them.
pub(super) struct All<T> {
    watched: Vec<Watched<T>>,
    /// The state of a thread could not be read, and the log says so.
    complained: bool,
}

/// A baton that is watched, and what was seen of it.
pub(super) struct Watched<T> {
    baton: Arc<Baton<T>>,
    activity: Arc<Activity>,
    seen: Option<Sighting>,
    /// The epoch that it was in, or had behind it, at the last look.
    epochs: u64,
    /// Keeps the file of the thread that was found in a callback last; none while the monitor
    /// sleeps.
    state: StateReader,
}

/// What one look has found.
#[derive(Default)]
pub(super) struct Found {
    pub(super) taken: u32,
    /// When to look again to be sure of what was seen.
    pub(super) soon: Option<Duration>,
    /// Nothing has happened since the last look.
    pub(super) quiet: bool,
    /// Why the state of a thread can't be read.
    unreadable: Option<io::Error>,
}

impl<T> All<T> {
    pub(super) fn new() -> Self {
        Self { watched: Vec::new(), complained: false }
    }

    /// Adds batons. One that is watched already was enrolled for a lower threshold.
    pub(super) fn add(&mut self, added: impl Iterator<Item = Watched<T>>) {
        for each in added {
            if !self.watched.iter().any(|it| Arc::ptr_eq(&it.baton, &each.baton)) {
                self.watched.push(each);
            }
        }
    }

    pub(super) fn look(&mut self, threads: &impl SpareThreads<T>, look: Look) -> Found {
        let mut found = Found { quiet: true, ..Found::default() };
        self.watched.retain_mut(|each| {
            let gone = each.baton.is_gone();
            if !gone {
                each.look(threads, look, &mut found);
            }
            !gone
        });
        if let Some(error) = found.unreadable.take()
            && !std::mem::replace(&mut self.complained, true)
        {
            log::warn!(
                "cannot read in /proc whether a thread sleeps: {error}; its clock tells, so that \
                 a callback that waits for a processor may be taken for one that blocks"
            );
        }
        found
    }

    pub(super) fn are_idle(&self) -> bool {
        self.watched.iter().all(Watched::is_idle)
    }

    /// The monitor looks at no thread for a while.
    pub(super) fn close_files(&mut self) {
        for each in &mut self.watched {
            each.state.close();
        }
    }
}

impl<T> Watched<T> {
    pub(super) fn new(baton: Arc<Baton<T>>, activity: Arc<Activity>) -> Self {
        Self { baton, activity, seen: None, epochs: 0, state: StateReader::default() }
    }

    fn is_idle(&self) -> bool {
        self.activity.is_idle() && self.baton.epoch().is_none()
    }

    fn look(&mut self, threads: &impl SpareThreads<T>, look: Look, found: &mut Found) {
        let epochs = self.baton.epochs();
        found.quiet &= epochs == self.epochs && self.is_idle();
        self.epochs = epochs;
        let Some(epoch) = self.baton.epoch() else {
            self.seen = None;
            return;
        };
        let mut seen = match self.seen.take() {
            Some(seen) if seen.epoch == epoch => seen,
            // A busy reactor is in some callback at each look: a second look is only for what the
            // first has seen, or one look would follow the other without end.
            _ if !look.regular => return,
            _ => Sighting::new(epoch, look.now),
        };
        let holder = self.activity.holder();
        let is_asleep = self.state.is_asleep(holder);
        let verdict = seen.judge(look, holder, is_asleep.as_ref().ok().copied());
        found.unreadable = found.unreadable.take().or(is_asleep.err());
        let stalled = look.now.duration_since(seen.since);
        self.seen = Some(seen);
        match verdict {
            Verdict::Take(cause) => {
                let taken = threads.take_over(&self.baton, epoch, cause, stalled);
                found.taken += u32::from(taken);
            }
            Verdict::LookAgain(soon) => {
                found.soon = Some(found.soon.map_or(soon, |other| other.min(soon)));
            }
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::time::Instant;

    use super::super::COMPUTING;
    use super::super::cadence::SHORTEST;
    use super::*;
    use crate::sys;

    struct NoThreads;

    impl SpareThreads<()> for NoThreads {
        fn take_over(&self, _: &Arc<Baton<()>>, _: Epoch, _: Cause, _: Duration) -> bool {
            false
        }

        fn keep_one_ready(&self) {}
    }

    #[test]
    fn a_busy_reactor_is_looked_at_twice_and_not_without_end() {
        let (held, activity) = (Baton::held(()), Arc::<Activity>::default());
        activity.set_holder(sys::thread_number()); // this thread, which runs
        let mut watched = Watched::new(held.baton().clone(), activity);
        let (now, threshold) = (Instant::now(), SHORTEST);
        let mut look = |regular| {
            let mut found = Found::default();
            let look = Look { now, regular, often: false, threshold };
            watched.look(&NoThreads, look, &mut found);
            found.soon
        };
        let enough = Some(threshold * COMPUTING);
        let lying = held.put_down();
        assert_eq!(look(true), enough); // is it long, or only under way?
        assert_eq!(look(false), enough); // the same callback, not yet long
        let lying = lying.take_up().unwrap().put_down();
        assert_eq!(look(false), None); // another: it was only under way
        assert_eq!(look(true), enough);
        drop(lying);
    }
}
