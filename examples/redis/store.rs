//! The store: values under keys, and when keys end.

use std::collections::{BTreeSet, HashMap};
use std::time::Instant;

use crate::value::{Fault, Value};

const FULL: Fault = "OOM command not allowed when used memory > 'maxmemory'.";
/// About how many bytes an entry takes beside its key and its value.
const ENTRY: usize = 128;

type Key = Box<[u8]>;

/// ```text
///   entries    key ─► value, deadline?
///   deadlines  (deadline, key), soonest first: one for each entry that has a deadline
/// ```
pub(crate) struct Store {
    pub(crate) entries: HashMap<Key, Entry>,
    pub(crate) deadlines: BTreeSet<(Instant, Key)>,
    pub(crate) now: Instant,
    /// About how much memory the entries take, in bytes, and may take.
    used: usize,
    limit: usize,
}

pub(crate) struct Entry {
    value: Value,
    pub(crate) deadline: Option<Instant>,
}

impl Store {
    /// A store that takes about so many bytes at most.
    pub(crate) fn new(limit: usize, now: Instant) -> Self {
        Self { entries: HashMap::new(), deadlines: BTreeSet::new(), now, used: 0, limit }
    }

    /// Whether there is room for a command of that length. Memory that it needs beyond that is
    /// counted when it is done, so the store exceeds its limit by one command at most.
    pub(crate) fn room_for(&self, length: usize) -> Result<(), Fault> {
        if self.used + length > self.limit { Err(FULL) } else { Ok(()) }
    }

    /// Removes the keys that have expired.
    pub(crate) fn advance(&mut self, now: Instant) {
        self.now = now;
        while self.deadlines.first().is_some_and(|(deadline, _)| *deadline <= now) {
            if let Some((_, key)) = self.deadlines.pop_first() {
                self.take(&key);
            }
        }
    }

    /// How many keys there are.
    pub(crate) fn count(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn get(&self, key: &[u8]) -> Option<&Value> {
        self.entries.get(key).map(|entry| &entry.value)
    }

    /// Changes a value; a new one if there is none.
    pub(crate) fn change<T>(
        &mut self,
        key: &[u8],
        new: impl FnOnce() -> Value,
        change: impl FnOnce(&mut Value) -> T,
    ) -> T {
        if !self.entries.contains_key(key) {
            let value = new();
            self.used += ENTRY + key.len() + value.size();
            self.entries.insert(key.into(), Entry { value, deadline: None });
        }
        let Entry { value, .. } =
            self.entries.get_mut(key).expect("one is there, or was put there");
        self.used -= value.size();
        let outcome = change(value);
        self.used += value.size();
        outcome
    }

    /// Sets a text that does not expire.
    pub(crate) fn set(&mut self, key: &[u8], text: &[u8]) {
        self.end_at(key, None);
        self.change(key, || Value::Text(Vec::new()), |value| value.set(text));
    }

    pub(crate) fn remove(&mut self, key: &[u8]) -> bool {
        self.end_at(key, None);
        self.take(key)
    }

    fn take(&mut self, key: &[u8]) -> bool {
        let Some(Entry { value, .. }) = self.entries.remove(key) else { return false };
        self.used -= ENTRY + key.len() + value.size();
        true
    }
}
