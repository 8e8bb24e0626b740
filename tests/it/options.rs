//! What `build` accepts works: every public option at 0, 1, and the two largest values either is
//! refused by its name, or serves a client without a panic on any thread.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::panic;
use std::sync::Arc;
use std::time::{Duration, Instant};

use netpoll::{
    AtLimit, Backoff, Connection, DialConnection, Dialer, Dispatch, Error, EventLoop,
    EventLoopBuilder, HandOffOptions, Keepalive, Limits, Listener, LoadBalance, LoopLoad, Mux,
    PollManager, Pool, PoolOptions, ProxyProtocol, ReceiveRate, Result, Spin,
};

use crate::mux::Frames;
use crate::util::{Client, Count, PATIENCE, Server, alone, echo, inet, modes, within};

const SIZES: [usize; 4] = [0, 1, usize::MAX - 1, usize::MAX];
const NUMBERS: [u32; 4] = [0, 1, u32::MAX - 1, u32::MAX];
const TIMES: [Duration; 5] = [
    Duration::ZERO,
    Duration::from_nanos(1),
    Duration::from_secs(1),
    Duration::new(u64::MAX, 999_999_998),
    Duration::MAX,
];

/// Counts the panics of all threads from here on.
fn count_panics() -> Count {
    let panics = Count::default();
    let told = panics.clone();
    panic::set_hook(Box::new(move |panic| {
        told.add();
        eprintln!("{panic}");
    }));
    panics
}

/// A refusal names the option, in one sentence.
#[track_caller]
fn refused(name: &str, error: &Error) {
    let text = error.to_string();
    assert!(matches!(error, Error::Config(_)) && text.contains(name), "{name}: {error:?}");
}

/// Whether the server answers one client. It may end the connection of one that it has no patience
/// or no room for; all else is a failure.
fn is_answered(at: std::net::SocketAddr, prelude: &[u8]) -> bool {
    let mut client = TcpStream::connect(at).expect("it listens");
    client.set_read_timeout(Some(Duration::from_secs(20))).expect("an option");
    let mut heard = [0; 5];
    client
        .write_all(&[prelude, b"hello"].concat())
        .and_then(|()| client.read_exact(&mut heard))
        .is_ok()
}

/// Builds, serves a client, and stops.
fn try_server(name: &str, builder: EventLoopBuilder, must_answer: bool) {
    let event_loop = match builder.build() {
        Ok(event_loop) => event_loop,
        Err(error) => return refused(name, &error),
    };
    let listener = Listener::bind("tcp", "127.0.0.1:0").expect("a port");
    let at = inet(&listener);
    let running = event_loop.spawn(listener).expect(name);
    let answered = is_answered(at, b"");
    assert!(answered || !must_answer, "{name}: a client is not served");
    let begun = Instant::now();
    running.shutdown(Duration::from_secs(5));
    running.wait().expect(name);
    assert!(begun.elapsed() < Duration::from_secs(10), "{name}: it does not end");
}

/// The smallest values may leave a client without an answer, since no time or no room is left.
fn is_large(time: Duration) -> bool {
    time >= Duration::from_secs(1)
}

#[test]
fn every_option_of_a_server_is_refused_by_name_or_works() {
    alone("options::every_option_of_a_server_is_refused_by_name_or_works", || {
        let panics = count_panics();
        for time in TIMES {
            let large = is_large(time);
            let server = |name, builder| try_server(name, builder, large);
            server("read_timeout", echo().read_timeout(time));
            server("write_timeout", echo().write_timeout(time));
            server("idle_timeout", echo().idle_timeout(time));
            server("first_byte_timeout", echo().first_byte_timeout(time));
            server("linger", echo().linger(time));
            server("slow_callback", echo().slow_callback(time));
            server("spin", echo().spin(Spin::For(time)));
            for bytes in NUMBERS {
                let rate = ReceiveRate { bytes, per: time };
                server("min_receive_rate", echo().min_receive_rate(rate));
            }
        }
        for size in SIZES {
            let large = size > 1;
            try_server("loops", echo().loops(size), true);
            try_server("input_limit", echo().input_limit(size), large);
            try_server("held_limit", echo().held_limit(size), large);
            try_server("memory_budget", echo().memory_budget(size), large);
            try_server("max_connections", echo().max_connections(size), true);
            try_server("max_connections_per_source", echo().max_connections_per_source(size), true);
            for other in SIZES {
                try_server("output_limits", echo().output_limits(size, other), true);
                try_server("turn_limits", echo().turn_limits(size, other), true);
            }
        }
        for number in NUMBERS {
            for burst in NUMBERS {
                try_server("accept_rate", echo().accept_rate(number, burst), true);
            }
        }
        for bits in [0, 1, u8::MAX - 1, u8::MAX] {
            for other in [0, 1, u8::MAX - 1, u8::MAX] {
                let builder = echo().max_connections_per_source(1);
                try_server("source_prefixes", builder.source_prefixes(bits, other), true);
            }
        }
        assert_eq!(panics.get(), 0);
    });
}

