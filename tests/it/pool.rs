//! The client's pool: which connections it hands out to which caller, and which never.

use std::io::{ErrorKind, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use netpoll::{
    Address, Connection, DialConnection, Dialer, Dispatch, Error, EventLoop, Limits, Pool,
    PoolBuilder, Pooled, Result,
};

use crate::dial::refusing;
use crate::errors::is_a_sentence;
use crate::util::{
    Client, Count, PATIENCE, Server, alone, echo, eventually, lock, our_threads, quiet,
};

/// A pool, and a listener for it to dial.
pub(crate) struct Scene {
    pub(crate) pool: Pool,
    pub(crate) listener: TcpListener,
    pub(crate) address: String,
}

impl Scene {
    pub(crate) fn of(builder: PoolBuilder) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        let dialer = Dialer::new(Limits::default()).expect("limits");
        Self { pool: builder.build(dialer).expect("options"), listener, address }
    }

    pub(crate) fn checkout(&self) -> Pooled {
        self.try_checkout(PATIENCE).expect("a connection")
    }

    fn try_checkout(&self, timeout: Duration) -> Result<Pooled> {
        self.pool.checkout("tcp", &self.address, timeout)
    }

    /// A new connection and its other end.
    pub(crate) fn pair(&self) -> (Pooled, TcpStream) {
        let pooled = self.checkout();
        let (peer, _) = self.listener.accept().expect("a connection");
        peer.set_read_timeout(Some(PATIENCE)).expect("an option");
        assert_eq!(peer.peer_addr().expect("an address"), inet(&pooled));
        (pooled, peer)
    }

    pub(crate) fn await_waiting(&self, count: usize) {
        eventually("they wait", || self.pool.stats().waiting == count);
    }
}

pub(crate) fn inet(conn: &Connection) -> std::net::SocketAddr {
    conn.local_addr().ok().and_then(|it| it.inet()).expect("an address")
}

pub(crate) fn name(conn: &Connection) -> Address {
    conn.local_addr().expect("an address")
}

#[test]
fn what_comes_back_is_handed_out_again_newest_first() {
    let scene = Scene::of(Pool::builder());
    let (first, second) = (scene.checkout(), scene.checkout());
    let names = [name(&first), name(&second)];
    assert_ne!(names[0], names[1]);
    drop(first);
    drop(second);
    let stats = scene.pool.stats();
    assert_eq!((stats.open, stats.idle, stats.dialled, stats.reused), (2, 2, 2, 0));
    assert_eq!(name(&scene.checkout()), names[1]);
    let both = (scene.checkout(), scene.checkout());
    assert_eq!([name(&both.1), name(&both.0)], names);
    let stats = scene.pool.stats();
    assert_eq!((stats.open, stats.idle, stats.dialled, stats.reused), (2, 0, 2, 3));
}

#[test]
fn addresses_and_networks_are_kept_apart() {
    let (here, (_bound, there)) = (Scene::of(Pool::builder()), refusing());
    let ours = name(&here.checkout());
    let other = here.pool.checkout("tcp4", &here.address, PATIENCE).expect("a connection");
    assert_ne!(name(&other), ours);
    let there = here.pool.checkout("tcp", &there.to_string(), PATIENCE);
    let error = there.expect_err("nobody listens");
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    assert_eq!(name(&here.checkout()), ours);
}

#[test]
fn those_who_wait_are_served_in_order() {
    const WAITING: usize = 8;
    let scene = Scene::of(Pool::builder().max_open(1));
    let order = Mutex::new(Vec::new());
    let held = scene.checkout();
    let ours = name(&held);
    thread::scope(|scope| {
        for number in 0..WAITING {
            let (scene, order, ours) = (&scene, &order, &ours);
            scope.spawn(move || {
                let conn = scene.checkout();
                assert_eq!(name(&conn), *ours);
                lock(order).push(number);
            });
            scene.await_waiting(number + 1);
        }
        drop(held);
    });
    assert_eq!(*lock(&order), (0..WAITING).collect::<Vec<_>>());
    let stats = scene.pool.stats();
    assert_eq!((stats.open, stats.dialled, stats.waiting), (1, 1, 0));
}

