//! A token bucket, for the rate at which connections are accepted.

use std::time::{Duration, Instant};

/// Tokens come at a steady pace, up to a burst, and each connection takes one. The rate, tokens per
/// second and burst, is the caller's.
#[derive(Debug)]
pub(super) struct Bucket {
    /// In billionths, so that a pace of any number of tokens a second loses nothing.
    tokens: u64,
    filled: Instant,
}

/// A whole token.
const TOKEN: u64 = 1_000_000_000;

impl Bucket {
    /// A bucket that holds a whole burst.
    pub(super) fn full(burst: u32, now: Instant) -> Self {
        Self { tokens: u64::from(burst) * TOKEN, filled: now }
    }

    /// Adds the tokens that have come by now, and returns how many whole ones there are.
    pub(super) fn fill(&mut self, (per_second, burst): (u32, u32), now: Instant) -> usize {
        let passed = now.saturating_duration_since(self.filled).as_nanos();
        // A token a second is a billionth a nanosecond.
        let fresh = u64::try_from(passed * u128::from(per_second)).unwrap_or(u64::MAX);
        self.tokens = self.tokens.saturating_add(fresh).min(u64::from(burst) * TOKEN);
        self.filled = now.max(self.filled);
        (self.tokens / TOKEN) as usize
    }

    /// Takes one, if there is one.
    pub(super) fn take(&mut self, rate: (u32, u32), now: Instant) -> bool {
        let there = self.fill(rate, now) > 0;
        if there {
            self.tokens -= TOKEN;
        }
        there
    }

    /// How long until the next one is whole.
    pub(super) fn next(&self, (per_second, _): (u32, u32)) -> Duration {
        Duration::from_nanos(TOKEN.saturating_sub(self.tokens).div_ceil(per_second.into()))
    }
}
