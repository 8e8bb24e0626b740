//! The mark that the kernel has no room, in all interleavings of threads that send, the loop that
//! hears of room, and the close. Each guard has a twin without it, in which the model must fail.

use loom::sync::Arc;
use loom::thread;

use super::*;
use crate::base::sync::explore;

/// What is planted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Bug {
    None,
    /// A send that finds no room does not try again behind the mark.
    TriesOnce,
    /// A send does not look whether others wait.
    Overtakes,
    /// The close looks whether others wait before it seals.
    LooksFirst,
}

/// A kernel with room for some messages.
struct Kernel(Mutex<Buffer>);

struct Buffer {
    room: usize,
    sent: Vec<u8>,
}

impl SendMessages for Kernel {
    fn send<'a>(
        &self,
        _: &mut Envelopes,
        count: usize,
        message: impl Fn(usize) -> Message<'a>,
    ) -> Sent {
        let (mut buffer, mut sent) = (lock(&self.0), Sent::default());
        while sent.done < count && buffer.room > 0 {
            buffer.room -= 1;
            buffer.sent.push(message(sent.done).payload[0]);
            sent.done += 1;
            sent.datagrams += 1;
        }
        sent.full = sent.done < count;
        sent
    }
}

struct World {
    outbox: Outbox<Kernel>,
    kernel: std::sync::Arc<Kernel>,
    counters: Counters,
}

impl World {
    fn new(bug: Bug) -> Arc<Self> {
        let buffer = Buffer { room: 0, sent: Vec::new() };
        let kernel = std::sync::Arc::new(Kernel(Mutex::new(buffer)));
        let mut outbox = Outbox::new(kernel.clone(), None);
        outbox.bug = bug;
        Arc::new(Self { outbox, kernel, counters: Counters::default() })
    }

    /// Sends one datagram; says whether it was taken.
    fn send(&self, number: u8) -> bool {
        let payload = [number];
        let message = |_| Message { peer: None, source: None, payload: &payload, size: 1 };
        let keep = |_| {
            let payload = Bytes::copy_from_slice(&payload);
            Queued { peer: None, source: None, payload, size: 1 }
        };
        let limits = DatagramLimits::default();
        !self.outbox.send(1, message, keep, &limits, &self.counters).is_sealed
    }

    /// The kernel has room for so many more, and the loop hears of it. Says whether it has told the
    /// owner that nothing is left of what a close has sealed.
    fn room(&self, more: usize) -> bool {
        lock(&self.kernel.0).room += more;
        if !self.outbox.is_blocked() {
            return false;
        }
        loop {
            match self.outbox.go_on(&self.counters) {
                Next::Again => {}
                Next::Wait => return false,
                Next::Empty { is_sealed } => return is_sealed,
            }
        }
    }

    /// What the owner does to close; says whether nothing is left to wait for.
    fn seal(&self) -> bool {
        if self.outbox.bug == Bug::LooksFirst {
            let is_empty = self.outbox.queued().0 == 0;
            let _ = self.outbox.seal();
            return is_empty;
        }
        self.outbox.seal()
    }

    fn sent(&self) -> Vec<u8> {
        lock(&self.kernel.0).sent.clone()
    }
}

/// A thread sends while there is no room yet, and the loop hears that there is.
fn room_comes_while_a_thread_sends(bug: Bug) {
    explore(move || {
        let world = World::new(bug);
        let sender = {
            let world = world.clone();
            thread::spawn(move || assert!(world.send(1)))
        };
        world.room(1);
        sender.join().expect("the model's thread");
        assert_eq!(world.sent(), [1], "it waits, and no event will come");
    });
}

#[test]
fn loom_room_that_comes_during_a_send_is_not_missed() {
    room_comes_while_a_thread_sends(Bug::None);
}

#[test]
#[should_panic(expected = "it waits, and no event will come")]
fn loom_finds_a_mark_behind_the_last_try() {
    room_comes_while_a_thread_sends(Bug::TriesOnce);
}

/// Two datagrams wait, another one is sent, and room for all comes. A burst of the loop is one
/// message here, so the send may come between two.
fn a_send_comes_between_two_bursts(bug: Bug) {
    explore(move || {
        let world = World::new(bug);
        assert!(world.send(1) && world.send(2));
        let sender = {
            let world = world.clone();
            thread::spawn(move || assert!(world.send(3)))
        };
        world.room(3);
        sender.join().expect("the model's thread");
        assert_eq!(world.sent().len(), 3, "one waits, and no event will come");
        assert_eq!(world.sent(), [1, 2, 3], "one has overtaken another");
    });
}

#[test]
fn loom_what_waits_is_not_overtaken() {
    a_send_comes_between_two_bursts(Bug::None);
}

#[test]
#[should_panic(expected = "one has overtaken another")]
fn loom_finds_a_send_that_overtakes() {
    a_send_comes_between_two_bursts(Bug::Overtakes);
}

/// One datagram waits. The owner closes while room comes, and another thread sends.
fn a_close_meets_room(bug: Bug) {
    explore(move || {
        let world = World::new(bug);
        assert!(world.send(1));
        let hearing = {
            let world = world.clone();
            thread::spawn(move || world.room(2))
        };
        let sender = {
            let world = world.clone();
            thread::spawn(move || world.send(2))
        };
        let is_empty = world.seal();
        let was_told = hearing.join().expect("the model's thread");
        let is_taken = sender.join().expect("the model's thread");
        let expected: &[u8] = if is_taken { &[1, 2] } else { &[1] };
        assert_eq!(world.sent(), expected, "what was taken before the close is sent, no more");
        assert!(is_empty || was_told, "the owner waits for ever");
        world.outbox.close(&world.counters);
        assert!(!world.send(3) && world.sent() == expected);
    });
}

#[test]
fn loom_a_close_hears_when_all_is_sent() {
    a_close_meets_room(Bug::None);
}

#[test]
#[should_panic(expected = "the owner waits for ever")]
fn loom_finds_a_close_that_looks_before_it_seals() {
    a_close_meets_room(Bug::LooksFirst);
}
