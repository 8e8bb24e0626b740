//! Happy Eyeballs (RFC 8305) as pure logic: which address is tried when. The caller passes the time
//! in.
//!
//! ```text
//!   [v6 a]───────────────────────────────────────► a black hole
//!      250 ms [v4 b]──────────────► refused: the next begins at once
//!                                  [v6 c]────► connected: the others are dropped
//! ```
//! The families are interleaved, beginning with the family of the first address, so that a broken
//! family costs one stagger and not all of its addresses. The order within a family is the
//! resolver's, which sorts by RFC 6724. The RFC's section on separate answers to queries for A and
//! AAAA does not apply: the system's resolver answers both at once.

use std::collections::VecDeque;
use std::io;
use std::time::{Duration, Instant};

use netpoll_core::Address;

/// How long an attempt runs before the next one begins beside it: what RFC 8305 recommends.
pub(crate) const STAGGER: Duration = Duration::from_millis(250);

/// How often an attempt is repeated that connected to itself or found no free port, as in Go's
/// runtime.
const REPEATS: u32 = 2;

/// The addresses of one dial.
#[derive(Debug)]
pub(crate) struct Race {
    waiting: VecDeque<Candidate>,
    running: usize,
    /// When the next attempt may begin.
    next: Instant,
    stagger: Duration,
    /// The first failure: that of the address which the resolver preferred.
    failure: Option<io::Error>,
}

/// One address, and how often it was tried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Candidate {
    pub(crate) address: Address,
    repeats: u32,
}

/// What to do now.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Move {
    /// Begin an attempt at this address.
    Start(Candidate),
    /// Wait for the attempts that run; at that time there is more to do.
    Wait(Option<Instant>),
    /// All attempts have failed.
    Lost,
}

impl Race {
    pub(crate) fn new(addresses: Vec<Address>, stagger: Duration, now: Instant) -> Self {
        let waiting = interleave(addresses);
        Self { waiting, running: 0, next: now, stagger, failure: None }
    }

    pub(crate) fn next(&mut self, now: Instant) -> Move {
        if self.waiting.is_empty() {
            return if self.running == 0 { Move::Lost } else { Move::Wait(None) };
        }
        if now < self.next {
            return Move::Wait(Some(self.next));
        }
        let Some(candidate) = self.waiting.pop_front() else { return Move::Lost };
        self.running += 1;
        self.next = now + self.stagger;
        Move::Start(candidate)
    }

    /// An attempt has failed for good: the next may begin at once.
    pub(crate) fn failed(&mut self, error: io::Error, now: Instant) {
        self.running -= 1;
        self.failure.get_or_insert(error);
        self.next = now;
    }

    /// An attempt failed by accident: it is repeated at once, [`REPEATS`] times at most.
    pub(crate) fn again(&mut self, candidate: Candidate, error: io::Error, now: Instant) {
        if candidate.repeats >= REPEATS {
            return self.failed(error, now);
        }
        let repeats = candidate.repeats + 1;
        self.postpone(Candidate { repeats, ..candidate }, now);
    }

    /// Makes the attempt once more, at that time.
    pub(crate) fn postpone(&mut self, candidate: Candidate, until: Instant) {
        self.running -= 1;
        self.waiting.push_front(candidate);
        self.next = until;
    }

    /// Why the race is lost.
    pub(crate) fn take_failure(&mut self) -> io::Error {
        self.failure.take().unwrap_or_else(|| io::ErrorKind::AddrNotAvailable.into())
    }
}

