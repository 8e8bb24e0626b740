//! Messages behind bytes that the owner has written and not flushed.
//!
//! ```text
//!   sent ──► the backlog │ bytes of the owner, │ deferred: what the same thread sent then,
//!                        │ not here yet        │ and all that others have sent since
//!                        └─────────────────────┴──────────────────────────────────────────
//!                          both at the owner's next flush, or at once without the first
//!                          where the owner can't flush any more
//! ```
//! Messages of other threads wait, too, since they may follow from one that was deferred: a chat
//! room sends its lines to all members in one order, from any thread.

use netpoll_buffer::LinkBuffer;

use super::queue::Queue;
use super::{FAILURE, FollowUp, Output};
use crate::base::error::Result;
use crate::base::sync::{Ordering, lock};
use crate::connection::backlog::{Backlog, Spent};
use crate::connection::policy::Policy;
use crate::connection::receipt::Receipt;
use crate::connection::unflushed::Unflushed;
use crate::pure::task::Events;

impl Output {
    /// As [`send`](Self::send), but not behind what this thread has written.
    pub(crate) fn send_ahead(&self, bytes: &mut LinkBuffer, policy: &Policy) -> Result<FollowUp> {
        let mut spent = Spent::default();
        let mut queue = lock(&self.queue);
        self.check_open(&queue)?;
        if queue.defers() {
            return Ok(self.defer(&mut queue, bytes, &mut None, policy, &mut spent));
        }
        self.push(&mut queue, bytes, &mut None, policy, &mut spent)
    }

    /// If this thread has written to it and not flushed, has the messages that come next wait for
    /// that flush.
    pub(crate) fn defer_next(&self, policy: &Policy, unflushed: &Unflushed) {
        let mut queue = lock(&self.queue);
        if !unflushed.is_mine() || self.check_open(&queue).is_err() {
            return;
        }
        unflushed.defer();
        let new = || Box::new(Backlog::new(&policy.memory));
        queue.backlog.get_or_insert_with(new).begin_to_defer(&policy.memory);
    }

    /// Keeps a message of a handle until the owner flushes.
    #[cold]
    pub(super) fn defer(
        &self,
        queue: &mut Queue,
        message: &mut LinkBuffer,
        receipt: &mut Option<Receipt>,
        policy: &Policy,
        spent: &mut Spent,
    ) -> FollowUp {
        let memory = &policy.memory;
        let backlog = queue.backlog.get_or_insert_with(|| Box::new(Backlog::new(memory)));
        backlog.defer(message, receipt, memory, spent);
        FollowUp { events: self.rise(queue, policy), ..FollowUp::NONE }
    }

    /// Sends what the owner has written, and then what was deferred behind it.
    #[cold]
    pub(super) fn flush_all(
        &self,
        queue: &mut Queue,
        written: &mut LinkBuffer,
        policy: &Policy,
        spent: &mut Spent,
    ) -> Result<FollowUp> {
        if let (Some(backlog), false) = (&mut queue.backlog, written.is_empty()) {
            backlog.append(written, &policy.memory, spent);
        }
        let next = self.send_released(queue, spent)?;
        Ok(FollowUp { events: next.events | self.rise(queue, policy), ..next })
    }

    /// Sends what was deferred: the owner sends no more.
    #[cold]
    pub(super) fn release(&self, queue: &mut Queue, spent: &mut Spent) -> FollowUp {
        let failed = FollowUp { events: FAILURE, ..FollowUp::NONE };
        self.send_released(queue, spent).unwrap_or(failed)
    }

    /// Whether messages wait for a flush that only this thread can make.
    pub(crate) fn defers_here(&self) -> bool {
        lock(&self.queue).backlog.as_ref().is_some_and(|backlog| backlog.defers_here())
    }

    fn send_released(&self, queue: &mut Queue, spent: &mut Spent) -> Result<FollowUp> {
        if let Some(backlog) = &mut queue.backlog {
            backlog.release(self.sent());
        }
        if self.is_blocked() {
            return Ok(FollowUp::NONE);
        }
        let next = self.send_backlog(queue, spent)?;
        if queue.backlog.is_none() {
            // No event follows that would say so.
            self.congested.store(false, Ordering::Release);
            self.wake(queue);
        }
        Ok(next)
    }

    /// Notes that the queue has risen above the high-water mark, if it has; returns the events.
    fn rise(&self, queue: &Queue, policy: &Policy) -> Events {
        let is_above = queue.pending() > policy.limits.output.high;
        let is_new = is_above && !self.congested.swap(true, Ordering::AcqRel);
        if is_new { Events::HIGH_WATER } else { Events::NONE }
    }
}
