//! Shutting down: in order while there is time, by force at the deadline, and never for ever.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use netpoll::{
    CloseReason, Connection, Dispatch, Error, EventLoop, Listener, LoadBalance, PollManager, Report,
};

use crate::util::{
    Client, Count, Gate, Journal, PATIENCE, Random, Server, alone, echo, echo_once, eventually,
    fd_count, inet, is_filtered, modes, noise, our_threads, pool, quiet, refuses,
};

/// Within which what can end does so on a loaded machine.
const DEADLINE: Duration = Duration::from_secs(2);
/// Far less than any deadline that a test gives in order not to meet it.
const AT_ONCE: Duration = Duration::from_secs(15);

/// A server that answers, and one whose callbacks wait at a gate first, and say that they are
/// there.
fn held(dispatch: Dispatch, journal: &Journal) -> (Server, Gate, mpsc::Receiver<()>) {
    let (gate, (entered, inside)) = (Gate::default(), mpsc::channel());
    let closed = gate.clone();
    let event_loop = EventLoop::builder()
        .on_request(move |(): &mut (), conn: &mut Connection| {
            let _ = entered.send(());
            closed.pass();
            echo_once(conn)
        })
        .on_disconnect(journal.on_disconnect())
        .dispatch(dispatch)
        .build();
    let server = Server::serve_at(event_loop.expect("options"), "127.0.21.1:0");
    (server, gate, inside)
}

/// What a report says, for comparing.
fn counts(report: Report) -> (usize, usize) {
    (report.closed_in_order, report.aborted)
}

#[test]
fn idle_connections_are_closed_at_once() {
    for dispatch in modes() {
        let journal = Journal::default();
        let server =
            Server::start(echo().dispatch(dispatch).on_disconnect(journal.on_disconnect()));
        let mut clients: Vec<_> = (0..20).map(|_| server.connect()).collect();
        for it in &mut clients {
            it.echo(b"idle from now on");
        }
        let begun = Instant::now();
        server.event_loop.shutdown(PATIENCE);
        for it in &mut clients {
            assert_eq!(it.rest(), b"");
        }
        assert_eq!(counts(server.join()), (20, 0), "{dispatch:?}");
        assert!(begun.elapsed() < AT_ONCE, "{dispatch:?}: {:?}", begun.elapsed());
        assert_eq!(journal.entries(), vec!["Shutdown"; 20]);
    }
}

#[test]
fn a_callback_shuts_down_and_its_answer_arrives() {
    for dispatch in modes() {
        // Taken out by the callback: an event loop that its own callback owns would never be freed.
        let itself = Arc::new(Mutex::new(None::<EventLoop>));
        let (seen, connected) = (itself.clone(), Journal::default());
        let told = connected.clone();
        let event_loop = EventLoop::builder()
            .on_connect(move |(): &mut (), _: &mut Connection| {
                told.add("connect");
                Ok(())
            })
            .on_request(move |(): &mut (), conn: &mut Connection| {
                let itself = seen.lock().expect("no panic").take();
                itself.expect("the test has set it").shutdown(PATIENCE);
                echo_once(conn)
            })
            .dispatch(dispatch)
            .build()
            .expect("options");
        *itself.lock().expect("no panic") = Some(event_loop.clone());
        let server = Server::serve(event_loop);
        let (mut idle, mut client) = (server.connect(), server.connect());
        if is_filtered() {
            connected.wait(2); // a shutdown ends handshakes
        }
        client.say(b"good night");
        client.hear(b"good night");
        assert_eq!((client.rest(), idle.rest()), (vec![], vec![]), "{dispatch:?}");
        assert_eq!(counts(server.join()), (2, 0), "{dispatch:?}");
    }
}

#[test]
fn serve_returns_at_once_after_a_shutdown() {
    let event_loop = echo().build().expect("options");
    event_loop.shutdown(PATIENCE);
    let listener = Listener::bind("tcp", "127.0.21.2:0").expect("a port");
    let address = inet(&listener);
    let begun = Instant::now();
    assert_eq!(counts(event_loop.serve(listener).expect("a report")), (0, 0));
    assert!(begun.elapsed() < AT_ONCE, "{:?}", begun.elapsed());
    eventually("its listener is closed", || refuses(address));
}

#[test]
fn an_event_loop_serves_once() {
    let server = Server::start(echo());
    server.connect().echo(b"it serves");
    let again = |event_loop: &EventLoop| {
        let listener = Listener::bind("tcp", "127.0.0.1:0").expect("a port");
        let error = event_loop.serve(listener).expect_err("it serves once");
        let Error::Config(sentence) = &error else { panic!("{error:?}") };
        assert!(sentence.contains("serve") && !sentence.contains('\n'), "{sentence}");
    };
    again(&server.event_loop);
    server.connect().echo(b"it serves still");
    let event_loop = server.event_loop.clone();
    server.stop();
    again(&event_loop);
}

