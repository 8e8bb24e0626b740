//! The datagrams of one flow that are on the way, and what an answer says about them.
//!
//! ```text
//!   sequence   0 1 2 3 4 5 6 7 8
//!   waiting        [x . x x x]       first = 2: all before are answered or lost
//!                   2       6  next = 7
//! ```
//!
//! A datagram may get lost, so a flow does not wait for its answer for ever: after `LOST_AFTER` all
//! that is on the way is lost, and answers that come later are late.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// A flow that heard nothing for so long takes what is on the way for lost. On the loopback device
/// an answer takes microseconds; a server that another one keeps from its core takes milliseconds.
pub(crate) const LOST_AFTER: Duration = Duration::from_millis(200);

#[derive(Debug)]
pub(crate) struct Flow {
    pub(crate) id: u32,
    /// The sequence of the first that waits.
    first: u64,
    /// Since when each waits; `None` where a later one was answered before an earlier one.
    waiting: VecDeque<Option<Instant>>,
    /// Those in `waiting` that are not answered.
    on_the_way: usize,
    /// Behind the highest sequence that was answered.
    answered: u64,
    /// When the last answer came, or when the first of a train was sent.
    heard: Instant,
    pub(crate) lost: u64,
    pub(crate) reordered: u64,
}

/// What an answer is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// To a datagram that was sent then.
    Due(Instant),
    /// To one that was taken for lost.
    Late,
    /// To one that was answered, or never sent.
    Unasked,
}

impl Flow {
    pub(crate) fn new(id: u32, now: Instant) -> Self {
        let waiting = VecDeque::new();
        Self {
            id,
            first: 0,
            waiting,
            on_the_way: 0,
            answered: 0,
            heard: now,
            lost: 0,
            reordered: 0,
        }
    }

    /// Takes `count` sequences to send: the first of them.
    pub(crate) fn send(&mut self, count: usize, now: Instant) -> u64 {
        if self.on_the_way == 0 {
            self.heard = now;
        }
        let next = self.first + self.waiting.len() as u64;
        self.waiting.extend(std::iter::repeat_n(Some(now), count));
        self.on_the_way += count;
        next
    }

    /// Takes an answer.
    pub(crate) fn answered(&mut self, sequence: u64, now: Instant) -> Answer {
        let Some(index) = sequence.checked_sub(self.first) else {
            return if self.lost > 0 { Answer::Late } else { Answer::Unasked };
        };
        let index = usize::try_from(index).unwrap_or(usize::MAX);
        let Some(since) = self.waiting.get_mut(index).and_then(Option::take) else {
            return Answer::Unasked;
        };
        self.heard = now;
        self.on_the_way -= 1;
        self.reordered += u64::from(sequence < self.answered);
        self.answered = self.answered.max(sequence + 1);
        while self.waiting.front().is_some_and(Option::is_none) {
            self.waiting.pop_front();
            self.first += 1;
        }
        Answer::Due(since)
    }

    /// Gives up what is on the way if nothing was heard for too long: how many that were.
    pub(crate) fn give_up(&mut self, now: Instant) -> usize {
        if self.on_the_way == 0 || now.saturating_duration_since(self.heard) < LOST_AFTER {
            return 0;
        }
        let lost = std::mem::take(&mut self.on_the_way);
        self.first += self.waiting.len() as u64;
        self.waiting.clear();
        self.lost += lost as u64;
        lost
    }

    /// Since when each waits that is not answered.
    pub(crate) fn waiting(&self) -> impl Iterator<Item = Instant> {
        self.waiting.iter().flatten().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_in_order_are_due_once() {
        let now = Instant::now();
        let mut flow = Flow::new(3, now);
        assert_eq!((flow.send(2, now), flow.send(1, now)), (0, 2));
        for sequence in 0..3 {
            assert_eq!(flow.answered(sequence, now), Answer::Due(now));
            assert_eq!(flow.answered(sequence, now), Answer::Unasked);
        }
        assert_eq!(flow.answered(3, now), Answer::Unasked, "it was not sent");
        assert_eq!(flow.answered(u64::MAX, now), Answer::Unasked);
        assert_eq!((flow.waiting().count(), flow.reordered), (0, 0));
    }

    #[test]
    fn an_answer_that_overtakes_another_is_counted() {
        let now = Instant::now();
        let mut flow = Flow::new(0, now);
        flow.send(3, now);
        assert_eq!(flow.answered(1, now), Answer::Due(now));
        assert_eq!((flow.reordered, flow.waiting().count()), (0, 2), "the first may be lost");
        assert_eq!(flow.answered(1, now), Answer::Unasked);
        assert_eq!(flow.answered(0, now), Answer::Due(now));
        assert_eq!(flow.answered(2, now), Answer::Due(now));
        assert_eq!((flow.reordered, flow.send(1, now)), (1, 3), "the first one was overtaken");
    }

    #[test]
    fn what_is_not_answered_is_lost_in_the_end() {
        let now = Instant::now();
        let mut flow = Flow::new(0, now);
        flow.send(3, now);
        assert_eq!(flow.give_up(now), 0);
        let heard = now + LOST_AFTER / 2;
        assert_eq!(flow.answered(0, heard), Answer::Due(now));
        assert_eq!(flow.give_up(now + LOST_AFTER), 0, "it heard something");
        let later = heard + LOST_AFTER;
        assert_eq!((flow.give_up(later), flow.lost), (2, 2));
        assert_eq!(flow.give_up(later + LOST_AFTER), 0, "nothing is on the way");
        assert_eq!(flow.answered(1, later), Answer::Late);
        assert_eq!(flow.send(1, later), 3);
        assert_eq!(flow.give_up(later), 0, "it was sent just now");
        assert_eq!(flow.answered(3, later), Answer::Due(later));
    }
}
