//! Dialling: how it fails, how long it takes, and connections that their caller drives.

use std::io::{self, BufRead, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use netpoll::{
    Bytes, Connection, DialConnection, Dialer, Error, EventLoop, Limits, LinkBuffer, LoadBalance,
    OutputLimits, PollManager, Result, Sink, Source, Wait, dial_connection,
};
use socket2::{Domain, Socket, Type};

use crate::errors::is_a_sentence;
use crate::util::{Client, PATIENCE, Server, echo, noise, one_takes_less, pool, quiet};

/// A dialled connection and the plain socket at its other end.
fn pair() -> (Connection, TcpStream) {
    pair_of(Limits::default())
}

fn pair_of(options: Limits) -> (Connection, TcpStream) {
    pair_by(&Dialer::new(options).expect("options"))
}

fn pair_by(dialer: &dyn DialConnection) -> (Connection, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    let conn = dialer.dial_connection("tcp", &address, PATIENCE).expect("a connection");
    let (peer, _) = listener.accept().expect("a connection");
    peer.set_read_timeout(Some(PATIENCE)).expect("an option");
    peer.set_nodelay(true).expect("an option");
    (conn, peer)
}

fn send(conn: &mut Connection, bytes: &[u8]) {
    conn.writer().write_bytes(bytes);
    conn.writer().flush().expect("the peer takes it");
}

#[test]
fn a_refusal_is_told_at_once() {
    let (_bound, address) = refusing();
    let address = address.to_string();
    let dial = || {
        let begun = Instant::now();
        let error = dial_connection("tcp", &address, PATIENCE).expect_err("nobody listens");
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
        is_a_sentence(&error, &["dial tcp", &address, "refused"]);
        begun.elapsed()
    };
    one_takes_less(Duration::from_secs(1), dial);
}

/// An address that refuses: its socket does not listen. While that lives, no other has its port.
pub(crate) fn refusing() -> (Socket, SocketAddr) {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    let any: SocketAddr = "127.0.0.1:0".parse().expect("an address");
    socket.bind(&any.into()).expect("a port");
    let address = socket.local_addr().ok().and_then(|it| it.as_socket()).expect("an address");
    (socket, address)
}

/// A listener whose queue is full: the kernel drops what asks for more, and says nothing.
pub(crate) fn full_listener() -> (Socket, SocketAddr, Vec<TcpStream>) {
    let listener = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    let any: SocketAddr = "127.0.22.2:0".parse().expect("an address");
    listener.bind(&any.into()).expect("a port");
    listener.listen(0).expect("a queue");
    let address = listener.local_addr().ok().and_then(|it| it.as_socket()).expect("an address");
    let mut queued = Vec::new();
    let mut in_vain = 0;
    while in_vain < 3 {
        match TcpStream::connect_timeout(&address, Duration::from_millis(100)) {
            Ok(stream) => queued.push(stream),
            Err(_) => in_vain += 1,
        }
        assert!(queued.len() < 20, "the queue has no end");
    }
    (listener, address, queued)
}

#[test]
fn a_timeout_is_kept() {
    const TIMEOUT: Duration = Duration::from_millis(200);
    let (_listener, address, _queued) = full_listener();
    let dial = || {
        let begun = Instant::now();
        let dialled = dial_connection("tcp", &address.to_string(), TIMEOUT);
        let error = dialled.expect_err("the queue is full");
        assert_eq!(error.kind(), ErrorKind::TimedOut);
        is_a_sentence(&error, &["dial tcp", &address.to_string(), "timed out", "200ms"]);
        let took = begun.elapsed();
        assert!(took >= TIMEOUT, "{took:?}");
        took
    };
    one_takes_less(TIMEOUT + Duration::from_secs(1), dial);
}

#[test]
fn what_can_not_be_dialled_is_named() {
    let named = |network: &str, address: &str, timeout: Duration, words: &[&str]| {
        let error = dial_connection(network, address, timeout).expect_err("it can't be dialled");
        is_a_sentence(&error, words);
        is_a_sentence(&error, &["dial", network, address]);
        error
    };
    let good = "127.0.0.1:80";
    let mut errors = vec![named("tcp", good, Duration::ZERO, &["timeout"])];
    for address in ["", "127.0.0.1", "localhost", ":", "127.0.0.1:99999", "1.2.3.4.5"] {
        errors.push(named("tcp", address, PATIENCE, &[]));
    }
    let ports = ["", "+80", "-0", " 80", "80 ", "0x50", "8_0", "٨٠", "65536"];
    for host in ["127.0.0.1", "localhost", "[::1]", "[::1%lo]"] {
        for port in ports {
            errors.push(named("tcp", &format!("{host}:{port}"), PATIENCE, &["port", "65535"]));
        }
    }
    for network in ["udp", "TCP", "unixgram", ""] {
        errors.push(named(network, good, PATIENCE, &["network", "tcp4"]));
    }
    errors.push(named("tcp6", good, PATIENCE, &["family"]));
    for error in errors {
        assert!(matches!(error, Error::Config(_)), "{error:?}");
    }
    // Longer than a part of a name may be, so no server is asked.
    let unknown = format!("{}.invalid:80", "x".repeat(64));
    let error = named("tcp", &unknown, PATIENCE, &[]);
    assert!(matches!(error, Error::Address { .. }), "{error:?}");
}

#[test]
fn ten_thousand_dials_to_a_server_that_closes_at_once_read_what_it_said() {
    const DIALS: usize = 10_000;
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    let server = thread::spawn(move || {
        for _ in 0..DIALS {
            let (mut stream, _) = listener.accept().expect("a connection");
            stream.say(b"hello");
        }
    });
    let dial = move || {
        for _ in 0..DIALS / 4 {
            let mut conn = dial_connection("tcp", &address, PATIENCE).expect("a connection");
            assert_eq!(conn.reader().next(5).expect("what it said"), b"hello");
            assert_eq!(conn.read(&mut [0; 8]).expect("the end"), 0);
            assert!(matches!(conn.reader().read_byte(), Err(Error::EndOfStream)));
            assert!(!conn.is_active());
        }
    };
    let diallers: Vec<_> = (0..4).map(|_| thread::spawn(dial.clone())).collect();
    for dialler in diallers {
        dialler.join().expect("no dial fails");
    }
    server.join().expect("a server");
}

#[test]
fn a_read_that_times_out_keeps_what_came() {
    const TIMEOUT: Duration = Duration::from_millis(60);
    let options = Limits { read_timeout: Some(TIMEOUT), ..Default::default() };
    let (mut conn, mut peer) = pair_of(options);
    peer.say(b"abc");
    let begun = Instant::now();
    let error = conn.reader().next(10).expect_err("seven bytes do not come");
    assert!(matches!(error, Error::TimedOut(Wait::Read)), "{error:?}");
    assert_eq!(error.kind(), ErrorKind::TimedOut);
    assert!(begun.elapsed() >= TIMEOUT, "{:?}", begun.elapsed());
    assert_eq!(conn.reader().len(), 3);
    assert_eq!(conn.reader().peek(3).expect("they are buffered"), b"abc");
    peer.say(b"defghij");
    conn.set_read_timeout(Some(PATIENCE));
    assert_eq!(conn.reader().next(10).expect("ten bytes"), b"abcdefghij");
    conn.set_read_timeout(Some(Duration::from_millis(1)));
    assert_eq!(conn.read(&mut [0]).expect_err("nothing comes").kind(), ErrorKind::TimedOut);
    assert!(conn.is_active());
}

#[test]
fn every_read_waits_for_bytes_that_dribble() {
    const SCRIPT: &[u8] = b"\x07peeked, taken, skipped, a line\nsliced, t\xc3\xa9xt, owned";
    let (mut conn, mut peer) = pair();
    let dribbling = thread::spawn(move || {
        for byte in SCRIPT {
            peer.say(&[*byte]);
            thread::sleep(Duration::from_micros(300)); // sleep: a slow peer
        }
        peer
    });
    let mut reader = conn.reader();
    assert_eq!(reader.read_byte().expect("a byte"), 7);
    assert_eq!(reader.peek(8).expect("eight bytes"), b"peeked, ");
    assert_eq!(reader.next(8).expect("the same"), b"peeked, ");
    assert_eq!(reader.next(7).expect("seven bytes"), b"taken, ");
    reader.skip(9).expect("nine bytes");
    assert_eq!(reader.until(b'\n').expect("a line"), b"a line\n");
    assert_eq!(reader.slice(8).expect("a slice").chunk(), b"sliced, ");
    assert_eq!(reader.read_string(7).expect("text"), "t\u{e9}xt, ");
    assert_eq!(reader.read_bytes(5).expect("bytes"), &b"owned"[..]);
    assert!(reader.is_empty());
    assert!(matches!(reader.try_read_byte(), Err(Error::WouldBlock)));
    assert!(matches!(reader.try_until(b'\n'), Err(Error::WouldBlock)));
    drop(dribbling.join().expect("a peer"));
    assert!(matches!(reader.read_byte(), Err(Error::EndOfStream)));
}

#[test]
fn every_read_spans_segments() {
    const LEN: usize = 100_000;
    type Take = fn(&mut Connection) -> Vec<u8>;
    let takes: [Take; 6] = [
        |conn| conn.reader().next(LEN).expect("bytes").to_vec(),
        |conn| {
            let peeked = conn.reader().peek(LEN).expect("bytes").to_vec();
            conn.reader().skip(LEN).expect("the same");
            peeked
        },
        |conn| conn.reader().read_bytes(LEN).expect("bytes").to_vec(),
        |conn| {
            let mut slice = conn.reader().slice(LEN).expect("bytes");
            slice.peek(LEN).expect("bytes").to_vec()
        },
        |conn| {
            let mut all = vec![0; LEN];
            conn.read_exact(&mut all).expect("bytes");
            all
        },
        |conn| {
            let mut all = Vec::new();
            while all.len() < LEN {
                let mut reader = conn.reader();
                let n = reader.fill_buf().expect("bytes").len().min(LEN - all.len());
                all.extend_from_slice(&reader.fill_buf().expect("bytes")[..n]);
                reader.consume(n);
            }
            all
        },
    ];
    let (mut conn, mut peer) = pair();
    let sending = thread::spawn(move || {
        for piece in noise(11, LEN * 6).chunks(1777) {
            peer.say(piece);
        }
    });
    for (turn, take) in takes.into_iter().enumerate() {
        assert!(take(&mut conn) == noise(11, LEN * 6)[turn * LEN..][..LEN], "of take {turn}");
    }
    sending.join().expect("a peer");
}

#[test]
fn a_line_spans_segments() {
    let (mut conn, mut peer) = pair();
    let line = [vec![b'x'; 50_000], b"\n".to_vec()].concat();
    let sent = line.clone();
    let sending = thread::spawn(move || sent.chunks(997).for_each(|piece| peer.say(piece)));
    assert!(conn.reader().until(b'\n').expect("a line") == line);
    sending.join().expect("a peer");
}

#[test]
fn code_for_any_stream_runs_on_a_connection() -> Result<()> {
    let (mut conn, mut peer) = pair();
    let talking = thread::spawn(move || {
        peer.say(b"first line\nsecond line\n");
        peer.say(noise(0, 500_000));
        peer.half_close();
        peer.rest()
    });
    let mut line = String::new();
    conn.reader().read_line(&mut line)?;
    conn.reader().read_line(&mut line)?;
    assert_eq!(line, "first line\nsecond line\n");
    let mut rest = Vec::new();
    assert_eq!(io::copy(&mut conn, &mut rest)?, 500_000);
    assert!(rest == noise(0, 500_000));
    assert_eq!(io::copy(&mut &noise(3, 700_000)[..], &mut conn.writer())?, 700_000);
    write!(conn, "{} bottles", 99)?;
    Write::flush(&mut conn)?;
    drop(conn);
    let heard = talking.join().expect("a peer");
    assert!(heard == [noise(3, 700_000), b"99 bottles"].concat(), "{} bytes", heard.len());
    Ok(())
}

/// What was written and not flushed is no less meant than what was.
#[test]
fn a_drop_in_order_sends_what_was_written() -> Result<()> {
    let (mut conn, mut peer) = pair();
    conn.writer().write_bytes(b"flushed, ");
    conn.writer().flush()?;
    conn.write_all(b"and written")?;
    drop(conn);
    assert_eq!(peer.rest(), b"flushed, and written");

    let (mut conn, mut peer) = pair();
    conn.writer().write_bytes(b"before the split, ");
    let (read, mut write) = conn.into_split();
    write.writer().write_bytes(b"after it");
    drop(read);
    drop(write);
    assert_eq!(peer.rest(), b"before the split, after it");
    Ok(())
}

#[test]
fn a_panic_sends_nothing_that_it_cut_short() {
    for split in [false, true] {
        let (mut conn, mut peer) = pair();
        conn.writer().write_bytes(b"flushed");
        conn.writer().flush().expect("a flush");
        let writing = thread::spawn(move || {
            conn.writer().write_bytes(b"half of a mess");
            if split {
                let _halves = conn.into_split();
                panic!("this panic belongs to the test");
            }
            let _whole = conn;
            panic!("this panic belongs to the test");
        });
        assert!(writing.join().is_err());
        assert_eq!(peer.rest(), b"flushed");
    }
}

#[test]
fn a_drop_closes_in_order() {
    const MUCH: usize = 8 << 20;
    let output = OutputLimits { low: 1 << 20, high: 2 * MUCH };
    let (mut conn, mut peer) = pair_of(Limits { output, ..Default::default() });
    send(&mut conn, noise(5, MUCH));
    assert!(conn.writer().pending() > 0, "the socket took it all, so the test shows nothing");
    let begun = Instant::now();
    drop(conn);
    assert!(begun.elapsed() < Duration::from_secs(2), "a drop that waits: {:?}", begun.elapsed());
    let heard = peer.rest();
    assert!(heard == noise(5, MUCH), "{} bytes", heard.len());
}

/// What a read that waits returns when `end` has been done.
fn end_of_a_wait(mut conn: Connection, end: impl FnOnce()) -> ErrorKind {
    let waiting = thread::spawn(move || {
        let begun = Instant::now();
        let error = conn.reader().peek(10).expect_err("ten bytes do not come");
        assert!(begun.elapsed() < PATIENCE, "nothing ended it");
        assert!(!conn.is_active());
        error.kind()
    });
    quiet(30); // it waits by then; were it not, the outcome would be the same
    end();
    waiting.join().expect("a wait")
}

#[test]
fn a_handle_ends_a_wait() {
    let (conn, mut peer) = pair();
    let handle = conn.handle();
    assert_eq!(end_of_a_wait(conn, || handle.close()), ErrorKind::NotConnected);
    assert_eq!(peer.rest(), b"");
}

#[test]
fn the_end_of_a_manager_ends_waits() {
    let manager = Arc::new(PollManager::new(2, LoadBalance::RoundRobin).expect("a manager"));
    let dialer = Dialer::new(Limits::default()).expect("options");
    let (conn, _peer) = pair_by(&dialer.manager(manager.clone()));
    let handle = conn.handle();
    assert_eq!(Arc::strong_count(&manager), 1, "a connection keeps its manager alive");
    assert_eq!(end_of_a_wait(conn, || drop(manager)), ErrorKind::NotConnected);
    assert!(matches!(handle.send("late"), Err(Error::Closed)));
}

#[test]
fn a_reset_is_not_an_end() {
    let (conn, peer) = pair();
    assert_eq!(end_of_a_wait(conn, || peer.reset()), ErrorKind::ConnectionReset);
    // Nor is it one for a read that begins after the reset.
    let (mut conn, mut peer) = pair();
    peer.say(b"last words");
    assert_eq!(conn.reader().peek(10).expect("ten bytes"), b"last words");
    peer.reset();
    let error = conn.reader().peek(11).expect_err("no more comes");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    assert_eq!(conn.read(&mut [0; 16]).expect("what is buffered stays"), 10);
    let error = conn.read(&mut [0]).expect_err("it is not the end");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
}

#[test]
fn an_end_is_not_a_failure() {
    let (conn, peer) = pair();
    assert_eq!(end_of_a_wait(conn, || drop(peer)), ErrorKind::UnexpectedEof);
}

#[test]
fn a_callback_dials_on_its_own_loop() {
    let manager = Arc::new(PollManager::new(1, LoadBalance::RoundRobin).expect("a manager"));
    let back = Server::start(echo().manager(manager.clone()).dispatch(pool()));
    let dialer = Dialer::new(Limits::default()).expect("options");
    let (dialer, address) = (dialer.manager(manager.clone()), back.address.to_string());
    let front = Server::start(
        EventLoop::builder()
            .on_request(move |(): &mut (), conn: &mut Connection| {
                let mut behind = dialer.dial_connection("tcp", &address, PATIENCE)?;
                behind.set_read_timeout(Some(PATIENCE));
                let asked = conn.reader().len();
                behind.writer().append(conn.reader().slice(asked)?);
                behind.writer().flush()?;
                conn.writer().append(behind.reader().slice(asked)?);
                conn.writer().flush()
            })
            .manager(manager)
            .dispatch(pool()),
    );
    let mut clients: Vec<_> = (0..10).map(|_| front.connect()).collect();
    for round in 0..10 {
        for client in &mut clients {
            client.say(format!("round {round}").as_bytes());
        }
        for client in &mut clients {
            client.hear(format!("round {round}").as_bytes());
        }
    }
    assert_eq!(front.stop().aborted, 0);
    assert_eq!(back.stop().aborted, 0);
}

#[test]
fn handles_send_on_a_dialled_connection() {
    const MESSAGES: u16 = 200;
    let (conn, mut peer) = pair();
    let senders: Vec<_> = (0..4_u8)
        .map(|number| {
            let handle = conn.handle();
            thread::spawn(move || {
                for turn in 0..MESSAGES {
                    let [high, low] = turn.to_be_bytes();
                    let mut message = vec![number; 100];
                    message[98..].copy_from_slice(&[high, low]);
                    handle.send(message).expect("accepted");
                }
            })
        })
        .collect();
    for sender in senders {
        sender.join().expect("a sender");
    }
    drop(conn);
    let heard = peer.rest();
    assert_eq!(heard.len(), 4 * usize::from(MESSAGES) * 100);
    let mut turns = [0; 4];
    for message in heard.chunks(100) {
        let sender = usize::from(message[0]);
        assert!(message[..98].iter().all(|byte| usize::from(*byte) == sender), "torn");
        assert_eq!(u16::from_be_bytes([message[98], message[99]]), turns[sender], "of {sender}");
        turns[sender] += 1;
    }
    assert_eq!(turns, [MESSAGES; 4]);
}

#[test]
fn both_ends_know_their_addresses() {
    let (conn, peer) = pair();
    assert_eq!(conn.peer_addr(), peer.local_addr().expect("an address"));
    assert_eq!(conn.local_addr().expect("an address"), peer.peer_addr().expect("an address"));
    assert_eq!(conn.handle().peer_addr(), conn.peer_addr());
}

/// A protocol, written once: a name on a line of its own, a length, and as many bytes.
fn write_frame(sink: &mut impl Sink, name: &str, body: &[u8]) -> io::Result<()> {
    sink.write_string(name);
    sink.write_byte(b'\n');
    let len = u32::try_from(body.len()).map_err(io::Error::other)?;
    sink.malloc(4).copy_from_slice(&len.to_be_bytes());
    sink.write_direct(Bytes::copy_from_slice(body), 0)?;
    sink.flush()
}

fn read_frame(source: &mut impl Source) -> io::Result<(String, Bytes)> {
    let name = String::from_utf8_lossy(source.until(b'\n', 80)?).trim_end().to_owned();
    let mut len = [0; 4];
    len.copy_from_slice(source.next(4)?);
    let body = source.read_bytes(u32::from_be_bytes(len) as usize)?;
    Ok((name, body))
}

#[test]
fn a_protocol_runs_on_a_connection_and_on_a_buffer() -> io::Result<()> {
    let server = Server::start(echo());
    let mut conn = dial_connection("tcp", &server.address.to_string(), PATIENCE)?;
    let mut buffer = LinkBuffer::new();
    for len in [0, 1, 5000, 300_000] {
        write_frame(&mut buffer, "a buffer", noise(1, len))?;
        let (name, body) = read_frame(&mut buffer)?;
        assert!(name == "a buffer" && body == noise(1, len), "{len}");
        write_frame(&mut conn.writer(), "a connection", noise(2, len))?;
        let (name, body) = read_frame(&mut conn.reader())?;
        assert!(name == "a connection" && body == noise(2, len), "{len}");
        let (mut reader, mut writer) = conn.split();
        write_frame(&mut writer, "its halves", noise(3, len))?;
        assert_eq!(read_frame(&mut reader)?.0, "its halves");
    }
    let lacking = read_frame(&mut buffer).expect_err("it is empty");
    assert_eq!(lacking.kind(), ErrorKind::UnexpectedEof);
    server.stop();
    let lacking = read_frame(&mut conn.reader()).expect_err("the server is gone");
    assert_eq!(lacking.kind(), ErrorKind::UnexpectedEof);
    Ok(())
}
