//! Loops that one thread turns together: each serves as it would alone, whatever the others do, and
//! however often they change threads.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use netpoll::{
    AtLimit, Connection, Dispatch, EventLoop, EventLoopBuilder, Gather, Handle, Listener,
    LoadBalance, PollManager, Spin,
};

use crate::loggers::listen;
use crate::util::{
    Client, Count, Gate, NoThreads, PATIENCE, Random, Server, Serving, alone, connect, echo,
    echo_once, eventually, fd_count, hand_off, inet, lock, modes, one_takes_less, our_threads,
    pool, refusing_threads, timed,
};

fn manager(loops: usize) -> Arc<PollManager> {
    let manager = PollManager::with(loops, LoadBalance::RoundRobin, Spin::default(), Gather::Never);
    Arc::new(manager.expect("a manager"))
}

/// Has so many threads turn the loops.
fn gather(manager: &PollManager, threads: usize) {
    manager.gather_on(threads);
    eventually("the loops are turned by so many threads", || {
        manager.hand_off_stats().turning == threads
    });
}

fn on<S: Send + 'static>(manager: &Arc<PollManager>, builder: EventLoopBuilder<S>) -> Server {
    Server::start(builder.manager(manager.clone()))
}

fn crowd(server: &Server, size: usize) -> Vec<TcpStream> {
    let mut crowd: Vec<_> = (0..size).map(|_| server.connect()).collect();
    all_echo(&mut crowd);
    crowd
}

fn all_echo(clients: &mut [TcpStream]) {
    for it in clients.iter_mut() {
        it.say(b"hello");
    }
    for it in clients {
        it.hear(b"hello");
    }
}

/// An echo whose callback waits at the gate, where a `!` comes first.
fn waiting(gate: &Gate, inside: &Count) -> EventLoopBuilder {
    let (gate, inside) = (gate.clone(), inside.clone());
    EventLoop::builder().on_request(move |(): &mut (), conn: &mut Connection| {
        if conn.reader().peek(1)? == b"!" {
            inside.add();
            gate.pass();
        }
        echo_once(conn)
    })
}

#[test]
fn loops_are_gathered_and_spread_and_serve_all_their_connections() {
    for dispatch in modes() {
        let manager = manager(4);
        let server = on(&manager, echo().dispatch(dispatch));
        let mut clients = crowd(&server, 16);
        for threads in [1, 4, 2, 3, 1, 2, 4, 1] {
            gather(&manager, threads);
            for _ in 0..5 {
                all_echo(&mut clients);
            }
            clients.extend(crowd(&server, 4));
            let stats = manager.stats();
            assert!(stats.iter().all(|it| it.connections > 0), "{stats:?}");
        }
        server.stop();
        drop(clients);
    }
}

#[test]
fn a_callback_that_blocks_holds_no_loop_up_that_is_gathered_with_its_own() {
    for dispatch in [hand_off(), pool()] {
        let (gate, inside) = (Gate::default(), Count::default());
        let manager = manager(4);
        let server = on(&manager, waiting(&gate, &inside).dispatch(dispatch));
        gather(&manager, 1);
        let mut clients = crowd(&server, 16);
        let mut blocked = server.connect();
        blocked.say(b"!");
        eventually("it blocks", || inside.get() == 1);
        for _ in 0..10 {
            all_echo(&mut clients);
        }
        // They change threads while it blocks.
        gather(&manager, 4);
        all_echo(&mut clients);
        gather(&manager, 2);
        all_echo(&mut clients);
        gate.open();
        blocked.hear(b"!");
        blocked.echo(b"and goes on");
        server.stop();
    }
}

/// Requests, sends from other threads, jobs and timers, while the loops change threads at random.
#[test]
fn nothing_is_lost_while_loops_change_threads() {
    let seed = Random::seed();
    println!("NETPOLL_TEST_SEED={seed}");
    for dispatch in modes() {
        let manager = manager(4);
        let (sender, handles) = mpsc::channel::<Handle>();
        let sender = Mutex::new(sender);
        let builder = EventLoop::builder()
            .on_connect(move |(): &mut (), conn: &mut Connection| {
                lock(&sender).send(conn.handle()).ok();
                Ok(())
            })
            .on_request(|(): &mut (), conn: &mut Connection| echo_once(conn));
        let server = on(&manager, builder.dispatch(dispatch));
        let mut told = server.connect();
        let handle = handles.recv_timeout(PATIENCE).expect("a handle");
        let over = AtomicBool::new(false);
        thread::scope(|scope| {
            for place in 0..6 {
                let (server, over) = (&server, &over);
                scope.spawn(move || {
                    let mut random = Random::new(seed.wrapping_add(place));
                    let mut client = server.connect();
                    while !over.load(Ordering::Relaxed) {
                        if random.below(20) == 0 {
                            client = server.connect();
                        }
                        let size = random.size(14);
                        client.echo(&vec![b'x'; size]);
                    }
                });
            }
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    assert!(handle.send(&b"sent"[..]).is_ok());
                    told.hear(b"sent");
                    let (sender, ran) = mpsc::channel();
                    let job = move |_: &mut Connection| {
                        sender.send(()).ok();
                        Ok(())
                    };
                    handle.run_after(Duration::from_millis(1), job).expect("it is open");
                    ran.recv_timeout(PATIENCE).expect("a timer that fires");
                }
            });
            let mut random = Random::new(seed);
            for _ in 0..30 {
                gather(&manager, 1 + random.below(4));
            }
            over.store(true, Ordering::Relaxed);
        });
        server.stop();
    }
}

