//! The multiplexer's connections: which are given up, when they are dialled again, and what user
//! code that fails leaves behind.

use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use netpoll::{Backoff, Dialer, Error, LinkBuffer, Mux, MuxBuilder, MuxProtocol, Result};
use socket2::SockRef;

use crate::errors::is_a_sentence;
use crate::mux::{Frames, request, serve};
use crate::util::{Client, Count, PATIENCE, Server, echo, eventually, lock, quiet, within};

/// Long enough that a call which is answered is not given up on a loaded machine.
const TIMEOUT: Duration = Duration::from_millis(400);

fn builder() -> MuxBuilder {
    let millis = Duration::from_millis;
    Mux::<Frames>::builder().reconnect(Backoff { first: millis(1), most: millis(20) })
}

fn mux_of(builder: MuxBuilder, address: SocketAddr) -> Mux<Frames> {
    builder.build("tcp", &address.to_string(), Frames).expect("options")
}

/// Echoes what comes on all connections but the first, with which `first` deals.
fn all_but_the_first(first: impl Fn(TcpStream) + Send + Sync + 'static) -> SocketAddr {
    let connections = Count::default();
    serve(move |mut stream| {
        if connections.add() == 0 {
            return first(stream);
        }
        while let Some(asked) = request(&mut stream) {
            stream.say(&asked);
        }
    })
}

fn answers_nothing(mut stream: TcpStream) {
    while request(&mut stream).is_some() {}
}

/// Calls until one is answered. Returns how many timed out before, and how many else failed. A
/// connection that is not the first has all the time that an answer takes on a loaded machine.
fn call_until_answered(mux: &Mux<Frames>, body: &[u8]) -> (usize, usize) {
    mux.connect(PATIENCE).expect("it is accepted"); // a dial takes none of the time of a call
    let (begun, mut timeouts, mut failed) = (Instant::now(), 0, 0);
    loop {
        assert!(begun.elapsed() < PATIENCE, "no call is answered: {mux:?}");
        let time = if mux.stats().given_up == 0 { TIMEOUT } else { PATIENCE };
        match mux.call(body.to_vec(), time) {
            Ok(answer) => {
                assert!(answer == body);
                return (timeouts, failed);
            }
            Err(Error::TimedOut(_)) => timeouts += 1,
            Err(_) => failed += 1,
        }
    }
}

#[test]
fn a_connection_on_which_nothing_comes_is_given_up() {
    // It reads and does not answer; it does not read, and then its window closes.
    let silent: [(fn(TcpStream), usize); 2] =
        [(answers_nothing, 1), (|_stream| quiet(30_000), 700_000)];
    for (first, size) in silent {
        let mux = mux_of(builder(), all_but_the_first(first));
        let begun = Instant::now();
        let (timeouts, _) = call_until_answered(&mux, &vec![b'x'; size]);
        assert_eq!(timeouts, 3);
        assert!(begun.elapsed() >= 3 * TIMEOUT);
        let stats = mux.stats();
        assert_eq!((stats.given_up, stats.dialled), (1, 2), "{stats:?}");
    }
}

#[test]
fn how_many_timeouts_are_too_many_is_an_option() {
    let mux = mux_of(builder().give_up_after(4), all_but_the_first(answers_nothing));
    assert_eq!(call_until_answered(&mux, b"x").0, 4);
    let mux = mux_of(builder().give_up_after(None), all_but_the_first(answers_nothing));
    for _ in 0..6 {
        let error = mux.call(b"x".to_vec(), TIMEOUT).expect_err("no answer");
        assert!(matches!(error, Error::TimedOut(_)), "{error:?}");
    }
    assert_eq!((mux.stats().given_up, mux.stats().dialled), (0, 1));
}

#[test]
fn calls_that_wait_on_a_connection_that_is_given_up_are_told_and_so_is_the_peer() {
    let ended = Count::default();
    let ends = ended.clone();
    let mux = mux_of(
        builder(),
        all_but_the_first(move |stream| {
            answers_nothing(stream);
            ends.add();
        }),
    );
    thread::scope(|scope| {
        let waiting = scope.spawn(|| mux.call(b"patient".to_vec(), PATIENCE));
        eventually("it waits", || mux.stats().waiting == 1);
        call_until_answered(&mux, b"x");
        let error = waiting.join().expect("no panic").expect_err("its connection is given up");
        assert_eq!(error.kind(), ErrorKind::TimedOut);
        is_a_sentence(&error, &["given up", "3 calls in a row", "without a byte"]);
    });
    assert!(within(PATIENCE / 3, || ended.get() == 1), "the peer is not told");
}

