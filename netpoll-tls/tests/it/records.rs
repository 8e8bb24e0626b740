//! Records: whatever pieces the wire arrives in, the plain bytes are the same; and how long records
//! are.

use netpoll_buffer::LinkBuffer;
use netpoll_core::FilterState;
use netpoll_tls::rustls::version::{TLS12, TLS13};
use proptest::prelude::*;

use crate::ends::{End, Ours, Theirs, exchange, open_pair, take};
use crate::handshake::{Version, their_client, their_server};
use crate::identities::{client, server};

/// Records of the wire: the length of each with its header.
fn lengths(wire: &[u8]) -> Vec<usize> {
    let (mut rest, mut lengths) = (wire, Vec::new());
    while let [_, _, _, high, low, ..] = *rest {
        let length = 5 + usize::from(u16::from_be_bytes([high, low]));
        lengths.push(length);
        rest = &rest[length..];
    }
    assert!(rest.is_empty(), "whole records");
    lengths
}

/// Bytes that tell their place.
fn numbered(n: usize) -> Vec<u8> {
    (0..n).map(|i| (i ^ (i >> 8)) as u8).collect()
}

#[derive(Debug, Clone)]
struct Course {
    tls12: bool,
    /// Messages: of the client or not, and how long.
    messages: Vec<(bool, usize)>,
    /// The wire comes in pieces of these lengths, in turn.
    pieces: Vec<usize>,
    room: usize,
}

fn course() -> impl Strategy<Value = Course> {
    let length = prop_oneof![0..100_usize, 4000..4200_usize, 16_300..16_500_usize, 0..70_000_usize];
    let piece = prop_oneof![1..8_usize, 1..200_usize, 1..20_000_usize];
    let messages = prop::collection::vec((any::<bool>(), length), 1..8);
    let room = prop_oneof![Just(usize::MAX), Just(1), 1..40_000_usize];
    (any::<bool>(), messages, prop::collection::vec(piece, 1..10), room)
        .prop_map(|(tls12, messages, pieces, room)| Course { tls12, messages, pieces, room })
}

/// Passes the wire in pieces until both ends are silent.
fn in_pieces(client: &mut impl End, server: &mut impl End, course: &Course) {
    let mut pieces = course.pieces.iter().cycle();
    let mut deliver = |wire: Vec<u8>, to: &mut dyn FnMut(&[u8])| {
        let mut rest = &wire[..];
        while !rest.is_empty() {
            let (piece, later) = rest.split_at(rest.len().min(*pieces.next().unwrap()));
            to(piece);
            rest = later;
        }
        !wire.is_empty()
    };
    loop {
        let there = deliver(client.transmit(), &mut |wire| server.receive(wire).unwrap());
        let back = deliver(server.transmit(), &mut |wire| client.receive(wire).unwrap());
        if !there && !back {
            return;
        }
    }
}

/// The plain bytes that arrive are those that were sent, in both directions.
fn runs(client: &mut impl End, server: &mut impl End, course: &Course) {
    let (mut to_server, mut to_client) = (Vec::new(), Vec::new());
    let (mut at_server, mut at_client) = (Vec::new(), Vec::new());
    for (i, &(of_client, length)) in course.messages.iter().enumerate() {
        let message = numbered(length);
        if of_client {
            client.send(&message);
            to_server.extend(message);
        } else {
            server.send(&message);
            to_client.extend(message);
        }
        if i % 2 == 1 {
            in_pieces(client, server, course);
        }
        at_server.extend(server.plain());
        at_client.extend(client.plain());
    }
    in_pieces(client, server, course);
    client.finish();
    server.finish();
    in_pieces(client, server, course);
    assert!(client.has_finished() && server.has_finished());
    at_server.extend(server.plain());
    at_client.extend(client.plain());
    assert!(at_server == to_server, "{} of {} bytes", at_server.len(), to_server.len());
    assert!(at_client == to_client, "{} of {} bytes", at_client.len(), to_client.len());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn any_pieces_and_lengths_between_our_ends(course in course()) {
        let (config, dialling) = (server().build().unwrap(), client().build().unwrap());
        let mut client = Ours::dial(&dialling, "localhost:1");
        let mut server = Ours::accept(&config);
        (client.room, server.room) = (course.room, course.room);
        runs(&mut client, &mut server, &course);
    }

    #[test]
    fn any_pieces_and_lengths_to_a_server_of_rustls(course in course()) {
        let version: Version = if course.tls12 { &TLS12 } else { &TLS13 };
        let mut client = Ours::dial(&client().build().unwrap(), "localhost:1");
        client.room = course.room;
        runs(&mut client, &mut Theirs::server(their_server(version).into()), &course);
    }

    #[test]
    fn any_pieces_and_lengths_from_a_client_of_rustls(course in course()) {
        let version: Version = if course.tls12 { &TLS12 } else { &TLS13 };
        let mut server = Ours::accept(&server().build().unwrap());
        server.room = course.room;
        runs(&mut Theirs::client(their_client(version).into()), &mut server, &course);
    }
}