#[test]
fn the_timers_of_gathered_loops_fire() {
    for dispatch in modes() {
        let manager = manager(4);
        let (sender, fired) = mpsc::channel();
        let sender = Mutex::new(sender);
        let builder = EventLoop::builder().on_request(move |(): &mut (), conn: &mut Connection| {
            let sender = lock(&sender).clone();
            let job = move |_: &mut Connection| {
                sender.send(()).ok();
                Ok(())
            };
            conn.handle().run_after(Duration::from_millis(30), job)?;
            echo_once(conn)
        });
        let server = on(&manager, builder.dispatch(dispatch));
        gather(&manager, 1);
        let begun = Instant::now();
        let clients = crowd(&server, 8);
        // Nothing but their timers wakes the loops.
        for _ in &clients {
            fired.recv_timeout(PATIENCE).expect("a timer");
        }
        assert!(begun.elapsed() >= Duration::from_millis(30));
        server.stop();
    }
}

#[test]
fn gathered_loops_stop_and_leave_nothing() {
    alone("gathering::gathered_loops_stop_and_leave_nothing", || {
        for dispatch in modes() {
            one_takes_less(Duration::from_secs(4), || {
                let descriptors = fd_count();
                let manager = manager(3);
                let server = on(&manager, echo().dispatch(dispatch));
                let mut clients = crowd(&server, 6);
                gather(&manager, 1);
                all_echo(&mut clients);
                server.stop();
                let ((), took) = timed(|| drop(Arc::into_inner(manager).expect("ours alone")));
                drop(clients);
                eventually("no thread is left", || our_threads().is_empty());
                eventually("no descriptor is left", || fd_count() == descriptors);
                took
            });
        }
    });
}

/// The kernel counts a loop that another set watches as one that does not wait.
#[test]
fn gathered_loops_share_a_socket_and_miss_no_client() {
    for dispatch in modes() {
        let manager = manager(4);
        let listener = Listener::bind("tcp", "127.0.0.1:0").expect("a port");
        let listener = listener.idle_loop_accepts(true);
        let address = inet(&listener);
        let builder = echo().manager(manager.clone()).dispatch(dispatch);
        let serving = Serving::start(builder.build().expect("options"), listener);
        thread::scope(|scope| {
            let visits = || (0..200).for_each(|_| connect(address).echo(b"hello"));
            let visitors = [(); 3].map(|()| scope.spawn(visits));
            for threads in [1, 3, 2, 4].into_iter().cycle() {
                manager.gather_on(threads);
                connect(address).echo(b"hello");
                if visitors.iter().all(|it| it.is_finished()) {
                    break;
                }
            }
        });
        assert_eq!(serving.event_loop.stats().main.accepted, 0);
        assert_eq!(serving.stop().aborted, 0);
    }
}

/// Dropped at any moment of their gathering and spreading.
#[test]
fn a_manager_may_be_dropped_while_its_loops_change_threads() {
    let mut random = Random::new(Random::seed());
    for _ in 0..20 {
        one_takes_less(Duration::from_secs(4), || {
            let manager = manager(4);
            manager.gather_on(1 + random.below(4));
            // sleep: at any moment, so also at the worst
            thread::sleep(Duration::from_millis(random.below(60) as u64));
            manager.gather_on(1 + random.below(4));
            timed(|| drop(Arc::into_inner(manager).expect("ours alone"))).1
        });
    }
}

#[test]
fn a_gathered_loop_may_retire_and_ends_with_its_last_connection() {
    for dispatch in modes() {
        let manager = manager(4);
        let server = on(&manager, echo().dispatch(dispatch));
        let mut clients = crowd(&server, 8);
        gather(&manager, 1);
        manager.set_loops(1).expect("fewer");
        all_echo(&mut clients);
        gather(&manager, 3); // retired ones may change threads as well
        all_echo(&mut clients);
        gather(&manager, 1);
        clients.truncate(2);
        manager.set_loops(2).expect("more");
        all_echo(&mut clients);
        drop(clients);
        gather(&manager, 2);
        assert_eq!(manager.loops(), 2);
        crowd(&server, 4);
        server.stop();
    }
}

