//! The hand-off: a reactor goes on with another thread when the callback that it is in takes long.
//!
//! ```text
//!    netpoll-loop-0   ─ turn ─ put down ─ callback, blocks ………………………………… lost it: parks
//!                                  │
//!                    about_to_wait │ or the monitor
//!    netpoll-spare-1               └─ take ─ turn ─ put down ─ callback ─ take up ─ turn ──►
//! ```
//!
//! [`turn`](super::turn) is what a thread does that holds a core; [`run`] is one callback of it.
//! Both are the same on the thread that started the reactor and on a spare one, so it makes no
//! difference which of them has the core, and none of them is ever waited for. Which thread takes a
//! core over is decided in [`takeover`](super::takeover).

use std::cell::{Cell, RefCell};
use std::mem::ManuallyDrop;
use std::sync::{Arc, Weak};
use std::time::Duration;

use super::takeover::{Loop, LoopThreads, Passed};
use crate::base::blocking::{self, Hook, Permission};
use crate::base::panic::guard;
use crate::base::stats::{Cause, Work};
use crate::base::waits::Listing;
use crate::connection::mailbox::Remote;
use crate::connection::run::Outcome;
use crate::connection::schedule::pass_on;
use crate::connection::scheduled::Scheduled;
use crate::pure::baton::{Baton, Epoch, Held, Lying};
use crate::pure::placement::Behaviour;
use crate::reactor::nest;
use crate::tasks::current::{current_place, forget_place, keep_place};

/// Runs `block`, which may block, so that no connection waits for it: where the calling callback
/// runs on a reactor's thread, another thread goes on with the reactor.
///
/// Under `Dispatch::HandOff` a callback that blocks is found out by itself, but only after the
/// reactor has stood still for some 100 µs. This says so beforehand, for about 10 µs. The callback
/// stays on its thread. Anywhere else, on a worker, under `Dispatch::Inline` or outside of
/// callbacks, it only calls `block`.
///
/// ```
/// let answer = netpoll_core::block_in_place(|| {
///     std::thread::sleep(std::time::Duration::from_millis(1)); // a query to a database, say
///     42
/// });
/// assert_eq!(answer, 42);
/// ```
pub fn block_in_place<R>(block: impl FnOnce() -> R) -> R {
    // Without a thread that goes on with it the reactor stands still meanwhile, which is counted.
    let _: Permission = blocking::about_to_wait(Cause::InPlace);
    block()
}

/// Runs what is scheduled on this thread, the core put down meanwhile. Returns the core,
/// unless another thread has it by now.
pub(crate) fn run(mut held: Held<Loop>, scheduled: Scheduled) -> Option<Held<Loop>> {
    let at_most = held.core.woken_at_once();
    held.takeover.begin_callback();
    let lying = held.put_down();
    HOLD.set(Hold::PutDown(lying.epoch()));
    let Ran { scheduled, outcome, work, waited, more } = run_some(&lying, scheduled, at_most);
    HOLD.set(Hold::Core);
    let Some(mut held) = lying.take_up() else {
        forget_place();
        HOLD.set(Hold::Nothing);
        scheduled.reactor().traffic.add(work);
        scheduled.note(if waited { Behaviour::Waited } else { Behaviour::Blocked });
        if outcome == Outcome::Again {
            pass_on(scheduled);
        }
        with_threads(LoopThreads::came_back);
        return None;
    };
    held.core.has_run_woken(more);
    held.core.remote().counters.add(work);
    scheduled.note(Behaviour::Returned);
    if outcome == Outcome::Again {
        held.core.run_again(scheduled, work.received);
    }
    Some(held)
}

/// What was run with the core put down.
struct Ran {
    /// The last that was run, and its outcome.
    scheduled: Scheduled,
    outcome: Outcome,
    waited: bool,
    /// What all of them did, and how many were run after the first.
    work: Work,
    more: u32,
}

/// Runs what is scheduled, and then tasks that it woke, `at_most` so many, while the core lies: two
/// tasks that wake each other do not put it down at each step. Those that were not begun are in
/// the mailbox, so they do not wait for one that blocks.
fn run_some(lying: &Lying<Loop>, scheduled: Scheduled, at_most: u32) -> Ran {
    let mut more = 0;
    let (mut scheduled, mut outcome, mut work) = scheduled.run_counted();
    let mut waited = blocking::take_waited();
    while more < at_most
        && outcome == Outcome::Done
        && lying.lies()
        && let Some(next) = scheduled.take_next()
    {
        more += 1;
        scheduled.note(Behaviour::Returned);
        let work_before = work;
        (scheduled, outcome, work) = next.run_counted();
        work = work + work_before;
        waited = blocking::take_waited();
    }
    Ran { scheduled, outcome, waited, work, more }
}

/// Does what may run callbacks of a core that is not in the baton any more, the baton put down
/// meanwhile. Returns the baton, unless another thread has it by now.
pub(crate) fn aside(mut held: Held<Loop>, work: impl FnOnce()) -> Option<Held<Loop>> {
    held.takeover.begin_callback();
    let lying = held.put_down();
    HOLD.set(Hold::PutDown(lying.epoch()));
    guard("the end of a loop", work).ok();
    HOLD.set(Hold::Core);
    let kept = lying.take_up();
    if kept.is_none() {
        HOLD.set(Hold::Nothing);
        with_threads(LoopThreads::came_back);
    }
    kept
}

