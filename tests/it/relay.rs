//! Relays: both directions, their ends, their limits, and what they report.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use netpoll::{
    CloseReason, Connection, Dialer, DialerBuilder, Dispatch, Error, EventLoop, EventLoopBuilder,
    Handle, Limits, LoadBalance, OutputLimits, PollManager, Relay, Relayed, Wait, dial_connection,
    relay,
};

use crate::errors::is_a_sentence;
use crate::util::{
    Client, Count, PATIENCE, Server, alone, echo, eventually, lock, modes, name_of, noise, sockets,
};

/// A proxy, what its relays report, and the handles of both ends of each.
struct Proxy {
    server: Server,
    origin: TcpListener,
    ends: Receiver<Relayed>,
    handles: Receiver<(Handle, Handle)>,
}

/// A client of a proxy, and the origin's socket for it.
struct Joined {
    client: TcpStream,
    origin: TcpStream,
    /// Of the proxy: towards the client, and towards the origin.
    handles: (Handle, Handle),
}

fn limits() -> Limits {
    let output = OutputLimits { low: 64 << 10, high: 256 << 10 };
    Limits { half_open: true, output, ..Limits::default() }
}

impl Proxy {
    fn start(dispatch: Dispatch) -> Self {
        let dialer = Dialer::builder().limits(limits());
        Self::with(EventLoop::builder().limits(limits()).dispatch(dispatch), dialer, Relay::new)
    }

    fn with(builder: EventLoopBuilder, dialer: DialerBuilder, relay: fn() -> Relay) -> Self {
        let origin = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = origin.local_addr().expect("an address").to_string();
        let dialer = dialer.timeout(PATIENCE).build().expect("options");
        let ((told, ends), (joined, handles)) = (mpsc::channel(), mpsc::channel());
        let builder = builder
            .on_connect(move |(): &mut (), conn: &mut Connection| {
                conn.pause_reading();
                let (told, joined) = (told.clone(), joined.clone());
                dialer.dial_then(&conn.handle(), "tcp", &address, move |conn, dialled| {
                    let dialled = dialled?;
                    let handles = (conn.handle(), dialled.handle());
                    relay().on_end(move |it| drop(told.send(it))).join(conn, dialled)?;
                    let _ = joined.send(handles);
                    Ok(())
                })?;
                Ok(())
            })
            .on_request(|(): &mut (), _: &mut Connection| panic!("the relay receives"));
        Self { server: Server::start(builder), origin, ends, handles }
    }

    fn join(&self) -> Joined {
        let client = self.server.connect();
        let (origin, _) = self.origin.accept().expect("a connection");
        origin.set_read_timeout(Some(PATIENCE)).expect("an option");
        origin.set_write_timeout(Some(PATIENCE)).expect("an option");
        let handles = self.handles.recv_timeout(PATIENCE).expect("they are joined");
        Joined { client, origin, handles }
    }

    fn end(&self) -> Relayed {
        self.ends.recv_timeout(PATIENCE).expect("it ends")
    }
}

fn is_reset(stream: &mut TcpStream) -> bool {
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).is_err_and(|it| it.kind() == ErrorKind::ConnectionReset)
}

#[test]
fn bytes_pass_both_ways_and_each_end_of_a_stream_too() {
    for dispatch in modes() {
        for client_is_first in [true, false] {
            let proxy = Proxy::start(dispatch);
            let Joined { client, origin, .. } = proxy.join();
            let (mut one, mut other) =
                if client_is_first { (client, origin) } else { (origin, client) };
            one.say(b"a question");
            other.hear(b"a question");
            one.half_close();
            assert_eq!(other.rest(), b"");
            other.say(b"the answer, after the end of the question");
            one.hear(b"the answer, after the end of the question");
            other.half_close();
            assert_eq!(one.rest(), b"");
            let end = proxy.end();
            let counts = [end.from_first, end.from_second];
            assert_eq!(counts, if client_is_first { [10, 41] } else { [41, 10] });
            assert!(matches!(end.reason, CloseReason::Peer), "{end:?}");
        }
    }
}

#[test]
fn a_relay_without_a_byte_ends_in_order() {
    for dispatch in modes() {
        let proxy = Proxy::start(dispatch);
        let Joined { client, mut origin, .. } = proxy.join();
        drop(client);
        assert_eq!(origin.rest(), b"");
        drop(origin);
        let end = proxy.end();
        assert_eq!((end.from_first, end.from_second), (0, 0));
        assert!(matches!(end.reason, CloseReason::Peer), "{end:?}");
        assert_eq!(proxy.server.stop().aborted, 0);
    }
}

