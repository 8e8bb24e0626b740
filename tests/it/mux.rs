//! The multiplexer: every call gets its own answer, or its error in time.

use std::io::{self, ErrorKind, Read};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use netpoll::{
    Backoff, Connection, Dialer, Dispatch, Error, EventLoop, Limits, LinkBuffer, LoadBalance, Mux,
    MuxBuilder, MuxProtocol, PollManager, Result,
};

use crate::dial::{full_listener, refusing};
use crate::errors::is_a_sentence;
use crate::util::{
    Client, Count, PATIENCE, Server, alone, echo, eventually, fd_count, hand_off, noise,
    our_threads, pool, timed,
};

/// Four bytes of length, four of id, and the rest.
pub(crate) struct Frames;

impl MuxProtocol for Frames {
    type Request = Vec<u8>;
    type Response = Vec<u8>;

    fn encode(&self, id: u32, body: Vec<u8>, out: &mut LinkBuffer) -> Result<()> {
        out.write_bytes(&(body.len() as u32 + 4).to_be_bytes());
        out.write_bytes(&id.to_be_bytes());
        out.write_bytes(&body);
        match body.as_slice() {
            b"unspeakable" => Err(Error::config("cannot encode the unspeakable")),
            _ => Ok(()),
        }
    }

    fn decode(&self, input: &mut LinkBuffer) -> Result<Option<(u32, Vec<u8>)>> {
        let Ok(head) = input.peek(8) else { return Ok(None) };
        let (len, id) = (number(head) as usize, number(&head[4..]));
        assert!(len != 0x0bad_0bad, "on purpose");
        if !(4..64 << 20).contains(&len) {
            return Err(io::Error::new(ErrorKind::InvalidData, "a frame of no length").into());
        }
        if input.len() < 4 + len {
            return Ok(None);
        }
        input.consume(8);
        let body = input.next(len - 4).map_err(io::Error::from)?;
        Ok(Some((id, body.to_vec())))
    }
}

fn number(bytes: &[u8]) -> u32 {
    u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}

fn mux(address: SocketAddr) -> Mux<Frames> {
    mux_of(Mux::<Frames>::builder(), address)
}

fn mux_of(builder: MuxBuilder, address: SocketAddr) -> Mux<Frames> {
    builder.build("tcp", &address.to_string(), Frames).expect("options")
}

/// A server of one thread for each connection.
pub(crate) fn serve(talk: impl Fn(TcpStream) + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    let talk = Arc::new(talk);
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let talk = talk.clone();
            stream.set_read_timeout(Some(PATIENCE)).expect("an option");
            thread::spawn(move || talk(stream));
        }
    });
    address
}

/// The next request as it came, header and all; `None` at the end.
pub(crate) fn request(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let mut frame = vec![0; 4];
    stream.read_exact(&mut frame).ok()?;
    frame.resize(4 + number(&frame) as usize, 0);
    stream.read_exact(&mut frame[4..]).ok()?;
    Some(frame)
}

/// What `turn` of `thread` asks: of many sizes, and never twice the same.
fn question(thread: usize, turn: usize) -> Vec<u8> {
    let mut body = format!("{thread}/{turn} ").into_bytes();
    body.extend_from_slice(noise(thread * 31 + turn, (thread * 7919 + turn * 104_729) % 3000));
    body
}

/// How many calls each thread makes; more where `NETPOLL_MUX_CALLS` says so.
fn calls() -> usize {
    let given = std::env::var("NETPOLL_MUX_CALLS").ok();
    given.map_or(200, |it| it.parse().expect("NETPOLL_MUX_CALLS is a number"))
}

#[test]
fn many_threads_get_each_its_own_answer() {
    const THREADS: usize = 64;
    let server = Server::start(echo());
    let mux = mux_of(Mux::<Frames>::builder().connections(4), server.address);
    let begun = Instant::now();
    thread::scope(|scope| {
        for thread in 0..THREADS {
            let mux = mux.clone();
            scope.spawn(move || {
                for turn in 0..calls() {
                    let question = question(thread, turn);
                    let answer = mux.call(question.clone(), PATIENCE).expect("an answer");
                    assert!(answer == question, "of {thread} in turn {turn}");
                }
            });
        }
    });
    let (stats, took) = (mux.stats(), begun.elapsed());
    println!("{took:?} {stats:?}");
    assert_eq!(stats.answered, (THREADS * calls()) as u64);
    assert_eq!((stats.waiting, stats.late, stats.duplicate, stats.unknown), (0, 0, 0, 0));
    assert_eq!((stats.dialled, stats.dials_failed), (4, 0));
    server.stop();
}

