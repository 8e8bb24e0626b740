//! A pool of threads that park between two orders: the one mechanism behind the threads that take
//! reactors over, the workers, and the client's threads that resolve names.
//!
//! ```text
//!                reserve              run(order)
//!     parked ─────────────► reserved ────────────► at work ──► parked again, or gone
//!       │ ▲     not used │  ▲
//!       │ └──────────────┘  └── started, where none was parked
//!       └── gone, after a while without an order
//! ```
//! A pool gives its orders in one of two ways. A [`ThreadPool<Closure>`] passes a closure to the
//! thread that parked last, or to a new one: a caller *reserves* that thread before it takes a
//! reactor's core away, since a core without a thread stands still. The threads of a
//! `ThreadPool<()>` take their jobs from a queue of their owner's, and are only woken
//! ([`searching`]).
//!
//! A pool never starts a thread by itself. Its owner decides when it grows, and the pool knows
//! whether the system refuses another thread ([`starter`]).

mod members;
pub(crate) mod parking;
pub(crate) mod searching;
mod starter;

use std::fmt;
use std::io;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crate::base::panic::join;
use crate::base::sync::{AtomicUsize, Condvar, Mutex, Ordering, lock, wait_until};
use crate::sys::TimerSlack;
use members::Members;
use parking::{Order, Parking, Slot};
pub(crate) use starter::Starter;

/// What a thread of a `ThreadPool<Closure>` runs.
pub(crate) type Closure = Box<dyn FnOnce() -> Next + Send>;

/// What the thread does after that.
pub enum Next {
    /// It parks and waits for its next order.
    Park,
    /// As `Park`. Once it is parked, and may have its next order already, it calls this: work that
    /// came before was for a thread that was not parked yet.
    ParkAndLook(Box<dyn FnOnce() + Send>),
    /// It ends.
    Leave,
}

/// In what pools differ.
#[derive(Debug, Clone, Copy)]
pub struct ThreadPoolOptions {
    /// The name of the thread with that number; they are numbered from 1 in the order of their
    /// start.
    pub name: fn(u64) -> String,
    /// What the system refuses, and what follows from that: for the log.
    pub what: &'static str,
    /// How many threads there may be.
    pub max_threads: usize,
    /// How long a thread without an order stays.
    pub idle: Duration,
}

/// See the module.
pub struct ThreadPool<T = Closure> {
    options: ThreadPoolOptions,
    pub(crate) parking: Parking<T>,
    members: Mutex<Members>,
    /// A member has left.
    changed: Condvar,
    /// The number of members, to be read without their lock, and the most that there were.
    threads: AtomicUsize,
    peak: AtomicUsize,
    starter: Arc<Starter>,
    /// The timer slack of the thread that made the pool, which each member takes on. A new thread
    /// has that of the thread that starts it, and some are started by the monitor: with its slack,
    /// each of a thousand sleeping callbacks would be woken by an interrupt of its own.
    slack: TimerSlack,
}

