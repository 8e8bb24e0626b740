//! What few connections have: deadlines, jobs, close callbacks, a time watch. It is allocated on
//! first use, so that the other connections pay one word for it.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use super::job::Job;
use super::relay::Side;
use crate::base::clock;
use crate::base::error::Wait;
use crate::base::limits::Limits;
use crate::base::panic::guard;
use crate::base::sync::{Mutex, lock};
use crate::pure::deadlines::{Progress, TimeWatch};
use crate::pure::task::{Events, Word};

/// A membership in a group that is sent broadcasts, as its connection knows it.
pub(crate) trait Membership: Send + Sync {
    /// Sends the connection what was broadcast before and is still on its way to it.
    fn catch_up(&self);

    /// Whether this thread has written to the connection and not flushed.
    fn is_written_here(&self) -> bool;

    /// Has what is broadcast from now on wait for those bytes.
    fn defer(&self);

    /// The membership has ended.
    fn end(&self);

    /// Whether it is one of the group at this address.
    fn is_of(&self, group: *const ()) -> bool;
}

/// A callback that runs when a connection has ended.
pub(crate) type OnClose = Box<dyn FnOnce() + Send>;

/// The extras of one connection. The lock is held for a few instructions, never while user code
/// runs.
pub(crate) struct Extras(Mutex<Option<Box<Inner>>>);

#[derive(Default)]
struct Inner {
    read_deadline: Option<Instant>,
    write_deadline: Option<Instant>,
    timeouts: Option<Timeouts>,
    watch: Option<TimeWatch>,
    /// The reactor has been asked to look at the time watch, and has yet to do so.
    is_look_due: bool,
    /// The time that the time watch found to be over.
    expired: Option<Wait>,
    jobs: VecDeque<Arc<Job>>,
    on_close: Vec<OnClose>,
    /// How many holds there are; the word has `HELD` while there is one.
    holds: u32,
    /// What is to be called when the peer is gone; the word has `WATCHED` while there is one.
    watches: Option<Box<Watches>>,
    /// What takes the place of the callbacks when the one that runs has returned.
    side: Option<Box<Side>>,
    /// Weak, since the group holds the connection.
    memberships: Vec<Weak<dyn Membership>>,
}

/// The closures that are to be called when the peer is gone, each with its number.
#[derive(Default)]
struct Watches {
    list: Vec<(u64, Gone, OnClose)>,
    last: u64,
}

/// When a peer is gone, for one closure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Gone {
    /// When nothing can reach it.
    Unreachable,
    /// Also when it has ended its stream.
    OrEnded,
}

/// Timeouts that the user has set, in place of those of the limits.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Timeouts {
    pub(crate) read: Option<Duration>,
    pub(crate) write: Option<Duration>,
}

impl Extras {
    pub(crate) fn new(limits: &Limits) -> Self {
        let inner = TimeWatch::is_needed(limits).then(|| {
            let watch = Some(TimeWatch::new(limits, clock::now()));
            Box::new(Inner { watch, ..Inner::default() })
        });
        Self(Mutex::new(inner))
    }

    pub(crate) fn read_deadline(&self) -> Option<Instant> {
        self.look(|inner| inner.read_deadline)
    }

    pub(crate) fn write_deadline(&self) -> Option<Instant> {
        self.look(|inner| inner.write_deadline)
    }

    pub(crate) fn set_read_deadline(&self, word: &Word, at: Option<Instant>) {
        self.change(word, |inner| inner.read_deadline = at);
    }

    pub(crate) fn set_write_deadline(&self, word: &Word, at: Option<Instant>) {
        self.change(word, |inner| inner.write_deadline = at);
    }

    pub(crate) fn timeouts(&self) -> Option<Timeouts> {
        self.look(|inner| inner.timeouts)
    }

    /// Changes the timeouts; if none were set, they are `usual` before the change.
    pub(crate) fn set_timeouts(
        &self,
        word: &Word,
        usual: Timeouts,
        change: impl FnOnce(&mut Timeouts),
    ) {
        self.change(word, |inner| change(inner.timeouts.get_or_insert(usual)));
    }

    /// Sets timeouts, deadlines and the time watch back to the limits. Returns whether the caller
    /// must tell the reactor.
    pub(crate) fn reset_times(&self, limits: &Limits) -> bool {
        let mut guarded = lock(&self.0);
        let Some(inner) = &mut *guarded else { return false };
        (inner.read_deadline, inner.write_deadline, inner.timeouts) = (None, None, None);
        let fresh = || TimeWatch::new(limits, clock::now());
        inner.watch = match inner.watch.take() {
            // The watch of the output stays: the next user of the connection does not change what
            // its peer takes.
            Some(before) if before.watches_for_good() => Some(fresh().that_follows(&before)),
            _ => TimeWatch::is_needed(limits).then(fresh),
        };
        !std::mem::replace(&mut inner.is_look_due, true)
    }