fn interleave(addresses: Vec<Address>) -> VecDeque<Candidate> {
    let is_v4 = |address: &Address| address.inet().is_some_and(|it| it.is_ipv4());
    let first_family = addresses.first().is_some_and(is_v4);
    let (first, second): (Vec<_>, Vec<_>) =
        addresses.into_iter().partition(|address| is_v4(address) == first_family);
    let (mut first, mut second) = (first.into_iter(), second.into_iter());
    let mut mixed = VecDeque::new();
    loop {
        let pair = [first.next(), second.next()];
        if pair.iter().all(Option::is_none) {
            return mixed;
        }
        let pair = pair.into_iter().flatten();
        mixed.extend(pair.map(|address| Candidate { address, repeats: 0 }));
    }
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;
    use std::net::SocketAddr;

    use super::*;

    fn addresses(of: &[&str]) -> Vec<Address> {
        let parse = |text: &&str| text.parse::<SocketAddr>().expect("an address").into();
        of.iter().map(parse).collect()
    }

    fn start(race: &mut Race, now: Instant) -> Candidate {
        match race.next(now) {
            Move::Start(candidate) => candidate,
            other => panic!("{other:?} instead of a start"),
        }
    }

    #[test]
    fn families_take_turns_beginning_with_the_first() {
        let order = |of: &[&str]| -> Vec<String> {
            interleave(addresses(of)).iter().map(|it| it.address.to_string()).collect()
        };
        assert_eq!(
            order(&["[::1]:1", "[::2]:1", "[::3]:1", "1.1.1.1:1", "2.2.2.2:1"]),
            ["[::1]:1", "1.1.1.1:1", "[::2]:1", "2.2.2.2:1", "[::3]:1"]
        );
        assert_eq!(order(&["1.1.1.1:1", "2.2.2.2:1", "[::1]:1"])[..2], ["1.1.1.1:1", "[::1]:1"]);
        assert_eq!(order(&[]), [""; 0]);
    }

    #[test]
    fn a_silent_address_has_the_stage_for_the_stagger_alone() {
        let now = Instant::now();
        let mut race = Race::new(addresses(&["[::1]:1", "1.1.1.1:1"]), STAGGER, now);
        assert_eq!(start(&mut race, now).address.to_string(), "[::1]:1");
        assert_eq!(race.next(now), Move::Wait(Some(now + STAGGER)));
        let early = now + STAGGER.saturating_sub(Duration::from_nanos(1));
        assert_eq!(race.next(early), Move::Wait(Some(now + STAGGER)));
        assert_eq!(start(&mut race, now + STAGGER).address.to_string(), "1.1.1.1:1");
        assert_eq!(race.next(now + STAGGER * 9), Move::Wait(None));
    }

    #[test]
    fn a_failure_begins_the_next_at_once_and_the_first_one_is_told() {
        let now = Instant::now();
        let mut race = Race::new(addresses(&["[::1]:1", "1.1.1.1:1"]), STAGGER, now);
        start(&mut race, now);
        race.failed(ErrorKind::NetworkUnreachable.into(), now);
        start(&mut race, now);
        race.failed(ErrorKind::ConnectionRefused.into(), now);
        assert_eq!(race.next(now), Move::Lost);
        assert_eq!(race.take_failure().kind(), ErrorKind::NetworkUnreachable);
    }

    #[test]
    fn chance_is_given_two_more_tries() {
        let now = Instant::now();
        let mut race = Race::new(addresses(&["1.1.1.1:1"]), STAGGER, now);
        for _ in 0..=REPEATS {
            let candidate = start(&mut race, now);
            race.again(candidate, ErrorKind::AddrNotAvailable.into(), now);
        }
        assert_eq!(race.next(now), Move::Lost);
        assert_eq!(race.take_failure().kind(), ErrorKind::AddrNotAvailable);
    }

    #[test]
    fn a_full_queue_is_asked_again_later() {
        let now = Instant::now();
        let mut race = Race::new(vec![Address::Abstract(b"x"[..].into())], STAGGER, now);
        let candidate = start(&mut race, now);
        let later = now + Duration::from_millis(3);
        race.postpone(candidate.clone(), later);
        assert_eq!(race.next(now), Move::Wait(Some(later)));
        assert_eq!(start(&mut race, later), candidate);
    }
}
