//! Callbacks that block on their reactor's thread: the reactor goes on with another.

use std::fs::File;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use netpoll::{
    Connection, Dispatch, EventLoop, EventLoopBuilder, HandOffOptions, Listener, LoadBalance,
    PollManager, PoolOptions, Result, block_in_place,
};

use crate::util::{
    Client, Count, Gate, PATIENCE, Random, Server, alone, connect, echo_once, eventually, hand_off,
    inet, modes, our_threads, quiet, set_fd_limit,
};

/// A server on loops whose counters can be read, and those loops.
fn on_loops<S: Send + 'static>(
    loops: usize,
    builder: EventLoopBuilder<S>,
) -> (Server, Arc<PollManager>) {
    let manager = PollManager::new(loops, LoadBalance::RoundRobin).expect("loops");
    let manager = Arc::new(manager);
    (Server::start(builder.manager(manager.clone()).dispatch(hand_off())), manager)
}

/// What the loops of a manager have counted, in sum.
#[derive(Debug, Default, Clone, Copy)]
struct Sum {
    waiting: u64,
    in_place: u64,
    blocked: u64,
    computing: u64,
    to_workers: u64,
}

fn sum(manager: &PollManager) -> Sum {
    manager.stats().iter().fold(Sum::default(), |sum, each| Sum {
        waiting: sum.waiting + each.handed_off_waiting,
        in_place: sum.in_place + each.handed_off_in_place,
        blocked: sum.blocked + each.handed_off_blocked,
        computing: sum.computing + each.handed_off_computing,
        to_workers: sum.to_workers + each.to_workers,
    })
}

/// An `on_request` that blocks as the first byte of what was sent says, and sends it back.
fn obedient(
    gate: &Gate,
) -> impl Fn(&mut (), &mut Connection) -> Result<()> + Send + Sync + 'static {
    let gate = gate.clone();
    move |(): &mut (), conn: &mut Connection| {
        match conn.reader().peek(1)? {
            b"g" => gate.pass(),
            // sleep: a callback that blocks is what is tested
            b"s" => thread::sleep(Duration::from_millis(1)),
            b"p" => block_in_place(|| thread::sleep(Duration::from_millis(1))), // sleep: as above
            b"c" => compute(Duration::from_millis(5)),
            b"r" => drop(conn.reader().peek(4)?),
            _ => {}
        }
        echo_once(conn)
    }
}

fn compute(time: Duration) {
    let begun = Instant::now();
    while begun.elapsed() < time {}
}

/// A client of each loop, in the order of the loops.
fn one_for_each(server: &Server, loops: usize) -> Vec<TcpStream> {
    (0..loops).map(|_| server.connect()).collect()
}

#[test]
fn callbacks_that_never_return_cost_a_thread_each_and_nothing_else() {
    const LOOPS: usize = 2;
    alone("hand_off::callbacks_that_never_return_cost_a_thread_each_and_nothing_else", || {
        let gate = Gate::default();
        let (server, manager) = on_loops(LOOPS, EventLoop::builder().on_request(obedient(&gate)));
        let mut others = one_for_each(&server, LOOPS);
        let mut stuck = Vec::new();
        for _ in 0..LOOPS + 3 {
            let mut client = server.connect();
            client.say(b"g");
            stuck.push(client);
            for other in &mut others {
                other.echo(b"still here");
            }
        }
        eventually("they are all away", || {
            manager.hand_off_stats().away + usize::try_from(sum(&manager).to_workers).unwrap_or(0)
                >= LOOPS + 3
        });
        for _ in 0..100 {
            for other in &mut others {
                other.echo(b"and go on");
            }
        }
        assert!(manager.hand_off_stats().stalls == 0);
        let begun = Instant::now();
        server.event_loop.shutdown(Duration::from_secs(2));
        let report = server.join();
        assert!(begun.elapsed() < PATIENCE / 2, "the shutdown waited");
        assert_eq!(report.aborted, LOOPS + 3);
        gate.open();
        drop(Arc::into_inner(manager).expect("ours alone"));
        eventually("all threads end", || our_threads().is_empty());
    });
}

