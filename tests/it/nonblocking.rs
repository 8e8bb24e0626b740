//! A connection as a non-blocking stream: no call waits, and the callback comes again when one may
//! go on.

use std::io::{BufRead, ErrorKind, IoSlice, Read, Write};
use std::sync::mpsc;
use std::thread;

use netpoll::{Connection, DialConnection, Dialer, EventLoop, Handle, Limits, Result};
use tungstenite::handshake::derive_accept_key;
use tungstenite::protocol::{Message, Role, WebSocketContext};

use crate::util::{Client, Journal, PATIENCE, Server, lock, modes, noise};

const HIGH: usize = 64 << 10;

/// The kind of an error of `std::io`.
fn kind<T>(outcome: &std::io::Result<T>) -> Option<ErrorKind> {
    outcome.as_ref().err().map(std::io::Error::kind)
}

/// Answers one byte with `MUCH`, as far as the stream takes it in each call. The peer reads only
/// when a call would have blocked, and says nothing more.
#[test]
fn after_a_write_that_would_block_the_callback_comes_again_when_there_is_room() {
    const MUCH: usize = 16 << 20;
    for dispatch in modes() {
        let journal = Journal::default();
        let (told, drained) = (journal.clone(), journal.clone());
        let server = Server::start(
            EventLoop::builder()
                .on_prepare(|_: &Connection| Ok(0_usize))
                .on_request(move |done: &mut usize, conn: &mut Connection| {
                    let asked = conn.reader().len();
                    conn.reader().skip(asked)?;
                    while *done < MUCH {
                        let outcome = conn.nonblocking().write(&noise(3, MUCH)[*done..]);
                        let queued = conn.writer().malloc_len() + conn.writer().pending();
                        assert!(queued <= 2 * HIGH, "{queued} bytes are queued");
                        if kind(&outcome) == Some(ErrorKind::WouldBlock) {
                            told.add("blocked");
                        }
                        *done += outcome?;
                    }
                    Ok(())
                })
                .on_drain(move |_: &mut usize, _: &mut Connection| {
                    drained.add("drain");
                    Ok(())
                })
                .output_limits(HIGH / 4, HIGH)
                .dispatch(dispatch),
        );
        let mut client = server.connect();
        client.say(b"?");
        assert_eq!(journal.wait(1), ["blocked"], "{dispatch:?}");
        client.hear(noise(3, MUCH));
        // It is not called again before there is room.
        let entries = journal.entries();
        let is_spin = |pair: &[String]| pair[0] == "blocked" && pair[1] == "blocked";
        assert!(!entries.windows(2).any(is_spin), "{dispatch:?}: {entries:?}");
    }
}

#[test]
fn reads_tell_apart_nothing_yet_the_end_and_a_failure() {
    for dispatch in modes() {
        let journal = Journal::default();
        let seen = journal.clone();
        let server = Server::start(
            EventLoop::builder()
                .on_request(move |(): &mut (), conn: &mut Connection| {
                    let (mut stream, mut all) = (conn.nonblocking(), Vec::new());
                    assert_eq!(stream.read(&mut [])?, 0);
                    // What it has read before the error stays in `all`.
                    let outcome = stream.read_to_end(&mut all);
                    let text = String::from_utf8_lossy(&all).into_owned();
                    let again = stream.fill_buf().map(<[u8]>::len);
                    assert_eq!(again.as_ref().ok(), outcome.as_ref().ok().map(|_| &0));
                    // Last: from here on the client goes on.
                    seen.add(format!("{text} {:?}", kind(&outcome)));
                    outcome?;
                    Ok(())
                })
                .on_disconnect(journal.on_disconnect())
                .half_open(true)
                .dispatch(dispatch),
        );
        let mut client = server.connect();
        client.say(b"some");
        assert_eq!(journal.wait(1), ["some Some(WouldBlock)"], "{dispatch:?}");
        client.say(b"more");
        assert_eq!(journal.wait(2)[1], "more Some(WouldBlock)", "{dispatch:?}");
        client.half_close();
        assert_eq!(journal.wait(3)[2], " None", "{dispatch:?}");
        client.reset();
        assert_eq!(journal.wait(4)[3], "Reset", "{dispatch:?}");
    }
}

#[test]
fn lines_are_read_until_one_would_block() {
    for dispatch in modes() {
        let journal = Journal::default();
        let seen = journal.clone();
        let server = Server::start(
            EventLoop::builder()
                .on_prepare(|_: &Connection| Ok(Vec::new()))
                .on_request(move |line: &mut Vec<u8>, conn: &mut Connection| {
                    // `read_until` keeps the part of a line that has come in `line`.
                    while conn.nonblocking().read_until(b'\n', line)? > 0 {
                        seen.add(String::from_utf8_lossy(line).trim());
                        line.clear();
                    }
                    Ok(())
                })
                .dispatch(dispatch),
        );
        let mut client = server.connect();
        client.say(b"one\ntwo\nth");
        journal.wait(2);
        client.say(b"ree\n");
        assert_eq!(journal.wait(3), ["one", "two", "three"], "{dispatch:?}");
    }
}

