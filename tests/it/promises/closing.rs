//! Closing: from beside a callback, before the first one, twice; and what each end knows of it.

use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsFd;
use std::sync::mpsc;
use std::time::Instant;

use netpoll::{CloseReason, Connection, Dispatch, Error, EventLoop, Handle};

use super::{AT_ONCE, handing_out, next};
use crate::util::{
    Client, Gate, Journal, PATIENCE, Server, connect, echo, echo_once, eventually, modes, noise,
    pool, quiet,
};

/// The close is noted at once, and done when the callback has returned: what that writes is lost,
/// what was accepted before is sent.
#[test]
fn a_close_beside_a_callback_returns_at_once_and_is_done_after_it() {
    for dispatch in modes() {
        let (journal, gate) = (Journal::default(), Gate::default());
        let (seen, closed) = (journal.clone(), gate.clone());
        let (builder, handles) = handing_out();
        let server = Server::start(
            builder
                .on_request(move |(): &mut (), conn: &mut Connection| {
                    conn.writer().write_bytes(b"before");
                    conn.writer().flush()?;
                    seen.add("begun");
                    closed.pass();
                    conn.writer().write_bytes(b"after");
                    seen.add(format!("{:?}", conn.writer().flush()));
                    Ok(())
                })
                .on_disconnect(journal.on_disconnect())
                .dispatch(dispatch),
        );
        let mut client = server.connect();
        let handle = next(&handles);
        client.say(b"hello");
        journal.wait(1);
        let begun = Instant::now();
        handle.close();
        handle.close();
        assert!(begun.elapsed() < AT_ONCE, "{:?}", begun.elapsed());
        assert!(!handle.is_active());
        assert!(matches!(handle.send("late"), Err(Error::Closed)));
        quiet(20);
        assert_eq!(journal.len(), 1, "{dispatch:?}: closed under a callback");
        gate.open();
        assert_eq!(client.rest(), b"before", "{dispatch:?}");
        assert_eq!(
            journal.wait(3),
            ["begun", "Err(the connection is closed on this side)", "Local"]
        );
    }
}

/// In any order and from everywhere: it is one close.
#[test]
fn a_close_may_be_asked_for_again_and_in_on_disconnect() {
    for dispatch in modes() {
        let journal = Journal::default();
        let left = journal.clone();
        let server = Server::start(
            EventLoop::builder()
                .on_prepare(|conn: &Connection| Ok(conn.handle()))
                .on_request(|session: &mut Handle, conn: &mut Connection| {
                    conn.close();
                    conn.close();
                    session.close();
                    Ok(())
                })
                .on_disconnect(move |session: Handle, reason: &CloseReason| {
                    session.close();
                    session.wake();
                    left.add(format!("{reason}, {:?}", session.send("late")));
                })
                .dispatch(dispatch),
        );
        let mut client = server.connect();
        client.say(b"hello");
        assert_eq!(client.rest(), b"");
        let expected = ["closed on this side, Err(the connection is closed on this side)"];
        assert_eq!(journal.wait(1), expected, "{dispatch:?}");
        quiet(20);
        assert_eq!(journal.len(), 1);
        assert_eq!(server.stop().aborted, 0);
    }
}

/// Bytes in the user's buffer don't make a close a reset.
#[test]
fn a_close_on_unread_input_is_an_end_and_not_a_reset() {
    for dispatch in modes() {
        let (builder, handles) = handing_out();
        let (entered, inside) = mpsc::channel();
        let server = Server::start(
            builder
                .on_request(move |(): &mut (), conn: &mut Connection| {
                    conn.writer().write_bytes(b"bye");
                    let _ = entered.send(conn.reader().len());
                    Ok(()) // unread
                })
                .dispatch(dispatch),
        );
        let mut client = server.connect();
        client.say(b"unread");
        assert_eq!(next(&inside), 6);
        client.hear(b"bye");
        next(&handles).close();
        assert_eq!(client.rest(), b"", "{dispatch:?}");
    }
}