#[test]
fn who_waits_in_vain_is_told_at_the_deadline_and_loses_nothing() {
    const TIMEOUT: Duration = Duration::from_millis(100);
    let scene = Scene::of(Pool::builder().max_open(2));
    let held = [scene.checkout(), scene.checkout()];
    let begun = Instant::now();
    let error = scene.try_checkout(TIMEOUT).expect_err("none comes back");
    assert!(begun.elapsed() >= TIMEOUT && begun.elapsed() < PATIENCE / 2);
    assert_eq!(error.kind(), ErrorKind::TimedOut);
    is_a_sentence(&error, &[&scene.address, "all 2", "in use", "100ms"]);
    let stats = scene.pool.stats();
    assert_eq!((stats.open, stats.waiting, stats.timed_out), (2, 0, 1));
    drop(held);
    assert_eq!(scene.pool.stats().idle, 2);
}

#[test]
fn no_connection_is_lost_between_deadlines_and_returns() {
    let scene = Scene::of(Pool::builder().max_open(2));
    let served = Count::default();
    drop((scene.checkout(), scene.checkout())); // a dial takes longer than they have
    thread::scope(|scope| {
        for number in 0..6_u32 {
            let (scene, served) = (&scene, served.clone());
            scope.spawn(move || {
                for turn in 0..2000 {
                    // Some give up at about the time at which something comes back.
                    let timeout = Duration::from_micros(u64::from(1 + (number * 7 + turn) % 60));
                    if scene.try_checkout(timeout).is_ok() {
                        served.add();
                    }
                }
            });
        }
    });
    let stats = scene.pool.stats();
    assert!(served.get() > 100, "{stats:?}");
    assert!(stats.open == stats.idle && stats.open <= 2 && stats.waiting == 0, "{stats:?}");
    let _both = (scene.checkout(), scene.checkout());
}

#[test]
fn what_the_peer_has_closed_is_never_handed_out() {
    let scene = Scene::of(Pool::builder());
    for reset in [false, true] {
        let (pooled, peer) = scene.pair();
        let handle = pooled.handle();
        let ours = name(&pooled);
        drop(pooled);
        if reset {
            peer.reset();
        } else {
            drop(peer);
        }
        eventually("the reactor has seen it", || !handle.is_active());
        let (next, _peer) = scene.pair();
        assert_ne!(name(&next), ours);
        drop(next.detach());
    }
    assert_eq!(scene.pool.stats().closed_dead, 2);
}

#[test]
fn what_has_bytes_that_nobody_asked_for_is_never_handed_out() {
    let scene = Scene::of(Pool::builder());
    // They come while it is idle.
    let (pooled, mut peer) = scene.pair();
    let ours = name(&pooled);
    drop(pooled);
    peer.say(b"late");
    let mut next = scene.checkout();
    let begun = Instant::now();
    while name(&next) == ours {
        assert!(begun.elapsed() < PATIENCE, "it is handed out again and again");
        // The reactor has not seen them yet, so the next user reads them.
        next.reader().peek(4).expect("they are there");
        drop(next);
        next = scene.checkout();
    }
    assert!(scene.pool.stats().closed_dirty == 1);
    assert_eq!(peer.rest(), b"");
    // They are left unread, or unflushed.
    let (_other, _) = scene.listener.accept().expect("the next one's");
    let dirty: [fn(&mut Pooled, &mut TcpStream); 2] = [
        |pooled, peer| {
            peer.say(b"answer");
            pooled.reader().next(3).expect("three of six");
        },
        |pooled, _| pooled.writer().write_string("half a request"),
    ];
    for soil in dirty {
        let (mut pooled, mut peer) = scene.pair();
        soil(&mut pooled, &mut peer);
        drop(pooled);
        peer.half_close();
        // What was written leaves with the close, as of any dialled connection.
        let rest = peer.rest();
        assert!(rest.is_empty() || rest == b"half a request", "{rest:?}");
    }
    assert_eq!(scene.pool.stats().closed_dirty, 3);
}

#[test]
fn a_second_edge_for_bytes_that_were_read_condemns_nobody() {
    let server = Server::start(echo());
    let dialer = Dialer::new(Limits::default()).expect("limits");
    let pool = Pool::builder().build(dialer).expect("options");
    let mut names = std::collections::HashSet::new();
    for turn in 0..500_usize {
        let mut conn =
            pool.checkout("tcp", &server.address.to_string(), PATIENCE).expect("a connection");
        // In two segments, whose edges may come apart.
        conn.write_all(&[1; 700]).and_then(|()| Write::flush(&mut *conn)).expect("it goes out");
        conn.write_all(&[2; 700]).and_then(|()| Write::flush(&mut *conn)).expect("it goes out");
        assert_eq!(conn.reader().next(1400).expect("an answer").len(), 1400, "{turn}");
        names.insert(name(&conn));
    }
    assert_eq!((names.len(), pool.stats().closed_dirty), (1, 0));
}

