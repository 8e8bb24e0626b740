//! Spare threads: who takes a reactor's core over when its thread is busy.
//!
//! They park on a stack and are reused newest first, so that the caches of the last are warm and
//! the first grow old and leave. Whoever wants one *reserves* it before it takes a core away: a
//! core must have a thread at once, or its reactor stands still.
//!
//! ```text
//!                reserve               go(work)
//!     parked ─────────────► reserved ───────────► at work ──► parked again, or gone
//!       │ ▲      not used │  ▲
//!       │ └───────────────┘  └── started, where none was parked
//!       └── gone, after a while without work
//! ```

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle, ThreadId};
use std::time::{Duration, Instant};

use crate::sync::{AtomicBool, AtomicUsize, Condvar, Mutex, Ordering, lock, wait_until};
use crate::sys::TimerSlack;

/// How long a spare without work stays.
const IDLE: Duration = Duration::from_secs(10);

/// What a thread of these does.
pub(crate) type Work = Box<dyn FnOnce() -> Next + Send>;

/// What it does when that is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    Park,
    Leave,
}

/// See the module.
pub(crate) struct Spares {
    berths: Berths<Work>,
    roster: Mutex<Roster>,
    changed: Condvar,
    /// As in the roster, to be read without its lock.
    threads: AtomicUsize,
    peak: AtomicUsize,
    /// The system had no thread when one was wanted, and the log says so.
    complained: AtomicBool,
    /// For all of them, and for whatever threads callbacks start: the monitor's, which starts some
    /// of them, would have each of a thousand sleeping callbacks woken by an interrupt of its own.
    slack: TimerSlack,
}

/// A thread that waits for one order.
#[must_use = "it waits for its order"]
pub(crate) struct Spare<'a> {
    berths: &'a Berths<Work>,
    berth: Option<Arc<Berth<Work>>>,
}

impl Spares {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            berths: Berths::new(),
            roster: Mutex::new(Roster::default()),
            changed: Condvar::new(),
            threads: AtomicUsize::new(0),
            peak: AtomicUsize::new(0),
            complained: AtomicBool::new(false),
            slack: TimerSlack::here(),
        })
    }

    /// The thread that parked last, or a new one. `None` where the system has no more threads,
    /// which is logged once, and after `stop`.
    pub(crate) fn reserve(self: &Arc<Self>) -> Option<Spare<'_>> {
        let berth = self.berths.reserve().or_else(|| {
            let berth = Arc::new(Berth::new());
            let name = |number| format!("netpoll-spare-{number}");
            self.add(name, berth.clone(), None).ok().map(|()| berth)
        });
        berth.map(|berth| Spare { berths: &self.berths, berth: Some(berth) })
    }

    /// Starts a thread at this work.
    ///
    /// # Errors
    /// The system's, where it has no more threads.
    pub(crate) fn start(self: &Arc<Self>, name: String, work: Work) -> io::Result<()> {
        self.add(|_| name, Arc::new(Berth::new()), Some(work))
    }

    /// Sees to it that a thread is parked, so that the next hand-off need not start one.
    pub(crate) fn keep_one_ready(self: &Arc<Self>) {
        if self.berths.parked() == 0 {
            drop(self.reserve());
        }
    }

    /// Ends the threads: the parked at once, those at work with it, for which it waits until
    /// `deadline`. Returns how many are left. A thread of these that calls it does not wait for
    /// itself.
    pub(crate) fn stop(&self, deadline: Option<Instant>) -> usize {
        self.berths.close();
        let mut roster = lock(&self.roster);
        roster.closed = true;
        let own = usize::from(roster.has_this_thread());
        let mut late = false;
        while roster.present.len() > own && !late {
            (roster, late) = wait_until(&self.changed, roster, deadline);
        }
        let left = roster.present.len() - own;
        let gone = std::mem::take(&mut roster.gone);
        drop(roster);
        for thread in gone {
            if thread.thread().id() != thread::current().id() {
                let _ = thread.join();
            }
        }
        left
    }

    /// Threads there are now, at work and parked.
    pub(crate) fn threads(&self) -> usize {
        self.threads.load(Ordering::Relaxed)
    }

    /// The most threads that there were.
    pub(crate) fn peak(&self) -> usize {
        self.peak.load(Ordering::Relaxed)
    }

    /// Threads that wait for work.
    pub(crate) fn parked(&self) -> usize {
        self.berths.parked()
    }

    fn add(
        self: &Arc<Self>,
        name: impl FnOnce(u64) -> String,
        berth: Arc<Berth<Work>>,
        work: Option<Work>,
    ) -> io::Result<()> {
        let mut roster = lock(&self.roster);
        if roster.closed {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        roster.gone.retain(|thread| !thread.is_finished());
        roster.started += 1;
        let spares = self.clone();
        let body = move || spares.live(&berth, work);
        let outcome = thread::Builder::new().name(name(roster.started)).spawn(body);
        match outcome {
            Ok(thread) => {
                roster.present.insert(thread.thread().id(), thread);
                self.threads.store(roster.present.len(), Ordering::Relaxed);
                self.peak.fetch_max(roster.present.len(), Ordering::Relaxed);
                Ok(())
            }
            Err(error) => {
                if !self.complained.swap(true, Ordering::Relaxed) {
                    log::warn!("cannot start a spare thread, a reactor may stall: {error}");
                }
                Err(error)
            }
        }
    }

    /// A thread's life.
    fn live(&self, berth: &Arc<Berth<Work>>, mut work: Option<Work>) {
        let _gone = Leaving(self);
        self.slack.set();
        while let Some(now) = work.take().or_else(|| self.berths.wait(berth, Some(IDLE))) {
            if now() == Next::Leave || !self.berths.park(berth) {
                return;
            }
        }
    }
}

