//! Poll managers: values that own their loops, share nothing, and can grow and shrink.

use std::cell::RefCell;
use std::io::Write;
use std::net::{IpAddr, TcpStream};
use std::sync::{Arc, Mutex, OnceLock, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use netpoll::{
    Connection, DialConnection, Dialer, Dispatch, Error, EventLoop, Limits, Listener, LoadBalance,
    LoopLoad, PollManager,
};

use crate::errors::is_a_sentence;
use crate::util::{
    Client, Count, Gate, Journal, PATIENCE, Random, Server, Serving, alone, connect, echo,
    eventually, fd_count, inet, modes, one_takes_less, our_threads, quiet, raise_fd_limit, timed,
};

fn manager(loops: usize) -> Arc<PollManager> {
    Arc::new(PollManager::new(loops, LoadBalance::RoundRobin).expect("a manager"))
}

/// How many connections each loop that is picked from has.
fn spread(manager: &PollManager) -> Vec<u64> {
    manager.stats().iter().map(|it| it.connections).collect()
}

fn crowd(server: &Server, size: usize) -> Vec<TcpStream> {
    (0..size).map(|_| server.connect()).collect()
}

fn all_echo(clients: &mut [TcpStream], word: &str) {
    for it in clients.iter_mut() {
        it.say(word.as_bytes());
    }
    for it in clients {
        it.hear(word.as_bytes());
    }
}

/// A connection to `server` that `manager`'s loops watch.
fn dial(manager: &Arc<PollManager>, server: &Server) -> Connection {
    let dialer = Dialer::new(Limits::default()).expect("options");
    let address = server.address.to_string();
    let conn = dialer.manager(manager.clone()).dial_connection("tcp", &address, PATIENCE);
    conn.expect("the server accepts")
}

fn echo_dialled(conn: &mut Connection, word: &[u8]) {
    conn.write_all(word).and_then(|()| Write::flush(conn)).expect("the server takes it");
    assert_eq!(conn.reader().next(word.len()).expect("an answer"), word);
}

#[test]
fn a_manager_that_is_dropped_leaves_nothing() {
    alone("manager::a_manager_that_is_dropped_leaves_nothing", || {
        let descriptors = fd_count();
        for loops in [1, 2, 17] {
            let mut names: Vec<_> = (0..loops).map(|it| format!("netpoll-loop-{it}")).collect();
            names.sort();
            one_takes_less(Duration::from_secs(4), || {
                let manager = manager(loops);
                // A thread takes its name when it begins to run.
                eventually("each loop has a thread, with a name", || {
                    let mut threads = our_threads();
                    threads.sort();
                    threads == names
                });
                let ((), took) = timed(|| drop(manager));
                assert_eq!(fd_count(), descriptors);
                // What is joined may stand in procfs for a moment.
                eventually("no thread is left", || our_threads().is_empty());
                took
            });
        }
    });
}

#[test]
fn a_destructor_of_a_thread_local_may_drop_a_manager() {
    thread_local! {
        static LAST: RefCell<Option<PollManager>> = const { RefCell::new(None) };
    }
    let make = || PollManager::new(1, LoadBalance::RoundRobin).expect("a manager");
    let thread = thread::spawn(move || {
        LAST.set(Some(make()));
        // Our thread-locals are younger, and so the first to go.
        drop(make());
    });
    thread.join().expect("it does not panic");
}

#[test]
fn two_managers_do_not_disturb_each_other() {
    let (ours, theirs) = (manager(2), manager(2));
    let server = Server::start(echo().manager(theirs.clone()));
    let mut stays: Vec<_> = (0..4).map(|_| dial(&theirs, &server)).collect();
    let mut goes: Vec<_> = (0..4).map(|_| dial(&ours, &server)).collect();
    let mut clients = crowd(&server, 4);
    all_echo(&mut clients, "before");
    stays.iter_mut().chain(&mut goes).for_each(|it| echo_dialled(it, b"before"));
    drop(ours);
    for conn in &mut goes {
        assert!(conn.reader().read_byte().is_err(), "its manager is gone");
        assert!(!conn.is_active());
    }
    for it in &mut stays {
        echo_dialled(it, b"after");
    }
    all_echo(&mut clients, "after");
    server.connect().echo(b"anew");
}

#[test]
fn a_manager_that_was_given_runs_on_after_serve() {
    for dispatch in modes() {
        let manager = manager(2);
        let other = Server::start(echo());
        let mut dialled = dial(&manager, &other);
        for round in 0..3 {
            let server = Server::start(echo().manager(manager.clone()).dispatch(dispatch));
            all_echo(&mut crowd(&server, 4), "hello");
            server.stop();
            assert_eq!(manager.loops(), 2, "{dispatch:?}, {round}");
            echo_dialled(&mut dialled, b"still there");
        }
    }
}

#[test]
fn two_servers_share_a_manager() {
    for dispatch in modes() {
        let manager = manager(2);
        let journal = Journal::default();
        let [one, two] = [(); 2].map(|()| {
            let builder = echo().manager(manager.clone()).on_disconnect(journal.on_disconnect());
            Server::start(builder.dispatch(dispatch))
        });
        let (mut ones, mut twos) = (crowd(&one, 10), crowd(&two, 10));
        all_echo(&mut ones, "one");
        all_echo(&mut twos, "two");
        let report = one.stop();
        assert_eq!((report.closed_in_order, report.aborted), (10, 0));
        for it in &mut ones {
            assert_eq!(it.rest(), b"");
        }
        assert_eq!(journal.entries(), vec!["Shutdown"; 10], "{dispatch:?}");
        all_echo(&mut twos, "two is there still");
        two.connect().echo(b"and takes more");
    }
}

#[test]
fn loops_come_and_go_under_live_connections() {
    alone("manager::loops_come_and_go_under_live_connections", || {
        for dispatch in modes() {
            let manager = manager(4);
            let server = Server::start(echo().manager(manager.clone()).dispatch(dispatch));
            let loops = || {
                let names = our_threads();
                names.iter().filter(|it| it.starts_with("netpoll-loop-")).count()
            };
            let mut clients = crowd(&server, 40);
            all_echo(&mut clients, "four loops");
            assert_eq!(spread(&manager), [10; 4]);
            manager.set_loops(1).expect("fewer");
            all_echo(&mut clients, "one loop for new ones");
            assert_eq!(manager.loops(), 1, "{dispatch:?}");
            // A new worker has the name of the loop that started it for a moment.
            eventually("loops with connections stay", || loops() == 4);
            clients.extend(crowd(&server, 20));
            all_echo(&mut clients, "one has twenty more");
            assert_eq!(spread(&manager), [30]);
            manager.set_loops(3).expect("more");
            all_echo(&mut clients, "two more");
            clients.extend(crowd(&server, 30));
            all_echo(&mut clients, "which get their share");
            assert_eq!(spread(&manager), [40, 10, 10], "{dispatch:?}");
            eventually("there are three active loops, and three retired ones", || loops() == 6);
            // The first 40 were dealt out in turn: of those, loop 0 is still active.
            clients.truncate(40);
            eventually("retired loops keep what they have", || spread(&manager) == [10, 0, 0]);
            all_echo(&mut clients, "the first forty");
            clients.clear();
            eventually("retired loops end with their last connection", || loops() == 3);
            assert_eq!(server.stop().aborted, 0);
            drop(manager);
            eventually("no thread is left", || our_threads().is_empty());
        }
    });
}

#[test]
fn a_shutdown_reaches_the_connections_of_retired_loops() {
    for dispatch in modes() {
        let (manager, journal) = (manager(3), Journal::default());
        let builder = echo().manager(manager.clone()).on_disconnect(journal.on_disconnect());
        let server = Server::start(builder.dispatch(dispatch));
        let mut clients = crowd(&server, 9);
        all_echo(&mut clients, "hello");
        manager.set_loops(1).expect("fewer");
        let report = server.stop();
        assert_eq!((report.closed_in_order, report.aborted), (9, 0), "{dispatch:?}");
        assert_eq!(journal.entries(), vec!["Shutdown"; 9]);
    }
}

#[test]
fn round_robin_gives_each_loop_as_many() {
    raise_fd_limit();
    let manager = manager(10);
    let server = Server::start(echo().manager(manager.clone()).dispatch(Dispatch::Inline));
    let mut clients = crowd(&server, 1000);
    all_echo(&mut clients, "hello");
    assert_eq!(spread(&manager), [100; 10]);
    clients.clear();
    eventually("the loops have none left", || spread(&manager) == [0; 10]);
}

#[test]
fn the_shared_manager_is_always_the_same() {
    let [one, two] = [(); 2].map(|()| PollManager::shared().expect("a manager"));
    assert!(Arc::ptr_eq(&one, &two));
    assert!(!Arc::ptr_eq(&one, &manager(1)));
    let server = Server::start(echo().manager(one.clone()));
    server.connect().echo(b"it serves");
    server.stop();
    assert_eq!(one.loops(), two.loops());
}

#[test]
fn impossible_numbers_of_loops_are_refused() {
    let running = manager(2);
    for loops in [0, 1025, usize::MAX] {
        let made = PollManager::new(loops, LoadBalance::RoundRobin).expect_err("impossible");
        let set = running.set_loops(loops).expect_err("impossible");
        for error in [made, set] {
            assert!(matches!(error, Error::Config(_)), "{error:?}");
            is_a_sentence(&error, &["loops", &loops.to_string(), "1024"]);
        }
        assert_eq!(running.loops(), 2);
    }
    let server = Server::start(echo().manager(running));
    server.connect().echo(b"it runs on");
}

/// The last reference to the manager is in a callback on one of its own loops.
#[test]
fn a_callback_drops_its_own_manager() {
    for dispatch in modes() {
        // A loop waits for connections whose callbacks run elsewhere, half of the 5 s of a drop.
        one_takes_less(Duration::from_secs(2), || {
            let manager = manager(2);
            let gate = Gate::default();
            let (entered, inside) = mpsc::channel();
            let (sender, took) = mpsc::channel();
            let last = Arc::new(Mutex::new(None));
            let (closed, taken) = (gate.clone(), last.clone());
            let journal = Journal::default();
            let server = Server::start(
                EventLoop::builder()
                    .on_request(move |(): &mut (), _: &mut Connection| {
                        let _ = entered.send(());
                        closed.pass();
                        let manager: Option<Arc<PollManager>> = taken.lock().unwrap().take();
                        assert_eq!(manager.as_ref().map(Arc::strong_count), Some(1));
                        let _ = sender.send(timed(|| drop(manager)).1);
                        Ok(())
                    })
                    .on_disconnect(journal.on_disconnect())
                    .manager(manager.clone())
                    .dispatch(dispatch),
            );
            let mut client = server.connect();
            client.say(b"x");
            inside.recv_timeout(PATIENCE).expect("a callback");
            *last.lock().unwrap() = Some(manager);
            // The callback outlasts serve, and the event loop, which holds the manager as well.
            server.event_loop.shutdown(Duration::ZERO);
            assert_eq!(server.join().aborted, 1, "{dispatch:?}");
            gate.open();
            let took = took.recv_timeout(PATIENCE).expect("the drop returns");
            assert_eq!(journal.wait(1), ["Shutdown"]);
            client.end();
            took
        });
    }
}

/// A loop has one number, in each place that reports it.
#[test]
fn ticks_and_load_balances_know_loops_by_the_same_numbers() {
    let (sender, numbers) = mpsc::channel();
    let sender = Mutex::new(sender);
    let balance = move |_: Option<IpAddr>, loops: &[LoopLoad]| {
        let numbers: Vec<_> = loops.iter().map(|it| it.number).collect();
        let _ = sender.lock().unwrap().send(numbers);
        0
    };
    let manager = PollManager::new(3, LoadBalance::Custom(Arc::new(balance)));
    let manager = Arc::new(manager.expect("a manager"));
    manager.set_loops(1).expect("fewer");
    manager.set_loops(2).expect("more");
    let server = Server::start(echo());
    drop(dial(&manager, &server));
    let known = numbers.recv_timeout(PATIENCE).expect("a pick");
    let (sender, ticked) = mpsc::channel();
    let ticks = manager.run_every(Duration::from_millis(1), move |number| {
        let _ = sender.send(number);
    });
    let ticks = ticks.expect("a period");
    let mut seen: Vec<usize> = ticked.iter().take(20).collect();
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen, known);
    ticks.cancel();
}