#[test]
fn every_option_of_a_dispatch_mode_is_refused_by_name_or_works() {
    alone("options::every_option_of_a_dispatch_mode_is_refused_by_name_or_works", || {
        let panics = count_panics();
        let both = |name, options: PoolOptions| {
            try_server(name, echo().dispatch(Dispatch::Pool(options)), true);
            let options = HandOffOptions { workers: options, ..HandOffOptions::default() };
            try_server(name, blocking().dispatch(Dispatch::HandOff(options)), true);
        };
        for size in SIZES {
            both("max_threads", PoolOptions { max_threads: size, ..PoolOptions::default() });
            both("queue", PoolOptions { queue: size, ..PoolOptions::default() });
        }
        for time in TIMES {
            both("idle", PoolOptions { idle: time, ..PoolOptions::default() });
            let options = HandOffOptions { threshold: time, ..HandOffOptions::default() };
            try_server("threshold", blocking().dispatch(Dispatch::HandOff(options)), true);
        }
        assert_eq!(panics.get(), 0);
    });
}

/// An echo whose callback blocks for a while, so that another thread may take its loop over.
fn blocking() -> EventLoopBuilder {
    EventLoop::builder().on_request(|(): &mut (), conn: &mut Connection| {
        // sleep: it is the blocking of the callback
        std::thread::sleep(Duration::from_millis(2));
        crate::util::echo_once(conn)
    })
}

#[test]
fn every_option_of_a_listener_is_refused_by_name_or_works() {
    alone("options::every_option_of_a_listener_is_refused_by_name_or_works", || {
        let panics = count_panics();
        let bound = |name: &str, listener: Result<Listener>| match listener {
            Err(error) => refused(name, &error),
            Ok(listener) => {
                let at = inet(&listener);
                let running = echo().build().expect("options").spawn(listener).expect(name);
                assert!(is_answered(at, b""), "{name}");
                drop(running);
            }
        };
        let bind = |options: netpoll::ListenOptions| options.bind("tcp", "127.0.0.1:0");
        for number in NUMBERS {
            bound("backlog", bind(Listener::options().backlog(number)));
            bound("fast_open", bind(Listener::options().fast_open(number)));
            let path = std::env::temp_dir().join(format!("netpoll-mode-{}", std::process::id()));
            let unix = Listener::options().mode(number);
            match unix.bind("unix", path.to_str().expect("UTF-8")) {
                Ok(_) => assert!(number <= 0o7777),
                Err(error) => refused("mode", &error),
            }
        }
        for size in SIZES.into_iter().chain([1 << 31, 1 << 32]) {
            bound("receive_buffer", bind(Listener::options().receive_buffer(size)));
            bound("send_buffer", bind(Listener::options().send_buffer(size)));
            bound("notsent_lowat", bind(Listener::options().notsent_lowat(size)));
        }
        let good =
            Keepalive { idle: Duration::from_secs(1), interval: Duration::from_secs(1), count: 1 };
        for time in TIMES.into_iter().chain([40_000, 32_768, 32_767].map(Duration::from_secs)) {
            bound("defer_accept", bind(Listener::options().defer_accept(time)));
            let keepalive = Keepalive { idle: time, ..good };
            bound("keepalive", bind(Listener::options().keepalive(keepalive)));
            let keepalive = Keepalive { interval: time, ..good };
            bound("keepalive", bind(Listener::options().keepalive(keepalive)));
        }
        for count in NUMBERS.into_iter().chain([127, 128, 200]) {
            let keepalive = Keepalive { count, ..good };
            bound("keepalive", bind(Listener::options().keepalive(keepalive)));
        }
        for device in ["", "no such interface", &"x".repeat(100)] {
            let listener = bind(Listener::options().device(device.to_owned()));
            let error = listener.expect_err("there is no such interface").to_string();
            assert!(error.contains("device") || error.contains("No such"), "{error}");
        }
        assert_eq!(panics.get(), 0);
    });
}

