//! What flushes and sends do at the edges: of nothing, after a timeout, on a peer that is gone.

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use netpoll::{Connection, Error, EventLoop, Result};

use super::{handing_out, next, pair};
use crate::util::{
    Client, Gate, Journal, PATIENCE, Server, echo_once, is_filtered, modes, noise, pool, quiet,
};

#[test]
fn a_flush_of_nothing_succeeds_whatever_has_become_of_the_connection() -> Result<()> {
    let (mut conn, peer) = pair()?;
    conn.writer().flush()?;
    conn.writer().write_bytes(b"");
    conn.writer().flush()?;
    drop(peer);
    assert!(conn.reader().read_byte().is_err());
    conn.writer().flush()?;
    conn.close();
    conn.writer().flush()
}

#[test]
fn what_is_flushed_after_a_timeout_stands_behind_what_was_before() {
    const MUCH: usize = 16 << 20;
    if is_filtered() {
        return; // the tunnel takes it all, so nothing times out
    }
    let (sender, reports) = mpsc::channel();
    let server = Server::start(
        EventLoop::builder()
            .on_request(move |(): &mut (), conn: &mut Connection| {
                let mut flush = |bytes: &[u8]| {
                    conn.writer().write_bytes(bytes);
                    let outcome = conn.writer().flush();
                    let _ = sender.send(format!("{outcome:?} {}", conn.is_active()));
                };
                flush(noise(1, MUCH));
                flush(b", and the end of it");
                Ok(())
            })
            .write_timeout(Duration::from_secs(1)) // in which the client reads something
            .dispatch(pool()),
    );
    let mut client = server.connect();
    client.say(b"all of it");
    assert_eq!(next(&reports), "Err(timed out waiting for the peer to take bytes) true");
    assert_eq!(
        next(&reports),
        "Err(timed out waiting for the peer to take bytes) true",
        "it still stands above its mark"
    );
    client.hear(noise(1, MUCH));
    client.hear(b", and the end of it");
}

/// The reset is in the socket, and the connection does not know of it: the write finds it.
#[test]
fn a_write_to_a_peer_that_has_reset_fails_and_the_reason_is_reset() {
    for dispatch in modes() {
        let (journal, gate) = (Journal::default(), Gate::default());
        let (seen, closed) = (journal.clone(), gate.clone());
        let server = Server::start(
            EventLoop::builder()
                .on_request(move |(): &mut (), conn: &mut Connection| {
                    seen.add("begun");
                    closed.pass();
                    let mut kinds = Vec::new();
                    // The first finds the error that the reset has left, the next ones a socket
                    // that can send no more.
                    for _ in 0..3 {
                        conn.writer().write_bytes(b"anybody?");
                        kinds.push(conn.writer().flush().expect_err("it was reset").kind());
                    }
                    let gone = |kind: &ErrorKind| {
                        matches!(kind, ErrorKind::ConnectionReset | ErrorKind::BrokenPipe)
                    };
                    seen.add(if kinds.iter().all(gone) { "told" } else { "hidden" });
                    Ok(())
                })
                .on_disconnect(journal.on_disconnect())
                .dispatch(dispatch)
                .loops(1),
        );
        let mut client = server.connect();
        client.say(b"hello");
        journal.wait(1);
        client.reset();
        quiet(if is_filtered() { 500 } else { 50 }); // the reset is there, through a tunnel too
        gate.open();
        assert_eq!(journal.wait(3), ["begun", "told", "Reset"], "{dispatch:?}");
    }
}

/// What a callback flushes and what handles send at the same time: one after the other, whole.
#[test]
fn concurrent_flushes_and_sends_are_serialised() {
    const RECORD: usize = 1000;
    const RECORDS: usize = 400;
    for dispatch in modes() {
        let (builder, handles) = handing_out();
        let server = Server::start(
            builder
                .on_request(|(): &mut (), conn: &mut Connection| {
                    let asked = conn.reader().len();
                    conn.reader().skip(asked)?;
                    for _ in 0..RECORDS {
                        conn.writer().write_bytes(&[0; RECORD]);
                        conn.writer().flush()?;
                    }
                    Ok(())
                })
                .dispatch(dispatch),
        );
        let mut client = server.connect();
        let handle = next(&handles);
        client.say(b"go");
        let senders: Vec<_> = (1..=3_u8)
            .map(|number| {
                let handle = handle.clone();
                thread::spawn(move || {
                    let begun = Instant::now();
                    for _ in 0..RECORDS {
                        while let Err(error) = handle.send(vec![number; RECORD]) {
                            assert!(matches!(error, Error::Full), "{error}");
                            assert!(begun.elapsed() < PATIENCE, "full for ever");
                            thread::yield_now();
                        }
                    }
                })
            })
            .collect();
        let mut count = [0; 4];
        let mut record = [0; RECORD];
        for _ in 0..4 * RECORDS {
            client.read_exact(&mut record).expect("a record");
            assert!(record.iter().all(|byte| *byte == record[0]), "{dispatch:?}: torn");
            count[usize::from(record[0])] += 1;
        }
        assert_eq!(count, [RECORDS; 4], "{dispatch:?}");
        for sender in senders {
            sender.join().expect("a sender");
        }
    }
}

/// A peer that has ended its stream is not active, and still hears what is sent.
#[test]
fn a_half_closed_connection_is_written_to_until_it_is_closed() {
    let (builder, handles) = handing_out();
    let (journal, gate) = (Journal::default(), Gate::default());
    let closed = gate.clone();
    let server = Server::start(
        builder
            .on_request(move |(): &mut (), conn: &mut Connection| {
                let mut all = Vec::new();
                conn.read_to_end(&mut all)?;
                closed.pass();
                conn.write_all(&all)?;
                conn.flush()?;
                Ok(())
            })
            .on_disconnect(journal.on_disconnect())
            .dispatch(pool()),
    );
    let mut client = server.connect();
    let handle = next(&handles);
    client.say(b"a request");
    client.half_close();
    crate::util::eventually("the end is seen", || !handle.is_active());
    handle.send("from outside, ").expect("our stream is open");
    client.hear(b"from outside, ");
    gate.open();
    client.hear(b"a request");
    assert_eq!(client.rest(), b"");
    assert_eq!(journal.wait(1), ["Peer"]);
}

/// A message of more than an `iovec` or one call can carry: both end at 2 GiB.
#[test]
fn a_message_of_more_than_two_gibibytes_is_sent_whole() {
    const LEN: usize = (2 << 30) + 12_345;
    let (builder, handles) = handing_out();
    let builder = builder.on_request(|(): &mut (), conn: &mut Connection| echo_once(conn));
    // Longer than a loaded machine takes for it.
    let server = Server::start(builder.loops(1).linger(4 * PATIENCE));
    let mut client = server.connect();
    let handle = next(&handles);
    // Never written to, so the kernel backs it with one page of zeros.
    handle.send(vec![0; LEN]).expect("accepted");
    handle.close();
    client.set_read_timeout(Some(PATIENCE)).expect("an option");
    let mut buffer = vec![1; 4 << 20];
    let mut heard = 0;
    loop {
        match client.read(&mut buffer).expect("the peer ends in order") {
            0 => break,
            read => heard += read,
        }
    }
    assert_eq!(heard, LEN);
    let _ = client.shutdown(Shutdown::Both);
}