    /// Changes the time watch. Returns whether the caller must tell the reactor: not if the
    /// connection has ended, and not if the reactor has been told and has yet to look.
    pub(crate) fn rewatch(&self, word: &Word, change: impl FnOnce(&mut TimeWatch)) -> bool {
        let fresh = || TimeWatch::new(&Limits::default(), clock::now());
        let mut must_tell = false;
        self.change(word, |inner| {
            change(inner.watch.get_or_insert_with(fresh));
            must_tell = !std::mem::replace(&mut inner.is_look_due, true);
        });
        must_tell
    }

    /// When the time watch is to look next; `None` without one. For the reactor.
    pub(crate) fn next_look(&self, now: impl FnOnce() -> Instant) -> Option<Instant> {
        let mut guarded = lock(&self.0);
        let inner = guarded.as_deref_mut()?;
        inner.is_look_due = false;
        inner.watch.as_ref().and_then(|watch| watch.next(now()))
    }

    /// Has the time watch look, and keeps the time that it finds to be over. Returns whether the
    /// connection has reached its age.
    pub(crate) fn check_time(&self, progress: Progress, now: Instant) -> Result<bool, Wait> {
        let mut guarded = lock(&self.0);
        let Some(Inner { watch: Some(watch), expired, .. }) = guarded.as_deref_mut() else {
            return Ok(false);
        };
        watch.look(progress, now).inspect_err(|wait| *expired = Some(*wait))?;
        Ok(watch.reaches_age(now))
    }

    /// The time that the time watch found to be over.
    pub(crate) fn expired(&self) -> Option<Wait> {
        self.look(|inner| inner.expired)
    }

    /// Puts a job into the list; `false` if the connection has ended.
    pub(crate) fn push_job(&self, word: &Word, job: Arc<Job>) -> bool {
        self.change(word, |inner| inner.jobs.push_back(job))
    }

    /// The next job, and whether there are more.
    pub(crate) fn pop_job(&self) -> Option<(Arc<Job>, bool)> {
        let mut guarded = lock(&self.0);
        let jobs = &mut guarded.as_mut()?.jobs;
        jobs.pop_front().map(|job| (job, !jobs.is_empty()))
    }

    /// Keeps what takes the place of the callbacks; drops it if the connection has ended.
    pub(crate) fn set_side(&self, word: &Word, side: Box<Side>) {
        let mut side = Some(side);
        self.change(word, |inner| inner.side = side.take());
    }

    pub(crate) fn take_side(&self) -> Option<Box<Side>> {
        lock(&self.0).as_mut()?.side.take()
    }

    /// Adds a hold; `false` if the connection has ended.
    pub(crate) fn hold(&self, word: &Word) -> bool {
        self.change(word, |inner| {
            inner.holds += 1;
            word.note(Events::HELD);
        })
    }

    /// Ends a hold. Returns whether it was the last of a connection that has not ended.
    pub(crate) fn let_go(&self, word: &Word) -> bool {
        let mut guarded = lock(&self.0);
        let Some(inner) = guarded.as_deref_mut() else { return false };
        inner.holds = inner.holds.saturating_sub(1);
        if inner.holds > 0 {
            return false;
        }
        word.clear(Events::HELD);
        true
    }

    /// Adds a closure for the peer's going; returns its number. `None`, and the closure is left, if
    /// the connection has ended.
    pub(crate) fn watch_peer(
        &self,
        word: &Word,
        gone: Gone,
        callback: &mut Option<OnClose>,
    ) -> Option<u64> {
        let mut number = None;
        self.change(word, |inner| {
            let Watches { list, last } = &mut **inner.watches.get_or_insert_default();
            *last += 1;
            list.extend(callback.take().map(|callback| (*last, gone, callback)));
            number = Some(*last);
            word.note(Events::WATCHED);
        });
        number
    }

    /// Takes the closure with this number out; `None` if it was called, or is about to be.
    pub(crate) fn unwatch_peer(&self, word: &Word, number: u64) -> Option<OnClose> {
        let mut guarded = lock(&self.0);
        let list = &mut guarded.as_mut()?.watches.as_mut()?.list;
        let at = list.iter().position(|watch| watch.0 == number)?;
        let (_, _, callback) = list.swap_remove(at);
        if list.is_empty() {
            word.clear(Events::WATCHED);
        }
        Some(callback)
    }

    /// Takes the closures out that are due: all of them if the peer is unreachable.
    pub(crate) fn take_watches(&self, word: &Word, is_unreachable: bool) -> Vec<OnClose> {
        let mut guarded = lock(&self.0);
        let watches = guarded.as_mut().and_then(|inner| inner.watches.as_mut());
        let Some(Watches { list, .. }) = watches.map(|watches| &mut **watches) else {
            return Vec::new();
        };
        let is_due = |gone| is_unreachable || gone == Gone::OrEnded;
        let due = list.extract_if(.., |watch| is_due(watch.1)).map(|(_, _, callback)| callback);
        let due = due.collect();
        if list.is_empty() {
            word.clear(Events::WATCHED);
        }
        due
    }

