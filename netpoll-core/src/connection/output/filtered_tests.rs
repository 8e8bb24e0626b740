//! What an output with a filter counts as sent, and what it holds, to the byte.

use std::any::Any;
use std::io::Read;
use std::os::unix::net::UnixStream;

use bytes::Bytes;

use super::*;
use crate::base::limits::Limits;
use crate::connection::policy::Policy;
use crate::connection::unflushed::Unflushed;
use crate::io::filter::{FilterState, Opened};
use crate::io::stream::Stream;

const PAYLOAD: usize = 1000;
const RECORD: usize = PAYLOAD + 4;

/// Puts four bytes before each thousand.
#[derive(Debug)]
struct Framing;

impl Filter for Framing {
    fn open(&self, wire: &mut [u8], _: usize, _: &mut LinkBuffer) -> Result<Opened, FilterError> {
        Ok(Opened::new(wire.len(), FilterState::Open, false))
    }

    fn say(&self, wire: &mut LinkBuffer) {
        let _ = wire;
    }

    fn seal(
        &self,
        plain: &LinkBuffer,
        from: usize,
        wire: &mut LinkBuffer,
    ) -> Result<usize, FilterError> {
        let taken = (plain.len() - from).min(PAYLOAD);
        wire.write_bytes(&[0xff; RECORD - PAYLOAD]);
        wire.write_bytes(&vec![0; taken]);
        Ok(taken)
    }

    fn finish(&self, wire: &mut LinkBuffer) {
        wire.write_bytes(b"end");
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

fn filtered(limits: Limits) -> (Output, UnixStream, Policy) {
    let (ours, peer) = UnixStream::pair().expect("two descriptors");
    ours.set_nonblocking(true).expect("an option");
    peer.set_nonblocking(true).expect("an option");
    let policy = Policy { is_dialled: true, ..Policy::new(limits) };
    let output = Output::open(Stream::new(ours.into())).filtered(&policy.memory);
    assert!(output.set_filter(Arc::new(Framing)).is_none());
    (output, peer, policy)
}

/// All that the peer can read now.
fn read_all(peer: &mut UnixStream) -> usize {
    let mut all = Vec::new();
    let _ = peer.read_to_end(&mut all);
    all.len()
}

/// A record counts when its last byte was taken, and not one byte before.
#[test]
fn what_counts_as_sent_are_the_records_that_the_socket_has_taken_whole() {
    const MUCH: usize = 4000 * PAYLOAD;
    let (output, mut peer, policy) = filtered(Limits::default());
    assert!(output.speak(true).is_none());
    output.offer(Bytes::from(vec![0; MUCH]), &mut None, &policy, &Unflushed::nothing()).unwrap();
    let (mut taken, mut cut) = (0, 0);
    while output.pending() > 0 {
        assert!(output.is_blocked(), "nothing would go on with it");
        taken += read_all(&mut peer);
        assert_eq!(output.sent() as usize, taken / RECORD * PAYLOAD, "{taken} bytes were taken");
        assert_eq!(output.sent() as usize + output.pending(), MUCH);
        cut += usize::from(!taken.is_multiple_of(RECORD));
        output.go_on(policy.limits.output);
    }
    assert!(cut > 0, "no record was ever cut");
    assert_eq!(output.sent() as usize, MUCH);
}

/// What is sealed ahead counts against the budget beside what is queued, and is bounded.
#[test]
fn what_is_sealed_ahead_is_counted_and_bounded() {
    let limits = Limits { memory_budget: Some(1 << 30), ..Limits::default() };
    let (output, mut peer, policy) = filtered(limits);
    output.speak(true);
    output.offer(Bytes::from(vec![0; 8 << 20]), &mut None, &policy, &Unflushed::nothing()).unwrap();
    assert!(output.is_blocked());
    let (held, queued) = output.holds();
    let ahead = held - queued;
    assert!(ahead > 0 && ahead < 512 << 10, "{ahead} bytes are held beside {queued}");
    while output.pending() > 0 {
        read_all(&mut peer);
        output.go_on(policy.limits.output);
    }
    assert_eq!(output.holds(), (0, 0));
}

/// Before the end of the handshake all waits, above all the FIN.
#[test]
fn nothing_leaves_before_the_end_of_the_handshake() {
    let (output, mut peer, policy) = filtered(Limits::default());
    output.offer(Bytes::from_static(b"early"), &mut None, &policy, &Unflushed::nothing()).unwrap();
    output.close();
    assert_eq!((read_all(&mut peer), output.pending(), output.is_empty()), (0, 5, false));
    assert!(peer.read(&mut [0]).is_err(), "our stream has ended");
    output.speak(true);
    let mut heard = Vec::new();
    peer.read_to_end(&mut heard).unwrap();
    assert_eq!(heard, [&[0xff; 4][..], &[0; 5], b"end"].concat());
    assert!(output.is_empty());
}

/// A close in the handshake gives up what waits for its end, and the close need not wait.
#[test]
fn a_close_in_the_handshake_waits_for_nothing() {
    let (output, mut peer, policy) = filtered(Limits::default());
    output.offer(Bytes::from_static(b"early"), &mut None, &policy, &Unflushed::nothing()).unwrap();
    assert!(output.seal().0, "it would wait for the linger time");
    output.end_stream();
    let mut heard = Vec::new();
    peer.read_to_end(&mut heard).unwrap();
    assert!(heard.is_empty(), "no end is said before the handshake is over");
}

/// The peer has broken off, so the end of the stream can't be said; the close need not wait.
#[test]
fn a_close_after_the_socket_has_failed_waits_for_nothing() {
    for before in [Bytes::new(), Bytes::from(vec![0; 4000 * PAYLOAD])] {
        let (output, peer, policy) =
            filtered(Limits { memory_budget: Some(1 << 30), ..Limits::default() });
        assert!(output.speak(true).is_none());
        output.offer(before, &mut None, &policy, &Unflushed::nothing()).unwrap();
        drop(peer);
        output.go_on(policy.limits.output);
        assert!(output.seal().0, "it would wait for the linger time");
        assert_eq!((output.pending(), output.holds()), (0, (0, 0)));
    }
}