#[test]
fn calls_that_time_out_together_give_no_connection_up() {
    const CALLS: usize = 30;
    let short = Duration::from_millis(1100); // a silence that would count
    let (go, gone) = (Arc::new(AtomicBool::new(false)), Count::default());
    let goes = go.clone();
    let address = serve(move |mut stream| {
        let mut asked = Vec::new();
        while !goes.load(Ordering::SeqCst) && asked.len() < CALLS {
            asked.push(request(&mut stream).expect("it stays connected"));
        }
        eventually("they are to be answered", || goes.load(Ordering::SeqCst));
        stream.say(&asked.concat());
        while let Some(asked) = request(&mut stream) {
            stream.say(&asked);
        }
    });
    let mux = mux_of(builder(), address);
    thread::scope(|scope| {
        for _ in 0..CALLS {
            scope.spawn(|| {
                let called = mux.call(b"x".to_vec(), short);
                assert!(matches!(called, Err(Error::TimedOut(_))), "{called:?}");
                gone.add();
            });
        }
    });
    assert_eq!((gone.get(), mux.stats().given_up), (CALLS, 0));
    go.store(true, Ordering::SeqCst);
    assert_eq!(mux.call(b"y".to_vec(), PATIENCE).expect("an answer"), b"y");
    eventually("late answers are told apart", || mux.stats().late == CALLS as u64);
    assert_eq!(mux.stats().dialled, 1);
}

#[test]
fn a_connection_on_which_something_comes_is_not_given_up() {
    // Each answer comes when its call is over, with the next request.
    let address = serve(|mut stream| {
        let mut last = Vec::new();
        while let Some(asked) = request(&mut stream) {
            stream.say(&last);
            last = asked;
        }
    });
    let mux = mux_of(builder(), address);
    for _ in 0..6 {
        let error = mux.call(b"x".to_vec(), TIMEOUT).expect_err("its answer comes later");
        assert!(matches!(error, Error::TimedOut(_)), "{error:?}");
    }
    eventually("the answers of five have come", || mux.stats().late == 5);
    let stats = mux.stats();
    assert_eq!((stats.given_up, stats.dialled, stats.answered), (0, 1, 0));
}

#[test]
fn a_server_that_accepts_and_closes_is_dialled_less_and_less() {
    let accepted = Count::default();
    let counts = accepted.clone();
    let address = serve(move |_closed| {
        counts.add();
    });
    let backoff = Backoff { first: Duration::from_millis(10), most: Duration::from_secs(3600) };
    let mux = mux_of(Mux::<Frames>::builder().reconnect(backoff), address);
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(2) {
        mux.call(b"x".to_vec(), Duration::from_secs(2)).expect_err("it is closed");
    }
    // Pauses of 5 ms on average, all alike, make 400.
    assert!(accepted.get() < 60, "dialled {} times in {:?}", accepted.get(), begun.elapsed());
}

#[test]
fn a_response_ends_the_row_of_failures() {
    let address = serve(|mut stream| {
        if let Some(asked) = request(&mut stream) {
            stream.say(&asked);
        }
    });
    // The thirtieth failure in a row would make a pause of days.
    let backoff = Backoff { first: Duration::from_millis(1), most: Duration::from_secs(1 << 30) };
    let mux = mux_of(Mux::<Frames>::builder().reconnect(backoff), address);
    for turn in 0..30_u8 {
        // One that meets the end of the last connection fails, and is made again.
        let begun = Instant::now();
        while mux.call(vec![turn], PATIENCE).is_err() {
            assert!(begun.elapsed() < PATIENCE, "{turn}: {mux:?}");
        }
    }
    assert_eq!(mux.stats().answered, 30);
}

#[test]
fn a_hook_that_panics_fails_the_dial_and_not_the_link() {
    let server = Server::start(echo());
    let panics = Arc::new(AtomicBool::new(true));
    let hook = panics.clone();
    let dialer = Dialer::builder().before_connect(move |_| {
        assert!(!hook.load(Ordering::SeqCst), "on purpose");
        Ok(())
    });
    let dialer = dialer.build().expect("options");
    let once = mux_of(builder().reconnect(None).dialer(dialer.clone()), server.address);
    let error = once.connect(PATIENCE).expect_err("it can't be dialled");
    is_a_sentence(&error, &["dial tcp", &server.address.to_string(), "hook", "panicked"]);
    let mux = mux_of(builder().dialer(dialer), server.address);
    mux.connect(TIMEOUT).expect_err("it can't be dialled");
    eventually("it is dialled again", || mux.stats().dials_failed > 1);
    panics.store(false, Ordering::SeqCst);
    assert_eq!(mux.call(b"x".to_vec(), PATIENCE).expect("an answer"), b"x");
}

/// Frames whose user code fails where the body says so.
struct Failing {
    decoded: Count,
}

impl MuxProtocol for Failing {
    type Request = Vec<u8>;
    type Response = Vec<u8>;