/// A logger is user code that runs anywhere; here, where the loop accepts for itself.
#[test]
fn a_panic_outside_of_callbacks_ends_one_of_the_gathered_loops() {
    alone("gathering::a_panic_outside_of_callbacks_ends_one_of_the_gathered_loops", || {
        let armed = Arc::new(AtomicBool::new(false));
        let its = armed.clone();
        listen(move |line| {
            let is_it = line.contains("is refused at the limit");
            assert!(!is_it || !its.swap(false, Ordering::SeqCst), "no space left on the device");
        });
        for dispatch in modes() {
            let manager = manager(3);
            let builder = echo().manager(manager.clone()).dispatch(dispatch);
            let builder = builder.max_connections(12).at_limit(AtLimit::Close);
            let listener = Listener::options().reuse_port(true).bind("tcp", "127.0.0.1:0");
            let listener = listener.expect("a port");
            let address = inet(&listener);
            let serving = Serving::start(builder.build().expect("options"), listener);
            let mut clients: Vec<_> = (0..12).map(|_| connect(address)).collect();
            all_echo(&mut clients);
            gather(&manager, 1);
            let has = |loops: &[u64]| loops.iter().sum::<u64>();
            let before: Vec<_> = manager.stats().iter().map(|it| it.connections).collect();
            armed.store(true, Ordering::SeqCst);
            let mut refused = Vec::new();
            eventually("a loop panics", || {
                refused.push(connect(address));
                !armed.load(Ordering::SeqCst)
            });
            let served = |client: &mut TcpStream| {
                client.write_all(b"x").is_ok() && client.read_exact(&mut [0]).is_ok()
            };
            let left = clients.iter_mut().filter_map(|it| served(it).then_some(())).count() as u64;
            let others: Vec<_> = before.iter().map(|it| has(&before) - it).collect();
            assert!(others.contains(&left), "{left} left of {before:?}");
            drop(refused);
            drop(clients);
            eventually("others are served", || served(&mut connect(address)));
            serving.stop();
        }
    });
}

/// The tick runs on the thread that turns all loops: it does not wait for itself.
#[test]
fn a_tick_may_drop_the_manager_of_its_gathered_loops() {
    let dropped_by_a_tick = || {
        let manager = manager(3);
        gather(&manager, 1);
        let kept = Arc::new(Mutex::new(None::<Arc<PollManager>>));
        let (sender, took) = mpsc::channel();
        let (slot, sender) = (kept.clone(), Mutex::new(sender));
        let ticks = manager.run_every(Duration::from_millis(1), move |_| {
            let manager = lock(&slot).take();
            if let Some(manager) = manager {
                let ((), took) = timed(|| drop(Arc::into_inner(manager).expect("the last")));
                lock(&sender).send(took).ok();
            }
        });
        ticks.expect("a period");
        *lock(&kept) = Some(manager);
        let took = took.recv_timeout(PATIENCE).expect("it returns");
        eventually("no thread is left", || our_threads().is_empty());
        took
    };
    alone("gathering::a_tick_may_drop_the_manager_of_its_gathered_loops", || {
        one_takes_less(Duration::from_secs(4), dropped_by_a_tick);
    });
}

#[test]
fn loops_stay_gathered_where_the_system_refuses_threads() {
    let name = "gathering::loops_stay_gathered_where_the_system_refuses_threads";
    refusing_threads(name, || {
        let (gate, inside) = (Gate::default(), Count::default());
        let manager = manager(2);
        let server = on(&manager, waiting(&gate, &inside).dispatch(hand_off()));
        let mut clients = crowd(&server, 4);
        gather(&manager, 1);
        let refused = NoThreads::from_now_on();
        // The one thread that is parked goes on with the loops.
        let mut blocked = server.connect();
        blocked.say(b"!");
        eventually("it blocks", || inside.get() == 1);
        all_echo(&mut clients);
        let before = manager.hand_off_stats();
        manager.gather_on(2);
        eventually("spreading is tried", || manager.hand_off_stats().regrouped > before.regrouped);
        for _ in 0..10 {
            all_echo(&mut clients);
        }
        assert_eq!(manager.hand_off_stats().turning, 1);
        drop(refused);
        gather(&manager, 2);
        all_echo(&mut clients);
        gate.open();
        blocked.hear(b"!");
        server.stop();
    });
}

fn light_load(gather: Gather) -> (Arc<PollManager>, impl FnMut()) {
    let manager = PollManager::with(2, LoadBalance::RoundRobin, Spin::Never, gather);
    let manager = Arc::new(manager.expect("a manager"));
    let server = on(&manager, echo().dispatch(Dispatch::Inline));
    let mut clients = crowd(&server, 2);
    let load = move || {
        let _ = &server;
        (0..50).for_each(|_| all_echo(&mut clients));
    };
    (manager, load)
}

#[test]
fn under_a_light_load_one_thread_turns_the_loops_if_it_may() {
    let (manager, mut load) = light_load(Gather::WhenCheaper);
    eventually("they are gathered", || {
        load();
        manager.hand_off_stats().turning == 1
    });
    let (manager, mut load) = light_load(Gather::Never);
    let until = Instant::now() + Duration::from_millis(300);
    while Instant::now() < until {
        load();
    }
    let stats = manager.hand_off_stats();
    assert_eq!((stats.turning, stats.regrouped), (2, 0));
}