#[test]
fn what_is_idle_for_too_long_is_closed_though_nobody_asks() {
    let scene = Scene::of(Pool::builder().idle_timeout(Duration::from_millis(80)));
    let (pooled, mut peer) = scene.pair();
    let begun = Instant::now();
    drop(pooled);
    assert_eq!(peer.rest(), b"");
    assert!(begun.elapsed() >= Duration::from_millis(80), "{:?}", begun.elapsed());
    let stats = scene.pool.stats();
    assert_eq!((stats.open, stats.idle, stats.closed_expired), (0, 0, 1));
}

#[test]
fn what_is_too_old_is_not_handed_out() {
    let scene = Scene::of(Pool::builder().max_lifetime(Duration::from_millis(50)));
    let (pooled, mut peer) = scene.pair();
    quiet(60); // its life passes
    drop(pooled);
    assert_eq!(peer.rest(), b"");
    assert_eq!(scene.pool.stats().closed_expired, 1);
}

#[test]
fn no_more_than_enough_are_kept_idle() {
    let scene = Scene::of(Pool::builder().max_idle(2));
    let out: Vec<_> = (0..5).map(|_| scene.checkout()).collect();
    drop(out);
    let stats = scene.pool.stats();
    assert_eq!((stats.open, stats.idle, stats.closed_surplus), (2, 2, 3));
}

#[test]
fn the_next_one_starts_with_the_timeouts_of_the_limits() {
    let limits = Limits { read_timeout: Some(PATIENCE), ..Limits::default() };
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    let pool = Pool::builder().build(Dialer::new(limits).expect("limits")).expect("options");
    let mut conn = pool.checkout("tcp", &address, PATIENCE).expect("a connection");
    conn.set_read_timeout(Some(Duration::from_millis(1)));
    drop(conn);
    let mut conn = pool.checkout("tcp", &address, PATIENCE).expect("the same");
    let (mut peer, _) = listener.accept().expect("it");
    let saying = thread::spawn(move || {
        quiet(100); // longer than the last one's timeout
        peer.say(b"x");
        peer
    });
    assert_eq!(conn.reader().read_byte().expect("it waits"), b'x');
    drop(saying.join().expect("a peer"));
}

/// Fails, or panics, every time.
struct Broken(bool, Count);

impl DialConnection for Broken {
    fn dial_connection(&self, _: &str, _: &str, _: Duration) -> Result<Connection> {
        self.1.add();
        assert!(!self.0, "on purpose");
        Err(Error::config("cannot dial: it is broken"))
    }
}

#[test]
fn a_dial_that_fails_leaves_its_place_to_the_next() {
    for panics in [false, true] {
        let dials = Count::default();
        let pool = Pool::builder().max_open(1).build(Broken(panics, dials.clone()));
        let pool = pool.expect("options");
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let pool = pool.clone();
                thread::spawn(move || pool.checkout("tcp", "a.name:1", PATIENCE).map(drop))
            })
            .collect();
        for each in threads {
            assert_eq!(each.join().is_err(), panics);
        }
        assert_eq!((dials.get(), pool.stats().open), (4, 0));
    }
}

#[test]
fn a_pool_dials_for_good() {
    let scene = Scene::of(Pool::builder().max_open(1));
    let dials: &dyn DialConnection = &scene.pool;
    let first = dials.dial_connection("tcp", &scene.address, PATIENCE).expect("a connection");
    let second = scene.checkout().detach();
    assert_ne!(name(&first), name(&second));
    assert_eq!(scene.pool.stats().open, 0);
}

#[test]
fn a_pool_that_is_dropped_closes_what_it_has() {
    alone("pool::a_pool_that_is_dropped_closes_what_it_has", || {
        let scene = Scene::of(Pool::builder().idle_timeout(None));
        let ((idle, mut idle_peer), (out, mut out_peer)) = (scene.pair(), scene.pair());
        drop(idle);
        let reaps = || our_threads().iter().any(|name| name == "netpoll-pool");
        eventually("somebody looks after what is idle", reaps);
        drop(scene.pool);
        assert_eq!(idle_peer.rest(), b"");
        drop(out);
        assert_eq!(out_peer.rest(), b"");
        eventually("its thread has ended", || !reaps());
    });
}

#[test]
fn limits_that_can_not_be_used_are_named() {
    let refused = |builder: PoolBuilder, words: &[&str]| {
        let dialer = Dialer::new(Limits::default()).expect("limits");
        let error = builder.build(dialer).expect_err("it can't be used");
        assert!(matches!(error, Error::Config(_)), "{error:?}");
        is_a_sentence(&error, words);
    };
    refused(Pool::builder().max_open(0), &["max_open", "0"]);
    refused(Pool::builder().idle_timeout(Duration::ZERO), &["idle_timeout", "0"]);
    refused(Pool::builder().max_lifetime(Duration::ZERO), &["max_lifetime", "0"]);
}

