//! What the monitor knows of a thread that is inside a callback, and what follows from it.

use std::time::{Duration, Instant};

use crate::base::stats::Cause;
use crate::pure::baton::Epoch;
use crate::sys;
use crate::threads::asleep::{Clock, ThreadClock};

/// A callback that computes may go on for so many thresholds: to take its core costs two changes of
/// threads, and where all processors are busy gains nothing.
pub(crate) const COMPUTING: u32 = 10;

/// When, and for what, the monitor looks.
#[derive(Clone, Copy)]
pub(super) struct Look {
    pub(super) now: Instant,
    /// Its time had come. Any other look is only for what an earlier one has seen.
    pub(super) regular: bool,
    /// Callbacks have blocked just now, and more than one.
    pub(super) often: bool,
    pub(super) threshold: Duration,
}

/// A baton that lay there in that epoch.
#[derive(Clone, Copy)]
pub(super) struct Sighting {
    pub(super) epoch: Epoch,
    pub(super) since: Instant,
    /// What its thread had computed when it was first found awake.
    computed: Option<Duration>,
    /// Used only where the state of its thread can't be read.
    clock: ThreadClock,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Take(Cause),
    LookAgain(Duration),
}

impl Sighting {
    pub(super) fn new(epoch: Epoch, since: Instant) -> Self {
        Self { epoch, since, computed: None, clock: ThreadClock::default() }
    }

    /// What has to be done about a thread that is in the same callback since it was first seen;
    /// whether it sleeps is not always known.
    pub(super) fn judge(&mut self, look: Look, holder: i32, is_asleep: Option<bool>) -> Verdict {
        let stalled = look.now.duration_since(self.since);
        if is_asleep == Some(true) {
            let rest = look.threshold.saturating_sub(stalled);
            let is_long = rest.is_zero() || look.often;
            return if is_long { Verdict::Take(Cause::Blocked) } else { Verdict::LookAgain(rest) };
        }
        let enough = look.threshold.saturating_mul(COMPUTING);
        let computed = sys::thread_time(holder);
        if is_asleep.is_none()
            && let Some(verdict) = self.judge_by_clock(look, computed, enough)
        {
            return verdict;
        }
        // It computes, or waits for a processor, which may take long and is no reason.
        let computed = computed.unwrap_or_default();
        let before = *self.computed.get_or_insert(computed);
        if computed.saturating_sub(before) >= enough {
            return Verdict::Take(Cause::Computed);
        }
        // It may block yet; the longer it did not, the later it is looked at again.
        Verdict::LookAgain((stalled / 2).max(enough))
    }

    /// The verdict on a thread whose clock stands still; none where it goes on. A thread that
    /// waits for a processor may be taken for one that sleeps: then its core is taken though that
    /// helps no connection. Where clocks are denied as well, ten thresholds in one callback are
    /// enough.
    fn judge_by_clock(
        &mut self,
        look: Look,
        computed: Option<Duration>,
        enough: Duration,
    ) -> Option<Verdict> {
        let (since, rest) = match self.clock.look(computed, look.now) {
            Clock::Hidden => (self.since, enough),
            Clock::Still(since) => (since, look.threshold),
            Clock::Unknown => return Some(Verdict::LookAgain(look.threshold)),
            Clock::Runs => return None,
        };
        let rest = rest.saturating_sub(look.now.duration_since(since));
        let is_long = rest.is_zero();
        Some(if is_long { Verdict::Take(Cause::Blocked) } else { Verdict::LookAgain(rest) })
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::sync::mpsc;
    use std::thread::{self, JoinHandle};

    use super::super::cadence::SHORTEST;
    use super::*;
    use crate::pure::baton::Baton;
    use crate::sys::StateFile;

    fn look(now: Instant, regular: bool) -> Look {
        Look { now, regular, often: false, threshold: SHORTEST }
    }

    /// A thread that sleeps until the sender is dropped, and its number.
    fn sleeper() -> (JoinHandle<()>, mpsc::Sender<()>, i32) {
        let (sender, number) = mpsc::channel();
        let (wake, asleep) = mpsc::channel::<()>();
        let sleeper = thread::spawn(move || {
            let _ = sender.send(sys::thread_number());
            let _ = asleep.recv();
        });
        let holder = number.recv().expect("its number");
        let file = StateFile::open(holder).expect("procfs");
        while !file.is_asleep().expect("procfs") {
            thread::yield_now();
        }
        (sleeper, wake, holder)
    }

    #[test]
    fn a_thread_that_sleeps_loses_its_core_after_a_threshold_or_at_once_where_many_do() {
        let (sleeper, wake, holder) = sleeper();
        let (now, threshold) = (Instant::now(), SHORTEST);
        let mut seen = Sighting::new(Baton::held(()).put_down().epoch(), now);
        let mut judge = |at: Look| seen.judge(at, holder, Some(true));
        assert_eq!(judge(look(now, true)), Verdict::LookAgain(threshold));
        let later = now + threshold / 5;
        assert_eq!(judge(look(later, false)), Verdict::LookAgain(threshold * 4 / 5));
        let often = Look { often: true, ..look(now, true) };
        assert_eq!(judge(often), Verdict::Take(Cause::Blocked));
        assert_eq!(judge(look(now + threshold, false)), Verdict::Take(Cause::Blocked));
        drop(wake);
        sleeper.join().unwrap();
    }

    #[test]
    fn where_nothing_shows_its_state_the_clock_of_a_thread_does() {
        let (sleeper, wake, holder) = sleeper();
        let (now, threshold) = (Instant::now(), SHORTEST);
        let epoch = Baton::held(()).put_down().epoch();
        let mut seen = Sighting::new(epoch, now);
        let mut judge = |at: Look| seen.judge(at, holder, None);
        assert_eq!(judge(look(now, true)), Verdict::LookAgain(threshold));
        let later = now + threshold / 5;
        assert_eq!(judge(look(later, false)), Verdict::LookAgain(threshold * 4 / 5));
        assert_eq!(judge(look(now + threshold, false)), Verdict::Take(Cause::Blocked));
        drop(wake);
        sleeper.join().unwrap();

        // This thread computes from one look to the next, which are hours apart.
        let hour = Duration::from_secs(3600);
        let mut seen = Sighting::new(epoch, now);
        let mut judge = |at: Look| seen.judge(at, sys::thread_number(), None);
        assert_eq!(judge(look(now, true)), Verdict::LookAgain(threshold));
        assert_eq!(judge(look(now + hour, true)), Verdict::LookAgain(hour / 2));
        let until = sys::own_time() + threshold * (COMPUTING + 1);
        while sys::own_time() < until {}
        assert_eq!(judge(look(now + 2 * hour, true)), Verdict::Take(Cause::Computed));

        // There is no such thread, and no such clock: numbers end at 2^22.
        let mut seen = Sighting::new(epoch, now);
        let mut judge = |at: Look| seen.judge(at, (1 << 22) + 1, None);
        let enough = threshold * COMPUTING;
        assert_eq!(judge(look(now, true)), Verdict::LookAgain(enough));
        assert_eq!(judge(look(now + enough, true)), Verdict::Take(Cause::Blocked));
    }
}