#[test]
fn answers_find_their_calls_in_any_order() {
    const CALLS: usize = 16;
    let address = serve(|mut stream| {
        loop {
            let asked: Option<Vec<_>> = (0..CALLS).map(|_| request(&mut stream)).collect();
            let Some(mut asked) = asked else { return };
            asked.reverse();
            stream.say(&asked.concat());
        }
    });
    let mux = mux(address);
    for _ in 0..10 {
        thread::scope(|scope| {
            for thread in 0..CALLS {
                let mux = &mux;
                scope.spawn(move || {
                    let answer = mux.call(question(thread, 1), PATIENCE).expect("an answer");
                    assert!(answer == question(thread, 1));
                });
            }
        });
    }
}

#[test]
fn answers_that_nobody_waits_for_are_counted_and_harm_nobody() {
    let address = serve(|mut stream| {
        let given_up = request(&mut stream).expect("a request");
        let asked = request(&mut stream).expect("a request");
        let mut never_asked = asked.clone();
        never_asked[4..8].copy_from_slice(&[77; 4]);
        stream.say(&[given_up, never_asked, asked.clone(), asked].concat());
        while let Some(asked) = request(&mut stream) {
            stream.say(&asked);
        }
    });
    let mux = mux(address);
    mux.connect(PATIENCE).expect("a server"); // or there is no time to ask
    let (called, took) = timed(|| mux.call(b"too late".to_vec(), Duration::from_millis(60)));
    let error = called.expect_err("no answer comes in time");
    assert_eq!(error.kind(), ErrorKind::TimedOut);
    assert!(took >= Duration::from_millis(60) && took < PATIENCE / 2, "{took:?}");
    for word in [&b"in time"[..], b"after all that"] {
        assert_eq!(mux.call(word.to_vec(), PATIENCE).expect("an answer"), word);
    }
    eventually("all were counted", || {
        let stats = mux.stats();
        (stats.late, stats.unknown, stats.duplicate, stats.answered) == (1, 1, 1, 2)
    });
    assert_eq!(mux.stats().dialled, 1);
}

/// What a call, and one beside it, return when the server does `talk`.
fn failures(talk: impl Fn(TcpStream) + Send + Sync + 'static) -> (Error, Duration) {
    let mux = mux_of(Mux::<Frames>::builder().reconnect(None), serve(talk));
    let call = |body: &[u8]| timed(|| mux.call(body.to_vec(), PATIENCE).expect_err("no answer"));
    let ((first, took), (second, _)) = thread::scope(|scope| {
        let beside = scope.spawn(|| call(b"two"));
        (call(b"one"), beside.join().expect("a call"))
    });
    assert_eq!(first.kind(), second.kind());
    // It is not dialled again, and says why.
    assert_eq!(mux.call(b"three".to_vec(), PATIENCE).expect_err("it ended").kind(), first.kind());
    (first, took)
}

#[test]
fn when_a_connection_ends_all_its_calls_are_told_at_once_and_why() {
    // Both requests have come: two bodies of three bytes.
    let both = |stream: &mut TcpStream| {
        stream.read_exact(&mut [0; 22]).expect("two requests");
    };
    let half = |mut it: TcpStream| it.say(&[0, 0, 0, 20, 0, 0, 0, 0, 1, 2]);
    let garbage = |mut it: TcpStream| it.say(&[0xff; 100]);
    for (way, kind, word) in [
        ("end", ErrorKind::UnexpectedEof, "closed by the peer"),
        ("half", ErrorKind::UnexpectedEof, "closed by the peer"),
        ("reset", ErrorKind::ConnectionReset, "reset"),
        ("garbage", ErrorKind::InvalidData, "no length"),
    ] {
        let (error, took) = failures(move |mut stream| {
            both(&mut stream);
            match way {
                "half" => half(stream),
                "reset" => stream.reset(),
                "garbage" => garbage(stream),
                _ => drop(stream),
            }
        });
        assert_eq!(error.kind(), kind, "{error}");
        is_a_sentence(&error, &["response", word]);
        assert!(took < PATIENCE / 2, "{took:?}");
    }
    let (error, _) = failures(move |mut stream| {
        both(&mut stream);
        stream.say(&[0x0b, 0xad, 0x0b, 0xad, 0, 0, 0, 0]);
    });
    is_a_sentence(&error, &["`decode` panicked"]);
}

