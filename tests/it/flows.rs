//! Flows: peers as sessions, and each way in which a flow ends.

use std::net::{SocketAddr, UdpSocket};
use std::sync::{Mutex, mpsc};
use std::time::Duration;

use netpoll::{
    AtFlowLimit, Datagram, DatagramServer, Datagrams, Dispatch, Error, FlowBatch, FlowEnd,
    FlowHandle, FlowOptions, Running,
};

use crate::datagrams::{any_port, client_of, echo, heard, inet, serve};
use crate::util::{Count, Journal, PATIENCE, alone_with, eventually, modes, resident};

/// Long enough that no flow of a test expires.
const LONG: Duration = Duration::from_secs(600);

fn options() -> FlowOptions {
    FlowOptions { idle: LONG, ..FlowOptions::default() }
}

/// A server that answers with the number of the flow and how many datagrams it has had, does what
/// it is told, and notes each end.
fn counting(socket: Datagrams, options: FlowOptions, journal: &Journal) -> DatagramServer {
    let (flows, ends) = (Count::default(), journal.clone());
    socket
        .flows(options)
        .on_flow(move |first: &Datagram<'_>| match first.payload() {
            b"refuse me" => Err(Error::other("as it wishes")),
            b"panic at once" => panic!("as it wishes"),
            _ => Ok((flows.add(), 0_usize)),
        })
        .on_flow_end(move |(number, datagrams): (usize, usize), why: &FlowEnd| {
            ends.add(format!("{number} after {datagrams}: {why}"));
        })
        .on_datagrams(|(number, datagrams): &mut (usize, usize), batch: &FlowBatch<'_>| {
            for datagram in batch {
                *datagrams += 1;
                match datagram.payload() {
                    b"end" => batch.end(),
                    b"confirm" => batch.confirm(),
                    b"fail" => return Err(Error::other("as it wishes")),
                    b"panic" => panic!("as it wishes"),
                    _ => {}
                }
                datagram.reply(format!("{number}:{datagrams}").as_bytes())?;
            }
            Ok(())
        })
}

fn serving(dispatch: Dispatch, options: FlowOptions, journal: &Journal) -> Running {
    serve(dispatch, 1, counting(any_port(), options, journal))
}

#[track_caller]
fn ask(client: &UdpSocket, text: &str) -> String {
    client.send(text.as_bytes()).expect("room");
    String::from_utf8(heard(client)).expect("text")
}

#[test]
fn each_peer_has_a_session_of_its_own() {
    for dispatch in modes() {
        let running = serve(dispatch, 3, counting(any_port(), options(), &Journal::default()));
        let clients: Vec<_> = (0..20).map(|_| client_of(inet(&running))).collect();
        let mut numbers: Vec<_> = clients.iter().map(|it| ask(it, "hello")).collect();
        for _ in 2..5 {
            for (client, before) in clients.iter().zip(&mut numbers) {
                let (number, count) = before.split_once(':').expect("two numbers");
                let next = format!("{number}:{}", count.parse::<usize>().expect("a number") + 1);
                *before = ask(client, "again");
                assert_eq!(*before, next);
            }
        }
        numbers.sort();
        numbers.dedup();
        assert_eq!(numbers.len(), 20);
        let stats = running.stats().flows;
        assert_eq!((stats.open, stats.begun), (20, 20));
    }
}

/// One receive brings datagrams of several peers, one between the other.
#[test]
fn what_comes_mixed_is_kept_apart_and_in_order() {
    for dispatch in modes() {
        let gate = crate::util::Gate::default();
        let (closed, held) = (gate.clone(), Count::default());
        let entered = held.clone();
        let server = any_port()
            .flows(options())
            .on_flow(|_: &Datagram<'_>| Ok(Vec::new()))
            .on_datagrams(move |seen: &mut Vec<u8>, batch: &FlowBatch<'_>| {
                for datagram in batch {
                    match datagram.payload() {
                        b"hold" => {
                            entered.add();
                            closed.pass();
                        }
                        b"tell" => batch.reply(seen)?,
                        bytes => seen.extend(bytes),
                    }
                }
                Ok(())
            });
        let running = serve(dispatch, 1, server);
        let clients: Vec<_> = (0..4).map(|_| client_of(inet(&running))).collect();
        clients[0].send(b"hold").expect("room");
        eventually("the callback is held", || held.get() == 1);
        for number in 0..12_u8 {
            for client in &clients {
                client.send(&[number]).expect("room");
            }
        }
        for client in &clients {
            client.send(b"tell").expect("room");
        }
        gate.open();
        for client in &clients {
            assert_eq!(heard(client), (0..12).collect::<Vec<u8>>());
        }
    }
}

