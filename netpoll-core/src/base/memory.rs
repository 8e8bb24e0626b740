//! How much memory the connections of a group hold, and which of them wait when it is too much.
//!
//! ```text
//!   input ───────┐
//!   live slices ─┼─► the connection's account ─┐
//!                │   (held_limit: slices)      ├─► the group's account ◄─ … other connections
//!   output ──────┴─► its backlog's account ────┘   (memory_budget: all)
//! ```
//! A block is charged once, with all its memory, from the time when it is received or queued until
//! its last owner drops it. Foreign memory is charged with its length, in each queue.
//!
//! The policy: a receive offers no more than is left of the budget. Above the budget, a connection
//! that holds more than its share waits; one that holds less may take from a reserve; and one that
//! holds nothing gets a small block, so that short requests are always served. A new connection is
//! refused. Unused blocks in the pool count as well, and are given back first. Incomplete requests
//! may use up the budget and wait for each other, so connections that have waited for long end, one
//! after the other.

use std::time::{Duration, Instant};

use netpoll_buffer::{
    Account, Charge, LinkBuffer, bytes_existing, bytes_stored, share_cache, trim,
};

use crate::base::clock;
use crate::base::limits::Limits;
use crate::base::sync::{AtomicU64, Mutex, Ordering, lock};

/// The reserve above the budget is this fraction of it.
const RESERVE: usize = 16;
/// A receive may always offer this much: the smallest offer of a buffer.
const LEAST: usize = 4 << 10;
/// The largest offer of a buffer.
const LARGEST_OFFER: usize = 256 << 10;
/// The time from one connection that ends because it lacks memory to the next. In between the
/// others find what the first gives back.
const GIVE_UP: Duration = Duration::from_millis(20);

/// The accounts and limits of a group's memory; the module's page has the policy.
#[derive(Debug)]
pub(crate) struct Memory {
    /// Charged only if there is a budget: it is a cache line that all threads write.
    all: Account,
    budget: Option<usize>,
    held_limit: Option<usize>,
    pauses: AtomicU64,
    refusals: AtomicU64,
    /// When a connection last ended because it lacked memory, and how many have.
    gave_up: Mutex<(Option<Instant>, u64)>,
}

/// How many bytes a connection holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Holding {
    /// In blocks that slices of its input keep alive.
    pub(crate) slices: usize,
    /// In all.
    pub(crate) all: usize,
}

/// How much memory the connections of an event loop hold, and how often its limits acted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct MemoryStats {
    /// Bytes that count against `memory_budget`; 0 without a budget, since then nothing is counted.
    pub held: usize,
    /// Receives that `memory_budget` or `held_limit` put off.
    pub pauses: u64,
    /// New connections that `memory_budget` refused.
    pub refusals: u64,
    /// Connections that ended, or had a read fail, because they had waited for memory too long.
    pub gave_up: u64,
}

impl Memory {
    pub(crate) fn new(limits: &Limits) -> Self {
        Self {
            all: Account::new(),
            budget: limits.memory_budget,
            held_limit: limits.held_limit.map(|held| held.max(limits.input_limit)),
            pauses: AtomicU64::new(0),
            refusals: AtomicU64::new(0),
            gave_up: Mutex::new((None, 0)),
        }
    }

    /// The account for a connection's slices; `None` if no limit needs it.
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

    /// The tally for a connection's output; `None` without a budget.
    pub(crate) fn open_tally(&self) -> Option<Tally> {
        self.has_budget()
            .then(|| Tally { blocks: Account::within(&self.all), foreign: self.all.charge(0) })
    }

    /// Whether a connection with `held` bytes in slices may receive, whatever else it holds.
    #[inline]
    pub(crate) fn is_ample(&self, held: usize) -> bool {
        self.budget.is_none() && self.held_limit.is_none_or(|limit| held < limit)
    }

