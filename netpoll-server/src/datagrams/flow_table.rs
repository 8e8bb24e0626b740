//! The flows of one socket: found by their addresses, and in the order of their last activity.
//!
//! ```text
//!     places  (peer, local) ──► slot ──► Entry { key, session, last, older, newer }
//!     two lists through the entries    oldest ◄─► … ◄─► newest
//!         unconfirmed: the address of the peer may be forged; they make room first
//!         confirmed:   the program knows that the peer receives at its address
//! ```
//! All flows have the same idle time. So the lists are in the order in which flows expire, one
//! timer for the oldest is enough, and activity costs a move to the end of a list.
//!
//! It has no clock, and calls no code of the user but destructors.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use netpoll_core::{Address, later};

/// What makes two datagrams belong to the same flow.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct FlowKey {
    pub(super) peer: Address,
    /// The address of this machine that they were sent to, where the socket is bound to several.
    pub(super) local: Option<IpAddr>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct FlowTable<F> {
    /// A map with a secret of its own: no peer can choose addresses that all fall into one place.
    places: HashMap<FlowKey, Slot>,
    entries: Vec<Place<F>>,
    free: Slot,
    unconfirmed: List,
    confirmed: List,
    /// The latest time that it was given.
    latest: Option<Instant>,
}

/// The place of an entry.
pub(super) type Slot = u32;

const NONE: Slot = Slot::MAX;
/// A table with room for more than these gives its memory back when it is empty.
const KEPT: usize = 64;

#[derive(Debug)]
enum Place<F> {
    Free { next: Slot },
    Used(Entry<F>),
}

#[derive(Debug)]
struct Entry<F> {
    key: FlowKey,
    session: F,
    last: Instant,
    is_confirmed: bool,
    older: Slot,
    newer: Slot,
}

#[derive(Debug, Clone, Copy)]
struct List {
    oldest: Slot,
    newest: Slot,
}

