//! Datagram servers under hostile peers, a system without resources, and careless callbacks.

use std::net::{SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use netpoll::{
    Address, Datagram, DatagramBatch, DatagramHandle, DatagramLimits, DatagramServer, Datagrams,
    Dispatch, Error, EventLoop, FlowBatch, FlowEnd, FlowOptions, Running, TurnLimits, WhenFull,
};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::{
    answer_all, any_port, client_of, echo, echoing, heard, inet, serve, serve_with_handle,
};
use crate::util::{
    Count, Journal, NoThreads, PATIENCE, alone, eventually, fd_count, lock, modes,
    refusing_threads, set_fd_limit,
};

/// A datagram of UDP with any source, by a raw socket; `None` where this user may not open one.
fn forged(from: SocketAddr, to: SocketAddr, payload: &[u8]) -> Option<()> {
    let raw = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::UDP)).ok()?;
    raw.bind(&SocketAddr::from((from.ip(), 0)).into()).ok()?;
    let length = (8 + payload.len()) as u16;
    let head = [from.port(), to.port(), length, 0].map(u16::to_be_bytes).concat();
    let to = SockAddr::from(SocketAddr::from((to.ip(), 0)));
    raw.send_to(&[&head, payload].concat(), &to).ok().map(drop)
}

/// To port 0 nothing can be sent, so each answer is refused, and costs nothing but itself.
#[test]
fn a_source_that_no_answer_can_reach_harms_no_other() {
    for dispatch in modes() {
        let running = serve(dispatch, 1, echoing(any_port()));
        let client = client_of(inet(&running));
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
        let may_forge = forged(nowhere, inet(&running), b"forged").is_some();
        if !may_forge {
            return eprintln!("skipped: no raw sockets");
        }
        for number in 1..20_u8 {
            let _ = forged(nowhere, inet(&running), &[number]);
            client.send(&[number]).expect("room");
            assert_eq!(heard(&client), [number]);
        }
        eventually("the others are refused", || running.stats().datagrams.refused == 20);
        let stats = running.stats().datagrams;
        assert_eq!((stats.sent, stats.dropped, stats.queued), (19, 0, 0));
    }
}

/// A datagram that says that it comes from the server itself is answered to the server itself: it
/// must not go round for ever in one turn, so that others have none.
#[test]
fn a_datagram_that_goes_in_a_circle_starves_no_other() {
    let running = serve(Dispatch::Inline, 1, echoing(any_port()));
    let at = inet(&running);
    if forged(at, at, b"round and round").is_none() {
        return eprintln!("skipped: no raw sockets");
    }
    eventually("it goes round", || running.stats().datagrams.received > 100);
    let client = client_of(at);
    for number in 0..50_u8 {
        echo(&client, &[number]);
    }
    running.shutdown(PATIENCE);
    assert_eq!(running.wait().expect("in order").aborted, 0, "it does not hold up the end");
}

#[test]
fn empty_and_longest_datagrams_in_a_flood_are_all_accounted_for() {
    for dispatch in modes() {
        let running = serve(dispatch, 1, echoing(any_port()));
        let client = client_of(inet(&running));
        let longest = vec![7; 65_507];
        for round in 0..40 {
            client.send(&[]).expect("room");
            client.send(&longest).expect("room");
            client.send(&longest[..round]).expect("room");
        }
        client.set_read_timeout(Some(Duration::from_millis(200))).expect("an option");
        let (mut room, mut answers) = (vec![0; 65_536], 0);
        while let Ok(length) = client.recv(&mut room) {
            assert!(length < 40 || length == 65_507, "{length}");
            answers += 1;
        }
        let stats = running.stats().datagrams;
        assert!(answers > 0 && answers <= stats.sent, "{answers}: {stats:?}");
        assert_eq!(stats.sent + stats.refused + stats.dropped, stats.received, "{stats:?}");
        assert_eq!((stats.truncated, stats.queued), (0, 0));
        client.set_read_timeout(Some(PATIENCE)).expect("an option");
        echo(&client, b"as before");
    }
}

#[test]
fn a_server_for_which_descriptors_are_missing_is_an_error_and_leaves_nothing() {
    let name = "datagrams::attacked::\
                a_server_for_which_descriptors_are_missing_is_an_error_and_leaves_nothing";
    alone(name, || {
        let (open, mut failed) = (fd_count(), 0);
        // Up to the first limit at which there is a server.
        let running = loop {
            set_fd_limit((open + 1 + failed) as u64);
            let server = Datagrams::bind("udp", "127.0.0.1:0").and_then(|socket| {
                let event_loop = EventLoop::for_datagrams().loops(3).build().expect("options");
                event_loop.spawn(echoing(socket))
            });
            let Err(error) = server else { break server };
            assert!(error.to_string().contains("files"), "{error}");
            set_fd_limit(1024);
            eventually("nothing is left", || fd_count() == open);
            failed += 1;
        };
        assert!(failed > 6, "{failed}");
        set_fd_limit(1024);
        echo(&client_of(inet(&running.expect("a server"))), b"hello");
    });
}