/// The FIN goes out before code of the user's runs, which may take long.
#[test]
fn a_peer_learns_of_the_end_before_on_disconnect_returns() {
    let gate = Gate::default();
    let held = gate.clone();
    let (builder, handles) = handing_out();
    let server = Server::start(
        builder
            .on_request(|(): &mut (), conn: &mut Connection| echo_once(conn))
            .on_disconnect(move |(): (), _: &CloseReason| held.pass())
            .dispatch(pool()),
    );
    ends_at_once(&server, &handles);
    gate.open();
}

/// As above; a session's `Drop` is the user's as well.
#[test]
fn a_peer_learns_of_the_end_before_its_session_is_dropped() {
    struct Session(Gate);
    impl Drop for Session {
        fn drop(&mut self) {
            self.0.pass();
        }
    }
    let gate = Gate::default();
    let held = gate.clone();
    let (sender, handles) = mpsc::channel();
    let server = Server::start(
        EventLoop::builder()
            .on_prepare(move |conn: &Connection| {
                let _ = sender.send(conn.handle());
                Ok(Session(held.clone()))
            })
            .on_request(|_: &mut Session, conn: &mut Connection| echo_once(conn))
            .dispatch(pool()),
    );
    ends_at_once(&server, &handles);
    gate.open();
}

/// As above, for close callbacks.
#[test]
fn a_peer_learns_of_the_end_before_close_callbacks_return() {
    let gate = Gate::default();
    let (sender, handles) = mpsc::channel();
    let held = gate.clone();
    let server = Server::start(
        EventLoop::builder()
            .on_connect(move |(): &mut (), conn: &mut Connection| {
                let held = held.clone();
                conn.add_close_callback(move || held.pass());
                let _ = sender.send(conn.handle());
                Ok(())
            })
            .on_request(|(): &mut (), conn: &mut Connection| echo_once(conn))
            .dispatch(pool()),
    );
    ends_at_once(&server, &handles);
    gate.open();
}

/// Two connections end, by the peer and here, and their peers hear of it.
#[track_caller]
fn ends_at_once(server: &Server, handles: &mpsc::Receiver<Handle>) {
    for peer_ends in [true, false] {
        let mut client = server.connect();
        client.set_read_timeout(Some(AT_ONCE)).expect("an option");
        client.echo(b"hello");
        let handle = next(handles);
        if peer_ends {
            client.half_close();
        } else {
            handle.close();
        }
        assert_eq!(client.rest(), b"");
    }
}

/// The socket closes after the other callbacks of its batch; what comes until then makes that a
/// reset, and the end must have been on its way before.
#[test]
fn a_peer_that_still_sends_is_told_of_the_end_at_once() {
    let (first, second) = (Gate::default(), Gate::default());
    let (held, holding) = mpsc::channel();
    let gates = (first.clone(), second.clone());
    let server = Server::start(
        EventLoop::builder()
            .on_request(move |(): &mut (), conn: &mut Connection| {
                let gate = match conn.reader().peek(1)? {
                    b"1" => &gates.0,
                    b"2" => &gates.1,
                    _ => {
                        echo_once(conn)?;
                        conn.close();
                        return Ok(());
                    }
                };
                let _ = held.send(());
                gate.pass();
                echo_once(conn)
            })
            .dispatch(Dispatch::Inline)
            .loops(1),
    );
    let (mut closing, mut before, mut behind) =
        (server.connect(), server.connect(), server.connect());
    before.say(b"1");
    holding.recv_timeout(PATIENCE).expect("the loop is held");
    closing.say(b"an answer");
    quiet(20); // in this order
    behind.say(b"2");
    first.open();
    holding.recv_timeout(PATIENCE).expect("the loop is held again");
    closing.say(b"more");
    second.open();
    behind.hear(b"2");
    assert_eq!(closing.rest(), b"an answer");
}

