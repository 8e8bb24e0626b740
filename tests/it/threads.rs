//! Threads that run out: the system refuses them, or slow peers hold them. All other connections
//! are still served.

use std::io::{ErrorKind, Read};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use netpoll::{
    CloseReason, Connection, Dispatch, EventLoop, HandOffOptions, PoolOptions, Result,
    dial_connection,
};
use socket2::{Domain, Socket, Type};

use crate::util::{
    Client, Gate, Journal, NoThreads, PATIENCE, Server, echo_once, eventually, hand_off,
    our_threads, pool, quiet, refusing_threads,
};

/// An echo of messages of four bytes, which waits for the rest of one.
fn in_fours(conn: &mut Connection) -> Result<()> {
    conn.reader().peek(4)?;
    echo_once(conn)
}

/// A server of these on one loop, and why its connections ended.
fn server(dispatch: Dispatch) -> (Server, Journal) {
    let reasons = Journal::default();
    let ended = reasons.clone();
    let builder = EventLoop::builder()
        .on_request(|(): &mut (), conn: &mut Connection| in_fours(conn))
        .on_disconnect(move |(): (), reason: &CloseReason| ended.add(format!("{reason:?}")));
    let server = Server::start(builder.dispatch(dispatch).loops(1));
    eventually("its loop has begun", || server.event_loop.stats().loops.len() == 1);
    (server, reasons)
}

fn half(server: &Server) -> TcpStream {
    let mut client = server.connect();
    client.say(b"ha");
    client
}

#[track_caller]
fn ends_for_want_of_threads(mut client: TcpStream, reasons: &Journal) {
    assert_eq!(client.rest(), b"");
    let ended = || reasons.entries().contains(&"Limit(Threads)".to_owned());
    eventually("its end has that name", ended);
}

/// A callback that waits on the only thread fails with an error that names the cause, and all other
/// connections are served.
#[test]
fn a_refused_thread_stops_no_loop() {
    refusing_threads("threads::a_refused_thread_stops_no_loop", || {
        let (server, reasons) = server(hand_off());
        let mut before = server.connect();
        for _ in 0..20 {
            before.echo(b"ping");
        }
        let refusal = NoThreads::from_now_on();
        for _ in 0..20 {
            let slow = half(&server);
            before.echo(b"ping");
            server.connect().echo(b"pong");
            ends_for_want_of_threads(slow, &reasons);
        }
        assert!(server.event_loop.stats().hand_off.stalls > 0, "nothing is counted");
        drop(refusal);
        // From now on they wait again, after a moment.
        eventually("a read waits", || {
            let mut slow = half(&server);
            before.echo(b"ping");
            slow.say(b"lf");
            let mut answer = [0; 4];
            slow.read_exact(&mut answer).is_ok()
        });
    });
}

/// The first callback of all: there is no monitor yet, and no worker.
#[test]
fn where_no_thread_can_be_had_callbacks_run_on_the_loop() {
    refusing_threads("threads::where_no_thread_can_be_had_callbacks_run_on_the_loop", || {
        for dispatch in [pool(), hand_off()] {
            let (server, reasons) = server(dispatch);
            let refusal = NoThreads::from_now_on();
            let mut client = server.connect();
            for _ in 0..20 {
                client.echo(b"ping");
                server.connect().echo(b"pong");
            }
            let ran: u64 = server.event_loop.stats().loops.iter().map(|it| it.without_worker).sum();
            assert!(ran >= 40, "{ran} callbacks are counted, {dispatch:?}");
            ends_for_want_of_threads(half(&server), &reasons);
            drop(refusal);
            eventually("a read waits", || {
                let mut slow = half(&server);
                client.echo(b"ping");
                slow.say(b"lf");
                let mut answer = [0; 4];
                slow.read_exact(&mut answer).is_ok()
            });
        }
    });
}

/// The modes that have threads, with few of them.
fn few_threads() -> [Dispatch; 2] {
    let workers = PoolOptions { max_threads: 16, ..PoolOptions::default() };
    let hand_off = HandOffOptions { workers, ..HandOffOptions::default() };
    [Dispatch::Pool(workers), Dispatch::HandOff(hand_off)]
}

