//! Threads that run out: those that the system refuses, and those that slow peers hold. Everybody
//! else is served on.

use std::io::Read;
use std::net::TcpStream;

use netpoll::{CloseReason, Connection, Dispatch, EventLoop, Result};

use crate::util::{
    Client, Journal, NoThreads, Server, echo_once, eventually, hand_off, pool, refusing_threads,
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

/// A callback that waits on the only thread there is fails, by name, and everybody else is served.
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