    /// Adds a close callback, or runs it here if the connection has ended.
    pub(crate) fn on_close(&self, word: &Word, callback: OnClose) {
        let mut callback = Some(callback);
        self.change(word, |inner| inner.on_close.extend(callback.take()));
        if let Some(callback) = callback {
            callback();
        }
    }

    /// Adds a membership in the group at this address; `false` if there is one, or the connection
    /// has ended.
    pub(crate) fn join(
        &self,
        word: &Word,
        membership: &Arc<dyn Membership>,
        group: *const (),
    ) -> bool {
        let mut is_new = false;
        let is_open = self.change(word, |inner| {
            is_new = inner.membership(group).is_none();
            if is_new {
                inner.memberships.push(Arc::downgrade(membership));
            }
        });
        is_open && is_new
    }

    /// Forgets the membership in the group at this address; says whether there was one.
    pub(crate) fn leave(&self, group: *const ()) -> bool {
        let mut guarded = lock(&self.0);
        let Some(inner) = &mut *guarded else { return false };
        let is_it = |it: &Weak<dyn Membership>| it.upgrade().is_none_or(|it| it.is_of(group));
        let before = inner.memberships.len();
        inner.memberships.retain(|it| !is_it(it));
        inner.memberships.len() < before
    }

    /// The membership in the group at this address.
    pub(crate) fn membership(&self, group: *const ()) -> Option<Arc<dyn Membership>> {
        self.look(|inner| inner.membership(group))
    }

    /// All memberships.
    pub(crate) fn memberships(&self) -> Vec<Arc<dyn Membership>> {
        let all = |inner: &Inner| inner.memberships.iter().filter_map(Weak::upgrade).collect();
        self.look(|inner| Some(all(inner))).unwrap_or_default()
    }

    /// All memberships, as the connection holds them.
    pub(crate) fn held_memberships(&self) -> Vec<Weak<dyn Membership>> {
        self.look(|inner| Some(inner.memberships.clone())).unwrap_or_default()
    }

    /// Drops everything after the connection has ended, and runs the close callbacks, the last
    /// added first.
    pub(crate) fn close(&self, word: &Word) {
        let mut guarded = lock(&self.0);
        word.note(Events::ENDED);
        let inner = guarded.take();
        drop(guarded);
        let Some(inner) = inner else { return };
        let Inner { jobs, on_close, watches, side, memberships, .. } = *inner;
        memberships.iter().filter_map(Weak::upgrade).for_each(|it| it.end());
        drop(side);
        // Added since the end was told.
        for (_, _, callback) in watches.into_iter().flat_map(|watches| watches.list) {
            guard("on_gone", callback).ok();
        }
        for job in jobs {
            job.forget();
        }
        for callback in on_close.into_iter().rev() {
            guard("a close callback", callback).ok();
        }
    }

    /// Whether `close` runs user code: a close callback, or the drop of a job.
    pub(crate) fn close_runs_user_code(&self) -> bool {
        let inner = lock(&self.0);
        inner.as_ref().is_some_and(|it| !it.on_close.is_empty() || !it.jobs.is_empty())
    }

    fn look<T>(&self, look: impl FnOnce(&Inner) -> Option<T>) -> Option<T> {
        look(lock(&self.0).as_ref()?)
    }

    /// Returns whether it did: not if the connection has ended.
    fn change(&self, word: &Word, change: impl FnOnce(&mut Inner)) -> bool {
        let mut guarded = lock(&self.0);
        let is_open = !word.events().has_any(Events::ENDED);
        if is_open {
            change(guarded.get_or_insert_default());
        }
        is_open
    }
}

impl Inner {
    fn membership(&self, group: *const ()) -> Option<Arc<dyn Membership>> {
        self.memberships.iter().filter_map(Weak::upgrade).find(|it| it.is_of(group))
    }
}

impl fmt::Debug for Extras {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Extras")
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::pure::task::Task;

    /// Otherwise a thread that changes it again and again would fill the queue of a busy reactor.
    #[test]
    fn the_reactor_is_told_once_of_changes_that_it_has_not_seen() {
        let (extras, task) = (Extras::new(&Limits::default()), Task::new(()));
        let rewatch = || extras.rewatch(&task.word, |_| ());
        assert!(rewatch());
        assert!(!rewatch() && !extras.reset_times(&Limits::default()));
        extras.next_look(Instant::now);
        assert!(extras.reset_times(&Limits::default()));
        assert!(!rewatch());
        extras.next_look(Instant::now);
        extras.close(&task.word);
        assert!(!rewatch());
    }
}