#[test]
fn floods_both_ways_arrive_whole_and_are_counted() {
    const BYTES: usize = 8 << 20;
    for dispatch in modes() {
        let proxy = Proxy::start(dispatch);
        let Joined { client, origin, .. } = proxy.join();
        let flood = |mut from: TcpStream, place: usize| {
            thread::spawn(move || {
                from.say(noise(place, BYTES));
                from.half_close();
            })
        };
        let take = |mut to: TcpStream, place: usize| {
            thread::spawn(move || assert!(to.rest() == noise(place, BYTES), "other bytes"))
        };
        let copy = |of: &TcpStream| of.try_clone().expect("a descriptor");
        let threads =
            [flood(copy(&client), 1), flood(copy(&origin), 2), take(client, 2), take(origin, 1)];
        for thread in threads {
            thread.join().expect("all arrives");
        }
        let end = proxy.end();
        assert_eq!((end.from_first, end.from_second), (BYTES as u64, BYTES as u64));
        assert!(matches!(end.reason, CloseReason::Peer), "{end:?}");
    }
}

#[test]
fn a_reset_of_one_end_resets_the_other() {
    for dispatch in modes() {
        for client_resets in [true, false] {
            let proxy = Proxy::start(dispatch);
            let Joined { mut client, mut origin, .. } = proxy.join();
            client.say(b"there");
            origin.hear(b"there");
            let mut left = if client_resets {
                client.reset();
                origin
            } else {
                origin.reset();
                client
            };
            assert!(is_reset(&mut left));
            let end = proxy.end();
            assert_eq!((name_of(&end.reason).as_str(), end.first_ended), ("Reset", client_resets));
            assert_eq!((end.from_first, end.from_second), (5, 0));
        }
    }
}

#[test]
fn a_reset_after_a_half_close_is_passed_on() {
    let proxy = Proxy::start(Dispatch::Inline);
    let Joined { client, mut origin, .. } = proxy.join();
    client.half_close();
    assert_eq!(origin.rest(), b"");
    client.reset();
    eventually("what is sent meets the reset", || origin.write_all(b"too late").is_err());
    assert_eq!(name_of(&proxy.end().reason), "Reset");
}

/// The flooder comes to a stop, nothing is lost, and the other direction goes on.
#[test]
fn a_reader_that_takes_nothing_bounds_what_the_relay_holds() {
    const BYTES: usize = 16 << 20;
    let limits = limits();
    let most = limits.output.high + limits.turn.bytes;
    for dispatch in modes() {
        for client_is_slow in [true, false] {
            let proxy = Proxy::start(dispatch);
            let Joined { client, origin, handles } = proxy.join();
            let (mut slow, mut fast, to_slow, of_fast) = if client_is_slow {
                (client, origin, handles.0, handles.1)
            } else {
                (origin, client, handles.1, handles.0)
            };
            let mut writer = fast.try_clone().expect("a descriptor");
            let flooding = thread::spawn(move || writer.say(noise(3, BYTES)));
            eventually("the output is full", || to_slow.is_congested());
            let mut before = None;
            eventually("the flood stops", || {
                crate::util::quiet(20);
                let received = Some(of_fast.bytes_received());
                assert!(to_slow.pending() <= most, "{} bytes are queued", to_slow.pending());
                std::mem::replace(&mut before, received) == received
            });
            assert!(before < Some(BYTES as u64), "it took all");
            slow.say(b"the other way");
            fast.hear(b"the other way");
            slow.hear(noise(3, BYTES));
            flooding.join().expect("all is taken");
        }
    }
}