#[test]
fn every_option_of_a_served_listener_is_refused_by_name_or_works() {
    alone("options::every_option_of_a_served_listener_is_refused_by_name_or_works", || {
        let panics = count_panics();
        let served = |name: &str, listener: Listener, prelude: &[u8], must_answer: bool| {
            let at = inet(&listener);
            match echo().build().expect("options").spawn(listener) {
                Err(error) => refused(name, &error),
                Ok(_running) => assert!(is_answered(at, prelude) || !must_answer, "{name}"),
            }
        };
        let bind = || Listener::bind("tcp", "127.0.0.1:0").expect("a port");
        for size in SIZES.into_iter().chain([1 << 46]) {
            served("max_connections", bind().max_connections(size), b"", true);
            let proxy = ProxyProtocol { limit: size, ..ProxyProtocol::default() };
            let listener = bind().proxy_protocol(proxy);
            served("proxy_protocol", listener, b"PROXY UNKNOWN\r\n", true);
        }
        for time in TIMES {
            let proxy = ProxyProtocol { deadline: time, ..ProxyProtocol::default() };
            let listener = bind().proxy_protocol(proxy.clone());
            served("proxy_protocol", listener, b"PROXY UNKNOWN\r\n", is_large(time));
            // One whose header does not come is waited for.
            let listener = bind().proxy_protocol(proxy);
            let at = inet(&listener);
            if let Ok(_running) = echo().build().expect("options").spawn(listener) {
                let mut part = TcpStream::connect(at).expect("it listens");
                part.write_all(b"PROXY ").expect("room");
            }
        }
        assert_eq!(panics.get(), 0);
    });
}

#[test]
fn user_code_that_panics_while_accepting_ends_no_server() {
    alone("options::user_code_that_panics_while_accepting_ends_no_server", || {
        panic::set_hook(Box::new(|_| {}));
        let balance =
            |_: Option<std::net::IpAddr>, _: &[LoopLoad]| -> usize { panic!("on purpose") };
        for loops in [1, 2] {
            for dispatch in modes() {
                let balance = LoadBalance::Custom(Arc::new(balance));
                let builder = echo().loops(loops).load_balance(balance).dispatch(dispatch);
                try_server("load_balance", builder, true);
                let told = AtLimit::tell(|_| panic!("on purpose"));
                let builder = echo().loops(loops).max_connections(1).at_limit(told);
                let server = Server::start(builder.dispatch(dispatch));
                let mut first = server.connect();
                first.write_all(b"!").and_then(|()| first.read_exact(&mut [0])).expect("served");
                server.connect().end(); // the second is refused
                drop(first);
                assert!(within(PATIENCE, || is_answered(server.address, b"")), "others are served");
            }
        }
        for fails in [false, true] {
            let calls = Count::default();
            let at_first = move |_: std::os::fd::BorrowedFd<'_>| match (calls.add(), fails) {
                (0, _) => Ok(()),
                (_, true) => Err(std::io::Error::other("on purpose")),
                (_, false) => panic!("on purpose"),
            };
            let listener = Listener::options().reuse_port(true).before_bind(at_first);
            let listener = listener.bind("tcp", "127.0.0.1:0").expect("a port");
            let event_loop = echo().loops(2).build().expect("options");
            let error = event_loop.spawn(listener).expect_err("a socket for each loop");
            assert!(error.to_string().contains("once more"), "{error}");
        }
        // A loop that is started later ends nothing if it has no socket.
        let manager = Arc::new(PollManager::new(1, LoadBalance::default()).expect("a loop"));
        let calls = Count::default();
        let hook = move |_: std::os::fd::BorrowedFd<'_>| match calls.add() {
            0 => Ok(()),
            _ => panic!("on purpose"),
        };
        let listener = Listener::options().reuse_port(true).before_bind(hook);
        let listener = listener.bind("tcp", "127.0.0.1:0").expect("a port");
        let at = inet(&listener);
        let builder = echo().manager(manager.clone());
        let _running = builder.build().expect("options").spawn(listener).expect("a server");
        manager.set_loops(2).expect("a second loop");
        assert!(is_answered(at, b""));
        // One that does not fit is no panic.
        let beyond = |_: Option<std::net::IpAddr>, _: &[LoopLoad]| usize::MAX;
        let balance = LoadBalance::Custom(Arc::new(beyond));
        try_server("load_balance", echo().loops(2).load_balance(balance), true);
    });
}

