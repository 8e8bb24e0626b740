//! The waits of callbacks in our own calls, and which of them end when threads run out.
//!
//! A peer that sends half a request, or takes no answer, holds the thread of a callback that waits
//! for it. Where callbacks wait for threads, and no further thread can be started, the waits that
//! have made no progress for longest end as if they had timed out: as many as there are callbacks
//! that wait for a thread.
//!
//! ```text
//!     the wait's thread                          code that needs a thread
//!     begin ─► listed ─────── end ─► unlisted
//!                 │ is_over?  ◄──────────────────── end_longest: marks it, then wakes it
//!                 └── looks, woken or not, before it sleeps
//! ```
//!
//! How long a wait may go without progress depends on what it waits for. A slow peer has a quarter
//! of a second, and less time the more callbacks wait for each thread: so a peer behind many slow
//! ones waits by the logarithm of their number. A connection that this process has dialled always
//! has a second: to end such waits under load would turn slow answers into failures.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::base::clock;
use crate::base::log_period::OncePer;
use crate::base::sync::{AtomicU64, Mutex, Ordering, lock};

/// How long a wait for a served peer may go without a byte, where a callback waits for a thread.
const PEER: Duration = Duration::from_millis(250);
/// The same for a wait for what this process has dialled, or dials.
const ELSEWHERE: Duration = Duration::from_secs(1);
/// Callbacks that want a thread, and that no growth thread looks after, are added up for this long.
const ADDED_UP: Duration = Duration::from_millis(10);
/// At most one line of log in this time.
const LOG_PERIOD: Duration = Duration::from_secs(10);

/// What a callback waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WaitsFor {
    /// A peer that has connected to this process.
    Peer,
    /// A peer that this process has dialled, or dials.
    Elsewhere,
}

/// Makes a waiting thread look again whether its wait is over.
pub(crate) trait Wake: Send + Sync {
    fn wake(&self);
}

/// See the module.
pub(crate) struct Waits {
    list: Mutex<List>,
    ended: AtomicU64,
    log: OncePer,
}

#[derive(Default)]
struct List {
    waits: BTreeMap<u64, Listed>,
    begun: u64,
    /// How many threads were wanted since `served`, when waits were ended for such callbacks last.
    wanted: usize,
    served: Option<Instant>,
}

struct Listed {
    /// When it began, or last made progress.
    since: Instant,
    of: WaitsFor,
    wake: Option<Arc<dyn Wake>>,
    is_over: bool,
}

/// One wait, for as long as it lasts.
#[must_use = "a wait that is not listed can't be ended"]
pub(crate) struct Waiting {
    /// None on a thread that no other callback needs.
    listed: Option<(Arc<Waits>, u64)>,
}

thread_local! {
    /// Where the waits of this thread are listed.
    static HERE: RefCell<Option<Arc<Waits>>> = const { RefCell::new(None) };
}

/// While it lives, the waits of this thread are listed. Restores what was before.
pub(crate) struct Listing {
    before: Option<Arc<Waits>>,
}

impl Listing {
    pub(crate) fn at(waits: Option<&Arc<Waits>>) -> Self {
        Self { before: replace(waits.cloned()) }
    }
}

impl Drop for Listing {
    fn drop(&mut self) {
        drop(replace(self.before.take()));
    }
}

/// There is no list on a thread that ends, where destructors of thread-locals still call us.
fn replace(next: Option<Arc<Waits>>) -> Option<Arc<Waits>> {
    HERE.try_with(|here| here.replace(next)).ok().flatten()
}

impl Waits {
    pub(crate) fn new() -> Arc<Self> {
        let (list, log) = (Mutex::new(List::default()), OncePer::new(LOG_PERIOD));
        Arc::new(Self { list, ended: AtomicU64::new(0), log })
    }

    /// How many were ended.
    pub(crate) fn ended(&self) -> u64 {
        self.ended.load(Ordering::Relaxed)
    }

    /// Ends those that have made no progress for longest, `most` of them, where `waiting` callbacks
    /// wait for one of so many `threads`. Returns how many it ended.
    pub(crate) fn end_longest(&self, most: usize, waiting: usize, threads: usize) -> usize {
        let ended = lock(&self.list).end_longest(most, patience(waiting, threads), clock::now());
        let count = ended.len();
        self.wake(ended);
        count
    }

