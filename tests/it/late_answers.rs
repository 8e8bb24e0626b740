//! The client's pool: no caller reads the answer to another one's question.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use netpoll::{
    Connection, Dialer, Dispatch, Error, Limits, LoadBalance, PollManager, Pool, PoolStats, Pooled,
};

use crate::pool::{Scene, inet, name};
use crate::util::{Client, Count, Gate, PATIENCE, eventually};

/// Does something to a connection that is out, with its other end.
type Fault = fn(&mut Pooled, &mut TcpStream);

/// Which cause a count is of.
type Cause = fn(&PoolStats) -> u64;

/// What may bring a late answer, and what the pool calls it.
fn faults() -> Vec<(&'static str, Fault, Cause)> {
    vec![
        ("a read timeout", read_times_out, |it| it.closed_failed),
        ("a read timeout with a half answer", half_an_answer, |it| it.closed_failed),
        ("a write timeout", write_times_out, |it| it.closed_failed),
        ("an answer that is too large", too_large, |it| it.closed_failed),
        ("a read that did not wait", did_not_wait, |it| it.closed_failed),
        ("leaving without a read", |pooled, _| ask(pooled, b"?"), |it| it.closed_unanswered),
        ("a question by a handle", by_a_handle, |it| it.closed_unanswered),
        ("another connection in its place", replaced, |it| it.closed_discarded),
    ]
}

fn ask(conn: &mut Connection, question: &[u8]) {
    conn.writer().write_bytes(question);
    conn.writer().flush().expect("it goes out");
}

fn read_times_out(pooled: &mut Pooled, peer: &mut TcpStream) {
    ask(pooled, b"?");
    peer.hear(b"?");
    pooled.set_read_timeout(Some(Duration::from_millis(1)));
    let error = pooled.reader().until(b'\n').expect_err("no answer");
    assert!(matches!(error, Error::TimedOut(_)), "{error:?}");
}

fn half_an_answer(pooled: &mut Pooled, peer: &mut TcpStream) {
    ask(pooled, b"?");
    peer.say(b"half");
    assert_eq!(pooled.reader().next(4).expect("it comes"), b"half");
    pooled.set_read_timeout(Some(Duration::from_millis(1)));
    pooled.reader().next(4).expect_err("the other half does not");
}

fn write_times_out(pooled: &mut Pooled, peer: &mut TcpStream) {
    pooled.set_write_timeout(Some(Duration::from_millis(1)));
    let much = vec![b'x'; 1 << 20];
    let mut sent = 0;
    let error = loop {
        pooled.writer().write_bytes(&much);
        sent += much.len();
        if let Err(error) = pooled.writer().flush() {
            break error;
        }
    };
    assert!(matches!(error, Error::TimedOut(_)), "{error:?}");
    // It is all taken in the end, and something is answered: only the timeout is left to tell.
    peer.read_exact(&mut vec![0; sent]).expect("all of it");
    peer.say(b"!");
    assert_eq!(pooled.reader().read_byte().expect("it comes"), b'!');
}

fn too_large(pooled: &mut Pooled, peer: &mut TcpStream) {
    ask(pooled, b"?");
    peer.say(b"!");
    assert_eq!(pooled.reader().read_byte().expect("it comes"), b'!');
    let most = pooled.reader().limit();
    let error = pooled.reader().next(most + 1).expect_err("more than may be buffered");
    assert!(matches!(error, Error::InputLimit { .. }), "{error:?}");
}

fn did_not_wait(pooled: &mut Pooled, peer: &mut TcpStream) {
    ask(pooled, b"?");
    peer.say(b"half");
    assert_eq!(pooled.reader().next(4).expect("it comes"), b"half");
    let error = pooled.reader().try_next(4).expect_err("the other half does not");
    assert!(matches!(error, Error::WouldBlock), "{error:?}");
}

fn by_a_handle(pooled: &mut Pooled, peer: &mut TcpStream) {
    whole_exchange(pooled, peer);
    pooled.handle().send(&b"?"[..]).expect("it goes out");
}

fn replaced(pooled: &mut Pooled, _: &mut TcpStream) {
    let address = pooled.peer_addr().to_string();
    let other = netpoll::dial_connection("tcp", &address, PATIENCE).expect("a connection");
    let (_read, mut write) = std::mem::replace(&mut **pooled, other).into_split();
    write.writer().write_bytes(b"?");
    write.writer().flush().expect("it goes out");
}