#[test]
fn a_callback_may_dial_its_own_loop_and_wait_for_the_answer() {
    let manager = Arc::new(PollManager::new(1, LoadBalance::RoundRobin).expect("a loop"));
    let back = Server::start(
        EventLoop::builder()
            .on_request(|(): &mut (), conn: &mut Connection| echo_once(conn))
            .manager(manager.clone())
            .dispatch(hand_off()),
    );
    let (address, loops) = (back.address.to_string(), manager.clone());
    let front = Server::start(
        EventLoop::builder()
            .on_request(move |(): &mut (), conn: &mut Connection| {
                use netpoll::DialConnection;
                let dialer = netpoll::Dialer::builder().manager(loops.clone()).build()?;
                let mut back = dialer.dial_connection("tcp", &address, PATIENCE)?;
                let question = conn.reader().read_bytes(5)?;
                back.writer().write_shared(question);
                back.writer().flush()?;
                let answer = back.reader().read_bytes(5)?;
                conn.writer().write_shared(answer);
                conn.writer().flush()
            })
            .manager(manager.clone())
            .dispatch(hand_off()),
    );
    let mut clients: Vec<_> = (0..8).map(|_| front.connect()).collect();
    for _ in 0..5 {
        for client in &mut clients {
            client.say(b"hello");
        }
        for client in &mut clients {
            client.hear(b"hello");
        }
    }
    let sum = sum(&manager);
    assert!(sum.waiting > 0, "{sum:?}");
}

#[test]
fn each_way_to_lose_a_reactor_is_counted() {
    let gate = Gate::default();
    let (server, manager) = on_loops(1, EventLoop::builder().on_request(obedient(&gate)));
    let mut client = server.connect();
    client.echo(b"warm");
    assert_eq!(sum(&manager).waiting, 0);
    client.say(b"r");
    eventually("a read waits", || sum(&manager).waiting == 1);
    client.say(b"est");
    client.hear(b"rest");
    for byte in [b"p", b"s", b"c"] {
        let counted = |sum: Sum| match byte {
            b"p" => sum.in_place,
            b"s" => sum.blocked,
            _ => sum.computing,
        };
        // Each on a new connection, whose callbacks are not expected to block. A callback that is
        // short enough may return before the monitor gets a core.
        let lost = || counted(sum(&manager)) > 0;
        let begun = Instant::now();
        while !lost() {
            server.connect().echo(byte);
            for _ in 0..200 {
                client.echo(b"quiet");
            }
            assert!(begun.elapsed() < PATIENCE, "{} was never counted", byte.escape_ascii());
        }
    }
    assert!(manager.stats()[0].longest_stall > Duration::from_micros(50));
    assert!(manager.hand_off_stats().threads_peak >= 2);
}

#[test]
fn a_connection_that_blocks_goes_to_the_workers_and_comes_back_when_it_stops() {
    let (server, manager) =
        on_loops(1, EventLoop::builder().on_request(obedient(&Gate::default())));
    let mut client = server.connect();
    // Soon, but not at once, since a few in a row prove nothing, and there may be noise. A worker
    // that finds the next request when it has answered one serves it as well, so the number of
    // those that were sent to workers is less than a hundred.
    let mut until = |message: &[u8], believed: fn(Sum, Sum) -> bool| {
        let begun = Instant::now();
        loop {
            let before = sum(&manager);
            for _ in 0..100 {
                client.echo(message);
            }
            let after = sum(&manager);
            if believed(before, after) {
                return;
            }
            assert!(begun.elapsed() < PATIENCE, "not believed: {before:?}, {after:?}");
        }
    };
    for _ in 0..2 {
        until(b"s", |was, is| is.to_workers > was.to_workers && is.blocked == was.blocked);
        until(b"quick", |was, is| is.to_workers == was.to_workers);
    }
}

#[test]
fn at_the_most_threads_others_wait_and_nothing_is_lost() {
    let gate = Gate::default();
    let workers = PoolOptions { max_threads: 2, ..PoolOptions::default() };
    let dispatch = Dispatch::HandOff(HandOffOptions { workers, ..HandOffOptions::default() });
    let manager = Arc::new(PollManager::new(1, LoadBalance::RoundRobin).expect("a loop"));
    let builder = EventLoop::builder().on_request(obedient(&gate)).manager(manager.clone());
    let server = Server::start(builder.dispatch(dispatch));
    let mut stuck: Vec<_> = (0..10).map(|_| server.connect()).collect();
    for client in &mut stuck {
        client.say(b"g");
    }
    eventually("as many as may be are away", || manager.hand_off_stats().away == 2);
    quiet(50);
    assert_eq!(manager.hand_off_stats().away, 2);
    gate.open();
    for client in &mut stuck {
        client.hear(b"g");
    }
    eventually("nobody is away", || server.event_loop.stats().hand_off.away == 0);
    for client in &mut stuck {
        client.echo(b"on");
    }
}

