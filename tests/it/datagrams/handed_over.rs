//! Hot restart with datagrams: one process at a time receives them, and none is lost. Both are in
//! this process, which the protocol does not know.

use std::io::{Read, Write};
use std::net::{Shutdown, UdpSocket};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use netpoll::{
    Connection, Datagram, DatagramBatch, DatagramHandle, DatagramServer, Datagrams, Dispatch,
    Error, EventLoop, FlowBatch, FlowEnd, FlowOptions, HandOverOptions, Listener, Listeners,
    Result, Running, TakenOver, take_over, take_over_with,
};

use nix::sys::socket::{getsockopt, sockopt::UdpGroSegment};

use super::{any_port, client_of, echoing, heard, inet, serve, serve_with_handle};
use crate::util::{Count, Gate, Journal, PATIENCE, eventually, modes};

/// A server that answers with its name before what it was sent.
fn named(name: &'static str, socket: Datagrams) -> DatagramServer {
    socket.on_datagrams(move |(): &mut (), batch: &DatagramBatch<'_>| {
        batch.iter().try_for_each(|it| it.reply(&[name.as_bytes(), it.payload()].concat()))
    })
}

/// As `named`; it is held up by a datagram that says so.
fn held(name: &'static str, gate: &Gate, entered: mpsc::Sender<()>) -> DatagramServer {
    let gate = gate.clone();
    any_port().on_datagrams(move |(): &mut (), batch: &DatagramBatch<'_>| {
        for datagram in batch {
            if datagram.payload() == b"hold" {
                let _ = entered.send(());
                gate.pass();
            }
            datagram.reply(&[name.as_bytes(), datagram.payload()].concat())?;
        }
        Ok(())
    })
}

/// The old process's part, on a thread of its own.
fn give(old: &Running, to: UnixStream) -> JoinHandle<Result<()>> {
    give_within(Duration::from_secs(3600), old, to) // no test waits for that
}

fn give_within(deadline: Duration, old: &Running, to: UnixStream) -> JoinHandle<Result<()>> {
    let options = HandOverOptions { deadline, ..HandOverOptions::default() };
    let old = old.event_loop().clone();
    thread::spawn(move || old.hand_over_with(&to, options))
}

/// Gives the sockets of a server away.
fn offered(old: &Running) -> (JoinHandle<Result<()>>, TakenOver) {
    let (ours, theirs) = UnixStream::pair().expect("a pair");
    let giving = give(old, ours);
    (giving, take_over(theirs).expect("its sockets"))
}

fn only(taken: TakenOver) -> Datagrams {
    assert!(taken.listeners.is_empty());
    let [datagrams] = <[Datagrams; 1]>::try_from(taken.datagrams).expect("one address");
    datagrams
}

/// Has a server with this name take the sockets over.
fn follow(old: &Running, name: &'static str, dispatch: Dispatch, loops: usize) -> Running {
    let (giving, taken) = offered(old);
    let new = serve(dispatch, loops, named(name, only(taken)));
    giving.join().expect("no panic").expect("the new one serves");
    new
}

#[track_caller]
fn ask(client: &UdpSocket, text: &str) -> String {
    client.send(text.as_bytes()).expect("room");
    String::from_utf8(heard(client)).expect("text")
}

#[test]
fn what_waits_in_the_kernel_goes_to_the_new_one() {
    for dispatch in modes() {
        let (gate, (tell, entered)) = (Gate::default(), mpsc::channel());
        let old = serve(dispatch, 1, held("old ", &gate, tell));
        let client = client_of(inet(&old));
        client.send(b"hold").expect("room");
        entered.recv_timeout(PATIENCE).expect("a callback");
        for number in 0..20_u8 {
            client.send(&[number]).expect("room");
        }
        let new = follow(&old, "new ", dispatch, 1);
        for number in 0..20_u8 {
            assert_eq!(heard(&client), [b"new ", &[number][..]].concat(), "in order");
        }
        gate.open();
        assert_eq!(heard(&client), b"old hold", "what it had received it answers");
        old.shutdown(PATIENCE);
        old.wait().expect("in order");
        assert_eq!(ask(&client, "x"), "new x");
        assert_eq!(new.stats().datagrams.received, 21);
    }
}