    fn encode(&self, id: u32, body: Vec<u8>, out: &mut LinkBuffer) -> Result<()> {
        assert!(body != b"panic", "on purpose");
        if body == b"fail" {
            return Err(io::Error::from(ErrorKind::InvalidInput).into());
        }
        Frames.encode(id, body, out)
    }

    fn decode(&self, input: &mut LinkBuffer) -> Result<Option<(u32, Vec<u8>)>> {
        self.decoded.add();
        let whole = input.peek(input.len()).map(<[u8]>::to_vec).unwrap_or_default();
        if whole.ends_with(b"take nothing") {
            return Ok(Some((0, Vec::new())));
        }
        Frames.decode(input)
    }
}

#[test]
fn ids_of_requests_that_are_not_encoded_are_given_back() {
    let server = Server::start(echo());
    let protocol = Failing { decoded: Count::default() };
    let builder = Mux::<Failing>::builder().max_waiting(1);
    let mux = builder.build("tcp", &server.address.to_string(), protocol).expect("options");
    for body in ["panic", "fail", "panic"] {
        let call = || mux.call(body.into(), PATIENCE);
        let called = catch_unwind(AssertUnwindSafe(call));
        assert!(called.is_err() || called.is_ok_and(|it| it.is_err()), "{body}");
        assert_eq!(mux.stats().waiting, 0, "{body}");
    }
    assert_eq!(mux.call(b"x".to_vec(), PATIENCE).expect("an answer"), b"x");
    assert_eq!((mux.stats().dialled, mux.stats().late), (1, 0));
}

#[test]
fn a_decode_that_takes_nothing_ends_the_connection_and_spins_no_loop() {
    let server = Server::start(echo());
    let decoded = Count::default();
    let protocol = Failing { decoded: decoded.clone() };
    let builder = Mux::<Failing>::builder();
    let mux = builder.build("tcp", &server.address.to_string(), protocol).expect("options");
    let error = mux.call(b"take nothing".to_vec(), PATIENCE).expect_err("it makes no sense");
    assert_eq!(error.kind(), ErrorKind::InvalidData);
    is_a_sentence(&error, &["decode", "taken no byte"]);
    let calls = decoded.get();
    assert!(calls <= 2, "{calls}");
    assert_eq!(mux.call(b"x".to_vec(), PATIENCE).expect("an answer"), b"x");
}

#[test]
fn the_kernel_is_told_when_to_give_a_peer_up() {
    let server = Server::start(echo());
    let seconds = Duration::from_secs;
    let told = |dialer: Option<Duration>, change: fn(MuxBuilder) -> MuxBuilder| {
        let seen = Arc::new(Mutex::new(None));
        let sees = seen.clone();
        let dialer = Dialer::builder().user_timeout(dialer).before_connect(move |fd| {
            *lock(&sees) = SockRef::from(&fd).tcp_user_timeout()?;
            Ok(())
        });
        let builder = change(builder().dialer(dialer.build().expect("options")));
        mux_of(builder, server.address).connect(PATIENCE).expect("a connection");
        let seen = *lock(&seen);
        seen.filter(|it| !it.is_zero())
    };
    assert_eq!(told(None, |it| it), Some(seconds(20)));
    assert_eq!(told(Some(seconds(7)), |it| it), Some(seconds(7)));
    assert_eq!(told(Some(seconds(7)), |it| it.user_timeout(Duration::MAX)), Some(MOST));
    assert_eq!(told(None, |it| it.user_timeout(Duration::from_nanos(1))), Some(LEAST));
    assert_eq!(told(Some(seconds(7)), |it| it.user_timeout(None)), None);
    for refused in [
        Dialer::builder().user_timeout(Duration::ZERO).build().map(drop),
        builder().user_timeout(Duration::ZERO).build("tcp", "a:1", Frames).map(drop),
    ] {
        is_a_sentence(&refused.expect_err("it can't be used"), &["user_timeout", "0"]);
    }
    let refused = builder().give_up_after(0).build("tcp", "a:1", Frames);
    is_a_sentence(&refused.expect_err("it can't be used"), &["give_up_after", "0"]);
}

/// What the kernel can count.
const MOST: Duration = Duration::from_millis(i32::MAX as u64);
const LEAST: Duration = Duration::from_millis(1);

#[test]
fn a_listener_that_accepts_nothing_more_is_given_up() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let mux = mux_of(builder(), listener.local_addr().expect("an address"));
    // Its connections stand in the queue: what is sent is taken, and nothing comes.
    let (begun, failed) = (Instant::now(), AtomicU64::new(0));
    while mux.stats().given_up < 2 {
        assert!(begun.elapsed() < PATIENCE, "{mux:?}");
        mux.call(b"x".to_vec(), TIMEOUT).expect_err("no answer");
        failed.fetch_add(1, Ordering::Relaxed);
    }
    assert!(failed.load(Ordering::Relaxed) >= 6);
    drop(listener);
}
