//! The cache: entries under keys, the one written first goes first.

use std::collections::{BTreeMap, HashMap};
use std::time::Instant;

use netpoll::Bytes;

/// About how many bytes an entry takes beside its key, twice, and its value.
const ENTRY: usize = 200;

#[derive(Clone)]
pub(crate) struct Entry {
    pub(crate) flags: u32,
    pub(crate) ends: Option<Instant>,
    pub(crate) value: Bytes,
    /// A larger number with each change in the cache.
    pub(crate) version: u64,
}

/// ```text
///   entries   key ─► flags, end, value, version
///   by_age    version ─► key, oldest first: one for each entry
/// ```
#[derive(Default)]
pub(crate) struct Cache {
    entries: HashMap<Box<[u8]>, Entry>,
    by_age: BTreeMap<u64, Box<[u8]>>,
    last_version: u64,
    used: usize,
    limit: usize,
}

impl Cache {
    /// A cache that takes about so many bytes at most; it keeps the last entry in any case.
    pub(crate) fn new(limit: usize) -> Self {
        Self { limit, ..Self::default() }
    }

    /// The entry under a key, unless its time is over.
    pub(crate) fn get(&mut self, key: &[u8]) -> Option<&mut Entry> {
        if self.entries.get(key)?.ends.is_some_and(|ends| ends <= Instant::now()) {
            self.remove(key);
        }
        self.entries.get_mut(key)
    }

    /// Puts an entry under a key, as a new version. Drops the oldest ones while there are too many.
    pub(crate) fn put(&mut self, key: &[u8], mut entry: Entry) {
        self.remove(key);
        self.last_version += 1;
        entry.version = self.last_version;
        self.used += ENTRY + 2 * key.len() + entry.value.len();
        self.by_age.insert(entry.version, key.into());
        self.entries.insert(key.into(), entry);
        while self.used > self.limit && self.by_age.len() > 1 {
            let oldest = self.by_age.first_entry().expect("there is one").remove();
            self.remove(&oldest);
        }
    }

    pub(crate) fn remove(&mut self, key: &[u8]) -> bool {
        let Some(Entry { value, version, .. }) = self.entries.remove(key) else { return false };
        self.by_age.remove(&version);
        self.used -= ENTRY + 2 * key.len() + value.len();
        true
    }

    /// How many entries there are.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn clear(&mut self) {
        *self = Self { limit: self.limit, last_version: self.last_version, ..Self::default() };
    }
}