#[test]
fn each_datagram_is_answered_once_while_servers_follow_each_other() {
    for dispatch in modes() {
        let mut server = serve(dispatch, 2, named("0", any_port()));
        let (at, is_over) = (inet(&server), Arc::new(AtomicBool::new(false)));
        let sender = |_| {
            let (client, is_over) = (client_of(at), is_over.clone());
            thread::spawn(move || exchange(&client, &is_over))
        };
        let senders: Vec<_> = (0..4).map(sender).collect();
        for name in ["1", "2", "3"] {
            let before = server.stats().datagrams.received;
            eventually("it serves", || server.stats().datagrams.received > before + 50);
            let next = follow(&server, name, dispatch, 2);
            server.shutdown(PATIENCE);
            server.wait().expect("in order");
            server = next;
        }
        eventually("it serves", || server.stats().datagrams.received > 50);
        is_over.store(true, Ordering::SeqCst);
        for sender in senders {
            sender.join().expect("each is answered once");
        }
    }
}

/// Sends numbers until it is over. Each must be answered, and once.
fn exchange(client: &UdpSocket, is_over: &AtomicBool) {
    const ON_THE_WAY: usize = 8;
    let (mut waiting, mut next) = (Vec::new(), 0_u64);
    loop {
        while waiting.len() < ON_THE_WAY && !is_over.load(Ordering::SeqCst) {
            client.send(&next.to_ne_bytes()).expect("room");
            waiting.push(next);
            next += 1;
        }
        if waiting.is_empty() {
            return;
        }
        let answer = heard(client);
        let number = u64::from_ne_bytes(answer[1..].try_into().expect("a name and a number"));
        let at = waiting.iter().position(|it| *it == number).expect("it is answered once");
        waiting.swap_remove(at);
    }
}

#[test]
fn a_successor_that_fails_leaves_the_old_one_receiving() {
    let old = serve(Dispatch::Inline, 2, named("old ", any_port()));
    let client = client_of(inet(&old));
    let greet = |stream: &mut UnixStream| {
        stream.write_all(b"netpoll hand-over 1\n").expect("room");
        stream.read_exact(&mut [0; 24]).expect("an answer");
    };
    let failures: [&dyn Fn(UnixStream); 5] = [
        &drop,
        &|stream| drop(take_over(stream).expect("its sockets")),
        // It can't be served: no loop is left to watch it, since the options are wrong.
        &|stream| {
            let taken = only(take_over(stream).expect("its sockets"));
            let limits = netpoll::DatagramLimits { places: 0, ..Default::default() };
            let event_loop = EventLoop::for_datagrams().build().expect("options");
            assert!(event_loop.spawn(echoing(taken).limits(limits)).is_err());
        },
        &|mut stream| {
            greet(&mut stream);
            stream.write_all(b"?").expect("room");
        },
        // It says that it serves, and can't be told any more that it may.
        &|mut stream| {
            greet(&mut stream);
            stream.shutdown(Shutdown::Read).expect("an open stream");
            stream.write_all(b"!").expect("room");
        },
    ];
    for fail in failures {
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        let giving = give(&old, ours);
        fail(theirs);
        giving.join().expect("no panic").expect_err("none serves");
        assert_eq!(ask(&client, "x"), "old x");
    }
    let _new = follow(&old, "new ", Dispatch::Inline, 2);
    assert_eq!(ask(&client, "x"), "new x");
}