#[test]
fn a_response_that_does_not_fit_ends_the_connection() {
    let address = serve(|mut stream| {
        request(&mut stream);
        stream.say(&100_000_u32.to_be_bytes());
        stream.say(noise(0, 99_999));
        stream.rest();
    });
    let limits = Limits { input_limit: 10_000, ..Limits::default() };
    let mux = mux_of(Mux::<Frames>::builder().limits(limits), address);
    let error = mux.call(b"one".to_vec(), PATIENCE).expect_err("it is too large");
    is_a_sentence(&error, &["response", "input_limit"]);
}

#[test]
fn servers_that_do_nothing_time_out() {
    const TIMEOUT: Duration = Duration::from_millis(150);
    let never_accepts = TcpListener::bind("127.0.0.1:0").expect("a port");
    let (_full, full, _queued) = full_listener();
    let stalls = serve(|mut stream| drop(stream.rest()));
    let never = never_accepts.local_addr().expect("an address");
    for address in [never, full, stalls] {
        let mux = mux(address);
        let (called, took) = timed(|| mux.call(b"x".to_vec(), TIMEOUT));
        assert_eq!(called.expect_err("no answer").kind(), ErrorKind::TimedOut);
        assert!(took >= TIMEOUT && took < PATIENCE / 2, "{took:?}");
    }
    drop(never_accepts);
}

#[test]
fn when_nobody_listens_calls_fail_at_once_until_the_next_try() {
    let (_bound, nobody) = refusing();
    // A pause is a random part of that: of an hour it would be too short now and then.
    let century = Duration::from_secs(100 * 365 * 86_400);
    let backoff = Backoff { first: century, most: century };
    let mux = mux_of(Mux::<Frames>::builder().reconnect(backoff), nobody);
    for _ in 0..20 {
        let (called, took) = timed(|| mux.call(b"x".to_vec(), PATIENCE));
        let error = called.expect_err("nobody listens");
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
        is_a_sentence(&error, &["dial tcp", &nobody.to_string()]);
        assert!(took < PATIENCE / 2, "{took:?}");
    }
    assert_eq!(mux.stats().dials_failed, 1);
    assert_eq!(mux.connect(PATIENCE).expect_err("the same").kind(), ErrorKind::ConnectionRefused);
}

/// Threads that call until they are told to stop, each call with `timeout`.
fn callers<'scope>(
    scope: &'scope thread::Scope<'scope, '_>,
    mux: &'scope Mux<Frames>,
    stop: &'scope AtomicBool,
    timeout: Duration,
) -> Vec<thread::ScopedJoinHandle<'scope, (usize, Duration)>> {
    let call = move |thread: usize| {
        let (mut failed, mut slowest) = (0, Duration::ZERO);
        for turn in 0.. {
            if stop.load(Ordering::Relaxed) {
                break;
            }
            let question = question(thread, turn);
            let (called, took) = timed(|| mux.call(question.clone(), timeout));
            slowest = slowest.max(took);
            match called {
                Ok(answer) => assert!(answer == question, "of {thread} in turn {turn}"),
                Err(_) => failed += 1,
            }
        }
        (failed, slowest)
    };
    (0..16).map(|thread| scope.spawn(move || call(thread))).collect()
}

