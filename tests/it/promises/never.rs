//! What never happens: memory that grows with unread bytes, a loop that spins.

use std::io::{ErrorKind, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use netpoll::{Connection, Dispatch, EventLoop, LoadBalance, PollManager};

use crate::util::{
    Client, Gate, Journal, Server, eventually, is_filtered, modes, pool, quiet, within,
};

/// What a peer can get rid of before it is stopped: the limit, and what the kernel holds for both
/// ends, which is some megabytes.
#[test]
fn what_nobody_reads_stays_with_the_peer() {
    const KERNEL: usize = 16 << 20;
    const LIMIT: usize = 1 << 20;
    for (dispatch, holds) in [(pool(), true), (pool(), false), (Dispatch::Inline, false)] {
        let (journal, gate) = (Journal::default(), Gate::default());
        let (seen, closed) = (journal.clone(), gate.clone());
        let server = Server::start(
            EventLoop::builder()
                .on_request(move |(): &mut (), conn: &mut Connection| {
                    if holds {
                        closed.pass();
                    }
                    let len = conn.reader().len();
                    assert!(len <= LIMIT, "{len} bytes are buffered");
                    seen.add("read nothing");
                    Ok(())
                })
                .input_limit(LIMIT)
                .dispatch(dispatch),
        );
        let mut client = server.connect();
        let taken = taken_of(&mut client);
        gate.open();
        assert!(taken < LIMIT + KERNEL, "{dispatch:?}: {taken} bytes were taken and not read");
        journal.wait(1);
        assert!(taken_of(&mut client) < LIMIT + KERNEL, "{dispatch:?}: there is room again");
    }
}

/// How many bytes a peer can send while the server does not read.
fn taken_of(client: &mut TcpStream) -> usize {
    client.set_nonblocking(true).expect("an option");
    let (bytes, mut taken) = (vec![b'x'; 64 << 10], 0);
    let mut takes = || match client.write(&bytes) {
        Ok(written) => {
            taken += written;
            assert!(taken < 1 << 30, "it takes without end");
            true
        }
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::WouldBlock);
            false
        }
    };
    while within(Duration::from_millis(100), &mut takes) {}
    taken
}

/// The socket stays readable, or failed, and is not read: one event, not a stream of them.
#[test]
fn a_socket_that_stays_ready_does_not_spin_its_loop() {
    type Bring = fn(TcpStream) -> Option<TcpStream>;
    if is_filtered() {
        return; // urgent data ends in the tunnel
    }
    let states: [(&str, Bring); 4] = [
        ("half-closed", |client| {
            client.half_close();
            Some(client)
        }),
        ("reset", |client| {
            client.reset();
            None
        }),
        ("urgent", |client| {
            socket2::SockRef::from(&client).send_out_of_band(b"!").expect("urgent data");
            Some(client)
        }),
        ("full", |mut client| {
            taken_of(&mut client);
            Some(client)
        }),
    ];
    for (state, bring_about) in states {
        let manager = Arc::new(PollManager::new(1, LoadBalance::RoundRobin).expect("a manager"));
        let (journal, gate) = (Journal::default(), Gate::default());
        let (seen, closed) = (journal.clone(), gate.clone());
        let server = Server::start(
            EventLoop::builder()
                .on_request(move |(): &mut (), _: &mut Connection| {
                    seen.add("held");
                    closed.pass();
                    Ok(())
                })
                .manager(manager.clone())
                .dispatch(pool()),
        );
        let mut client = server.connect();
        client.say(b"unread");
        journal.wait(1);
        let events = manager.stats()[0].events;
        let _client = bring_about(client);
        eventually("the loop has seen it", || manager.stats()[0].events > events);
        let before = manager.stats()[0];
        quiet(150);
        let turns = manager.stats()[0].turns - before.turns;
        gate.open();
        assert!(turns <= 2, "{state}: {turns} turns with nothing to do");
    }
}

/// Whatever a peer does, it ends no more than its own connection.
#[test]
fn a_peer_that_does_its_worst_ends_only_its_own_connection() {
    for dispatch in modes() {
        let server = Server::start(crate::util::echo().dispatch(dispatch).loops(1));
        let mut bystander = server.connect();
        for round in 0..20 {
            let mut worst = server.connect();
            let _ = worst.write_all(&[round; 1000]);
            let socket = socket2::SockRef::from(&worst);
            let _ = socket.send_out_of_band(&[round]);
            if round % 2 == 0 {
                worst.half_close();
            }
            if round % 3 == 0 {
                worst.reset();
            }
            bystander.echo(b"served");
        }
        bystander.half_close();
        assert_eq!(bystander.rest(), b"");
    }
}
