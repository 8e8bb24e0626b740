//! When keys end: the commands `EXPIRE`, `TTL` and `SET … EX`.

use std::time::{Duration, Instant};

use crate::store::{Entry, Store};
use crate::value::Fault;

const INVALID_TIME: Fault = "ERR invalid expire time";

impl Store {
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

    /// Seconds until a key ends, rounded up; -1 if it never does, -2 without such a key.
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

    pub(crate) fn end_at(&mut self, key: &[u8], deadline: Option<Instant>) -> bool {
        let Some(entry) = self.entries.get_mut(key) else { return false };
        if let Some(old) = std::mem::replace(&mut entry.deadline, deadline) {
            self.deadlines.remove(&(old, key.into()));
        }
        self.deadlines.extend(deadline.map(|deadline| (deadline, key.into())));
        true
    }
}
