//! The messages of a group that are on their way, and how far each loop is with them.
//!
//! ```text
//!     messages    [first][ … ][ … ] end          numbered from 0; the first leaves when all loops
//!     loop 0      ───────► done                  are past it
//!     loop 1      done ──────────────► target    a pass is under way: it goes through the members
//!                                                from the last to the first, in several turns
//! ```
//! All is plain data: the caller holds the lock, and drops what comes out after it.

use std::collections::VecDeque;
use std::sync::Arc;

use super::member::Member;
use super::message::Message;
use crate::connection::mailbox::Remote;

/// How many sends, and how many bytes, one turn of a pass is worth before other connections have
/// their turn.
const SENDS: usize = 64;
const BYTES: usize = 1 << 20;

/// See the module.
pub(super) struct Log {
    /// The number of the first message that is kept.
    first: u64,
    messages: VecDeque<Arc<Message>>,
    weight: usize,
    limit: usize,
    lanes: Vec<Lane>,
    members: usize,
}

/// The members that one loop has.
struct Lane {
    reactor: Arc<Remote>,
    members: Vec<Arc<Member>>,
    /// All of them have the messages before this number.
    done: u64,
    /// A pass is under way, or posted.
    pass: Option<Pass>,
}

#[derive(Clone, Copy)]
struct Pass {
    /// It sends the messages before this number; `None` before its first turn.
    target: Option<u64>,
    /// The members before this place are to be visited.
    left: usize,
}

/// What became of a message that was to be added.
pub(super) enum Pushed {
    /// To these loops the caller must post a pass.
    ToPass(Vec<Arc<Remote>>),
    NoMember(Message),
    Full(Message),
}

/// What one turn of a pass sends, and to which members.
pub(super) struct Turn {
    pub(super) members: Vec<Arc<Member>>,
    pub(super) messages: Vec<Arc<Message>>,
    /// The number of the first of these messages.
    pub(super) first: u64,
}

/// What follows a turn of a pass.
pub(super) struct After {
    pub(super) again: bool,
    /// Messages that all loops have, to be dropped without the lock.
    pub(super) sent: Vec<Arc<Message>>,
}

