//! Accepting: how connections spread, how many are admitted, and which of them wait.

use std::io::{ErrorKind, Read};
use std::net::{IpAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use netpoll::{
    AcceptLimit, AtLimit, Connection, Dispatch, EventLoop, EventLoopBuilder, Listener, LoadBalance,
    LoopLoad, PollManager, Refusal,
};

use crate::util::{
    Client, Count, Gate, PATIENCE, Server, Serving, alone, connect, echo, echo_once, eventually,
    holding, inet, is_filtered, modes, one_takes_less, quiet, raise_fd_limit, refuses,
};

fn per_loop() -> Listener {
    Listener::options().reuse_port(true).bind("tcp", "127.0.0.1:0").expect("a port")
}

fn by_idle_loop() -> Listener {
    Listener::bind("tcp", "127.0.0.1:0").expect("a port").idle_loop_accepts(true)
}

/// How many connections each loop has.
fn spread(manager: &PollManager) -> Vec<u64> {
    manager.stats().iter().map(|it| it.connections).collect()
}

/// A new connection wakes only the thread that serves it.
#[test]
fn the_only_loop_accepts_by_itself_until_there_is_a_second() {
    const CLIENTS: u64 = 10;
    for dispatch in modes() {
        let manager = Arc::new(PollManager::new(1, LoadBalance::RoundRobin).expect("a manager"));
        let server = Server::start(echo().dispatch(dispatch).manager(manager.clone()));
        server.connect().echo(b"hello");
        let idle = server.event_loop.stats().main.turns;
        (1..CLIENTS).for_each(|_| server.connect().echo(b"hello"));
        let stats = server.event_loop.stats();
        assert_eq!((stats.loops[0].accepted, stats.main.accepted), (CLIENTS, 0), "{dispatch:?}");
        assert_eq!(stats.main.turns, idle, "{dispatch:?}: the main reactor was woken");

        manager.set_loops(2).expect("a second loop");
        eventually("the main reactor accepts", || {
            server.connect().echo(b"hello");
            server.event_loop.stats().main.accepted >= CLIENTS
        });
        let stats = server.event_loop.stats();
        assert!(stats.loops[1].turns > 1, "{dispatch:?}: the second loop serves nobody");
        manager.set_loops(1).expect("one loop");
        server.connect().echo(b"hello");
        assert_eq!(server.stop().aborted, 0);
    }
}

/// gnet's least connections, asked during a burst, gave 2, 42, 48, 308 of 400.
#[test]
fn a_burst_spreads_evenly_though_loops_are_slow_to_take_it() {
    for balance in [LoadBalance::RoundRobin, LoadBalance::LeastConnections] {
        let manager = Arc::new(PollManager::new(4, balance.clone()).expect("a manager"));
        let server = Server::start(
            EventLoop::builder()
                .on_connect(|(): &mut (), _: &mut Connection| {
                    // sleep: it is the slowness of the loop
                    std::thread::sleep(Duration::from_micros(200));
                    Ok(())
                })
                .on_request(|(): &mut (), conn: &mut Connection| echo_once(conn))
                .dispatch(Dispatch::Inline)
                .manager(manager.clone()),
        );
        let _clients: Vec<_> = (0..401).map(|_| server.connect()).collect();
        eventually("all are there", || spread(&manager).iter().sum::<u64>() == 401);
        let mut counts = spread(&manager);
        counts.sort_unstable();
        assert_eq!(counts, [100, 100, 100, 101], "{balance:?}");
    }
}

#[test]
fn least_connections_fills_up_the_loop_that_others_have_left() {
    let balance = LoadBalance::LeastConnections;
    let manager = Arc::new(PollManager::new(2, balance).expect("a manager"));
    let server = Server::start(echo().manager(manager.clone()));
    let mut clients: Vec<_> = (0..20).map(|_| server.connect()).collect();
    eventually("all are there", || spread(&manager) == [10, 10]);
    // They came to the two in turn.
    let mut place = 0;
    clients.retain(|_| {
        place += 1;
        place % 2 == 0
    });
    eventually("half have left", || spread(&manager).contains(&0));
    clients.extend((0..10).map(|_| server.connect()));
    eventually("all are there", || spread(&manager) == [10, 10]);
}

#[test]
fn a_source_comes_to_its_loop_and_a_custom_choice_is_followed() {
    let manager = Arc::new(PollManager::new(4, LoadBalance::SourceHash).expect("a manager"));
    let server = Server::start(echo().manager(manager.clone()));
    let _clients: Vec<_> = (0..20).map(|_| server.connect()).collect();
    eventually("all are there", || spread(&manager).contains(&20));
    drop(server);

    let last = |peer: Option<IpAddr>, loops: &[LoopLoad]| {
        assert!(peer.is_some_and(|it| it.is_loopback()));
        loops.iter().position(|it| it.number == 3).expect("the fourth")
    };
    let manager = PollManager::new(4, LoadBalance::Custom(Arc::new(last))).expect("a manager");
    let manager = Arc::new(manager);
    let server = Server::start(echo().manager(manager.clone()));
    let _clients: Vec<_> = (0..20).map(|_| server.connect()).collect();
    eventually("all are on the fourth", || spread(&manager) == [0, 0, 0, 20]);
}

#[test]
fn with_reuse_port_each_loop_accepts_for_itself() {
    for dispatch in modes() {
        let manager = Arc::new(PollManager::new(3, LoadBalance::RoundRobin).expect("a manager"));
        let builder = echo().dispatch(dispatch).manager(manager.clone());
        // Where no other test has a port: it is to be refused in the end.
        let listener = Listener::options().reuse_port(true).bind("tcp", "127.0.21.5:0");
        let listener = listener.expect("a port");
        let address = inet(&listener);
        let server = Serving::start(builder.build().expect("options"), listener);
        connect(address).echo(b"all loops listen when the first one does");
        let mut clients: Vec<_> = (0..300).map(|_| connect(address)).collect();
        for client in &mut clients {
            client.echo(b"hello");
        }
        assert!(manager.stats().iter().all(|it| it.accepted > 30), "{:?}", manager.stats());
        assert!((300..302).contains(&server.stop().closed_in_order));
        eventually("all its sockets are closed", || refuses(address));
    }
}

/// Round robin would give every second client to the loop that is held.
#[test]
fn a_loop_that_is_busy_leaves_new_connections_to_an_idle_one() {
    let manager = Arc::new(PollManager::new(2, LoadBalance::RoundRobin).expect("a manager"));
    let (builder, gate, held) = holding(EventLoop::builder().manager(manager.clone()));
    let listener = by_idle_loop();
    let address = inet(&listener);
    let server = Serving::start(builder.build().expect("options"), listener);
    let mut blocker = connect(address);
    blocker.say(b"!");
    eventually("a loop is held", || held.get() == 1);
    for _ in 0..20 {
        connect(address).echo(b"hello");
    }
    assert_eq!(server.event_loop.stats().main.accepted, 0);
    let mut accepted: Vec<_> = manager.stats().iter().map(|it| it.accepted).collect();
    accepted.sort_unstable();
    assert_eq!(accepted, [1, 20]);
    gate.open();
    blocker.hear(b"!");
    assert_eq!(server.stop().aborted, 0);
}

#[test]
fn a_listener_for_the_idle_loop_has_no_socket_for_each_loop() {
    let error = echo().build().expect("options").serve(per_loop().idle_loop_accepts(true));
    let error = error.expect_err("both are set").to_string();
    assert!(error.contains("idle_loop_accepts") && error.contains("reuse_port"), "{error}");
}

/// Clients connect all the while. Of some, the loop that the kernel has woken retires at once.
#[test]
fn loops_that_share_a_socket_come_and_go_and_orphan_nobody() {
    const VISITS: usize = 400;
    for dispatch in modes() {
        let manager = Arc::new(PollManager::new(1, LoadBalance::RoundRobin).expect("a manager"));
        let listener = by_idle_loop();
        let address = inet(&listener);
        let builder = echo().dispatch(dispatch).manager(manager.clone());
        let server = Serving::start(builder.build().expect("options"), listener);
        std::thread::scope(|scope| {
            let visits = || (0..VISITS).for_each(|_| connect(address).echo(b"hello"));
            let visitors = [(); 3].map(|()| scope.spawn(visits));
            for loops in [1, 4, 2, 3, 1, 5].into_iter().cycle() {
                manager.set_loops(loops).expect("loops");
                if visitors.iter().all(|it| it.is_finished()) {
                    break;
                }
            }
        });
        assert_eq!(server.event_loop.stats().main.accepted, 0, "{dispatch:?}: a loop was left");
        assert_eq!(server.stop().aborted, 0);
    }
}

#[test]
fn loops_come_and_go_and_orphan_nobody() {
    for listener in [per_loop(), Listener::bind("tcp", "127.0.0.1:0").expect("a port")] {
        let manager = Arc::new(PollManager::new(1, LoadBalance::RoundRobin).expect("a manager"));
        let address = inet(&listener);
        let event_loop = echo().manager(manager.clone()).build().expect("options");
        let server = Serving::start(event_loop, listener);
        let mut clients = Vec::new();
        for loops in [1, 4, 2, 3, 1, 5] {
            manager.set_loops(loops).expect("loops");
            // More than enough that each socket gets some.
            clients.extend((0..100).map(|_| connect(address)));
            for client in &mut clients {
                client.echo(b"hello");
            }
        }
        assert!(manager.stats().iter().all(|it| it.connections > 0), "{:?}", manager.stats());
        assert_eq!(server.stop().closed_in_order, 600);
    }
}

/// While the acceptor is held up, clients connect and ask; then the shutdown comes.
#[test]
fn those_in_the_kernels_queue_are_served_at_a_shutdown() {
    if is_filtered() {
        return; // a shutdown ends handshakes, and those have not begun theirs
    }
    let (gate, held) = (Gate::default(), Count::default());
    let (closed, entered) = (gate.clone(), held.clone());
    let hold = move |_: Option<IpAddr>, _: &[LoopLoad]| {
        if entered.add() == 0 {
            closed.pass();
        }
        0
    };
    let server = Server::start(echo().load_balance(LoadBalance::Custom(Arc::new(hold))));
    let mut clients: Vec<_> = (0..41).map(|_| server.connect()).collect();
    eventually("the acceptor is held up", || held.get() == 1);
    for client in &mut clients {
        client.say(b"hello");
    }
    server.event_loop.shutdown(PATIENCE);
    quiet(20); // what they said is there
    gate.open();
    for client in &mut clients {
        assert_eq!(client.rest(), b"hello");
    }
    let report = server.join();
    assert_eq!((report.closed_in_order, report.aborted, report.refused), (41, 0, 0));
}

#[test]
fn those_in_the_queues_of_all_loops_are_served_at_a_shutdown() {
    for listener in [per_loop(), by_idle_loop()] {
        served_at_a_shutdown_while_both_loops_are_held(listener);
    }
}

fn served_at_a_shutdown_while_both_loops_are_held(listener: Listener) {
    let (builder, gate, held) = holding(EventLoop::builder().loops(2));
    let address = inet(&listener);
    let server = Serving::start(builder.build().expect("options"), listener);
    let mut blockers = Vec::new();
    while held.get() < 2 {
        let mut blocker = connect(address);
        blocker.say(b"!");
        blockers.push(blocker);
        quiet(1); // one more is no harm
    }
    let mut clients: Vec<_> = (0..40).map(|_| connect(address)).collect();
    for client in &mut clients {
        client.say(b"hello");
    }
    server.event_loop.shutdown(PATIENCE);
    quiet(20); // both loops are inside a callback all the while
    gate.open();
    for client in &mut clients {
        assert_eq!(client.rest(), b"hello");
    }
    assert_eq!(server.join().aborted, 0);
}

/// A server with a limit of two, and two clients inside.
fn full(builder: EventLoopBuilder) -> (Server, [TcpStream; 2]) {
    let server = Server::start(builder.max_connections(2));
    let mut inside = [server.connect(), server.connect()];
    for client in &mut inside {
        client.echo(b"inside");
    }
    (server, inside)
}

fn hears_nothing(client: &TcpStream) -> bool {
    client.set_read_timeout(Some(Duration::from_millis(50))).expect("an option");
    let heard = client.peek(&mut [0]).map_err(|error| error.kind());
    client.set_read_timeout(Some(PATIENCE)).expect("an option");
    heard == Err(ErrorKind::WouldBlock)
}

#[test]
fn at_the_limit_they_wait_in_the_queue() {
    for dispatch in modes() {
        let (server, inside) = full(echo().dispatch(dispatch));
        let mut waiting = [server.connect(), server.connect(), server.connect()];
        for client in &mut waiting {
            client.say(b"hello");
        }
        assert!(waiting.iter().all(hears_nothing), "{dispatch:?}");
        let [first, second] = inside;
        drop(first);
        waiting[0].hear(b"hello");
        assert!(waiting[1..].iter().all(hears_nothing), "{dispatch:?}");
        drop(second);
        waiting[1].hear(b"hello");
        let [first, _second, mut third] = waiting;
        assert!(hears_nothing(&third));
        drop(first);
        third.hear(b"hello");
        assert_eq!(server.stop().refused, 0);
    }
}

#[test]
fn at_the_limit_they_are_closed() {
    let (server, inside) = full(echo().at_limit(AtLimit::Close));
    assert_eq!(server.connect().rest(), b"");
    drop(inside);
    eventually("there is room again", || {
        let mut client = server.connect();
        client.set_read_timeout(Some(PATIENCE)).expect("an option");
        std::io::Write::write_all(&mut client, b"x").is_ok()
            && client.read(&mut [0]).is_ok_and(|it| it == 1)
    });
    assert!(server.stop().refused >= 1);
}

#[test]
fn at_the_limit_they_are_told() {
    if is_filtered() {
        return; // they are told plainly, before a filter is made
    }
    let at_limit = AtLimit::tell(|refusal: &Refusal<'_>| {
        assert!(refusal.peer.port() != 0 && refusal.listener.index == 0);
        format!("busy: {:?}\n", refusal.limit).into_bytes()
    });
    let (server, _inside) = full(echo().at_limit(at_limit));
    for _ in 0..3 {
        let mut client = server.connect();
        client.say(b"what is read by nobody");
        assert_eq!(client.rest(), b"busy: Connections\n");
    }
    assert_eq!(server.stop().refused, 3);
}

