//! What reads return at the edges: of nothing, of the end, of a reset, and of the time.

use std::io::{ErrorKind, Read};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use netpoll::{Bytes, Connection, Error, EventLoop, Limits, Result, Wait};

use super::{handing_out, limited_pair, next, pair};
use crate::util::{
    Client, Gate, Journal, PATIENCE, Random, Server, echo, eventually, modes, noise, pool, quiet,
};

/// The kernel delivers what came before the reset, and so do we.
#[test]
fn what_came_before_a_reset_is_read() {
    for dispatch in modes() {
        let (journal, gate) = (Journal::default(), Gate::default());
        let [connected, requested] = [(); 2].map(|()| journal.clone());
        let closed = gate.clone();
        let server = Server::start(
            EventLoop::builder()
                .on_connect(move |(): &mut (), _: &mut Connection| {
                    connected.add("connect");
                    closed.pass();
                    Ok(())
                })
                .on_request(move |(): &mut (), conn: &mut Connection| {
                    let len = conn.reader().len();
                    let text = conn.reader().read_string(len)?;
                    requested.add(text);
                    Ok(())
                })
                .on_disconnect(journal.on_disconnect())
                .dispatch(dispatch),
        );
        let mut client = server.connect();
        journal.wait(1);
        client.say(b"last words");
        client.reset();
        gate.open();
        assert_eq!(journal.wait(3), ["connect", "last words", "Reset"], "{dispatch:?}");
    }
}

/// What a callback sees whose peer closed while it ran: what is buffered, what stands in the
/// socket, and the end; `on_disconnect` waits for it.
#[test]
fn a_peer_that_closes_while_a_callback_runs_is_told_of_after_it() {
    let (journal, gate) = (Journal::default(), Gate::default());
    let (seen, closed) = (journal.clone(), gate.clone());
    let (builder, handles) = handing_out();
    let server = Server::start(
        builder
            .on_request(move |(): &mut (), conn: &mut Connection| {
                seen.add("begun");
                closed.pass();
                seen.add(format!("{:?}", conn.reader().read_string(5)?));
                seen.add(format!("{:?}", conn.reader().read_string(5)?));
                seen.add(format!("{:?}", conn.reader().read_byte()));
                conn.writer().write_bytes(b"nobody hears this");
                let _ = conn.writer().flush();
                seen.add("done");
                Ok(())
            })
            .on_disconnect(journal.on_disconnect())
            .dispatch(pool()),
    );
    let mut client = server.connect();
    let handle = next(&handles);
    client.say(b"first");
    journal.wait(1);
    client.say(b"later");
    assert!(handle.is_active());
    drop(client);
    eventually("it is no longer active", || !handle.is_active());
    quiet(20);
    assert_eq!(journal.len(), 1, "on_disconnect beside a callback");
    gate.open();
    let mut entries = journal.wait(6);
    let reason = entries.pop().expect("a reason");
    assert_eq!(
        entries,
        [
            "begun",
            "\"first\"",
            "\"later\"",
            "Err(the peer ended its stream before the bytes asked for had come)",
            "done"
        ]
    );
    // The peer's kernel answers bytes to a closed socket with a reset.
    assert!(reason == "Peer" || reason == "Reset", "{reason}");
}

#[test]
fn a_read_of_nothing_succeeds_whatever_has_become_of_the_connection() -> Result<()> {
    fn of_nothing(conn: &mut Connection) -> Result<()> {
        assert_eq!(conn.read(&mut [])?, 0);
        let mut reader = conn.reader();
        reader.skip(0)?;
        assert!(reader.next(0)?.is_empty() && reader.peek(0)?.is_empty());
        assert!(reader.try_next(0)?.is_empty() && reader.slice(0)?.is_empty());
        assert!(reader.read_bytes(0)?.is_empty() && reader.read_string(0)?.is_empty());
        Ok(())
    }
    let (mut conn, peer) = pair()?;
    of_nothing(&mut conn)?;
    drop(peer);
    assert!(matches!(conn.reader().read_byte(), Err(Error::EndOfStream)));
    of_nothing(&mut conn)?;
    conn.close();
    of_nothing(&mut conn)
}

