//! Which requests wait for their response, by ids that are reused as late as possible.
//!
//! ```text
//!    31 ............. 16 15 .............. 0
//!   [ generation        ][ slot             ]
//! ```
//! Many protocols have 32 bits for a request's number, so an id has no more. Slots are reused in
//! the order in which they were freed, and only once there are [`SLOTS_AT_LEAST`] of them: an id
//! comes again after 67 million requests at the earliest. A slot keeps the fate of its last request
//! until it is reused, so a response that comes late or twice is distinguished from one with an
//! unknown id. The id of a request that was given up is not reused before its response has come,
//! however long that takes: the late response would be taken for that of another request.

use std::collections::{HashSet, VecDeque};

/// How many slots there are before one is reused.
const SLOTS_AT_LEAST: usize = 1024;
/// As many as an id can tell apart.
pub(super) const SLOTS_AT_MOST: usize = 1 << 16;

/// How many responses to requests that were given up may be outstanding: 4 to 16 MiB of ids.
const OWED_AT_MOST: usize = 1 << 20;

/// The waiters, by id.
#[derive(Debug)]
pub(super) struct Pending<W> {
    slots: Vec<Slot<W>>,
    free: VecDeque<u16>,
    most: usize,
    /// Ids that were given up and may still get their response.
    owed: HashSet<u32>,
}

#[derive(Debug)]
struct Slot<W> {
    generation: u16,
    fate: Fate<W>,
}

#[derive(Debug)]
enum Fate<W> {
    Waits(W),
    Answered,
    GivenUp,
    /// The request was not sent.
    Withdrawn,
}

/// What a response belongs to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Match<W> {
    Waiter(W),
    /// Its request was given up.
    Late,
    /// Its request has a response.
    Duplicate,
    /// No request had that id.
    Unknown,
}

impl<W> Pending<W> {
    /// `most`: how many may wait at once.
    pub(super) fn new(most: usize) -> Self {
        let most = most.min(SLOTS_AT_MOST);
        Self { slots: Vec::new(), free: VecDeque::new(), most, owed: HashSet::new() }
    }

