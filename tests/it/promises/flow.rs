//! How much each side may send: pausing, half-closing, water marks, and waiting for room.

use std::io::{ErrorKind, Read};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use netpoll::{Connection, Error, EventLoop, Wait};

use super::{handing_out, next, pair, telling};
use crate::util::{
    Client, Journal, PATIENCE, Server, echo_once, eventually, is_filtered, lock, modes, noise,
    pool, quiet,
};

#[test]
fn a_paused_connection_is_not_read_from_until_it_is_resumed() {
    for dispatch in modes() {
        let (builder, handles) = handing_out();
        let journal = Journal::default();
        let server = Server::start(
            builder
                .on_request(|(): &mut (), conn: &mut Connection| echo_once(conn))
                .on_disconnect(telling(&journal))
                .dispatch(dispatch),
        );
        let mut client = server.connect();
        let handle = next(&handles);
        client.echo(b"before");
        handle.pause_reading();
        client.say(b"paused, ");
        let received = handle.bytes_received();
        quiet(50);
        assert_eq!(handle.bytes_received(), received, "{dispatch:?}: it was read");
        handle.send("and still sent to").expect("writing is not paused");
        client.hear(b"and still sent to");
        client.say(b"resumed");
        handle.resume_reading();
        client.hear(b"paused, resumed");
        handle.resume_reading();
        // The end of the stream waits as well.
        handle.pause_reading();
        client.half_close();
        eventually("the end is seen", || !handle.is_active());
        quiet(20);
        assert_eq!(journal.len(), 0, "{dispatch:?}");
        handle.resume_reading();
        assert_eq!(client.rest(), b"");
        assert_eq!(journal.wait(1), ["Peer"], "{dispatch:?}");
    }
}

#[test]
fn a_callback_pauses_its_own_connection() {
    for dispatch in modes() {
        let journal = Journal::default();
        let seen = journal.clone();
        let (sender, handles) = mpsc::channel();
        let server = Server::start(
            EventLoop::builder()
                .on_request(move |(): &mut (), conn: &mut Connection| {
                    let len = conn.reader().len();
                    seen.add(conn.reader().read_string(len)?);
                    conn.pause_reading();
                    let _ = sender.send(conn.handle());
                    Ok(())
                })
                .dispatch(dispatch),
        );
        let mut client = server.connect();
        for round in 1..=3 {
            client.say(b"one");
            assert_eq!(journal.wait(2 * round - 1)[2 * round - 2], "one");
            let handle = next(&handles);
            client.say(b" more");
            quiet(20);
            assert_eq!(journal.len(), 2 * round - 1, "{dispatch:?}: it is paused");
            handle.resume_reading();
            assert_eq!(journal.wait(2 * round)[2 * round - 1], " more", "{dispatch:?}");
            next(&handles).resume_reading();
        }
    }
}

/// The end of the peer's stream is told to a callback once, and the connection lives on until it
/// ends ours.
#[test]
fn a_half_open_connection_is_told_of_the_end_and_lives_on() {
    for dispatch in modes() {
        let (builder, handles) = handing_out();
        let (journal, (sender, calls)) = (Journal::default(), mpsc::channel());
        let server = Server::start(
            builder
                .on_request(move |(): &mut (), conn: &mut Connection| {
                    let len = conn.reader().len();
                    let text = conn.reader().read_string(len)?;
                    let _ = sender.send(format!("{text:?} {}", conn.is_active()));
                    Ok(())
                })
                .on_disconnect(telling(&journal))
                .half_open(true)
                .dispatch(dispatch),
        );
        let mut client = server.connect();
        let handle = next(&handles);
        client.say(b"a request");
        assert_eq!(next(&calls), "\"a request\" true");
        client.half_close();
        assert_eq!(next(&calls), "\"\" false", "{dispatch:?}");
        for round in 0..3 {
            quiet(20);
            handle.send(format!("event {round}")).expect("our stream is open");
            client.hear(format!("event {round}").as_bytes());
        }
        assert!(calls.try_recv().is_err(), "{dispatch:?}: told again");
        assert_eq!(journal.len(), 0, "{dispatch:?}: it is over");
        handle.shutdown_write();
        assert_eq!(client.rest(), b"");
        assert_eq!(journal.wait(1), ["Peer"], "{dispatch:?}");
    }
}

