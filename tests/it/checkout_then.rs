//! Checkouts that go on by callback.

use std::sync::mpsc::{self, Receiver, Sender};
use std::time::Duration;

use netpoll::{Connection, Dialer, Dispatch, EventLoop, Handle, Pool, Pooled, Result};

use crate::dial::refusing;
use crate::util::{Client, PATIENCE, Server, echo, eventually, quiet};

/// A connection with callbacks, for which checkouts are made.
struct Asker {
    server: Server,
    handle: Handle,
    client: std::net::TcpStream,
}

fn asker() -> Asker {
    let (handles, connected) = mpsc::channel();
    let server = Server::start(
        EventLoop::builder()
            .on_connect(move |(): &mut (), conn: &mut Connection| {
                let _ = handles.send(conn.handle());
                Ok(())
            })
            .on_request(|(): &mut (), _: &mut Connection| Ok(()))
            .dispatch(Dispatch::Inline),
    );
    let client = server.connect();
    let handle = connected.recv_timeout(PATIENCE).expect("a connection");
    Asker { server, handle, client }
}

/// What came of a checkout: the connection, or the error's words.
type Outcome = std::result::Result<Pooled, String>;

fn checkout(pool: &Pool, asker: &Asker, address: &str, time: Duration) -> Receiver<Outcome> {
    let (told, outcome): (Sender<Outcome>, _) = mpsc::channel();
    let then = move |_: &mut Connection, pooled: Result<Pooled>| {
        let _ = told.send(pooled.map_err(|it| it.to_string()));
        Ok(())
    };
    pool.checkout_then(&asker.handle, "tcp", address, time, then).expect("it is under way");
    outcome
}

fn pool(most: usize) -> Pool {
    let dialer = Dialer::builder().build().expect("options");
    Pool::builder().max_open(most).build(dialer).expect("limits")
}

#[test]
fn a_checkout_is_given_an_idle_connection_or_a_new_one() {
    let (origin, asker) = (Server::start(echo()), asker());
    let (pool, address) = (pool(8), origin.address.to_string());
    let get = || checkout(&pool, &asker, &address, PATIENCE).recv_timeout(PATIENCE);
    let first = get().expect("it is told").expect("a connection");
    let port = first.local_addr().expect("an address");
    drop(first);
    let again = get().expect("it is told").expect("a connection");
    assert_eq!(again.local_addr().expect("an address"), port);
    let another = get().expect("it is told").expect("a connection");
    assert_ne!(another.local_addr().expect("an address"), port);
    assert_eq!((pool.stats().dialled, pool.stats().reused), (2, 1));
}

#[test]
fn checkouts_wait_in_order_for_what_comes_back() {
    let (origin, asker) = (Server::start(echo()), asker());
    let (pool, address) = (pool(1), origin.address.to_string());
    let only = pool.checkout("tcp", &address, PATIENCE).expect("a connection");
    let first = checkout(&pool, &asker, &address, PATIENCE);
    let second = checkout(&pool, &asker, &address, PATIENCE);
    let late = checkout(&pool, &asker, &address, Duration::from_millis(10));
    let words = late.recv_timeout(PATIENCE).expect("it is told").expect_err("none comes back");
    assert!(words.contains("in use"), "{words}");
    drop(only);
    let granted = first.recv_timeout(PATIENCE).expect("it is told").expect("a connection");
    quiet(20);
    assert!(second.try_recv().is_err(), "two have the only connection");
    granted.discard();
    // Closed, so the next is allowed to dial.
    let granted = second.recv_timeout(PATIENCE).expect("it is told").expect("a connection");
    drop(granted);
    assert_eq!(pool.stats().dialled, 2);
}

#[test]
fn the_end_of_the_asker_leaves_the_queue() {
    let (origin, ending, other) = (Server::start(echo()), asker(), asker());
    let (pool, address) = (pool(1), origin.address.to_string());
    let only = pool.checkout("tcp", &address, PATIENCE).expect("a connection");
    let in_vain = checkout(&pool, &ending, &address, PATIENCE);
    let next = checkout(&pool, &other, &address, PATIENCE);
    ending.client.reset();
    eventually("it has ended", || ending.server.event_loop.stats().connections == 0);
    assert!(in_vain.recv_timeout(PATIENCE).is_err(), "a callback of a connection that has gone");
    drop(only);
    next.recv_timeout(PATIENCE).expect("it is told").expect("a connection");
    assert_eq!(pool.stats().waiting, 0);
}

#[test]
fn a_refused_dial_of_a_checkout_is_told_and_not_counted_as_open() {
    let (_bound, address) = refusing();
    let (address, asker, pool) = (address.to_string(), asker(), pool(1));
    for _ in 0..3 {
        let outcome = checkout(&pool, &asker, &address, PATIENCE);
        let words = outcome.recv_timeout(PATIENCE).expect("it is told").expect_err("none listens");
        assert!(words.contains("refused"), "{words}");
    }
    assert_eq!((pool.stats().open, pool.stats().dials_failed), (0, 3));
}
