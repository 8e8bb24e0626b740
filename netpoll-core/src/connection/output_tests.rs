//! What an output keeps, and what it waits for.

use std::os::unix::net::UnixStream;
use std::thread;

use super::sending::BURST;
use super::*;
use crate::base::limits::Limits;

/// A send that waited for an edge that has passed would wait for ever.
#[test]
fn an_output_that_has_sent_everything_waits_for_no_edge() {
    const MUCH: usize = 128 << 20;
    let (ours, mut peer) = UnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    let output = Output::open(Stream::new(ours.into()));
    let limits = Limits::default();
    let policy = Policy { is_dialled: true, ..Policy::new(limits) };
    let reading = thread::spawn(move || io::copy(&mut peer, &mut io::sink()));
    let message = Bytes::from(vec![0; 256 << 10]);
    let mut accepted = 0;
    while accepted < MUCH {
        output.offer(message.clone(), &mut None, &policy, &Unflushed::nothing()).unwrap();
        accepted += message.len();
        while output.pending() > 0 {
            // In place of the reactor: one edge in each round.
            output.go_on(limits.output);
        }
        let waits = output.is_blocked();
        assert!(!waits, "it waits for an edge after {accepted} bytes, with none queued");
    }
    drop(output);
    assert_eq!(reading.join().unwrap().unwrap(), accepted as u64);
}

#[test]
fn one_go_sends_no_more_than_a_burst() {
    const MUCH: usize = 64 << 20;
    let (ours, mut peer) = UnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    let output = Output::open(Stream::new(ours.into()));
    let limits = Limits::default();
    let policy = Policy { is_dialled: true, ..Policy::new(limits) };
    let reading = thread::spawn(move || io::copy(&mut peer, &mut io::sink()));
    let mut bytes = LinkBuffer::new();
    for _ in 0..64 {
        bytes.write_shared(Bytes::from(vec![0; MUCH / 64]));
    }
    bytes.flush();
    let mut sending = output.send(&mut bytes, &policy, &Unflushed::nothing()).unwrap();
    let mut before = 0;
    while output.pending() > 0 {
        let went = output.sent() as usize - before;
        assert!(went <= BURST, "{went} bytes in one go");
        let goes_on = sending.unsent;
        assert!(!goes_on || went == BURST, "it goes on only after a burst");
        assert!(output.is_blocked(), "nothing would go on with it");
        before = output.sent() as usize;
        sending = output.go_on(limits.output);
    }
    assert_eq!(output.sent() as usize, MUCH);
    drop(output);
    assert_eq!(reading.join().unwrap().unwrap(), MUCH as u64);
}

#[test]
fn a_queue_of_tiny_messages_holds_little_more_than_their_bytes() {
    let (ours, _peer_that_never_reads) = UnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    let output = Output::open(Stream::new(ours.into()));
    let marks = OutputLimits { low: 1 << 20, high: 2 << 20 };
    let policy =
        Policy { is_dialled: true, ..Policy::new(Limits { output: marks, ..Limits::default() }) };
    while !output.is_blocked() {
        output
            .offer(Bytes::from(vec![0; 64 << 10]), &mut None, &policy, &Unflushed::nothing())
            .unwrap();
    }
    let held = || lock(&output.queue).backlog.as_ref().map_or(0, |backlog| backlog.bytes.held());
    let before = held();
    for _ in 0..10_000 {
        output
            .offer(Bytes::from_static(b"tiny"), &mut None, &policy, &Unflushed::nothing())
            .unwrap();
    }
    let more = held() - before;
    assert!(more < 1 << 20, "40 000 bytes are held in {more}");
}

#[test]
fn a_stream_that_cannot_be_ended_has_failed() {
    // A pipe is no socket, so a shutdown of it fails.
    let (_reading, writing) = io::pipe().unwrap();
    let output = Output::open(Stream::new(writing.into()));
    assert_eq!(output.close().events, FAILURE);
    assert!(output.failure().is_some());
}

/// A peer that reads the end of the stream has all of it.
#[test]
fn a_stream_of_which_bytes_are_lost_ends_by_a_reset() {
    // A pipe is no socket, so the send fails, and the system refuses the reset as well.
    let (_reading, writing) = io::pipe().unwrap();
    let output = Output::open(Stream::new(writing.into()));
    let policy = Policy { is_dialled: true, ..Policy::new(Limits::default()) };
    assert!(
        output
            .offer(Bytes::from_static(b"lost"), &mut None, &policy, &Unflushed::nothing())
            .is_err()
    );
    let (_, reset) = output.close_stream(false);
    assert!(reset.is_err(), "it ended in order");
}

/// The thread that dialled may send before any event comes; nothing waits for one.
#[test]
fn the_first_send_of_a_dialled_stream_is_tried_at_once() {
    for early in [&b""[..], b"early, "] {
        let (ours, mut peer) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let output = Output::connecting(Stream::new(ours.into()), Arc::default());
        let limits = Limits::default();
        let policy = Policy { is_dialled: true, ..Policy::new(limits) };
        let offer = |bytes: &'static [u8]| {
            output
                .offer(Bytes::from_static(bytes), &mut None, &policy, &Unflushed::nothing())
                .unwrap();
        };
        if !early.is_empty() {
            offer(early);
        }
        output.connected();
        offer(b"hello");
        assert_eq!(output.pending(), 0, "a send that could go was queued");
        drop(output);
        let mut heard = Vec::new();
        io::Read::read_to_end(&mut peer, &mut heard).unwrap();
        assert_eq!(heard, [early, b"hello"].concat());
    }
}

/// A pass and a sender that catches up may come with the same messages: one of them sends.
#[test]
fn several_messages_are_sent_once_and_up_to_the_high_water_mark() {
    let (ours, mut peer) = UnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    let output = Output::open(Stream::new(ours.into()));
    let output_limits = OutputLimits { low: 1, high: 100 << 10 };
    let policy = Policy::new(Limits { output: output_limits, ..Limits::default() });
    let position = AtomicU64::new(7);
    let offer = |from, messages: &[Bytes]| {
        let to = from + messages.len() as u64;
        let several = Several { position: &position, from, to };
        let offered =
            output.offer_several(several, messages.iter(), &policy, &mut Spent::default());
        offered.map(|(accepted, outcome)| (accepted, outcome.is_ok()))
    };
    let words = ["one", "", "two"].map(Bytes::from);
    assert_eq!(offer(6, &words), None, "they are not next");
    assert_eq!(offer(7, &words), Some((3, true)));
    assert_eq!(offer(7, &words), None, "they are sent");
    let mut heard = [0; 6];
    io::Read::read_exact(&mut peer, &mut heard).unwrap();
    assert_eq!(&heard, b"onetwo");
    // The kernel takes some of it, and the mark bounds what waits here: one message goes over it.
    let large = vec![Bytes::from(vec![b'x'; 50 << 10]); 100];
    let (accepted, is_ok) = offer(10, &large).unwrap();
    assert!(is_ok && output.is_congested() && accepted < 100);
    assert!((100 << 10..=150 << 10).contains(&output.pending()), "{}", output.pending());
    assert_eq!(position.load(Ordering::Relaxed), 110, "those that were skipped are past");
    output.close();
    assert_eq!(offer(110, &words), Some((0, false)));
}
