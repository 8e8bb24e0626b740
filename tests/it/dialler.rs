//! The dialler: which address it tries when, how it is stopped, and what it asks of sockets.

use std::io::{self, ErrorKind, Read};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixListener;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use netpoll::{
    Address, Cancel, Connection, DialConnection, Dialer, Error, EventLoop, Keepalive, Result,
    dial_connection,
};
use socket2::{Domain, SockAddr, SockRef, Socket, Type};

use crate::dial::{full_listener, refusing};
use crate::errors::is_a_sentence;
use crate::util::{
    Client, Count, Gate, PATIENCE, Server, alone, echo, eventually, fd_count, one_takes_less, pool,
    quiet, timed,
};

/// A dialler for which every name has these addresses.
fn knowing(addresses: Vec<SocketAddr>) -> Dialer {
    let resolve = move |_: &str, _: u16| Ok(addresses.clone());
    Dialer::builder().resolver(resolve).build().expect("options")
}

fn dial(dialer: &Dialer) -> Result<Connection> {
    dialer.dial_connection("tcp", "a.name:1", PATIENCE)
}

fn listen(address: &str) -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind(address).expect("a port");
    let address = listener.local_addr().expect("an address");
    (listener, address)
}

/// An address that no socket has, outside of the ports of other tests.
fn free() -> SocketAddr {
    listen("127.0.23.1:0").1
}

#[test]
fn an_address_that_does_not_answer_costs_a_stagger_and_not_the_dial() {
    let (_full, silent, _queued) = full_listener();
    let (_listener, good) = listen("127.0.0.1:0");
    let (conn, took) = timed(|| dial(&knowing(vec![silent, silent, good])));
    assert_eq!(conn.expect("the third answers").peer_addr(), good);
    assert!(took >= Duration::from_millis(500) && took < PATIENCE / 2, "{took:?}");
}

#[test]
fn an_address_that_refuses_costs_nothing() {
    let (_listener, good) = listen("127.0.0.1:0");
    let (_bound, refusing) = refusing();
    let dialer = knowing(vec![refusing, refusing, good]);
    let dial = || timed(|| dial(&dialer).expect("the third answers")).1;
    one_takes_less(Duration::from_millis(240), dial); // before the stagger of one address
}

#[test]
fn families_take_turns() {
    let (listener, v6) = listen("[::1]:0");
    let (_full, silent, _queued) = full_listener();
    // In the order given, v6 would come after 1 s.
    let dial = || {
        let (conn, took) = timed(|| dial(&knowing(vec![silent, silent, silent, silent, v6])));
        assert_eq!(conn.expect("v6 answers").peer_addr(), v6);
        took
    };
    one_takes_less(Duration::from_millis(950), dial);
    drop(listener);
}

#[test]
fn the_deadline_is_one_for_all_addresses() {
    const TIMEOUT: Duration = Duration::from_millis(400);
    let (_full, silent, _queued) = full_listener();
    let (_bound, refusing) = refusing();
    let dialer = knowing(vec![silent, refusing, silent, silent]);
    let (dialled, took) = timed(|| dialer.dial_connection("tcp", "a.name:1", TIMEOUT));
    let error = dialled.expect_err("nobody answers");
    assert_eq!(error.kind(), ErrorKind::TimedOut);
    is_a_sentence(&error, &["dial tcp", "a.name:1", "timed out", "400ms"]);
    assert!(took >= TIMEOUT && took < PATIENCE / 2, "{took:?}");
}

#[test]
fn when_all_fail_the_first_failure_is_told() {
    let unreachable: SocketAddr = "255.255.255.255:1".parse().expect("an address");
    let (_bound, refusing) = refusing();
    let error = dial(&knowing(vec![refusing, unreachable])).expect_err("nobody answers");
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    let error = dial(&knowing(vec![unreachable, refusing])).expect_err("nobody answers");
    assert_ne!(error.kind(), ErrorKind::ConnectionRefused);
}

