//! Broadcasts: one message to a set of connections, by one pass over the members of each loop.
//!
//! ```text
//!   broadcast ──► log of the group ── one command to each loop that has members ──► pass
//!                 message, message        (none while a pass is under way there)      │ in turns
//!                      ▲                                                              ▼
//!                      └── a sender to one member, or its close, first sends ──► member, member, …
//!                          what is on its way to it: `catch_up`                  its output
//! ```
//! The calling thread sends nothing. A pass sends all messages that it finds in one piece to each
//! member, so the faster broadcasts come, the less each of them costs.
//!
//! How far a member is stands in the member (`member`), under the lock of its output, since a
//! pass and a sender may meet there. How far a loop is stands in the `log`, which keeps a message
//! until the last loop has it.

mod log;
mod member;
mod message;
mod pass;

use std::sync::Arc;
use std::{fmt, ptr};

use bytes::Bytes;

use super::extras::Membership;
use super::handle::Handle;
use super::written_members;
use crate::base::error::{Error, Result};
use crate::base::sync::{AtomicU64, Mutex, Ordering, lock};
use log::{Log, Pushed};
use member::Member;
use message::{Message, Totals};

pub use message::Broadcast;

/// How many bytes of broadcasts may be on their way to the loops by default.
const PENDING_AT_MOST: usize = 1 << 20;

/// A set of connections that are sent the same messages: the room of a chat, the subscribers of a
/// topic. It is a handle: clones are the same group, from any thread.
///
/// [`broadcast`](Self::broadcast) costs its caller a short lock and, for each loop that has
/// members, one command; the loops send. So it takes as long for two members as for a million, and
/// the loops share the work. A pass of a loop over its members sends in turns of at most 64 sends
/// or 1 MiB, between which the other connections of the loop are served.
///
/// Connections of servers, clients and dialers may be members, of any manager and of any dispatch
/// mode, and of several groups. A membership ends by itself when the connection ends; it costs some
/// hundred bytes. The drop of the last clone ends all memberships, after what was broadcast before
/// has been sent.
///
/// # Order
/// Members get the broadcasts of a group in one order, that of the calls. What any thread sends to
/// a member after a broadcast has returned, by [`Handle::send`] or by a flush, comes behind that
/// broadcast, and a close or [`remove`](Self::remove) lets the member have it first. What the
/// calling thread has written to a member and not flushed goes before the broadcast, which waits
/// for that flush at this member; what another thread has written is sent when it is flushed.
///
/// # Bounds
/// All members share the memory of a message, except that less than 4 KiB is copied where a socket
/// does not take it at once. A member above its high-water mark is sent nothing: [`SlowMembers`]
/// says what becomes of it. What is on its way to the loops is bounded by
/// [`GroupBuilder::pending_limit`].
///
/// ```
/// use netpoll_core::broadcast::Group;
/// use netpoll_core::{Connection, Result};
///
/// let room = Group::new();
/// let on_connect = {
///     let room = room.clone();
///     move |_: &mut (), conn: &mut Connection| -> Result<()> {
///         room.add(&conn.handle());
///         room.broadcast(format!("{} is here\n", conn.peer_addr()))
///     }
/// };
/// # let _ = on_connect;
/// assert!(room.is_empty());
/// room.broadcast("to no member")?;
/// # Ok::<(), netpoll_core::Error>(())
/// ```
#[derive(Clone)]
pub struct Group {
    inner: Arc<Inner>,
}

/// What becomes of a member that a message finds above its high-water mark.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SlowMembers {
    /// It is not sent the message, and stays a member.
    #[default]
    Skip,
    /// Its connection is closed by a reset, as [`Handle::abort`] does: for streams that make no
    /// sense with a gap.
    Drop,
}

/// Options of a [`Group`].
#[derive(Debug, Clone)]
#[must_use = "options do nothing until `build`"]
pub struct GroupBuilder {
    slow: SlowMembers,
    pending: usize,
}

/// What a group has sent so far. Each number is read by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct GroupStats {
    /// How many connections are members.
    pub members: usize,
    /// Messages that were broadcast.
    pub broadcasts: u64,
    /// Messages that outputs of members have accepted.
    pub sent: u64,
    /// Messages that members above their high-water mark were not sent.
    pub skipped: u64,
    /// Members that were dropped because they were above their high-water mark.
    pub dropped: u64,
    /// Bytes of messages that are on their way to the loops.
    pub pending: usize,
}

/// What the clones of a group, its members and its passes share.
struct Inner {
    slow: SlowMembers,
    log: Mutex<Log>,
    /// The number of messages so far, as in the log.
    end: AtomicU64,
    totals: Arc<Totals>,
}

impl Group {
    /// A group without members, with default options.
    #[must_use]
    pub fn new() -> Self {
        Self::with(&Self::builder())
    }

    /// Sets options.
    pub fn builder() -> GroupBuilder {
        GroupBuilder { slow: SlowMembers::default(), pending: PENDING_AT_MOST }
    }

    fn with(options: &GroupBuilder) -> Self {
        let log = Mutex::new(Log::new(options.pending));
        let (end, totals) = (AtomicU64::new(0), Arc::default());
        Self { inner: Arc::new(Inner { slow: options.slow, log, end, totals }) }
    }

    /// Makes a connection a member, from the next broadcast on. Returns whether it has: not if it
    /// was one already, nor if it has ended.
    pub fn add(&self, connection: &Handle) -> bool {
        let member = Member::new(connection.clone(), Arc::downgrade(&self.inner));
        // The connection first: it is one member of a group at the most. If it ends before the
        // member is in the log, the member does not come there.
        connection.shared().join(&(member.clone() as Arc<dyn Membership>), self.key())
            && lock(&self.inner.log).add(&member)
    }