#[test]
fn a_flow_ends_when_its_peer_is_silent() {
    for dispatch in modes() {
        let journal = Journal::default();
        let idle = Duration::from_millis(100);
        let running = serving(dispatch, FlowOptions { idle, ..options() }, &journal);
        let (silent, talking) = (client_of(inet(&running)), client_of(inet(&running)));
        assert_eq!(ask(&silent, "once"), "0:1");
        let mut asked = 0;
        eventually("the silent one ends", || {
            asked += 1;
            assert_eq!(ask(&talking, "more"), format!("1:{asked}"), "the other one goes on");
            journal.len() > 0
        });
        assert_eq!(journal.entries(), ["0 after 1: nothing came for too long"]);
        assert_eq!(ask(&silent, "again"), "2:1", "a new flow");
        journal.wait(3);
        let stats = running.stats().flows;
        assert_eq!((stats.open, stats.begun, stats.expired), (0, 3, 3));
    }
}

#[test]
fn a_flow_is_ended_by_its_callback_an_error_or_a_panic() {
    for dispatch in modes() {
        let journal = Journal::default();
        let running = serving(dispatch, options(), &journal);
        let client = client_of(inet(&running));
        assert_eq!(ask(&client, "end"), "0:1", "what was answered before leaves");
        // One by one: an error loses the rest of what came with it.
        client.send(b"fail").expect("room");
        journal.wait(2);
        client.send(b"panic").expect("room");
        journal.wait(3);
        assert_eq!(ask(&client, "hello"), "3:1");
        assert_eq!(
            journal.wait(3),
            [
                "0 after 1: it was ended on this side",
                "1 after 1: a callback failed: as it wishes",
                "2 after 1: a callback panicked",
            ]
        );
        for (count, text) in [(1, &b"refuse me"[..]), (2, b"panic at once")] {
            let other = client_of(inet(&running));
            other.send(text).expect("room");
            eventually("it is refused", || running.stats().flows.refused == count);
            let number = running.stats().flows.begun;
            assert_eq!(ask(&other, "hello"), format!("{number}:1"));
        }
        let open = running.stats().flows.open;
        running.shutdown(PATIENCE);
        running.wait().expect("in order");
        let ends = journal.wait(3 + open);
        assert!(ends[3..].iter().all(|it| it.ends_with("the socket was closed")), "{ends:?}");
    }
}

#[test]
fn at_the_limit_new_flows_are_refused() {
    for dispatch in modes() {
        let journal = Journal::default();
        let running = serving(dispatch, FlowOptions { max_flows: 2, ..options() }, &journal);
        let clients: Vec<_> = (0..3).map(|_| client_of(inet(&running))).collect();
        assert_eq!(
            (ask(&clients[0], "hello"), ask(&clients[1], "hello")),
            ("0:1".into(), "1:1".into())
        );
        clients[2].send(b"hello").expect("room");
        eventually("it is refused", || running.stats().flows.refused_at_limit == 1);
        assert_eq!(ask(&clients[0], "end"), "0:2");
        assert_eq!(ask(&clients[2], "hello"), "2:1", "there is room again");
        assert_eq!(running.stats().flows.open, 2);
    }
}

#[test]
fn at_the_limit_the_oldest_flow_makes_room_and_a_confirmed_one_last() {
    for dispatch in modes() {
        let journal = Journal::default();
        let at_limit = AtFlowLimit::DropOldest;
        let running =
            serving(dispatch, FlowOptions { max_flows: 3, at_limit, ..options() }, &journal);
        let real = client_of(inet(&running));
        assert_eq!(ask(&real, "confirm"), "0:1");
        // As a flood of forged peers is. They stay, so that no two have the same port.
        let forged: Vec<_> = (1..50).map(|_| client_of(inet(&running))).collect();
        for (number, forged) in (1..).zip(&forged) {
            assert_eq!(ask(forged, "hello"), format!("{number}:1"));
        }
        assert_eq!(ask(&real, "still there?"), "0:2");
        let ends = journal.entries();
        assert_eq!(ends.len(), 47);
        assert_eq!(ends[0], "1 after 1: it made room for another flow");
        let stats = running.stats().flows;
        assert_eq!((stats.open, stats.evicted), (3, 47));
    }
}

/// A bound is one for the server: it is not multiplied by the number of loops.
#[test]
fn the_bound_is_that_of_all_loops_together() {
    for dispatch in modes() {
        let journal = Journal::default();
        let bounds = FlowOptions { max_flows: 10, ..options() };
        let running = serve(dispatch, 4, counting(any_port(), bounds, &journal));
        let clients: Vec<_> = (0..60).map(|_| client_of(inet(&running))).collect();
        for client in &clients {
            client.send(b"hello").expect("room");
        }
        eventually("all have come", || {
            let stats = running.stats().flows;
            stats.begun + stats.refused_at_limit == 60
        });
        let stats = running.stats().flows;
        assert_eq!((stats.open, stats.begun, stats.refused_at_limit), (10, 10, 50));
    }
}