#[test]
fn a_server_that_is_killed_in_the_middle_leaves_no_call_waiting() {
    let server = Server::serve_at(echo().build().expect("options"), "127.0.25.2:0");
    let address = server.address;
    let backoff = Backoff { first: Duration::from_millis(5), most: Duration::from_millis(50) };
    let mux = mux_of(Mux::<Frames>::builder().connections(4).reconnect(backoff), address);
    let stop = AtomicBool::new(false);
    let (mut failed, mut slowest) = (0, Duration::ZERO);
    thread::scope(|scope| {
        let callers = callers(scope, &mux, &stop, PATIENCE);
        let mut server = server;
        for _ in 0..5 {
            let before = mux.stats().answered;
            eventually("it answers", || mux.stats().answered > before + 500);
            server.event_loop.shutdown(Duration::ZERO);
            server.join();
            let event_loop = echo().build().expect("options");
            server = Server::serve_at(event_loop, &address.to_string());
        }
        let before = mux.stats().answered;
        eventually("it answers again", || mux.stats().answered > before + 500);
        stop.store(true, Ordering::Relaxed);
        for caller in callers {
            let (more, took) = caller.join().expect("a caller");
            (failed, slowest) = (failed + more, slowest.max(took));
        }
    });
    // Only calls that were under way can fail. At each of five times a thread can meet each of four
    // connections in its last moment, and a fifth that the old listener had not accepted yet.
    assert!(failed <= 16 * 5 * 5, "{failed} calls failed");
    assert!(slowest < PATIENCE, "a call waited for its time: {slowest:?}");
    let stats = mux.stats();
    assert_eq!((stats.waiting, stats.late, stats.duplicate, stats.unknown), (0, 0, 0, 0));
}

#[test]
fn a_close_tells_all_who_wait() {
    let address = serve(|mut stream| drop(stream.rest()));
    let mux = mux(address);
    let calling: Vec<JoinHandle<_>> = (0..4)
        .map(|_| {
            let mux = mux.clone();
            thread::spawn(move || mux.call(b"x".to_vec(), PATIENCE))
        })
        .collect();
    eventually("they wait", || mux.stats().waiting == 4);
    let ((), took) = timed(|| {
        mux.close();
        for call in calling {
            let error = call.join().expect("a call").expect_err("it was closed");
            assert_eq!(error.kind(), ErrorKind::NotConnected);
        }
    });
    assert!(took < PATIENCE / 2, "{took:?}");
    let error = mux.call(b"x".to_vec(), PATIENCE).expect_err("it is closed");
    assert_eq!(error.kind(), ErrorKind::NotConnected);
    mux.close();
}

#[test]
fn no_more_calls_wait_than_may() {
    let address = serve(|mut stream| drop(stream.rest()));
    let mux = mux_of(Mux::<Frames>::builder().max_waiting(2), address);
    thread::scope(|scope| {
        let waiting: Vec<_> =
            (0..2).map(|_| scope.spawn(|| mux.call(b"x".to_vec(), PATIENCE))).collect();
        eventually("they wait", || mux.stats().waiting == 2);
        let error = mux.call(b"x".to_vec(), PATIENCE).expect_err("two wait");
        assert!(matches!(error, Error::Full), "{error:?}");
        mux.close();
        for call in waiting {
            let error = call.join().expect("a call").expect_err("it was closed");
            assert_eq!(error.kind(), ErrorKind::NotConnected);
        }
    });
}

#[test]
fn a_request_that_can_not_be_encoded_harms_nobody() {
    let server = Server::start(echo());
    let mux = mux(server.address);
    for _ in 0..3 {
        let error = mux.call(b"unspeakable".to_vec(), PATIENCE).expect_err("it is");
        is_a_sentence(&error, &["unspeakable"]);
        assert_eq!(mux.call(b"a word".to_vec(), PATIENCE).expect("an answer"), b"a word");
    }
    assert_eq!((mux.stats().waiting, mux.stats().dialled), (0, 1));
}

#[test]
fn large_requests_and_answers_do_not_block_each_other() {
    const LEN: usize = 3 << 20;
    for dispatch in [pool(), Dispatch::Inline] {
        let server = Server::start(echo().dispatch(dispatch));
        let limits = Limits { input_limit: 8 << 20, ..Limits::default() };
        let mux = mux_of(Mux::<Frames>::builder().limits(limits), server.address);
        thread::scope(|scope| {
            for thread in 0..8 {
                let mux = &mux;
                scope.spawn(move || {
                    for turn in 0..4 {
                        let body = noise(thread * 1000 + turn, LEN);
                        let answer = mux.call(body.to_vec(), PATIENCE).expect("an answer");
                        assert!(answer == body, "of {thread} in turn {turn}");
                    }
                });
            }
        });
        server.stop();
    }
}