#[test]
fn two_connections_of_different_loops_are_joined() {
    for dispatch in modes() {
        let manager = Arc::new(PollManager::new(2, LoadBalance::RoundRobin).expect("two loops"));
        let waiting: Arc<Mutex<Option<Handle>>> = Arc::default();
        let (told, ends) = mpsc::channel();
        let (apart, loops) = mpsc::channel();
        let server = Server::start(
            EventLoop::builder()
                .on_connect(move |(): &mut (), conn: &mut Connection| {
                    let mut waiting = lock(&waiting);
                    let Some(first) = waiting.take() else {
                        *waiting = Some(conn.handle());
                        return Ok(());
                    };
                    drop(waiting);
                    let _ = apart.send(!Arc::ptr_eq(first.remote(), conn.handle().remote()));
                    let told = told.clone();
                    Relay::new().on_end(move |it| drop(told.send(it))).join(conn, first)
                })
                // What comes before the join stays where it is, and passes first.
                .on_request(|(): &mut (), _: &mut Connection| Ok(()))
                .manager(manager)
                .limits(limits())
                .dispatch(dispatch),
        );
        let mut first = server.connect();
        first.say(b"before the other was there");
        let mut second = server.connect();
        assert!(loops.recv_timeout(PATIENCE).expect("two have come"), "both are of one loop");
        second.hear(b"before the other was there");
        let writing = {
            let mut second = second.try_clone().expect("a descriptor");
            thread::spawn(move || {
                second.say(noise(4, 4 << 20));
                second.half_close();
            })
        };
        assert!(first.rest() == noise(4, 4 << 20));
        writing.join().expect("all is taken");
        first.half_close();
        assert_eq!(second.rest(), b"");
        let end = ends.recv_timeout(PATIENCE).expect("it ends");
        // Which of the two came first is not known, since two loops accepted them.
        let counts = [end.from_first, end.from_second];
        assert!([[4 << 20, 26], [26, 4 << 20]].contains(&counts), "{counts:?}");
    }
}

#[test]
fn two_dialled_connections_are_joined_by_a_thread() {
    let (one, two) = (echo_peer(), echo_peer());
    let dial = |to: &TcpListener| {
        let address = to.local_addr().expect("an address").to_string();
        dial_connection("tcp", &address, PATIENCE).expect("a connection")
    };
    let (mut first, second) = (dial(&one), dial(&two));
    let (mut one, mut two) = (accept(&one), accept(&two));
    one.say(b"line\nand more");
    assert_eq!(first.reader().until(b'\n').expect("a line"), b"line\n");
    first.writer().write_bytes(b"written and not flushed, ");
    relay(first, second).expect("they are joined");
    two.hear(b"and more");
    two.say(b"and an answer");
    one.hear(b"written and not flushed, and an answer");
    drop(one);
    assert_eq!(two.rest(), b"");
}

fn echo_peer() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").expect("a port")
}

fn accept(listener: &TcpListener) -> TcpStream {
    let (stream, _) = listener.accept().expect("a connection");
    stream.set_read_timeout(Some(PATIENCE)).expect("an option");
    stream
}

#[test]
fn ends_that_cannot_be_joined_are_named() {
    let proxy = Proxy::start(Dispatch::Inline);
    let joined = proxy.join();
    let listener = echo_peer();
    let address = listener.local_addr().expect("an address").to_string();
    let dial = || dial_connection("tcp", &address, PATIENCE).expect("a connection");
    let refused = |outcome: netpoll::Result<()>, words: &[&str]| {
        let error = outcome.expect_err("they can't be joined");
        assert!(matches!(error, Error::Config(_)), "{error:?}");
        is_a_sentence(&error, words);
    };
    refused(relay(joined.handles.0.clone(), joined.handles.0.clone()), &["to itself"]);
    refused(relay(joined.handles.0.clone(), dial()), &["in a relay already"]);
    let dialled = dial();
    refused(relay(dialled.handle(), dial()), &["dialled"]);
    let mut dialled = dial();
    refused(relay(&mut dialled, dial()), &["by value"]);
    // What a refused join was given is closed.
    let mut last = accept(&listener);
    for _ in 0..4 {
        last = accept(&listener);
    }
    assert_eq!(last.rest(), b"");

    let (handles, connected) = mpsc::channel();
    let server = Server::start(echo().on_connect(move |(): &mut (), conn: &mut Connection| {
        let _ = handles.send(conn.handle());
        Ok(())
    }));
    let client = server.connect();
    let ended = connected.recv_timeout(PATIENCE).expect("a connection");
    drop(client);
    eventually("it has ended", || server.event_loop.stats().connections == 0);
    assert!(matches!(relay(ended, dial()), Err(Error::Closed)));
    let closing = dial();
    closing.handle().close();
    assert!(matches!(relay(closing, dial()), Err(Error::Closed)));
}

