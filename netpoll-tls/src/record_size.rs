//! How long a record is: short while a stream begins, then as long as TLS allows.
//!
//! The peer can open a record when its last byte has come. A stream that begins, or goes on after a
//! pause, has a small congestion window: it may take two round trips until the last byte of a long
//! record is there, and the first bytes of the answer wait for it. Later, long records cost less.

use std::time::{Duration, Instant};

use netpoll_core::clock;

/// Three segments of an Ethernet. Messages up to this length are one record at all times.
const SHORT: usize = 4 << 10;
/// The most that TLS allows.
const LONG: usize = 16 << 10;
/// How many bytes go in short records before long ones: a congestion window has grown by then.
const WARM_UP: usize = 64 << 10;
/// After such a pause systems shrink the congestion window again.
const PAUSE: Duration = Duration::from_secs(1);

/// Chooses the length of the records of one stream.
#[derive(Debug, Default)]
pub(crate) struct RecordSize {
    /// How many bytes of long messages were sealed since the last pause.
    sealed: usize,
    /// When the last record of a long message was sealed.
    last: Option<Instant>,
}

impl RecordSize {
    /// How many of `left` bytes the next record takes.
    ///
    /// Messages that fit a short record don't count, so they don't cost a look at the clock.
    pub(crate) fn next(&mut self, left: usize) -> usize {
        if left <= SHORT { left } else { self.next_at(left, clock::now()) }
    }

    fn next_at(&mut self, left: usize, now: Instant) -> usize {
        if self.last.is_none_or(|last| now.saturating_duration_since(last) > PAUSE) {
            self.sealed = 0;
        }
        self.last = Some(now);
        let most = if self.sealed < WARM_UP { SHORT } else { LONG };
        let taken = left.min(most);
        self.sealed = self.sealed.saturating_add(taken);
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_grow_with_the_stream_and_shrink_after_a_pause() {
        let (mut size, start) = (RecordSize::default(), Instant::now());
        let long = 1 << 20;
        for _ in 0..WARM_UP / SHORT {
            assert_eq!(size.next_at(long, start), SHORT);
        }
        assert_eq!(size.next_at(long, start), LONG);
        assert_eq!(size.next_at(5000, start + PAUSE), 5000);
        let later = start + PAUSE + PAUSE + Duration::from_millis(1);
        assert_eq!(size.next_at(long, later), SHORT, "after a pause");
    }

    #[test]
    fn a_short_message_is_one_record() {
        let mut size = RecordSize::default();
        for left in [1, 64, SHORT] {
            assert_eq!(size.next(left), left);
        }
        assert_eq!(size.next(SHORT + 1), SHORT);
    }
}
