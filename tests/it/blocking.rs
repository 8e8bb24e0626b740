//! Callbacks that wait for the network: reads, flushes, their timeouts, and the pool under them.

use std::io::{ErrorKind, Read};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier, Mutex, mpsc};
use std::time::{Duration, Instant};

use netpoll::{
    Connection, Dispatch, Error, EventLoop, EventLoopBuilder, Handle, PoolOptions, Result, Wait,
};

use crate::util::{
    Client, Count, Journal, PATIENCE, Server, echo, echo_once, eventually, lock, modes, noise,
    quiet, within,
};

/// A server whose first callback of a connection sends back what `operation` says of it.
fn reporting<F>(operation: F) -> (EventLoopBuilder, mpsc::Receiver<String>)
where
    F: Fn(&mut Connection) -> String + Send + Sync + 'static,
{
    let (sender, reports) = mpsc::channel();
    let builder = EventLoop::builder().on_request(move |(): &mut (), conn: &mut Connection| {
        let report = operation(conn);
        sender.send(report).expect("the test listens");
        Ok(())
    });
    (builder, reports)
}

#[track_caller]
fn next(reports: &mpsc::Receiver<String>) -> String {
    reports.recv_timeout(PATIENCE).expect("a report in time")
}

#[test]
fn a_read_waits_for_the_rest_of_the_message() {
    let calls = Count::default();
    let called = calls.clone();
    let server = Server::start(EventLoop::builder().on_request(
        move |(): &mut (), conn: &mut Connection| {
            called.add();
            let length = conn.reader().next(4)?.try_into().expect("four bytes");
            let body = conn.reader().slice(u32::from_le_bytes(length) as usize)?;
            conn.writer().append(body);
            conn.writer().flush()
        },
    ));
    let mut client = server.connect();
    for round in 0..5 {
        let body = noise(round, 300_000);
        client.say(&[0xE0]);
        quiet(5); // so that it arrives alone
        client.say(&[0x93, 4, 0]);
        for part in body.chunks(100_000) {
            quiet(5);
            client.say(part);
        }
        client.hear(body);
    }
    assert_eq!(calls.get(), 5, "one callback a message, however it arrives");
}

#[test]
fn a_read_times_out_and_keeps_what_is_buffered() {
    let (builder, reports) = reporting(|conn| {
        conn.set_read_timeout(Some(Duration::from_millis(60)));
        let start = Instant::now();
        let error = conn.reader().next(10).expect_err("only 5 come");
        assert!(matches!(error, Error::TimedOut(Wait::Read)), "{error:?}");
        assert_eq!(error.kind(), ErrorKind::TimedOut);
        assert!(start.elapsed() >= Duration::from_millis(60), "too early");
        conn.set_read_timeout(Some(Duration::from_millis(10)));
        assert!(conn.reader().until(b'\n').is_err());
        let kept = conn.reader().next(5).expect("they are still there").to_vec();
        String::from_utf8(kept).expect("text")
    });
    let server = Server::start(builder);
    let mut client = server.connect();
    client.say(b"12345");
    assert_eq!(next(&reports), "12345");
    client.say(b"67890");
    assert_eq!(next(&reports), "67890");
    let (builder, reports) = reporting(|conn| format!("{:?}", conn.reader().skip(10)));
    let server = Server::start(builder.read_timeout(Duration::from_millis(5)));
    server.connect().say(b"12345");
    assert!(next(&reports).starts_with("Err("), "the option is without effect");
}

#[test]
fn a_try_read_never_waits() {
    for dispatch in modes() {
        let (builder, reports) = reporting(|conn| {
            let start = Instant::now();
            let mut reader = conn.reader();
            let errors = [
                reader.try_next(100).map(drop),
                reader.try_peek(100).map(drop),
                reader.try_skip(100),
                reader.try_slice(100).map(drop),
                reader.try_read_bytes(100).map(drop),
                reader.try_until(b'\n').map(drop),
            ];
            let all_block = errors.iter().all(|it| matches!(it, Err(Error::WouldBlock)));
            let text = reader.try_next(5).map(<[u8]>::to_vec).expect("they are there");
            let last = reader.try_read_byte().expect_err("nothing is left");
            assert!(start.elapsed() < Duration::from_secs(5));
            format!("{all_block} {} {last:?}", String::from_utf8_lossy(&text))
        });
        let server = Server::start(builder.dispatch(dispatch));
        let mut client = server.connect();
        client.say(b"12345");
        assert_eq!(
            next(&reports),
            "true 12345 the operation would have to wait, and must not",
            "{dispatch:?}"
        );
    }
}