/// A server of four flows, which answers with the number of the socket, ends a flow that asks for
/// no more, and counts confirmed ones that end.
fn of_four(confirmed_ends: &Count) -> DatagramServer {
    let (sockets, known, ends) = (Mutex::new(Vec::new()), Count::default(), confirmed_ends.clone());
    let options = FlowOptions { max_flows: 4, at_limit: AtFlowLimit::DropOldest, ..options() };
    let sessions = any_port().flows(options).on_flow(|_: &Datagram<'_>| Ok(false));
    let sessions = sessions.on_flow_end(move |is_confirmed: bool, _: &FlowEnd| {
        if is_confirmed {
            ends.add();
        }
    });
    sessions.on_datagrams(move |is_confirmed: &mut bool, batch: &FlowBatch<'_>| {
        let mut sockets = sockets.lock().expect("no panic");
        let socket = batch.handle().socket().clone();
        let number = sockets.iter().position(|it| *it == socket).unwrap_or_else(|| {
            sockets.push(socket);
            known.add()
        });
        for datagram in batch {
            match datagram.payload() {
                b"which?" => batch.end(),
                b"confirm" => {
                    batch.confirm();
                    *is_confirmed = true;
                }
                _ => {}
            }
        }
        batch.iter().try_for_each(|it| it.reply(&[&[number as u8], it.payload()].concat()))
    })
}

/// Whether the text is answered by this time; answers to others may come first.
fn is_answered(client: &UdpSocket, text: &str, within: Duration) -> bool {
    client.set_read_timeout(Some(within)).expect("an option");
    client.send(text.as_bytes()).expect("room");
    let mut room = [0; 64];
    while let Ok(length) = client.recv(&mut room) {
        if room[1..length] == *text.as_bytes() {
            return true;
        }
    }
    false
}

/// Four peers of each of its two sockets, and how many were asked to find them.
fn peers_of_each(running: &Running) -> ([Vec<UdpSocket>; 2], u64) {
    let (mut peers, mut asked) = ([Vec::new(), Vec::new()], 0);
    while peers.iter().any(|it| it.len() < 4) {
        let client = client_of(inet(running));
        client.send(b"which?").expect("room");
        peers[usize::from(heard(&client)[0])].push(client);
        asked += 1;
    }
    (peers, asked)
}

/// Two loops. The peers of one of them have all places, until some come to the other one.
#[test]
fn a_loop_without_flows_gets_its_share_of_the_bound() {
    for dispatch in modes() {
        let running = serve(dispatch, 2, of_four(&Count::default()));
        let ([many, few], asked) = peers_of_each(&running);
        for client in &many[..4] {
            client.send(b"hello").expect("room");
            heard(client);
        }
        let flows = || running.stats().flows;
        assert_eq!((flows().open, flows().begun), (4, asked + 4));
        let newcomers = &few[..2];
        let mut round = 0;
        eventually("both have begun, and stay", || {
            round += 1;
            let (before, text) = (flows().begun, format!("round {round}"));
            let soon = Duration::from_millis(100);
            let are_there = newcomers.iter().all(|it| is_answered(it, &text, soon));
            assert!(flows().open <= 4);
            are_there && flows().begun == before
        });
        let begun = flows().begun;
        for client in newcomers.iter().chain(&many[2..4]) {
            assert!(is_answered(client, "still there?", PATIENCE));
        }
        assert_eq!((flows().open, flows().begun), (4, begun), "two on each loop, the newest");
    }
}

/// As `at_the_limit_the_oldest_flow_makes_room_and_a_confirmed_one_last`, where the forged peers
/// come to another loop.
#[test]
fn forged_peers_of_another_loop_drive_one_confirmed_flow_out_at_the_most() {
    for dispatch in modes() {
        let ends = Count::default();
        let running = serve(dispatch, 2, of_four(&ends));
        let ([real, forged], _) = peers_of_each(&running);
        for client in &real[..4] {
            client.send(b"confirm").expect("room");
            heard(client);
        }
        assert_eq!(running.stats().flows.open, 4);
        eventually("one has begun", || {
            is_answered(&forged[0], "hello", Duration::from_millis(100))
        });
        for _ in 0..5 {
            for client in &forged[1..4] {
                // In the place of the other one.
                assert!(is_answered(client, "hello", PATIENCE));
                assert!(running.stats().flows.open <= 4);
            }
        }
        assert_eq!(ends.get(), 1, "the place of the first forged one");
    }
}