#[test]
fn a_network_of_one_family_takes_only_its_addresses() {
    let (_v4_listener, v4) = listen("127.0.0.1:0");
    let (_v6_listener, v6) = listen("[::1]:0");
    let dialer = knowing(vec![v6, v4]);
    for (network, expected) in [("tcp4", v4), ("tcp6", v6), ("tcp", v6)] {
        let conn = dialer.dial_connection(network, "a.name:1", PATIENCE).expect("it answers");
        assert_eq!(conn.peer_addr(), expected, "{network}");
    }
    let only_v4 = knowing(vec![v4]);
    let error = only_v4.dial_connection("tcp6", "a.name:1", PATIENCE).expect_err("no v6");
    is_a_sentence(&error, &["dial tcp6", "a.name:1", "family"]);
}

#[test]
fn a_name_is_resolved_within_the_deadline() {
    const TIMEOUT: Duration = Duration::from_millis(200);
    let (release, held) = mpsc::channel::<()>();
    let held = std::sync::Mutex::new(held);
    let slow = move |_: &str, _: u16| {
        let _ = held.lock().expect("no panic").recv();
        Ok(vec![])
    };
    let dialer = Dialer::builder().resolver(slow).build().expect("options");
    // More than may be asked at once, so some are never asked.
    let dials: Vec<_> = (0..80)
        .map(|number| {
            let (dialer, address) = (dialer.clone(), format!("a.name{number}:1"));
            thread::spawn(move || timed(|| dialer.dial_connection("tcp", &address, TIMEOUT)))
        })
        .collect();
    for each in dials {
        let (dialled, took) = each.join().expect("a dial");
        assert_eq!(dialled.expect_err("no answer").kind(), ErrorKind::TimedOut);
        assert!(took >= TIMEOUT && took < PATIENCE / 2, "{took:?}");
    }
    drop(release);
}

#[test]
fn an_address_that_is_no_name_is_not_asked_for() {
    let asked = |host: &str, _: u16| -> io::Result<Vec<SocketAddr>> { panic!("asked: {host}") };
    let dialer = Dialer::builder().resolver(asked).build().expect("options");
    let (_listener, v6) = listen("[::1]:0");
    let (_other, v4) = listen("127.0.0.1:0");
    let port = v6.port();
    let addresses = [v6.to_string(), format!("[::1%lo]:{port}"), format!("[::1%1]:{port}")];
    for address in addresses.iter().chain([&v4.to_string()]) {
        dialer.dial_connection("tcp", address, PATIENCE).expect("a connection");
    }
}

#[test]
fn names_that_no_server_answers_hold_up_no_others() {
    const SLOW: usize = 24;
    let (_listener, good) = listen("127.0.0.1:0");
    let (gate, asked) = (Gate::default(), Count::default());
    let (passed, asks) = (gate.clone(), asked.clone());
    let resolver = move |host: &str, _: u16| {
        asks.add();
        if host.starts_with("slow") {
            passed.pass();
        }
        Ok(vec![good])
    };
    let dialer = Dialer::builder().resolver(resolver).build().expect("options");
    // Each is asked, and its dial has left.
    for number in 0..SLOW {
        let cancel = Cancel::new();
        let address = format!("slow{number}:1");
        thread::scope(|scope| {
            let dial = || dialer.dial_with("tcp", &address, PATIENCE, &cancel);
            let dialling = scope.spawn(dial);
            eventually("it is asked", || asked.get() > number);
            cancel.cancel();
            dialling.join().expect("no panic").expect_err("it was cancelled");
        });
    }
    let (dialled, took) = timed(|| dialer.dial_connection("tcp", "quick:1", PATIENCE));
    dialled.expect("a connection");
    assert!(took < PATIENCE / 3, "{took:?}");
    gate.open();
}

#[test]
fn a_resolver_that_fails_fails_the_dial() {
    let failing = |_: &str, _: u16| -> io::Result<Vec<SocketAddr>> {
        Err(io::Error::new(ErrorKind::NotFound, "no such host: not in the list"))
    };
    let dialer = Dialer::builder().resolver(failing).build().expect("options");
    let error = dial(&dialer).expect_err("nobody knows it");
    assert_eq!(error.kind(), ErrorKind::NotFound);
    is_a_sentence(&error, &["dial tcp", "a.name:1", "no such host"]);
    let error = dial(&knowing(vec![])).expect_err("it has no address");
    is_a_sentence(&error, &["dial tcp", "a.name:1"]);
    let panicking = |_: &str, _: u16| -> io::Result<Vec<SocketAddr>> { panic!("on purpose") };
    let dialer = Dialer::builder().resolver(panicking).build().expect("options");
    is_a_sentence(&dial(&dialer).expect_err("it panics"), &["a.name:1", "panicked"]);
}