#[test]
fn inline_no_read_waits_and_the_callback_is_called_again() {
    let calls = Count::default();
    let called = calls.clone();
    let server = Server::start(
        EventLoop::builder()
            .on_request(move |(): &mut (), conn: &mut Connection| {
                called.add();
                let line = conn.reader().until(b'\n')?.to_vec(); // `WouldBlock`, and called again
                conn.writer().write_bytes(&line);
                Ok(())
            })
            .dispatch(Dispatch::Inline)
            .loops(1),
    );
    let (mut slow, mut quick) = (server.connect(), server.connect());
    slow.say(b"half a ");
    eventually("it is called", || calls.get() == 1);
    quick.echo(b"line\n");
    slow.say(b"line\n");
    slow.hear(b"half a line\n");
}

#[test]
fn a_read_beyond_the_input_limit_is_refused() {
    for dispatch in modes() {
        let (builder, reports) = reporting(|conn| {
            let error = conn.reader().peek(1001).expect_err("more than the limit");
            let line = conn.reader().until(b'\n').expect_err("not within the limit");
            format!("{error}; {}", matches!(line, Error::InputLimit { .. } | Error::WouldBlock))
        });
        let server = Server::start(builder.dispatch(dispatch).input_limit(1000));
        let mut client = server.connect();
        client.say(&[b'x'; 2000]);
        let report = next(&reports);
        assert!(report.contains("1001 bytes"), "{report}");
        assert!(report.contains("input_limit"), "{report}");
        assert!(report.ends_with("true"), "{report}");
    }
}

#[test]
fn a_flush_above_the_high_water_mark_waits_for_a_slow_reader() {
    let (flushed, handles) = (Arc::new(AtomicBool::new(false)), mpsc::channel());
    let done = flushed.clone();
    let sender = handles.0;
    let server = Server::start(
        EventLoop::builder()
            .on_request(move |(): &mut (), conn: &mut Connection| {
                sender.send(conn.handle()).expect("the test listens");
                conn.writer().write_bytes(noise(2, 16 << 20));
                conn.writer().flush()?;
                done.store(true, Ordering::SeqCst);
                assert!(conn.writer().pending() <= 1000);
                Ok(())
            })
            .output_limits(1000, 100_000),
    );
    let mut client = server.connect();
    client.say(b"much of it");
    let handle: Handle = handles.1.recv_timeout(PATIENCE).expect("a callback");
    eventually("much is queued", || handle.pending() > 100_000);
    quiet(50);
    assert!(!flushed.load(Ordering::SeqCst), "flush returned above its mark");
    client.hear(noise(2, 16 << 20));
    eventually("the flush returns", || flushed.load(Ordering::SeqCst));
}

#[test]
fn a_flush_times_out_with_all_of_it_queued() {
    const TIMEOUT: Duration = Duration::from_secs(1); // in which the client reads something
    let (builder, reports) = reporting(|conn| {
        let start = Instant::now();
        conn.writer().write_bytes(noise(2, 16 << 20));
        let error = conn.writer().flush().expect_err("nobody reads");
        assert!(start.elapsed() >= TIMEOUT, "too early");
        assert!(conn.writer().pending() > 1 << 20);
        format!("{error:?}")
    });
    let server = Server::start(builder.write_timeout(TIMEOUT));
    let mut client = server.connect();
    client.say(b"much of it");
    assert_eq!(next(&reports), "timed out waiting for the peer to take bytes");
    client.hear(noise(2, 16 << 20));
}

#[test]
fn inline_a_peer_that_does_not_read_is_not_read_from() {
    const HIGH: usize = 1 << 20;
    let (sender, handles) = mpsc::channel();
    let server = Server::start(
        EventLoop::builder()
            .on_connect(move |(): &mut (), conn: &mut Connection| {
                sender.send(conn.handle()).expect("the test listens");
                Ok(())
            })
            .on_request(|(): &mut (), conn: &mut Connection| echo_once(conn))
            .dispatch(Dispatch::Inline)
            .loops(1),
    );
    let mut greedy = server.connect();
    let handle: Handle = handles.recv_timeout(PATIENCE).expect("a connection");
    let mut total = 0;
    // A server that has no time for a moment looks as if it was full.
    eventually("its output is above its mark", || {
        total += write_until_it_stays_full(&mut greedy);
        handle.pending() > HIGH
    });
    assert!(total < 64 << 20, "{total} bytes went in, and none came out");
    let pending = handle.pending();
    // One callback's output may stand above the mark: at most what one receive brought.
    assert!(pending <= HIGH + (1 << 20), "{pending} bytes are queued");
    server.connect().echo(b"others are served");
    greedy.set_nonblocking(false).expect("an option");
    let mut heard = 0;
    let mut buffer = vec![0; 1 << 20];
    while heard < total {
        let read = greedy.read(&mut buffer).expect("the echo goes on");
        assert!(buffer[..read].iter().all(|it| *it == b'g'));
        heard += read;
    }
    assert_eq!(heard, total);
}