#[test]
fn a_half_sent_message_holds_up_nobody_else() {
    const HALF: usize = 12;
    let workers = PoolOptions { max_threads: 4, ..PoolOptions::default() };
    let dispatch = Dispatch::HandOff(HandOffOptions { workers, ..HandOffOptions::default() });
    let builder = EventLoop::builder().on_request(obedient(&Gate::default()));
    let server = Server::start(builder.loops(1).dispatch(dispatch));
    // More than may be away at once, each in a read that only the reactor can end.
    let mut slow: Vec<_> = (0..HALF).map(|_| server.connect()).collect();
    for client in &mut slow {
        client.say(b"r");
    }
    quiet(50);
    for client in &mut slow {
        client.say(b"est");
    }
    for client in &mut slow {
        client.hear(b"rest");
    }
}

#[test]
fn the_monitor_sleeps_while_nothing_runs_and_is_roused_by_what_does() {
    let gate = Gate::default();
    let (server, manager) = on_loops(2, EventLoop::builder().on_request(obedient(&gate)));
    let mut clients = one_for_each(&server, 2);
    for client in &mut clients {
        client.echo(b"quick");
    }
    let looks = || manager.hand_off_stats().monitor_looks;
    eventually("it looks", || looks() > 0);
    let asleep = || {
        let before = looks();
        quiet(60);
        looks() == before
    };
    eventually("it sleeps", asleep);
    for client in &mut clients {
        client.say(b"g");
    }
    for client in &mut one_for_each(&server, 2) {
        client.echo(b"beside it");
    }
    gate.open();
    for client in &mut clients {
        client.hear(b"g");
    }
}

/// Whether a thread sleeps is read in procfs, which takes a descriptor, where there is procfs.
#[test]
fn a_callback_that_sleeps_loses_its_loop_though_no_descriptor_is_left() {
    alone("hand_off::a_callback_that_sleeps_loses_its_loop_though_no_descriptor_is_left", || {
        let gate = Gate::default();
        let (server, manager) = on_loops(1, EventLoop::builder().on_request(obedient(&gate)));
        let (mut stuck, mut other) = (server.connect(), server.connect());
        eventually("both are there", || manager.stats()[0].callbacks == 2);
        let looks = || manager.hand_off_stats().monitor_looks;
        eventually("the monitor sleeps, and has nothing open", || {
            let before = looks();
            quiet(60);
            looks() == before
        });
        set_fd_limit(64);
        let mut all = Vec::new();
        while let Ok(file) = File::open("/dev/null") {
            all.push(file);
        }
        stuck.say(b"g");
        for _ in 0..10 {
            other.echo(b"is served beside it");
        }
        drop(all);
        gate.open();
        stuck.hear(b"g");
    });
}

#[test]
fn a_callback_may_serve_another_event_loop() {
    for dispatch in modes() {
        let (sender, inner) = std::sync::mpsc::channel();
        let server = Server::start(
            EventLoop::builder()
                .on_request(move |(): &mut (), conn: &mut Connection| {
                    let nested = EventLoop::builder()
                        .on_request(|(): &mut (), conn: &mut Connection| echo_once(conn))
                        .dispatch(dispatch);
                    let nested = Arc::new(nested.build()?);
                    let listener = Listener::bind("tcp", "127.0.0.1:0")?;
                    let address = inet(&listener);
                    let visitor = nested.clone();
                    let visitor = thread::spawn(move || {
                        connect(address).echo(b"inside");
                        visitor.shutdown(PATIENCE);
                    });
                    nested.serve(listener)?; // on this thread, which turns the outer loop
                    visitor.join().expect("it was served");
                    let _ = sender.send(());
                    echo_once(conn)
                })
                .dispatch(dispatch),
        );
        let mut client = server.connect();
        client.echo(b"outside");
        inner.recv_timeout(PATIENCE).expect("it was served");
        eventually("nobody is away", || server.event_loop.stats().hand_off.away == 0);
    }
}