#[test]
fn a_busy_connection_is_waited_for_and_its_answer_arrives() {
    for dispatch in modes() {
        let journal = Journal::default();
        let (server, gate, inside) = held(dispatch, &journal);
        let mut client = server.connect();
        client.say(b"a question");
        inside.recv_timeout(PATIENCE).expect("a callback");
        server.event_loop.shutdown(PATIENCE);
        // The first deadline holds.
        server.event_loop.shutdown(Duration::ZERO);
        quiet(50);
        assert!(server.is_serving() && journal.len() == 0, "{dispatch:?}: it was not waited for");
        gate.open();
        client.hear(b"a question");
        assert_eq!(client.rest(), b"");
        assert_eq!(counts(server.join()), (1, 0), "{dispatch:?}");
        assert_eq!(journal.entries(), ["Shutdown"]);
    }
}

#[test]
fn the_port_is_closed_while_connections_drain() {
    for dispatch in modes() {
        let (server, gate, inside) = held(dispatch, &Journal::default());
        let mut client = server.connect();
        client.say(b"a question");
        inside.recv_timeout(PATIENCE).expect("a callback");
        server.event_loop.shutdown(PATIENCE);
        eventually("the port is closed", || refuses(server.address));
        assert!(server.is_serving(), "{dispatch:?}: the busy one is not waited for");
        gate.open();
        client.hear(b"a question");
        server.join();
    }
}

/// The bytes are in the server's socket, unread, when the shutdown begins.
#[test]
fn a_request_in_the_kernel_is_answered() {
    for dispatch in modes() {
        let (gate, (entered, inside)) = (Gate::default(), mpsc::channel());
        let closed = gate.clone();
        let server = Server::start(
            EventLoop::builder()
                .on_connect(move |(): &mut (), _: &mut Connection| {
                    let _ = entered.send(());
                    closed.pass();
                    Ok(())
                })
                .on_request(|(): &mut (), conn: &mut Connection| echo_once(conn))
                .dispatch(dispatch)
                .loops(1),
        );
        let mut client = server.connect();
        inside.recv_timeout(PATIENCE).expect("a callback");
        client.say(b"not read yet");
        server.event_loop.shutdown(PATIENCE);
        quiet(20); // the loops know of the shutdown by then, those that can
        gate.open();
        client.hear(b"not read yet");
        assert_eq!(client.rest(), b"", "{dispatch:?}");
        assert_eq!(counts(server.join()), (1, 0), "{dispatch:?}");
    }
}

/// The loop is busy with another connection, and hears of the shutdown before it hears of the
/// bytes.
#[test]
fn a_request_that_came_while_the_loop_was_busy_is_answered() {
    let (gate, (entered, inside)) = (Gate::default(), mpsc::channel());
    let closed = gate.clone();
    let event_loop = EventLoop::builder()
        .on_request(move |(): &mut (), conn: &mut Connection| {
            if conn.reader().peek(1)? == b"!" {
                let _ = entered.send(());
                closed.pass();
            }
            echo_once(conn)
        })
        .dispatch(Dispatch::Inline)
        .loops(1)
        .build();
    let server = Server::serve_at(event_loop.expect("options"), "127.0.21.4:0");
    let (mut blocker, mut client) = (server.connect(), server.connect());
    client.echo(b"hello");
    blocker.say(b"!");
    inside.recv_timeout(PATIENCE).expect("a callback");
    client.say(b"not heard yet");
    server.event_loop.shutdown(PATIENCE);
    eventually("the port is closed", || refuses(server.address));
    quiet(20); // the loop's next command is the shutdown by then
    gate.open();
    assert_eq!((client.rest(), blocker.rest()), (b"not heard yet".to_vec(), b"!".to_vec()));
    // The last to look for the port may have been accepted.
    assert_eq!(server.join().aborted, 0);
}

/// As the last ones, for the moments between the kernel and the callback that no gate can hold.
#[test]
fn a_request_that_meets_the_shutdown_is_answered() {
    if is_filtered() {
        return; // it may be in the tunnel still
    }
    for dispatch in modes() {
        for _ in 0..40 {
            let server = Server::start(echo().dispatch(dispatch).loops(1));
            let mut clients: Vec<_> = (0..4).map(|_| server.connect()).collect();
            for it in &mut clients {
                it.echo(b"hello");
            }
            for it in &mut clients {
                it.say(b"and farewell");
            }
            server.event_loop.shutdown(PATIENCE);
            for client in &mut clients {
                assert_eq!(client.rest(), b"and farewell", "{dispatch:?}");
            }
            assert_eq!(counts(server.join()), (4, 0), "{dispatch:?}");
        }
    }
}

