//! Callbacks that read and answer in a loop, and peers that are faster than the loop.

use std::io::{BufRead, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::Duration;

use netpoll::{
    Bytes, Connection, Dispatch, EventLoop, Handle, Limits, OutputLimits, Result, TurnLimits,
};

use crate::util::{
    Client, Gate, Journal, PATIENCE, Server, eventually, hand_off, lock, modes, pool, quiet, within,
};

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;
/// What the kernel holds for both ends.
const KERNEL: usize = 16 * MIB;

type Body = fn(&mut Connection) -> Result<()>;

/// Loops as books write them; each answer is ten bytes and more for a byte.
const LOOPS: [(&str, Body); 5] = [
    ("try_until, write!", |conn| {
        let (mut reader, mut writer) = conn.split();
        loop {
            let line = reader.try_until(b'\n')?;
            write!(writer, "an answer: ")?;
            writer.write_bytes(line);
        }
    }),
    ("try_slice, append", |conn| {
        let (mut reader, mut writer) = conn.split();
        loop {
            let frame = reader.try_slice(1)?;
            writer.write_string("an answer: ");
            writer.append(frame);
        }
    }),
    ("try_next, each side by itself", |conn| {
        loop {
            let byte = conn.reader().try_next(1)?[0];
            conn.writer().buf().write_bytes(b"an answer: ");
            conn.writer().write_byte(byte);
        }
    }),
    ("try_read_byte, flush", |conn| {
        loop {
            let byte = conn.reader().try_read_byte()?;
            conn.writer().write_bytes(b"an answer: ");
            conn.writer().write_byte(byte);
            conn.writer().flush()?;
        }
    }),
    ("until, never a flush", |conn| {
        let (mut reader, mut writer) = conn.split();
        loop {
            let line = reader.until(b'\n')?;
            writer.write_bytes(b"an answer: ");
            writer.write_bytes(line);
        }
    }),
];

/// Its own limits; and tells the handle of each connection.
fn serving(body: Body, limits: Limits, dispatch: Dispatch) -> (Server, mpsc::Receiver<Handle>) {
    let (sender, handles) = mpsc::channel();
    let builder = EventLoop::builder()
        .on_connect(move |(): &mut (), conn: &mut Connection| {
            let _ = sender.send(conn.handle());
            Ok(())
        })
        .on_request(move |(): &mut (), conn: &mut Connection| body(conn))
        .limits(limits)
        .dispatch(dispatch)
        .loops(1);
    (Server::start(builder), handles)
}

fn small() -> Limits {
    Limits {
        input_limit: 64 * KIB,
        output: OutputLimits { low: 64 * KIB, high: 256 * KIB },
        turn: TurnLimits { rounds: 4, bytes: 32 * KIB },
        ..Limits::default()
    }
}

/// Sends until nothing is taken for a while; says how much was.
fn flood(client: &mut TcpStream, byte: u8) -> usize {
    let bytes = vec![byte; 64 * KIB];
    client.set_write_timeout(Some(Duration::from_millis(200))).expect("an option");
    let mut taken = 0;
    while taken < 4 * KERNEL {
        match client.write(&bytes) {
            Ok(n) => taken += n,
            Err(_) => break,
        }
    }
    taken
}

#[test]
fn a_loop_whose_peer_never_reads_ends_and_holds_little() {
    for dispatch in modes() {
        for (name, body) in LOOPS {
            let (server, handles) = serving(body, small(), dispatch);
            let mut client = server.connect();
            let handle = handles.recv_timeout(PATIENCE).expect("a connection");
            let taken = flood(&mut client, b'\n');
            let received = handle.bytes_received() as usize;
            let held = handle.pending();
            // Answers are twelve times as long: what the kernel took of them, the high-water mark
            // four times, and a turn's.
            let most = (KERNEL + 8 * 256 * KIB) / 12 + 256 * KIB;
            assert!(received < most, "{dispatch:?}, {name}: {received} received, {taken} sent");
            assert!(held < 8 * 256 * KIB, "{dispatch:?}, {name}: {held} are queued");
            let mut other = server.connect();
            other.say(b"\n");
            other.half_close();
            assert_eq!(other.rest(), b"an answer: \n", "{dispatch:?}, {name}: others are served");
        }
    }
}

#[test]
fn a_loop_whose_peer_reads_answers_while_bytes_still_come() {
    for dispatch in modes() {
        for (name, body) in LOOPS {
            let (server, _handles) = serving(body, small(), dispatch);
            let mut client = server.connect();
            let (mut sender, answered) = (client.try_clone().expect("a clone"), Gate::default());
            let goes_on = Arc::new(AtomicBool::new(true));
            let (flag, gate) = (goes_on.clone(), answered.clone());
            let flooding = thread::spawn(move || {
                let bytes = vec![b'\n'; 64 * KIB];
                while flag.load(Ordering::SeqCst) {
                    sender.write_all(&bytes).expect("the server reads");
                }
                gate.pass();
            });
            client.hear(b"an answer: \nan answer: \n");
            goes_on.store(false, Ordering::SeqCst);
            answered.open();
            // The rest is taken, or the flood could not end.
            client.set_read_timeout(Some(Duration::from_millis(20))).expect("an option");
            let mut buffer = vec![0; MIB];
            let ended = within(PATIENCE, || {
                let _ = client.read(&mut buffer);
                flooding.is_finished()
            });
            assert!(ended, "{dispatch:?}, {name}");
            flooding.join().expect("a flood");
        }
    }
}

/// Whatever ends a callback's turn, it is called again, and no byte is answered twice or never.
#[test]
fn a_loop_that_is_stopped_goes_on_where_it_stopped() {
    const LINES: usize = 50_000;
    for dispatch in modes() {
        for (name, body) in LOOPS {
            let (server, _handles) = serving(body, small(), dispatch);
            let mut client = server.connect();
            let mut sender = client.try_clone().expect("a clone");
            let sending = thread::spawn(move || {
                for number in 0..LINES {
                    // One byte is a whole request in each of the loops.
                    let byte = [b"\n"[0]];
                    if number % 7 == 0 {
                        sender.say(&byte.repeat(7));
                    }
                }
                sender.half_close();
            });
            let heard = client.rest();
            sending.join().expect("a sender");
            let lines = LINES.div_ceil(7) * 7;
            assert_eq!(heard.len(), 12 * lines, "{dispatch:?}, {name}");
            assert!(heard.chunks(12).all(|it| it == b"an answer: \n"), "{dispatch:?}, {name}");
        }
    }
}

/// A request of a few bytes asks for much: what is buffered is not answered all at once either.
#[test]
fn requests_that_are_buffered_are_answered_as_their_peer_reads() {
    const ANSWER: usize = 200 * KIB;
    const REQUESTS: usize = 1000;
    let body: Body = |conn| {
        let (mut reader, mut writer) = conn.split();
        loop {
            reader.try_skip(1)?;
            writer.malloc(ANSWER).fill(b'a');
        }
    };
    for dispatch in modes() {
        let (server, handles) = serving(body, small(), dispatch);
        let mut client = server.connect();
        client.say(&[b'?'; REQUESTS]);
        let handle = handles.recv_timeout(PATIENCE).expect("a connection");
        eventually("its queue is full", || handle.is_congested());
        let mut heard = 0;
        let mut buffer = vec![0; MIB];
        while heard < REQUESTS * ANSWER {
            let queued = handle.pending();
            assert!(queued <= 4 * 256 * KIB, "{dispatch:?}: {queued} bytes are queued");
            heard += client.read(&mut buffer).expect("an answer");
        }
        assert_eq!(heard, REQUESTS * ANSWER, "{dispatch:?}");
    }
}

/// How much each callback took by its own reads, of a flood that stood in the kernel before the
/// first of them. It keeps what it takes until the next one, if it is told to.
fn takings(limits: Limits, dispatch: Dispatch, keeps: bool) -> Vec<usize> {
    let (gate, takings) = (Gate::default(), Arc::new(Mutex::new(Vec::new())));
    let (closed, taken) = (gate.clone(), takings.clone());
    let hoard: Mutex<Vec<Bytes>> = Mutex::default();
    let server = Server::start(
        EventLoop::builder()
            .on_request(move |(): &mut (), conn: &mut Connection| {
                closed.pass();
                let (mut reader, mut all) = (conn.reader(), 0);
                let ended = loop {
                    match reader.try_read_bytes(1024) {
                        Ok(bytes) => {
                            all += bytes.len();
                            if keeps {
                                lock(&hoard).push(bytes);
                            }
                        }
                        Err(error) => break error,
                    }
                };
                lock(&taken).push(all);
                Err(ended)
            })
            .limits(limits)
            .dispatch(dispatch),
    );
    let mut client = server.connect();
    let sent = flood(&mut client, 0);
    assert!(sent > 2 * MIB, "the kernel holds {sent} bytes");
    gate.open();
    let all = || lock(&takings).iter().sum::<usize>();
    if keeps {
        eventually("it takes something", || all() > 0);
        quiet(100); // it takes no more
    } else {
        eventually("all is taken", || all() > sent - KIB);
    }
    lock(&takings).clone()
}

/// What a callback receives by its own reads counts like what it was called with.
#[test]
fn a_loop_of_reads_has_its_turn_and_others_theirs() {
    for dispatch in modes() {
        let takings = takings(small(), dispatch, false);
        let most = takings.iter().max().expect("a callback");
        // The turn, and the receive that crosses it; and what was there before.
        assert!(*most <= (32 + 64 + 64) * KIB, "{dispatch:?}: {most} bytes in one callback");
    }
}

#[test]
fn a_loop_that_keeps_slices_stops_at_the_limits_on_memory() {
    // The turn's bytes are no limit here.
    let turn = TurnLimits { rounds: 16, bytes: 1 << 30 };
    let free = Limits { turn, input_limit: 64 * KIB, held_limit: None, ..Limits::default() };
    for dispatch in modes() {
        for (name, limits) in [
            ("held_limit", Limits { held_limit: Some(256 * KIB), ..free }),
            ("memory_budget", Limits { memory_budget: Some(256 * KIB), ..free }),
        ] {
            let kept: usize = takings(limits, dispatch, true).iter().sum();
            assert!(kept < MIB, "{dispatch:?}, {name}: {kept} bytes are kept");
        }
    }
}

/// `std::io::BufRead` in a callback, as parsers use it.
#[test]
fn a_loop_of_bufread_is_bounded_too() {
    let body: Body = |conn| {
        let (mut reader, mut writer) = conn.split();
        loop {
            let len = reader.fill_buf()?.len();
            if len == 0 {
                return Ok(());
            }
            reader.consume(len);
            writer.write_bytes(&vec![b'a'; 12 * len]);
        }
    };
    for dispatch in modes() {
        let (server, handles) = serving(body, small(), dispatch);
        let mut client = server.connect();
        let handle = handles.recv_timeout(PATIENCE).expect("a connection");
        flood(&mut client, b'?');
        let held = handle.pending();
        assert!(held < 8 * 256 * KIB, "{dispatch:?}: {held} bytes are queued");
        assert!(handle.bytes_received() < (KERNEL / 8) as u64, "{dispatch:?}");
    }
}

/// Peers that ask and never read take no thread of those that serve: here two, for fifty of them.
#[test]
fn peers_that_never_read_keep_no_thread() {
    const ANSWER: usize = 3 * MIB;
    let few = netpoll::PoolOptions { max_threads: 2, ..netpoll::PoolOptions::default() };
    let workers = netpoll::HandOffOptions { workers: few, ..netpoll::HandOffOptions::default() };
    for dispatch in [Dispatch::Pool(few), Dispatch::HandOff(workers)] {
        let body: Body = |conn| {
            let kind = conn.reader().read_byte()?;
            if kind == b'!' {
                conn.writer().malloc(ANSWER).fill(b'a');
            } else {
                conn.writer().write_byte(kind);
            }
            conn.writer().flush()
        };
        let limits = Limits::default();
        let (server, handles) = serving(body, limits, dispatch);
        let greedy: Vec<_> = (0..50).map(|_| server.connect()).collect();
        for mut client in &greedy {
            client.write_all(b"!").expect("a request");
        }
        let all: Vec<Handle> =
            greedy.iter().map(|_| handles.recv_timeout(PATIENCE).expect("a connection")).collect();
        eventually("all are answered", || all.iter().all(|it| it.bytes_sent() > 0));
        server.connect().echo(b"1");
    }
}

/// A peer that never reads must be ended, though no flush waits for it.
#[test]
fn a_peer_that_takes_nothing_for_the_write_timeout_is_ended() {
    for dispatch in modes() {
        let journal = Journal::default();
        let server = Server::start(
            EventLoop::builder()
                .on_request(|(): &mut (), conn: &mut Connection| {
                    conn.reader().read_byte()?;
                    conn.writer().malloc(16 * MIB).fill(b'a');
                    Ok(())
                })
                .on_disconnect({
                    let journal = journal.clone();
                    move |(): (), reason: &netpoll::CloseReason| journal.add(format!("{reason:?}"))
                })
                .write_timeout(Duration::from_millis(100))
                .dispatch(dispatch),
        );
        let mut client = server.connect();
        client.say(b"!");
        assert_eq!(journal.wait(1), ["Timeout(Write)"], "{dispatch:?}");
        let mut buffer = vec![0; MIB];
        let ended = loop {
            match client.read(&mut buffer) {
                Ok(0) => panic!("{dispatch:?}: cut short, it looks complete"),
                Ok(_) => {}
                Err(error) => break error.kind(),
            }
        };
        assert_eq!(ended, ErrorKind::ConnectionReset, "{dispatch:?}");
    }
}

/// `io::copy` to a peer that reads nothing: it waits, or would, and holds little.
#[test]
fn what_is_copied_to_a_peer_that_reads_nothing_does_not_pile_up() {
    for dispatch in modes() {
        let (sender, outcomes) = mpsc::channel();
        let server = Server::start(
            EventLoop::builder()
                .on_request(move |(): &mut (), conn: &mut Connection| {
                    conn.reader().read_byte()?;
                    let mut endless = std::io::repeat(b'a').take(400 * MIB as u64);
                    let outcome = std::io::copy(&mut endless, &mut conn.writer());
                    let (len, queued) = (conn.writer().malloc_len(), conn.writer().pending());
                    let kind = outcome.expect_err("it can't all be taken").kind();
                    let _ = sender.send((kind, len + queued));
                    Ok(())
                })
                .output_limits(256 * KIB, MIB)
                .write_timeout(Duration::from_millis(100))
                .dispatch(dispatch),
        );
        let mut client = server.connect();
        client.say(b"!");
        let (kind, held) = outcomes.recv_timeout(PATIENCE).expect("an outcome");
        let inline = dispatch == Dispatch::Inline;
        let expected = if inline { ErrorKind::WouldBlock } else { ErrorKind::TimedOut };
        assert_eq!(kind, expected, "{dispatch:?}");
        assert!(held < 8 * MIB, "{dispatch:?}: {held} bytes are held");
    }
}

/// A loop of reads that wait is not called again, so the write timeout ends it where it is.
#[test]
fn a_loop_of_reads_that_wait_ends_when_its_peer_takes_nothing() {
    for dispatch in [pool(), hand_off()] {
        let (sender, outcomes) = mpsc::channel();
        let (journal, limits) = (Journal::default(), small());
        let write_timeout = Some(Duration::from_millis(100));
        let server = Server::start(
            EventLoop::builder()
                .on_request(move |(): &mut (), conn: &mut Connection| {
                    let (mut reader, mut writer) = conn.split();
                    loop {
                        let byte = reader.read_byte().inspect_err(|error| {
                            let _ = sender.send(error.kind());
                        })?;
                        writer.write_bytes(b"an answer: ");
                        writer.write_byte(byte);
                    }
                })
                .on_disconnect(journal.on_disconnect())
                .limits(Limits { write_timeout, ..limits })
                .dispatch(dispatch),
        );
        let mut client = server.connect();
        flood(&mut client, b'\n');
        let kind = outcomes.recv_timeout(PATIENCE).expect("an end");
        assert_eq!(kind, ErrorKind::TimedOut, "{dispatch:?}");
        assert_eq!(journal.wait(1), ["Timeout"], "{dispatch:?}");
    }
}