#[test]
fn every_socket_is_served_whatever_the_number_of_loops() {
    for loops in [1, 2, 5] {
        let old = serve(Dispatch::Inline, 3, named("old ", any_port().named("game")));
        let clients: Vec<_> = (0..24).map(|_| client_of(inet(&old))).collect();
        for client in &clients {
            assert_eq!(ask(client, "x"), "old x");
        }
        let (giving, taken) = offered(&old);
        let taken = only(taken);
        assert_eq!((taken.name(), taken.local_addr()), (Some("game"), old.address()));
        let opened = Count::default();
        let count = opened.clone();
        let taken = taken.on_open(move |_: &DatagramHandle| Ok(count.add()));
        let server = taken.on_datagrams(|_: &mut usize, batch: &DatagramBatch<'_>| {
            batch.iter().try_for_each(|it| it.reply(&[b"new ", it.payload()].concat()))
        });
        let new = serve(Dispatch::Inline, loops, server);
        giving.join().expect("no panic").expect("the new one serves");
        drop(old);
        for client in &clients {
            assert_eq!(ask(client, "x"), "new x");
        }
        assert_eq!(opened.get(), 3, "with one the kernel would have moved peers to it");
        // And once more, from there.
        let last = follow(&new, "last ", Dispatch::Inline, 2);
        drop(new);
        for client in &clients {
            assert_eq!(ask(client, "x"), "last x");
        }
        drop(last);
    }
}

#[test]
fn what_datagrams_say_beside_payloads_travels_along() {
    let socket = Datagrams::options().time_stamps(true).packet_info(true).gro(false);
    let old = serve(
        Dispatch::Inline,
        1,
        named("old ", socket.bind("udp4", "127.0.0.1:0").expect("a port")),
    );
    let (giving, taken) = offered(&old);
    let taken = only(taken);
    let joins = getsockopt(&taken, UdpGroSegment).expect("an option");
    assert!(!joins, "what was switched off stays off");
    let telling = |socket: Datagrams| {
        socket.on_datagrams(|(): &mut (), batch: &DatagramBatch<'_>| {
            let told = |it: Datagram<'_>| format!("{:?} {}", it.local(), it.time().is_some());
            batch.iter().try_for_each(|it| it.reply(told(it).as_bytes()))
        })
    };
    let new = serve(Dispatch::Inline, 1, telling(taken));
    giving.join().expect("no panic").expect("the new one serves");
    assert_eq!(ask(&client_of(inet(&new)), "x"), "Some(127.0.0.1) true");
    drop(old);
}

#[test]
fn handles_of_the_old_one_send_until_its_end() {
    let (old, handle) = serve_with_handle(Dispatch::Inline);
    let client = client_of(inet(&old));
    let peer = client.local_addr().expect("an address").into();
    let _new = follow(&old, "new ", Dispatch::Inline, 1);
    handle.send_to(&peer, "late answer").expect("it sends");
    assert_eq!(heard(&client), b"late answer", "from the port that was asked");
    old.shutdown(PATIENCE);
    old.wait().expect("in order");
    assert!(matches!(handle.send_to(&peer, "too late"), Err(Error::Closed)));
    assert_eq!(ask(&client, "x"), "new x");
}

#[test]
fn a_take_over_of_listeners_alone_is_refused_by_name_and_changes_nothing() {
    let old = serve(Dispatch::Inline, 1, named("old ", any_port()));
    let (ours, theirs) = UnixStream::pair().expect("a pair");
    let giving = give(&old, ours);
    let error = Listener::take_over(theirs).expect_err("it has datagrams").to_string();
    assert!(error.contains("netpoll::take_over takes both"), "{error}");
    giving.join().expect("no panic").expect_err("none serves");
    assert_eq!(ask(&client_of(inet(&old)), "x"), "old x");
}

/// What an event loop serves.
fn both(name: &'static str, listeners: Vec<Listener>, datagrams: Vec<Datagrams>) -> Running {
    let builder = EventLoop::builder().on_connect(move |(): &mut (), conn: &mut Connection| {
        conn.writer().write_bytes(name.as_bytes());
        Ok(())
    });
    let event_loop = builder.on_request(|(): &mut (), _: &mut Connection| Ok(())).loops(2);
    let served = datagrams.into_iter().map(|it| Listeners::from(named(name, it)));
    let all = served.fold(Listeners::from(listeners), Listeners::and);
    event_loop.build().expect("options").spawn(all).expect("it serves")
}

