//! Peers that close, reset, half-close or vanish, and callbacks that close on them.

use std::io::{ErrorKind, Read};
use std::net::TcpStream;
use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use netpoll::{
    CloseReason, Connection, Dispatch, Error, EventLoop, LoadBalance, PollManager, Result,
};

use crate::util::{
    Client, Count, Gate, Journal, PATIENCE, Server, echo, echo_once, eventually, is_filtered, lock,
    modes, noise, pool, quiet,
};

/// What all connections of a server received.
#[derive(Clone, Default)]
struct Inbox(Arc<Mutex<Vec<u8>>>);

impl Inbox {
    fn take_all(&self, conn: &mut Connection) -> Result<()> {
        let mut reader = conn.reader();
        let all = reader.read_bytes(reader.len())?;
        lock(&self.0).extend_from_slice(&all);
        Ok(())
    }
}

#[test]
fn a_peer_that_closes_or_resets_is_told_apart() {
    for dispatch in modes() {
        let journal = Journal::default();
        let server =
            Server::start(echo().dispatch(dispatch).on_disconnect(journal.on_disconnect()));
        let mut client = server.connect();
        client.echo(b"hello");
        drop(client);
        assert_eq!(journal.wait(1), ["Peer"], "{dispatch:?}");
        let mut client = server.connect();
        client.echo(b"hello");
        client.reset();
        assert_eq!(journal.wait(2), ["Peer", "Reset"], "{dispatch:?}");
        server.stop();
        assert_eq!(journal.len(), 2);
    }
}

#[test]
fn a_peer_that_never_says_a_word_is_told_apart() {
    for dispatch in modes() {
        let journal = Journal::default();
        let server =
            Server::start(echo().dispatch(dispatch).on_disconnect(journal.on_disconnect()));
        drop(server.connect());
        assert_eq!(journal.wait(1), ["Peer"]);
        server.connect().reset();
        // The reset may be there before the accept, which then sees nothing of the connection.
        let client = server.connect();
        client.half_close();
        eventually("the last one is gone", || {
            journal.entries().iter().filter(|it| *it == "Peer").count() == 2
        });
        assert!(journal.entries().iter().all(|it| it == "Peer" || it == "Reset"));
    }
}

#[test]
fn a_half_closed_peer_gets_its_response() {
    for dispatch in modes() {
        let journal = Journal::default();
        let server = Server::start(
            EventLoop::builder()
                .on_request(|(): &mut (), conn: &mut Connection| {
                    if conn.is_active() {
                        return Ok(()); // unread, until the peer has ended its stream
                    }
                    let asked = conn.reader().len();
                    conn.reader().skip(asked)?;
                    conn.writer().write_bytes(noise(asked, 200_000));
                    Ok(())
                })
                .dispatch(dispatch)
                .on_disconnect(journal.on_disconnect()),
        );
        for _ in 0..20 {
            let mut client = server.connect();
            client.say(b"a request");
            client.half_close();
            assert!(client.rest() == noise(9, 200_000), "{dispatch:?}: another response");
        }
        assert_eq!(journal.wait(20), vec!["Peer"; 20]);
    }
}

#[test]
fn all_is_read_of_a_peer_that_sends_a_mebibyte_and_closes_at_once() {
    for dispatch in modes() {
        let (journal, inbox) = (Journal::default(), Inbox::default());
        let receiver = inbox.clone();
        let server = Server::start(
            EventLoop::builder()
                .on_request(move |(): &mut (), conn: &mut Connection| receiver.take_all(conn))
                .dispatch(dispatch)
                .on_disconnect(journal.on_disconnect()),
        );
        for round in 1..=10 {
            let mut client = server.connect();
            client.say(noise(round, 1 << 20));
            drop(client);
            assert_eq!(journal.wait(round), vec!["Peer"; round]);
            let received = std::mem::take(&mut *lock(&inbox.0));
            assert!(received == noise(round, 1 << 20), "{} bytes came", received.len());
        }
    }
}