#[test]
fn a_panic_of_on_refuse_refuses_only_that_one() {
    let (server, _inside) = full(echo().at_limit(AtLimit::tell(|_| panic!("told to"))));
    assert_eq!(server.connect().rest(), b"");
    assert_eq!(server.connect().rest(), b"");
    assert_eq!(server.stop().refused, 2);
}

#[test]
fn a_source_that_has_too_many_delays_nobody() {
    let server = Server::start(echo().max_connections_per_source(2));
    let mut inside = [server.connect(), server.connect()];
    for client in &mut inside {
        client.echo(b"inside");
    }
    assert_eq!(server.connect().rest(), b"", "the third from there");
    let other = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None);
    let other = other.expect("a socket");
    let from: std::net::SocketAddr = "127.0.0.9:0".parse().expect("an address");
    other.bind(&from.into()).expect("a loopback address");
    other.connect(&server.address.into()).expect("the server accepts");
    let mut other = TcpStream::from(other);
    other.echo(b"from elsewhere");
    let [first, _second] = inside;
    drop(first);
    eventually("there is room again", || {
        let mut client = server.connect();
        std::io::Write::write_all(&mut client, b"x").is_ok()
            && client.read(&mut [0]).is_ok_and(|it| it == 1)
    });
}

#[test]
fn a_listener_has_a_limit_of_its_own() {
    let bind = || Listener::bind("tcp", "127.0.0.1:0").expect("a port");
    let (narrow, wide) = (bind().max_connections(1), bind());
    let addresses = [inet(&narrow), inet(&wide)];
    let event_loop = echo().build().expect("options");
    let _server = Serving::start(event_loop, [narrow, wide]);
    let mut inside = connect(addresses[0]);
    inside.echo(b"inside");
    let mut waiting = connect(addresses[0]);
    waiting.say(b"hello");
    connect(addresses[1]).echo(b"the other goes on");
    assert!(hears_nothing(&waiting));
    drop(inside);
    waiting.hear(b"hello");
}

