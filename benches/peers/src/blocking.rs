//! Requests of which a share blocks, as if it asked a database.

use std::cell::Cell;
use std::process::exit;
use std::thread;
use std::time::Duration;

use crate::Arguments;

thread_local! {
    /// The state of a generator for each thread, so that nothing is shared that the servers
    /// themselves don't share. Each thread draws the same sequence: no two runs differ by luck.
    static DRAWN: Cell<u64> = const { Cell::new(0) };
}

/// How long, and how often.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Blocking {
    time: Duration,
    /// Of 2^64 requests.
    share: u64,
}

impl Blocking {
    /// A share of the requests, in percent, blocks for so many microseconds.
    pub const OPTIONS: [&str; 2] = ["--block-us", "--block-pct"];

    /// Nothing blocks unless both options are given.
    pub fn of(arguments: &Arguments) -> Self {
        let value = |name| arguments.option(name).unwrap_or("0");
        Self::parse(value("--block-us"), value("--block-pct")).unwrap_or_else(|| {
            eprintln!("--block-us is a whole number, --block-pct a number from 0 to 100.");
            exit(2)
        })
    }

    fn parse(micros: &str, percent: &str) -> Option<Self> {
        let percent: f64 = percent.parse().ok().filter(|share| (0.0..=100.0).contains(share))?;
        let share = (percent / 100.0 * u64::MAX as f64) as u64; // saturates at 100 %
        Some(Self { time: Duration::from_micros(micros.parse().ok()?), share })
    }

    /// Draws whether this request blocks.
    pub fn is_due(self) -> bool {
        if self.share == 0 || self.time.is_zero() {
            return false;
        }
        let drawn = DRAWN.replace(DRAWN.get().wrapping_add(0x9e37_79b9_7f4a_7c15));
        mix(drawn) <= self.share
    }

    /// Blocks this thread.
    pub fn block(self) {
        thread::sleep(self.time); // sleep: it stands for a slow call
    }

    /// Blocks this thread if it is this request's turn.
    pub fn block_if_due(self) {
        if self.is_due() {
            self.block();
        }
    }
}

/// The finisher of `SplitMix64`, which makes numbers in a row look random.
fn mix(seed: u64) -> u64 {
    let z = (seed ^ (seed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn(percent: &str) -> usize {
        let blocking = Blocking::parse("1000", percent).unwrap();
        (0..100_000).filter(|_| blocking.is_due()).count()
    }

    #[test]
    fn the_share_is_what_was_asked_for() {
        assert_eq!(drawn("0"), 0);
        assert_eq!(drawn("100"), 100_000);
        for (percent, expected) in [("0.1", 100), ("1", 1000), ("50", 50_000)] {
            let count = drawn(percent);
            assert!(count.abs_diff(expected) < expected / 4, "{percent} %: {count}");
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for (micros, percent) in [("1", "101"), ("1", "-1"), ("1", "NaN"), ("1.5", "1"), ("", "")] {
            assert_eq!(Blocking::parse(micros, percent), None, "{micros} {percent}");
        }
    }
}