#[test]
fn a_blocking_callback_reads_all_of_a_peer_that_closed_at_once() {
    let (sender, received) = mpsc::channel();
    let server = Server::start(EventLoop::builder().on_request(
        move |(): &mut (), conn: &mut Connection| {
            let mut all = Vec::new();
            conn.read_to_end(&mut all)?;
            sender.send(all).expect("the test listens");
            Ok(())
        },
    ));
    let mut client = server.connect();
    client.say(noise(3, 5 << 20));
    drop(client);
    let all = received.recv_timeout(PATIENCE).expect("an end of the stream");
    assert!(all == noise(3, 5 << 20), "{} bytes came", all.len());
}

#[test]
fn a_callback_that_closes_loses_nothing_that_it_flushed() {
    const BYTES: usize = 10_000_000;
    for (dispatch, flushes) in modes().into_iter().flat_map(|it| [(it, true), (it, false)]) {
        let journal = Journal::default();
        let server = Server::start(
            EventLoop::builder()
                .on_request(move |(): &mut (), conn: &mut Connection| {
                    conn.writer().write_bytes(noise(1, BYTES));
                    if flushes {
                        conn.writer().flush()?;
                    }
                    conn.close();
                    Ok(())
                })
                .dispatch(dispatch)
                .on_disconnect(journal.on_disconnect()),
        );
        let mut client = server.connect();
        client.say(b"all of it");
        quiet(50); // the socket is full by then
        let heard = client.rest();
        assert!(heard == noise(1, BYTES), "{dispatch:?}, {flushes}: {} bytes", heard.len());
        assert_eq!(journal.wait(1), ["Local"]);
    }
}

#[test]
fn an_error_from_a_callback_loses_nothing_that_was_flushed_before() {
    for dispatch in modes() {
        let journal = Journal::default();
        let server = Server::start(
            EventLoop::builder()
                .on_request(|(): &mut (), conn: &mut Connection| {
                    conn.writer().write_bytes(noise(1, 3_000_000));
                    conn.writer().flush()?;
                    conn.writer().write_bytes(b"not flushed");
                    Err(std::io::Error::other("enough").into())
                })
                .dispatch(dispatch)
                .on_disconnect(journal.on_disconnect()),
        );
        let mut client = server.connect();
        client.say(b"all of it");
        assert!(client.rest() == noise(1, 3_000_000), "{dispatch:?}");
        assert_eq!(journal.wait(1), ["Callback"]);
    }
}

#[test]
fn a_callback_that_leaves_data_unread_is_not_called_again_for_nothing() {
    for dispatch in modes() {
        let manager = Arc::new(PollManager::new(1, LoadBalance::RoundRobin).expect("a manager"));
        let (calls, buffered) = (Count::default(), Count::default());
        let (sender, handles) = mpsc::channel();
        let (called, seen) = (calls.clone(), buffered.clone());
        let server = Server::start(
            EventLoop::builder()
                .on_connect(move |(): &mut (), conn: &mut Connection| {
                    sender.send(conn.handle()).expect("the test listens");
                    Ok(())
                })
                .on_request(move |(): &mut (), conn: &mut Connection| {
                    while seen.get() < conn.reader().len() {
                        seen.add();
                    }
                    called.add();
                    Ok(())
                })
                .manager(manager.clone())
                .dispatch(dispatch),
        );
        let mut client = server.connect();
        let handle = handles.recv_timeout(PATIENCE).expect("a connection");
        for round in 1..=3 {
            client.say(b"0123456789");
            eventually("it is called", || calls.get() == round);
            assert_eq!(buffered.get(), 10 * round, "what was unread is still there");
            let turns = manager.stats()[0].turns;
            quiet(150);
            assert_eq!(calls.get(), round, "{dispatch:?}: called again for nothing");
            let turned = manager.stats()[0].turns - turns;
            assert!(turned <= 2, "{dispatch:?}: {turned} turns with nothing to do");
        }
        handle.wake();
        eventually("a wake has it called", || calls.get() == 4);
        quiet(50);
        assert_eq!(calls.get(), 4);
    }
}