#[test]
fn the_accept_rate_paces_those_who_come() {
    let first_five_take = || {
        let server = Server::start(echo().accept_rate(2, 5));
        let begun = Instant::now();
        let mut clients: Vec<_> = (0..7).map(|_| server.connect()).collect();
        for client in &mut clients {
            client.say(b"hello");
        }
        for client in &mut clients[..5] {
            client.hear(b"hello");
        }
        let five = begun.elapsed();
        for client in &mut clients[5..] {
            client.hear(b"hello");
        }
        let took = begun.elapsed();
        assert!(took > Duration::from_millis(950), "two at 2 a second came in {took:?}");
        assert!(server.stop().refused == 0);
        five
    };
    // At that pace alone the fifth would come after 2 s.
    one_takes_less(Duration::from_millis(1900), first_five_take);

    if is_filtered() {
        return; // as above
    }
    let told = AtLimit::tell(|refusal| {
        assert_eq!(refusal.limit, AcceptLimit::Rate);
        b"later".to_vec()
    });
    let server = Server::start(echo().accept_rate(1, 1).at_limit(told));
    server.connect().echo(b"in time");
    eventually("one comes too soon", || {
        let mut client = server.connect();
        client.half_close();
        client.rest() == b"later"
    });
}

#[test]
fn limits_hold_where_each_loop_accepts_for_itself() {
    let cases =
        [AtLimit::Queue, AtLimit::Close].map(|it| [(it.clone(), per_loop()), (it, by_idle_loop())]);
    for (at_limit, listener) in cases.into_iter().flatten() {
        let (inside, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (entered, left, peak) = (inside.clone(), inside.clone(), most.clone());
        let builder = EventLoop::builder()
            .on_prepare(move |_: &Connection| {
                peak.fetch_max(entered.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                Ok(())
            })
            .on_request(|(): &mut (), conn: &mut Connection| echo_once(conn))
            .on_disconnect(move |(): (), _: &netpoll::CloseReason| {
                left.fetch_sub(1, Ordering::SeqCst);
            })
            .loops(3)
            .max_connections(10)
            .at_limit(at_limit.clone());
        let address = inet(&listener);
        let server = Serving::start(builder.build().expect("options"), listener);
        let visits = || {
            for _ in 0..100 {
                let mut client = connect(address);
                let _ = std::io::Write::write_all(&mut client, b"x");
                let _ = client.read(&mut [0]);
            }
        };
        std::thread::scope(|scope| (0..20).for_each(|_| drop(scope.spawn(visits))));
        assert!(most.load(Ordering::SeqCst) <= 10, "{at_limit:?}: {most:?} at once");
        let report = server.stop();
        if matches!(at_limit, AtLimit::Queue) {
            assert_eq!(report.refused, 0, "all were served in their turn");
        }
        assert_eq!(inside.load(Ordering::SeqCst), 0);
    }
}

#[test]
fn ten_thousand_come_in_waves_and_none_is_refused() {
    alone("accepting::ten_thousand_come_in_waves_and_none_is_refused", ten_thousand_in_waves);
}

fn ten_thousand_in_waves() {
    let listener = Listener::options().backlog(4096).bind("tcp", "127.0.0.1:0").expect("a port");
    let address = inet(&listener);
    let event_loop = echo().loops(2).build().expect("options");
    let server = Serving::start(event_loop, listener);
    raise_fd_limit();
    for _ in 0..10 {
        // Two descriptors each, and some systems allow no more than 4 096 altogether.
        let mut wave: Vec<_> = (0..1000).map(|_| connect(address)).collect();
        for client in &mut wave {
            client.say(b"hello");
        }
        for client in &mut wave {
            client.hear(b"hello");
        }
    }
    assert_eq!(server.stop().refused, 0);
}

/// Accepting fails for ever on a socket that was shut down, and its event does not go away.
#[test]
fn a_listener_that_dies_ends_serve_with_an_error() {
    for options in [Listener::options(), Listener::options().reuse_port(true)] {
        let listener = options.bind("tcp", "127.0.0.1:0").expect("a port");
        let address = inet(&listener);
        let socket =
            std::os::fd::AsFd::as_fd(&listener).try_clone_to_owned().expect("a second one");
        let event_loop = echo().loops(1).build().expect("options");
        let running = event_loop.spawn(listener).expect("a thread");
        let mut client = connect(address);
        client.echo(b"hello");
        socket2::SockRef::from(&socket).shutdown(std::net::Shutdown::Both).expect("a shutdown");
        let error = running.wait().expect_err("it can accept no more");
        assert!(error.to_string().contains("listener"), "{error}");
        client.end();
    }
}