#[test]
fn the_deadline_ends_reads_that_wait() {
    // One that outlives the server, so that nothing else ends them.
    let manager = Arc::new(PollManager::new(2, LoadBalance::RoundRobin).expect("a manager"));
    let (journal, (entered, inside)) = (Journal::default(), mpsc::channel());
    let (sender, errors) = mpsc::channel();
    let connected = Count::default();
    let arrived = connected.clone();
    let server = Server::start(
        EventLoop::builder()
            .on_connect(move |(): &mut (), _: &mut Connection| {
                arrived.add();
                Ok(())
            })
            .on_request(move |(): &mut (), conn: &mut Connection| {
                let _ = entered.send(());
                let error = conn.reader().peek(1000).expect_err("no more comes");
                let _ = sender.send(error.kind());
                Err(error)
            })
            .on_disconnect(journal.on_disconnect())
            .manager(manager.clone())
            .dispatch(pool()),
    );
    let mut clients: Vec<_> = (0..5).map(|_| server.connect()).collect();
    for it in &mut clients[..3] {
        it.say(b"too little");
    }
    (0..3).for_each(|_| inside.recv_timeout(PATIENCE).expect("a callback"));
    eventually("the others are there", || connected.get() == 5);
    let begun = Instant::now();
    server.event_loop.shutdown(DEADLINE);
    let report = server.join();
    let took = begun.elapsed();
    assert_eq!(counts(report), (2, 3));
    assert!(DEADLINE <= took && took < AT_ONCE, "{took:?}");
    let kinds: Vec<_> = (0..3).map(|_| errors.recv_timeout(PATIENCE).expect("an end")).collect();
    assert_eq!(kinds, [ErrorKind::NotConnected; 3]);
    assert_eq!(journal.wait(5), ["Shutdown"; 5]);
    assert_eq!(manager.loops(), 2);
}

#[test]
fn the_deadline_ends_answers_that_nobody_reads() {
    const MUCH: usize = 16 << 20;
    for dispatch in modes() {
        let journal = Journal::default();
        let server = Server::start(
            EventLoop::builder()
                .on_request(|(): &mut (), conn: &mut Connection| {
                    conn.writer().write_bytes(noise(0, MUCH));
                    conn.writer().flush()
                })
                .on_disconnect(journal.on_disconnect())
                .dispatch(dispatch),
        );
        let (mut client, mut idle) = (server.connect(), server.connect());
        client.say(b"much, please");
        client.peek(&mut [0]).expect("an answer begins");
        let begun = Instant::now();
        server.event_loop.shutdown(DEADLINE);
        assert_eq!(idle.rest(), b"");
        let report = server.join();
        let took = begun.elapsed();
        assert_eq!(counts(report), (1, 1), "{dispatch:?}");
        assert!(DEADLINE <= took && took < AT_ONCE, "{took:?}");
        assert_eq!(journal.wait(2), ["Shutdown"; 2], "{dispatch:?}");
        // What was cut short must not look complete.
        let end = client.read_to_end(&mut Vec::new()).expect_err("it is not complete");
        assert_eq!(end.kind(), ErrorKind::ConnectionReset, "{dispatch:?}");
    }
}

#[test]
fn an_answer_that_is_read_in_time_arrives_whole() {
    const MUCH: usize = 16 << 20;
    for dispatch in modes() {
        let server = Server::start(
            EventLoop::builder()
                .on_request(|(): &mut (), conn: &mut Connection| {
                    let asked = conn.reader().len();
                    conn.reader().skip(asked)?;
                    conn.writer().write_bytes(noise(0, MUCH));
                    conn.writer().flush()
                })
                .dispatch(dispatch),
        );
        let mut client = server.connect();
        client.say(b"much, please");
        client.peek(&mut [0]).expect("an answer begins");
        server.event_loop.shutdown(PATIENCE);
        let heard = client.rest();
        assert!(heard == noise(0, MUCH), "{dispatch:?}: {} bytes", heard.len());
        assert_eq!(counts(server.join()), (1, 0), "{dispatch:?}");
    }
}

#[test]
fn a_callback_that_never_returns_does_not_keep_serve() {
    const SOON: Duration = Duration::from_millis(100);
    let journal = Journal::default();
    let (server, gate, inside) = held(pool(), &journal);
    let mut client = server.connect();
    client.say(b"x");
    inside.recv_timeout(PATIENCE).expect("a callback");
    let begun = Instant::now();
    server.event_loop.shutdown(SOON);
    assert_eq!(counts(server.join()), (0, 1));
    let late = begun.elapsed().saturating_sub(SOON);
    assert!(late < AT_ONCE, "{late:?} late");
    assert_eq!(journal.len(), 0, "it disconnected under the callback");
    gate.open();
    assert_eq!(journal.wait(1), ["Shutdown"]);
    quiet(20);
    assert_eq!(journal.len(), 1);
}

