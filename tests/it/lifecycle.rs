//! The order of the callbacks, one at a time, and what their errors and panics end.

use std::net::Shutdown;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use netpoll::{
    CloseReason, Connection, Error, EventLoop, Handle, LoadBalance, PollManager, Result,
};

use crate::util::{
    Client, Count, Journal, PATIENCE, Server, echo_once, eventually, is_filtered, lock, modes,
    quiet,
};

#[test]
fn callbacks_come_in_order_and_once() {
    if is_filtered() {
        return; // the port is the tunnel's
    }
    for dispatch in modes() {
        let journal = Journal::default();
        let [prepared, connected, requested, left] = [(); 4].map(|()| journal.clone());
        let server = Server::start(
            EventLoop::builder()
                .on_prepare(move |conn: &Connection| {
                    prepared.add(format!("prepare {}", conn.peer_addr().port()));
                    Ok(conn.peer_addr().port())
                })
                .on_connect(move |port: &mut u16, conn: &mut Connection| {
                    assert_eq!(conn.peer_addr().port(), *port);
                    connected.add("connect");
                    conn.writer().write_bytes(b"hello");
                    Ok(())
                })
                .on_request(move |_: &mut u16, conn: &mut Connection| {
                    requested.add("request");
                    echo_once(conn)
                })
                .on_disconnect(move |port: u16, reason: &CloseReason| {
                    left.add(format!("disconnect {port}: {reason}"));
                })
                .dispatch(dispatch),
        );
        let mut client = server.connect();
        let port = client.local_addr().expect("an address").port();
        client.hear(b"hello");
        client.echo(b"one");
        client.echo(b"two");
        drop(client);
        let expected = [
            format!("prepare {port}"),
            "connect".into(),
            "request".into(),
            "request".into(),
            format!("disconnect {port}: closed by the peer"),
        ];
        assert_eq!(journal.wait(5), expected, "{dispatch:?}");
        server.stop();
        assert_eq!(journal.len(), 5);
    }
}

#[test]
fn on_connect_speaks_first_and_blocks_no_one_else() {
    let (release, gate) = mpsc::channel::<()>();
    let gate = std::sync::Mutex::new(gate);
    let (first, inside) = (AtomicBool::new(true), Count::default());
    let entered = inside.clone();
    let server = Server::start(
        EventLoop::builder()
            .on_connect(move |(): &mut (), conn: &mut Connection| {
                if first.swap(false, Ordering::SeqCst) {
                    entered.add();
                    let _ = lock(&gate).recv_timeout(PATIENCE);
                }
                conn.writer().write_bytes(b"hi ");
                Ok(())
            })
            .on_request(|(): &mut (), conn: &mut Connection| echo_once(conn))
            .loops(1),
    );
    let mut blocked = server.connect();
    blocked.say(b"early");
    eventually("it blocks", || inside.get() == 1);
    let mut client = server.connect();
    client.hear(b"hi ");
    client.echo(b"overtakes");
    release.send(()).expect("on_connect waits");
    blocked.hear(b"hi early");
}

#[test]
fn on_prepare_refuses_by_an_error_and_by_a_panic() {
    for dispatch in modes() {
        let (journal, asked) = (Journal::default(), Count::default());
        let [connected, requested] = [(); 2].map(|()| journal.clone());
        let server = Server::start(
            EventLoop::builder()
                .on_prepare(move |_: &Connection| match asked.add() {
                    0 => Err(std::io::Error::other("not today").into()),
                    1 => panic!("told to"),
                    _ => Ok(()),
                })
                .on_connect(move |(): &mut (), _: &mut Connection| {
                    connected.add("connect");
                    Ok(())
                })
                .on_request(move |(): &mut (), conn: &mut Connection| {
                    requested.add("request");
                    echo_once(conn)
                })
                .on_disconnect(journal.on_disconnect())
                .dispatch(dispatch),
        );
        assert_eq!(server.connect().rest(), b"");
        assert_eq!(server.connect().rest(), b"");
        let mut client = server.connect();
        client.echo(b"the third is served");
        assert_eq!(journal.wait(2), ["connect", "request"], "{dispatch:?}");
        drop(client);
        assert_eq!(journal.wait(3), ["connect", "request", "Peer"]);
        assert_eq!(server.stop().aborted, 0);
        assert_eq!(journal.len(), 3);
    }
}

