//! The store: values under keys, and when keys end.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

use crate::value::{Fault, Value};

const INVALID_TIME: Fault = "ERR invalid expire time";

type Key = Box<[u8]>;

/// ```text
///   entries    key ─► value, deadline?
///   deadlines  (deadline, key), soonest first: one for each entry that has a deadline
/// ```
pub(crate) struct Store {
    entries: HashMap<Key, Entry>,
    deadlines: BTreeSet<(Instant, Key)>,
    now: Instant,
}

struct Entry {
    value: Value,
    deadline: Option<Instant>,
}

impl Store {
    pub(crate) fn new(now: Instant) -> Self {
        Self { entries: HashMap::new(), deadlines: BTreeSet::new(), now }
    }

    /// Lets time pass: keys whose time is over are gone.
    pub(crate) fn advance(&mut self, now: Instant) {
        self.now = now;
        while self.deadlines.first().is_some_and(|(deadline, _)| *deadline <= now) {
            if let Some((_, key)) = self.deadlines.pop_first() {
                self.entries.remove(&key);
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

    /// The value, to be changed; where there is none, a new one.
    pub(crate) fn get_or(&mut self, key: &[u8], new: impl FnOnce() -> Value) -> &mut Value {
        if !self.entries.contains_key(key) {
            self.entries.insert(key.into(), Entry { value: new(), deadline: None });
        }
        &mut self.entries.get_mut(key).expect("one is there, or was put there").value
    }

    /// Sets a text that stays.
    pub(crate) fn set(&mut self, key: &[u8], text: &[u8]) {
        if let Some(Entry { value, deadline: None }) = self.entries.get_mut(key) {
            return value.set(text);
        }
        self.end_at(key, None);
        self.get_or(key, || Value::Text(Vec::new())).set(text);
    }

    pub(crate) fn remove(&mut self, key: &[u8]) -> bool {
        self.end_at(key, None);
        self.entries.remove(key).is_some()
    }

    /// Sets a text that ends so many seconds from now.
    pub(crate) fn set_for(&mut self, key: &[u8], text: &[u8], seconds: i64) -> Result<(), Fault> {
        let deadline = self.deadline(seconds)?.ok_or(INVALID_TIME)?;
        self.set(key, text);
        self.end_at(key, Some(deadline));
        Ok(())
    }

    /// Lets a key end so many seconds from now; at once, if that is not positive. Returns whether
    /// there is such a key.
    pub(crate) fn expire(&mut self, key: &[u8], seconds: i64) -> Result<bool, Fault> {
        match self.deadline(seconds)? {
            Some(deadline) => Ok(self.end_at(key, Some(deadline))),
            None => Ok(self.remove(key)),
        }
    }

    /// Begun seconds until a key ends; -1 if it never does, -2 without such a key.
    pub(crate) fn seconds_left(&self, key: &[u8]) -> i64 {
        match self.entries.get(key) {
            None => -2,
            Some(Entry { deadline: None, .. }) => -1,
            Some(Entry { deadline: Some(deadline), .. }) => {
                let left = deadline.duration_since(self.now).as_millis().div_ceil(1000);
                i64::try_from(left).unwrap_or(i64::MAX)
            }
        }
    }

    /// So many seconds from now, if that is not past.
    fn deadline(&self, seconds: i64) -> Result<Option<Instant>, Fault> {
        let Ok(seconds @ 1..) = u64::try_from(seconds) else { return Ok(None) };
        self.now.checked_add(Duration::from_secs(seconds)).map(Some).ok_or(INVALID_TIME)
    }

    fn end_at(&mut self, key: &[u8], deadline: Option<Instant>) -> bool {
        let Some(entry) = self.entries.get_mut(key) else { return false };
        if let Some(old) = std::mem::replace(&mut entry.deadline, deadline) {
            self.deadlines.remove(&(old, key.into()));
        }
        self.deadlines.extend(deadline.map(|deadline| (deadline, key.into())));
        true
    }
}