/// The join has returned, but the end that it was given a handle of ends before its job runs.
#[test]
fn an_end_that_is_gone_before_it_is_joined_ends_the_other() {
    let (handles, connected) = mpsc::channel();
    let gate = crate::util::Gate::default();
    let waiting = gate.clone();
    let server = Server::start(
        EventLoop::builder()
            .on_connect(move |(): &mut (), conn: &mut Connection| {
                let _ = handles.send(conn.handle());
                waiting.pass();
                Err(Error::Closed)
            })
            .on_request(|(): &mut (), _: &mut Connection| Ok(())),
    );
    let _client = server.connect();
    let ending = connected.recv_timeout(PATIENCE).expect("a connection");
    let listener = echo_peer();
    let address = listener.local_addr().expect("an address").to_string();
    let dialled = dial_connection("tcp", &address, PATIENCE).expect("a connection");
    let (told, ends) = mpsc::channel();
    let joined = Relay::new().on_end(move |it| drop(told.send(it))).join(ending, dialled);
    joined.expect("it is not over yet");
    gate.open();
    assert!(is_reset(&mut accept(&listener)));
    let end = ends.recv_timeout(PATIENCE).expect("it ends");
    assert!(end.first_ended, "{end:?}");
}

#[test]
fn a_close_of_one_end_ends_both() {
    for first in [true, false] {
        let proxy = Proxy::start(Dispatch::Inline);
        let Joined { mut client, mut origin, handles } = proxy.join();
        client.say(b"there");
        origin.hear(b"there");
        let closed = if first { &handles.0 } else { &handles.1 };
        closed.close();
        let (ended, cut) =
            if first { (&mut client, &mut origin) } else { (&mut origin, &mut client) };
        assert_eq!(ended.rest(), b"");
        assert!(is_reset(cut));
        let end = proxy.end();
        assert_eq!((name_of(&end.reason).as_str(), end.first_ended), ("Local", first));
    }
}

#[test]
fn an_end_whose_stream_its_user_has_ended_ends_both() {
    let proxy = Proxy::start(Dispatch::Inline);
    let Joined { client, mut origin, handles } = proxy.join();
    handles.0.shutdown_write();
    eventually("what is sent can't be passed on", || origin.write_all(b"in vain").is_err());
    drop(client);
    assert_eq!(name_of(&proxy.end().reason), "Local");
}

#[test]
fn an_idle_relay_ends() {
    for dispatch in modes() {
        let builder = EventLoop::builder().limits(limits()).dispatch(dispatch);
        let relay = || Relay::new().idle_timeout(Duration::from_millis(700));
        let proxy = Proxy::with(builder, Dialer::builder().limits(limits()), relay);
        let Joined { mut client, mut origin, .. } = proxy.join();
        client.say(b"there");
        origin.hear(b"there");
        let end = proxy.end();
        assert!(matches!(end.reason, CloseReason::Timeout(Wait::Idle)), "{end:?}");
        for stream in [&mut client, &mut origin] {
            let _ = stream.read_to_end(&mut Vec::new());
        }
    }
}

/// 512 KiB are in the relay when the shutdown begins, and the origin has taken nothing.
#[test]
fn a_graceful_shutdown_sends_what_is_on_the_way() {
    const BYTES: usize = 512 << 10;
    for dispatch in modes() {
        let output = OutputLimits { low: 1 << 20, high: 2 << 20 };
        let limits = Limits { output, ..limits() };
        let dialer = Dialer::builder().limits(limits).send_buffer(16 << 10);
        let builder = EventLoop::builder().limits(limits).dispatch(dispatch);
        let proxy = Proxy::with(builder, dialer, Relay::new);
        socket2::SockRef::from(&proxy.origin).set_recv_buffer_size(4096).expect("an option");
        let Joined { mut client, mut origin, handles } = proxy.join();
        client.say(noise(5, BYTES));
        origin.say(b"there");
        client.hear(b"there");
        eventually("all is here", || handles.0.bytes_received() == BYTES as u64);
        assert!(handles.1.pending() > 0);
        let event_loop = proxy.server.event_loop.clone();
        let stopping = thread::spawn(move || event_loop.shutdown(PATIENCE));
        eventually("it begins", || handles.0.is_shutting_down());
        assert!(origin.rest() == noise(5, BYTES), "bytes are lost");
        assert_eq!(client.rest(), b"");
        stopping.join().expect("it returns");
        let end = proxy.end();
        assert_eq!((end.from_first, end.from_second), (BYTES as u64, 5));
        assert!(matches!(end.reason, CloseReason::Shutdown), "{end:?}");
        assert_eq!(proxy.server.join().aborted, 0);
    }
}

