//! How long to wait before the next try: longer after each failure, and at random.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::time::Duration;

use netpoll_core::{Error, Result};

/// Pauses between tries: a random time of up to `first`, which doubles with each failure, up to
/// `most` ("full jitter"). So the clients of a server that comes back do not dial it all at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// The longest first pause.
    pub first: Duration,
    /// The longest pause.
    pub most: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { first: Duration::from_millis(50), most: Duration::from_secs(5) }
    }
}

impl Backoff {
    pub(crate) fn validate(&self) -> Result<()> {
        if self.first.is_zero() || self.most < self.first {
            return Err(Error::config(format!(
                "reconnect pauses {:?} to {:?}, but must begin above 0 and not shrink",
                self.first, self.most
            )));
        }
        Ok(())
    }

    /// The pause after so many failures in a row, with `random` out of 0 to `u32::MAX`.
    pub(crate) fn pause(&self, failures: u32, random: u32) -> Duration {
        self.longest(failures).mul_f64(f64::from(random) / f64::from(u32::MAX))
    }

    /// The longest pause after so many failures in a row.
    pub(crate) fn longest(&self, failures: u32) -> Duration {
        // Longer than a century is for ever; a century can be added to any time.
        let most = self.most.min(Duration::from_secs(100 * 365 * 86_400));
        self.first.saturating_mul(1 << failures.min(20)).min(most)
    }
}

/// A random number, from the random keys of std's hash maps: enough to spread clients.
pub(crate) fn random() -> u32 {
    RandomState::new().build_hasher().finish() as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_pause_doubles_up_to_the_most() {
        let millis = Duration::from_millis;
        let backoff = Backoff { first: millis(50), most: millis(300) };
        let longest: Vec<_> = (0..5).map(|failures| backoff.pause(failures, u32::MAX)).collect();
        assert_eq!(longest, [50, 100, 200, 300, 300].map(millis));
        assert_eq!(backoff.pause(u32::MAX, u32::MAX), millis(300));
        assert_eq!(backoff.pause(3, 0), Duration::ZERO);
        assert_eq!(backoff.pause(2, u32::MAX / 2).as_millis(), 100);
        let endless = Backoff { first: Duration::MAX, most: Duration::MAX };
        assert!(endless.pause(0, u32::MAX) < Duration::MAX, "it can be added to a time");
    }

    #[test]
    fn clients_part() {
        let drawn: std::collections::HashSet<_> = (0..100).map(|_| random()).collect();
        assert!(drawn.len() > 90, "{} of 100", drawn.len());
    }
}