    /// A callback has found no thread and goes on elsewhere, or has failed: makes sure that soon
    /// there is one for the next.
    pub(crate) fn want_one(&self) {
        let now = clock::now();
        let mut list = lock(&self.list);
        list.wanted += 1;
        if list.served.is_some_and(|last| now.duration_since(last) < ADDED_UP) {
            return;
        }
        list.served = Some(now);
        let wanted = std::mem::take(&mut list.wanted);
        let ended = list.end_longest(wanted, PEER, now);
        drop(list);
        self.wake(ended);
    }

    fn wake(&self, ended: Vec<Option<Arc<dyn Wake>>>) {
        if ended.is_empty() {
            return;
        }
        self.ended.fetch_add(ended.len() as u64, Ordering::Relaxed);
        if let Some(unlogged) = self.log.pass(clock::now(), ended.len()) {
            let count = unlogged + ended.len() as u64;
            log::warn!(
                "threads have run out: {count} waits of callbacks that made no progress for \
                 longest were ended"
            );
        }
        ended.into_iter().flatten().for_each(|it| it.wake());
    }

    fn begin(&self, of: WaitsFor, wake: Option<Arc<dyn Wake>>) -> u64 {
        let mut list = lock(&self.list);
        list.begun += 1;
        let key = list.begun;
        list.waits.insert(key, Listed { since: clock::now(), of, wake, is_over: false });
        key
    }
}

/// How long a peer has, where so many callbacks wait for one of so many threads.
fn patience(waiting: usize, threads: usize) -> Duration {
    let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX / 2);
    let threads = count(threads.max(1));
    PEER.saturating_mul(threads) / (threads + count(waiting))
}

impl List {
    fn end_longest(
        &mut self,
        most: usize,
        peer: Duration,
        now: Instant,
    ) -> Vec<Option<Arc<dyn Wake>>> {
        let is_long = |each: &&mut Listed| {
            let patience = if each.of == WaitsFor::Peer { peer } else { ELSEWHERE };
            !each.is_over && now.saturating_duration_since(each.since) >= patience
        };
        let mut long: Vec<_> = self.waits.values_mut().filter(is_long).collect();
        long.sort_by_key(|each| each.since);
        let ended = long.into_iter().take(most).map(|each| {
            each.is_over = true;
            each.wake.clone()
        });
        ended.collect()
    }
}

impl Waiting {
    /// Lists a wait of this thread, if other callbacks may need the thread.
    pub(crate) fn begin(of: WaitsFor, wake: Option<Arc<dyn Wake>>) -> Self {
        let waits = HERE.try_with(|here| here.borrow().clone()).ok().flatten();
        let listed = waits.map(|waits| {
            let key = waits.begin(of, wake);
            (waits, key)
        });
        Self { listed }
    }

    /// Whether it was ended. The waiting thread asks before each sleep.
    pub(crate) fn is_over(&self) -> bool {
        self.with_listed(|each| each.is_over)
    }

    /// As a deadline: one that has passed.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.with_listed(|each| each.is_over.then_some(each.since))
    }

    /// Whether it may be ended.
    pub(crate) fn is_listed(&self) -> bool {
        self.listed.is_some()
    }

    /// What it waits for has moved on.
    pub(crate) fn progressed(&self) {
        self.with_listed(|each| each.since = clock::now());
    }

    fn with_listed<R: Default>(&self, look: impl FnOnce(&mut Listed) -> R) -> R {
        let Some((waits, key)) = &self.listed else { return R::default() };
        lock(&waits.list).waits.get_mut(key).map(look).unwrap_or_default()
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if let Some((waits, key)) = &self.listed {
            let listed = lock(&waits.list).waits.remove(key);
            drop(listed); // without the lock: it may be the last owner of what is woken
        }
    }
}

impl fmt::Debug for Waits {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Waits").field("ended", &self.ended()).finish_non_exhaustive()
    }
}

#[cfg(test)]
#[path = "waits_tests.rs"]
mod tests;