#[test]
fn a_peer_that_closes_on_unread_data_ends_with_one_on_disconnect() {
    for dispatch in modes() {
        let (journal, calls) = (Journal::default(), Count::default());
        let called = calls.clone();
        let server = Server::start(
            EventLoop::builder()
                .on_request(move |(): &mut (), _: &mut Connection| {
                    called.add();
                    Ok(())
                })
                .dispatch(dispatch)
                .on_disconnect(journal.on_disconnect()),
        );
        let mut client = server.connect();
        client.say(b"unread");
        eventually("it is called", || calls.get() == 1);
        drop(client);
        assert_eq!(journal.wait(1), ["Peer"]);
        assert_eq!(calls.get(), 2, "the last call, for what was left unread");
        quiet(50);
        assert_eq!((journal.len(), calls.get()), (1, 2));
    }
}

#[test]
fn a_peer_that_leaves_behind_a_full_buffer_is_noticed() {
    const LIMIT: usize = 100_000;
    for (dispatch, resets) in modes().into_iter().flat_map(|it| [(it, true), (it, false)]) {
        let (journal, buffered) = (Journal::default(), Count::default());
        let seen = buffered.clone();
        let server = Server::start(
            EventLoop::builder()
                .on_request(move |(): &mut (), conn: &mut Connection| {
                    while seen.get() < conn.reader().len() {
                        seen.add();
                    }
                    Ok(())
                })
                .input_limit(LIMIT)
                .dispatch(dispatch)
                .on_disconnect(journal.on_disconnect()),
        );
        let mut client = server.connect();
        client.say(noise(1, LIMIT));
        eventually("the buffer is full", || buffered.get() == LIMIT);
        if resets {
            client.reset();
            assert_eq!(journal.wait(1), ["Reset"], "{dispatch:?}");
        } else {
            drop(client);
            assert_eq!(journal.wait(1), ["Peer"], "{dispatch:?}");
        }
    }
}

#[test]
fn a_handle_closes_from_another_thread() {
    for dispatch in modes() {
        let journal = Journal::default();
        let (sender, handles) = mpsc::channel();
        let server = Server::start(
            EventLoop::builder()
                .on_connect(move |(): &mut (), conn: &mut Connection| {
                    sender.send(conn.handle()).expect("the test listens");
                    Ok(())
                })
                .on_request(|(): &mut (), conn: &mut Connection| echo_once(conn))
                .dispatch(dispatch)
                .on_disconnect(journal.on_disconnect()),
        );
        let mut client = server.connect();
        let handle = handles.recv_timeout(PATIENCE).expect("a connection");
        assert!(handle.is_active());
        client.echo(b"still there");
        handle.close();
        assert_eq!(client.rest(), b"");
        assert_eq!(journal.wait(1), ["Local"]);
        assert!(!handle.is_active());
        handle.close();
        assert!(matches!(handle.send("late"), Err(Error::Closed)));
        let is_tunnel = is_filtered();
        assert!(is_tunnel || handle.peer_addr() == client.local_addr().expect("an address"));
        quiet(20);
        assert_eq!(journal.len(), 1);
    }
}

/// What a blocking callback's operation returned, and the reason that it became.
fn blocked_operation(
    operation: fn(&mut Connection) -> Result<()>,
    end: impl FnOnce(TcpStream),
) -> (ErrorKind, String) {
    let (begun_in, begun) = mpsc::channel();
    let (sender, errors) = mpsc::channel();
    let (reasons_in, reasons) = mpsc::channel();
    let server = Server::start(
        EventLoop::builder()
            .on_request(move |(): &mut (), conn: &mut Connection| {
                begun_in.send(()).expect("the test listens");
                let outcome = operation(conn);
                let error = outcome.expect_err("an end to the wait");
                sender.send(error.kind()).expect("the test listens");
                Err(error)
            })
            .on_disconnect(move |(), reason: &CloseReason| {
                reasons_in.send(crate::util::name_of(reason)).expect("the test listens");
            })
            .dispatch(pool()),
    );
    let mut client = server.connect();
    client.say(b"12345");
    begun.recv_timeout(PATIENCE).expect("a callback");
    quiet(30); // it waits by then; were it not, the outcome would be the same
    end(client);
    let kind = errors.recv_timeout(PATIENCE).expect("the wait ends");
    (kind, reasons.recv_timeout(PATIENCE).expect("a reason"))
}

fn read_more(conn: &mut Connection) -> Result<()> {
    conn.reader().peek(1000).map(drop)
}