#[test]
fn listeners_and_datagrams_go_together_and_some_can_be_declined() {
    let listener = Listener::bind("tcp", "127.0.0.1:0").expect("a port");
    let old = both("old ", vec![listener], vec![any_port(), any_port().named("unwanted")]);
    let [stream, first, second] = [0, 1, 2].map(|it| old.addresses()[it].inet().expect("inet"));
    for fails in [true, false] {
        let (giving, mut taken) = offered(&old);
        assert_eq!((taken.listeners.len(), taken.datagrams.len()), (1, 2));
        let unwanted = taken.datagrams.pop().expect("two");
        assert_eq!(unwanted.name(), Some("unwanted"));
        if fails {
            drop(unwanted);
            giving.join().expect("no panic").expect_err("one was dropped");
            assert_eq!(ask(&client_of(second), "x"), "old x");
            continue;
        }
        unwanted.decline();
        let new = both("new ", taken.listeners, taken.datagrams);
        giving.join().expect("no panic").expect("the new one serves");
        drop(old);
        let mut name = [0; 4];
        crate::util::connect(stream).read_exact(&mut name).expect("a name");
        assert_eq!(&name, b"new ");
        assert_eq!(ask(&client_of(first), "x"), "new x");
        assert!(UdpSocket::bind(second).is_ok(), "it is closed");
        drop(new);
        return;
    }
}

#[test]
fn several_event_loops_take_datagrams_over_together() {
    let old = both("old ", Vec::new(), vec![any_port(), any_port()]);
    let [first, second] = [0, 1].map(|it| client_of(old.addresses()[it].inet().expect("inet")));
    // One of them ends before the other serves: so the hand-over fails, and at once.
    let (giving, mut taken) = offered(&old);
    let last = taken.datagrams.pop().expect("two");
    drop(serve(Dispatch::Inline, 1, named("one ", only(taken))));
    eventually("the old one hears of it", || giving.is_finished());
    giving.join().expect("no panic").expect_err("one has ended");
    let event_loop = EventLoop::for_datagrams().build().expect("options");
    event_loop.spawn(named("two ", last)).expect_err("it has failed");
    assert_eq!((ask(&first, "x"), ask(&second, "x")), ("old x".into(), "old x".into()));

    let (giving, mut taken) = offered(&old);
    let last = taken.datagrams.pop().expect("two");
    let one = serve(Dispatch::Inline, 1, named("one ", only(taken)));
    // The first of them serves, and receives nothing yet.
    for _ in 0..20 {
        assert_eq!((ask(&first, "x"), ask(&second, "x")), ("old x".into(), "old x".into()));
    }
    assert!(!giving.is_finished());
    let two = serve(Dispatch::Inline, 1, named("two ", last));
    giving.join().expect("no panic").expect("both serve");
    eventually("each has its own", || ask(&first, "x") == "one x" && ask(&second, "x") == "two x");
    drop((old, one, two));
}

/// A session that tells of its end.
struct Told(mpsc::Sender<()>);

impl Drop for Told {
    fn drop(&mut self) {
        let _ = self.0.send(());
    }
}

#[test]
fn a_shutdown_while_it_is_handed_over_leaves_the_queue() {
    let (gate, (tell, entered), (tell_end, ended)) =
        (Gate::default(), mpsc::channel(), mpsc::channel());
    let pass = gate.clone();
    let server = any_port()
        .on_open(move |_: &DatagramHandle| Ok(Told(tell_end.clone())))
        .on_datagrams(move |_: &mut Told, batch: &DatagramBatch<'_>| {
            let _ = tell.send(());
            pass.pass();
            batch.iter().try_for_each(|it| it.reply(&[b"old ", it.payload()].concat()))
        });
    let old = serve(Dispatch::Inline, 2, server);
    let client = client_of(inet(&old));
    client.send(b"hold").expect("room");
    entered.recv_timeout(PATIENCE).expect("a callback");
    let (giving, taken) = offered(&old);
    old.shutdown(PATIENCE);
    ended.recv_timeout(PATIENCE).expect("the other socket has ended");
    client.send(b"x").expect("room");
    gate.open();
    old.wait().expect("in order");
    assert_eq!(heard(&client), b"old hold");
    let _new = serve(Dispatch::Inline, 1, named("new ", only(taken)));
    assert_eq!(heard(&client), b"new x", "it waited in the kernel");
    giving.join().expect("no panic").expect("the new one serves");
}