#[test]
fn a_panic_closes_only_its_connection() {
    for dispatch in modes() {
        for place in ["connect", "request", "disconnect"] {
            let journal = Journal::default();
            let left = journal.clone();
            let (numbers, armed) = (Count::default(), Arc::new(AtomicBool::new(false)));
            let bomb = armed.clone();
            let panics = move |here: &str, number: usize| {
                assert!(here != place || number != 1, "told to, in {here}");
                bomb.load(Ordering::SeqCst)
            };
            let [at_connect, at_request, at_disconnect] = [(); 3].map(|()| panics.clone());
            let server = Server::start(
                EventLoop::builder()
                    .on_prepare(move |_: &Connection| Ok(numbers.add()))
                    .on_connect(move |number: &mut usize, _: &mut Connection| {
                        at_connect("connect", *number);
                        Ok(())
                    })
                    .on_request(move |number: &mut usize, conn: &mut Connection| {
                        at_request("request", *number);
                        echo_once(conn)
                    })
                    .on_disconnect(move |number: usize, reason: &CloseReason| {
                        left.add(format!("{number} {reason}"));
                        at_disconnect("disconnect", number);
                    })
                    .dispatch(dispatch)
                    .loops(1),
            );
            let mut bystander = server.connect();
            bystander.echo(b"before");
            let mut victim = server.connect();
            let _ = std::io::Write::write_all(&mut victim, b"boom");
            let _ = victim.shutdown(Shutdown::Write);
            let reason =
                if place == "disconnect" { "closed by the peer" } else { "a callback panicked" };
            assert_eq!(journal.wait(1), [format!("1 {reason}")], "{dispatch:?} {place}");
            bystander.echo(b"after");
            assert!(!armed.load(Ordering::SeqCst));
            assert_eq!(server.stop().aborted, 0);
            assert_eq!(journal.len(), 2, "{:?}", journal.entries());
        }
    }
}

/// Enters a callback, fails if another one of the connection is inside.
struct Alone(Arc<AtomicBool>);

impl Alone {
    fn enter(inside: &Arc<AtomicBool>) -> Self {
        assert!(!inside.swap(true, Ordering::SeqCst), "two callbacks at once");
        Self(inside.clone())
    }
}

impl Drop for Alone {
    fn drop(&mut self) {
        self.0.store(false, Ordering::SeqCst);
    }
}

#[test]
fn one_callback_of_a_connection_runs_at_a_time() {
    for dispatch in modes() {
        let (sender, handles) = mpsc::channel::<Handle>();
        let (calls, journal) = (Count::default(), Journal::default());
        let called = calls.clone();
        let server = Server::start(
            EventLoop::builder()
                .on_prepare(|_: &Connection| Ok(Arc::new(AtomicBool::new(false))))
                .on_connect(move |inside: &mut Arc<AtomicBool>, conn: &mut Connection| {
                    let _alone = Alone::enter(inside);
                    sender.send(conn.handle()).expect("the test listens");
                    Ok(())
                })
                .on_request(move |inside: &mut Arc<AtomicBool>, conn: &mut Connection| {
                    let _alone = Alone::enter(inside);
                    called.add();
                    thread::yield_now();
                    echo_once(conn)
                })
                .on_disconnect({
                    let journal = journal.clone();
                    move |inside: Arc<AtomicBool>, reason: &CloseReason| {
                        let _alone = Alone::enter(&inside);
                        journal.add(crate::util::name_of(reason));
                    }
                })
                .dispatch(dispatch)
                .loops(2),
        );
        let mut clients: Vec<_> = (0..4).map(|_| server.connect()).collect();
        let handles: Vec<_> =
            (0..4).map(|_| handles.recv_timeout(PATIENCE).expect("a connection")).collect();
        let done = Arc::new(AtomicBool::new(false));
        let wakers: Vec<_> = (0..2)
            .map(|_| {
                let (handles, done) = (handles.clone(), done.clone());
                thread::spawn(move || {
                    while !done.load(Ordering::SeqCst) {
                        handles.iter().for_each(Handle::wake);
                        thread::yield_now();
                    }
                })
            })
            .collect();
        for round in 0..50 {
            let message = format!("{round:08}");
            for client in &mut clients {
                client.say(message.as_bytes());
            }
            for client in &mut clients {
                client.hear(message.as_bytes());
            }
        }
        clients.into_iter().for_each(drop);
        // A callback that met another one has panicked, and its reason tells.
        assert_eq!(journal.wait(4), vec!["Peer"; 4], "{dispatch:?}");
        done.store(true, Ordering::SeqCst);
        for waker in wakers {
            waker.join().expect("a waker");
        }
        assert!(calls.get() >= 50 * 4, "{} calls", calls.get());
        server.stop();
        assert_eq!(journal.len(), 4);
    }
}

