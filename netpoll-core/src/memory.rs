//! What the connections of a group hold of memory, and who has to wait when it is too much.
//!
//! ```text
//!   unread input ─┐
//!   live slices ──┼─► the connection's account ─► the group's account ◄─ … other connections
//!   unsent output ┘    (held_limit: slices)        (memory_budget: all)
//! ```
//! The policy, above the budget: who holds more than the average is not received from, and is
//! looked at again after a while; who comes anew is refused. An account counts, it never blocks,
//! so a limit may be passed by one receive of each connection.

use netpoll_buffer::{Account, Charge};

use crate::limits::Limits;
use crate::sync::{AtomicU64, Ordering};

/// See the module.
#[derive(Debug)]
pub(crate) struct Memory {
    /// Charged only where there is a budget: it is a cache line that all threads write.
    all: Account,
    budget: Option<usize>,
    held_limit: Option<usize>,
    pauses: AtomicU64,
    refusals: AtomicU64,
}

/// What the connections of an event loop hold, and what became of the limits on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct MemoryStats {
    /// Bytes that count against `memory_budget`; 0 where there is none, for then nobody counts.
    pub held: usize,
    /// Receives that were put off, by `memory_budget` or by `held_limit`.
    pub pauses: u64,
    /// Connections that were refused by `memory_budget`.
    pub refusals: u64,
}

impl Memory {
    pub(crate) fn new(limits: &Limits) -> Self {
        Self {
            all: Account::new(),
            budget: limits.memory_budget,
            held_limit: limits.held_limit.map(|held| held.max(limits.input_limit)),
            pauses: AtomicU64::new(0),
            refusals: AtomicU64::new(0),
        }
    }

    /// The account for a connection's slices, where anybody wants to know.
    pub(crate) fn open_account(&self) -> Option<Account> {
        match (self.budget, self.held_limit) {
            (Some(_), _) => Some(Account::within(&self.all)),
            (None, Some(_)) => Some(Account::new()),
            (None, None) => None,
        }
    }

    #[inline]
    pub(crate) fn has_budget(&self) -> bool {
        self.budget.is_some()
    }

    /// A charge for a connection's queues, where there is a budget.
    pub(crate) fn open_charge(&self) -> Option<Charge> {
        self.budget.is_some().then(|| self.all.charge(0))
    }

    /// Whether any connection may receive that has `held` in slices, whatever else it holds.
    #[inline]
    pub(crate) fn is_ample(&self, held: usize) -> bool {
        self.budget.is_none() && self.held_limit.is_none_or(|limit| held < limit)
    }

    /// Whether a connection may receive that has `held` in slices; `all_of_it` counts what it
    /// holds in all, and `live` the connections there are.
    pub(crate) fn allows(
        &self,
        held: usize,
        all_of_it: impl FnOnce() -> usize,
        live: impl FnOnce() -> usize,
    ) -> bool {
        let too_much = self.held_limit.is_some_and(|limit| held >= limit)
            || self.budget.is_some_and(|budget| {
                self.all.held() > budget && all_of_it() > budget / live().max(1)
            });
        if too_much && self.pauses.fetch_add(1, Ordering::Relaxed) == 0 {
            // Once: the counter tells how often, and a stall without a word is hard to find.
            log::warn!(
                "a connection is not received from: its slices reached held_limit, or all \
                 connections memory_budget (EventLoop::memory counts how often)"
            );
        }
        !too_much
    }

    /// Whether there is room for another connection. A no is counted.
    pub(crate) fn admits(&self) -> bool {
        let admits = self.budget.is_none_or(|budget| self.all.held() <= budget);
        if !admits {
            self.refusals.fetch_add(1, Ordering::Relaxed);
        }
        admits
    }

    pub(crate) fn stats(&self) -> MemoryStats {
        MemoryStats {
            held: self.all.held(),
            pauses: self.pauses.load(Ordering::Relaxed),
            refusals: self.refusals.load(Ordering::Relaxed),
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn above_the_budget_those_above_the_average_wait_and_newcomers_are_refused() {
        let memory = Memory::new(&Limits {
            memory_budget: Some(1000),
            input_limit: 500,
            ..Limits::default()
        });
        let mut queue = memory.open_charge().expect("there is a budget");
        let account = memory.open_account().expect("and an account");
        queue.resize(900);
        let slices = account.charge(100);
        assert!(memory.admits() && memory.allows(0, || 900, || 4));
        queue.resize(901);
        assert!(!memory.admits());
        assert!(!memory.allows(0, || 901, || 4), "a large one waits");
        assert!(memory.allows(0, || 250, || 4), "a small one need not");
        drop(slices);
        assert!(memory.admits() && memory.allows(0, || 901, || 4));
        assert_eq!(memory.stats(), MemoryStats { held: 901, pauses: 1, refusals: 1 });
    }

    #[test]
    fn slices_that_are_kept_stop_their_own_connection() {
        let memory = Memory::new(&Limits { held_limit: Some(2 << 20), ..Limits::default() });
        assert!(memory.open_charge().is_none(), "without a budget nobody counts for all");
        assert!(memory.allows((2 << 20) - 1, || 0, || 1));
        assert!(!memory.allows(2 << 20, || 0, || 1));
        let free = Memory::new(&Limits { held_limit: None, ..Limits::default() });
        assert!(free.open_account().is_none());
        assert!(free.allows(usize::MAX, || 0, || 1));
    }
}
