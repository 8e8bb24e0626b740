//! Dialled connections that callbacks drive: a server's promises, on the side that dials.

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use netpoll::{
    Bytes, Client, ClientBuilder, CloseReason, Connection, Dispatch, Error, Handle, Limits,
    LinkBuffer, OutputLimits, Wait,
};

use crate::errors::is_a_sentence;
use crate::util::{
    Client as _, Gate, Journal, PATIENCE, Server, alone, echo, eventually, fd_count, lock, modes,
    noise, pool,
};

/// A connection of `client` and the plain socket at its other end.
fn pair<S: Send + 'static>(client: &Client<S>) -> (Handle, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    let handle = client.dial("tcp", &address, PATIENCE).expect("a connection");
    let (peer, _) = listener.accept().expect("a connection");
    peer.set_read_timeout(Some(PATIENCE)).expect("an option");
    (handle, peer)
}

/// Callbacks that enter into `journal` what happens, and send back lines.
fn recording(journal: &Journal, dispatch: Dispatch) -> ClientBuilder<u32> {
    let (prepared, connected, requested) = (journal.clone(), journal.clone(), journal.clone());
    Client::builder()
        .on_prepare(move |_: &Connection| {
            prepared.add("prepare");
            Ok(0_u32)
        })
        .on_connect(move |_: &mut u32, conn: &mut Connection| {
            connected.add("connect");
            conn.writer().write_string("hello\n");
            Ok(())
        })
        .on_request(move |lines: &mut u32, conn: &mut Connection| {
            while let Ok(line) = conn.reader().try_until(b'\n').map(<[u8]>::to_vec) {
                *lines += 1;
                requested.add(format!("line {lines}"));
                conn.writer().write_bytes(&line);
            }
            Ok(())
        })
        .on_disconnect(journal.on_disconnect())
        .dispatch(dispatch)
}

#[test]
fn callbacks_run_in_order_on_a_dialled_connection() {
    for dispatch in modes() {
        let journal = Journal::default();
        let client = recording(&journal, dispatch).build().expect("options");
        let (handle, mut peer) = pair(&client);
        peer.hear(b"hello\n");
        peer.echo(b"a line\n");
        peer.echo(b"another\n");
        assert!(handle.is_active() && client.live() == 1);
        drop(peer);
        assert_eq!(journal.wait(5), ["prepare", "connect", "line 1", "line 2", "Peer"]);
        eventually("the connection is gone", || client.live() == 0);
        assert!(!handle.is_active());
    }
}

#[test]
fn a_dial_brings_the_session_and_one_without_is_refused() {
    for dispatch in modes() {
        let journal = Journal::default();
        let (told, gone) = (journal.clone(), journal.clone());
        let client = Client::builder()
            .session::<String>()
            .on_request(move |session: &mut String, conn: &mut Connection| {
                told.add(format!("{session}: {}", conn.reader().try_until(b'\n')?.len()));
                Ok(())
            })
            .on_disconnect(move |session: String, _: &CloseReason| gone.add(session))
            .dispatch(dispatch)
            .build()
            .expect("options");
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        for (turn, session) in ["one", "another"].into_iter().enumerate() {
            client.dial_with("tcp", &address, PATIENCE, session.to_owned()).expect("a connection");
            let (mut peer, _) = listener.accept().expect("a connection");
            peer.write_all(b"hello\n").expect("sent");
            journal.wait(2 * turn + 1);
            drop(peer);
            assert_eq!(journal.wait(2 * turn + 2)[2 * turn..], [&format!("{session}: 6"), session]);
        }
        let (_handle, mut peer) = pair(&client);
        assert_eq!(peer.read(&mut [0]).expect("an end"), 0, "dialled without a session");
        eventually("the connection is gone", || client.live() == 0);
        assert_eq!(journal.len(), 4);
    }
}

#[test]
fn handles_of_dialled_connections_close_and_send() {
    for dispatch in modes() {
        let journal = Journal::default();
        let client = recording(&journal, dispatch).build().expect("options");
        let (handle, mut peer) = pair(&client);
        peer.hear(b"hello\n");
        handle.send("sent\n").expect("accepted");
        let mut buffer = LinkBuffer::new();
        buffer.write_bytes(noise(3, 100_000));
        handle.send_buffer(buffer).expect("accepted");
        handle.close();
        peer.hear(b"sent\n");
        assert!(peer.rest() == noise(3, 100_000));
        assert_eq!(journal.wait(3).last().map(String::as_str), Some("Local"));
        assert!(matches!(handle.send("late"), Err(Error::Closed)));
        assert!(matches!(handle.send_buffer(LinkBuffer::new()), Err(Error::Closed)));
    }
}

#[test]
fn an_on_prepare_that_refuses_closes() {
    let refuse = |_: &Connection| Err::<(), _>(io::Error::from(ErrorKind::PermissionDenied).into());
    let client = Client::builder().on_prepare(refuse);
    let client = client.on_request(|(): &mut (), _: &mut Connection| Ok(()));
    let client = client.build().expect("options");
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    let handle = client.dial("tcp", &address, PATIENCE).expect("it is connected");
    assert_eq!(listener.accept().expect("it was connected").0.rest(), b"");
    eventually("the connection is gone", || client.live() == 0);
    assert!(!handle.is_active());
}

#[test]
fn a_client_is_built_of_callbacks_that_fit() {
    let error = Client::builder().build().expect_err("on_request is missing");
    is_a_sentence(&error, &["on_request", "missing"]);
    let late = Client::builder().on_request(|(): &mut (), _: &mut Connection| Ok(()));
    let error = late.on_prepare(|_: &Connection| Ok(1)).build().expect_err("it comes too late");
    is_a_sentence(&error, &["on_prepare", "first"]);
}

