//! Memory is bounded: what one connection's slices hold, and what all connections hold together.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use std::{fs, thread};

use netpoll::{
    Bytes, Connection, Dispatch, EventLoop, EventLoopBuilder, Limits, LoadBalance, PollManager,
};

use crate::util::{
    Client, Journal, Server, alone, connect, echo, eventually, hand_off, lock, modes, pool,
};

const MIB: usize = 1 << 20;

/// Keeps every byte that it is sent, as slices.
fn hoarding(hoard: &Arc<Mutex<Vec<Bytes>>>) -> EventLoopBuilder {
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

/// Peers that send and never read: until that is enough, and for a while after it.
fn crowd_that_never_reads(
    server: &Server,
    size: usize,
    is_enough: impl Fn() -> bool,
) -> Vec<TcpStream> {
    let mut crowd: Vec<_> = (0..size).map(|_| server.connect()).collect();
    for client in &crowd {
        client.set_nonblocking(true).expect("a socket");
    }
    let bytes = vec![7; 64 << 10];
    let mut send = || {
        let takes = |client: &mut TcpStream| client.write(&bytes).is_ok();
        if crowd.iter_mut().filter_map(|it| takes(it).then_some(())).count() == 0 {
            thread::sleep(Duration::from_millis(5)); // sleep: the server is at it
        }
    };
    eventually("they have sent enough", || {
        send();
        is_enough()
    });
    let since = Instant::now();
    while since.elapsed() < Duration::from_millis(300) {
        send();
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
                drop(crowd_that_never_reads(&server, 48, || resident() > start + 40 * MIB));
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
        // A server that has no time for a moment looks as if it was full. Slices keep whole blocks,
        // so less than the limit may be in them.
        eventually("it is full", || {
            let more = fill(&mut client, 256 * MIB);
            taken += more;
            more == 0 && held(&hoard) >= MIB
        });
        assert!(taken < 64 * MIB, "{taken} bytes were taken, {dispatch:?}");
        let kept = held(&hoard);
        assert!((MIB..4 * MIB).contains(&kept), "{kept} bytes are kept, {dispatch:?}");
        assert!(taken > kept, "{dispatch:?}: nothing waits");
        lock(&hoard).clear();
        eventually("it goes on", || held(&hoard) >= (taken - kept).min(MIB));
        // A connection that keeps nothing is not delayed by one that does.
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
    let on_one_thread = |builder: EventLoopBuilder| {
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

/// Connections of one thread share its scratch, but not its account: the slices of a connection
/// with a budget count for that budget, whichever connection was served there before.
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

/// A server whose callback takes a whole MiB and answers with one byte. It waits for the bytes, or
/// is called again for more of them.
fn taking_a_mebibyte(waits: bool, limits: Limits, dispatch: Dispatch) -> (Server, Journal) {
    let journal = Journal::default();
    let builder = EventLoop::builder()
        .on_request(move |(): &mut (), conn: &mut Connection| {
            if waits || conn.reader().len() >= MIB {
                conn.reader().skip(MIB)?;
                conn.writer().write_byte(b'!');
            }
            Ok(())
        })
        .on_disconnect(journal.on_disconnect());
    (Server::start(builder.limits(limits).dispatch(dispatch)), journal)
}

/// Sends a MiB, as far as it is taken, and says whether that was answered.
fn asks(address: SocketAddr) -> bool {
    let mut client = connect(address);
    let sent = client.write_all(&vec![7; MIB]);
    sent.and_then(|()| client.read_exact(&mut [0])).is_ok()
}

/// What rests counts, half-empty blocks count whole, and no receive takes more than is left.
#[test]
fn the_budget_bounds_all_memory_of_blocks() {
    const BUDGET: usize = 64 * MIB; // a quarter of it is more than all threads may cache
    alone("memory::the_budget_bounds_all_memory_of_blocks", || {
        for dispatch in modes() {
            let limits = Limits { memory_budget: Some(BUDGET), ..Limits::default() };
            let start = |builder: EventLoopBuilder| {
                Server::start(builder.limits(limits).dispatch(dispatch))
            };
            assert_bounded(start(echo()), BUDGET, dispatch);
            assert_bounded(start(copying()), BUDGET, dispatch);
            let waits = !matches!(dispatch, Dispatch::Inline);
            let (server, _) = taking_a_mebibyte(waits, limits, dispatch);
            assert_bounded(server, BUDGET, dispatch);
        }
    });
}

/// As `echo`, but by copies in small pieces, whose blocks are not those that were received.
fn copying() -> EventLoopBuilder {
    EventLoop::builder().on_request(|(): &mut (), conn: &mut Connection| {
        let len = conn.reader().len();
        let bytes = conn.reader().read_bytes(len)?;
        bytes.chunks(100).for_each(|piece| conn.writer().write_bytes(piece));
        conn.writer().flush()
    })
}

fn assert_bounded(server: Server, budget: usize, dispatch: Dispatch) {
    let before = resident();
    let done = AtomicBool::new(false);
    let (blocks, memory) = thread::scope(|scope| {
        let looking = scope.spawn(|| {
            let mut most = (0, 0);
            while !done.load(Ordering::Relaxed) {
                most.0 = most.0.max(netpoll_buffer::bytes_existing());
                most.1 = most.1.max(resident());
                thread::sleep(Duration::from_millis(1)); // sleep: the next sample
            }
            most
        });
        let is_full = || server.event_loop.memory().held >= budget;
        let crowd = crowd_that_never_reads(&server, 128, is_full);
        done.store(true, Ordering::Relaxed);
        drop(crowd);
        looking.join().expect("it only looks")
    });
    assert!(blocks < budget + budget / 4, "{blocks} bytes are in blocks, {dispatch:?}");
    // Beside blocks: the stacks of threads, and what the allocator has for connections.
    assert!(memory < before + budget + budget / 2, "{} grew, {dispatch:?}", memory - before);
    drop(server);
    eventually("nothing is left", || {
        netpoll_buffer::trim(); // what its threads leave as they end
        netpoll_buffer::bytes_existing() < MIB
    });
}

/// Parts of requests that use up the budget wait for each other. Each ends, by an answer or by an
/// error, and those that wait in a read hold a thread meanwhile.
#[test]
fn reads_that_wait_for_each_others_memory_end_one_after_the_other() {
    for dispatch in [pool(), hand_off()] {
        let limits = Limits { memory_budget: Some(4 * MIB), ..Limits::default() };
        let (server, journal) = taking_a_mebibyte(true, limits, dispatch);
        assert_some_are_answered(&server, &journal);
    }
}

/// The same for parts that wait until a callback is due.
#[test]
fn parts_of_requests_that_wait_for_each_others_memory_end_one_after_the_other() {
    let limits = Limits { memory_budget: Some(4 * MIB), ..Limits::default() };
    let (server, journal) = taking_a_mebibyte(false, limits, Dispatch::Inline);
    assert_some_are_answered(&server, &journal);
}

fn assert_some_are_answered(server: &Server, journal: &Journal) {
    let address = server.address;
    let asking: Vec<_> = (0..24).map(|_| thread::spawn(move || asks(address))).collect();
    let outcomes: Vec<_> = asking.into_iter().map(|it| it.join().expect("it asks")).collect();
    let answered = outcomes.iter().filter(|answered| **answered).count();
    let memory = server.event_loop.memory();
    assert!(answered > 0, "nothing is left for anybody: {memory:?}");
    let ended = journal.entries().iter().filter(|entry| *entry == "Limit").count();
    assert_eq!(ended as u64, memory.gave_up, "{:?}", journal.entries());
    eventually("all is given back", || server.event_loop.memory().held == 0);
    assert!(asks(address), "one that comes later is served");
}

/// A connection that is alone may use what its own limit is.
#[test]
fn a_budget_of_one_input_limit_is_enough_for_one_connection() {
    for dispatch in modes() {
        for waits in [false, true] {
            if waits && matches!(dispatch, Dispatch::Inline) {
                continue;
            }
            let limits = Limits { memory_budget: Some(MIB), ..Limits::default() };
            let (server, _) = taking_a_mebibyte(waits, limits, dispatch);
            assert!(asks(server.address), "{dispatch:?}, {waits}");
        }
    }
}