#[test]
fn after_a_close_every_call_fails_and_none_panics() {
    for dispatch in modes() {
        let journal = Journal::default();
        let seen = journal.clone();
        let server = Server::start(
            EventLoop::builder()
                .on_request(move |(): &mut (), conn: &mut Connection| {
                    let asked = conn.reader().len();
                    conn.reader().skip(asked)?;
                    conn.close();
                    let mut stream = conn.nonblocking();
                    let kinds = [kind(&stream.read(&mut [0])), kind(&stream.write(b"late"))];
                    seen.add(format!(
                        "{kinds:?} {:?} {:?}",
                        kind(&stream.write(b"")),
                        stream.flush()
                    ));
                    Ok(())
                })
                .dispatch(dispatch),
        );
        let mut client = server.connect();
        client.say(b"?");
        let expected = "[Some(NotConnected), Some(NotConnected)] None Ok(())";
        assert_eq!(journal.wait(1), [expected], "{dispatch:?}");
        assert_eq!(client.rest(), b"");
    }
}

#[test]
fn the_stream_of_a_dialled_connection_never_waits() -> Result<()> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    let limits =
        Limits { output: netpoll::OutputLimits { low: HIGH / 4, high: HIGH }, ..Limits::default() };
    let address = listener.local_addr()?.to_string();
    let mut conn = Dialer::new(limits)?.dial_connection("tcp", &address, PATIENCE)?;
    let (mut peer, _) = listener.accept()?;
    peer.set_read_timeout(Some(PATIENCE))?;
    assert_eq!(kind(&conn.nonblocking().read(&mut [0])), Some(ErrorKind::WouldBlock));
    let mut written = 0;
    loop {
        match conn.nonblocking().write(noise(written, 50_000)) {
            Ok(taken) => written += taken,
            Err(error) => break assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}"),
        }
    }
    conn.nonblocking().flush()?;
    let handle = conn.handle();
    let reading = thread::spawn(move || {
        let mut heard = vec![0; written];
        peer.read_exact(&mut heard).map(|()| (peer, heard))
    });
    handle.wait_for_room(None)?;
    assert_eq!(conn.nonblocking().write(b"!")?, 1);
    conn.nonblocking().flush()?;
    let (mut peer, heard) = reading.join().expect("no panic")?;
    assert_eq!(heard.len(), written);
    peer.hear(b"!");
    peer.say(b"answer");
    conn.reader().wait_some()?;
    let mut answer = [0; 6];
    conn.nonblocking().read_exact(&mut answer)?;
    drop(peer);
    assert!(conn.reader().peek(1).is_err());
    assert_eq!((&answer, conn.nonblocking().read(&mut [0])?), (b"answer", 0));
    Ok(())
}

/// Several pieces are taken in one call, as far as there is room, by everything that writes.
#[test]
fn a_vectored_write_takes_all_its_pieces() -> Result<()> {
    const MANY: usize = 100;
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?.to_string();
    let mut conn = Dialer::new(Limits::default())?.dial_connection("tcp", &address, PATIENCE)?;
    let (mut peer, _) = listener.accept()?;
    peer.set_read_timeout(Some(PATIENCE))?;
    let pieces: Vec<_> = (0..MANY).map(|index| IoSlice::new(noise(index, index))).collect();
    let expected: Vec<u8> = pieces.iter().flat_map(|piece| piece.iter().copied()).collect();
    assert_eq!(conn.write_vectored(&pieces)?, expected.len());
    assert_eq!(conn.writer().write_vectored(&pieces)?, expected.len());
    assert_eq!(conn.nonblocking().write_vectored(&pieces)?, expected.len());
    assert_eq!(conn.nonblocking().write_vectored(&[])?, 0);
    let high = Limits::default().output.high;
    let large = [IoSlice::new(noise(1, high)), IoSlice::new(noise(2, high))];
    let taken = conn.write_vectored(&large)?;
    assert_eq!(taken, high - 3 * expected.len(), "no more than the mark allows");
    let (_, mut write) = conn.into_split();
    assert_eq!(write.write_vectored(&pieces)?, expected.len());
    write.flush()?;
    for _ in 0..3 {
        peer.hear(&expected);
    }
    peer.hear(&noise(1, high)[..taken]);
    peer.hear(&expected);
    Ok(())
}