impl<T: Send + 'static> ThreadPool<T> {
    /// A pool without a thread.
    pub fn new(options: ThreadPoolOptions) -> Arc<Self> {
        Self::with_starter(options, Arc::new(Starter::new(options.what)))
    }

    /// A pool that knows of the refusals that others which share the starter have met.
    pub(crate) fn with_starter(options: ThreadPoolOptions, starter: Arc<Starter>) -> Arc<Self> {
        Arc::new(Self {
            options,
            parking: Parking::new(),
            members: Mutex::new(Members::default()),
            changed: Condvar::new(),
            threads: AtomicUsize::new(0),
            peak: AtomicUsize::new(0),
            starter,
            slack: TimerSlack::here(),
        })
    }

    pub(crate) fn options(&self) -> ThreadPoolOptions {
        self.options
    }

    pub(crate) fn starter(&self) -> &Arc<Starter> {
        &self.starter
    }

    /// Threads there are now, at work and parked.
    pub fn threads(&self) -> usize {
        self.threads.load(Ordering::SeqCst)
    }

    /// The most threads that there were.
    pub(crate) fn peak(&self) -> usize {
        self.peak.load(Ordering::Relaxed)
    }

    /// Threads that wait for an order.
    pub(crate) fn parked(&self) -> usize {
        self.parking.parked()
    }

    /// Whether the system has refused a thread just now, so that it need not be asked again.
    pub(crate) fn is_refused(&self) -> bool {
        self.starter.is_refused()
    }

    /// Logs a refusal, if one is to be logged. For a caller of [`start_member`](Self::start_member)
    /// or [`run`](ThreadPool::run) that holds no lock by now.
    pub fn tell(&self) {
        self.starter.tell();
    }

    /// Ends the threads: the parked ones at once, those at work when their work is done, for which
    /// it waits until `deadline`. Returns how many are left. A member that calls it does not wait
    /// for itself.
    pub fn stop(&self, deadline: Option<Instant>) -> usize {
        self.parking.close();
        let mut members = lock(&self.members);
        members.close();
        let own = usize::from(members.has_this_thread());
        let mut late = false;
        while members.count() > own && !late {
            (members, late) = wait_until(&self.changed, members, deadline);
        }
        let left = members.count() - own;
        let gone = members.take_gone();
        drop(members);
        for handle in gone {
            if handle.thread().id() != thread::current().id() {
                join(handle);
            }
        }
        left
    }

    /// Starts a thread that runs `body` and is a member until `body` drops its membership. Asks
    /// the system in any case, and logs nothing: the caller may hold a lock, and calls
    /// [`tell`](Self::tell) after it.
    ///
    /// # Errors
    /// The system's, where it has no more threads; of kind `BrokenPipe` after `stop`, and
    /// `QuotaExceeded` where there are as many as may be.
    pub(crate) fn start_member(
        self: &Arc<Self>,
        body: impl FnOnce(Membership<T>) + Send + 'static,
    ) -> io::Result<()> {
        self.start_named(self.options.name, body)
    }

    /// Whether all members sleep, as far as one look takes them in.
    pub(crate) fn all_asleep(&self) -> bool {
        lock(&self.members).all_asleep()
    }

    fn start_named(
        self: &Arc<Self>,
        name: impl FnOnce(u64) -> String,
        body: impl FnOnce(Membership<T>) + Send + 'static,
    ) -> io::Result<()> {
        let mut members = lock(&self.members);
        if members.count() >= self.options.max_threads {
            return Err(io::ErrorKind::QuotaExceeded.into());
        }
        let number = members.next_number()?;
        let pool = self.clone();
        let body = move || {
            let membership = Membership { pool };
            membership.pool.slack.set();
            body(membership);
        };
        let handle = self.starter.start(name(number), body)?;
        members.add(handle);
        self.count(&members);
        Ok(())
    }

    fn count(&self, members: &Members) {
        self.threads.store(members.count(), Ordering::SeqCst);
        self.peak.fetch_max(members.count(), Ordering::Relaxed);
    }
}

impl ThreadPool {
    /// Has `work` run on the thread that parked last, or on a new one. Logs nothing, as
    /// [`start_member`](Self::start_member).
    ///
    /// # Errors
    /// As `start_member`.
    pub fn run(self: &Arc<Self>, work: impl FnOnce() -> Next + Send + 'static) -> io::Result<()> {
        let work = Box::new(work);
        if let Some(slot) = self.parking.reserve() {
            slot.give(Order::Run(work));
            return Ok(());
        }
        self.start_member(move |member| member.live(&Arc::new(Slot::new()), Some(work)))
    }