    /// How much a receive may offer, up to `room`. The offer is charged until the returned value is
    /// dropped, so that two receives at one time don't offer the same memory.
    #[inline]
    pub(crate) fn offer(&self, room: usize) -> (usize, Option<Charge>) {
        let Some(budget) = self.budget else { return (room, None) };
        let offer = room.min(self.left(budget).max(LEAST));
        (offer, Some(self.all.charge(offer.min(LARGEST_OFFER))))
    }

    /// Charges the budget with bytes that stand in no buffer.
    pub(crate) fn charge(&self, bytes: usize) -> Charge {
        self.all.charge(bytes)
    }

    /// Counts bytes that are written and not flushed.
    pub(crate) fn count_staged(&self, staged: &mut LinkBuffer) {
        if self.has_budget() {
            staged.charge_added(&self.all);
        }
    }

    /// Whether the budget is used up, so that a copy is worth the memory that it saves.
    pub(crate) fn is_short(&self) -> bool {
        self.budget.is_some_and(|budget| self.left(budget) == 0)
    }

    /// What is left of the budget. Unused blocks of the pool are given back to make room.
    fn left(&self, budget: usize) -> usize {
        let held = self.all.held();
        if bytes_existing() > budget {
            // It counts the blocks of other groups too, so it only says that a look is worth its
            // cost.
            share_cache();
            if bytes_stored() > 0 && held.saturating_add(bytes_stored()) > budget {
                trim();
            }
        }
        budget.saturating_sub(held)
    }

    /// Whether a connection that holds so much may receive; `live` returns the number of
    /// connections.
    pub(crate) fn allows(&self, holding: Holding, live: impl FnOnce() -> usize) -> bool {
        let too_much = self.held_limit.is_some_and(|limit| holding.slices >= limit)
            || self.budget.is_some_and(|budget| {
                self.left(budget) == 0 && !self.is_in_reserve(budget, holding.all, live)
            });
        if too_much && self.pauses.fetch_add(1, Ordering::Relaxed) == 0 {
            // Only the first time, since the counter has the rest; a stall without a line in the
            // log is hard to find.
            log::warn!(
                "a connection is not received from: its slices reached held_limit, or all \
                 connections memory_budget (EventLoop::memory counts how often)"
            );
        }
        !too_much
    }

    /// Whether a connection that holds so much may receive above the budget: it holds nothing, or
    /// less than its share while the reserve lasts.
    fn is_in_reserve(&self, budget: usize, held: usize, live: impl FnOnce() -> usize) -> bool {
        let most = with_reserve(budget);
        held == 0 || (self.all.held() < most && held < most / live().max(1))
    }

    /// Whether a callback that waits for bytes may receive. Since it holds its thread meanwhile, it
    /// may use up the reserve, whatever its share is.
    pub(crate) fn allows_waiting(&self, holding: Holding) -> bool {
        let allows = |budget| {
            self.left(budget) > 0 || self.all.held() < with_reserve(budget) || holding.all == 0
        };
        self.budget.is_none_or(allows)
    }

    /// Whether a connection that has waited for memory since then, for `patience` or longer, is to
    /// end now, so that others go on. Each `true` is counted.
    pub(crate) fn gives_up(&self, since: Instant, patience: Duration) -> bool {
        let now = clock::now();
        if now.saturating_duration_since(since) < patience {
            return false;
        }
        let (last, count) = &mut *lock(&self.gave_up);
        let is_next = last.is_none_or(|last| now.saturating_duration_since(last) >= GIVE_UP);
        if is_next {
            (*last, *count) = (Some(now), *count + 1);
        }
        is_next
    }

    /// Whether another connection may come. Each `false` is counted.
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
            gave_up: lock(&self.gave_up).1,
        }
    }
}

/// The bytes of one buffer, to which bytes are appended and of which others are consumed.
#[derive(Debug)]
pub(crate) struct Tally {
    blocks: Account,
    foreign: Charge,
}

impl Tally {
    /// Counts bytes that are to be appended.
    pub(crate) fn add(&self, bytes: &mut LinkBuffer) {
        bytes.charge(&self.blocks);
    }