/// Whatever a callback tells its connection, others are served, and the server ends in time.
#[test]
fn every_time_that_a_connection_is_told_works() {
    alone("options::every_time_that_a_connection_is_told_works", || {
        let panics = count_panics();
        let set: [fn(&mut Connection, Duration); 5] = [
            |conn, time| conn.set_read_timeout(Some(time)),
            |conn, time| conn.set_write_timeout(Some(time)),
            |conn, time| conn.set_idle_timeout(Some(time)),
            |conn, time| conn.set_read_deadline(Instant::now().checked_add(time)),
            |conn, time| conn.close_at(Instant::now().checked_add(time)),
        ];
        let tell: [fn(&mut Connection, Duration) -> Result<()>; 3] = [
            |conn, time| conn.handle().run_after(time, |_| Ok(())).map(drop),
            |conn, time| conn.handle().run_every(time, |_| Ok(())).map(drop),
            |conn, time| conn.set_user_timeout(Some(time)),
        ];
        for (dispatch, time) in modes().into_iter().flat_map(|it| TIMES.map(|time| (it, time))) {
            for place in 0..set.len() + tell.len() {
                let (name, told) = (format!("{place} {time:?}"), Count::default());
                let count = told.clone();
                let builder = echo().on_connect(move |(): &mut (), conn: &mut Connection| {
                    count.add();
                    let Some(set) = set.get(place) else {
                        return match tell[place - set.len()](conn, time) {
                            Err(Error::Config(_)) => Ok(()),
                            other => other,
                        };
                    };
                    set(conn, time);
                    Ok(())
                });
                try_server(&name, builder.dispatch(dispatch), is_large(time));
                assert_eq!(told.get(), 1);
            }
        }
        assert_eq!(panics.get(), 0);
    });
}

/// Says hello by a dialled connection; whether the answer comes.
fn greets(dialer: &Dialer, at: std::net::SocketAddr) -> Result<bool> {
    let mut connection = dialer.dial_connection("tcp", &at.to_string(), PATIENCE)?;
    let (mut reader, mut writer) = connection.split();
    writer.write_bytes(b"hello");
    writer.flush()?;
    Ok(reader.next(5)? == b"hello")
}