    /// Ends a membership, after what was broadcast before was sent. Returns whether there was one.
    pub fn remove(&self, connection: &Handle) -> bool {
        let Some(member) = connection.shared().extras.membership(self.key()) else { return false };
        member.catch_up();
        member.end();
        connection.shared().extras.leave(self.key())
    }

    /// Whether the connection is a member.
    pub fn contains(&self, connection: &Handle) -> bool {
        connection.shared().extras.membership(self.key()).is_some()
    }

    /// How many connections are members.
    pub fn len(&self) -> usize {
        lock(&self.inner.log).len()
    }

    /// Whether no connection is a member.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Handles of all members, in no order. Costs a clone of each.
    pub fn members(&self) -> Vec<Handle> {
        lock(&self.inner.log).members().map(|member| member.handle.clone()).collect()
    }

    /// Sends a message to all that are members now, each in one piece. Returns at once, and never
    /// waits: the loops send it.
    ///
    /// # Errors
    /// [`Error::Full`] while more than [`pending_limit`](GroupBuilder::pending_limit) is on its way
    /// to the loops, because messages come faster than the loops send them, or because a callback
    /// that may not block holds one of them. The message is then sent to no member.
    pub fn broadcast(&self, message: impl Into<Bytes>) -> Result<()> {
        self.inner.broadcast(Message::new(message.into(), &self.inner.totals))
    }

    /// As [`broadcast`](Self::broadcast), but not to this connection: to all except the one that
    /// said it.
    ///
    /// # Errors
    /// As [`broadcast`](Self::broadcast).
    pub fn broadcast_except(&self, message: impl Into<Bytes>, except: &Handle) -> Result<()> {
        let message = Message::new(message.into(), &self.inner.totals);
        self.inner.broadcast(message.without(except.id()))
    }

    /// As [`broadcast`](Self::broadcast), and calls `receipt` once with the counts when the last
    /// loop has sent it: at once, on this thread, where there is no member, else on the loop's
    /// thread. It must not block; a panic in it is logged.
    ///
    /// # Errors
    /// As [`broadcast`](Self::broadcast); the receipt is then dropped.
    pub fn broadcast_with(
        &self,
        message: impl Into<Bytes>,
        receipt: impl FnOnce(Broadcast) + Send + 'static,
    ) -> Result<()> {
        let message = Message::new(message.into(), &self.inner.totals);
        self.inner.broadcast(message.with_receipt(Box::new(receipt)))
    }

    /// What it has sent so far.
    pub fn stats(&self) -> GroupStats {
        let (members, pending) = {
            let log = lock(&self.inner.log);
            (log.len(), log.pending())
        };
        let Totals { broadcasts, sent, skipped, dropped } = &*self.inner.totals;
        let [broadcasts, sent, skipped, dropped] =
            [broadcasts, sent, skipped, dropped].map(|it| it.load(Ordering::Relaxed));
        GroupStats { members, broadcasts, sent, skipped, dropped, pending }
    }

    /// What its memberships are found by among those of a connection: they keep the address.
    fn key(&self) -> *const () {
        Arc::as_ptr(&self.inner).cast()
    }
}

impl Inner {
    fn broadcast(self: &Arc<Self>, message: Message) -> Result<()> {
        written_members::defer(Arc::as_ptr(self).cast());
        let pushed = {
            let mut log = lock(&self.log);
            let pushed = log.push(message);
            self.end.store(log.end(), Ordering::Release);
            pushed
        };
        // Messages are dropped here, not under the lock: their memory and receipts are the user's.
        match pushed {
            Pushed::ToPass(reactors) => pass::begin(self, reactors),
            Pushed::NoMember(message) => drop(message),
            Pushed::Full(message) => {
                message.forget();
                return Err(Error::Full);
            }
        }
        self.totals.broadcasts.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// Takes a member out of the log. It sends nothing to it.
    fn remove(&self, member: &Member) {
        let sent = lock(&self.log).remove(member);
        drop(sent); // not under the lock: it may hold what is the user's
    }

    /// Has a connection forget its membership.
    fn forget(&self, member: &Member) {
        member.handle.shared().extras.leave(ptr::from_ref(self).cast());
    }
}

/// No clone is left, and no pass is under way.
impl Drop for Inner {
    fn drop(&mut self) {
        let members: Vec<_> = lock(&self.log).members().cloned().collect();
        for member in members {
            self.forget(&member);
        }
    }
}

impl GroupBuilder {
    /// What becomes of members above their high-water mark. Default: [`SlowMembers::Skip`].
    pub fn slow_members(mut self, slow: SlowMembers) -> Self {
        self.slow = slow;
        self
    }

    /// How many bytes of messages, each counted with some 100 bytes more, may be on their way to
    /// the loops before [`Group::broadcast`] fails. One message of any size is always allowed.
    /// Default 1 MiB.
    pub fn pending_limit(mut self, bytes: usize) -> Self {
        self.pending = bytes;
        self
    }

    /// Makes the group.
    ///
    /// # Errors
    /// [`Error::Config`] for a limit of 0.
    pub fn build(self) -> Result<Group> {
        if self.pending == 0 {
            return Err(Error::config("pending_limit is 0, so no broadcast would be sent"));
        }
        Ok(Group::with(&self))
    }
}

impl Default for Group {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Group {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Group")
            .field("slow_members", &self.inner.slow)
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}