    /// Counts bytes that were written to the end of `bytes`, and the foreign memory left in it.
    pub(crate) fn update(&mut self, bytes: &mut LinkBuffer) {
        bytes.charge_added(&self.blocks);
        self.foreign.resize(bytes.linked());
    }

    /// The bytes that were counted and are still held.
    pub(crate) fn held(&self) -> usize {
        self.blocks.held() + self.foreign.bytes()
    }
}

fn with_reserve(budget: usize) -> usize {
    budget.saturating_add(budget / RESERVE)
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
        let account = memory.open_account().expect("an account");
        let holds = |all| Holding { slices: 0, all };
        let mut others = account.charge(999);
        assert!(memory.admits() && memory.allows(holds(900), || 4));
        let (offer, reserved) = memory.offer(1 << 20);
        assert_eq!(offer, LEAST, "what is left is less");
        assert_eq!(memory.stats().held, 999 + LEAST, "no other receive is offered the same");
        drop(reserved);
        others.resize(1001);
        assert!(!memory.admits());
        assert!(!memory.allows(holds(265), || 4), "a large one waits");
        assert!(memory.allows(holds(264), || 4), "a small one need not");
        assert!(memory.allows_waiting(holds(900)), "nor one that holds a thread");
        others.resize(1062);
        assert!(!memory.allows(holds(1), || 4), "the reserve is used up");
        assert!(memory.allows(holds(0), || 4), "one that holds nothing has a small block");
        assert!(!memory.allows_waiting(holds(1)) && memory.allows_waiting(holds(0)));
        drop(others);
        assert!(memory.admits() && memory.allows(holds(900), || 4));
        assert_eq!(memory.stats(), MemoryStats { held: 0, pauses: 2, refusals: 1, gave_up: 0 });
    }

    #[test]
    fn what_is_queued_counts_once_if_others_hold_it_too() {
        let memory = Memory::new(&Limits { memory_budget: Some(1 << 30), ..Limits::default() });
        let input = memory.open_account().expect("an account");
        let mut tally = memory.open_tally().expect("there is a budget");
        let (mut queue, mut received) = (LinkBuffer::new(), LinkBuffer::new());
        received.write_bytes(&[1; 4096]);
        received.charge(&input);
        received.write_bytes(&[1; 4096]);
        tally.add(&mut received);
        queue.append(received);
        queue.write_shared(vec![0; 10_000].into());
        queue.write_bytes(&[1; 100]);
        tally.update(&mut queue);
        let written = 64 << 10; // behind so much a small write takes a large block
        assert_eq!((input.held(), tally.held()), (4096, 4096 + 10_000 + written));
        assert_eq!(memory.stats().held, 2 * 4096 + 10_000 + written);
        queue.flush();
        queue.consume(8192 + 10_000);
        tally.update(&mut queue);
        assert_eq!((memory.stats().held, tally.held()), (written, written));
        drop((queue, tally));
        assert_eq!(memory.stats().held, 0);
    }

    #[test]
    fn those_that_have_waited_for_memory_end_one_after_the_other() {
        let memory = Memory::new(&Limits::default());
        let since = Instant::now();
        assert!(!memory.gives_up(since, Duration::from_secs(3600)));
        let first = Instant::now();
        assert!(memory.gives_up(since, Duration::ZERO));
        while !memory.gives_up(since, Duration::ZERO) {}
        assert!(first.elapsed() >= GIVE_UP, "the second waits until the first is gone");
        assert_eq!(memory.stats().gave_up, 2);
    }

    #[test]
    fn slices_that_are_kept_stop_their_own_connection() {
        let memory = Memory::new(&Limits { held_limit: Some(2 << 20), ..Limits::default() });
        assert!(memory.open_tally().is_none(), "without a budget nothing is counted for all");
        let holds = |slices| Holding { slices, all: slices };
        assert!(memory.allows(holds((2 << 20) - 1), || 1));
        assert!(!memory.allows(holds(2 << 20), || 1));
        let free = Memory::new(&Limits { held_limit: None, ..Limits::default() });
        assert!(free.open_account().is_none());
        assert!(free.allows(holds(usize::MAX), || 1));
    }
}