#[test]
fn records_are_short_at_first_then_long() {
    let (mut client, mut server) = open();
    server.send(&numbered(200_000));
    let lengths = lengths(&server.transmit());
    assert_eq!(lengths[..16], [4096 + 22; 16], "the first 64 KiB");
    assert_eq!(lengths[16..24], [16_384 + 22; 8]);
    assert_eq!(lengths.len(), 25);

    client.send(b"short");
    client.send(&[0; 4096]);
    assert_eq!(self::lengths(&client.transmit()), [5 + 22, 4096 + 22]);
}

#[test]
fn small_pieces_become_one_record_and_large_ones_are_not_copied() {
    let (_, server) = open();
    let pieces = |lengths: &[usize]| {
        let all: LinkBuffer = lengths.iter().map(|&n| LinkBuffer::from(numbered(n))).collect();
        let mut wire = LinkBuffer::new();
        let taken = server.filter.seal(&all, 0, &mut wire).unwrap();
        wire.flush();
        (taken, lengths_of(&mut wire))
    };
    assert_eq!(pieces(&[100, 200, 300]), (600, vec![622]));
    assert_eq!(pieces(&[100, 9000]), (4096, vec![4096 + 22]));
    assert_eq!(pieces(&[9000, 100]), (4096, vec![4096 + 22]));
}

fn lengths_of(wire: &mut LinkBuffer) -> Vec<usize> {
    lengths(&take(wire))
}

#[test]
fn opening_stops_between_records_where_the_room_ends() {
    let (mut client, mut server) = open();
    for _ in 0..3 {
        client.send(&[1; 1000]);
    }
    let mut wire = client.transmit();
    let mut plain = LinkBuffer::new();
    let one = wire.len() / 3;
    for left in (0..3).rev() {
        let opened = server.filter.open(&mut wire, 1, &mut plain).unwrap();
        assert_eq!((opened.used, opened.state), (one, FilterState::Open));
        wire.drain(..one);
        assert_eq!(wire.len(), left * one);
        // What has not been opened is of no concern to what is sealed meanwhile.
        let mut sealed = LinkBuffer::new();
        assert_eq!(server.filter.seal(&"answer".into(), 0, &mut sealed).unwrap(), 6);
    }
    plain.flush();
    assert_eq!(plain.len(), 3000);
    assert_eq!(server.filter.open(&mut [], 1, &mut plain).unwrap().used, 0);
    server.send(b"");
    assert_eq!(server.transmit(), b"", "nothing is no record");
}

#[test]
fn nothing_is_sealed_after_our_end() {
    let (mut client, mut server) = open();
    client.finish();
    client.finish();
    let refused = client.filter.seal(&"late".into(), 0, &mut LinkBuffer::new()).unwrap_err();
    assert_eq!(refused.to_string(), "our stream of TLS was ended before");
    let wire = client.transmit();
    assert_eq!(lengths(&wire), [2 + 22], "one close_notify");
    server.receive(&wire).unwrap();
    assert!(server.has_finished());
    assert_eq!(server.plain(), b"");

    server.send(b"answer");
    exchange(&mut client, &mut server).unwrap();
    assert_eq!(client.plain(), b"answer", "we may still receive");
}

#[test]
fn what_follows_the_end_of_a_stream_is_ignored() {
    let (mut client, mut server) = open();
    client.send(b"last");
    client.finish();
    let mut wire = client.transmit();
    wire.extend_from_slice(b"anything at all");
    server.receive(&wire).unwrap();
    assert_eq!((server.plain(), server.wire.len()), (b"last".to_vec(), 0));
    server.receive(&[0x16; 1000]).unwrap();
    assert_eq!((server.state, server.wire.len()), (FilterState::Finished, 0));
}

/// Any thread seals while the owner opens: both streams stay whole.
#[test]
fn one_thread_seals_while_another_opens() {
    let (mut client, server) = open();
    let messages = 2000;
    for i in 0..messages {
        client.send(&[i as u8; 100]);
    }
    let mut incoming = client.transmit();
    let filter = server.filter.clone();
    let sealing = std::thread::spawn(move || {
        let (plain, mut wire) = (LinkBuffer::from(vec![7; 100]), LinkBuffer::new());
        for _ in 0..messages {
            assert_eq!(filter.seal(&plain, 0, &mut wire).unwrap(), 100);
        }
        wire.flush();
        take(&mut wire)
    });
    let (mut used, mut plain) = (0, LinkBuffer::new());
    while used < incoming.len() {
        used += server.filter.open(&mut incoming[used..], 1, &mut plain).unwrap().used;
    }
    plain.flush();
    let expected: Vec<u8> = (0..messages).flat_map(|i| [i as u8; 100]).collect();
    assert_eq!(take(&mut plain), expected);
    client.receive(&sealing.join().unwrap()).unwrap();
    assert_eq!(client.plain(), vec![7; 100 * messages]);
}

fn open() -> (Ours, Ours) {
    open_pair(&client().build().unwrap(), &server().build().unwrap())
}