impl Log {
    pub(super) fn new(limit: usize) -> Self {
        let (messages, lanes) = (VecDeque::new(), Vec::new());
        Self { first: 0, messages, weight: 0, limit, lanes, members: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.members
    }

    pub(super) fn members(&self) -> impl Iterator<Item = &Arc<Member>> {
        self.lanes.iter().flat_map(|lane| &lane.members)
    }

    /// The bytes that are on their way.
    pub(super) fn pending(&self) -> usize {
        self.weight
    }

    /// The number of the next message.
    pub(super) fn end(&self) -> u64 {
        self.first + self.messages.len() as u64
    }

    /// Adds a message, if there is a member to send it to and room for it.
    pub(super) fn push(&mut self, message: Message) -> Pushed {
        let weight = self.weight.saturating_add(message.weight());
        if weight > self.limit && !self.messages.is_empty() {
            return Pushed::Full(message);
        }
        if self.members == 0 {
            return Pushed::NoMember(message);
        }
        self.weight = weight;
        self.messages.push_back(Arc::new(message));
        let idle = self.lanes.iter_mut().filter(|lane| lane.pass.is_none());
        let begun = idle.map(|lane| {
            lane.pass = Some(Pass { target: None, left: 0 });
            lane.reactor.begin_pass();
            lane.reactor.clone()
        });
        Pushed::ToPass(begun.collect())
    }

    /// Adds a member, which is sent the messages from now on. `false`: it has left already.
    pub(super) fn add(&mut self, member: &Arc<Member>) -> bool {
        let end = self.end();
        let reactor = member.handle.remote();
        let place = self.position(reactor);
        let members = place.map_or(0, |place| self.lanes[place].members.len());
        if !member.enter(members, end) {
            return false;
        }
        self.members += 1;
        if let Some(place) = place {
            self.lanes[place].members.push(member.clone());
        } else {
            let (reactor, members) = (reactor.clone(), vec![member.clone()]);
            self.lanes.push(Lane { reactor, members, done: end, pass: None });
        }
        true
    }

    /// Takes a member out, if it is there. Returns messages to drop without the lock.
    pub(super) fn remove(&mut self, member: &Member) -> Vec<Arc<Message>> {
        let Some(place) = member.take_place() else { return Vec::new() };
        let Some(at) = self.position(member.handle.remote()) else { return Vec::new() };
        let lane = &mut self.lanes[at];
        lane.members.swap_remove(place);
        if let Some(moved) = lane.members.get(place) {
            // A pass goes from the last to the first: what moved forward is visited again, and has
            // nothing left to get.
            moved.set_place(place);
        }
        self.members -= 1;
        if lane.members.is_empty() && lane.pass.is_none() {
            self.lanes.swap_remove(at);
        }
        self.drop_sent()
    }

    /// Takes all members of a loop out, which has ended.
    pub(super) fn abandon(
        &mut self,
        reactor: &Arc<Remote>,
    ) -> (Vec<Arc<Member>>, Vec<Arc<Message>>) {
        let Some(at) = self.position(reactor) else { return (Vec::new(), Vec::new()) };
        let lane = self.lanes.swap_remove(at);
        if lane.pass.is_some() {
            lane.reactor.end_pass();
        }
        self.members -= lane.members.len();
        for member in &lane.members {
            member.take_place();
        }
        (lane.members, self.drop_sent())
    }

    /// The messages that this member has yet to be sent, and the number of the first.
    pub(super) fn due(&self, member: &Member) -> (u64, Vec<Arc<Message>>) {
        let first = if member.is_in() { member.next() } else { self.end() };
        (first, self.between(first, self.end()))
    }

    /// The next turn of a pass; `None` if the loop has no member any more.
    pub(super) fn begin_turn(&mut self, reactor: &Arc<Remote>) -> Option<Turn> {
        let (end, at) = (self.end(), self.position(reactor)?);
        let Lane { members, done, pass, .. } = &self.lanes[at];
        let (first, all) = (*done, members.len());
        let Pass { target, left } = (*pass)?;
        let (target, left) = target.map_or((end, all), |target| (target, left.min(all)));
        let messages = self.between(first, target);
        let bytes: usize = messages.iter().map(|it| it.bytes.len()).sum();
        let count = (BYTES / bytes.max(1)).clamp(1, SENDS).min(left);
        let members = members[left - count..left].to_vec();
        self.lanes[at].pass = Some(Pass { target: Some(target), left: left - count });
        Some(Turn { members, messages, first })
    }

    /// Ends a turn of a pass; the pass goes on while there are members or messages.
    pub(super) fn end_turn(&mut self, reactor: &Arc<Remote>) -> After {
        let end = self.end();
        let Some(at) = self.position(reactor) else {
            return After { again: false, sent: Vec::new() };
        };
        let lane = &mut self.lanes[at];
        if let Some(Pass { target: Some(target), left: 0 }) = lane.pass {
            lane.done = target;
            lane.pass = (target < end).then_some(Pass { target: None, left: 0 });
        }
        if lane.members.is_empty() {
            lane.pass = None;
        }
        let again = lane.pass.is_some();
        if !again {
            lane.reactor.end_pass();
        }
        if lane.members.is_empty() {
            self.lanes.swap_remove(at);
        }
        After { again, sent: self.drop_sent() }
    }

    fn position(&self, reactor: &Arc<Remote>) -> Option<usize> {
        self.lanes.iter().position(|lane| Arc::ptr_eq(&lane.reactor, reactor))
    }

    fn between(&self, from: u64, to: u64) -> Vec<Arc<Message>> {
        let place = |number: u64| number.saturating_sub(self.first) as usize;
        self.messages.range(place(from)..place(to)).cloned().collect()
    }

    /// Takes out the messages that all loops have.
    fn drop_sent(&mut self) -> Vec<Arc<Message>> {
        // A loop without a pass has all.
        let busy = self.lanes.iter().filter(|lane| lane.pass.is_some());
        let all_have = busy.map(|lane| lane.done).min().unwrap_or(self.end());
        let count = all_have.saturating_sub(self.first) as usize;
        let sent: Vec<_> = self.messages.drain(..count).collect();
        self.first += sent.len() as u64;
        self.weight -= sent.iter().map(|it| it.weight()).sum::<usize>();
        sent
    }
}