#[test]
fn a_half_open_connection_whose_peer_resets_is_over() {
    if is_filtered() {
        return; // no reset passes a tunnel that has seen a FIN
    }
    for dispatch in modes() {
        let (builder, handles) = handing_out();
        let journal = Journal::default();
        let server = Server::start(
            builder
                .on_request(|(): &mut (), conn: &mut Connection| echo_once(conn))
                .on_disconnect(telling(&journal))
                .half_open(true)
                .dispatch(dispatch),
        );
        let mut client = server.connect();
        client.echo(b"hello");
        let handle = next(&handles);
        client.half_close();
        eventually("the end is seen", || !handle.is_active());
        quiet(20);
        assert_eq!(journal.len(), 0);
        client.reset();
        assert_eq!(journal.wait(1), ["Reset"], "{dispatch:?}");
    }
}

/// What was accepted is sent before the FIN, and the other direction goes on.
#[test]
fn our_stream_ends_and_reading_goes_on() {
    const MUCH: usize = 8 << 20;
    for dispatch in modes() {
        let (journal, (sender, heard)) = (Journal::default(), mpsc::channel());
        let (builder, handles) = handing_out();
        let server = Server::start(
            builder
                .on_request(move |(): &mut (), conn: &mut Connection| {
                    let len = conn.reader().len();
                    let text = conn.reader().read_string(len)?;
                    if text == "go" {
                        conn.writer().write_bytes(noise(1, MUCH));
                        conn.shutdown_write();
                        conn.writer().write_bytes(b"too late");
                        assert!(matches!(conn.writer().flush(), Err(Error::Closed)));
                    }
                    let _ = sender.send(text);
                    Ok(())
                })
                .on_disconnect(telling(&journal))
                .dispatch(dispatch),
        );
        let mut client = server.connect();
        let handle = next(&handles);
        client.say(b"go");
        assert_eq!(next(&heard), "go");
        assert!(!handle.is_active(), "{dispatch:?}: not fit for another exchange");
        assert!(matches!(handle.send("late"), Err(Error::Closed)));
        client.say(b"still heard");
        assert!(client.rest() == noise(1, MUCH), "{dispatch:?}");
        client.say(b", and this");
        let mut all = next(&heard);
        while all != "still heard, and this" {
            all += &next(&heard);
        }
        assert_eq!(journal.len(), 0, "{dispatch:?}");
        drop(client);
        assert_eq!(journal.wait(1), ["Peer"], "{dispatch:?}");
    }
}

#[test]
fn a_dialled_connection_ends_its_stream_and_reads_the_answer() -> netpoll::Result<()> {
    let (mut conn, mut peer) = pair()?;
    conn.writer().write_bytes(b"a question");
    conn.shutdown_write();
    assert_eq!(peer.rest(), b"a question");
    peer.say(b"an answer");
    assert_eq!(conn.reader().next(9)?, b"an answer");
    drop(peer);
    assert_eq!(conn.read(&mut [0])?, 0);
    Ok(())
}

