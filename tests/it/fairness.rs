//! Fairness: a connection with input without end gets its share of a loop and no more.

use std::io::Write;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::{Mutex, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use netpoll::{Connection, Dispatch, EventLoop, PoolOptions};

use crate::util::{
    Client, Gate, Journal, PATIENCE, Server, connect, echo_once, is_filtered, pool, quiet,
};

/// How many callbacks of one connection may run while others wait.
const CALLBACKS_A_TURN: usize = 5;
const UNBOUNDED: usize = usize::MAX;

/// The firehose's bytes stand in its socket when the other one is scheduled, and are more than one
/// turn takes. Counted is how many callbacks it gets before the other one's.
#[test]
fn a_firehose_gets_one_turn_before_others_get_theirs() {
    const BITE: usize = 1000;
    const BITES: usize = 100;
    if is_filtered() {
        return; // the end of what it sends may be in the tunnel still
    }
    let one_worker = PoolOptions { max_threads: 1, ..PoolOptions::default() };
    let turns = [(CALLBACKS_A_TURN, UNBOUNDED), (UNBOUNDED, CALLBACKS_A_TURN * BITE)];
    let modes = [Dispatch::Inline, Dispatch::Pool(one_worker)];
    for ((rounds, bytes), dispatch) in turns.into_iter().flat_map(|it| modes.map(|to| (it, to))) {
        let (journal, gate) = (Journal::default(), Gate::default());
        let (seen, closed) = (journal.clone(), gate.clone());
        let (sender, handles) = mpsc::channel();
        let server = Server::start(
            EventLoop::builder()
                .on_connect(move |(): &mut (), conn: &mut Connection| {
                    let _ = sender.send(conn.handle());
                    Ok(())
                })
                .on_request(move |(): &mut (), conn: &mut Connection| {
                    let len = conn.reader().len();
                    conn.reader().skip(len)?;
                    seen.add(if len < BITE { "other" } else { "hose" });
                    if len == BITE {
                        closed.pass();
                    }
                    Ok(())
                })
                .input_limit(BITE)
                .turn_limits(rounds, bytes)
                .dispatch(dispatch)
                .loops(1),
        );
        let mut other = server.connect();
        let handle = handles.recv_timeout(PATIENCE).expect("a connection");
        let mut hose = server.connect();
        hose.say(&[b'x'; BITE]);
        journal.wait(1);
        // Inside the first callback: what is sent now stands in the kernel when it returns.
        hose.say(&vec![b'x'; BITE * BITES]);
        if matches!(dispatch, Dispatch::Inline) {
            other.say(b"?");
        } else {
            handle.wake(); // it stands in the pool's queue when this returns
        }
        quiet(20); // all of it is there
        gate.open();
        let entries = journal.wait(2 + BITES);
        let before = entries.iter().position(|it| it == "other").expect("its callback");
        assert!(before <= CALLBACKS_A_TURN, "{dispatch:?}, {rounds}, {bytes}: {before} before it");
    }
}

/// Each of many firehoses gets its turns: none is starved by the others.
#[test]
fn firehoses_take_turns() {
    const HOSES: usize = 4;
    const BITE: usize = 1000;
    const BITES: usize = 120;
    let one_worker = PoolOptions { max_threads: 1, ..PoolOptions::default() };
    for dispatch in [Dispatch::Inline, Dispatch::Pool(one_worker)] {
        let (journal, gate) = (Journal::default(), Gate::default());
        let (seen, closed) = (journal.clone(), gate.clone());
        let server = Server::start(
            EventLoop::builder()
                .on_request(move |(): &mut (), conn: &mut Connection| {
                    let len = conn.reader().len();
                    let name = conn.reader().read_string(len)?;
                    seen.add(&name[..1]);
                    if name == "0" {
                        closed.pass();
                    }
                    Ok(())
                })
                .input_limit(BITE)
                .turn_limits(CALLBACKS_A_TURN, UNBOUNDED)
                .dispatch(dispatch)
                .loops(1),
        );
        let _hoses = open_hoses(&server, &journal, HOSES, BITE * BITES);
        gate.open();
        let entries = journal.wait(HOSES * (1 + BITES)).split_off(HOSES);
        // From its first callback on, a connection is known to have more to read.
        let mut last = [None; HOSES];
        for (at, name) in entries.iter().enumerate() {
            let hose = &mut last[name.parse::<usize>().expect("a number")];
            let since = at - hose.replace(at).unwrap_or(at);
            let most = CALLBACKS_A_TURN * HOSES;
            assert!(since <= most, "{dispatch:?}: {name} waited for {since} callbacks");
        }
    }
}

/// Of firehoses that fill their turns, one has some turns in a row and then the next one: it is
/// not starved, and what an event announces does not wait for the rest of the row.
#[test]
fn of_firehoses_that_fill_their_turns_each_has_some_in_a_row() {
    const HOSES: usize = 4;
    const BITE: usize = 1000;
    const BITES: usize = 400;
    if is_filtered() {
        return; // what has come in pieces does not fill a turn
    }
    let (journal, gate) = (Journal::default(), Gate::default());
    let (seen, closed) = (journal.clone(), gate.clone());
    let (sender, others) = mpsc::channel::<TcpStream>();
    let others = Mutex::new(others);
    let server = Server::start(
        EventLoop::builder()
            .on_request(move |(): &mut (), conn: &mut Connection| {
                let len = conn.reader().len();
                let name = conn.reader().read_string(len)?;
                seen.add(&name[..1]);
                if name == "0" {
                    closed.pass();
                }
                if len == BITE
                    && seen.len() > HOSES * BITES / 2
                    && let Ok(mut other) = others.lock().expect("one loop").try_recv()
                {
                    seen.add("asked");
                    other.write_all(b"?")?; // an event of the same loop, while this turn lasts
                }
                Ok(())
            })
            .input_limit(BITE)
            .turn_limits(UNBOUNDED, BITE)
            .dispatch(Dispatch::Inline)
            .loops(1),
    );
    sender.send(connect(server.address)).expect("its callback takes it");
    let _hoses = open_hoses(&server, &journal, HOSES, BITE * BITES);
    gate.open();
    let entries = journal.wait(HOSES * (1 + BITES) + 2).split_off(HOSES);
    let at = |name| entries.iter().position(|it| it == name).expect("its callback");
    let before = at("?") - at("asked");
    assert!(before <= 2 * HOSES, "{before} callbacks before that of an event");
    let rows = entries.chunk_by(|one, next| one == next).map(<[_]>::len);
    assert!(rows.max() > Some(1), "each has one turn after the other");
}

/// Not a test of time: it prints what quiet connections feel of a firehose, on their own loop and
/// on another one, which takes its share of the processors as well.
#[test]
#[ignore = "a measurement; to be asked for with --release and --nocapture"]
fn pingers_beside_a_firehose() {
    for dispatch in [Dispatch::Inline, pool()] {
        let server = || Server::start(consuming().dispatch(dispatch).loops(1));
        let pinged = server();
        let quiet = latencies(pinged.address);
        let other = server();
        let hose = Hose::open(other.address);
        let beside = latencies(pinged.address);
        let elsewhere = hose.close();
        let hose = Hose::open(pinged.address);
        let under = latencies(pinged.address);
        let here = hose.close();
        println!(
            "{}: p50/p99/max in us: no firehose {quiet:.0?}, on another loop {beside:.0?} \
             ({elsewhere:.0} MB/s), on the same loop {under:.0?} ({here:.0} MB/s); p99 ratios: \
             same/none {:.2}, same/other {:.2}",
            if matches!(dispatch, Dispatch::Inline) { "inline" } else { "pool" },
            under[1] / quiet[1],
            under[1] / beside[1],
        );
    }
}

/// Connects so many firehoses, the callback of the first of which waits, and has each send so many
/// bytes, which all stand in the kernel then.
fn open_hoses(server: &Server, journal: &Journal, hoses: usize, bytes: usize) -> Vec<TcpStream> {
    let mut open: Vec<_> = (0..hoses).map(|_| server.connect()).collect();
    for (number, hose) in open.iter_mut().enumerate().rev() {
        hose.say(number.to_string().as_bytes());
        journal.wait(hoses - number); // it is registered, and the first one is held inside
    }
    for (number, hose) in open.iter_mut().enumerate() {
        hose.say(number.to_string().repeat(bytes).as_bytes());
    }
    quiet(20); // all of it is there
    open
}

/// Echoes pings, takes everything else.
fn consuming() -> netpoll::EventLoopBuilder {
    EventLoop::builder().on_request(|(): &mut (), conn: &mut Connection| {
        if conn.reader().peek(1)? == b"?" {
            return echo_once(conn);
        }
        let len = conn.reader().len();
        conn.reader().skip(len)
    })
}

/// A client that sends as fast as it is read from.
struct Hose {
    stream: TcpStream,
    writing: JoinHandle<f64>,
}

impl Hose {
    fn open(address: SocketAddr) -> Self {
        let stream = connect(address);
        let mut writer = stream.try_clone().expect("a descriptor");
        let (sender, flowing) = mpsc::channel();
        let writing = thread::spawn(move || {
            let (begun, mut sent, bytes) = (Instant::now(), 0.0, vec![b'x'; 256 << 10]);
            while writer.write_all(&bytes).is_ok() {
                sent += 0.262_144;
                let _ = sender.send(());
            }
            sent / begun.elapsed().as_secs_f64()
        });
        (0..100).for_each(|_| flowing.recv_timeout(PATIENCE).expect("it flows"));
        Self { stream, writing }
    }

    /// Returns how many megabytes a second it sent.
    fn close(self) -> f64 {
        let _ = self.stream.shutdown(Shutdown::Both);
        self.writing.join().expect("a writer")
    }
}

/// p50, p99 and the longest of 200 connections' pings, in microseconds. Each has a thread of its
/// own, so that none waits for another's answer.
fn latencies(address: SocketAddr) -> [f64; 3] {
    const PINGERS: u32 = 200;
    const PACE: Duration = Duration::from_millis(100);
    let begun = Instant::now() + PACE;
    let pingers: Vec<_> = (0..PINGERS)
        .map(|number| thread::spawn(move || ping(address, begun + PACE * number / PINGERS, PACE)))
        .collect();
    let mut took: Vec<f64> =
        pingers.into_iter().flat_map(|it| it.join().expect("a pinger")).collect();
    took.sort_unstable_by(f64::total_cmp);
    [took[took.len() / 2], took[took.len() * 99 / 100], took[took.len() - 1]]
}

fn ping(address: SocketAddr, begun: Instant, pace: Duration) -> Vec<f64> {
    const PINGS: u32 = 50;
    let mut pinger = connect(address);
    pinger.echo(b"?");
    (0..PINGS)
        .map(|number| {
            let due = begun + pace * number;
            // sleep: the pace of the pings
            thread::sleep(due.saturating_duration_since(Instant::now()));
            let sent = Instant::now();
            pinger.echo(b"?");
            sent.elapsed().as_secs_f64() * 1e6
        })
        .collect()
}
