//! An event loop as a value in a user's program: started, queried, stopped, replaced, dropped.

use std::io::{ErrorKind, Read};
use std::net::TcpStream;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::Duration;

use netpoll::{CloseReason, Connection, Dispatch, EventLoop, Handler, Listener, Result, Running};

use crate::util::{
    Client, Count, Gate, Journal, PATIENCE, Process, connect, echo, echo_once, eventually, inet,
    is_role, lock, modes, refuses,
};

/// Where no other test has a port: those of servers that are gone stay refused.
fn bind() -> Listener {
    Listener::bind("tcp", "127.0.21.7:0").expect("a port")
}

fn address(running: &Running) -> std::net::SocketAddr {
    running.address().inet().expect("of TCP")
}

#[test]
fn a_dropped_one_has_shut_down() {
    for dispatch in modes() {
        let event_loop = echo().dispatch(dispatch).build().expect("options");
        let running = event_loop.spawn([bind(), bind()]).expect("a thread");
        assert_eq!(running.addresses().len(), 2);
        let at = address(&running);
        let mut client = connect(at);
        client.echo(b"hello");
        drop(running);
        client.end();
        eventually("the port is closed", || refuses(at));
    }
}

#[test]
fn a_handler_is_all_the_callbacks() {
    struct All(Journal);
    impl Handler for All {
        type Session = u32;
        fn on_prepare(&self, _: &Connection) -> Result<u32> {
            Ok(7)
        }
        fn on_connect(&self, session: &mut u32, _: &mut Connection) -> Result<()> {
            *session += 1;
            Ok(())
        }
        fn on_request(&self, session: &mut u32, conn: &mut Connection) -> Result<()> {
            *session += 1;
            echo_once(conn)
        }
        fn on_shutdown(&self, session: &mut u32, conn: &mut Connection) -> Result<()> {
            *session += 1;
            assert!(conn.is_shutting_down());
            conn.writer().write_bytes(b"bye");
            Ok(())
        }
        fn on_disconnect(&self, session: u32, reason: &CloseReason) {
            self.0.add(format!("{session} {reason}"));
        }
    }
    let journal = Journal::default();
    let event_loop = EventLoop::builder().handler(All(journal.clone())).build().expect("options");
    let running = event_loop.spawn(bind()).expect("a thread");
    let mut client = connect(address(&running));
    client.echo(b"hello");
    running.shutdown(PATIENCE);
    assert_eq!(client.rest(), b"bye");
    assert_eq!(running.wait().expect("a report").closed_in_order, 1);
    assert_eq!(journal.entries(), ["10 the event loop shut down"]);
}

#[test]
fn a_busy_connection_learns_of_the_shutdown_once_and_finishes() {
    for dispatch in modes() {
        let (gate, told) = (Gate::default(), Count::default());
        let (closed, heard) = (gate.clone(), told.clone());
        let (sender, handles) = mpsc::channel();
        let event_loop = EventLoop::builder()
            .on_request(move |(): &mut (), conn: &mut Connection| {
                let _ = sender.send(conn.handle());
                closed.pass();
                echo_once(conn)
            })
            .on_shutdown(move |(): &mut (), conn: &mut Connection| {
                heard.add();
                conn.writer().write_bytes(b" and bye");
                Ok(())
            })
            .dispatch(dispatch)
            .build()
            .expect("options");
        let running = event_loop.spawn(bind()).expect("a thread");
        let mut client = connect(address(&running));
        client.say(b"hello");
        let handle = handles.recv_timeout(PATIENCE).expect("a callback");
        assert!(!handle.is_shutting_down());
        running.shutdown(PATIENCE);
        assert!(handle.is_shutting_down(), "{dispatch:?}");
        gate.open();
        assert_eq!(client.rest(), b"hello and bye", "{dispatch:?}");
        assert_eq!((running.wait().expect("a report").closed_in_order, told.get()), (1, 1));
    }
}

#[test]
fn statistics_count_what_happened() {
    for dispatch in modes() {
        let event_loop = echo()
            .dispatch(dispatch)
            .loops(2)
            .slow_callback(Duration::from_secs(60))
            .build()
            .expect("options");
        let running = event_loop.spawn(bind()).expect("a thread");
        assert_eq!(running.stats().connections, 0);
        let mut clients = [(); 4].map(|()| connect(address(&running)));
        for client in &mut clients {
            client.echo(b"hello");
            client.echo(&[7; 995]);
        }
        let sum =
            |of: fn(&netpoll::LoopStats) -> u64| running.stats().loops.iter().map(of).sum::<u64>();
        eventually("all is counted", || sum(|it| it.sent) == 4000);
        assert_eq!(sum(|it| it.received), 4000, "{dispatch:?}");
        assert!(sum(|it| it.callbacks) >= 12, "{dispatch:?}: {:?}", running.stats());
        assert_eq!(sum(|it| it.slow_callbacks), 0);
        let stats = running.stats();
        assert_eq!((stats.connections, stats.main.accepted, stats.refused), (4, 4, 0));
        assert!(stats.loops.iter().all(|it| it.turns > 0 && it.events > 0));
        running.shutdown(PATIENCE);
        assert_eq!(running.wait().expect("a report").closed_in_order, 4);
        assert_eq!(event_loop.stats().connections, 0);
    }
}