/// A client whose callbacks have shown that they return. It sends so many messages because one run
/// may serve several, and two runs that are counted at once may count as one.
fn proven(server: &Server) -> TcpStream {
    let mut client = server.connect();
    for _ in 0..200 {
        client.echo(b"ping");
    }
    client
}

fn waits_ended(server: &Server) -> u64 {
    let stats = server.event_loop.stats();
    stats.workers.waits_ended + stats.hand_off.waits_ended
}

#[track_caller]
fn serves_others(server: &Server, known: &mut TcpStream) {
    for _ in 0..20 {
        known.echo(b"ping");
    }
    for _ in 0..3 {
        server.connect().echo(b"pong");
    }
}

/// As many as may be at work, and threads are left for others: nothing has had to end yet, and the
/// job of the newcomer is what must have it looked after.
#[test]
fn a_newcomer_behind_as_many_slow_peers_as_may_be_is_served() {
    const OPEN: usize = 14;
    let forever = Duration::from_secs(3600);
    let server = server(Dispatch::Pool(PoolOptions {
        max_threads: 16,
        idle: forever,
        ..PoolOptions::default()
    }))
    .0;
    let mut known = proven(&server);
    for _ in 0..3 {
        let _halves: Vec<_> = (0..OPEN).map(|_| half(&server)).collect();
        eventually("each has a thread", || {
            let workers = server.event_loop.stats().workers;
            workers.threads - workers.idle >= OPEN && workers.queued == 0
        });
        known.echo(b"ping");
        quiet(50); // the standby sleeps by then; were it awake, the outcome would be the same
        server.connect().echo(b"pong");
    }
}

/// Many more than there may be threads, each in a read that only its peer could end.
#[test]
fn half_requests_hold_up_nobody() {
    const HALVES: usize = 150;
    for dispatch in few_threads() {
        let (server, reasons) = server(dispatch);
        let mut known = proven(&server);
        let halves: Vec<_> = (0..HALVES).map(|_| half(&server)).collect();
        serves_others(&server, &mut known);
        let ended = || reasons.entries().iter().filter(|it| *it == "Timeout(Read)").count();
        eventually("those that are too many end", || ended() >= HALVES - 2 * 16);
        assert!(waits_ended(&server) >= ended() as u64, "{dispatch:?}");
        serves_others(&server, &mut known);
        // While no callback needs their threads, the rest may go on waiting.
        eventually("no more of them end", || {
            let before = ended();
            quiet(300);
            ended() == before
        });
        assert!(ended() < HALVES, "{dispatch:?}");
        drop(halves);
    }
}

/// The same in flushes: what one callback sends is more than a peer takes that does not read.
#[test]
fn peers_that_do_not_read_hold_up_nobody() {
    const SILENT: usize = 40;
    for dispatch in few_threads() {
        let builder = EventLoop::builder().on_request(|(): &mut (), conn: &mut Connection| {
            if conn.reader().peek(4)? == b"much" {
                for _ in 0..16 {
                    conn.writer().write_bytes(&vec![0; 1 << 20]);
                    conn.writer().flush()?;
                }
            }
            echo_once(conn)
        });
        let server = Server::start(builder.dispatch(dispatch).loops(1));
        let mut known = proven(&server);
        let silent: Vec<_> = (0..SILENT)
            .map(|_| {
                let mut client = server.connect();
                client.say(b"much");
                client
            })
            .collect();
        serves_others(&server, &mut known);
        eventually("those that are too many end", || waits_ended(&server) >= 40 - 2 * 16);
        serves_others(&server, &mut known);
        drop(silent);
    }
}

