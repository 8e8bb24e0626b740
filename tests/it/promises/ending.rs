//! How a connection ends without a close: aborted or given away; and which callbacks run then.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Instant;

use netpoll::{Connection, Detached, Error, EventLoop, Result};

use super::{AT_ONCE, handing_out, next, pair, telling};
use crate::util::{
    Client, Count, Gate, Journal, PATIENCE, Server, echo_once, eventually, is_filtered, modes,
    noise, pool, quiet,
};

#[track_caller]
fn is_reset(client: &mut TcpStream) {
    let end = client.read_to_end(&mut Vec::new()).expect_err("it is no end in order");
    assert_eq!(end.kind(), ErrorKind::ConnectionReset);
}

#[test]
fn an_abort_is_a_reset_from_a_callback_and_from_another_thread() {
    for dispatch in modes() {
        let (builder, handles) = handing_out();
        let journal = Journal::default();
        let server = Server::start(
            builder
                .on_request(|(): &mut (), conn: &mut Connection| {
                    let len = conn.reader().len();
                    conn.reader().skip(len)?;
                    conn.writer().write_bytes(noise(1, 16 << 20));
                    conn.writer().flush()?;
                    conn.abort();
                    assert!(matches!(conn.writer().write(b"late"), Ok(4)));
                    assert!(matches!(conn.writer().flush(), Err(Error::Closed)));
                    Ok(())
                })
                .output_limits(32 << 20, 64 << 20)
                .on_disconnect(telling(&journal))
                .dispatch(dispatch),
        );
        let mut client = server.connect();
        let handle = next(&handles);
        client.say(b"much, then an abort");
        is_reset(&mut client);
        assert_eq!(journal.wait(1), ["Local"], "{dispatch:?}");
        assert!(!handle.is_active());
        let mut client = server.connect();
        let handle = next(&handles);
        handle.abort();
        handle.abort();
        assert!(matches!(handle.send("late"), Err(Error::Closed)));
        is_reset(&mut client);
        assert_eq!(journal.wait(2), ["Local", "Local"], "{dispatch:?}");
        quiet(20);
        assert_eq!(journal.len(), 2);
    }
}

#[test]
fn an_abort_ends_a_wait_at_once() {
    let (builder, handles) = handing_out();
    let (journal, (sender, reports)) = (Journal::default(), mpsc::channel());
    let server = Server::start(
        builder
            .on_request(move |(): &mut (), conn: &mut Connection| {
                let _ = sender.send("begun".to_owned());
                let error = conn.reader().peek(1000).expect_err("no more comes");
                let _ = sender.send(format!("{error:?}"));
                Err(error)
            })
            .on_disconnect(telling(&journal))
            .dispatch(pool()),
    );
    let mut client = server.connect();
    client.say(b"12345");
    assert_eq!(next(&reports), "begun");
    quiet(20); // it waits by then; were it not, the outcome would be the same
    let begun = Instant::now();
    next(&handles).abort();
    assert_eq!(next(&reports), "the connection is closed on this side");
    is_reset(&mut client);
    assert!(begun.elapsed() < AT_ONCE, "{:?}", begun.elapsed());
    assert_eq!(journal.wait(1), ["Local"]);
}