#[test]
fn a_multiplexer_that_is_dropped_leaves_nothing() {
    alone("mux::a_multiplexer_that_is_dropped_leaves_nothing", || {
        let server = Server::start(echo());
        let of =
            |connections| mux_of(Mux::<Frames>::builder().connections(connections), server.address);
        of(1).connect(PATIENCE).expect("a server"); // starts what stays
        let settled = Count::default();
        eventually("that one is gone", || settled.add() > 0 && server_is_alone());
        let before = fd_count();
        for _ in 0..5 {
            let mux = of(8);
            mux.connect(PATIENCE).expect("a server");
            assert_eq!(mux.stats().dialled, 8);
            assert_eq!(mux.call(b"word".to_vec(), PATIENCE).expect("an answer"), b"word");
            eventually("both ends are there", || fd_count() >= before + 16);
            drop(mux);
            eventually("all sockets are closed", || fd_count() <= before);
        }
        let dials = || our_threads().iter().any(|name| name.starts_with("netpoll-mux"));
        eventually("nobody dials", || !dials());
        server.stop();
    });
}

/// Whether no connection is left in this process: the count of descriptors is at rest.
fn server_is_alone() -> bool {
    let before = fd_count();
    crate::util::quiet(500); // what is closing has closed by then, or the caller looks again
    fd_count() == before
}

#[test]
fn an_inline_callback_that_calls_is_told_at_once() {
    let back = Server::start(echo());
    let mux = mux(back.address);
    let front = Server::start(
        EventLoop::builder()
            .on_request(move |(): &mut (), conn: &mut Connection| {
                conn.reader().skip(1)?;
                let error = mux.call(b"x".to_vec(), PATIENCE).expect_err("it must not wait");
                conn.writer().write_string(&error.to_string());
                Ok(())
            })
            .dispatch(Dispatch::Inline),
    );
    let mut client = front.connect();
    client.say(b"x");
    client.half_close();
    is_a_sentence(&String::from_utf8_lossy(&client.rest()), &["call tcp", "must not wait"]);
}

#[test]
fn a_callback_calls_over_its_own_loop() {
    for dispatch in [pool(), hand_off()] {
        let manager = Arc::new(PollManager::new(1, LoadBalance::RoundRobin).expect("a manager"));
        let back = Server::start(echo().manager(manager.clone()).dispatch(dispatch));
        let dialer = Dialer::builder().manager(manager.clone()).build().expect("options");
        let mux = mux_of(Mux::<Frames>::builder().dialer(dialer), back.address);
        let front = EventLoop::builder().on_request(move |(): &mut (), conn: &mut Connection| {
            let asked = conn.reader().len();
            let question = conn.reader().read_bytes(asked)?;
            conn.writer().write_bytes(&mux.call(question.to_vec(), PATIENCE)?);
            conn.writer().flush()
        });
        let front = Server::start(front.manager(manager).dispatch(dispatch));
        let mut clients: Vec<_> = (0..10).map(|_| front.connect()).collect();
        for round in 0..10 {
            for client in &mut clients {
                client.say(format!("round {round}").as_bytes());
            }
            for client in &mut clients {
                client.hear(format!("round {round}").as_bytes());
            }
        }
        front.stop();
        back.stop();
    }
}

#[test]
fn options_that_can_not_be_used_are_named() {
    let refused = |builder: MuxBuilder, words: &[&str]| {
        let error = builder.build("tcp", "127.0.0.1:1", Frames).expect_err("it can't be used");
        assert!(matches!(error, Error::Config(_)), "{error:?}");
        is_a_sentence(&error, words);
    };
    let builder = Mux::<Frames>::builder;
    refused(builder().connections(0), &["connections", "1024"]);
    refused(builder().max_waiting(0), &["max_waiting", "65536"]);
    refused(builder().max_waiting(70_000), &["max_waiting", "70000"]);
    refused(builder().dial_timeout(Duration::ZERO), &["dial_timeout", "0"]);
    let shrinking = Backoff { first: Duration::from_secs(2), most: Duration::from_secs(1) };
    refused(builder().reconnect(shrinking), &["reconnect", "2s", "1s"]);
}
