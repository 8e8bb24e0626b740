//! Waits: what ends each of them, and where none may begin.

use std::io::{IoSlice, Read, Write};
use std::net::TcpListener;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use netpoll::{
    Connection, DialConnection, Dialer, Dispatch, Error, EventLoop, EventLoopBuilder, Handle,
    Limits, Listener, LoadBalance, PollManager, Result, Wait,
};

use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};

use crate::util::{
    Client, Gate, Journal, PATIENCE, Server, Serving, echo_once, eventually, lock, modes, noise,
};

type Body = fn(&mut Connection) -> Result<()>;

/// Tells the handle of each connection.
fn handing_out() -> (EventLoopBuilder, mpsc::Receiver<Handle>) {
    let (sender, handles) = mpsc::channel();
    let builder = EventLoop::builder().on_connect(move |(): &mut (), conn: &mut Connection| {
        let _ = sender.send(conn.handle());
        Ok(())
    });
    (builder, handles)
}

fn next<T>(receiver: &mpsc::Receiver<T>) -> T {
    receiver.recv_timeout(PATIENCE).expect("it happens")
}

/// A wait for room without a deadline, on a connection that a callback has ended: no other thread
/// closes it, and its peer never reads.
#[test]
fn a_send_that_waits_for_room_ends_when_a_callback_ends_the_connection() {
    let ends: [(&str, Body); 3] = [
        ("an error", |_| Err(Error::Full)),
        ("a panic", |_| panic!("this panic belongs to the test")),
        ("a close", |conn| {
            conn.close();
            Ok(())
        }),
    ];
    for dispatch in modes() {
        for (name, end) in ends {
            let (builder, handles) = handing_out();
            let builder = builder
                .on_request(move |(): &mut (), conn: &mut Connection| end(conn))
                .linger(PATIENCE * 4)
                .dispatch(dispatch);
            let server = Server::start(builder);
            let mut client = server.connect();
            let handle = next(&handles);
            handle.send(noise(1, 16 << 20)).expect("the queue was empty");
            let (sender, outcomes) = mpsc::channel();
            for send in [true, false] {
                let (sender, handle) = (sender.clone(), handle.clone());
                std::thread::spawn(move || {
                    let waited = || handle.wait_for_room(None);
                    let outcome = if send { handle.send_wait("more", None) } else { waited() };
                    let _ = sender.send(outcome);
                });
            }
            // `on_request` runs on no congested connection, a job does.
            handle.run(end).expect("it is open");
            for _ in 0..2 {
                let outcome = next(&outcomes).expect_err("it is over");
                assert!(matches!(outcome, Error::Closed), "{dispatch:?}, {name}: {outcome:?}");
            }
            assert!(matches!(handle.wait_for_room(None), Err(Error::Closed)), "{name}");
            let _ = client.read(&mut [0]);
        }
    }
}

#[test]
fn a_send_that_waits_ends_when_on_high_water_gives_the_peer_up() {
    for dispatch in modes() {
        let (builder, handles) = handing_out();
        let builder = builder
            .on_request(|(): &mut (), _: &mut Connection| Ok(()))
            .on_high_water(|(): &mut (), _: &mut Connection| Err(Error::Full))
            .linger(PATIENCE * 4)
            .dispatch(dispatch);
        let server = Server::start(builder);
        let _client = server.connect();
        let handle = next(&handles);
        handle.send(noise(1, 16 << 20)).expect("the queue was empty");
        let (sender, outcomes) = mpsc::channel();
        std::thread::spawn(move || sender.send(handle.send_wait("more", None)));
        assert!(matches!(next(&outcomes), Err(Error::Closed)), "{dispatch:?}");
    }
}

/// A connection that is not received from has a peer all the same.
#[test]
fn a_paused_connection_hears_of_a_reset() {
    for dispatch in modes() {
        for unread in [&b""[..], b"left in the kernel"] {
            let (builder, handles) = handing_out();
            let journal = Journal::default();
            let server = Server::start(
                builder
                    .on_request(|(): &mut (), conn: &mut Connection| {
                        conn.reader().read_byte()?;
                        conn.pause_reading();
                        Ok(())
                    })
                    .on_disconnect(journal.on_disconnect())
                    .dispatch(dispatch),
            );
            let mut client = server.connect();
            let handle = next(&handles);
            client.say(b"1");
            eventually("it was served", || handle.bytes_received() == 1);
            if !unread.is_empty() {
                client.say(unread);
            }
            client.reset();
            assert_eq!(journal.wait(1), ["Reset"], "{dispatch:?}");
        }
    }
}

/// But the end of a stream in order waits with what stands before it.
#[test]
fn a_paused_connection_keeps_what_came_before_an_end() {
    for dispatch in modes() {
        let (builder, handles) = handing_out();
        let (journal, heard) = (Journal::default(), Journal::default());
        let hears = heard.clone();
        let server = Server::start(
            builder
                .on_request(move |(): &mut (), conn: &mut Connection| {
                    let len = conn.reader().len();
                    hears.add(conn.reader().read_string(len)?);
                    conn.pause_reading();
                    Ok(())
                })
                .on_disconnect(journal.on_disconnect())
                .dispatch(dispatch),
        );
        let mut client = server.connect();
        let handle = next(&handles);
        client.say(b"one");
        heard.wait(1);
        client.say(b"two");
        drop(client);
        eventually("the end is seen", || !handle.is_active());
        assert_eq!(journal.len(), 0, "{dispatch:?}");
        handle.resume_reading();
        assert_eq!(heard.wait(2), ["one", "two"], "{dispatch:?}");
        handle.resume_reading();
        assert_eq!(journal.wait(1), ["Peer"], "{dispatch:?}");
    }
}

