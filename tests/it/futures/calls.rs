//! Calls of a multiplexer as futures: beside those of threads, over the same connections.

use std::io::ErrorKind;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use futures_util::future::{join, join_all};
use netpoll::{Error, Limits, Mux, MuxBuilder, OutputLimits};
use netpoll_async::{AsyncConnection, AsyncMux, block_on, spawn, timeout};

use super::server;
use crate::mux::{Frames, request, serve};
use crate::util::{Client, Gate, PATIENCE, Server, echo, eventually, modes, noise};

fn mux(address: std::net::SocketAddr) -> Mux<Frames> {
    mux_of(Mux::<Frames>::builder(), address)
}

fn mux_of(builder: MuxBuilder, address: std::net::SocketAddr) -> Mux<Frames> {
    builder.build("tcp", &address.to_string(), Frames).expect("options")
}

#[test]
fn futures_of_any_executor_and_threads_get_each_its_own_answer() {
    const EACH: usize = 50;
    let server = Server::start(echo());
    let mux = mux_of(Mux::<Frames>::builder().connections(2), server.address);
    let asks = |caller: usize| {
        let mux = mux.clone();
        async move {
            for turn in 0..EACH {
                let question = format!("{caller}/{turn}").into_bytes();
                let answer = mux.call_async(question.clone(), PATIENCE).await.expect("an answer");
                assert!(answer == question, "of {caller} in turn {turn}");
            }
        }
    };
    let ours: Vec<_> = (0..16).map(|caller| spawn(asks(caller))).collect();
    thread::scope(|scope| {
        scope.spawn(|| {
            let tokio = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
            tokio.block_on(join_all((100..108).map(asks)));
        });
        for caller in 200..204 {
            let mux = &mux;
            scope.spawn(move || {
                for turn in 0..EACH {
                    let question = format!("{caller}/{turn}").into_bytes();
                    let answer = mux.call(question.clone(), PATIENCE).expect("an answer");
                    assert!(answer == question);
                }
            });
        }
    });
    for task in block_on(join_all(ours)) {
        task.expect("no panic");
    }
    let stats = mux.stats();
    assert_eq!(stats.answered, (28 * EACH) as u64);
    assert_eq!((stats.waiting, stats.late, stats.unknown, stats.dialled), (0, 0, 0, 2));
}

/// Also inline, where a call that waited would hold the loop up.
#[test]
fn the_future_of_a_connection_calls_in_each_mode() {
    let origin = Server::start(echo());
    for dispatch in modes() {
        let mux = mux(origin.address);
        let (front, _) = server(dispatch, move |mut conn: AsyncConnection| {
            let mux = mux.clone();
            async move {
                while let Some(bytes) = conn.read_bytes().await? {
                    let answer = mux.call_async(bytes.to_vec(), PATIENCE).await?;
                    conn.write_all(&answer).await?;
                }
                Ok(())
            }
        });
        let mut client = front.connect();
        client.echo(b"hello");
        client.echo(b"and more");
    }
}

#[test]
fn a_call_that_is_dropped_gives_up_and_its_late_response_is_counted() {
    let (gate, asked) = (Gate::default(), Arc::new(AtomicUsize::new(0)));
    let (closed, counted) = (gate.clone(), asked.clone());
    let address = serve(move |mut stream| {
        while let Some(frame) = request(&mut stream) {
            counted.fetch_add(1, Ordering::SeqCst);
            closed.pass();
            stream.say(&frame);
        }
    });
    // One place: it must be free again.
    let mux = mux_of(Mux::<Frames>::builder().max_waiting(1), address);
    mux.connect(PATIENCE).expect("a server");
    let called = mux.call_async(b"first".to_vec(), PATIENCE);
    let outcome = block_on(timeout(Duration::from_millis(50), called));
    assert!(outcome.is_err(), "no answer comes");
    eventually("it was sent", || asked.load(Ordering::SeqCst) == 1);
    assert_eq!(mux.stats().waiting, 0);
    gate.open();
    let answer = block_on(mux.call_async(b"second".to_vec(), PATIENCE)).expect("an answer");
    assert_eq!(answer, b"second");
    eventually("the late one is counted", || mux.stats().late == 1);
    assert_eq!((mux.stats().dialled, mux.stats().given_up), (1, 0));
}