#[test]
fn nothing_is_left_behind() {
    alone("shutdown::nothing_is_left_behind", || {
        let (descriptors, threads) = (fd_count(), our_threads());
        assert!(threads.is_empty(), "{threads:?}");
        for dispatch in modes() {
            let server = Server::start(echo().dispatch(dispatch).loops(4));
            let mut clients: Vec<_> = (0..50).map(|_| server.connect()).collect();
            for it in &mut clients {
                it.echo(b"hello");
            }
            assert!(our_threads().len() >= 4, "{:?}", our_threads());
            assert_eq!(counts(server.stop()), (50, 0));
            drop(clients);
            // What is joined may stand in procfs for a moment.
            eventually("no thread is left", || our_threads().is_empty());
            assert_eq!(fd_count(), descriptors, "{dispatch:?}");
        }
    });
}

/// While the shutdown goes on, clients send, wait, leave, and reset.
#[test]
fn each_connection_disconnects_once() {
    const CLIENTS: usize = 200;
    for dispatch in modes() {
        let left: Arc<Vec<Count>> = Arc::new((0..CLIENTS).map(|_| Count::default()).collect());
        let (made, told) = (Count::default(), left.clone());
        let prepared = made.clone();
        let server = Server::start(
            EventLoop::builder()
                .on_prepare(move |_: &Connection| Ok(prepared.add()))
                .on_request(|_: &mut usize, conn: &mut Connection| echo_once(conn))
                .on_disconnect(move |number: usize, _: &CloseReason| {
                    told[number].add();
                })
                .dispatch(dispatch)
                .loops(3),
        );
        let mut clients: Vec<_> = (0..CLIENTS).map(|_| server.connect()).collect();
        for it in &mut clients {
            it.echo(b"hello");
        }
        let leaving = thread::spawn(move || {
            for (number, mut client) in clients.into_iter().enumerate() {
                match number % 4 {
                    0 => drop(client),
                    1 => client.reset(),
                    2 => drop(client.write_all(b"x")),
                    _ => drop(client.read(&mut [0])),
                }
            }
        });
        let report = server.stop();
        assert_eq!(report.aborted, 0, "{dispatch:?}");
        leaving.join().expect("the clients");
        assert_eq!(made.get(), CLIENTS);
        let times: Vec<_> = left.iter().map(Count::get).collect();
        assert_eq!(times, [1; CLIENTS], "{dispatch:?}");
    }
}

/// Connects and asks; says how that ended, if it ended.
fn visit(address: SocketAddr) -> std::io::Result<&'static str> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"x")?;
    match stream.read(&mut [0])? {
        0 => Ok("end"),
        _ => Ok("answer"),
    }
}

#[test]
fn clients_that_come_during_a_shutdown_do_not_hang() {
    for (seed, dispatch) in (1..=4).flat_map(|seed| modes().map(|it| (seed, it))) {
        let event_loop = echo().dispatch(dispatch).loops(2).build().expect("options");
        let server = Server::serve_at(event_loop, "127.0.21.3:0");
        let (address, answers) = (server.address, Count::default());
        let outcomes = Arc::new(Mutex::new(Vec::new()));
        let visitors: Vec<_> = (0..8)
            .map(|_| {
                let (outcomes, answers) = (outcomes.clone(), answers.clone());
                thread::spawn(move || {
                    loop {
                        let outcome = visit(address).map_err(|error| error.kind());
                        outcomes.lock().unwrap().push(outcome);
                        if outcome == Err(ErrorKind::ConnectionRefused) {
                            return;
                        }
                        answers.add();
                    }
                })
            })
            .collect();
        let enough = 50 + Random::new(seed).below(50);
        eventually("visitors come and go", || answers.get() >= enough);
        assert_eq!(server.stop().aborted, 0, "{dispatch:?}");
        for it in visitors {
            it.join().expect("a visitor");
        }
        let outcomes = outcomes.lock().unwrap();
        for outcome in outcomes.iter() {
            let clear = match outcome {
                Ok(_) => true,
                Err(kind) => matches!(
                    kind,
                    ErrorKind::ConnectionRefused
                        | ErrorKind::ConnectionReset
                        | ErrorKind::BrokenPipe
                ),
            };
            assert!(clear, "{dispatch:?}: {outcome:?}");
        }
        assert!(outcomes.contains(&Ok("answer")));
    }
}