#[test]
fn datagrams_are_answered_where_the_system_refuses_threads() {
    let name = "datagrams::attacked::datagrams_are_answered_where_the_system_refuses_threads";
    refusing_threads(name, || {
        for dispatch in modes() {
            let (tell, told) = mpsc::channel();
            let slow = any_port().on_datagrams(move |(): &mut (), batch: &DatagramBatch<'_>| {
                let _ = tell.send(());
                std::thread::sleep(Duration::from_millis(20)); // sleep: it blocks
                answer_all(batch)
            });
            let running = serve(dispatch, 2, slow);
            let clients: Vec<_> = (0..8).map(|_| client_of(inet(&running))).collect();
            echo(&clients[0], b"before");
            let refused = NoThreads::from_now_on();
            for client in &clients {
                client.send(b"x").expect("room");
            }
            for client in &clients {
                assert_eq!(heard(client), b"x");
            }
            drop((refused, told));
            running.shutdown(PATIENCE);
            running.wait().expect("in order");
        }
    });
}

/// What panics where it is dropped.
struct Grenade(Count);

impl Drop for Grenade {
    fn drop(&mut self) {
        self.0.add();
        panic!("in a drop");
    }
}

#[test]
fn a_panic_in_any_closure_or_drop_ends_what_it_is_of_and_no_more() {
    for dispatch in modes() {
        let (drops, ends) = (Count::default(), Count::default());
        let (made, ended) = (drops.clone(), ends.clone());
        let captured = Grenade(drops.clone());
        let server = any_port()
            .flows(FlowOptions::default())
            .on_flow(move |first: &Datagram<'_>| match first.payload() {
                b"on_flow" => panic!("as the peer wishes"),
                _ => Ok(Grenade(made.clone())),
            })
            .on_flow_end(move |session: Grenade, _: &FlowEnd| {
                ended.add();
                drop(session);
            })
            .on_datagrams(move |_: &mut Grenade, batch: &FlowBatch<'_>| {
                let _keep = &captured;
                batch.reply(b"before")?;
                let wished = batch.iter().any(|it| it.payload() == b"on_datagrams");
                assert!(!wished, "as the peer wishes");
                Ok(())
            });
        let running = serve(dispatch, 1, server);
        let client = client_of(inet(&running));
        client.send(b"on_flow").expect("room");
        eventually("it is refused", || running.stats().flows.refused == 1);
        for round in 1..4 {
            client.send(b"on_datagrams").expect("room");
            assert_eq!(heard(&client), b"before");
            eventually("the flow ends", || ends.get() == round && drops.get() == round);
        }
        client.send(b"fine").expect("room");
        assert_eq!(heard(&client), b"before");
        assert_eq!(running.stats().flows.open, 1);
        running.shutdown(PATIENCE);
        running.wait().expect("in order");
        // The session's, and what the callback had captured.
        eventually("all is dropped", || (ends.get(), drops.get()) == (4, 5));
    }
}

#[test]
fn a_session_that_panics_in_its_drop_ends_with_its_socket() {
    for dispatch in modes() {
        let drops = Count::default();
        let made = drops.clone();
        let server = any_port()
            .on_open(move |_: &DatagramHandle| Ok(Grenade(made.clone())))
            .on_datagrams(|_: &mut Grenade, batch: &DatagramBatch<'_>| answer_all(batch));
        let running = serve(dispatch, 2, server);
        echo(&client_of(inet(&running)), b"hello");
        running.shutdown(PATIENCE);
        running.wait().expect("in order");
        assert_eq!(drops.get(), 2);
    }
}

/// The server's own `Running` is dropped by one of its callbacks: the drop shuts down and waits,
/// and the callback that it waits for is left behind.
#[test]
fn a_callback_may_drop_its_own_server() {
    for dispatch in modes() {
        let (own, (tell, told)) = (Arc::new(Mutex::new(None::<Running>)), mpsc::channel());
        let taken = own.clone();
        let server = any_port().on_datagrams(move |(): &mut (), _: &DatagramBatch<'_>| {
            let running = lock(&taken).take();
            let is_there = running.is_some();
            drop(running);
            let _ = tell.send(is_there);
            Ok(())
        });
        let running = serve(dispatch, 1, server);
        let at = inet(&running);
        *lock(&own) = Some(running);
        client_of(at).send(b"x").expect("room");
        assert!(told.recv_timeout(PATIENCE).expect("the drop returns"));
        eventually("the port is free", || UdpSocket::bind(at).is_ok());
    }
}

