//! How often the monitor looks.

use std::time::{Duration, Instant};

/// What a look costs: see [`super`].
const LOOK: f64 = 15e-6;
pub(super) const SHORTEST: Duration = Duration::from_micros(50);
pub(super) const LONGEST: Duration = Duration::from_millis(10);
/// How far back the rate of take-overs reaches, in seconds.
const MEMORY: f64 = 0.25;

/// When to look next: see [`super`]. It has no clock: it is given the time.
pub(super) struct Cadence {
    /// Take-overs a second.
    pub(super) rate: f64,
    pause: Duration,
    last: Instant,
}

impl Cadence {
    pub(super) fn new(now: Instant) -> Self {
        Self { rate: 0.0, pause: SHORTEST / 2, last: now }
    }

    /// How long to pause after a look that took so many.
    pub(super) fn pause(&mut self, now: Instant, taken: u32) -> Duration {
        let passed = now.duration_since(self.last).as_secs_f64();
        self.last = now;
        self.rate = self.rate * (1.0 - passed / MEMORY).max(0.0) + f64::from(taken) / MEMORY;
        self.pause = (self.pause * 2).min(self.best());
        self.pause
    }

    fn best(&self) -> Duration {
        let best = (2.0 * LOOK / self.rate).sqrt().min(LONGEST.as_secs_f64());
        Duration::from_secs_f64(best).max(SHORTEST)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn the_pause_grows_while_nothing_is_taken_and_follows_the_rate_of_take_overs() {
        let mut now = Instant::now();
        let mut cadence = Cadence::new(now);
        let mut pauses = Vec::new();
        for _ in 0..10 {
            let pause = cadence.pause(now, 0);
            pauses.push(pause.as_micros());
            now += pause;
        }
        assert_eq!(pauses, [50, 100, 200, 400, 800, 1600, 3200, 6400, 10_000, 10_000]);
        // 100 a second for a second: sqrt(30 µs / 100) is 548 µs.
        let mut pause = cadence.pause(now, 1);
        for _ in 0..100 {
            now += Duration::from_millis(10);
            pause = cadence.pause(now, 1);
        }
        assert!((460..640).contains(&pause.as_micros()), "{pause:?}");
        // A thousand: sqrt(30 µs / 1 000) is 173 µs.
        for _ in 0..1000 {
            now += Duration::from_millis(1);
            pause = cadence.pause(now, 1);
        }
        assert!((145..205).contains(&pause.as_micros()), "{pause:?}");
        // And back.
        for _ in 0..20 {
            now += Duration::from_millis(100);
            pause = cadence.pause(now, 0);
        }
        assert_eq!(pause, LONGEST);
    }
}