/// A session that is a WebSocket once its handshake is answered.
type Session = Option<Box<WebSocketContext>>;

/// Answers the handshake that has arrived whole.
fn upgrade(conn: &mut Connection) -> Result<Box<WebSocketContext>> {
    let head = String::from_utf8_lossy(conn.reader().try_until_bytes(b"\r\n\r\n")?).into_owned();
    let header = |line: &str| {
        line.split_once(": ").map(|(name, value)| (name.to_lowercase(), value.to_owned()))
    };
    let key = head.lines().filter_map(header).find(|(name, _)| name == "sec-websocket-key");
    let accept = derive_accept_key(key.expect("a key").1.as_bytes());
    write!(
        conn,
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {accept}\r\n\r\n"
    )?;
    Ok(Box::new(WebSocketContext::new(Role::Server, None)))
}

/// Echoes messages until a call would block. What the socket has not written is written first.
fn serve(socket: &mut WebSocketContext, conn: &mut Connection) -> tungstenite::Result<()> {
    loop {
        socket.flush(&mut conn.nonblocking())?;
        let message = socket.read(&mut conn.nonblocking())?;
        if message.is_text() || message.is_binary() {
            socket.write(&mut conn.nonblocking(), message)?;
        }
    }
}

fn on_request(session: &mut Session, conn: &mut Connection) -> Result<()> {
    let socket = match session {
        Some(socket) => socket,
        none => none.insert(upgrade(conn)?),
    };
    match serve(socket, conn) {
        Ok(()) => Ok(()),
        Err(tungstenite::Error::Io(error)) => Err(error.into()), // `WouldBlock` closes nothing
        Err(tungstenite::Error::ConnectionClosed) => {
            conn.close();
            Ok(())
        }
        Err(error) => Err(std::io::Error::other(error).into()),
    }
}

/// The client sends all its messages before it reads an answer, so the server's output fills.
#[test]
fn a_websocket_of_tungstenite_echoes_in_every_mode() {
    const MESSAGES: usize = 12;
    const LARGE: usize = 1 << 20;
    for dispatch in modes() {
        let server = Server::start(
            EventLoop::builder()
                .on_prepare(|_: &Connection| Ok(Session::None))
                .on_request(on_request)
                .output_limits(HIGH / 4, HIGH)
                .dispatch(dispatch),
        );
        let stream = server.connect();
        let mut reading = stream.try_clone().expect("a descriptor");
        let (mut socket, _) =
            tungstenite::client(format!("ws://{}/", server.address), stream).expect("a handshake");
        socket.send(Message::text("hello")).expect("it is taken");
        assert_eq!(socket.read().expect("an echo"), Message::text("hello"), "{dispatch:?}");
        let message = |index: usize| Message::binary(noise(index, LARGE + index).to_vec());
        let sending = thread::spawn(move || {
            (0..MESSAGES).for_each(|index| socket.send(message(index)).expect("it is taken"));
            socket
        });
        let mut context = WebSocketContext::new(Role::Client, None);
        for index in 0..MESSAGES {
            let echo = context.read(&mut reading).expect("an echo");
            assert!(echo == message(index), "{dispatch:?}: message {index} differs");
        }
        let mut socket = sending.join().expect("no panic");
        socket.close(None).expect("a close");
        while socket.read().is_ok() {}
        assert!(reading.rest().is_empty(), "{dispatch:?}: the server closes");
    }
}

/// Callbacks in any mode hold no thread while the peer takes nothing.
#[test]
fn a_peer_that_takes_nothing_holds_no_callback() {
    for dispatch in modes() {
        let (sender, handles) = mpsc::channel::<Handle>();
        let returned = Journal::default();
        let told = returned.clone();
        let sender = std::sync::Mutex::new(sender);
        let server = Server::start(
            EventLoop::builder()
                .on_request(move |(): &mut (), conn: &mut Connection| {
                    let _ = lock(&sender).send(conn.handle());
                    let outcome = conn.nonblocking().write_all(noise(1, 16 << 20));
                    told.add(format!("{:?}", kind(&outcome)));
                    outcome?;
                    Ok(())
                })
                .output_limits(HIGH / 4, HIGH)
                .dispatch(dispatch),
        );
        let mut client = server.connect();
        client.say(b"?");
        let handle = handles.recv_timeout(PATIENCE).expect("a callback");
        assert_eq!(returned.wait(1), ["Some(WouldBlock)"], "{dispatch:?}");
        assert!(handle.is_congested() && handle.pending() <= 2 * HIGH, "{}", handle.pending());
        assert_eq!(returned.len(), 1, "{dispatch:?}: it is called again for nothing");
    }
}