#[test]
fn an_inline_callback_may_take_what_is_idle_and_must_not_wait() {
    let back = Server::start(echo());
    let dialer = Dialer::new(Limits::default()).expect("limits");
    let pool = Pool::builder().max_open(1).build(dialer).expect("options");
    let address = back.address.to_string();
    let held = Mutex::new(None::<Pooled>);
    drop(pool.checkout("tcp", &address, PATIENCE).expect("a connection"));
    let front = Server::start(
        EventLoop::builder()
            .on_request(move |(): &mut (), conn: &mut Connection| {
                conn.reader().skip(1)?;
                match pool.checkout("tcp", &address, PATIENCE) {
                    Ok(pooled) => *lock(&held) = Some(pooled),
                    Err(error) => conn.writer().write_string(&error.to_string()),
                }
                conn.writer().write_string("\n");
                Ok(())
            })
            .dispatch(Dispatch::Inline),
    );
    let mut client = front.connect();
    client.say(b"1");
    client.hear(b"\n");
    client.say(b"1");
    client.half_close();
    is_a_sentence(&String::from_utf8_lossy(&client.rest()).trim_end(), &["must not wait"]);
}

/// One exchange on a pooled connection.
fn exchange(conn: &mut Connection, word: &[u8]) -> Result<()> {
    conn.writer().write_bytes(word);
    conn.writer().flush()?;
    assert_eq!(conn.reader().next(word.len())?, word);
    Ok(())
}

#[test]
fn a_server_that_is_restarted_costs_what_was_in_flight() {
    const THREADS: usize = 8;
    let address = "127.0.24.1:0";
    let server = Server::serve_at(echo().build().expect("options"), address);
    let address = server.address.to_string();
    let dialer = Dialer::new(Limits::default()).expect("limits");
    // With as many connections as threads, each failure is of another one that was in flight.
    let pool = Pool::builder().max_open(THREADS).build(dialer).expect("options");
    let (failed, served, stop) = (Count::default(), Count::default(), AtomicBool::new(false));
    thread::scope(|scope| {
        for number in 0..THREADS {
            let (pool, address, stop) = (&pool, &address, &stop);
            let (failed, served) = (failed.clone(), served.clone());
            scope.spawn(move || {
                let word = vec![number as u8; 100];
                while !stop.load(Ordering::Relaxed) {
                    match pool.checkout("tcp", address, PATIENCE) {
                        Ok(mut conn) => match exchange(&mut conn, &word) {
                            Ok(()) => drop(served.add()),
                            Err(_) => drop(failed.add()),
                        },
                        Err(error) => {
                            assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
                            quiet(1); // nobody is there; the next may be
                        }
                    }
                }
            });
        }
        let mut server = server;
        for _ in 0..5 {
            let before = (served.get(), failed.get());
            eventually("it serves", || served.get() > before.0 + 500);
            server.event_loop.shutdown(Duration::ZERO);
            server.join();
            let event_loop = echo().build().expect("options");
            server = Server::serve_at(event_loop, &address);
            let after = served.get();
            eventually("it serves again", || served.get() > after + 500);
            let lost = failed.get() - before.1;
            assert!(lost <= THREADS, "{lost} requests failed for one restart");
        }
        stop.store(true, Ordering::Relaxed);
    });
    let stats = pool.stats();
    assert!(stats.open <= THREADS && stats.open == stats.idle, "{stats:?}");
}

#[test]
fn a_pool_is_shared_by_threads() {
    let server = Server::start(echo());
    let dialer = Dialer::new(Limits::default()).expect("limits");
    let pool = Arc::new(Pool::builder().max_open(3).build(dialer).expect("options"));
    let address = server.address.to_string();
    thread::scope(|scope| {
        for number in 0..10_u8 {
            let (pool, address) = (pool.clone(), &address);
            scope.spawn(move || {
                for turn in 0..200_u8 {
                    let mut conn = pool.checkout("tcp", address, PATIENCE).expect("a connection");
                    exchange(&mut conn, &[number, turn]).expect("an answer");
                }
            });
        }
    });
    let stats = pool.stats();
    assert!(stats.dialled <= 3 && stats.open == stats.idle, "{stats:?}");
    assert_eq!(stats.dialled + stats.reused, 2000);
    server.stop();
}