/// Asks the manager something wherever it runs, in its drop as well.
struct Asking(Arc<PollManager>, Count);

impl Asking {
    fn ask(&self) {
        assert!(self.0.loops() > 0 && !self.0.stats().is_empty());
        self.1.add();
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        self.ask();
    }
}

#[test]
fn code_of_the_user_may_call_the_manager_that_calls_it() {
    let asked = Count::default();
    let late: Arc<OnceLock<Asking>> = Arc::default();
    let asking = late.clone();
    let balance = move |_: Option<IpAddr>, _: &[LoopLoad]| {
        asking.get().expect("it was set").ask();
        assert!(asking.get().is_none_or(|it| it.1.get() % 2 == 0), "it may panic as well");
        0
    };
    let manager = PollManager::new(1, LoadBalance::Custom(Arc::new(balance)));
    let manager = Arc::new(manager.expect("a manager"));
    assert!(late.set(Asking(manager.clone(), asked.clone())).is_ok());
    let other = Server::start(echo());
    for number in 1..=4 {
        dial(&manager, &other);
        assert_eq!(asked.get(), number, "at each pick");
    }
    // A socket for each loop, those that are started later among them.
    let bound = Count::default();
    let asking = Asking(manager.clone(), bound.clone());
    let options = Listener::options().reuse_port(true).before_bind(move |_| {
        asking.ask();
        Ok(())
    });
    let listener = options.bind("tcp", "127.0.0.1:0").expect("a port");
    let address = inet(&listener);
    let event_loop = echo().manager(manager.clone()).build().expect("options");
    let serving = Serving::start(event_loop, listener);
    connect(address).echo(b"it serves");
    manager.set_loops(3).expect("more");
    assert_eq!(bound.get(), 3);
    serving.stop();
    manager.set_loops(1).expect("fewer");
}

