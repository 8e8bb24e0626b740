//! What the connections of a group hold of memory, and who has to wait when it is too much.
//!
//! ```text
//!   input ───────┐
//!   live slices ─┼─► the connection's account ─┐
//!                │   (held_limit: slices)      ├─► the group's account ◄─ … other connections
//!   output ──────┴─► its backlog's account ────┘   (memory_budget: all)
//! ```
//! Blocks are charged, each once with all its memory, from when they are received or queued until
//! their last owner lets go; foreign memory is charged with its length, in each queue.
//!
//! The policy: a receive offers no more than is left of the budget. Above it, who holds more than
//! its share waits, who holds less may take from a reserve, and who holds nothing gets a small
//! block, so that short requests are served whatever the others do. Who comes anew is refused. What
//! rests in the pool counts as well, and is what is given back first. Parts of requests may use up
//! the budget, and wait for each other: so who has waited for long ends, one after the other.

use std::time::{Duration, Instant};

use netpoll_buffer::{
    Account, Charge, LinkBuffer, bytes_existing, bytes_stored, share_cache, trim,
};

use crate::base::clock;
use crate::base::limits::Limits;
use crate::base::sync::{AtomicU64, Mutex, Ordering, lock};

/// The reserve above the budget is such a part of it.
const RESERVE: usize = 16;
/// What may be received whatever is left: the smallest offer of a buffer.
const LEAST: usize = 4 << 10;
/// Its largest.
const LARGEST_OFFER: usize = 256 << 10;
/// How often one of those that wait for memory may end for the want of it. So the others find what
/// that one gives back.
const GIVE_UP: Duration = Duration::from_millis(20);

/// See the module.
#[derive(Debug)]
pub(crate) struct Memory {
    /// Charged only where there is a budget: it is a cache line that all threads write.
    all: Account,
    budget: Option<usize>,
    held_limit: Option<usize>,
    pauses: AtomicU64,
    refusals: AtomicU64,
    /// When one last ended for the want of memory, and how many have.
    gave_up: Mutex<(Option<Instant>, u64)>,
}

/// What a connection holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Holding {
    /// In blocks that slices of its input keep alive.
    pub(crate) slices: usize,
    /// In all.
    pub(crate) all: usize,
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
    /// Connections that ended, or whose read failed, since they had waited for memory for long.
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

    /// What counts a connection's output, where there is a budget.
    pub(crate) fn open_tally(&self) -> Option<Tally> {
        self.has_budget()
            .then(|| Tally { blocks: Account::within(&self.all), foreign: self.all.charge(0) })
    }

    /// Whether any connection may receive that has `held` in slices, whatever else it holds.
    #[inline]
    pub(crate) fn is_ample(&self, held: usize) -> bool {
        self.budget.is_none() && self.held_limit.is_none_or(|limit| held < limit)
    }

    /// How much a receive may offer, up to `room`; what it does is charged until the returned value
    /// is dropped, so that receives at the same time don't offer the same.
    #[inline]
    pub(crate) fn offer(&self, room: usize) -> (usize, Option<Charge>) {
        let Some(budget) = self.budget else { return (room, None) };
        let offer = room.min(self.left(budget).max(LEAST));
        (offer, Some(self.all.charge(offer.min(LARGEST_OFFER))))
    }

    /// Counts what is written and not flushed.
    pub(crate) fn count_staged(&self, staged: &LinkBuffer) {
        if self.has_budget() {
            staged.charge_added(&self.all);
        }
    }

    /// Whether more is held than the budget, so that memory is worth a copy.
    pub(crate) fn is_short(&self) -> bool {
        self.budget.is_some_and(|budget| self.left(budget) == 0)
    }

    /// What is left of the budget. What rests in the pool makes room for it.
    fn left(&self, budget: usize) -> usize {
        let held = self.all.held();
        if bytes_existing() > budget {
            // What others hold is in it, so it only says that a look is worth its while.
            share_cache();
            if bytes_stored() > 0 && held.saturating_add(bytes_stored()) > budget {
                trim();
            }
        }
        budget.saturating_sub(held)
    }

    /// Whether a connection may receive that holds so much; `live` counts the connections there
    /// are.
    pub(crate) fn allows(&self, holding: Holding, live: impl FnOnce() -> usize) -> bool {
        let too_much = self.held_limit.is_some_and(|limit| holding.slices >= limit)
            || self.budget.is_some_and(|budget| {
                self.left(budget) == 0 && !self.is_in_reserve(budget, holding.all, live)
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

    /// Whether a connection that holds so much may receive above the budget.
    fn is_in_reserve(&self, budget: usize, held: usize, live: impl FnOnce() -> usize) -> bool {
        let most = with_reserve(budget);
        held == 0 || (self.all.held() < most && held < most / live().max(1))
    }

    /// Whether a callback may receive that waits for bytes, and holds its thread meanwhile: it may
    /// use up the reserve, whatever its share is.
    pub(crate) fn allows_waiting(&self, holding: Holding) -> bool {
        let allows = |budget| {
            self.left(budget) > 0 || self.all.held() < with_reserve(budget) || holding.all == 0
        };
        self.budget.is_none_or(allows)
    }

    /// Whether one that has waited for memory since then, for `patience` and more, is to end now,
    /// so that others go on. A yes is counted.
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
            gave_up: lock(&self.gave_up).1,
        }
    }
}

