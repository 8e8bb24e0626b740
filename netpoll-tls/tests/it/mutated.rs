//! One wrong byte, at each position of a session in turn: an error or an end in order, never a
//! panic, a stop without either, or plain bytes that were not sent.

use std::sync::Arc;

use netpoll_tls::rustls::client::Resumption;
use netpoll_tls::rustls::version::{TLS12, TLS13};
use netpoll_tls::{TlsClient, TlsConfig};

use crate::ends::{End, Ours, Theirs};
use crate::handshake::{their_client, their_server};
use crate::identities::{client, server};

const REQUEST: &[u8] = b"a request of some length, and then some";
const ANSWER: &[u8] = b"an answer";

/// Changes the byte at one position of one direction.
struct Wrong {
    /// The direction: from the client or from the server.
    of_client: bool,
    at: usize,
    by: u8,
}

/// How a session with a wrong byte went.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
enum Course {
    /// The session was over before that position.
    Unharmed,
    Harmed,
}

/// A whole session. Panics if a wrong byte leads to wrong plain bytes.
fn session(client: &mut impl End, server: &mut impl End, wrong: &Wrong) -> Course {
    let (mut passed, mut harmed, mut failed) = ([0, 0], false, false);
    let (mut asked, mut answered) = (Vec::new(), Vec::new());
    client.send(REQUEST);
    let mut ended = false;
    loop {
        let mut there = client.transmit();
        let mut back = server.transmit();
        if (there.is_empty() && back.is_empty()) || failed {
            break;
        }
        for (direction, wire) in [&mut there, &mut back].into_iter().enumerate() {
            let of_client = direction == 0;
            let end = passed[direction] + wire.len();
            if of_client == wrong.of_client && (passed[direction]..end).contains(&wrong.at) {
                wire[wrong.at - passed[direction]] ^= wrong.by;
                harmed = true;
            }
            passed[direction] = end;
        }
        failed |= server.receive(&there).is_err();
        asked.extend(server.plain());
        if asked == REQUEST && !ended {
            server.send(ANSWER);
            server.finish();
            ended = true;
        }
        failed |= client.receive(&back).is_err();
        answered.extend(client.plain());
        if client.has_finished() {
            client.finish();
        }
    }
    assert!(REQUEST.starts_with(&asked), "wrong plain bytes at the server");
    assert!(ANSWER.starts_with(&answered), "wrong plain bytes at the client");
    if failed || !harmed {
        return if harmed { Course::Harmed } else { Course::Unharmed };
    }
    // Neither end objected: then all came, or the bytes that are missing make both wait, which the
    // handshake timeout and the idle timeout end.
    Course::Harmed
}

/// Runs sessions until the position is behind the end, in both directions.
fn at_each_position<C: End, S: End>(client: impl Fn() -> C, server: impl Fn() -> S) {
    for of_client in [true, false] {
        let mut at = 0;
        loop {
            let by = [0x01, 0x80, 0xff][at % 3];
            let wrong = Wrong { of_client, at, by };
            match session(&mut client(), &mut server(), &wrong) {
                Course::Unharmed => break,
                Course::Harmed => at += 1,
            }
        }
        assert!(at > 300, "the session is long enough to say something: {at}");
    }
}

/// Without resumption, which would make each session depend on the one before.
fn configurations() -> (TlsClient, TlsConfig) {
    (client().sessions(0).build().unwrap(), server().resumption(false).build().unwrap())
}

#[test]
fn between_our_ends() {
    let (client, server) = configurations();
    at_each_position(|| Ours::dial(&client, "localhost:1"), || Ours::accept(&server));
}

#[test]
fn between_our_server_and_rustls_in_version_1_2() {
    let (_, server) = configurations();
    let mut theirs = their_client(&TLS12);
    theirs.resumption = Resumption::disabled();
    let theirs = Arc::new(theirs);
    at_each_position(|| Theirs::client(theirs.clone()), || Ours::accept(&server));
}

#[test]
fn between_our_client_and_rustls_in_both_versions() {
    let (client, _) = configurations();
    for version in [&TLS12, &TLS13] {
        let theirs = Arc::new(their_server(version));
        at_each_position(|| Ours::dial(&client, "localhost:1"), || Theirs::server(theirs.clone()));
    }
}