/// The last hold of what a tick captured may be that of a loop that starts.
#[test]
fn what_a_tick_captured_may_call_the_manager_as_it_is_dropped() {
    let manager = manager(1);
    let released = Count::default();
    let (ours, counted) = (manager.clone(), released.clone());
    let ticking = thread::spawn(move || {
        let mut random = Random::new(Random::seed());
        while counted.get() < 3000 {
            let asking = Asking(ours.clone(), counted.clone());
            let ticks = ours.run_every(Duration::from_secs(1), move |_| asking.ask());
            // Somewhere in the start of a loop, which takes so long.
            let begun = Instant::now();
            let until = Duration::from_micros(random.below(200) as u64);
            while begun.elapsed() < until {}
            ticks.expect("a period").cancel();
        }
    });
    while !ticking.is_finished() {
        manager.set_loops(2).expect("more");
        manager.set_loops(1).expect("fewer");
    }
    ticking.join().expect("it does not panic");
}

/// Loops that start later tick as well, a panic ends nothing, dropping the ticks ends nothing, and
/// cancelling them does.
#[test]
fn every_loop_ticks_until_the_ticks_are_cancelled() {
    let manager = PollManager::new(1, LoadBalance::default()).expect("a manager");
    let journal = Journal::default();
    let told = journal.clone();
    let ticks = manager.run_every(Duration::from_millis(1), move |number| {
        told.add(number.to_string());
        assert_ne!(number, 0, "a tick may panic");
    });
    let ticks = ticks.expect("a period");
    eventually("the first ticks again", || journal.len() > 3);
    manager.set_loops(2).expect("another loop");
    eventually("the second ticks", || journal.entries().contains(&"1".to_owned()));
    drop(ticks.clone());
    let before = journal.len();
    eventually("a clone that is dropped ends nothing", || journal.len() > before + 3);
    ticks.cancel();
    eventually("it ticks no more", || {
        let before = journal.len();
        quiet(20);
        journal.len() == before
    });
    let error = manager.run_every(Duration::ZERO, |_| ()).expect_err("no period");
    assert!(error.to_string().contains("1 ms"), "{error}");
}

