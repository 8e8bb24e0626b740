//! The questions under way to another server, by the id that they have there.

use std::collections::hash_map::RandomState;
use std::collections::{HashMap, VecDeque};
use std::hash::BuildHasher;
use std::net::IpAddr;

use netpoll::{Address, DatagramHandle};

/// A question that is so many behind is given up: clients ask again.
const PENDING_MAX: usize = 1000;

#[derive(Debug, Default)]
pub(crate) struct Pending {
    asked: HashMap<u16, (u64, Asked)>,
    /// The last ones, the oldest first, also those that were answered: id and number.
    order: VecDeque<(u16, u64)>,
    count: u64,
    /// Ids that can't be guessed: a forged answer would be kept.
    random: RandomState,
}

/// A query, and where its answer goes.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) query: Vec<u8>,
    pub(crate) local: Option<IpAddr>,
    pub(crate) peer: Address,
    pub(crate) through: DatagramHandle,
}

impl Pending {
    /// Adds a question: its id.
    pub(crate) fn add(&mut self, asked: Asked) -> u16 {
        if self.order.len() >= PENDING_MAX
            && let Some((id, number)) = self.order.pop_front()
            && self.asked.get(&id).is_some_and(|(its, _)| *its == number)
        {
            self.asked.remove(&id);
        }
        // There are fewer questions than ids, so this ends.
        let id = loop {
            self.count += 1;
            let id = self.random.hash_one(self.count) as u16;
            if !self.asked.contains_key(&id) {
                break id;
            }
        };
        self.order.push_back((id, self.count));
        self.asked.insert(id, (self.count, asked));
        id
    }

    pub(crate) fn find(&self, id: u16) -> Option<&Asked> {
        self.asked.get(&id).map(|(_, asked)| asked)
    }

    pub(crate) fn take(&mut self, id: u16) -> Option<Asked> {
        self.asked.remove(&id).map(|(_, asked)| asked)
    }
}