    pub(super) fn waiting(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// An id for one more waiter; `None` while as many wait as may.
    pub(super) fn insert(&mut self, waiter: W) -> Option<u32> {
        if self.waiting() >= self.most {
            return None;
        }
        let fate = Fate::Waits(waiter);
        let grow = self.slots.len() < SLOTS_AT_LEAST.min(SLOTS_AT_MOST) || self.free.is_empty();
        let index = match self.free.pop_front() {
            Some(index) if !grow => {
                let generation = self.next_generation(index);
                self.slots[usize::from(index)] = Slot { generation, fate };
                index
            }
            other => {
                self.free.extend(other);
                self.free.rotate_right(usize::from(other.is_some()));
                self.slots.push(Slot { generation: 0, fate });
                (self.slots.len() - 1) as u16
            }
        };
        Some(id(self.slots[usize::from(index)].generation, index))
    }

    /// Whether so many responses to requests that were given up are outstanding that ids run short.
    pub(super) fn is_exhausted(&self) -> bool {
        self.owed.len() >= OWED_AT_MOST
    }

    /// The slot's next generation under which no response is outstanding.
    fn next_generation(&self, index: u16) -> u16 {
        let last = self.slots[usize::from(index)].generation;
        let mut later = (1..=u16::MAX).map(|after| last.wrapping_add(after));
        later.find(|&it| !self.owed.contains(&id(it, index))).unwrap_or(last)
    }

    /// Takes out the waiter that the response with this id belongs to.
    pub(super) fn answer(&mut self, id: u32) -> Match<W> {
        if !self.owed.is_empty() {
            self.owed.remove(&id);
        }
        let (generation, index) = ((id >> 16) as u16, id as u16);
        let Some(slot) = self.slots.get_mut(usize::from(index)) else { return Match::Unknown };
        match slot.generation.wrapping_sub(generation) {
            0 => {}
            // Of an earlier request: its fate is forgotten, but the id was in use.
            1..0x8000 => return Match::Late,
            _ => return Match::Unknown,
        }
        match std::mem::replace(&mut slot.fate, Fate::Answered) {
            Fate::Waits(waiter) => {
                self.free.push_back(index);
                Match::Waiter(waiter)
            }
            Fate::Answered => Match::Duplicate,
            Fate::GivenUp => {
                slot.fate = Fate::GivenUp;
                Match::Late
            }
            Fate::Withdrawn => {
                slot.fate = Fate::Withdrawn;
                Match::Unknown
            }
        }
    }

    /// Takes out a waiter that waits no more. `None`: it was answered already.
    pub(super) fn give_up(&mut self, id: u32) -> Option<W> {
        let waiter = self.take(id, Fate::GivenUp)?;
        self.owed.insert(id);
        Some(waiter)
    }

    /// Takes out a waiter after its request was not sent.
    pub(super) fn withdraw(&mut self, id: u32) -> Option<W> {
        self.take(id, Fate::Withdrawn)
    }

    fn take(&mut self, id: u32, fate: Fate<W>) -> Option<W> {
        let index = id as u16;
        let slot = self.slots.get_mut(usize::from(index))?;
        if slot.generation != (id >> 16) as u16 || !matches!(slot.fate, Fate::Waits(_)) {
            return None;
        }
        self.free.push_back(index);
        match std::mem::replace(&mut slot.fate, fate) {
            Fate::Waits(waiter) => Some(waiter),
            _ => None,
        }
    }

    /// Takes out all waiters, as if each had given up.
    pub(super) fn take_all(&mut self) -> Vec<W> {
        let mut waiters = Vec::new();
        for (index, slot) in self.slots.iter_mut().enumerate() {
            match std::mem::replace(&mut slot.fate, Fate::GivenUp) {
                Fate::Waits(waiter) => {
                    self.free.push_back(index as u16);
                    waiters.push(waiter);
                }
                past => slot.fate = past,
            }
        }
        waiters
    }
}

fn id(generation: u16, slot: u16) -> u32 {
    u32::from(generation) << 16 | u32::from(slot)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_response_finds_the_one_it_is_for_once() {
        let mut pending = Pending::new(10);
        let (a, b) = (pending.insert('a').unwrap(), pending.insert('b').unwrap());
        assert_ne!(a, b);
        assert_eq!(pending.answer(b), Match::Waiter('b'));
        assert_eq!(pending.answer(b), Match::Duplicate);
        assert_eq!(pending.answer(a), Match::Waiter('a'));
        assert_eq!((pending.answer(77), pending.answer(5 << 16)), (Match::Unknown, Match::Unknown));
        assert_eq!(pending.waiting(), 0);
    }

    #[test]
    fn a_call_that_gave_up_is_late_and_not_given_up_twice() {
        let mut pending = Pending::new(10);
        let id = pending.insert('a').unwrap();
        assert_eq!(pending.give_up(id), Some('a'));
        assert_eq!(pending.give_up(id), None);
        assert_eq!((pending.answer(id), pending.answer(id)), (Match::Late, Match::Late));
        let id = pending.insert('b').unwrap();
        assert_eq!(pending.answer(id), Match::Waiter('b'));
        assert_eq!(pending.give_up(id), None);
    }

    #[test]
    fn no_more_wait_than_may() {
        let mut pending = Pending::new(2);
        let first = pending.insert(1).unwrap();
        assert!(pending.insert(2).is_some() && pending.insert(3).is_none());
        pending.give_up(first);
        assert!(pending.insert(4).is_some());
        assert_eq!(pending.take_all(), [2, 4]);
        assert_eq!((pending.waiting(), pending.take_all()), (0, vec![]));
        assert_eq!(pending.answer(1), Match::Late);
        let mut all = Pending::new(usize::MAX);
        assert!((0..SLOTS_AT_MOST).all(|_| all.insert(()).is_some()) && all.insert(()).is_none());
    }

    #[test]
    fn an_id_whose_response_is_outstanding_does_not_come_again() {
        let mut pending = Pending::new(8);
        let given_up = pending.insert(0).unwrap();
        assert_eq!(pending.give_up(given_up), Some(0));
        // After 67 million requests its slot is about to use it again.
        pending.slots[0].generation = u16::MAX;
        let mut later = Vec::new();
        for _ in 0..SLOTS_AT_LEAST + 10 {
            later.push(pending.insert(1).unwrap());
            assert_eq!(pending.answer(*later.last().unwrap()), Match::Waiter(1));
        }
        assert!(!later.contains(&given_up), "a late response would be another request's");
        assert!(later.contains(&(1 << 16)), "but its slot is used");
        assert_eq!(pending.answer(given_up), Match::Late);
        assert!(pending.owed.is_empty());
    }

    #[test]
    fn what_was_not_sent_is_owed_no_response() {
        let mut pending = Pending::new(1);
        let id = pending.insert('a').unwrap();
        assert_eq!((pending.withdraw(id), pending.withdraw(id)), (Some('a'), None));
        assert_eq!((pending.waiting(), pending.owed.len()), (0, 0));
        assert_eq!(pending.answer(id), Match::Unknown);
        assert!(pending.insert('b').is_some());
    }

    #[test]
    fn responses_that_are_outstanding_are_bounded() {
        let mut pending = Pending::new(1);
        while !pending.is_exhausted() {
            let id = pending.insert(()).unwrap();
            pending.give_up(id);
        }
        assert_eq!(pending.owed.len(), OWED_AT_MOST);
    }

    #[test]
    fn ids_come_again_late() {
        let mut pending = Pending::new(8);
        let mut seen = HashSet::new();
        let first = pending.insert(0).unwrap();
        pending.answer(first);
        for _ in 0..SLOTS_AT_LEAST * 100 {
            let id = pending.insert(0).unwrap();
            assert!(seen.insert(id) && id != first, "{id:x} came again");
            assert_eq!(pending.answer(id), Match::Waiter(0));
        }
        assert_eq!(pending.slots.len(), SLOTS_AT_LEAST);
        assert_eq!(pending.answer(first), Match::Late);
    }
}