#[test]
fn a_successor_that_is_late_receives_nothing() {
    let old = serve(Dispatch::Inline, 1, named("old ", any_port()));
    let client = client_of(inet(&old));
    let (ours, theirs) = UnixStream::pair().expect("a pair");
    let giving = give_within(Duration::from_millis(30), &old, ours);
    let taken = only(take_over_with(theirs, HandOverOptions::default()).expect("its sockets"));
    giving.join().expect("no panic").expect_err("it waits no longer");
    let event_loop = EventLoop::for_datagrams().build().expect("options");
    event_loop.spawn(named("new ", taken)).expect_err("the old one goes on");
    assert_eq!(ask(&client, "x"), "old x");
}

#[test]
fn the_path_of_a_unix_socket_goes_with_it() {
    let directory = std::env::temp_dir().join(format!("netpoll-gram-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&directory);
    std::fs::create_dir(&directory).expect("a directory");
    let path = directory.join("log").to_str().expect("UTF-8").to_owned();
    let there = || std::fs::symlink_metadata(&path).is_ok();
    let bind = || Datagrams::bind("unixgram", &path).expect("a path");
    let client = UnixDatagram::bind(directory.join("client")).expect("a path");
    client.set_read_timeout(Some(PATIENCE)).expect("an option");

    let old = serve(Dispatch::Inline, 1, named("old ", bind()));
    let (giving, taken) = offered(&old);
    drop(taken);
    giving.join().expect("no panic").expect_err("it was not served");
    assert!(there());
    let new = follow(&old, "new ", Dispatch::Inline, 1);
    drop(old);
    assert!(there(), "it is the new one's");
    client.send_to(b"x", &path).expect("room");
    let mut into = [0; 9];
    let length = client.recv(&mut into).expect("an answer");
    assert_eq!(&into[..length], b"new x");
    drop(new);
    assert!(!there(), "the new one removes it");

    let old = serve(Dispatch::Inline, 1, named("old ", bind()));
    drop(old);
    assert!(!there());
    std::fs::remove_dir_all(&directory).expect("a directory");
}

#[test]
fn flows_end_with_the_old_one_and_begin_anew() {
    let journal = Journal::default();
    let counting = |socket: Datagrams, name: &'static str| {
        let ends = journal.clone();
        socket
            .flows(FlowOptions::default())
            .on_flow(|_: &Datagram<'_>| Ok(0_usize))
            .on_flow_end(move |seen: usize, why: &FlowEnd| {
                ends.add(format!("{name}{seen}: {why}"));
            })
            .on_datagrams(move |seen: &mut usize, batch: &FlowBatch<'_>| {
                *seen += batch.len();
                batch.reply(format!("{name}{seen}").as_bytes())
            })
    };
    let old = serve(Dispatch::Inline, 2, counting(any_port(), "old "));
    let client = client_of(inet(&old));
    assert_eq!((ask(&client, "x"), ask(&client, "x")), ("old 1".into(), "old 2".into()));
    let (giving, taken) = offered(&old);
    let new = serve(Dispatch::Inline, 2, counting(only(taken), "new "));
    giving.join().expect("no panic").expect("the new one serves");
    assert_eq!(ask(&client, "x"), "new 1");
    assert_eq!((old.stats().flows.open, new.stats().flows.open), (1, 1));
    old.shutdown(PATIENCE);
    old.wait().expect("in order");
    assert_eq!(journal.entries(), ["old 2: the socket was closed"]);
    assert_eq!(ask(&client, "x"), "new 2");
}
