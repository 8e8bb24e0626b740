//! What a reactor has to do later. It has no clock: it is given the time.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Things that fall due, in order; those for the same instant in the order of their arming.
///
/// Arming and firing cost O(log n). Nothing is cancelled: what no longer matters is found to be
/// stale by its token when it fires.
#[derive(Debug)]
pub(crate) struct Timers<T> {
    due: BTreeMap<(Instant, u64), T>,
    armed: u64,
}

impl<T> Timers<T> {
    pub(crate) fn new() -> Self {
        Self { due: BTreeMap::new(), armed: 0 }
    }

    pub(crate) fn arm(&mut self, at: Instant, what: T) {
        self.armed += 1;
        self.due.insert((at, self.armed), what);
    }

    /// The next thing that is due at `now`.
    pub(crate) fn fire(&mut self, now: Instant) -> Option<T> {
        let first = self.due.first_entry()?;
        if first.key().0 <= now { Some(first.remove()) } else { None }
    }

    /// How long to wait for the next thing; `None` while there is none.
    pub(crate) fn wait(&self, now: impl FnOnce() -> Instant) -> Option<Duration> {
        let ((at, _), _) = self.due.first_key_value()?;
        Some(at.saturating_duration_since(now()))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.due.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fires_in_order_of_time_then_of_arming_and_never_early() {
        let start = Instant::now();
        let after = |millis| start + Duration::from_millis(millis);
        let mut timers = Timers::new();
        timers.arm(after(20), 'c');
        timers.arm(after(10), 'a');
        timers.arm(after(10), 'b');
        assert_eq!(timers.wait(|| start), Some(Duration::from_millis(10)));
        assert_eq!(timers.fire(after(9)), None);
        assert_eq!(timers.fire(after(10)), Some('a'));
        assert_eq!(timers.fire(after(3_600_000)), Some('b'));
        assert_eq!(timers.fire(after(3_600_000)), Some('c'));
        assert!(timers.is_empty());
        assert_eq!(timers.wait(|| start), None);
    }
}
