//! Answers of other servers, kept for as long as they allow, and no more than so many.

use std::collections::{HashMap, VecDeque};
use std::time::Instant;

use super::forwarded::Forwarded;
use super::message::Query;

/// Answers that are kept.
const ENTRIES_MAX: usize = 10_000;

/// By question, in lower case.
#[derive(Debug, Default)]
pub(crate) struct Cache {
    entries: HashMap<Vec<u8>, (Forwarded, Instant)>,
    /// The questions in the order in which they came in, for when there are too many.
    order: VecDeque<Vec<u8>>,
}

impl Cache {
    /// The answer to a query, within `limit` bytes.
    pub(crate) fn find(&self, query: &Query<'_>, limit: usize, now: Instant) -> Option<Vec<u8>> {
        let (kept, since) = self.entries.get(&query.key())?;
        let age = now.saturating_duration_since(*since);
        let is_good = kept.keep.is_some_and(|keep| age < keep);
        is_good.then(|| kept.write(query, age, limit))
    }

    /// Keeps an answer, if it allows that.
    pub(crate) fn put(&mut self, key: Vec<u8>, answer: Forwarded, now: Instant) {
        if answer.keep.is_none_or(|keep| keep.is_zero()) {
            return;
        }
        if self.entries.insert(key.clone(), (answer, now)).is_some() {
            return; // it has its place in the order
        }
        self.order.push_back(key);
        if self.order.len() > ENTRIES_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.entries.remove(&oldest);
        }
    }
}