/// The same peer, to two addresses of this machine.
#[test]
fn a_flow_is_between_two_addresses_and_answers_come_from_the_one() {
    for dispatch in modes() {
        let socket = Datagrams::bind("udp4", "0.0.0.0:0").expect("a port");
        let port = socket.local_addr().port();
        let (sender, handles) = mpsc::channel::<FlowHandle>();
        let server =
            socket.flows(options()).on_datagrams(move |(): &mut (), batch: &FlowBatch<'_>| {
                let _ = sender.send(batch.handle());
                batch.reply(b"at once")
            });
        let running = serve(dispatch, 2, server);
        let client = UdpSocket::bind("0.0.0.0:0").expect("a port");
        client.set_read_timeout(Some(PATIENCE)).expect("an option");
        let mut room = [0; 16];
        for host in [[127, 0, 0, 1], [127, 0, 0, 2]] {
            let address = SocketAddr::from((host, port));
            client.send_to(b"hello", address).expect("room");
            assert_eq!(client.recv_from(&mut room).expect("an answer").1, address);
            let flow = handles.recv_timeout(PATIENCE).expect("a flow");
            assert_eq!(flow.local(), Some(address.ip()));
            flow.send("later").expect("room");
            let (length, from) = client.recv_from(&mut room).expect("an answer");
            assert_eq!((&room[..length], from), (&b"later"[..], address));
        }
        assert_eq!(running.stats().flows.open, 2);
    }
}

#[test]
fn bounds_that_cannot_be_used_are_refused_by_name() {
    for (options, name) in [
        (FlowOptions { max_flows: 0, ..options() }, "max_flows"),
        (FlowOptions { max_flows: usize::MAX, ..options() }, "max_flows"),
        (FlowOptions { idle: Duration::ZERO, ..options() }, "idle"),
    ] {
        let server = counting(any_port(), options, &Journal::default());
        let event_loop = netpoll::EventLoop::for_datagrams().build().expect("options");
        let error = event_loop.spawn(server).expect_err("it is refused");
        assert!(error.to_string().starts_with(name), "{error}");
    }
    let idle = Duration::MAX;
    let most = FlowOptions { max_flows: 1 << 30, idle, at_limit: AtFlowLimit::DropOldest };
    let running = serving(Dispatch::Inline, most, &Journal::default());
    assert_eq!(ask(&client_of(inet(&running)), "hello"), "0:1");
    drop(running);
    let running = serve(Dispatch::Inline, 1, crate::datagrams::echoing(any_port()));
    echo(&client_of(inet(&running)), b"no flows");
    assert_eq!(running.stats().flows, netpoll::FlowStats::default());
}

/// Says how much memory flows take. In release builds:
/// `cargo test --release -p netpoll --test it -- --ignored --nocapture memory_of_many_flows`.
#[test]
#[ignore = "says a figure; it opens 100 000 sockets, one after the other"]
fn memory_of_many_flows() {
    const FLOWS: u64 = 100_000;
    alone_with("flows::memory_of_many_flows", &[], || {
        let options = FlowOptions { max_flows: FLOWS as usize, ..options() };
        let server = any_port().flows(options).on_flow(|_: &Datagram<'_>| Ok(0_u64)).on_datagrams(
            |seen: &mut u64, batch: &FlowBatch<'_>| {
                *seen += batch.len() as u64;
                Ok(())
            },
        );
        let running = serve(Dispatch::Inline, 1, server);
        let at = inet(&running);
        let mut peers = (2..250_u8).flat_map(|host| (10_000..60_000).map(move |port| (host, port)));
        let mut begin = |flows: u64| {
            let (wanted, mut sent) = (running.stats().flows.begun + flows, 0);
            while sent < flows {
                let (host, port) = peers.next().expect("more than enough");
                // Another program may have the port.
                let Ok(peer) = UdpSocket::bind(SocketAddr::from(([127, 0, 0, host], port))) else {
                    continue;
                };
                sent += u64::from(peer.send_to(b"x", at).is_ok());
            }
            eventually("they begin", || running.stats().flows.begun == wanted);
        };
        begin(1);
        let before = resident(std::process::id());
        for done in (1..FLOWS).step_by(50) {
            begin(50.min(FLOWS - done));
        }
        assert_eq!(running.stats().flows.open as u64, FLOWS);
        let each = (resident(std::process::id()) - before) as u64 / FLOWS;
        println!("{each} bytes of resident memory for each of {FLOWS} flows");
        assert!(each < 300, "{each}");
    });
}