#[test]
fn a_client_that_shuts_down_leaves_nothing() {
    alone("client::a_client_that_shuts_down_leaves_nothing", || {
        let server = Server::start(echo());
        for dispatch in modes() {
            let journal = Journal::default();
            let dial = |client: &Client<u32>| {
                client.dial("tcp", &server.address.to_string(), PATIENCE).expect("a server")
            };
            let heard = journal.clone();
            // It doesn't answer the echo, which would echo that, without an end.
            let client = recording(&journal, dispatch)
                .on_request(move |_: &mut u32, conn: &mut Connection| {
                    conn.reader().try_until(b'\n')?;
                    heard.add("line 1");
                    Ok(())
                })
                .build()
                .expect("options");
            drop(dial(&client)); // starts what stays, here and in the server
            eventually("the first has talked", || {
                journal.entries().iter().any(|it| it == "line 1")
            });
            let before = fd_count();
            let handles: Vec<_> = (0..20).map(|_| dial(&client)).collect();
            // The echo of what on_connect wrote.
            eventually("all have talked", || {
                journal.entries().iter().filter(|it| *it == "line 1").count() == 21
            });
            assert_eq!(client.shutdown(PATIENCE), 0);
            assert!(handles.iter().all(|handle| !handle.is_active()));
            eventually("all sockets are closed", || fd_count() <= before);
            let ends = journal.entries().iter().filter(|it| *it == "Shutdown").count();
            assert_eq!(ends, 21);
        }
        server.stop();
    });
}

#[test]
fn a_callback_that_does_not_return_is_not_waited_for_for_ever() {
    let gate = Gate::default();
    let (passing, (entered, in_callback)) = (gate.clone(), mpsc::channel());
    let client = Client::builder()
        .on_request(move |(): &mut (), _: &mut Connection| {
            entered.send(()).ok();
            passing.pass();
            Ok(())
        })
        .dispatch(pool())
        .build()
        .expect("options");
    let (_handle, mut peer) = pair(&client);
    peer.say(b"x");
    in_callback.recv_timeout(PATIENCE).expect("the callback runs");
    assert_eq!(client.shutdown(Duration::from_millis(50)), 1);
    gate.open();
}

#[test]
fn room_is_waited_for() {
    let output = OutputLimits { low: 1 << 10, high: 64 << 10 };
    let client = Client::builder()
        .on_request(|(): &mut (), _: &mut Connection| Ok(()))
        .on_disconnect(|(), _: &CloseReason| ())
        .limits(Limits { output, ..Limits::default() })
        .build()
        .expect("options");
    let (handle, mut peer) = pair(&client);
    assert!(handle.wait_for_room(None).is_ok());
    let mut sent = 0;
    let error = loop {
        while handle.send(Bytes::from_static(noise(0, 100_000))).is_ok() {
            sent += 100_000;
        }
        // There is room again while the kernel moves it on to the peer.
        let soon = std::time::Instant::now() + Duration::from_millis(50);
        if let Err(error) = handle.wait_for_room(Some(soon)) {
            break error;
        }
    };
    assert!(matches!(error, Error::TimedOut(Wait::Write)), "{error:?}");
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| handle.wait_for_room(None));
        for _ in 0..sent / 100_000 {
            peer.hear(noise(0, 100_000));
        }
        waiting.join().expect("a wait").expect("there is room");
    });
    assert_eq!(handle.pending(), 0);
}

/// Callbacks may know their connections. What they know must not keep them for ever, though the
/// connection was closed before its first callback.
#[test]
fn callbacks_that_have_handles_go_with_their_client() {
    let server = Server::start(echo());
    for dispatch in modes() {
        let known: Arc<Mutex<Vec<Handle>>> = Arc::default();
        let (kept, all) = (Arc::downgrade(&known), known.clone());
        let client = Client::builder()
            .on_request(move |(): &mut (), _: &mut Connection| {
                lock(&all).clear();
                Ok(())
            })
            .dispatch(dispatch)
            .build()
            .expect("options");
        for _ in 0..100 {
            let address = server.address.to_string();
            let handle = client.dial("tcp", &address, PATIENCE).expect("a server");
            handle.close();
            lock(&known).push(handle);
        }
        drop((known, client));
        eventually("nobody knows them any more", || kept.upgrade().is_none());
    }
}

/// Counts what it is told, as one value that is all callbacks.
struct Handled(Journal);

impl netpoll::Handler for Handled {
    type Session = u32;

    fn on_prepare(&self, _: &Connection) -> netpoll::Result<u32> {
        Ok(7)
    }

    fn on_request(&self, session: &mut u32, conn: &mut Connection) -> netpoll::Result<()> {
        let line = conn.reader().until(b'\n')?.len();
        self.0.add(format!("{session}: {line} bytes"));
        Ok(())
    }

    fn on_shutdown(&self, session: &mut u32, conn: &mut Connection) -> netpoll::Result<()> {
        conn.writer().write_string("bye\n");
        self.0.add(format!("{session}: shutdown"));
        Ok(())
    }
}

#[test]
fn a_client_takes_a_handler_as_a_server_does() {
    for dispatch in modes() {
        let journal = Journal::default();
        let client = Client::builder().handler(Handled(journal.clone())).dispatch(dispatch);
        let client = client.build().expect("options");
        let (_handle, mut peer) = pair(&client);
        peer.write_all(b"12345\n").expect("an open connection");
        assert_eq!(journal.wait(1), ["7: 6 bytes"]);
        client.shutdown(PATIENCE);
        peer.hear(b"bye\n");
        assert_eq!(journal.wait(2)[1], "7: shutdown");
    }
}
