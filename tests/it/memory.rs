//! Memory is bounded: what one connection's slices hold, and what all connections hold together.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use std::{fs, thread};

use netpoll::{Bytes, Connection, Dispatch, EventLoop, Limits, LoadBalance, PollManager};

use crate::util::{Client, Server, alone, echo, eventually, lock, modes};

const MIB: usize = 1 << 20;

/// Keeps every byte that it is sent, as slices.
fn hoarding(hoard: &Arc<Mutex<Vec<Bytes>>>) -> netpoll::Builder {
    let kept = hoard.clone();
    EventLoop::builder().on_request(move |(): &mut (), conn: &mut Connection| {
        let len = conn.reader().len();
        let bytes = conn.reader().read_bytes(len)?;
        lock(&kept).push(bytes);
        Ok(())
    })
}

/// Writes until nothing is taken for a while; says how much was taken.
fn fill(client: &mut TcpStream, most: usize) -> usize {
    client.set_write_timeout(Some(Duration::from_millis(300))).expect("a timeout");
    let (mut taken, bytes) = (0, vec![7; 64 << 10]);
    while taken < most {
        match client.write(&bytes) {
            Ok(n) => taken += n,
            Err(_) => break,
        }
    }
    taken
}

fn held(hoard: &Mutex<Vec<Bytes>>) -> usize {
    lock(hoard).iter().map(Bytes::len).sum()
}

/// Peers that send and never read, one after the other until none of them can send more.
fn crowd_that_never_reads(server: &Server, size: usize) -> Vec<TcpStream> {
    let mut crowd: Vec<_> = (0..size).map(|_| server.connect()).collect();
    for client in &crowd {
        client.set_nonblocking(true).expect("a socket");
    }
    let (bytes, mut last) = (vec![7; 64 << 10], Instant::now());
    while last.elapsed() < Duration::from_millis(500) {
        let takes = |client: &mut TcpStream| client.write(&bytes).is_ok();
        if crowd.iter_mut().filter_map(|it| takes(it).then_some(())).count() > 0 {
            last = Instant::now();
        } else {
            thread::sleep(Duration::from_millis(5)); // sleep: the server is at it
        }
    }
    crowd
}

fn resident() -> usize {
    let statm = fs::read_to_string("/proc/self/statm").expect("our own memory");
    statm.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok()).expect("pages") * 4096
}

/// What was queued for peers that are gone leaves the process, and not only the queue: without a
/// word of the user's, and though threads that served them wait for the next.
#[test]
fn the_memory_of_peers_that_never_read_leaves_with_them() {
    alone("memory::the_memory_of_peers_that_never_read_leaves_with_them", || {
        for dispatch in modes() {
            let server = Server::start(echo().dispatch(dispatch));
            server.connect().say(b"x");
            let start = resident();
            for _ in 0..2 {
                let crowd = crowd_that_never_reads(&server, 48);
                let peak = resident();
                assert!(peak > start + 40 * MIB, "{dispatch:?} queues little: {}", peak - start);
                drop(crowd);
                eventually("the memory is given back", || resident() < start + 16 * MIB);
                let resting = || netpoll_buffer::stats().bytes_resting as usize;
                eventually("little rests", || resting() < 4 * MIB);
            }
        }
    });
}

/// A handler that keeps slices makes its own peer wait, not the machine swap; dropping them lets
/// the peer go on, though no edge says so.
#[test]
fn a_connection_whose_slices_are_kept_waits_until_they_are_dropped() {
    for dispatch in modes() {
        let hoard = Arc::new(Mutex::new(Vec::new()));
        let limits = Limits { held_limit: Some(2 * MIB), ..Limits::default() };
        let server = Server::start(hoarding(&hoard).limits(limits).dispatch(dispatch));
        let mut client = server.connect();
        let mut taken = 0;
        // A server that has no time for a moment looks as if it was full.
        eventually("it is full", || {
            taken += fill(&mut client, 256 * MIB);
            held(&hoard) >= 2 * MIB
        });
        assert!(taken < 64 * MIB, "{taken} bytes were taken, {dispatch:?}");
        let kept = held(&hoard);
        assert!((2 * MIB..4 * MIB).contains(&kept), "{kept} bytes are kept, {dispatch:?}");
        lock(&hoard).clear();
        eventually("it goes on", || held(&hoard) >= taken.min(2 * MIB) - MIB);
        // Who keeps nothing is not in the way of who does.
        server.connect().say(b"x");
        eventually("another is heard", || lock(&hoard).iter().any(|bytes| bytes == &b"x"[..]));
    }
}