/// Runs a connection of that reactor on a worker.
pub(crate) fn run_for<R>(remote: &Arc<Remote>, run: impl FnOnce() -> R) -> R {
    replace_reactor(Some(Arc::downgrade(remote)));
    let outcome = run();
    replace_reactor(None);
    outcome
}

fn replace_reactor(next: Option<Weak<Remote>>) {
    let before = REACTOR.replace(ManuallyDrop::new(next));
    drop(ManuallyDrop::into_inner(before));
}

/// Whether this thread is inside a callback of that reactor, or of one that it turns together with
/// that.
pub(crate) fn is_inside(remote: &Arc<Remote>) -> bool {
    let reactor = Arc::as_ptr(remote);
    let is_it = |remote: &Weak<Remote>| remote.as_ptr() == reactor;
    // What a thread drops as it ends may ask.
    REACTOR.with_borrow(|it| it.as_ref().is_some_and(is_it))
        || with_current(|current| current.remotes.iter().any(is_it)).unwrap_or(false)
}

/// The loop of the callback or of the task that this thread is in.
pub fn current_loop() -> Option<Arc<Remote>> {
    let of_task = current_place().map(|place| place.remote.clone());
    let of_worker = || REACTOR.with_borrow(|it| it.as_ref()?.upgrade());
    let of_turn = || with_current(|current| current.remotes.iter().find_map(Weak::upgrade));
    of_task.or_else(of_worker).or_else(|| of_turn().flatten())
}

thread_local! {
    /// The loop that this thread turns, or turned until it lost the core in this callback.
    static CURRENT: RefCell<Option<Current>> = const { RefCell::new(None) };
    static HOLD: Cell<Hold> = const { Cell::new(Hold::Nothing) };
    /// The reactor of the callback that this thread is in, where it has not turned that reactor.
    /// Weak, since a retired one ends when nothing else can reach it, and is woken by no drop here.
    /// It has no destructor, which a worker could not register without memory: glibc then aborts.
    static REACTOR: RefCell<ManuallyDrop<Option<Weak<Remote>>>> =
        const { RefCell::new(ManuallyDrop::new(None)) };
}

/// What a thread has of a loop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hold {
    /// Nothing, or nothing any more: no connection waits for this thread.
    Nothing,
    /// The core.
    Core,
    /// The core, which it has put down for the callback that it is in, for that epoch; another
    /// thread may have taken it.
    PutDown(Epoch),
}

struct Current {
    baton: Arc<Baton<Loop>>,
    /// Weak, since a retired reactor ends when nothing else can reach it.
    remotes: Vec<Weak<Remote>>,
    threads: Option<Arc<LoopThreads>>,
}

/// While it lives, this thread turns a loop. After that the thread is what it was before: a
/// callback may serve another event loop.
pub(crate) struct Entered {
    before: (Option<Current>, Hold, Option<Hook>),
    _listing: Listing,
}

impl Entered {
    pub(crate) fn with(held: &Held<Loop>) -> Self {
        let current = Current {
            baton: held.baton().clone(),
            remotes: remotes_of(held),
            threads: held.takeover.threads().cloned(),
        };
        let listing = Listing::at(current.threads.as_ref().map(|threads| threads.waits()));
        let hook = blocking::replace_hook(Some(give_away));
        keep_place(true);
        let before = (replace_current(Some(current)), HOLD.replace(Hold::Core), hook);
        Self { before, _listing: listing }
    }

    /// The thread turns other loops than before.
    pub(crate) fn refresh(held: &Held<Loop>) {
        let remotes = remotes_of(held);
        CURRENT.with_borrow_mut(|current| {
            if let Some(current) = current {
                current.remotes = remotes;
            }
        });
    }

    /// This thread has no core any more, and nothing waits for it.
    pub(crate) fn let_go() {
        HOLD.set(Hold::Nothing);
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        keep_place(self.before.0.is_some());
        let current = self.before.0.take();
        drop(replace_current(current));
        HOLD.set(self.before.1);
        blocking::replace_hook(self.before.2);
    }
}

/// Passes the reactor of this thread on to another, if it has one, and says whether it goes on.
fn give_away(cause: Cause) -> Permission {
    let epoch = match HOLD.get() {
        Hold::Nothing => return Permission::Granted,
        Hold::Core => return Permission::HoldsCore,
        Hold::PutDown(epoch) => epoch,
    };
    let passed = with_current(|current| {
        let threads = current.threads.as_ref()?;
        Some(threads.pass_on(&current.baton, epoch, cause, Duration::ZERO))
    });
    match passed.flatten() {
        Some(Passed::Done | Passed::Late) => {
            HOLD.set(Hold::Nothing);
            Permission::Granted
        }
        // It lies there still: the monitor takes it when there is a thread.
        Some(Passed::NoThread) | None => {
            with_threads(|threads| threads.waits().want_one());
            Permission::NoThread
        }
    }
}

fn remotes_of(held: &Held<Loop>) -> Vec<Weak<Remote>> {
    nest::remotes(&held.core, held.nest.as_deref()).map(Arc::downgrade).collect()
}

fn with_threads(look: impl FnOnce(&LoopThreads)) {
    with_current(|current| current.threads.as_deref().map(look));
}

/// Looks at the current loop. There is none on a thread that ends, where destructors of the user's
/// thread-locals may still call us.
fn with_current<R>(look: impl FnOnce(&Current) -> R) -> Option<R> {
    CURRENT.try_with(|current| current.borrow().as_ref().map(look)).ok().flatten()
}

fn replace_current(next: Option<Current>) -> Option<Current> {
    CURRENT.try_with(|current| current.replace(next)).ok().flatten()
}