#[test]
fn slow_callbacks_are_counted() {
    let event_loop = EventLoop::builder()
        .on_request(|(): &mut (), conn: &mut Connection| {
            if conn.reader().peek(1)? == b"s" {
                // sleep: it is the slowness of the callback
                thread::sleep(Duration::from_millis(60));
            }
            echo_once(conn)
        })
        .dispatch(Dispatch::Inline)
        .slow_callback(Duration::from_millis(50))
        .build()
        .expect("options");
    let running = event_loop.spawn(bind()).expect("a thread");
    let mut client = connect(address(&running));
    for word in [&b"fast"[..], b"slow", b"fast", b"slow"] {
        client.echo(word);
    }
    let slow = || running.stats().loops.iter().map(|it| it.slow_callbacks).sum::<u64>();
    eventually("both are counted", || slow() >= 2);
    // One of the fast ones may have been slow, on a busy machine.
    assert!(slow() < 4, "{}", slow());
}

const SUCCESSOR: &str = "embedded::a_server_that_takes_over";

/// The successor's part in [`a_server_is_replaced_and_nobody_is_refused`].
#[test]
fn a_server_that_takes_over() {
    if !is_role(SUCCESSOR) {
        return;
    }
    let control = std::env::var("NETPOLL_TEST_CONTROL").expect("a path");
    let control = UnixStream::connect(control).expect("the old server waits");
    let listeners = Listener::take_over(control).expect("its sockets");
    let names: Vec<_> = listeners.iter().map(|it| it.name().unwrap_or("-").to_owned()).collect();
    let running = echo().build().expect("options").spawn(listeners).expect("a thread");
    println!("serving {names:?}");
    let _ = std::io::stdin().read(&mut [0]);
    running.shutdown(PATIENCE);
    assert_eq!(running.wait().expect("a report").aborted, 0);
    println!("stopped in order");
}

/// Clients connect, ask and leave as fast as they can while one process replaces the other.
#[test]
fn a_server_is_replaced_and_nobody_is_refused() {
    let scratch = std::env::temp_dir().join(format!("netpoll-hot-{}", std::process::id()));
    std::fs::create_dir_all(&scratch).expect("a directory");
    let path = |name: &str| scratch.join(name).to_str().expect("UTF-8").to_owned();
    let control = UnixListener::bind(path("control")).expect("a path");
    let tcp = Listener::bind("tcp", "127.0.21.9:0").expect("a port").named("web");
    let unix = Listener::bind("unix", &path("service")).expect("a path").named("local");
    let (at, event_loop) = (inet(&tcp), echo().build().expect("options"));
    let running = event_loop.spawn([tcp, unix]).expect("a thread");

    let (stop, visits) = (Arc::new(AtomicBool::new(false)), Count::default());
    let failures = Arc::new(Mutex::new(Vec::new()));
    let visitors: Vec<_> = (0..4)
        .map(|number| {
            let (stop, visits, failures) = (stop.clone(), visits.clone(), failures.clone());
            let service = path("service");
            thread::spawn(move || {
                while !stop.load(Ordering::SeqCst) {
                    let outcome = if number == 0 {
                        UnixStream::connect(&service).and_then(visit)
                    } else {
                        TcpStream::connect(at).and_then(visit)
                    };
                    match outcome {
                        Ok(()) => drop(visits.add()),
                        Err(error) => lock(&failures).push(error),
                    }
                }
            })
        })
        .collect();
    let more = |n: usize| {
        let before = visits.get();
        eventually("visitors come and go", || visits.get() >= before + n);
    };
    more(200);
    let mut successor = Process::start(SUCCESSOR, &[("NETPOLL_TEST_CONTROL", &path("control"))]);
    let (to, _) = control.accept().expect("the successor comes");
    event_loop.hand_over(&to).expect("it takes them");
    assert_eq!(successor.said("serving"), r#"["web", "local"]"#);
    more(200);
    running.shutdown(PATIENCE);
    assert_eq!(running.wait().expect("a report").aborted, 0);
    more(500);
    stop.store(true, Ordering::SeqCst);
    for visitor in visitors {
        visitor.join().expect("a visitor");
    }
    // A client whose request had not arrived when the old server closed its idle connections must
    // try again, as with any server; each may meet that once. No client is refused.
    let cut = |error: &std::io::Error| {
        matches!(
            error.kind(),
            ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset | ErrorKind::BrokenPipe
        )
    };
    let failures = lock(&failures);
    assert!(failures.len() <= 4 && failures.iter().all(cut), "{failures:?}");
    successor.end_input();
    successor.said("stopped in order");
    assert!(!std::fs::exists(path("service")).expect("a directory"), "the path is left behind");
    let _ = std::fs::remove_dir_all(&scratch);
}

/// Asks, hears, and leaves after the server, so that no port is held by the client.
fn visit(mut stream: impl Read + std::io::Write) -> std::io::Result<()> {
    stream.write_all(b"hello")?;
    let mut heard = [0; 5];
    stream.read_exact(&mut heard)?;
    if heard == *b"hello" { Ok(()) } else { Err(ErrorKind::InvalidData.into()) }
}

#[test]
fn a_hand_over_that_is_not_taken_changes_nothing() {
    let event_loop = echo().build().expect("options");
    let (to, other) = UnixStream::pair().expect("a pair");
    assert!(event_loop.hand_over(&to).is_err(), "it does not serve");
    let running = event_loop.spawn(bind()).expect("a thread");
    connect(address(&running)).echo(b"hello");
    drop(other);
    assert!(event_loop.hand_over(&to).is_err(), "nobody is there");
    connect(address(&running)).echo(b"hello");
    running.shutdown(PATIENCE);
    running.wait().expect("a report");
}
