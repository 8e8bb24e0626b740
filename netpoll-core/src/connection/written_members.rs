//! The members of groups that this thread has written to and not flushed: what it broadcasts to
//! their groups comes behind those bytes.
//!
//! ```text
//!   first write to a member ──► WRITTEN, a list of this thread
//!                                  │ a broadcast of this thread to one of its groups
//!                                  ▼
//!                        the member's output defers: the pass queues the message there, behind the
//!                        bytes that the owner is about to flush
//! ```
//! The list holds those that were noted since their last flush, and some that were flushed
//! meanwhile. Each look at it takes the latter out.

use std::cell::RefCell;
use std::sync::Weak;

use super::extras::Membership;

thread_local! {
    static WRITTEN: RefCell<Vec<Weak<dyn Membership>>> = const { RefCell::new(Vec::new()) };
}

/// This thread writes to the connection of these memberships.
pub(super) fn note(memberships: impl Iterator<Item = Weak<dyn Membership>>) {
    let mut written = take();
    written.extend(memberships);
    put_back(written);
}

/// This thread is about to broadcast to the group at this address.
pub(super) fn defer(group: *const ()) {
    let written = take();
    for member in written.iter().filter_map(Weak::upgrade) {
        if member.is_of(group) {
            member.defer();
        }
    }
    put_back(written);
}

/// Out of its place, since the drop of a member may run code of the user, which may broadcast.
fn take() -> Vec<Weak<dyn Membership>> {
    // A thread that ends has no list any more.
    WRITTEN.try_with(RefCell::take).unwrap_or_default()
}

/// Keeps those that still have bytes of this thread.
fn put_back(mut written: Vec<Weak<dyn Membership>>) {
    written.retain(|it| it.upgrade().is_some_and(|it| it.is_written_here()));
    let _ = WRITTEN.try_with(|list| {
        let mut list = list.borrow_mut();
        if list.is_empty() {
            *list = written;
        } else {
            list.append(&mut written);
        }
    });
}
