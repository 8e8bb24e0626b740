//! Requests of which a share blocks, as if it asked a database.

use std::cell::Cell;
use std::process::exit;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::Arguments;

thread_local! {
    /// The state of a generator for each thread, so that nothing is shared that the servers
    /// themselves don't share. Each thread draws the same sequence: no two runs differ by luck.
    static DRAWN: Cell<u64> = const { Cell::new(0) };
}

/// One connection in so many has requests that block, of the ways that are not of all.
const SOME: u64 = 8;
const BAD: u64 = 64;

/// How long, how often, and in what way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Blocking {
    time: Duration,
    /// Of 2^64 requests.
    share: u64,
    way: Way,
    /// When the server began, for a share that comes and goes.
    begun: Instant,
}

/// In what way a request blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Sleep,
    Compute,
    /// It computes, on every connection that sends anything.
    Hot,
    /// It sleeps, on some of the connections only.
    Some,
    /// It sleeps, on one of the harness's 64 connections.
    Bad,
    /// It sleeps, in every second second only.
    Switch,
}

impl Blocking {
    /// A share of the requests, in percent, blocks for so many microseconds.
    pub const OPTIONS: [&str; 2] = ["--block-us", "--block-pct"];
    /// `sleep`, `compute`, `hot`, `some`, `bad` or `switch`: see `Way`.
    pub const WAY: &str = "--block-way";

    /// Nothing blocks unless both options are given.
    pub fn of(arguments: &Arguments) -> Self {
        let value = |name| arguments.option(name).unwrap_or("0");
        let blocking = Self::parse(value("--block-us"), value("--block-pct"));
        let blocking = blocking.unwrap_or_else(|| {
            eprintln!("--block-us is a whole number, --block-pct a number from 0 to 100.");
            exit(2)
        });
        let ways = [
            ("sleep", Way::Sleep),
            ("compute", Way::Compute),
            ("hot", Way::Hot),
            ("some", Way::Some),
            ("bad", Way::Bad),
            ("switch", Way::Switch),
        ];
        Self { way: arguments.choice(Self::WAY, &ways), ..blocking }
    }

    fn parse(micros: &str, percent: &str) -> Option<Self> {
        let percent: f64 = percent.parse().ok().filter(|share| (0.0..=100.0).contains(share))?;
        let share = (percent / 100.0 * u64::MAX as f64) as u64; // saturates at 100 %
        let time = Duration::from_micros(micros.parse().ok()?);
        Some(Self { time, share, way: Way::Sleep, begun: Instant::now() })
    }

    /// The same for the next connection, which may be one that never blocks.
    pub fn for_connection(self) -> Self {
        static CONNECTIONS: AtomicU64 = AtomicU64::new(0);
        let of = match self.way {
            Way::Some => SOME,
            Way::Bad => BAD,
            Way::Sleep | Way::Compute | Way::Hot | Way::Switch => return self,
        };
        let spared = !CONNECTIONS.fetch_add(1, Ordering::Relaxed).is_multiple_of(of);
        Self { share: if spared { 0 } else { self.share }, ..self }
    }

    /// Draws whether this request blocks.
    pub fn is_due(self) -> bool {
        if self.share == 0 || self.time.is_zero() {
            return false;
        }
        if self.way == Way::Switch && self.begun.elapsed().as_secs().is_multiple_of(2) {
            return false;
        }
        let drawn = DRAWN.replace(DRAWN.get().wrapping_add(0x9e37_79b9_7f4a_7c15));
        mix(drawn) <= self.share
    }

    /// Blocks this thread.
    pub fn block(self) {
        if matches!(self.way, Way::Compute | Way::Hot) {
            let begun = Instant::now();
            while begun.elapsed() < self.time {}
        } else {
            thread::sleep(self.time); // sleep: it represents a slow call
        }
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
    fn one_connection_in_eight_is_one_of_some_and_one_in_64_is_bad() {
        let all = Blocking { way: Way::Some, ..Blocking::parse("1000", "100").unwrap() };
        for (way, expected) in [(Way::Some, 8), (Way::Bad, 1), (Way::Sleep, 64)] {
            let all = Blocking { way, ..all };
            let blocking = (0..64).filter(|_| all.for_connection().is_due()).count();
            assert_eq!(blocking, expected, "{way:?}");
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for (micros, percent) in [("1", "101"), ("1", "-1"), ("1", "NaN"), ("1.5", "1"), ("", "")] {
            assert_eq!(Blocking::parse(micros, percent), None, "{micros} {percent}");
        }
    }
}