/// The same in dials, to a listener that accepts no more.
#[test]
fn dials_that_hang_hold_up_nobody() {
    const DIALS: usize = 40;
    let full = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    full.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("a port");
    full.listen(0).expect("a listener");
    let address = full.local_addr().ok().and_then(|it| it.as_socket()).expect("an address");
    let _fills_it = TcpStream::connect(address).expect("room for one");
    for dispatch in few_threads() {
        let builder = EventLoop::builder().on_request(move |(): &mut (), conn: &mut Connection| {
            if conn.reader().peek(4)? == b"dial" {
                let error = dial_connection("tcp", &address.to_string(), 2 * PATIENCE);
                let error = error.expect_err("nobody accepts");
                assert_eq!(error.kind(), ErrorKind::TimedOut);
            }
            echo_once(conn)
        });
        let server = Server::start(builder.dispatch(dispatch).loops(1));
        let mut known = proven(&server);
        let dialling: Vec<_> = (0..DIALS)
            .map(|_| {
                let mut client = server.connect();
                client.say(b"dial");
                client
            })
            .collect();
        serves_others(&server, &mut known);
        eventually("those that are too many end", || waits_ended(&server) >= 40 - 2 * 16);
        serves_others(&server, &mut known);
        drop(dialling);
    }
}

/// Slow peers hold all the threads that there are, and the system refuses more.
#[test]
fn half_requests_hold_up_nobody_where_threads_are_refused() {
    refusing_threads("threads::half_requests_hold_up_nobody_where_threads_are_refused", || {
        for dispatch in [pool(), hand_off()] {
            let (server, _) = server(dispatch);
            let mut known = proven(&server);
            let before: Vec<_> = (0..8).map(|_| half(&server)).collect();
            eventually("they have threads", || {
                let stats = server.event_loop.stats();
                stats.workers.threads + stats.hand_off.threads >= 8
            });
            let refusal = NoThreads::from_now_on();
            let after: Vec<_> = (0..40).map(|_| half(&server)).collect();
            serves_others(&server, &mut known);
            drop((refusal, before, after));
        }
    });
}

/// All workers are in reads that only their peers could end, the standby has left, and the system
/// refuses another: the loops see to those that wait.
#[test]
fn where_the_standby_is_refused_the_longest_wait_ends_all_the_same() {
    refusing_threads(
        "threads::where_the_standby_is_refused_the_longest_wait_ends_all_the_same",
        || {
            const WORKERS: usize = 4;
            let idle = Duration::from_millis(50);
            let few = PoolOptions { max_threads: WORKERS, idle, ..PoolOptions::default() };
            let (server, reasons) = server(Dispatch::Pool(few));
            let mut known = proven(&server);
            let halves: Vec<_> = (0..WORKERS).map(|_| half(&server)).collect();
            eventually("each has a worker, and the standby has left", || {
                let workers = server.event_loop.stats().workers;
                let is_there = our_threads().contains(&"netpoll-standby".to_owned());
                (workers.threads, workers.idle, is_there) == (WORKERS, 0, false)
            });
            let refusal = NoThreads::from_now_on();
            serves_others(&server, &mut known);
            assert!(reasons.entries().contains(&"Timeout(Read)".to_owned()));
            drop((refusal, halves));
        },
    );
}

/// Callbacks that wait in code of the user's can't be ended: what is left are the threads that are
/// kept for connections whose callbacks have shown that they return.
#[test]
fn some_threads_are_kept_for_those_whose_callbacks_return() {
    for dispatch in few_threads() {
        let gate = Gate::default();
        let closed = gate.clone();
        let builder = EventLoop::builder().on_request(move |(): &mut (), conn: &mut Connection| {
            if conn.reader().peek(4)? == b"gate" {
                closed.pass();
            }
            echo_once(conn)
        });
        let server = Server::start(builder.dispatch(dispatch).loops(1));
        let mut known = proven(&server);
        let mut stuck: Vec<_> = (0..40).map(|_| server.connect()).collect();
        for client in &mut stuck {
            client.say(b"gate");
        }
        eventually("no thread is left for others", || {
            let stats = server.event_loop.stats();
            stats.workers.queued > 0 && stats.workers.threads >= 14
        });
        for _ in 0..20 {
            known.echo(b"ping");
        }
        gate.open();
        for client in &mut stuck {
            client.hear(b"gate");
        }
    }
}