/// What a dialled connection of the same loop may do where nothing waits: it is refused by name,
/// and at once. It would wait for the very thread that it holds.
fn refused(conn: &mut Connection) -> Vec<String> {
    let mut refused = Vec::new();
    let mut note = |outcome: Result<()>| match outcome {
        Err(Error::Config(text)) if text.contains("must not wait") => refused.push(text.into()),
        other => panic!("it may not wait here, and is told {other:?}"),
    };
    note(conn.reader().next(1).map(drop));
    note(conn.reader().until(b'\n').map(drop));
    conn.writer().malloc(16 << 20).fill(b'a');
    note(conn.writer().flush());
    note(conn.handle().wait_for_room(None));
    note(conn.handle().send_wait("more", Some(Instant::now() + PATIENCE)));
    refused
}

/// A loop, a connection dialled on it, and the peer of that, which says nothing.
fn dialled() -> (Arc<PollManager>, Connection, std::net::TcpStream) {
    let manager = PollManager::new(1, LoadBalance::RoundRobin).expect("a loop");
    let manager = Arc::new(manager);
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    let dialer = Dialer::builder().manager(manager.clone()).build().expect("a dialer");
    let conn = dialer.dial_connection("tcp", &address, PATIENCE).expect("a connection");
    let (peer, _) = listener.accept().expect("a peer");
    (manager, conn, peer)
}

#[test]
fn an_inline_callback_does_not_wait_for_its_own_loop() {
    let (manager, conn, _peer) = dialled();
    let conn = Mutex::new(conn);
    let (sender, reports) = mpsc::channel();
    let event_loop = EventLoop::builder()
        .on_request(move |(): &mut (), conn_: &mut Connection| {
            conn_.reader().read_byte()?;
            let _ = sender.send(refused(&mut lock(&conn)).len());
            Ok(())
        })
        .dispatch(Dispatch::Inline)
        .manager(manager.clone())
        .build()
        .expect("options");
    let server = Server::serve(event_loop);
    server.connect().say(b"!");
    assert_eq!(next(&reports), 5);
}

#[test]
fn a_tick_does_not_wait_for_its_own_loop() {
    let (manager, conn, _peer) = dialled();
    let conn = Mutex::new(Some(conn));
    let (sender, reports) = mpsc::channel();
    let tick = move |_| {
        let Some(mut conn) = lock(&conn).take() else { return };
        let _ = sender.send(refused(&mut conn).len());
    };
    let _ticks = manager.run_every(Duration::from_millis(1), tick).expect("ticks");
    assert_eq!(next(&reports), 5);
}

#[test]
fn a_receipt_does_not_wait_for_its_own_loop() {
    let (_manager, conn, _peer) = dialled();
    let (_other_manager, carrier, _other) = dialled();
    let conn = Arc::new(Mutex::new(conn));
    let (sender, reports) = mpsc::channel();
    let receipt = move |_| {
        let _ = sender.send(refused(&mut lock(&conn)).len());
    };
    carrier.handle().send_with("sent at once", receipt).expect("accepted");
    assert_eq!(next(&reports), 5);
}

/// On a thread of its own the same waits are waits.
#[test]
fn elsewhere_a_dialled_connection_waits() {
    let (_manager, mut conn, _peer) = dialled();
    conn.set_read_timeout(Some(Duration::from_millis(20)));
    conn.set_write_timeout(Some(Duration::from_millis(20)));
    assert!(matches!(conn.reader().next(1), Err(Error::TimedOut(Wait::Read))));
    conn.writer().malloc(16 << 20).fill(b'a');
    assert!(matches!(conn.writer().flush(), Err(Error::TimedOut(Wait::Write))));
    assert!(Limits::default().write_timeout.is_some());
}

/// A receive from a Unix socket stops at the first message that carries a descriptor, and what is
/// behind it is there all the same.
#[test]
fn bytes_behind_a_descriptor_are_read() {
    const ALL: &[u8; 96] = b"with a descriptor, and without. \
        with a descriptor, and without. with a descriptor, and without. ";
    for dispatch in modes() {
        let path = std::env::temp_dir().join(format!("netpoll-rights-{}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let listener = Listener::bind("unix", path.to_str().expect("a path")).expect("a socket");
        let gate = Gate::default();
        let closed = gate.clone();
        let event_loop = EventLoop::builder()
            .on_connect(move |(): &mut (), _: &mut Connection| {
                closed.pass(); // until all of it is there
                Ok(())
            })
            .on_request(move |(): &mut (), conn: &mut Connection| {
                // Nothing is sent before: a client that reads would bring another edge.
                conn.reader().try_peek(ALL.len())?;
                echo_once(conn)
            })
            .dispatch(dispatch)
            .build()
            .expect("options");
        let server = Serving::start(event_loop, listener);
        let mut client = UnixStream::connect(&path).expect("a connection");
        client.set_read_timeout(Some(PATIENCE)).expect("an option");
        for _ in 0..3 {
            let descriptors = [client.as_raw_fd()];
            let rights = [ControlMessage::ScmRights(&descriptors)];
            let bytes = [IoSlice::new(b"with a descriptor, ")];
            let flags = MsgFlags::empty();
            sendmsg::<()>(client.as_raw_fd(), &bytes, &rights, flags, None).expect("sent");
            client.write_all(b"and without. ").expect("sent");
        }
        gate.open();
        let mut heard = [0; ALL.len()];
        client.read_exact(&mut heard).expect("all of it comes back");
        assert_eq!(heard, *ALL, "{dispatch:?}");
        server.stop();
    }
}