    /// Reserves the thread that parked last, or a new one. `None` where the system has no more
    /// threads, and after `stop`.
    pub(crate) fn reserve(self: &Arc<Self>) -> Option<Reserved<'_>> {
        let slot = self.parking.reserve().or_else(|| {
            if self.is_refused() {
                return None;
            }
            let slot = Arc::new(Slot::new());
            let its = slot.clone();
            let started = self.start_member(move |member| member.live(&its, None));
            self.tell();
            started.ok().map(|()| slot)
        });
        slot.map(|slot| Reserved { parking: &self.parking, slot: Some(slot) })
    }

    /// Starts a thread of that name at this work.
    ///
    /// # Errors
    /// As [`start_member`](Self::start_member).
    pub(crate) fn start(self: &Arc<Self>, name: String, work: Closure) -> io::Result<()> {
        let body =
            move |member: Membership<Closure>| member.live(&Arc::new(Slot::new()), Some(work));
        let outcome = self.start_named(|_| name, body);
        self.tell();
        outcome
    }

    /// Makes sure that a thread is parked, so that the next hand-off need not start one.
    pub(crate) fn keep_one_ready(self: &Arc<Self>) {
        if self.parked() == 0 {
            drop(self.reserve());
        }
    }

    /// Whether no thread is parked, and the system has refused another one just now.
    pub(crate) fn is_exhausted(&self) -> bool {
        self.is_refused() && self.parked() == 0
    }

    /// From now on the system refuses threads, or no longer does.
    #[cfg(all(test, not(loom)))]
    pub(crate) fn deny(&self, denies: bool) {
        self.starter.denies.store(denies, Ordering::SeqCst);
    }
}

/// A thread that waits for one order.
#[must_use = "it waits for its order"]
pub(crate) struct Reserved<'a> {
    parking: &'a Parking<Closure>,
    slot: Option<Arc<Slot<Closure>>>,
}

impl Reserved<'_> {
    pub(crate) fn run(mut self, work: Closure) {
        if let Some(slot) = self.slot.take() {
            slot.give(Order::Run(work));
        }
    }
}

impl Drop for Reserved<'_> {
    /// Parks the thread again if it was not needed.
    fn drop(&mut self) {
        if let Some(slot) = self.slot.take() {
            self.parking.give_back(&slot);
        }
    }
}

/// What makes a thread a member of its pool. The thread drops it as its last act, even in a panic.
pub(crate) struct Membership<T: Send + 'static> {
    pool: Arc<ThreadPool<T>>,
}

impl<T: Send + 'static> Membership<T> {
    /// Has [`ThreadPool::all_asleep`] look at this thread from now on.
    pub(crate) fn show_number(&self) {
        lock(&self.pool.members).show_number();
    }
}

impl Membership<Closure> {
    /// What a thread does that is given its orders.
    fn live(&self, slot: &Arc<Slot<Closure>>, mut work: Option<Closure>) {
        let (parking, idle) = (&self.pool.parking, self.pool.options.idle);
        while let Some(now) = work.take().or_else(|| parking.wait(slot, Some(idle))) {
            let look = match now() {
                Next::Park => None,
                Next::ParkAndLook(look) => Some(look),
                Next::Leave => return,
            };
            let may_stay = parking.park(slot);
            if let Some(look) = look {
                look();
            }
            if !may_stay {
                return;
            }
        }
    }
}

impl<T: Send + 'static> Drop for Membership<T> {
    fn drop(&mut self) {
        let mut members = lock(&self.pool.members);
        members.leave();
        self.pool.count(&members);
        drop(members);
        self.pool.changed.notify_all();
    }
}

impl fmt::Debug for Next {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Park => "Park",
            Self::ParkAndLook(_) => "ParkAndLook",
            Self::Leave => "Leave",
        })
    }
}

impl<T: Send + 'static> fmt::Debug for ThreadPool<T> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("ThreadPool")
            .field("threads", &self.threads())
            .field("parked", &self.parked())
            .finish_non_exhaustive()
    }
}

#[cfg(all(test, not(loom)))]
#[path = "pool/tests.rs"]
mod tests;
