//! Which loop a new connection goes to.

use crate::sync::{AtomicUsize, Ordering};

/// How new connections spread over the loops.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum LoadBalance {
    /// Each loop in its turn: after any number of picks the loops differ by one at most.
    #[default]
    RoundRobin,
}

/// A load balance at work.
#[derive(Debug)]
pub(crate) struct Balancer {
    kind: LoadBalance,
    picks: AtomicUsize,
}

impl Balancer {
    pub(crate) fn new(kind: LoadBalance) -> Self {
        Self { kind, picks: AtomicUsize::new(0) }
    }

    /// One of `count` loops; `count` is not 0.
    pub(crate) fn pick(&self, count: usize) -> usize {
        match self.kind {
            LoadBalance::RoundRobin => self.picks.fetch_add(1, Ordering::Relaxed) % count,
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn round_robin_differs_by_one_at_most() {
        let balancer = Balancer::new(LoadBalance::RoundRobin);
        let mut counts = [0; 3];
        (0..10_000).for_each(|_| counts[balancer.pick(3)] += 1);
        assert_eq!(counts, [3334, 3333, 3333]);
    }
}