#[test]
fn an_until_that_fails_keeps_the_bytes() -> Result<()> {
    let (mut conn, mut peer) = pair()?;
    peer.say(b"half a line");
    conn.reader().peek(11)?;
    conn.set_read_timeout(Some(Duration::from_millis(5)));
    assert!(matches!(conn.reader().until(b'\n'), Err(Error::TimedOut(Wait::Read))));
    assert_eq!(conn.reader().len(), 11);
    conn.set_read_timeout(Some(PATIENCE));
    drop(peer);
    assert!(matches!(conn.reader().until(b'\n'), Err(Error::EndOfStream)));
    assert_eq!(conn.reader().next(11)?, b"half a line");
    assert!(matches!(conn.reader().read_byte(), Err(Error::EndOfStream)));
    Ok(())
}

/// What is buffered can still be read when the connection is closed on this side; only what is not
/// fails, and says so.
#[test]
fn what_is_buffered_is_readable_after_a_local_close() {
    for dispatch in modes() {
        let (sender, reports) = mpsc::channel();
        let server = Server::start(
            EventLoop::builder()
                .on_request(move |(): &mut (), conn: &mut Connection| {
                    conn.close();
                    let text = conn.reader().read_string(5)?;
                    let beyond = conn.reader().read_byte().expect_err("nothing else is there");
                    let _ = sender.send((text, beyond.kind()));
                    Ok(())
                })
                .dispatch(dispatch),
        );
        let mut client = server.connect();
        client.say(b"12345");
        let report = next(&reports);
        assert_eq!(report, ("12345".to_owned(), ErrorKind::NotConnected), "{dispatch:?}");
    }
}

/// Bytes that come in the moment in which the time is up are either read or still there.
#[test]
fn a_read_that_meets_its_timeout_loses_nothing() -> Result<()> {
    const ROUNDS: u32 = 1000;
    let seed = Random::seed();
    let (mut conn, mut peer) = pair()?;
    let sending = thread::spawn(move || {
        let mut random = Random::new(seed);
        for round in 0..ROUNDS {
            let until = Instant::now() + Duration::from_micros(random.below(300) as u64);
            while Instant::now() < until {
                std::hint::spin_loop();
            }
            peer.say(&round.to_le_bytes());
        }
        peer
    });
    conn.set_read_timeout(Some(Duration::from_micros(50)));
    let begun = Instant::now();
    for round in 0..ROUNDS {
        let bytes = loop {
            match conn.reader().next(4) {
                Ok(bytes) => break bytes.to_vec(),
                Err(Error::TimedOut(Wait::Read)) => {}
                Err(error) => panic!("seed {seed}: {error}"),
            }
            assert!(begun.elapsed() < PATIENCE, "seed {seed}: round {round} never comes");
        };
        assert_eq!(bytes, round.to_le_bytes(), "seed {seed}");
    }
    assert!(conn.is_active(), "a timeout has ended it");
    drop(sending.join().expect("a peer"));
    conn.set_read_timeout(Some(PATIENCE));
    assert!(matches!(conn.reader().read_byte(), Err(Error::EndOfStream)));
    Ok(())
}

/// The memory behind a slice is not used again while the slice lives.
#[test]
fn slices_outlive_their_callback_and_their_connection() {
    for dispatch in modes() {
        let (sender, slices) = mpsc::channel::<Bytes>();
        let server = Server::start(
            EventLoop::builder()
                .on_request(move |(): &mut (), conn: &mut Connection| {
                    let len = conn.reader().len();
                    let slice = conn.reader().read_bytes(len)?;
                    conn.writer().write_shared(slice.clone());
                    let _ = sender.send(slice);
                    Ok(())
                })
                .dispatch(dispatch)
                .loops(1),
        );
        let message = |number: usize| noise(number * 7919, 100 + number);
        for number in 0..200 {
            server.connect().echo(message(number));
        }
        server.stop();
        let other = Server::start(echo().dispatch(dispatch).loops(1));
        other.connect().echo(noise(3, 1 << 20));
        let kept: Vec<u8> = slices.iter().flatten().collect();
        let said: Vec<u8> = (0..200).flat_map(message).copied().collect();
        assert!(kept == said, "{dispatch:?}: the memory of a slice was used again");
    }
}