impl<F> FlowTable<F> {
    pub(super) fn new() -> Self {
        let none = List { oldest: NONE, newest: NONE };
        Self {
            places: HashMap::new(),
            entries: Vec::new(),
            free: NONE,
            unconfirmed: none,
            confirmed: none,
            latest: None,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.places.len()
    }

    pub(super) fn find(&self, key: &FlowKey) -> Option<Slot> {
        self.places.get(key).copied()
    }

    /// The flow in a slot that has one.
    pub(super) fn session(&mut self, slot: Slot) -> Option<&mut F> {
        self.entry(slot).map(|it| &mut it.session)
    }

    /// Adds a flow that is not there, as unconfirmed.
    pub(super) fn insert(&mut self, key: FlowKey, session: F, now: Instant) -> Slot {
        let last = self.not_before(now);
        let (older, newer, is_confirmed) = (NONE, NONE, false);
        let entry = Entry { key: key.clone(), session, last, is_confirmed, older, newer };
        let slot = self.place(entry);
        self.places.insert(key, slot);
        self.append(slot);
        slot
    }

    /// Notes activity of a flow.
    pub(super) fn touch(&mut self, slot: Slot, now: Instant) {
        let now = self.not_before(now);
        let is_newest = [self.unconfirmed.newest, self.confirmed.newest].contains(&slot);
        if !is_newest {
            self.unlink(slot);
        }
        let Some(entry) = self.entry(slot) else { return };
        entry.last = now;
        if !is_newest {
            self.append(slot);
        }
    }

    /// The peer of this flow is where it says. That is activity, too.
    pub(super) fn confirm(&mut self, slot: Slot, now: Instant) {
        let now = self.not_before(now);
        self.unlink(slot);
        if let Some(entry) = self.entry(slot) {
            (entry.is_confirmed, entry.last) = (true, now);
            self.append(slot);
        }
    }

    /// Takes a flow out.
    pub(super) fn remove(&mut self, slot: Slot) -> Option<(FlowKey, F)> {
        self.entry(slot)?;
        self.unlink(slot);
        let free = Place::Free { next: std::mem::replace(&mut self.free, slot) };
        let Place::Used(Entry { key, session, .. }) =
            std::mem::replace(&mut self.entries[slot as usize], free)
        else {
            return None;
        };
        self.places.remove(&key);
        if self.places.is_empty() && self.entries.capacity() > KEPT {
            let latest = self.latest;
            *self = Self { latest, ..Self::new() };
        }
        Some((key, session))
    }

    /// The flow that makes room for another one: the one without activity for longest, of the
    /// unconfirmed ones if there are any.
    pub(super) fn victim(&self) -> Option<Slot> {
        let oldest = [self.unconfirmed.oldest, self.confirmed.oldest];
        oldest.into_iter().find(|&it| it != NONE)
    }

    /// As [`victim`](Self::victim), if there are any that are not confirmed.
    pub(super) fn unconfirmed_victim(&self) -> Option<Slot> {
        Some(self.unconfirmed.oldest).filter(|&it| it != NONE)
    }

    /// A flow that has had no activity for `idle`.
    pub(super) fn expired(&self, idle: Duration, now: Instant) -> Option<Slot> {
        let (last, slot) = self.oldest()?;
        (later(last, idle) <= now).then_some(slot)
    }

    /// When the next flow expires.
    pub(super) fn next_expiry(&self, idle: Duration) -> Option<Instant> {
        self.oldest().map(|(last, _)| later(last, idle))
    }

    fn oldest(&self) -> Option<(Instant, Slot)> {
        let oldest = [self.unconfirmed.oldest, self.confirmed.oldest].into_iter();
        oldest.filter_map(|slot| self.get(slot).map(|it| (it.last, slot))).min()
    }

    /// Time does not go back: the lists are in the order of the times in them.
    fn not_before(&mut self, now: Instant) -> Instant {
        *self.latest.insert(self.latest.map_or(now, |it| it.max(now)))
    }

    fn place(&mut self, entry: Entry<F>) -> Slot {
        let used = Place::Used(entry);
        if let Some(&Place::Free { next }) = self.entries.get(self.free as usize) {
            let slot = std::mem::replace(&mut self.free, next);
            self.entries[slot as usize] = used;
            return slot;
        }
        self.entries.push(used);
        (self.entries.len() - 1) as Slot
    }

    /// Puts an entry that is in no list at the end of its own.
    fn append(&mut self, slot: Slot) {
        let list = *self.list_of(slot);
        if let Some(entry) = self.entry(slot) {
            (entry.older, entry.newer) = (list.newest, NONE);
        }
        if let Some(before) = self.entry(list.newest) {
            before.newer = slot;
        }
        let list = self.list_of(slot);
        list.newest = slot;
        if list.oldest == NONE {
            list.oldest = slot;
        }
    }

    fn unlink(&mut self, slot: Slot) {
        let Some(&Entry { older, newer, .. }) = self.get(slot) else { return };
        match self.entry(older) {
            Some(before) => before.newer = newer,
            None => self.list_of(slot).oldest = newer,
        }
        match self.entry(newer) {
            Some(behind) => behind.older = older,
            None => self.list_of(slot).newest = older,
        }
    }

    fn list_of(&mut self, slot: Slot) -> &mut List {
        match self.get(slot) {
            Some(Entry { is_confirmed: true, .. }) => &mut self.confirmed,
            _ => &mut self.unconfirmed,
        }
    }

    fn get(&self, slot: Slot) -> Option<&Entry<F>> {
        match self.entries.get(slot as usize)? {
            Place::Used(entry) => Some(entry),
            Place::Free { .. } => None,
        }
    }

    fn entry(&mut self, slot: Slot) -> Option<&mut Entry<F>> {
        match self.entries.get_mut(slot as usize)? {
            Place::Used(entry) => Some(entry),
            Place::Free { .. } => None,
        }
    }
}

#[cfg(test)]
#[path = "flow_table_tests.rs"]
mod tests;