#[test]
fn the_system_knows_this_machine() {
    let (_listener, good) = listen("127.0.0.1:0");
    let address = format!("localhost:{}", good.port());
    let conn = dial_connection("tcp4", &address, PATIENCE).expect("it answers");
    assert_eq!(conn.peer_addr(), good);
}

#[test]
fn another_thread_cancels_a_dial() {
    alone("dialler::another_thread_cancels_a_dial", || {
        let (_full, silent, _queued) = full_listener();
        let dialer = knowing(vec![silent]);
        let dial_until = |cancel: &Cancel| dialer.dial_with("tcp", "a.name:1", PATIENCE, cancel);
        let early = Cancel::new();
        early.cancel();
        assert!(early.is_cancelled() && dial_until(&early).is_err());
        let before = fd_count();
        for _ in 0..50 {
            let cancel = Cancel::new();
            let (dialled, took) = thread::scope(|scope| {
                let dialling = scope.spawn(|| timed(|| dial_until(&cancel)));
                eventually("a socket is opened", || fd_count() > before);
                cancel.cancel();
                dialling.join().expect("a dial")
            });
            let error = dialled.expect_err("it was cancelled");
            assert_eq!(error.kind(), ErrorKind::Interrupted);
            is_a_sentence(&error, &["dial tcp", "a.name:1", "cancelled"]);
            assert!(took < PATIENCE / 2, "{took:?}");
            eventually("its socket is closed", || fd_count() == before);
        }
    });
}

#[test]
fn sockets_that_lost_are_closed() {
    alone("dialler::sockets_that_lost_are_closed", || {
        let (_full, silent, _queued) = full_listener();
        let (listener, good) = listen("127.0.0.1:0");
        let dialer = knowing(vec![silent, silent, good]);
        drop(dial(&dialer).expect("the third answers")); // starts what stays
        let _ = listener.accept();
        eventually("the first dial has ended", dialer_is_quiet);
        let before = fd_count();
        let conn = dial(&dialer).expect("the third answers");
        // One socket of ours, and the other end in the listener's queue, which has no number.
        eventually("the losers are closed", || fd_count() == before + 1);
        drop(conn);
        eventually("it is closed", || fd_count() == before);
    });
}

/// Whether the descriptors have not changed for a while.
fn dialer_is_quiet() -> bool {
    let before = fd_count();
    quiet(500); // what is left to be closed is closed by then, or the caller looks again
    fd_count() == before
}

#[test]
fn a_socket_that_met_itself_is_no_connection() {
    let address = free();
    let tries = Count::default();
    let counted = tries.clone();
    // Chance does this once in 28 000 times; here it is made to.
    let meets_itself = move |fd: std::os::fd::BorrowedFd<'_>| match counted.add() {
        0 => SockRef::from(&fd).bind(&address.into()),
        _ => Ok(()),
    };
    let dialer = Dialer::builder().before_connect(meets_itself).build().expect("options");
    let dialled = dialer.dial_connection("tcp", &address.to_string(), PATIENCE);
    assert_eq!(dialled.expect_err("nobody is there").kind(), ErrorKind::ConnectionRefused);
    assert_eq!(tries.get(), 2);
    let address = free();
    // A user that sets a port means this one.
    let dialer = Dialer::builder().local_address(address).build().expect("options");
    let dialled = dialer.dial_connection("tcp", &address.to_string(), PATIENCE);
    assert_eq!(dialled.expect("its own peer").peer_addr(), address);
}

#[test]
fn ports_that_have_run_out_for_a_moment_are_asked_for_again() {
    let (_listener, good) = listen("127.0.0.1:0");
    let tries = Count::default();
    let counted = tries.clone();
    let short = move |_: std::os::fd::BorrowedFd<'_>| match counted.add() {
        0 | 1 => Err(ErrorKind::AddrNotAvailable.into()),
        _ => Ok(()),
    };
    let dialer = Dialer::builder().before_connect(short).build().expect("options");
    dialer.dial_connection("tcp", &good.to_string(), PATIENCE).expect("the third succeeds");
    assert_eq!(tries.get(), 3);
    let dialer = Dialer::builder().before_connect(|_| Err(ErrorKind::AddrNotAvailable.into()));
    let dialer = dialer.build().expect("options");
    let error = dialer.dial_connection("tcp", &good.to_string(), PATIENCE).expect_err("never");
    assert_eq!(error.kind(), ErrorKind::AddrNotAvailable);
    is_a_sentence(&error, &["local ports"]);
}