/// A duplicate of the descriptor keeps the socket, but neither the connection nor its events.
#[test]
fn a_duplicate_of_the_descriptor_keeps_no_connection_open() {
    for peer_ends in [true, false] {
        let (builder, handles) = handing_out();
        let (sender, duplicates) = mpsc::channel();
        let server = Server::start(
            builder
                .on_request(move |(): &mut (), conn: &mut Connection| {
                    let _ = sender.send(conn.as_fd().try_clone_to_owned()?);
                    echo_once(conn)
                })
                .loops(1),
        );
        let mut client = server.connect();
        client.echo(b"hello");
        let (handle, _duplicate) = (next(&handles), next(&duplicates));
        if peer_ends {
            client.half_close();
        } else {
            handle.close();
        }
        assert_eq!(client.rest(), b"");
        eventually("it is closed", || server.event_loop.stats().connections == 0);
        if !peer_ends {
            client.say(b"an edge for whoever still watches");
        }
        server.connect().echo(b"a turn of the loop later");
        assert_eq!(server.event_loop.stats().loops[0].stale_events, 0);
    }
}

/// Inline, the close of one connection in its callback and the others of its loop.
#[test]
fn a_callback_that_closes_delays_no_other_connection() {
    for dispatch in modes() {
        let server = Server::start(
            EventLoop::builder()
                .on_request(|(): &mut (), conn: &mut Connection| {
                    if conn.reader().peek(1)? == b"!" {
                        conn.writer().write_bytes(noise(0, 8 << 20)); // drains for long
                        conn.close();
                        return Ok(());
                    }
                    echo_once(conn)
                })
                .dispatch(dispatch)
                .loops(1),
        );
        let (mut closing, mut other) = (server.connect(), server.connect());
        for _ in 0..3 {
            closing.say(b"!");
            other.echo(b"still served");
            server.connect().echo(b"and those who come");
            assert!(closing.rest() == noise(0, 8 << 20), "{dispatch:?}");
            closing = server.connect();
        }
    }
}

/// Each connection's own address, not its listener's.
#[test]
fn a_served_connection_knows_the_address_that_was_dialled() {
    let (builder, handles) = handing_out();
    let builder = builder.on_request(|(): &mut (), conn: &mut Connection| echo_once(conn));
    let event_loop = builder.build().expect("options");
    let server = Server::serve_at(event_loop, "0.0.0.0:0");
    for host in ["127.0.0.1", "127.0.0.77"] {
        let dialled: SocketAddr =
            format!("{host}:{}", server.address.port()).parse().expect("an address");
        let mut client = connect(dialled);
        client.echo(b"hello");
        let handle = next(&handles);
        assert_eq!(handle.local_addr().expect("an address"), dialled);
        assert_eq!(handle.peer_addr(), client.local_addr().expect("an address"));
        drop(client);
        eventually("it is closed", || matches!(handle.local_addr(), Err(Error::Closed)));
        handle.peer_addr(); // also after the close
    }
}

/// Both families on one listener, each with its own addresses.
#[test]
fn a_listener_on_the_unspecified_v6_address_serves_both_families() {
    let Ok(probe) = TcpListener::bind("[::]:0") else {
        return; // a machine without IPv6
    };
    drop(probe);
    let event_loop = echo().build().expect("options");
    let server = Server::serve_at(event_loop, "[::]:0");
    for host in ["[::1]", "127.0.0.1"] {
        let address = format!("{host}:{}", server.address.port());
        connect(address.parse().expect("an address")).echo(b"hello");
    }
}

/// Asked for in `on_prepare`, before there is anything to close: no other callback runs.
#[test]
fn a_close_in_on_prepare_runs_no_callback_but_on_disconnect() {
    for dispatch in modes() {
        let journal = Journal::default();
        let [connected, requested] = [(); 2].map(|()| journal.clone());
        let server = Server::start(
            EventLoop::builder()
                .on_prepare(|conn: &Connection| {
                    conn.handle().close();
                    Ok(())
                })
                .on_connect(move |(): &mut (), _: &mut Connection| {
                    connected.add("connect");
                    Ok(())
                })
                .on_request(move |(): &mut (), conn: &mut Connection| {
                    requested.add("request");
                    echo_once(conn)
                })
                .on_disconnect(journal.on_disconnect())
                .dispatch(dispatch),
        );
        assert_eq!(server.connect().rest(), b"");
        assert_eq!(journal.wait(1), ["Local"], "{dispatch:?}");
        quiet(20);
        assert_eq!(journal.len(), 1, "{:?}", journal.entries());
    }
}