/// Above the budget the large wait and the new are refused, while the small go on; below it again,
/// all is as before.
#[test]
fn above_the_budget_the_large_wait_the_small_go_on_and_the_new_are_refused() {
    for dispatch in modes() {
        let hoard = Arc::new(Mutex::new(Vec::new()));
        let limits = Limits {
            memory_budget: Some(4 * MIB),
            held_limit: None,
            input_limit: MIB,
            ..Limits::default()
        };
        let event_loop =
            hoarding(&hoard).limits(limits).dispatch(dispatch).build().expect("limits");
        let server = Server::serve(event_loop.clone());
        let mut small = server.connect();
        small.say(b"first");
        eventually("the small one is served", || held(&hoard) == 5);

        let (mut large, mut taken) = (server.connect(), 0);
        eventually("the large one is full", || {
            taken += fill(&mut large, 256 * MIB);
            event_loop.memory().held >= 4 * MIB
        });
        drop(large);
        assert!(taken < 64 * MIB, "{taken} bytes were taken, {dispatch:?}");
        let memory = event_loop.memory();
        assert!((4 * MIB..7 * MIB).contains(&memory.held), "{memory:?}, {dispatch:?}");
        assert!(memory.pauses > 0, "{memory:?}");

        small.say(b"again");
        eventually("it is served still", || lock(&hoard).iter().any(|it| it == &b"again"[..]));
        // The reset may come before `connect` has returned.
        let newcomer = TcpStream::connect(server.address);
        let heard = newcomer.and_then(|mut it| it.read(&mut [0]));
        let refused = heard.expect_err("a newcomer is let in");
        assert_eq!(refused.kind(), ErrorKind::ConnectionReset);
        assert_eq!(event_loop.memory().refusals, 1);

        lock(&hoard).clear();
        eventually("there is room again", || event_loop.memory().held < 4 * MIB);
        let mut late = server.connect();
        late.say(b"late");
        eventually("a newcomer is served", || lock(&hoard).iter().any(|it| it == &b"late"[..]));
    }
}

/// What is queued for a peer that does not read counts as well, and is given back.
/// Empty slices open an account and put nothing on it.
#[test]
fn an_account_does_not_stay_on_its_thread_for_the_next_event_loop() {
    let manager = Arc::new(PollManager::new(1, LoadBalance::RoundRobin).expect("a loop"));
    let hoard = Arc::new(Mutex::new(Vec::new()));
    let limits = Limits { memory_budget: Some(64 * MIB), ..Limits::default() };
    let on_one_thread = |builder: netpoll::Builder| {
        Server::start(builder.limits(limits).dispatch(Dispatch::Inline).manager(manager.clone()))
    };
    let first = on_one_thread(
        hoarding(&hoard)
            .on_connect(|(): &mut (), conn: &mut Connection| conn.reader().slice(0).map(drop)),
    );
    let second = on_one_thread(hoarding(&hoard));
    let _visitor = first.connect();
    eventually("it is there", || manager.stats()[0].callbacks == 1);
    let mut client = second.connect();
    client.say(&[7; 10_000]);
    eventually("it is kept", || held(&hoard) == 10_000);
    assert_eq!(first.event_loop.memory().held, 0);
    assert!(second.event_loop.memory().held >= 10_000);
}

#[test]
fn unsent_output_counts_until_it_is_sent() {
    for dispatch in modes() {
        let limits = Limits {
            memory_budget: Some(64 * MIB),
            output: netpoll::OutputLimits { low: 8 * MIB, high: 32 * MIB },
            ..Limits::default()
        };
        let event_loop = EventLoop::builder()
            .on_request(|(): &mut (), conn: &mut Connection| {
                let len = conn.reader().len();
                conn.reader().skip(len)?;
                conn.writer().append(vec![1; 16 * MIB].into());
                Ok(())
            })
            .limits(limits)
            .dispatch(dispatch)
            .build()
            .expect("limits");
        let server = Server::serve(event_loop.clone());
        let mut client = server.connect();
        client.say(b"x");
        eventually("most is queued", || event_loop.memory().held > 8 * MIB);
        client.hear(&vec![1; 16 * MIB]);
        eventually("nothing is", || event_loop.memory().held == 0);
    }
}

/// Connections of one thread share what they work with, but not the account of it: the slices of
/// one that has a budget count for it, whoever was served on that thread before.
#[test]
fn a_budget_counts_the_slices_of_its_own_connections_alone() {
    let manager = Arc::new(PollManager::new(1, LoadBalance::RoundRobin).expect("a manager"));
    let hoard = Arc::new(Mutex::new(Vec::new()));
    let serve = |limits| {
        let builder = hoarding(&hoard).limits(limits).manager(manager.clone());
        Server::start(builder.dispatch(Dispatch::Inline))
    };
    let free = serve(Limits::default());
    let counted = serve(Limits { memory_budget: Some(64 * MIB), ..Limits::default() });
    // More than is copied into a slice of its own.
    let message = vec![1; 64 << 10];
    for (server, has_budget) in [(&free, false), (&counted, true), (&free, false), (&counted, true)]
    {
        let mut client = server.connect();
        client.say(&message);
        eventually("it is kept", || held(&hoard) == message.len());
        let counts = server.event_loop.memory().held;
        assert_eq!(counts >= message.len(), has_budget, "{counts} bytes");
        lock(&hoard).clear();
        eventually("nothing is held", || server.event_loop.memory().held == 0);
        drop(client);
        eventually("it has left", || manager.stats().iter().all(|it| it.connections == 0));
    }
}