#[test]
fn jobs_run_on_the_loops_whatever_mode_serves_there() {
    for dispatch in modes() {
        let manager = manager(2);
        let server = Server::start(echo().manager(manager.clone()).dispatch(dispatch));
        let mut client = server.connect();
        client.echo(b"hello");
        let (told, names) = mpsc::channel();
        for number in 0..10 {
            let told = told.clone();
            let job = move || {
                let waits = netpoll::dial_connection("tcp", "127.0.0.1:1", PATIENCE);
                let waits = waits.expect_err("a wait is refused").to_string();
                let name = thread::current().name().map(str::to_owned);
                told.send((number, name, waits)).expect("the test listens");
                assert!(number % 2 == 0, "every other one panics");
            };
            manager.execute(job).expect("it is accepted");
        }
        let mut numbers: Vec<_> = (0..10)
            .map(|_| {
                let (number, name, waits) = names.recv_timeout(PATIENCE).expect("a job");
                let name = name.expect("loops have names");
                assert!(name.starts_with("netpoll-loop") || name.starts_with("netpoll-spare"));
                assert!(waits.contains("which must not wait"), "{waits}");
                number
            })
            .collect();
        numbers.sort_unstable();
        assert_eq!(numbers, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
        client.echo(b"and the loops go on");
    }
}

#[test]
fn a_job_runs_beside_a_callback_that_blocks() {
    for dispatch in modes() {
        let manager = manager(1);
        let gate = Gate::default();
        let (closed, entered) = (gate.clone(), Count::default());
        let inside = entered.clone();
        let server = Server::start(
            EventLoop::builder()
                .on_request(move |(): &mut (), conn: &mut Connection| {
                    let len = conn.reader().len();
                    conn.reader().skip(len)?;
                    inside.add();
                    closed.pass();
                    Ok(())
                })
                .manager(manager.clone())
                .dispatch(dispatch),
        );
        let mut client = server.connect();
        client.say(b"?");
        eventually("the callback runs", || entered.get() == 1);
        let ran = Count::default();
        let count = ran.clone();
        let job = move || {
            count.add();
        };
        manager.execute(job).expect("it is accepted");
        if matches!(dispatch, Dispatch::Inline) {
            assert_eq!(ran.get(), 0, "the callback has the loop");
            gate.open();
        }
        eventually("the job runs", || ran.get() == 1);
        gate.open();
    }
}

/// A loop that stands still takes no job, and what waits for it is bounded.
#[test]
fn as_many_jobs_wait_as_may_and_a_further_one_is_refused() {
    const AT_MOST: usize = 65_536;
    let manager = manager(1);
    let (gate, inside, ran) = (Gate::default(), Count::default(), Count::default());
    let (closed, entered) = (gate.clone(), inside.clone());
    let blocks = move || {
        entered.add();
        closed.pass();
    };
    manager.execute(blocks).expect("it is accepted");
    eventually("the loop stands still", || inside.get() == 1);
    let counting = || {
        let count = ran.clone();
        move || {
            count.add();
        }
    };
    for _ in 0..AT_MOST {
        manager.execute(counting()).expect("it is accepted");
    }
    let refused = manager.execute(counting()).expect_err("as many wait as may");
    assert!(matches!(refused, Error::Full), "{refused}");
    gate.open();
    eventually("they run", || ran.get() == AT_MOST);
    manager.execute(counting()).expect("there is room again");
    eventually("it runs", || ran.get() == AT_MOST + 1);
}

/// It is accepted, so it runs, even where nothing but the end of the loop comes after it.
#[test]
fn every_job_that_was_accepted_runs_though_the_manager_is_dropped() {
    for _ in 0..20 {
        let manager = manager(2);
        let (ran, dropped) = (Count::default(), Arc::new(()));
        for _ in 0..200 {
            let (count, kept) = (ran.clone(), dropped.clone());
            let job = move || {
                count.add();
                drop(kept);
            };
            manager.execute(job).expect("it is accepted");
        }
        drop(manager);
        assert_eq!((ran.get(), Arc::strong_count(&dropped)), (200, 1));
    }
}
