//! What was counted: by one thread, and by all.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use crate::schedule::Window;

/// Longer latencies count as this long.
const LATENCY_MAX: Duration = Duration::from_secs(3600);
/// Latencies are kept to a part in a thousand.
const LATENCY_DIGITS: u8 = 3;
/// Errors that are named; the others are only counted.
const NAMED_MAX: usize = 10;

#[derive(Debug)]
pub(crate) struct Tally {
    /// Messages answered within the window.
    pub(crate) requests: u64,
    /// Bytes that came back within the window.
    pub(crate) bytes: u64,
    /// Nanoseconds.
    pub(crate) latencies: Histogram<u64>,
    /// Messages that were due and not answered when the window ended.
    pub(crate) unanswered: u64,
    /// How long the oldest of them had waited.
    pub(crate) oldest: Duration,
    /// How much of the window the run lasted for.
    pub(crate) measured: Duration,
    /// Datagrams that were sent and never answered, or counted, in the window.
    pub(crate) lost: u64,
    /// Datagrams whose answer overtook that of an earlier one.
    pub(crate) reordered: u64,
    /// Datagrams that were sent in the window, where only one direction carries them.
    pub(crate) sent: Option<u64>,
    /// The first errors.
    pub(crate) named: Vec<String>,
    errors: u64,
}

/// What the progress line shows, of all threads.
#[derive(Debug, Default)]
pub(crate) struct Live {
    pub(crate) requests: AtomicU64,
    pub(crate) errors: AtomicU64,
}

impl Tally {
    pub(crate) fn new() -> Self {
        let max = LATENCY_MAX.as_nanos() as u64;
        let latencies = Histogram::new_with_bounds(1, max, LATENCY_DIGITS);
        Self {
            requests: 0,
            bytes: 0,
            latencies: latencies.expect("the bounds are good ones"),
            unanswered: 0,
            oldest: Duration::ZERO,
            measured: Duration::ZERO,
            lost: 0,
            reordered: 0,
            sent: None,
            named: Vec::new(),
            errors: 0,
        }
    }

    /// A message was answered that had waited `since` then.
    pub(crate) fn answered(&mut self, window: &Window, since: Instant, now: Instant) {
        if window.measures(now) {
            self.latencies.saturating_record((now - since).as_nanos() as u64);
        }
    }

    pub(crate) fn error(&mut self, name: String) {
        self.errors += 1;
        if self.named.len() < NAMED_MAX {
            self.named.push(name);
        }
    }

    pub(crate) fn errors(&self) -> u64 {
        self.errors
    }

    pub(crate) fn add(&mut self, other: Self) {
        self.requests += other.requests;
        self.bytes += other.bytes;
        self.latencies.add(other.latencies).expect("both have the same bounds");
        self.unanswered += other.unanswered;
        self.oldest = self.oldest.max(other.oldest);
        self.measured = self.measured.max(other.measured);
        self.lost += other.lost;
        self.reordered += other.reordered;
        self.sent = self.sent.max(other.sent); // a flood has one thread
        self.named.extend(other.named);
        self.named.truncate(NAMED_MAX);
        self.errors += other.errors;
    }
}

impl Live {
    pub(crate) fn add(&self, requests: u64, errors: u64) {
        // Only displayed: it orders nothing.
        self.requests.fetch_add(requests, Ordering::Relaxed);
        self.errors.fetch_add(errors, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_add_up() {
        let start = Instant::now();
        let window = Window::new(start, Duration::ZERO, Duration::from_secs(1));
        let (mut all, mut other) = (Tally::new(), Tally::new());
        (all.requests, other.requests) = (1, 2);
        (all.oldest, other.oldest) = (Duration::from_secs(1), Duration::from_secs(2));
        for tally in [&mut all, &mut other] {
            tally.answered(&window, start, start + Duration::from_millis(3));
            tally.answered(&window, start, start + Duration::from_secs(3));
            (0..8).for_each(|_| tally.error("bad".into()));
        }
        all.add(other);
        assert_eq!((all.requests, all.latencies.len()), (3, 2));
        assert_eq!((all.errors(), all.named.len()), (16, NAMED_MAX));
        assert_eq!(all.oldest, Duration::from_secs(2));
    }
}