const STRESS_SECONDS: &str = "NETPOLL_STRESS_SECONDS";

/// Every request is answered, in order, whatever callbacks do, and every thread ends. For longer:
/// `NETPOLL_STRESS_SECONDS=600 cargo test --release --test it hand_off::stress`.
#[test]
fn stress_of_sleeps_and_computations_loses_and_reorders_nothing() {
    if std::env::var(STRESS_SECONDS).is_ok() {
        return stress(); // a process of its own ends after minutes
    }
    alone("hand_off::stress_of_sleeps_and_computations_loses_and_reorders_nothing", stress);
}

fn stress() {
    let seconds = std::env::var(STRESS_SECONDS).ok().and_then(|it| it.parse().ok());
    let begun = Instant::now();
    let until = begun + Duration::from_secs(seconds.unwrap_or(3));
    let seed = Random::seed();
    println!("NETPOLL_TEST_SEED={seed}");
    let served = Count::default();
    let counted = served.clone();
    let restless = AtomicU64::new(seed | 1);
    let busy = Arc::new(AtomicBool::new(true));
    let builder = EventLoop::builder().on_prepare(|_: &Connection| Ok(0_u32)).on_request(
        move |expected: &mut u32, conn: &mut Connection| {
            let mut random = Random::new(restless.fetch_add(0x9E37_79B9, Ordering::Relaxed));
            // Now few callbacks block, which stay on the reactors and are stolen; now many, which
            // go to the workers.
            let rare = (begun.elapsed().as_millis() / 250).is_multiple_of(2);
            fidget(&mut random, if rare { 2000 } else { 40 });
            // Whole messages of four bytes; sometimes the second half of one is waited for.
            while !conn.reader().is_empty() {
                let number = conn.reader().next(4)?.try_into().map(u32::from_le_bytes);
                let number = number.expect("four bytes");
                assert_eq!(number, *expected, "out of order, or lost");
                *expected += 1;
                counted.add();
                conn.writer().write_bytes(&number.to_le_bytes());
            }
            conn.writer().flush()
        },
    );
    let (server, manager) = on_loops(2, builder);
    let clients: Vec<_> = (0..24_u64)
        .map(|number| {
            let stream = server.connect();
            let busy = busy.clone();
            thread::spawn(move || exchange(stream, &mut Random::new(seed ^ number << 7), &busy))
        })
        .collect();
    // sleep: the length of the test
    thread::sleep(until.saturating_duration_since(Instant::now()));
    busy.store(false, Ordering::SeqCst);
    let sent: usize = clients.into_iter().map(|it| it.join().expect("its answers")).sum();
    println!("{sent} requests, {:?}, {:?}", sum(&manager), manager.hand_off_stats());
    assert_eq!(served.get(), sent);
    assert_eq!(server.stop().aborted, 0);
    assert!(sum(&manager).blocked > 0, "nothing was ever handed over");
    drop(Arc::into_inner(manager).expect("ours alone"));
    // What is joined may stand in procfs for a moment.
    eventually("no thread is left", || our_threads().is_empty());
}

/// Mostly nothing; else a sleep or a computation of up to 3 ms.
fn fidget(random: &mut Random, one_in: usize) {
    let time = Duration::from_micros(random.below(3000) as u64);
    match random.below(one_in) {
        0 => thread::sleep(time), // sleep: a callback that blocks is what is tested
        1 => compute(time),
        2 => block_in_place(|| thread::sleep(time)), // sleep: as above
        _ => {}
    }
}

/// Sends numbers in order, cut anywhere, and checks that they come back in order.
fn exchange(mut stream: TcpStream, random: &mut Random, busy: &AtomicBool) -> usize {
    let (mut sent, mut heard) = (0_u32, 0_u32);
    while busy.load(Ordering::SeqCst) {
        let batch = 1 + random.below(8) as u32;
        let bytes: Vec<u8> = (sent..sent + batch).flat_map(u32::to_le_bytes).collect();
        let cut = random.below(bytes.len() + 1);
        stream.write_all(&bytes[..cut]).expect("it takes it");
        stream.write_all(&bytes[cut..]).expect("it takes it");
        sent += batch;
        while heard < sent {
            let mut number = [0; 4];
            stream.read_exact(&mut number).expect("an answer");
            assert_eq!(u32::from_le_bytes(number), heard);
            heard += 1;
        }
    }
    sent as usize
}