#[test]
fn what_was_sent_before_a_reset_is_read_and_the_dial_does_not_fail() {
    const DIALS: usize = 2000;
    let (listener, address) = listen("127.0.0.1:0");
    let server = thread::spawn(move || {
        for _ in 0..DIALS {
            let (mut stream, _) = listener.accept().expect("a connection");
            stream.say(b"hello");
            stream.reset();
        }
    });
    for _ in 0..DIALS {
        let mut conn = dial_connection("tcp", &address.to_string(), PATIENCE).expect("a server");
        assert_eq!(conn.reader().next(5).expect("what it said"), b"hello");
        let error = conn.reader().read_byte().expect_err("it was reset");
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
        let error = conn.read(&mut [0]).expect_err("a reset is not an end");
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
        assert!(!conn.is_active());
    }
    server.join().expect("a server");
}

/// A name of the abstract namespace that no other test has.
fn abstract_name(of: &str) -> String {
    format!("@netpoll-test-{}-{of}", std::process::id())
}

fn listen_unix(name: &str, backlog: i32) -> Socket {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None).expect("a socket");
    let raw = match name.strip_prefix('@') {
        Some(name) => SockAddr::unix(format!("\0{name}")),
        None => SockAddr::unix(name),
    };
    socket.bind(&raw.expect("a name")).expect("a name that is free");
    socket.listen(backlog).expect("a queue");
    socket
}

#[test]
fn unix_sockets_are_dialled_by_path_and_by_abstract_name() {
    let path = std::env::temp_dir().join(format!("netpoll-test-{}.sock", std::process::id()));
    let path = path.to_str().expect("UTF-8").to_owned();
    for name in [path.clone(), abstract_name("both")] {
        let server = UnixListener::from(std::os::fd::OwnedFd::from(listen_unix(&name, 8)));
        let mut conn = dial_connection("unix", &name, PATIENCE).expect("a server");
        let (mut peer, _) = server.accept().expect("a connection");
        assert_eq!(conn.peer_addr().to_string(), name);
        assert_eq!(conn.local_addr().expect("an address"), Address::Unnamed);
        conn.writer().write_bytes(b"ping");
        conn.writer().flush().expect("the peer takes it");
        let mut heard = [0; 4];
        peer.read_exact(&mut heard).expect("four bytes");
        assert_eq!(&heard, b"ping");
        drop(peer);
        assert!(matches!(conn.reader().read_byte(), Err(Error::EndOfStream)));
    }
    // The file is there, without a listener.
    let error = dial_connection("unix", &path, PATIENCE).expect_err("nobody listens");
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    std::fs::remove_file(&path).expect("it is there");
    let error = dial_connection("unix", &path, PATIENCE).expect_err("no such path");
    assert_eq!(error.kind(), ErrorKind::NotFound);
    is_a_sentence(&error, &["dial unix", &path]);
    for (bad, word) in [("", "path"), ("@", "name")] {
        let error = dial_connection("unix", bad, PATIENCE).expect_err("no name");
        is_a_sentence(&error, &["dial unix", word]);
    }
    let error = dial_connection("unix", &"x".repeat(200), PATIENCE).expect_err("too long");
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
}

#[test]
fn a_unix_listener_with_a_full_queue_is_waited_for() {
    const TIMEOUT: Duration = Duration::from_millis(150);
    let name = abstract_name("full");
    let listener = listen_unix(&name, 0);
    let first = dial_connection("unix", &name, PATIENCE).expect("the queue has one place");
    let (dialled, took) = timed(|| dial_connection("unix", &name, TIMEOUT));
    assert_eq!(dialled.expect_err("the queue is full").kind(), ErrorKind::TimedOut);
    assert!(took >= TIMEOUT && took < PATIENCE / 2, "{took:?}");
    let waiting = thread::spawn(move || dial_connection("unix", &name, PATIENCE));
    let _served = listener.accept().expect("the first");
    waiting.join().expect("a dial").expect("there is a place now");
    drop(first);
}