fn flush_much(conn: &mut Connection) -> Result<()> {
    conn.writer().write_bytes(noise(1, 16 << 20));
    conn.writer().flush()
}

#[test]
fn a_callback_that_waits_learns_how_the_peer_left() {
    let closed = blocked_operation(read_more, drop);
    assert_eq!(closed, (ErrorKind::UnexpectedEof, "Peer".into()));
    let reset = blocked_operation(read_more, Client::reset);
    assert_eq!(reset, (ErrorKind::ConnectionReset, "Reset".into()));
    let (kind, reason) = blocked_operation(flush_much, Client::reset);
    assert!(matches!(kind, ErrorKind::ConnectionReset | ErrorKind::BrokenPipe), "{kind:?}");
    assert_eq!(reason, "Reset");
}

#[test]
fn each_reason_is_told() {
    let journal = Journal::default();
    let server = Server::start(
        EventLoop::builder()
            .on_request(|(): &mut (), conn: &mut Connection| match conn.reader().read_byte()? {
                b'c' => Err(std::io::Error::other("a callback's own").into()),
                b'p' => panic!("told to"),
                b'l' => {
                    conn.close();
                    Ok(())
                }
                other => {
                    conn.writer().write_bytes(&[other]);
                    Ok(())
                }
            })
            .dispatch(Dispatch::Inline)
            .on_disconnect(journal.on_disconnect()),
    );
    for (round, (byte, reason)) in
        [(b'c', "Callback"), (b'p', "Panic"), (b'l', "Local")].into_iter().enumerate()
    {
        let mut client = server.connect();
        client.say(&[byte]);
        assert_eq!(client.rest(), b"");
        assert_eq!(journal.wait(round + 1)[round], reason);
    }
    for (count, end) in [(4, drop as fn(TcpStream)), (5, Client::reset)] {
        let mut client = server.connect();
        client.echo(b"x");
        end(client);
        journal.wait(count);
    }
    let mut client = server.connect();
    client.echo(b"x");
    server.event_loop.shutdown(PATIENCE);
    assert_eq!(client.rest(), b"");
    server.stop();
    assert_eq!(journal.entries(), ["Callback", "Panic", "Local", "Peer", "Reset", "Shutdown"]);
}

#[test]
fn an_early_answer_reaches_a_peer_whose_request_nobody_read() {
    for dispatch in modes() {
        let all_sent = Gate::default();
        let sent = all_sent.clone();
        let server = Server::start(
            EventLoop::builder()
                .on_connect(move |(): &mut (), conn: &mut Connection| {
                    sent.pass();
                    conn.writer().write_bytes(noise(2, 1 << 20));
                    conn.close();
                    Ok(())
                })
                .on_request(|(): &mut (), _: &mut Connection| Ok(()))
                .dispatch(dispatch),
        );
        let mut client = server.connect();
        client.say(noise(1, 30_000)); // fits the server's socket, so nothing is under way after it
        all_sent.open();
        quiet(50); // it is closed by then; a reset would drop what stands in its socket
        assert!(client.rest() == noise(2, 1 << 20), "{dispatch:?}: the answer was cut short");
    }
}

/// Slots of closed connections are used again, while timers that were armed for them run on.
#[test]
fn the_time_to_linger_of_a_closed_connection_cuts_no_other_short() {
    const LINGER: Duration = Duration::from_secs(5);
    const BYTES: usize = 16 << 20;
    let server = Server::start(
        EventLoop::builder()
            .on_request(|(): &mut (), conn: &mut Connection| {
                conn.writer().write_bytes(noise(1, BYTES));
                conn.writer().flush()?;
                conn.close();
                Ok(())
            })
            .linger(LINGER)
            .dispatch(Dispatch::Inline)
            .loops(1),
    );
    let mut first = server.connect();
    first.say(b"all of it");
    quiet(100); // it closes, and its time begins
    let begun = Instant::now();
    assert!(first.rest() == noise(1, BYTES));
    quiet(3000);
    let mut second = server.connect();
    second.say(b"all of it");
    let until = LINGER.saturating_sub(begun.elapsed()) + Duration::from_millis(100);
    quiet(until.as_millis() as u64);
    assert!(second.rest() == noise(1, BYTES), "cut short by the time of another connection");
}