/// Takes a thread off the roster as its last act, even should it panic.
struct Leaving<'a>(&'a Spares);

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        let mut roster = lock(&self.0.roster);
        let own = roster.present.remove(&thread::current().id());
        roster.gone.extend(own);
        self.0.threads.store(roster.present.len(), Ordering::Relaxed);
        drop(roster);
        self.0.changed.notify_all();
    }
}

impl Spare<'_> {
    /// Gives it its order.
    pub(crate) fn go(mut self, work: Work) {
        if let Some(berth) = self.berth.take() {
            berth.give(Order::Go(work));
        }
    }
}

impl Drop for Spare<'_> {
    /// It was not needed after all.
    fn drop(&mut self) {
        if let Some(berth) = self.berth.take() {
            self.berths.give_back(&berth);
        }
    }
}

#[derive(Default)]
struct Roster {
    present: HashMap<ThreadId, JoinHandle<()>>,
    /// Threads that have no more to do than to end.
    gone: Vec<JoinHandle<()>>,
    started: u64,
    closed: bool,
}

impl Roster {
    fn has_this_thread(&self) -> bool {
        self.present.contains_key(&thread::current().id())
    }
}

/// Where threads park, and how they get their orders. Who has a berth that is not on the stack owes
/// its thread an order, and nobody else can give one.
struct Berths<T> {
    stack: Mutex<Stack<T>>,
}

struct Stack<T> {
    parked: Vec<Arc<Berth<T>>>,
    closed: bool,
}

struct Berth<T> {
    order: Mutex<Option<Order<T>>>,
    bell: Condvar,
}

enum Order<T> {
    Go(T),
    /// Back on the stack: wait on.
    Rest,
    Leave,
}

impl<T> Berths<T> {
    fn new() -> Self {
        Self { stack: Mutex::new(Stack { parked: Vec::new(), closed: false }) }
    }

    fn parked(&self) -> usize {
        lock(&self.stack).parked.len()
    }

    fn reserve(&self) -> Option<Arc<Berth<T>>> {
        lock(&self.stack).parked.pop()
    }

    /// Puts a thread on the stack, for itself; `false`: it is to leave.
    fn park(&self, berth: &Arc<Berth<T>>) -> bool {
        lock(&self.stack).push(berth)
    }

    /// Puts a reserved thread back on the stack.
    fn give_back(&self, berth: &Arc<Berth<T>>) {
        // Under the lock: the next who reserves it must not have his order overtaken by ours.
        let mut stack = lock(&self.stack);
        let order = if stack.push(berth) { Order::Rest } else { Order::Leave };
        berth.give(order);
    }

    /// For the thread of a berth: its next order; `None`: it is to leave.
    fn wait(&self, berth: &Arc<Berth<T>>, idle: Option<Duration>) -> Option<T> {
        let from_now = || idle.and_then(|idle| Instant::now().checked_add(idle));
        let mut deadline = from_now();
        let mut order = lock(&berth.order);
        let mut late = false;
        loop {
            match order.take() {
                Some(Order::Go(work)) => return Some(work),
                Some(Order::Leave) => return None,
                Some(Order::Rest) => deadline = from_now(),
                None if late => {
                    drop(order);
                    if self.withdraw(berth) {
                        return None;
                    }
                    // Reserved meanwhile: an order will come.
                    deadline = None;
                    order = lock(&berth.order);
                    if order.is_some() {
                        continue;
                    }
                }
                None => {}
            }
            (order, late) = wait_until(&berth.bell, order, deadline);
        }
    }

    /// Takes a thread off the stack, for itself; `false`: somebody has reserved it.
    fn withdraw(&self, berth: &Arc<Berth<T>>) -> bool {
        let mut stack = lock(&self.stack);
        let place = stack.parked.iter().position(|each| Arc::ptr_eq(each, berth));
        place.map(|place| stack.parked.remove(place)).is_some()
    }

    /// Sends the parked away, and from now on all who would park.
    fn close(&self) {
        let parked = {
            let mut stack = lock(&self.stack);
            stack.closed = true;
            std::mem::take(&mut stack.parked)
        };
        for berth in parked {
            berth.give(Order::Leave);
        }
    }
}

impl<T> Stack<T> {
    fn push(&mut self, berth: &Arc<Berth<T>>) -> bool {
        if !self.closed {
            self.parked.push(berth.clone());
        }
        !self.closed
    }
}

impl<T> Berth<T> {
    fn new() -> Self {
        Self { order: Mutex::new(None), bell: Condvar::new() }
    }

    fn give(&self, order: Order<T>) {
        // It may replace a `Rest` that the thread has not seen: it never stopped waiting.
        *lock(&self.order) = Some(order);
        self.bell.notify_one();
    }
}

impl fmt::Debug for Spares {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Spares")
            .field("threads", &self.threads())
            .field("parked", &self.parked())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
#[path = "spares_tests.rs"]
mod tests;