#[test]
fn a_dialled_connection_whose_peer_left_stays_readable_and_open_until_it_is_dropped() -> Result<()>
{
    let (mut conn, mut peer) = pair()?;
    let handle = conn.handle();
    peer.say(b"farewell");
    assert_eq!(conn.reader().peek(8)?, b"farewell");
    assert!(handle.is_active());
    drop(peer);
    eventually("the loop has seen it", || !handle.is_active() && !conn.is_active());
    assert_eq!(conn.reader().next(8)?, b"farewell");
    assert!(matches!(conn.reader().read_byte(), Err(Error::EndOfStream)));
    handle.local_addr().expect("the socket is open while its owner holds it");
    drop(conn);
    eventually("the socket is closed with its owner", || {
        matches!(handle.local_addr(), Err(Error::Closed))
    });
    Ok(())
}

/// A needle that is cut at every place, in every mode; what follows it stays.
#[test]
fn a_needle_of_several_bytes_ends_a_read_however_it_arrives() {
    const END: &[u8] = b"\r\n\r\n";
    for dispatch in modes() {
        let server = Server::start(
            EventLoop::builder()
                .on_request(|(): &mut (), conn: &mut Connection| {
                    let (mut reader, mut writer) = conn.split();
                    let at = reader.find_bytes(END)?;
                    // Under `Inline` a later read may fail after the header was consumed.
                    reader.peek(at + END.len() + 1)?;
                    let header = reader.until_bytes(END)?;
                    assert_eq!(header.len(), at + END.len());
                    writer.write_bytes(header);
                    let body = reader.read_byte()?;
                    writer.write_byte(body);
                    Ok(())
                })
                .dispatch(dispatch),
        );
        let mut client = server.connect();
        let message = b"a: b\r\nc: \r\n\rd\r\n\r\n!";
        for cut in 1..message.len() {
            client.say(&message[..cut]);
            client.say(&message[cut..]);
            client.hear(message);
        }
        for byte in message {
            client.say(&[*byte]);
        }
        client.hear(message);
    }
}

#[test]
fn a_search_ends_as_every_read_does_and_consumes_nothing() -> Result<()> {
    let (mut conn, mut peer) = pair()?;
    assert_eq!(conn.reader().find_bytes(b"")?, 0);
    assert_eq!(conn.reader().until_bytes(b"")?, b"");
    assert!(matches!(conn.reader().try_find_bytes(b"ab"), Err(Error::WouldBlock)));
    peer.say(b"xyza");
    assert_eq!(conn.reader().wait_some()?, 4);
    conn.set_read_timeout(Some(Duration::from_millis(1)));
    let mut reader = conn.reader();
    assert!(matches!(reader.find_bytes(b"ab"), Err(Error::TimedOut(Wait::Read))));
    assert!(matches!(reader.until_bytes(b"ab"), Err(Error::TimedOut(Wait::Read))));
    assert!(matches!(reader.wait_more(), Err(Error::TimedOut(Wait::Read))));
    conn.set_read_timeout(Some(PATIENCE));
    peer.say(b"bc");
    assert_eq!(conn.reader().find_bytes(b"ab")?, 3);
    assert_eq!(conn.reader().until_bytes(b"ab")?, b"xyzab");
    peer.half_close();
    let mut reader = conn.reader();
    assert!(matches!(reader.until_bytes(b"ab"), Err(Error::EndOfStream)));
    assert!(matches!(reader.wait_more(), Err(Error::EndOfStream)));
    assert_eq!(reader.next(1)?, b"c");
    assert!(matches!(reader.wait_some(), Err(Error::EndOfStream)));
    let limit = Limits { input_limit: 10, ..Limits::default() };
    let (mut conn, mut peer) = limited_pair(limit)?;
    peer.say(&[b'x'; 20]);
    let mut reader = conn.reader();
    let outcome = reader.until_bytes(b"ab");
    assert!(matches!(outcome, Err(Error::InputLimit { limit: 10, .. })), "{outcome:?}");
    Ok(())
}

/// For parsers: each wait brings at least one byte more.
#[test]
fn a_parser_waits_for_more_than_it_has() -> Result<()> {
    let (mut conn, mut peer) = pair()?;
    let peer = thread::spawn(move || {
        for byte in 0..100 {
            peer.say(&[byte]);
        }
        peer
    });
    let mut reader = conn.reader();
    let mut len = reader.wait_some()?;
    while len < 100 {
        let more = reader.wait_more()?;
        assert!(more > len);
        len = more;
    }
    drop(peer.join().expect("no panic"));
    Ok(())
}