fn whole_exchange(pooled: &mut Pooled, peer: &mut TcpStream) {
    ask(pooled, b"?");
    peer.hear(b"?");
    peer.say(b"!");
    assert_eq!(pooled.reader().read_byte().expect("it comes"), b'!');
}

#[test]
fn what_may_bring_a_late_answer_does_not_come_back() {
    for (name_of, fault, cause) in faults() {
        let scene = Scene::of(Pool::builder());
        let (mut pooled, mut peer) = scene.pair();
        whole_exchange(&mut pooled, &mut peer);
        fault(&mut pooled, &mut peer);
        drop(pooled);
        let stats = scene.pool.stats();
        assert_eq!((stats.idle, cause(&stats)), (0, 1), "after {name_of}: {stats:?}");
        assert_eq!(closed(&stats), 1, "after {name_of}: {stats:?}");
        peer.half_close();
        peer.rest(); // it is closed, so this ends
    }
}

/// How many were closed in all.
fn closed(stats: &PoolStats) -> u64 {
    let PoolStats { closed_dead, closed_dirty, closed_failed, closed_unanswered, .. } = *stats;
    let judged = closed_dead + closed_dirty + closed_failed + closed_unanswered;
    judged + stats.closed_panicked + stats.closed_discarded + stats.closed_expired
}

#[test]
fn a_waiting_caller_is_not_given_what_may_bring_a_late_answer() {
    for (name_of, fault, cause) in faults() {
        let scene = Scene::of(Pool::builder().max_open(1));
        let (mut pooled, mut peer) = scene.pair();
        fault(&mut pooled, &mut peer);
        thread::scope(|scope| {
            let next = scope.spawn(|| scene.checkout());
            scene.await_waiting(1);
            drop(pooled);
            let mut next = next.join().expect("a connection");
            let stats = scene.pool.stats();
            assert_eq!((stats.dialled, cause(&stats)), (2, 1), "after {name_of}: {stats:?}");
            assert!(matches!(next.reader().try_peek(1), Err(Error::WouldBlock)));
        });
    }
}

#[test]
fn what_a_panicking_thread_had_does_not_come_back() {
    let scene = Scene::of(Pool::builder());
    let (mut pooled, mut peer) = scene.pair();
    whole_exchange(&mut pooled, &mut peer);
    let panicking = thread::spawn(move || {
        let _pooled = pooled;
        panic!("on purpose");
    });
    panicking.join().expect_err("it panics");
    let stats = scene.pool.stats();
    assert_eq!((stats.idle, stats.closed_panicked, closed(&stats)), (0, 1, 1));
    assert_eq!(peer.rest(), b"");
}

#[test]
fn a_caller_that_knows_better_keeps_or_discards() {
    for (name_of, fault, _) in faults() {
        let scene = Scene::of(Pool::builder());
        let (mut pooled, mut peer) = scene.pair();
        let ours = name(&pooled);
        fault(&mut pooled, &mut peer);
        let is_it = name(&pooled) == ours;
        pooled.keep();
        if is_it {
            assert_eq!(name(&scene.checkout()), ours, "after {name_of}");
            assert_eq!(closed(&scene.pool.stats()), 0, "after {name_of}");
        }
    }
    let scene = Scene::of(Pool::builder());
    let (mut pooled, mut peer) = scene.pair();
    whole_exchange(&mut pooled, &mut peer);
    pooled.discard();
    let stats = scene.pool.stats();
    assert_eq!((stats.idle, stats.closed_discarded, closed(&stats)), (0, 1, 1));
    // What is not sent, or not read, is not kept all the same; nor is what has ended.
    let (mut pooled, mut peer) = scene.pair();
    pooled.writer().write_bytes(b"half");
    pooled.keep();
    assert_eq!(scene.pool.stats().closed_dirty, 1);
    peer.rest(); // it is closed, so this ends
    let (mut pooled, peer) = scene.pair();
    peer.reset();
    pooled.reader().read_byte().expect_err("it has ended");
    pooled.keep();
    assert_eq!(scene.pool.stats().closed_dead, 1);
}

#[test]
fn what_is_kept_is_judged_anew_the_next_time() {
    let scene = Scene::of(Pool::builder());
    let (mut pooled, mut peer) = scene.pair();
    read_times_out(&mut pooled, &mut peer);
    pooled.keep();
    let mut again = scene.checkout();
    whole_exchange(&mut again, &mut peer);
    drop(again);
    assert_eq!(scene.pool.stats().idle, 1);
    ask(&mut scene.checkout(), b"?");
    assert_eq!((scene.pool.stats().idle, scene.pool.stats().closed_unanswered), (0, 1));
}