/// A session that counts how often it is made and dropped.
struct Session {
    dropped: Count,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.dropped.add();
    }
}

#[test]
fn a_session_is_dropped_exactly_once_however_its_connection_ends() {
    for dispatch in modes() {
        let (made, dropped) = (Count::default(), Count::default());
        let (maker, dropper) = (made.clone(), dropped.clone());
        let server = Server::start(
            EventLoop::builder()
                .on_prepare(move |_: &Connection| {
                    maker.add();
                    Ok(Session { dropped: dropper.clone() })
                })
                .on_request(|_: &mut Session, conn: &mut Connection| {
                    match conn.reader().read_byte()? {
                        b'e' => Err(Error::Closed),
                        b'p' => panic!("told to"),
                        b'c' => {
                            conn.close();
                            Ok(())
                        }
                        _ => Ok(()),
                    }
                })
                .dispatch(dispatch),
        );
        let mut open = Vec::new();
        for byte in b"epcxepcx".repeat(5) {
            let mut client = server.connect();
            client.say(&[byte]);
            open.push(client);
        }
        eventually("those that failed are gone", || dropped.get() == 30);
        open.truncate(35);
        open.into_iter().step_by(2).for_each(Client::reset);
        eventually("all are made", || made.get() == 40);
        assert_eq!(server.stop().aborted, 0);
        assert_eq!((made.get(), dropped.get()), (40, 40), "{dispatch:?}");
        quiet(20);
        assert_eq!(dropped.get(), 40);
    }
}

#[test]
fn an_error_of_on_connect_closes_before_any_request() {
    for dispatch in modes() {
        let (journal, requests) = (Journal::default(), Count::default());
        let requested = requests.clone();
        let server = Server::start(
            EventLoop::builder()
                .on_connect(|(): &mut (), _: &mut Connection| -> Result<()> {
                    Err(std::io::Error::other("unwelcome").into())
                })
                .on_request(move |(): &mut (), _: &mut Connection| {
                    requested.add();
                    Ok(())
                })
                .on_disconnect(journal.on_disconnect())
                .dispatch(dispatch),
        );
        assert_eq!(server.connect().rest(), b"");
        assert_eq!(journal.wait(1), ["Callback"]);
        assert_eq!(requests.get(), 0);
    }
}

#[test]
fn a_forced_shutdown_ends_connections_on_a_manager_that_goes_on() {
    for dispatch in modes() {
        let manager = Arc::new(PollManager::new(1, LoadBalance::RoundRobin).expect("a manager"));
        let (journal, calls) = (Journal::default(), Count::default());
        let called = calls.clone();
        let server = Server::start(
            EventLoop::builder()
                .on_request(move |(): &mut (), _: &mut Connection| {
                    called.add();
                    Ok(()) // unread, so it stays busy
                })
                .on_disconnect(journal.on_disconnect())
                .manager(manager.clone())
                .dispatch(dispatch),
        );
        let mut client = server.connect();
        client.say(b"half a request");
        eventually("it is busy", || calls.get() == 1);
        server.event_loop.shutdown(Duration::from_millis(1));
        assert_eq!(server.join().aborted, 1);
        assert_eq!(journal.wait(1), ["Shutdown"], "{dispatch:?}");
        eventually("the loop has closed it", || manager.stats()[0].connections == 0);
        let _ = std::io::Read::read(&mut client, &mut [0]); // an end or a reset
        let next = Server::start(crate::util::echo().manager(manager).dispatch(dispatch));
        next.connect().echo(b"the manager goes on");
    }
}