#[test]
fn every_option_of_a_dialer_is_refused_by_name_or_works() {
    alone("options::every_option_of_a_dialer_is_refused_by_name_or_works", || {
        let (panics, server) = (count_panics(), Server::start(echo()));
        let dialled = |name: &str, dialer: Result<Dialer>, must_answer: bool| match dialer {
            Err(error) => refused(name, &error),
            Ok(dialer) => match greets(&dialer, server.address) {
                Ok(answered) => assert!(answered, "{name}"),
                Err(error) => assert!(!must_answer, "{name}: {error}"),
            },
        };
        let build = |change: fn(Limits, Duration) -> Limits, time| {
            Dialer::builder().limits(change(Limits::default(), time)).build()
        };
        for time in TIMES.into_iter().chain([1 << 31, 1 << 32].map(Duration::from_millis)) {
            let large = is_large(time);
            dialled("timeout", Dialer::builder().timeout(time).build(), large);
            dialled("stagger", Dialer::builder().stagger(time).build(), true);
            dialled("user_timeout", Dialer::builder().user_timeout(time).build(), large);
            let limits = |limits, time| Limits { read_timeout: Some(time), ..limits };
            dialled("read_timeout", build(limits, time), large);
            let limits = |limits, time| Limits { write_timeout: Some(time), ..limits };
            dialled("write_timeout", build(limits, time), large);
            let limits = |limits, time| Limits { idle_timeout: Some(time), ..limits };
            dialled("idle_timeout", build(limits, time), large);
            dialled("linger", build(|limits, time| Limits { linger: time, ..limits }, time), true);
            let dialer = Dialer::builder().build().expect("options");
            let connection = dialer.dial_connection("tcp", &server.address.to_string(), PATIENCE);
            let mut connection = connection.expect("it listens");
            if let Err(error) = connection.set_user_timeout(Some(time)) {
                refused("user_timeout", &error);
            }
        }
        for size in SIZES.into_iter().chain([1 << 31, 1 << 32]) {
            dialled("receive_buffer", Dialer::builder().receive_buffer(size).build(), true);
            dialled("send_buffer", Dialer::builder().send_buffer(size).build(), true);
            dialled("notsent_lowat", Dialer::builder().notsent_lowat(size).build(), true);
            let limits = Limits { input_limit: size, ..Limits::default() };
            dialled("input_limit", Dialer::builder().limits(limits).build(), size >= 5);
        }
        for count in NUMBERS {
            let second = Duration::from_secs(1);
            let keepalive = Keepalive { idle: second, interval: second, count };
            dialled("keepalive", Dialer::builder().keepalive(keepalive).build(), true);
        }
        assert_eq!(panics.get(), 0);
    });
}

#[test]
fn every_option_of_a_pool_and_a_mux_is_refused_by_name_or_works() {
    alone("options::every_option_of_a_pool_and_a_mux_is_refused_by_name_or_works", || {
        let (panics, server) = (count_panics(), Server::start(echo()));
        let address = server.address.to_string();
        let pooled = |name: &str, pool: Result<Pool>| match pool {
            Err(error) => refused(name, &error),
            Ok(pool) => {
                for _ in 0..2 {
                    let mut connection = pool.checkout("tcp", &address, PATIENCE).expect(name);
                    let (mut reader, mut writer) = connection.split();
                    writer.write_bytes(b"hello");
                    writer.flush().expect(name);
                    assert_eq!(reader.next(5).expect(name), b"hello");
                }
            }
        };
        let dialer = || Dialer::builder().build().expect("options");
        let asked = |name: &str, mux: Result<Mux<Frames>>, must_answer: bool| match mux {
            Err(error) => refused(name, &error),
            Ok(mux) => {
                let patience = if must_answer { PATIENCE } else { Duration::from_millis(50) };
                let answer = mux.call(b"hello".to_vec(), patience);
                assert!(answer.is_ok() || !must_answer, "{name}: {answer:?}");
            }
        };
        let mux = || Mux::<Frames>::builder();
        for size in SIZES {
            pooled("max_open", Pool::builder().max_open(size).build(dialer()));
            pooled("max_idle", Pool::builder().max_idle(size).build(dialer()));
            asked("connections", mux().connections(size).build("tcp", &address, Frames), true);
            asked("max_waiting", mux().max_waiting(size).build("tcp", &address, Frames), true);
        }
        for number in NUMBERS {
            let builder = mux().give_up_after(number);
            asked("give_up_after", builder.build("tcp", &address, Frames), true);
        }
        for time in TIMES {
            pooled("idle_timeout", Pool::builder().idle_timeout(time).build(dialer()));
            pooled("max_lifetime", Pool::builder().max_lifetime(time).build(dialer()));
            let large = is_large(time);
            let builder = mux().dial_timeout(time);
            asked("dial_timeout", builder.build("tcp", &address, Frames), large);
            let builder = mux().user_timeout(time);
            asked("user_timeout", builder.build("tcp", &address, Frames), large);
            for most in TIMES {
                let backoff = Backoff { first: time, most };
                let builder = mux().reconnect(backoff);
                asked("reconnect", builder.build("tcp", &address, Frames), true);
                // Without a listener, it waits between the dials.
                let builder = mux().reconnect(backoff);
                if let Ok(mux) = builder.build("tcp", "127.0.23.1:1", Frames) {
                    assert!(mux.call(b"hello".to_vec(), Duration::from_millis(10)).is_err());
                }
            }
        }
        assert_eq!(panics.get(), 0);
    });
}
