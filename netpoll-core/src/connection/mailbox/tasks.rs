//! The tasks of a reactor that are no connections: those that wait to be run, and those that live.
//!
//! ```text
//!     spawn ──► registry, woken ─┐
//!     run_task ──────► woken ────┴─► take_woken: the core, several times a turn
//!     forget_task ◄── a task that has ended, on any thread
//! ```
//! They stand under the lock of the commands, and beside them: a task that wakes another one on the
//! same loop is not to wait for the end of the turn, as commands do.

use std::collections::VecDeque;
use std::mem;
use std::sync::Arc;

use super::Remote;
use crate::base::sync::{Ordering, lock};
use crate::connection::scheduled::Scheduled;
use crate::connection::spawned::{Spawned, TaskGroup};
use crate::pure::slab::{Slab, Token};

/// See the module. The number of woken ones is bounded by that of the tasks, as a task is scheduled
/// at most once.
#[derive(Debug)]
pub(super) struct Tasks {
    woken: VecDeque<Scheduled>,
    registry: Slab<Arc<dyn Spawned>>,
    live: usize,
    /// The reactor stops: it takes no more tasks.
    closed: bool,
}

impl Default for Tasks {
    fn default() -> Self {
        Self { woken: VecDeque::new(), registry: Slab::new(), live: 0, closed: false }
    }
}

impl Remote {
    /// Registers a task of `group`, which is scheduled, and has it run. Gives it back when the
    /// group takes no more, and when the reactor stops or has ended.
    pub(crate) fn spawn(
        &self,
        task: Arc<dyn Spawned>,
        group: &TaskGroup,
    ) -> Result<(), Arc<dyn Spawned>> {
        let mut queue = lock(&self.commands);
        if queue.dead || queue.tasks.closed || group.is_closed() {
            return Err(task);
        }
        let tasks = &mut queue.tasks;
        task.set_token(tasks.registry.insert(task.clone()));
        tasks.live += 1;
        tasks.woken.push_back(Scheduled::Task(task));
        self.has_woken.store(true, Ordering::Relaxed);
        drop(queue);
        self.wake_for_task();
        Ok(())
    }

    /// Wakes the reactor for a task that was queued. Where the reactor is called already, it takes
    /// the lock of the queue after it has answered, and this thread has had the lock before: so a
    /// call that is seen here is one whose answer will find the task.
    fn wake_for_task(&self) {
        if !self.waker.is_heard() {
            self.wake();
        }
    }

    /// Has a scheduled task run, or gives it back when the reactor has ended.
    pub(crate) fn run_task(&self, task: Scheduled) -> Result<(), Scheduled> {
        let mut queue = lock(&self.commands);
        if queue.dead {
            return Err(task);
        }
        queue.tasks.woken.push_back(task);
        self.has_woken.store(true, Ordering::Relaxed);
        drop(queue);
        self.wake_for_task();
        Ok(())
    }

    /// A registered task has ended.
    pub(crate) fn forget_task(&self, token: Token) {
        let mut queue = lock(&self.commands);
        let task = queue.tasks.registry.remove(token);
        queue.tasks.live -= usize::from(task.is_some());
        let was_last = queue.tasks.live == 0 && queue.tasks.closed;
        drop(queue);
        drop(task);
        if was_last {
            // A reactor that stops waits for it.
            self.wake();
        }
    }

    /// The registered tasks of a group, or all.
    pub(crate) fn tasks_of(&self, group: Option<&Arc<TaskGroup>>) -> Vec<Arc<dyn Spawned>> {
        let is_of = |task: &&Arc<dyn Spawned>| {
            group.is_none_or(|group| Arc::ptr_eq(&task.place().group, group))
        };
        lock(&self.commands).tasks.registry.iter().filter(is_of).cloned().collect()
    }

    /// Cancels the tasks of a group.
    pub(crate) fn abort_tasks(&self, group: &Arc<TaskGroup>) {
        for task in self.tasks_of(Some(group)) {
            if task.note_abort() {
                crate::connection::schedule::schedule_task(task);
            }
        }
    }

    /// Whether a task was woken that the reactor has not taken. For the reactor: after it has
    /// answered a wake, it sees what was woken before that.
    #[inline]
    pub(crate) fn has_woken(&self) -> bool {
        self.has_woken.load(Ordering::Relaxed)
    }

    /// For the reactor: takes the woken tasks in exchange for an empty list.
    pub(crate) fn take_woken(&self, empty: &mut VecDeque<Scheduled>) {
        let mut queue = lock(&self.commands);
        mem::swap(empty, &mut queue.tasks.woken);
        self.has_woken.store(false, Ordering::Relaxed);
    }

    /// Takes the task that was woken first, if it is such a one. For a thread that has put down the
    /// core; `is_such` runs under the lock.
    pub(crate) fn take_one_woken(
        &self,
        is_such: impl FnOnce(&Scheduled) -> bool,
    ) -> Option<Scheduled> {
        if !self.has_woken() {
            return None;
        }
        let mut queue = lock(&self.commands);
        let woken = &mut queue.tasks.woken;
        let taken = if woken.front().is_some_and(is_such) { woken.pop_front() } else { None };
        if woken.is_empty() {
            self.has_woken.store(false, Ordering::Relaxed);
        }
        taken
    }

    /// For the reactor: whether it has a task that has not ended.
    pub(crate) fn has_tasks(&self) -> bool {
        lock(&self.commands).tasks.live > 0
    }

    /// For the reactor: it takes no more tasks.
    pub(crate) fn refuse_tasks(&self) {
        lock(&self.commands).tasks.closed = true;
    }
}

#[cfg(all(test, loom))]
mod models;
