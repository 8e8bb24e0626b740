//! When things are to happen: the window of measurement, and the timetable of an open loop.

use std::time::{Duration, Instant};

/// A thread's share of the connections: every `stride`th, beginning with `first`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Share {
    pub(crate) first: u32,
    pub(crate) stride: u32,
    /// Connections of all threads together.
    pub(crate) of: u32,
}

impl Share {
    /// All connections, for one thread.
    pub(crate) fn whole(of: u32) -> Self {
        Self { first: 0, stride: 1, of }
    }

    pub(crate) fn ids(self) -> impl ExactSizeIterator<Item = u32> {
        (self.first..self.of).step_by(self.stride as usize)
    }
}

/// A run begins, is warm, and ends.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Window {
    pub(crate) start: Instant,
    pub(crate) from: Instant,
    pub(crate) until: Instant,
}

impl Window {
    pub(crate) fn new(start: Instant, warmup: Duration, seconds: Duration) -> Self {
        let from = start + warmup;
        Self { start, from, until: from + seconds }
    }

    pub(crate) fn measures(&self, now: Instant) -> bool {
        (self.from..self.until).contains(&now)
    }

    /// How long it was measured by `now`.
    pub(crate) fn measured(&self, now: Instant) -> Duration {
        now.min(self.until).saturating_duration_since(self.from)
    }
}

/// Which connection sends when, for one thread of an open loop. Message `i` of all is due `i /
/// rate` after the start, if that is before the end, and the connections take turns: the timetables
/// of all threads make up one, although the threads exchange nothing.
#[derive(Debug)]
pub(crate) struct Timetable {
    window: Window,
    rate: u64,
    share: Share,
    /// Messages of this share that were taken.
    taken: u64,
}

impl Timetable {
    pub(crate) fn new(window: Window, rate: u64, share: Share) -> Self {
        Self { window, rate, share, taken: 0 }
    }

    /// When the next message is due.
    pub(crate) fn due(&self) -> Instant {
        let mine = self.share.ids().len() as u64;
        let (round, turn) = (self.taken / mine, self.taken % mine);
        let Share { first, stride, of } = self.share;
        let index = round * u64::from(of) + u64::from(first) + turn * u64::from(stride);
        self.window.start + after(index, self.rate)
    }

    /// Takes the next message if it is due: the connection, counted within the share, and since
    /// when.
    pub(crate) fn take(&mut self, now: Instant) -> Option<(usize, Instant)> {
        let due = self.due();
        if due > now || due >= self.window.until {
            return None;
        }
        let turn = self.taken % self.share.ids().len() as u64;
        self.taken += 1;
        Some((turn as usize, due))
    }
}

/// `index / rate` seconds, to the nanosecond: there is no step to add up, so nothing drifts.
fn after(index: u64, rate: u64) -> Duration {
    let (seconds, rest) = (index / rate, index % rate);
    // `rest` is less than the rate, which the options keep below 10^7: the product fits.
    Duration::new(seconds, (rest * 1_000_000_000 / rate) as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a share's timetable says until `end`: connection ids and nanoseconds after the start.
    fn departures(rate: u64, share: Share, end: Duration) -> Vec<(u128, u32)> {
        let start = Instant::now();
        let window = Window::new(start, Duration::ZERO, end);
        let mut timetable = Timetable::new(window, rate, share);
        let ids: Vec<u32> = share.ids().collect();
        let mut all = Vec::new();
        while let Some((index, due)) = timetable.take(start + 2 * end) {
            all.push(((due - start).as_nanos(), ids[index]));
        }
        all
    }

    #[test]
    fn connections_take_turns_at_the_rate() {
        let all = departures(1000, Share::whole(3), Duration::from_millis(5));
        let expected = [(0, 0), (1_000_000, 1), (2_000_000, 2), (3_000_000, 0), (4_000_000, 1)];
        assert_eq!(all, expected);
    }

    #[test]
    fn threads_make_one_timetable_together() {
        let end = Duration::from_millis(5);
        let whole = departures(7919, Share::whole(10), end);
        let shares = (0..3).map(|first| Share { first, stride: 3, of: 10 });
        let mut parts: Vec<_> = shares.flat_map(|share| departures(7919, share, end)).collect();
        parts.sort_unstable();
        assert_eq!(parts, whole);
    }

    #[test]
    fn nothing_drifts() {
        assert_eq!(after(3, 3), Duration::from_secs(1));
        assert_eq!(after(1, 3), Duration::from_nanos(333_333_333));
        assert_eq!(after(3_000_000_001, 3), Duration::new(1_000_000_000, 333_333_333));
        let (index, rate) = (u64::from(u32::MAX) * 10_000_000 - 1, 10_000_000);
        assert_eq!(after(index, rate), Duration::new(u64::from(u32::MAX) - 1, 999_999_900));
    }

    #[test]
    fn shares_cover_every_connection_once() {
        let mut ids: Vec<u32> =
            (0..4).flat_map(|first| Share { first, stride: 4, of: 10 }.ids()).collect();
        ids.sort_unstable();
        assert!(ids.into_iter().eq(0..10));
    }

    #[test]
    fn only_the_window_is_measured() {
        let start = Instant::now();
        let second = Duration::from_secs(1);
        let window = Window::new(start, second, 2 * second);
        assert!(!window.measures(start));
        assert!(window.measures(start + second));
        assert!(!window.measures(start + 3 * second));
        assert_eq!(window.measured(start), Duration::ZERO);
        assert_eq!(window.measured(start + 2 * second), second);
        assert_eq!(window.measured(start + 9 * second), 2 * second);
    }
}
