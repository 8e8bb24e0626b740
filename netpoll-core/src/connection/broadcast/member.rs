//! A member of a group: how it is sent messages, by a pass and by a send that must not overtake it.

use std::ptr;
use std::sync::{Arc, Weak};

use super::message::Message;
use super::{Inner, SlowMembers};
use crate::base::sync::{AtomicU64, AtomicUsize, Ordering, lock};
use crate::connection::backlog::Spent;
use crate::connection::extras::Membership;
use crate::connection::handle::Handle;
use crate::connection::output::Several;

/// The place of a member that is not in the log yet …
const NOT_YET: usize = usize::MAX;
/// … and of one that will not come there any more.
const LEFT: usize = usize::MAX - 1;

/// See the module.
pub(super) struct Member {
    pub(super) handle: Handle,
    group: Weak<Inner>,
    /// The number of the next message that it is sent. Written under the lock of its output, except
    /// before it is in the log.
    next: AtomicU64,
    /// Where it stands among the members of its loop. Used under the lock of the log.
    place: AtomicUsize,
}

impl Member {
    pub(super) fn new(handle: Handle, group: Weak<Inner>) -> Arc<Self> {
        let (next, place) = (AtomicU64::new(0), AtomicUsize::new(NOT_YET));
        Arc::new(Self { handle, group, next, place })
    }

    /// It stands at this place of the log, and is sent the messages from `next` on. `false`: it
    /// has left before it came.
    pub(super) fn enter(&self, place: usize, next: u64) -> bool {
        let is_welcome = self.place.load(Ordering::Relaxed) == NOT_YET;
        if is_welcome {
            self.next.store(next, Ordering::Relaxed);
            self.set_place(place);
        }
        is_welcome
    }

    pub(super) fn set_place(&self, place: usize) {
        self.place.store(place, Ordering::Relaxed);
    }

    /// From here on it has no place. Returns the one that it had.
    pub(super) fn take_place(&self) -> Option<usize> {
        let place = self.place.swap(LEFT, Ordering::Relaxed);
        (place < LEFT).then_some(place)
    }

    /// Whether it has a place.
    pub(super) fn is_in(&self) -> bool {
        self.place.load(Ordering::Relaxed) < LEFT
    }

    pub(super) fn next(&self) -> u64 {
        self.next.load(Ordering::Relaxed)
    }

    /// Sends what it has not got of `messages`, of which the first has the number `first`. Calls
    /// `sent` with the place of each that its output has accepted.
    pub(super) fn send(
        &self,
        group: &Inner,
        first: u64,
        messages: &[Arc<Message>],
        mut sent: impl FnMut(usize),
    ) {
        let (shared, id) = (self.handle.shared(), self.handle.id());
        let to = first + messages.len() as u64;
        let (from, taken, outcome) = loop {
            let from = self.next().max(first);
            if from >= to {
                return;
            }
            let mut spent = Spent::default();
            let due = messages[(from - first) as usize..].iter();
            let due = due.filter(|it| it.except != Some(id)).map(|it| &it.bytes);
            let several = Several { position: &self.next, from, to };
            let offered =
                shared.output.offer_several(several, due, &shared.group.policy, &mut spent);
            // Else another thread has sent some of them meanwhile.
            if let Some((taken, outcome)) = offered {
                break (from, taken, outcome);
            }
        };
        let is_open = self.handle.tell(outcome).is_ok();
        let due = messages.iter().enumerate().skip((from - first) as usize);
        let mut due = due.filter(|(_, it)| it.except != Some(id));
        due.by_ref().take(taken).for_each(|(place, _)| sent(place));
        if is_open {
            self.skip(group, due.map(|(_, message)| message));
        }
    }

    /// Its output was above the high-water mark before these messages.
    fn skip<'a>(&self, group: &Inner, mut messages: impl Iterator<Item = &'a Arc<Message>>) {
        match group.slow {
            SlowMembers::Skip => messages.for_each(|message| message.count_skipped()),
            SlowMembers::Drop => {
                let Some(message) = messages.next() else { return };
                message.count_skipped();
                message.count_dropped();
                group.remove(self);
                self.handle.abort();
            }
        }
    }
}

impl Membership for Member {
    fn catch_up(&self) {
        let Some(group) = self.group.upgrade() else { return };
        if group.end.load(Ordering::Acquire) == self.next() {
            return;
        }
        let (first, messages) = lock(&group.log).due(self);
        self.send(&group, first, &messages, |place| messages[place].count_sent(1));
    }

    fn is_written_here(&self) -> bool {
        self.handle.shared().unflushed.is_mine()
    }

    fn defer(&self) {
        let shared = self.handle.shared();
        shared.output.defer_next(&shared.group.policy, &shared.unflushed);
    }

    fn end(&self) {
        if let Some(group) = self.group.upgrade() {
            group.remove(self);
        }
    }

    fn is_of(&self, group: *const ()) -> bool {
        ptr::eq(self.group.as_ptr().cast(), group)
    }
}