/// A request half read, an answer accepted and not sent, another written and not flushed: the new
/// owner of the socket goes on with all of it, and the peer notices nothing.
#[test]
fn what_is_detached_goes_on_with_every_byte() {
    const MUCH: usize = 8 << 20;
    if is_filtered() {
        return; // it is refused
    }
    for dispatch in modes() {
        let (builder, handles) = handing_out();
        let (journal, (sender, given)) = (Journal::default(), mpsc::channel());
        let server = Server::start(
            builder
                .on_request(move |(): &mut (), conn: &mut Connection| {
                    if conn.reader().len() < 10 {
                        return Ok(());
                    }
                    assert_eq!(conn.reader().next(5)?, b"mine,");
                    conn.writer().write_bytes(noise(1, MUCH));
                    conn.writer().flush()?;
                    conn.writer().write_bytes(b"staged");
                    let _ = sender.send(conn.detach()?);
                    assert!(matches!(conn.detach(), Err(Error::Closed)), "twice");
                    Ok(())
                })
                .output_limits(16 << 20, 32 << 20)
                .on_disconnect(telling(&journal))
                .dispatch(dispatch),
        );
        let mut client = server.connect();
        let handle = next(&handles);
        client.say(b"mine,yours");
        let Detached { socket, mut input, mut output, .. } = next(&given);
        assert_eq!(journal.wait(1), ["Detached"], "{dispatch:?}");
        assert!(!handle.is_active());
        assert!(matches!(handle.send("late"), Err(Error::Closed)));
        assert_eq!(input.next(5).expect("what was not read"), b"yours");
        assert!(input.is_empty());
        let mut stream = TcpStream::from(socket);
        stream.set_nonblocking(false).expect("an option");
        let going_on = thread::spawn(move || {
            let rest = output.read_bytes(output.len()).expect("what was not sent");
            assert!(rest.ends_with(b"staged"));
            stream.write_all(&rest).expect("the peer reads");
            stream.write_all(b", and from its new owner").expect("the peer reads");
            let mut heard = [0; 5];
            stream.read_exact(&mut heard).expect("the socket is open");
            assert_eq!(&heard, b"later");
        });
        client.say(b"later");
        client.hear(noise(1, MUCH));
        client.hear(b"staged, and from its new owner");
        assert_eq!(client.rest(), b"");
        going_on.join().expect("its new owner");
    }
}

/// A dialled one, detached while nothing is under way.
#[test]
fn a_dialled_connection_is_detached_with_its_input() -> Result<()> {
    let (mut conn, mut peer) = pair()?;
    peer.say(b"hello, you");
    assert_eq!(conn.reader().next(5)?, b"hello");
    conn.reader().peek(5)?;
    let Detached { socket, mut input, output, .. } = conn.detach()?;
    drop(conn);
    assert!(output.is_empty());
    assert_eq!(input.next(5).expect("what was not read"), b", you");
    quiet(50); // a close by its reactor would have come by then
    let mut file = File::from(socket);
    file.write_all(b"still here").expect("the socket is open");
    peer.hear(b"still here");
    drop(file);
    assert_eq!(peer.rest(), b"");
    Ok(())
}

#[test]
fn close_callbacks_run_last_added_first_after_on_disconnect() {
    for dispatch in modes() {
        let journal = Journal::default();
        let [first, second] = [(); 2].map(|()| journal.clone());
        let (sender, handles) = mpsc::channel();
        let server = Server::start(
            EventLoop::builder()
                .on_connect(move |(): &mut (), conn: &mut Connection| {
                    let first = first.clone();
                    conn.add_close_callback(move || first.add("first"));
                    let _ = sender.send(conn.handle());
                    Ok(())
                })
                .on_request(|(): &mut (), conn: &mut Connection| echo_once(conn))
                .on_disconnect(telling(&journal))
                .dispatch(dispatch),
        );
        let mut client = server.connect();
        let handle = next(&handles);
        handle.add_close_callback(|| panic!("told to"));
        handle.add_close_callback(move || second.add("second"));
        client.echo(b"hello");
        assert_eq!(journal.len(), 0);
        drop(client);
        assert_eq!(journal.wait(3), ["Peer", "second", "first"], "{dispatch:?}");
        let late = journal.clone();
        handle.add_close_callback(move || late.add("late"));
        assert_eq!(
            journal.len(),
            4,
            "{dispatch:?}: one that is added after the close runs at once"
        );
        quiet(20);
        assert_eq!(journal.len(), 4);
    }
}

