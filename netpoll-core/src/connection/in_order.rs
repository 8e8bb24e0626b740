//! The order of what is sent to a member of groups: what was broadcast before goes first.

use std::sync::Arc;

use netpoll_buffer::LinkBuffer;

use super::extras::Membership;
use super::shared::Shared;
use super::written_members;
use crate::base::error::Result;
use crate::pure::task::Events;

impl Shared {
    /// As [`check_over`](Self::check_over), before a send: what was broadcast to a member of a
    /// group before goes first. For others it costs no more than `check_over`.
    #[inline]
    pub(crate) fn check_before_send(&self) -> Result<()> {
        let events = self.task.word.events();
        if events.has_any(Events::OVER.or(Events::MEMBER)) {
            self.catch_up();
            return self.check_over();
        }
        Ok(())
    }

    /// Sends what was broadcast to its groups before and is still on its way to it.
    #[cold]
    pub(crate) fn catch_up(&self) {
        if !self.task.word.events().has_any(Events::MEMBER) {
            return;
        }
        self.unflushed.join(); // again, where a write on another thread has hidden it
        if self.reactor.has_passes() {
            self.extras.memberships().iter().for_each(|it| it.catch_up());
        }
    }

    /// Becomes a member of the group at this address; `false` if it is one, or has ended.
    pub(crate) fn join(&self, membership: &Arc<dyn Membership>, group: *const ()) -> bool {
        // First: a send after the membership has begun must find it.
        self.task.word.note(Events::MEMBER);
        let has_joined = self.extras.join(&self.task.word, membership, group);
        if has_joined {
            self.unflushed.join();
            self.note_written();
        }
        has_joined
    }

    /// If this thread has written to a member of groups and not flushed, notes that for its
    /// broadcasts.
    #[cold]
    pub(crate) fn note_written(&self) {
        if self.unflushed.is_mine() {
            written_members::note(self.extras.held_memberships().into_iter());
        }
    }

    /// As [`send`](Self::send), behind what was broadcast before.
    #[inline]
    pub(crate) fn send_in_order(&self, bytes: &mut LinkBuffer) -> Result<()> {
        if self.task.word.events().has_any(Events::MEMBER) {
            self.catch_up();
        }
        self.send(bytes)
    }
}