#[test]
fn a_callback_may_shut_its_server_down_and_is_answered() {
    for dispatch in modes() {
        let (own, ends) = (Arc::new(Mutex::new(None::<EventLoop>)), Journal::default());
        let taken = own.clone();
        let server = any_port().on_datagrams(move |(): &mut (), batch: &DatagramBatch<'_>| {
            if let Some(event_loop) = &*lock(&taken) {
                event_loop.shutdown(PATIENCE);
            }
            batch.handle().close();
            answer_all(batch)
        });
        let running = serve(dispatch, 1, server);
        *lock(&own) = Some(running.event_loop().clone());
        echo(&client_of(inet(&running)), b"the last");
        let report = running.wait().expect("in order");
        ends.add(format!("{report:?}"));
        assert_eq!(report.aborted, 0);
        *lock(&own) = None;
    }
}

/// What a handle does with peers that its socket cannot reach, and with times that are odd.
#[test]
fn a_handle_refuses_what_cannot_be_sent_and_harms_nothing() {
    let (running, handle) = serve_with_handle(Dispatch::Inline);
    let long = vec![0; 70_000];
    let peers = [
        Address::Path(std::path::Path::new("/tmp/no-such-socket").into()),
        Address::Abstract(b"no-such-socket"[..].into()),
        Address::Unnamed,
        Address::Inet(SocketAddr::from(([127, 0, 0, 1], 0))),
        Address::Inet(SocketAddr::from(([0_u16, 0, 0, 0, 0, 0, 0, 1], 7))),
        Address::Inet(SocketAddr::from(([255, 255, 255, 255], 7))),
    ];
    for peer in &peers {
        assert!(handle.send_to(peer, "x").is_err(), "{peer}");
        assert!(handle.send_to(peer, long.clone()).is_err(), "{peer}");
        assert!(handle.send_from(Some([192, 0, 2, 7].into()), peer, "x").is_err(), "{peer}");
    }
    assert!(handle.send("it is not connected").is_err());
    let now = std::time::Instant::now();
    for at in [Some(now), now.checked_add(Duration::MAX), now.checked_sub(PATIENCE)] {
        handle.wake_at(at.unwrap_or(now + Duration::from_secs(1 << 40)));
    }
    for group in ["239.1.1.1", "ff02::1", "127.0.0.1", "0.0.0.0"] {
        let group = group.parse().expect("an address");
        assert!(handle.leave(group, None).is_err(), "{group}: it is no member");
        let _ = handle.join(group, "no-such-device").expect_err("no such device");
    }
    assert_eq!(handle.stats().queued, 0);
    echo(&client_of(inet(&running)), b"as before");
    handle.close();
    eventually("it is closed", || matches!(handle.send_to(&peers[3], "x"), Err(Error::Closed)));
    handle.wake();
    handle.wake_at(now);
    handle.close();
}

#[test]
fn any_limits_are_refused_by_name_or_serve() {
    let numbers = [0, 1, 2, 16, 17, 65_536, 1 << 20, usize::MAX];
    let usual = DatagramLimits::default();
    let mut all = Vec::new();
    for number in numbers {
        let turn = |rounds, bytes| DatagramLimits { turn: TurnLimits { rounds, bytes }, ..usual };
        all.extend([
            ("longest", DatagramLimits { longest: number, ..usual }),
            ("places", DatagramLimits { places: number, ..usual }),
            ("queued_bytes", DatagramLimits { queued_bytes: number, ..usual }),
            ("queued_datagrams", DatagramLimits { queued_datagrams: number, ..usual }),
            ("turn", turn(number, 1)),
            ("turn", turn(1, number)),
        ]);
    }
    for when_full in [WhenFull::DropNewest, WhenFull::DropOldest] {
        for (name, limits) in &all {
            let limits = DatagramLimits { when_full, ..*limits };
            let event_loop = EventLoop::for_datagrams().loops(1).build().expect("options");
            match event_loop.spawn(echoing(any_port()).limits(limits)) {
                Ok(running) => {
                    let client = client_of(inet(&running));
                    (0..5).for_each(|_| echo(&client, b"x"));
                }
                Err(error) => assert!(error.to_string().starts_with(name), "{name}: {error}"),
            }
        }
    }
}

#[test]
fn any_idle_time_and_bound_of_flows_serve() {
    let counting = |options| {
        let ends = Count::default();
        let ended = ends.clone();
        let server = any_port()
            .flows(options)
            .on_flow(|_: &Datagram<'_>| Ok(()))
            .on_flow_end(move |(), _: &FlowEnd| {
                ended.add();
            })
            .on_datagrams(|(): &mut (), batch: &FlowBatch<'_>| batch.reply(b"x"));
        (server, ends)
    };
    for nanos in [1, 1_000, 1_000_000] {
        let idle = Duration::from_nanos(nanos);
        let (server, ends): (DatagramServer, _) =
            counting(FlowOptions { idle, max_flows: 1, ..FlowOptions::default() });
        let running = serve(Dispatch::Inline, 2, server);
        let client = client_of(inet(&running));
        for round in 1..5 {
            echo(&client, b"x");
            eventually("it ends at once", || ends.get() == round);
        }
        assert_eq!(running.stats().flows.open, 0);
    }
}