#[test]
fn what_is_set_reaches_the_socket() {
    let (_listener, address) = listen("127.0.0.1:0");
    let seconds = Duration::from_secs;
    let dialer = Dialer::builder()
        .nodelay(false)
        .keepalive(Keepalive { idle: seconds(11), interval: seconds(7), count: 3 })
        .user_timeout(seconds(5))
        .receive_buffer(64 << 10)
        .send_buffer(32 << 10)
        .local_address("127.0.23.2:0".parse().expect("an address"))
        .device("lo".to_owned())
        .before_connect(|fd| SockRef::from(&fd).set_ttl_v4(17))
        .build()
        .expect("options");
    let conn = dialer.dial_connection("tcp", &address.to_string(), PATIENCE).expect("a server");
    let local = conn.local_addr().expect("an address").inet().expect("of the internet");
    assert_eq!(local.ip().to_string(), "127.0.23.2");
    let socket = SockRef::from(&conn);
    assert!(!socket.tcp_nodelay().expect("an option"));
    assert!(socket.keepalive().expect("an option"));
    assert_eq!(socket.tcp_keepalive_time().expect("an option"), seconds(11));
    assert_eq!(socket.tcp_keepalive_interval().expect("an option"), seconds(7));
    assert_eq!(socket.tcp_keepalive_retries().expect("an option"), 3);
    assert_eq!(socket.tcp_user_timeout().expect("an option"), Some(seconds(5)));
    // The kernel doubles them, for its own bookkeeping.
    assert_eq!(socket.recv_buffer_size().expect("an option"), 128 << 10);
    assert_eq!(socket.send_buffer_size().expect("an option"), 64 << 10);
    assert_eq!(socket.device().expect("an option"), Some(b"lo".to_vec()));
    assert_eq!(socket.ttl_v4().expect("an option"), 17);
    let plain = dial_connection("tcp", &address.to_string(), PATIENCE).expect("a server");
    assert!(SockRef::from(&plain).tcp_nodelay().expect("an option"), "the default");
}

#[test]
fn options_that_can_not_be_used_are_named() {
    let refused = |builder: netpoll::DialerBuilder, words: &[&str]| {
        let error = builder.build().expect_err("it can't be used");
        assert!(matches!(error, Error::Config(_)), "{error:?}");
        is_a_sentence(&error, words);
    };
    let builder = Dialer::builder;
    refused(builder().timeout(Duration::ZERO), &["timeout", "0"]);
    refused(builder().stagger(Duration::from_millis(1)), &["stagger", "1ms", "10ms"]);
    refused(builder().receive_buffer(0), &["receive_buffer"]);
    refused(builder().send_buffer(usize::MAX), &["send_buffer"]);
    let probes = Keepalive { idle: Duration::ZERO, interval: Duration::from_secs(1), count: 1 };
    refused(builder().keepalive(probes), &["keepalive", "1 to 32767 s"]);
    let (_listener, v6) = listen("[::1]:0");
    let dialer = builder().local_address("127.0.0.1:0".parse().expect("an address")).build();
    let dialled = dialer.expect("options").dial("tcp", &v6.to_string());
    is_a_sentence(&dialled.expect_err("other families"), &["local address", "family"]);
}

/// A server whose callback dials `address` and echoes through it.
fn relay(address: SocketAddr, dispatch: netpoll::Dispatch) -> Server {
    let relay = move |(): &mut (), conn: &mut Connection| {
        match dial_connection("tcp", &address.to_string(), PATIENCE) {
            Ok(_) => conn.writer().write_string("dialled"),
            Err(error) => conn.writer().write_string(&error.to_string()),
        }
        conn.reader().skip(1)
    };
    Server::start(EventLoop::builder().on_request(relay).dispatch(dispatch).loops(1))
}

#[test]
fn an_inline_callback_that_dials_is_told_at_once() {
    let back = Server::start(echo());
    let front = relay(back.address, netpoll::Dispatch::Inline);
    let mut client: TcpStream = front.connect();
    let begun = Instant::now();
    client.say(b"x");
    client.half_close();
    let text = String::from_utf8(client.rest()).expect("text");
    is_a_sentence(&text, &["dial tcp", "Dispatch::Inline", "must not wait"]);
    assert!(begun.elapsed() < PATIENCE / 2, "{:?}", begun.elapsed());
    let front = relay(back.address, pool());
    let mut client = front.connect();
    client.say(b"x");
    client.hear(b"dialled");
}