fn with_reserve(budget: usize) -> usize {
    budget.saturating_add(budget / RESERVE)
}

/// Counts a buffer whose bytes are appended and consumed.
#[derive(Debug)]
pub(crate) struct Tally {
    blocks: Account,
    foreign: Charge,
}

impl Tally {
    /// Counts what is to be appended.
    pub(crate) fn add(&self, bytes: &LinkBuffer) {
        bytes.charge(&self.blocks);
    }

    /// Counts what was written to the end of `bytes`, and what foreign memory is left in it.
    pub(crate) fn update(&mut self, bytes: &LinkBuffer) {
        bytes.charge_added(&self.blocks);
        self.foreign.resize(bytes.linked());
    }

    /// What it has counted and is held still.
    pub(crate) fn held(&self) -> usize {
        self.blocks.held() + self.foreign.bytes()
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
        let account = memory.open_account().expect("an account");
        let holds = |all| Holding { slices: 0, all };
        let mut others = account.charge(999);
        assert!(memory.admits() && memory.allows(holds(900), || 4));
        let (offer, reserved) = memory.offer(1 << 20);
        assert_eq!(offer, LEAST, "what is left is less");
        assert_eq!(memory.stats().held, 999 + LEAST, "nobody else is offered the same");
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
    fn what_is_queued_counts_once_whoever_else_holds_it() {
        let memory = Memory::new(&Limits { memory_budget: Some(1 << 30), ..Limits::default() });
        let input = memory.open_account().expect("an account");
        let mut tally = memory.open_tally().expect("there is a budget");
        let (mut queue, mut received) = (LinkBuffer::new(), LinkBuffer::new());
        received.write_bytes(&[1; 4096]);
        received.charge(&input);
        received.write_bytes(&[1; 4096]);
        tally.add(&received);
        queue.append(received);
        queue.write_shared(vec![0; 10_000].into());
        queue.write_bytes(&[1; 100]);
        tally.update(&queue);
        let written = 64 << 10; // behind so much a small write takes a large block
        assert_eq!((input.held(), tally.held()), (4096, 4096 + 10_000 + written));
        assert_eq!(memory.stats().held, 2 * 4096 + 10_000 + written);
        queue.flush();
        queue.consume(8192 + 10_000);
        tally.update(&queue);
        assert_eq!((memory.stats().held, tally.held()), (written, written));
        drop((queue, tally));
        assert_eq!(memory.stats().held, 0);
    }

    #[test]
    fn those_that_have_waited_for_memory_end_one_after_the_other() {
        let memory = Memory::new(&Limits::default());
        let since = Instant::now();
        assert!(!memory.gives_up(since, Duration::from_secs(3600)));
        assert!(memory.gives_up(since, Duration::ZERO));
        let first = Instant::now();
        while !memory.gives_up(since, Duration::ZERO) {}
        assert!(first.elapsed() >= GIVE_UP / 2, "the second waits until the first is gone");
        assert_eq!(memory.stats().gave_up, 2);
    }

    #[test]
    fn slices_that_are_kept_stop_their_own_connection() {
        let memory = Memory::new(&Limits { held_limit: Some(2 << 20), ..Limits::default() });
        assert!(memory.open_tally().is_none(), "without a budget nobody counts for all");
        let holds = |slices| Holding { slices, all: slices };
        assert!(memory.allows(holds((2 << 20) - 1), || 1));
        assert!(!memory.allows(holds(2 << 20), || 1));
        let free = Memory::new(&Limits { held_limit: None, ..Limits::default() });
        assert!(free.open_account().is_none());
        assert!(free.allows(holds(usize::MAX), || 1));
    }
}