/// Added by many threads while the connection closes: each runs once, here or there.
#[test]
fn close_callbacks_that_meet_the_close_run_once() {
    const THREADS: usize = 4;
    const EACH: usize = 200;
    for dispatch in modes() {
        let (builder, handles) = handing_out();
        let server = Server::start(
            builder
                .on_request(|(): &mut (), conn: &mut Connection| echo_once(conn))
                .dispatch(dispatch),
        );
        for _ in 0..10 {
            let client = server.connect();
            let handle = next(&handles);
            let (ran, added) = (Count::default(), Count::default());
            let adding: Vec<_> = (0..THREADS)
                .map(|_| {
                    let (handle, ran, added) = (handle.clone(), ran.clone(), added.clone());
                    thread::spawn(move || {
                        for _ in 0..EACH {
                            let ran = ran.clone();
                            handle.add_close_callback(move || {
                                ran.add();
                            });
                            added.add();
                        }
                    })
                })
                .collect();
            eventually("they add", || added.get() > 10);
            handle.close();
            for thread in adding {
                thread.join().expect("one that adds");
            }
            eventually("each runs", || ran.get() == THREADS * EACH);
            drop(client);
            quiet(2);
            assert_eq!(ran.get(), THREADS * EACH, "{dispatch:?}");
        }
    }
}

/// Those that `each_reason_is_told` leaves out: what a callback passes on is told as what it was.
#[test]
fn a_limit_that_a_callback_passes_on_is_the_reason() {
    type Operation = fn(&mut Connection) -> Result<()>;
    let operations: [(Operation, &str); 4] = [
        (|conn| conn.reader().peek(1000).map(drop), "Timeout(Read)"),
        (
            |conn| {
                conn.writer().write_bytes(noise(1, 16 << 20));
                conn.writer().flush()
            },
            "Timeout(Write)",
        ),
        (|conn| conn.reader().peek(5000).map(drop), "Limit(Input)"),
        (
            |conn| {
                let handle = conn.handle();
                loop {
                    handle.send(noise(1, 1 << 20).to_vec())?;
                }
            },
            "Limit(Output)",
        ),
    ];
    for (operation, reason) in operations {
        let journal = Journal::default();
        let server = Server::start(
            EventLoop::builder()
                .on_request(move |(): &mut (), conn: &mut Connection| operation(conn))
                .on_disconnect(telling(&journal))
                .read_timeout(std::time::Duration::from_millis(20))
                .write_timeout(std::time::Duration::from_millis(20))
                .linger(std::time::Duration::from_millis(20))
                .input_limit(4000)
                .dispatch(pool()),
        );
        let mut client = server.connect();
        client.say(b"12345");
        assert_eq!(journal.wait(1), [reason]);
    }
}

/// It runs once, after the last callback has returned, however many threads close meanwhile.
#[test]
fn on_disconnect_comes_once_after_the_last_callback_however_many_close() {
    for dispatch in modes() {
        for _ in 0..20 {
            let (builder, handles) = handing_out();
            let (journal, gate) = (Journal::default(), Gate::default());
            let (seen, closed) = (journal.clone(), gate.clone());
            let server = Server::start(
                builder
                    .on_request(move |(): &mut (), conn: &mut Connection| {
                        let len = conn.reader().len();
                        conn.reader().skip(len)?;
                        seen.add("begun");
                        closed.pass();
                        seen.add("done");
                        Ok(())
                    })
                    .on_disconnect({
                        let journal = journal.clone();
                        move |(), _: &netpoll::CloseReason| journal.add("left")
                    })
                    .dispatch(dispatch),
            );
            let mut client = server.connect();
            let handle = next(&handles);
            client.say(b"hello");
            journal.wait(1);
            let go = Arc::new(std::sync::Barrier::new(3));
            let closers: Vec<_> = [false, true]
                .into_iter()
                .map(|aborts| {
                    let (handle, go) = (handle.clone(), go.clone());
                    thread::spawn(move || {
                        go.wait();
                        if aborts { handle.abort() } else { handle.close() }
                    })
                })
                .collect();
            go.wait();
            client.reset();
            gate.open();
            for closer in closers {
                closer.join().expect("one that closes");
            }
            assert_eq!(journal.wait(3), ["begun", "done", "left"], "{dispatch:?}");
            server.event_loop.shutdown(PATIENCE);
            server.join();
            assert_eq!(journal.len(), 3, "{dispatch:?}");
        }
    }
}
