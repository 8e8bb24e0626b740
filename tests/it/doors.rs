//! Listeners that change hands or close: clients that the kernel has connected already are served.

use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use netpoll::{EventLoop, EventLoopBuilder, ListenOptions, Listener, LoadBalance, PollManager};

use crate::util::{Client, Serving, connect, echo, eventually, holding, inet, modes, quiet};

/// Clients know that they are connected; the kernel waits for their first byte to believe it. So
/// this is a handshake that is under way for as long as a test likes.
fn deferring() -> ListenOptions {
    Listener::options().defer_accept(Duration::from_secs(10))
}

fn manager(loops: usize) -> Arc<PollManager> {
    Arc::new(PollManager::new(loops, LoadBalance::RoundRobin).expect("a manager"))
}

#[test]
fn who_connects_while_a_loop_retires_is_served_by_another() {
    for dispatch in modes() {
        let manager = manager(4);
        let listener = deferring().reuse_port(true).bind("tcp", "127.0.0.1:0").expect("a port");
        let address = inet(&listener);
        let event_loop = echo().dispatch(dispatch).manager(manager.clone()).build();
        let server = Serving::start(event_loop.expect("options"), listener);
        connect(address).echo(b"all loops listen when the first one does");

        let mut clients: Vec<_> = (0..40).map(|_| connect(address)).collect();
        manager.set_loops(1).expect("loops");
        eventually("the main reactor accepts for those that have retired", || {
            connect(address).echo(b"hello");
            server.event_loop.stats().main.accepted >= 10
        });
        for client in &mut clients {
            client.echo(b"hello");
        }
        assert_eq!(server.stop().aborted, 0);
    }
}

#[test]
fn a_further_loop_takes_over_the_socket_that_a_retired_one_left() {
    let manager = manager(4);
    let listener = Listener::options().reuse_port(true).bind("tcp", "127.0.0.1:0").expect("a port");
    let address = inet(&listener);
    let event_loop = echo().manager(manager.clone()).build().expect("options");
    let server = Serving::start(event_loop, listener);
    for _ in 0..3 {
        connect(address).echo(b"all loops listen when the first one does");
        assert_eq!(listening(address), 4, "before the first of them accepts");
        let before = server.event_loop.stats().main.accepted;
        manager.set_loops(1).expect("loops");
        eventually("the main reactor accepts on the three others", || {
            (0..10).for_each(|_| connect(address).echo(b"hello"));
            server.event_loop.stats().main.accepted >= before + 100
        });
        manager.set_loops(4).expect("loops");
        (0..100).for_each(|_| connect(address).echo(b"hello"));
        let all = manager.stats();
        assert!(all.iter().all(|it| it.accepted > 0), "{all:?}");
    }
    assert_eq!(server.stop().aborted, 0);
}

/// How many sockets listen at an address.
fn listening(address: SocketAddr) -> usize {
    let table = std::fs::read_to_string("/proc/net/tcp").expect("procfs");
    let here = format!("0100007F:{:04X} 00000000:0000 0A", address.port());
    table.lines().filter(|line| line.contains(&here)).count()
}

#[test]
fn handshakes_that_have_begun_are_served_at_a_shutdown() {
    for reuse_port in [false, true] {
        let options = deferring().reuse_port(reuse_port);
        let listener = options.bind("tcp", "127.0.0.1:0").expect("a port");
        let path = std::env::temp_dir().join(format!("netpoll-doors-{}", std::process::id()));
        let path = path.to_str().expect("UTF-8");
        let sign = Listener::bind("unix", path).expect("a path");
        let address = inet(&listener);
        let server = Serving::start(echo().build().expect("options"), [listener, sign]);
        connect(address).echo(b"it serves");
        let mut clients: Vec<_> = (0..10).map(|_| connect(address)).collect();
        let begun = Instant::now();
        server.event_loop.shutdown(Duration::from_secs(10));
        eventually("the doors are about to close", || !std::fs::exists(path).expect("a directory"));
        for client in &mut clients {
            client.say(b"hello");
        }
        // Half a second is what they have; on a busy machine we may have missed it.
        if begun.elapsed() < Duration::from_millis(400) {
            for client in &mut clients {
                assert_eq!(client.rest(), b"hello");
            }
        }
        assert_eq!(server.join().aborted, 0);
    }
}

/// A server on one loop with two listeners. One client is admitted; at each listener another has
/// sent a request. There was room for one of the two, and both were accepted for it.
fn crowded(
    builder: EventLoopBuilder,
    manager: &Arc<PollManager>,
) -> (Serving, TcpStream, [TcpStream; 2]) {
    let (builder, gate, held) = holding(builder.manager(manager.clone()));
    let listeners = [0, 1].map(|_| Listener::bind("tcp", "127.0.0.1:0").expect("a port"));
    let addresses = [0, 1].map(|it| inet(&listeners[it]));
    let server = Serving::start(builder.build().expect("options"), listeners);
    let mut inside = connect(addresses[0]);
    inside.say(b"!");
    eventually("its loop is busy", || held.get() == 1);
    let mut waiting = addresses.map(connect);
    for client in &mut waiting {
        client.say(b"hello");
    }
    gate.open();
    inside.hear(b"!");
    // After that its loop has seen both.
    for _ in 0..3 {
        inside.echo(b"more");
    }
    (server, inside, waiting)
}

#[test]
fn who_was_accepted_too_early_waits_on_though_another_accepts() {
    let manager = manager(1);
    let builder = EventLoop::builder().max_connections(2);
    let (server, mut inside, mut waiting) = crowded(builder, &manager);
    manager.set_loops(2).expect("loops");
    inside.echo(b"more");
    drop(inside);
    for client in &mut waiting {
        client.hear(b"hello");
        client.half_close();
    }
    assert_eq!(server.stop().refused, 0);
}

#[test]
fn who_was_accepted_too_early_costs_no_turns_while_they_wait() {
    let manager = manager(1);
    let (server, _inside, mut waiting) = crowded(EventLoop::builder().accept_rate(1, 2), &manager);
    let turns = || manager.stats()[0].turns;
    let before = turns();
    quiet(200); // the next may come in a second
    let spent = turns() - before;
    assert!(spent < 100, "{spent} turns");
    for client in &mut waiting {
        client.hear(b"hello");
    }
    assert_eq!(server.stop().refused, 0);
}