#[test]
fn no_more_futures_wait_than_may_and_a_close_tells_them() {
    let address = serve(|mut stream| drop(stream.rest()));
    let mux = mux_of(Mux::<Frames>::builder().max_waiting(2), address);
    let ask = || mux.call_async(b"x".to_vec(), PATIENCE);
    let waiting: Vec<_> = (0..2).map(|_| spawn(ask())).collect();
    eventually("they wait", || mux.stats().waiting == 2);
    let error = block_on(ask()).expect_err("two wait");
    assert!(matches!(error, Error::Full), "{error:?}");
    mux.close();
    for call in waiting {
        let error = block_on(call).expect("no panic").expect_err("it was closed");
        assert_eq!(error.kind(), ErrorKind::NotConnected);
    }
    let error = block_on(ask()).expect_err("it is closed");
    assert_eq!(error.kind(), ErrorKind::NotConnected);
}

#[test]
fn calls_of_futures_end_in_time_and_with_their_connection() {
    let silent = mux(serve(|mut stream| drop(stream.rest())));
    let (begun, short) = (Instant::now(), Duration::from_millis(100));
    let error = block_on(silent.call_async(b"?".to_vec(), short)).expect_err("no answer");
    assert_eq!(error.kind(), ErrorKind::TimedOut);
    assert!(begun.elapsed() >= short, "{:?}", begun.elapsed());
    assert_eq!(silent.stats().waiting, 0, "its place is free");
    let ends = mux(serve(|mut stream| drop(request(&mut stream))));
    let ask = || ends.call_async(b"?".to_vec(), PATIENCE);
    let (first, second) = block_on(join(ask(), ask()));
    for outcome in [first, second] {
        let kind = outcome.expect_err("no answer").kind();
        let expected = [ErrorKind::UnexpectedEof, ErrorKind::ConnectionReset];
        assert!(expected.contains(&kind), "{kind:?}");
    }
    let error = block_on(ends.call_async(b"unspeakable".to_vec(), PATIENCE));
    assert!(error.is_err(), "it cannot be encoded");
    assert_eq!(ends.stats().waiting, 0);
}

/// The server begins to listen while a call waits for the next dial.
#[test]
fn a_call_of_a_future_waits_for_the_next_dial() {
    // Bound and not listening: dials are refused, and the port is kept.
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None);
    let socket = socket.expect("a socket");
    let any = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
    socket.bind(&any.into()).expect("a port");
    let address = socket.local_addr().expect("an address").as_socket().expect("of TCP");
    let mux = mux(address);
    let error = mux.call(b"?".to_vec(), Duration::from_millis(1)).expect_err("nobody listens");
    assert!(!matches!(error, Error::Full), "{error:?}");
    let asked = spawn(mux.call_async(b"hello".to_vec(), PATIENCE));
    eventually("a dial was refused", || mux.stats().dials_failed > 0);
    socket.listen(16).expect("it listens");
    let listener = TcpListener::from(socket);
    let serving = thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a connection");
        while let Some(frame) = request(&mut stream) {
            stream.say(&frame);
        }
    });
    assert_eq!(block_on(asked).expect("no panic").expect("an answer"), b"hello");
    drop(mux);
    serving.join().expect("no panic");
}

/// The server reads nothing for a while; what waits is not queued.
#[test]
fn calls_of_futures_wait_for_room_in_the_output() {
    let gate = Gate::default();
    let closed = gate.clone();
    let address = serve(move |mut stream| {
        closed.pass();
        while let Some(mut frame) = request(&mut stream) {
            // An answer of four bytes, with the same id.
            frame.truncate(12);
            frame[..4].copy_from_slice(&8_u32.to_be_bytes());
            stream.say(&frame);
        }
    });
    let output = OutputLimits { low: 64 << 10, high: 256 << 10 };
    let limits = Limits { output, ..Limits::default() };
    let mux = mux_of(Mux::<Frames>::builder().limits(limits), address);
    mux.connect(PATIENCE).expect("a server");
    let body = noise(7, 200 << 10);
    let calls: Vec<_> = (0..100).map(|_| spawn(mux.call_async(body.to_vec(), PATIENCE))).collect();
    let mut before = 0;
    eventually("no more are sent", || {
        thread::sleep(Duration::from_millis(30)); // sleep: that nothing happens shows in time
        let waiting = mux.stats().waiting;
        waiting > 0 && std::mem::replace(&mut before, waiting) == waiting
    });
    assert!(before < 100, "all were queued");
    let late = block_on(mux.call_async(body.to_vec(), Duration::from_millis(50)));
    assert_eq!(late.expect_err("there is no room").kind(), ErrorKind::TimedOut);
    gate.open();
    for call in calls {
        let answer = block_on(call).expect("no panic").expect("an answer");
        assert_eq!(answer, body[..4]);
    }
    assert_eq!(mux.stats().answered, 100);
}