#[test]
fn each_crossing_of_the_water_marks_is_told_once() {
    const MUCH: usize = 16 << 20;
    for dispatch in modes() {
        let (builder, handles) = handing_out();
        let journal = Journal::default();
        let [high, low] = [(); 2].map(|()| journal.clone());
        let server = Server::start(
            builder
                .on_request(|(): &mut (), conn: &mut Connection| {
                    let (mut reader, mut writer) = conn.split();
                    writer.append(reader.slice(reader.len())?);
                    Ok(()) // without a flush, which would wait where the next round was quick
                })
                .on_high_water(move |(): &mut (), conn: &mut Connection| {
                    high.add(format!("high {}", conn.writer().is_congested()));
                    Ok(())
                })
                .on_drain(move |(): &mut (), conn: &mut Connection| {
                    low.add(format!("low {}", conn.writer().is_congested()));
                    Ok(())
                })
                .output_limits(100_000, 1_000_000)
                .dispatch(dispatch),
        );
        let mut client = server.connect();
        // Else the kernel learns to take all of it at once.
        socket2::SockRef::from(&client).set_recv_buffer_size(64 << 10).expect("an option");
        let handle = next(&handles);
        for round in 1..=3 {
            assert!(!handle.is_congested());
            handle.send(noise(round, MUCH)).expect("below the mark one message is taken whole");
            let expected = ["high true", "low false"].repeat(round);
            assert_eq!(journal.wait(2 * round - 1), expected[..2 * round - 1], "{dispatch:?}");
            assert!(handle.is_congested());
            assert!(matches!(handle.send("more"), Err(Error::Full)));
            quiet(20);
            assert_eq!(journal.len(), 2 * round - 1, "{dispatch:?}: nobody reads yet");
            client.hear(noise(round, MUCH));
            assert_eq!(journal.wait(2 * round), expected, "{dispatch:?}");
            client.echo(b"callbacks go on");
        }
    }
}

#[test]
fn a_send_waits_for_room_until_there_is_or_its_time_is_up() {
    for dispatch in modes() {
        let (builder, handles) = handing_out();
        let builder = builder.on_request(|(): &mut (), conn: &mut Connection| echo_once(conn));
        let server = Server::start(builder.dispatch(dispatch));
        let mut client = server.connect();
        // Else the kernel learns to take all of it at once.
        socket2::SockRef::from(&client).set_recv_buffer_size(64 << 10).expect("an option");
        let handle = next(&handles);
        handle.send(noise(1, 16 << 20)).expect("the queue was empty");
        let (begun, time) = (Instant::now(), Duration::from_millis(50));
        let late = handle.send_wait("late", Some(begun + time)).expect_err("nobody reads");
        assert!(matches!(late, Error::TimedOut(Wait::Write)), "{late:?}");
        assert_eq!(late.kind(), ErrorKind::TimedOut);
        assert!(begun.elapsed() >= time, "{:?}", begun.elapsed());
        let sender = handle.clone();
        let waiting =
            thread::spawn(move || sender.send_wait("in time", Some(Instant::now() + PATIENCE)));
        client.hear(noise(1, 16 << 20));
        client.hear(b"in time");
        waiting.join().expect("a sender").expect("there was room");
        // A close ends the wait as well.
        handle.send(noise(1, 16 << 20)).expect("the queue was empty");
        let sender = handle.clone();
        let waiting = thread::spawn(move || sender.send_wait("never", None));
        quiet(20); // it waits by then; were it not, the outcome would be the same
        handle.abort();
        let closed = waiting.join().expect("a sender").expect_err("it was closed");
        assert!(matches!(closed, Error::Closed), "{closed:?}");
    }
}

/// Where a callback blocks in a flush, nothing is lost by what comes from outside meanwhile.
#[test]
fn a_flush_that_waits_goes_on_when_the_peer_reads() {
    let (builder, handles) = handing_out();
    let (sender, done) = mpsc::channel();
    let sender = std::sync::Mutex::new(sender);
    let server = Server::start(
        builder
            .on_request(move |(): &mut (), conn: &mut Connection| {
                conn.writer().write_bytes(noise(1, 8 << 20));
                let outcome = conn.writer().flush();
                let _ = lock(&sender).send((outcome.is_ok(), conn.writer().pending()));
                outcome
            })
            .output_limits(1000, 100_000)
            .dispatch(pool()),
    );
    let mut client = server.connect();
    let handle = next(&handles);
    client.say(b"x");
    eventually("it is congested", || handle.is_congested());
    client.hear(noise(1, 8 << 20));
    let (sent, pending) = next(&done);
    // Up to four times the high-water mark a flush needs no wait: that much may be left if the peer
    // has read before this flush looked.
    assert!(sent && pending <= 400_000, "{sent}, {pending} left");
}