#[test]
fn a_shutdown_by_force_ends_both() {
    for dispatch in modes() {
        let proxy = Proxy::start(dispatch);
        let Joined { mut client, mut origin, handles } = proxy.join();
        let mut writer = client.try_clone().expect("a descriptor");
        let flooding = thread::spawn(move || drop(writer.write_all(noise(6, 16 << 20))));
        eventually("the output is full", || handles.1.is_congested());
        proxy.server.event_loop.shutdown(Duration::ZERO);
        // Nothing is read before the end: a reader would let the relay end in order.
        let end = proxy.end();
        assert!(is_reset(&mut origin));
        let _ = client.read_to_end(&mut Vec::new());
        flooding.join().expect("it returns");
        assert!(matches!(end.reason, CloseReason::Shutdown), "{end:?}");
    }
}

#[test]
fn the_session_goes_to_on_disconnect_though_a_relay_ran() {
    for dispatch in modes() {
        let listener = echo_peer();
        let address = listener.local_addr().expect("an address").to_string();
        let dialer = Dialer::builder().build().expect("options");
        let (told, ends) = mpsc::channel();
        let server = Server::start(
            EventLoop::builder()
                .on_prepare(|_: &Connection| Ok(String::from("a session")))
                .on_connect(move |_: &mut String, conn: &mut Connection| {
                    let join = |conn: &mut Connection, dialled: netpoll::Result<Connection>| {
                        relay(conn, dialled?)
                    };
                    dialer.dial_then(&conn.handle(), "tcp", &address, join).map(drop)
                })
                .on_request(|_: &mut String, _: &mut Connection| Ok(()))
                .on_disconnect(move |session: String, why: &CloseReason| {
                    let _ = told.send(format!("{session}: {}", name_of(why)));
                })
                .dispatch(dispatch),
        );
        let mut client = server.connect();
        let mut origin = accept(&listener);
        client.say(b"there");
        origin.hear(b"there");
        drop((client, origin));
        let end = ends.recv_timeout(PATIENCE).expect("it ends");
        assert!(end.starts_with("a session: "), "{end}");
    }
}

#[test]
fn jobs_run_and_a_pause_holds_one_direction_while_a_relay_runs() {
    let proxy = Proxy::start(Dispatch::Inline);
    let Joined { mut client, mut origin, handles } = proxy.join();
    let (told, ran) = mpsc::channel();
    handles.0.pause_reading();
    let job = move |conn: &mut Connection| {
        conn.writer().write_string("from a job");
        let _ = told.send(());
        Ok(())
    };
    handles.0.run(job).expect("it runs");
    ran.recv_timeout(PATIENCE).expect("it ran");
    client.hear(b"from a job");
    client.say(b"held");
    origin.say(b"the other way");
    client.hear(b"the other way");
    assert_eq!(handles.1.bytes_sent(), 0);
    handles.0.resume_reading();
    origin.hear(b"held");
}

#[test]
fn a_panic_in_the_callback_of_a_relay_goes_no_further() {
    let builder = EventLoop::builder().limits(limits()).dispatch(Dispatch::Inline).loops(1);
    let proxy = Proxy::with(builder, Dialer::builder().limits(limits()), Relay::new);
    let calls = Count::default();
    let listener = echo_peer();
    let address = listener.local_addr().expect("an address").to_string();
    let dial = || dial_connection("tcp", &address, PATIENCE).expect("a connection");
    let called = calls.clone();
    let panicking = Relay::new().on_end(move |_| {
        called.add();
        panic!("on purpose")
    });
    panicking.join(dial(), dial()).expect("they are joined");
    drop((accept(&listener), accept(&listener)));
    eventually("it was called", || calls.get() == 1);
    let Joined { mut client, mut origin, .. } = proxy.join();
    client.say(b"the loops go on");
    origin.hear(b"the loops go on");
}

#[test]
fn no_descriptor_is_left_behind() {
    alone("relay::no_descriptor_is_left_behind", || {
        for dispatch in modes() {
            let proxy = Proxy::start(dispatch);
            drop(proxy.join());
            proxy.end();
            eventually("it is closed", || proxy.server.event_loop.stats().connections == 0);
            eventually("its sockets are closed", || sockets() == 2);
            for turn in 0..40 {
                let Joined { mut client, origin, handles } = proxy.join();
                client.say(b"there");
                match turn % 4 {
                    0 => client.reset(),
                    1 => origin.reset(),
                    2 => handles.0.abort(),
                    _ => handles.1.close(),
                }
                proxy.end();
            }
            eventually("all are closed", || sockets() == 2);
        }
    });
}