#[test]
fn what_was_sent_while_it_was_idle_is_found_before_the_next_one_has_it() {
    let scene = Scene::of(Pool::builder());
    let (mut pooled, mut peer) = scene.pair();
    whole_exchange(&mut pooled, &mut peer);
    let (handle, ours) = (pooled.handle(), name(&pooled));
    drop(pooled);
    handle.send(&b"?"[..]).expect("it goes out");
    assert_ne!(name(&scene.checkout()), ours);
    assert_eq!(scene.pool.stats().closed_unanswered, 1);
}

#[test]
fn what_has_come_is_found_though_no_loop_has_seen_it() {
    let scene = Scene::of(Pool::builder());
    let manager = Arc::new(PollManager::new(1, LoadBalance::RoundRobin).expect("a loop"));
    let dialer = Dialer::new(Limits::default()).expect("limits").manager(manager);
    let pool = Pool::builder().build(dialer.clone()).expect("options");
    let pooled = pool.checkout("tcp", &scene.address, PATIENCE).expect("a connection");
    let (ours, mut late) = (inet(&pooled), scene.listener.accept().expect("its other end").0);
    let socket = TcpStream::from(pooled.as_fd().try_clone_to_owned().expect("a descriptor"));
    let (gate, stands) = (Gate::default(), Count::default());
    let stood = (gate.clone(), stands.clone());
    let stander = netpoll::Client::builder()
        .on_connect(move |(): &mut (), _: &mut Connection| {
            stood.1.add();
            stood.0.pass();
            Ok(())
        })
        .on_request(|(): &mut (), _: &mut Connection| Ok(()))
        .dispatch(Dispatch::Inline)
        .dialer(dialer)
        .build()
        .expect("options");
    stander.dial("tcp", &scene.address, PATIENCE).expect("a connection");
    eventually("the loop stands", || stands.get() == 1);
    drop(pooled);
    late.say(b"late");
    eventually("it has come", || socket.peek(&mut [0; 4]).is_ok_and(|n| n == 4));
    thread::scope(|scope| {
        let next = scope.spawn(|| pool.checkout("tcp", &scene.address, PATIENCE));
        eventually("it is found", || pool.stats().closed_dirty == 1);
        gate.open();
        assert_ne!(inet(&next.join().expect("no panic").expect("another")), ours);
    });
}

/// A server that answers each line after a while, in order, as many do.
fn slow(listener: TcpListener, pause: Duration) {
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || {
                let mut answers = stream.try_clone().expect("a descriptor");
                for line in BufReader::new(stream).lines().map_while(io::Result::ok) {
                    // sleep: the server that answers late is what is tried
                    thread::sleep(pause);
                    if writeln!(answers, "answer to {line}").is_err() {
                        break;
                    }
                }
            });
        }
    });
}

#[test]
fn no_caller_gets_the_answer_of_another() {
    const PAUSE: Duration = Duration::from_millis(40);
    let scene = Scene::of(Pool::builder().max_open(4));
    let (pool, address) = (scene.pool, scene.address);
    slow(scene.listener, PAUSE);
    let (answered, given_up) = (Count::default(), Count::default());
    thread::scope(|scope| {
        for number in 0..6_u32 {
            let (pool, address) = (&pool, &address);
            let (answered, given_up) = (answered.clone(), given_up.clone());
            scope.spawn(move || {
                for turn in 0..12 {
                    let question = format!("{number}/{turn}");
                    let mut conn = pool.checkout("tcp", address, PATIENCE).expect("one comes");
                    // Every second one gives up about when the answer comes.
                    let patience = if turn % 2 == 0 { PATIENCE } else { PAUSE };
                    conn.set_read_timeout(Some(patience));
                    ask(&mut conn, format!("{question}\n").as_bytes());
                    match conn.reader().until(b'\n') {
                        Ok(line) => {
                            assert_eq!(line, format!("answer to {question}\n").as_bytes());
                            answered.add();
                        }
                        Err(error) => {
                            assert!(matches!(error, Error::TimedOut(_)), "{error:?}");
                            given_up.add();
                        }
                    }
                }
            });
        }
    });
    let stats = pool.stats();
    assert!(answered.get() >= 36, "{stats:?}");
    assert_eq!(stats.closed_failed, given_up.get() as u64, "{stats:?}");
}