/// Writes until nothing has been taken for a while; returns how much was.
fn write_until_it_stays_full(stream: &mut TcpStream) -> usize {
    stream.set_nonblocking(true).expect("an option");
    let (bytes, mut total) = (vec![b'g'; 64 << 10], 0);
    while within(Duration::from_millis(200), || match std::io::Write::write(stream, &bytes) {
        Ok(taken) => {
            total += taken;
            true
        }
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::WouldBlock);
            false
        }
    }) {
        assert!(total < 1 << 30, "it takes without end");
    }
    total
}

#[test]
fn as_many_callbacks_as_may_be_block_at_once() {
    const CALLBACKS: usize = 32;
    let all = Arc::new(Barrier::new(CALLBACKS));
    let server = Server::start(EventLoop::builder().on_request(
        move |(): &mut (), conn: &mut Connection| {
            all.wait(); // returns when all of them are in here
            echo_once(conn)
        },
    ));
    let mut clients: Vec<_> = (0..CALLBACKS).map(|_| server.connect()).collect();
    for client in &mut clients {
        client.say(b"together");
    }
    for client in &mut clients {
        client.hear(b"together");
    }
}

#[test]
fn one_worker_serves_many_connections() {
    let options = PoolOptions { max_threads: 1, ..PoolOptions::default() };
    let threads = Journal::default();
    let seen = threads.clone();
    let server = Server::start(
        EventLoop::builder()
            .on_request(move |(): &mut (), conn: &mut Connection| {
                seen.add(format!("{:?}", std::thread::current().id()));
                echo_once(conn)
            })
            .dispatch(Dispatch::Pool(options)),
    );
    crowd_of(&server, 100, 5);
    let mut threads = threads.entries();
    threads.dedup();
    assert_eq!(threads.len(), 1, "{threads:?}");
}

#[test]
fn a_tiny_queue_loses_nothing() {
    for max_threads in [1, 4] {
        let options = PoolOptions { max_threads, queue: 1, ..PoolOptions::default() };
        let server = Server::start(echo().dispatch(Dispatch::Pool(options)).loops(2));
        crowd_of(&server, 200, 5);
        assert_eq!(server.stop().aborted, 0);
    }
}

#[test]
fn workers_that_idle_leave_and_come_back() {
    let idle = Duration::from_millis(1);
    let options = PoolOptions { idle, queue: 1, max_threads: 3 };
    let server = Server::start(echo().dispatch(Dispatch::Pool(options)).loops(1));
    for _ in 0..20 {
        crowd_of(&server, 5, 3);
        quiet(3); // longer than a worker stays
    }
}

/// So many clients at once, each of which has so many messages echoed.
fn crowd_of(server: &Server, clients: usize, rounds: usize) {
    let mut clients: Vec<_> = (0..clients).map(|_| server.connect()).collect();
    for round in 0..rounds {
        for (number, client) in clients.iter_mut().enumerate() {
            client.say(format!("{round}/{number}").as_bytes());
        }
        for (number, client) in clients.iter_mut().enumerate() {
            client.hear(format!("{round}/{number}").as_bytes());
        }
    }
}

#[test]
fn a_wait_ends_when_another_thread_closes() {
    let operations: [fn(&mut Connection) -> Result<()>; 2] = [
        |conn| conn.reader().peek(1000).map(drop),
        |conn| {
            conn.writer().write_bytes(noise(1, 16 << 20));
            conn.writer().flush()
        },
    ];
    for operation in operations {
        let (sender, handles) = mpsc::channel();
        let sender = Mutex::new(sender);
        let (builder, reports) = reporting(move |conn| {
            lock(&sender).send(conn.handle()).expect("the test listens");
            format!("{:?}", operation(conn).expect_err("an end to the wait"))
        });
        let server = Server::start(builder);
        let mut client = server.connect();
        client.say(b"12345");
        let handle: Handle = handles.recv_timeout(PATIENCE).expect("a callback");
        quiet(20); // it waits by then; were it not, the outcome would be the same
        handle.close();
        assert_eq!(next(&reports), "the connection is closed on this side");
    }
}
