//! Groups: a broadcast reaches all members, in order with what is sent to one of them.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::Duration;

use netpoll::{
    Broadcast, Bytes, Connection, Dialer, Dispatch, Error, EventLoop, EventLoopBuilder, Group,
    Handle, LoadBalance, PollManager, Result, SlowMembers,
};

use crate::util::{
    Client, Count, Gate, Journal, PATIENCE, Random, Server, echo_once, eventually, lock, modes,
};

/// A server whose connections join the group before they are served, and tell their handle.
pub(crate) fn joining(group: &Group) -> (EventLoopBuilder, mpsc::Receiver<Handle>) {
    let (told, handles) = mpsc::channel();
    let group = group.clone();
    let builder = EventLoop::builder()
        .on_connect(move |(): &mut (), conn: &mut Connection| {
            assert!(group.add(&conn.handle()));
            let _ = told.send(conn.handle());
            Ok(())
        })
        .on_request(|(): &mut (), conn: &mut Connection| echo_once(conn));
    (builder, handles)
}

pub(crate) fn member(server: &Server, handles: &mpsc::Receiver<Handle>) -> (TcpStream, Handle) {
    let client = server.connect();
    (client, handles.recv_timeout(PATIENCE).expect("it joins"))
}

/// Holds the one loop of an inline server inside a callback until the gate opens.
fn hold(handle: &Handle) -> Gate {
    let (gate, inside) = (Gate::default(), Count::default());
    let (closed, entered) = (gate.clone(), inside.clone());
    let job = move |_: &mut Connection| {
        entered.add();
        closed.pass();
        Ok(())
    };
    handle.run(job).expect("it lives");
    eventually("the loop is held", || inside.get() == 1);
    gate
}

#[test]
fn every_member_gets_every_broadcast_in_order_in_every_mode() {
    for dispatch in modes() {
        let group = Group::new();
        let (builder, handles) = joining(&group);
        let server = Server::start(builder.dispatch(dispatch).loops(2));
        // More than one turn of a pass, on each loop.
        let mut clients: Vec<_> = (0..150).map(|_| member(&server, &handles).0).collect();
        assert_eq!(group.len(), 150);
        let text: Vec<String> = (0..200).map(|number| format!("message {number}\n")).collect();
        for line in &text {
            group.broadcast(line.clone()).expect("there is room");
        }
        for client in &mut clients {
            client.hear(text.concat().as_bytes());
        }
        eventually("nothing is on its way", || group.stats().pending == 0);
        let stats = group.stats();
        assert_eq!((stats.broadcasts, stats.sent), (200, 150 * 200));
        assert_eq!((stats.skipped, stats.dropped), (0, 0));
    }
}

/// The loop is held, so what arrives was sent by the thread that sends to one member.
#[test]
fn what_is_sent_to_a_member_comes_behind_what_was_broadcast_before() {
    let group = Group::new();
    let (builder, handles) = joining(&group);
    let server = Server::start(builder.dispatch(Dispatch::Inline).loops(1));
    let (mut first, handle) = member(&server, &handles);
    let (mut second, other) = member(&server, &handles);
    let gate = hold(&handle);
    for round in 0..3 {
        group.broadcast(format!("broadcast {round}, ")).expect("there is room");
        handle.send(format!("sent {round}; ")).expect("there is room");
    }
    first.hear(b"broadcast 0, sent 0; broadcast 1, sent 1; broadcast 2, sent 2; ");
    other.send_buffer(b"behind all".to_vec().into()).expect("it is sent");
    second.hear(b"broadcast 0, broadcast 1, broadcast 2, behind all");
    group.broadcast(", last words").expect("there is room");
    assert!(group.remove(&other) && !group.remove(&other));
    second.hear(b", last words");
    group.broadcast("for those who stayed").expect("there is room");
    other.shutdown_write();
    assert_eq!(second.rest(), b"");
    gate.open();
    first.hear(b", last wordsfor those who stayed");
}

#[test]
fn what_a_callback_writes_after_a_broadcast_comes_behind_it_and_a_close_too() {
    for dispatch in modes() {
        let group = Group::new();
        let here = group.clone();
        let server = Server::start(
            EventLoop::builder()
                .on_connect(|(): &mut (), _: &mut Connection| Ok(()))
                .on_request(move |(): &mut (), conn: &mut Connection| {
                    here.add(&conn.handle());
                    let asked = conn.reader().next(1)?[0];
                    here.broadcast("broadcast, ")?;
                    match asked {
                        b'f' => {
                            conn.writer().write_bytes(b"flushed; ");
                            conn.writer().flush()?;
                        }
                        b'w' => conn.writer().write_bytes(b"written; "),
                        _ => conn.close(),
                    }
                    Ok(())
                })
                .dispatch(dispatch)
                .loops(1),
        );
        let mut client = server.connect();
        for (asked, answer) in
            [(b"f", &b"broadcast, flushed; "[..]), (b"w", b"broadcast, written; ")]
        {
            client.say(asked);
            client.hear(answer);
        }
        client.say(b"c");
        assert_eq!(client.rest(), b"broadcast, ");
        eventually("its end ends the membership", || group.is_empty());
    }
}

/// `broadcast` in one loop of calls, `send` to one member in between: no byte changes its place.
#[test]
fn one_thread_sends_and_broadcasts_in_turns_and_all_arrives_in_that_order() {
    for dispatch in modes() {
        let group = Group::new();
        let (builder, handles) = joining(&group);
        let server = Server::start(builder.dispatch(dispatch).loops(2));
        let mut members: Vec<_> = (0..8).map(|_| member(&server, &handles)).collect();
        let mut expected = vec![String::new(); members.len()];
        for number in 0..400 {
            let line = format!("all {number}\n");
            group.broadcast(line.clone()).expect("there is room");
            for it in &mut expected {
                it.push_str(&line);
            }
            let one = number % members.len();
            let line = format!("one {number}\n");
            members[one].1.send(line.clone()).expect("there is room");
            expected[one].push_str(&line);
        }
        for ((client, _), expected) in members.iter_mut().zip(&expected) {
            client.hear(expected.as_bytes());
        }
    }
}

fn never_reading(slow: SlowMembers) -> (Group, Server, (TcpStream, TcpStream), Journal) {
    let group = Group::builder().slow_members(slow).build().expect("good options");
    let journal = Journal::default();
    let (builder, handles) = joining(&group);
    let builder = builder.output_limits(1 << 10, 16 << 10).on_disconnect(journal.on_disconnect());
    let server = Server::start(builder);
    let (slow, quick) = (member(&server, &handles).0, member(&server, &handles).0);
    (group, server, (slow, quick), journal)
}

/// Broadcasts until a member is found too slow, while the other reads; returns how many.
fn flood(group: &Group, quick: &mut TcpStream) -> usize {
    let mut count = 0;
    while group.stats().skipped == 0 {
        let message = vec![count as u8; 8 << 10];
        // The loop of the other may be behind.
        eventually("there is room", || group.broadcast(message.clone()).is_ok());
        quick.hear(&message);
        count += 1;
        assert!(count < 100_000, "nothing is ever skipped");
    }
    count
}

#[test]
fn a_member_that_takes_nothing_is_skipped_and_the_others_are_not() {
    let (group, server, (mut slow, mut quick), _) = never_reading(SlowMembers::Skip);
    let count = flood(&group, &mut quick);
    let (told, receipt) = mpsc::channel();
    let tell = move |counts: Broadcast| told.send(counts).expect("the test listens");
    group.broadcast_with("counted", tell).expect("there is room");
    quick.hear(b"counted");
    let counts = receipt.recv_timeout(PATIENCE).expect("the counts");
    assert_eq!((counts.sent, counts.skipped, counts.dropped), (1, 1, 0));
    assert_eq!((group.len(), group.stats().dropped), (2, 0));
    drop(server); // ends both
    // Whole messages, in order, and a reset behind them.
    let mut heard = Vec::new();
    let _ = slow.read_to_end(&mut heard);
    assert!(heard.chunks_exact(8 << 10).enumerate().all(|(number, message)| {
        number < count && message.iter().all(|byte| *byte == number as u8)
    }));
}

#[test]
fn a_member_that_takes_nothing_is_dropped_if_the_group_says_so() {
    let (group, _server, (mut slow, mut quick), journal) = never_reading(SlowMembers::Drop);
    flood(&group, &mut quick);
    assert_eq!(journal.wait(1).len(), 1);
    let stats = group.stats();
    assert_eq!((stats.members, stats.skipped, stats.dropped), (1, 1, 1));
    let ended = slow.read_to_end(&mut Vec::new()).expect_err("a reset");
    assert_eq!(ended.kind(), std::io::ErrorKind::ConnectionReset);
    group.broadcast("the other is served").expect("there is room");
    quick.hear(b"the other is served");
}

#[test]
fn a_membership_is_one_and_ends_with_its_connection() {
    let (group, second) = (Group::new(), Group::new());
    let (builder, handles) = joining(&group);
    let server = Server::start(builder);
    let (mut client, handle) = member(&server, &handles);
    assert!(!group.add(&handle), "it is a member already");
    assert!(second.add(&handle) && second.contains(&handle));
    assert_eq!(group.members(), std::slice::from_ref(&handle));
    group.broadcast("one ").expect("there is room");
    second.broadcast("two").expect("there is room");
    let mut heard = [0; 7];
    client.read_exact(&mut heard).expect("both broadcasts");
    assert!(&heard == b"one two" || &heard == b"twoone ");
    assert!(second.remove(&handle) && !second.contains(&handle));
    assert!(second.add(&handle), "it may come back");
    drop(client);
    eventually("it has left both", || group.is_empty() && second.is_empty());
    assert!(!group.add(&handle) && !group.remove(&handle), "it has ended");
    assert_eq!(group.len(), 0);
}

#[test]
fn members_are_of_any_manager_and_dialled_as_well() {
    let group = Group::new();
    let shared = Arc::new(PollManager::new(2, LoadBalance::RoundRobin).expect("a manager"));
    let (builder, handles) = joining(&group);
    let server = Server::start(builder.loops(1));
    let (on_shared, more) = joining(&group);
    let other = Server::start(on_shared.manager(shared.clone()));
    let mut clients: Vec<_> = (0..4).map(|_| member(&server, &handles).0).collect();
    clients.extend((0..4).map(|_| member(&other, &more).0));

    let echo = Server::start(crate::util::echo());
    let (answered, answers) = mpsc::channel();
    let client = netpoll::Client::builder()
        .on_request(move |(): &mut (), conn: &mut Connection| {
            let answer = conn.reader().read_bytes(7)?;
            let _ = answered.send(answer);
            Ok(())
        })
        .build()
        .expect("good options");
    let address = echo.address.to_string();
    let served = client.dial("tcp", &address, PATIENCE).expect("it accepts");
    let mut driven = netpoll::dial_connection("tcp", &address, PATIENCE).expect("it accepts");
    assert!(group.add(&served) && group.add(&driven.handle()));

    group.broadcast("to all!").expect("there is room");
    for client in &mut clients {
        client.hear(b"to all!");
    }
    assert_eq!(answers.recv_timeout(PATIENCE).expect("an echo"), &b"to all!"[..]);
    assert_eq!(driven.reader().read_bytes(7).expect("an echo"), &b"to all!"[..]);
    group.broadcast_except("to most", &driven.handle()).expect("there is room");
    assert_eq!(answers.recv_timeout(PATIENCE).expect("an echo"), &b"to most"[..]);
    driven.writer().write_bytes(b"nothing");
    driven.writer().flush().expect("it is sent");
    assert_eq!(driven.reader().read_bytes(7).expect("an echo"), &b"nothing"[..]);
    group.broadcast("farewell").expect("there is room");
    driven.shutdown_write(); // it sends what was broadcast, and its end
    assert_eq!(driven.reader().read_bytes(8).expect("an echo"), &b"farewell"[..]);
    drop(driven);
    eventually("it has left", || group.len() == 9);
}

/// The manager's loops end before the connection does, which its caller still holds.
#[test]
fn a_loop_that_has_ended_takes_its_members_with_it() {
    let (group, echo) = (Group::new(), Server::start(crate::util::echo()));
    let manager = Arc::new(PollManager::new(1, LoadBalance::RoundRobin).expect("a manager"));
    let dialer = Dialer::builder().build().expect("good options").manager(manager.clone());
    let address = echo.address.to_string();
    let conn = dialer.dial("tcp", &address).expect("it accepts");
    assert!(group.add(&conn.handle()));
    drop((dialer, manager));
    let (told, receipt) = mpsc::channel();
    let tell = move |counts: Broadcast| told.send(counts).expect("the test listens");
    group.broadcast_with("to no loop", tell).expect("there is room");
    receipt.recv_timeout(PATIENCE).expect("the counts");
    eventually("no member is left", || group.is_empty() && group.stats().pending == 0);
    drop(conn);
}

#[test]
fn a_group_that_is_dropped_has_sent_what_was_broadcast() {
    let group = Group::new();
    let (told, handles) = mpsc::channel();
    // No callback keeps the group.
    let builder = crate::util::echo().on_connect(move |(): &mut (), conn: &mut Connection| {
        let _ = told.send(conn.handle());
        Ok(())
    });
    let server = Server::start(builder.dispatch(Dispatch::Inline).loops(1));
    let (mut client, handle) = member(&server, &handles);
    assert!(group.add(&handle));
    let gate = hold(&handle);
    let freed = Arc::new(AtomicBool::new(false));
    group.broadcast(Bytes::from_owner(Noted(freed.clone()))).expect("there is room");
    drop(group);
    assert!(!freed.load(Ordering::SeqCst), "it has yet to be sent");
    gate.open();
    client.hear(&[b'x'; 8192]);
    eventually("its memory is freed", || freed.load(Ordering::SeqCst));
    let next = Group::new();
    assert!(next.add(&handle));
    next.broadcast("of another group").expect("there is room");
    client.hear(b"of another group");
}

/// Memory of the user's, which tells when it is freed.
struct Noted(Arc<AtomicBool>);

impl AsRef<[u8]> for Noted {
    fn as_ref(&self) -> &[u8] {
        &[b'x'; 8192]
    }
}

impl Drop for Noted {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

#[test]
fn what_is_on_its_way_to_a_loop_that_is_held_is_bounded() {
    let group = Group::builder().pending_limit(64 << 10).build().expect("good options");
    let (builder, handles) = joining(&group);
    let server = Server::start(builder.dispatch(Dispatch::Inline).loops(1));
    let (mut client, handle) = member(&server, &handles);
    let gate = hold(&handle);
    let (dropped, receipt) = (Arc::new(AtomicBool::new(false)), Count::default());
    let mut sent = 0;
    let refused = loop {
        match group.broadcast(vec![b'a'; 1000]) {
            Ok(()) => sent += 1,
            Err(error) => break error,
        }
        assert!(sent <= 64, "nothing bounds what is on its way");
    };
    assert!(matches!(refused, Error::Full), "{refused}");
    assert!(group.stats().pending <= 64 << 10);
    let counted = receipt.clone();
    let tell = move |_| {
        counted.add();
    };
    let noted = Bytes::from_owner(Noted(dropped.clone()));
    assert!(matches!(group.broadcast_with(noted, tell), Err(Error::Full)));
    assert!(dropped.load(Ordering::SeqCst), "what is refused is dropped");
    gate.open();
    client.hear(&vec![b'a'; sent * 1000]);
    eventually("nothing is on its way", || group.stats().pending == 0);
    let gate = hold(&handle);
    group.broadcast(vec![b'b'; 100 << 10]).expect("one message of any size is allowed");
    assert!(matches!(group.broadcast("one more"), Err(Error::Full)));
    gate.open();
    client.hear(&vec![b'b'; 100 << 10]);
    assert_eq!(receipt.get(), 0, "a refused broadcast has no receipt");
    let refused = Group::builder().pending_limit(0).build().expect_err("0 is refused");
    assert!(refused.to_string().starts_with("pending_limit is 0"), "{refused}");
    let most = Group::builder().pending_limit(usize::MAX).build().expect("it is allowed");
    assert!(most.add(&handle));
    most.broadcast("more").expect("there is room");
    client.hear(b"more");
}

#[test]
fn a_receipt_is_called_once_and_may_panic_and_broadcast() {
    let group = Group::new();
    let told = Arc::new(Mutex::new(Vec::new()));
    let tell = |told: &Arc<Mutex<Vec<Broadcast>>>| {
        let told = told.clone();
        move |counts: Broadcast| lock(&told).push(counts)
    };
    group.broadcast_with("to no member", tell(&told)).expect("it is no error");
    assert_eq!(*lock(&told), [Broadcast::default()]);
    let (builder, handles) = joining(&group);
    let server = Server::start(builder.loops(2));
    let mut clients: Vec<_> = (0..70).map(|_| member(&server, &handles).0).collect();
    group.broadcast_with("one", |_| panic!("in a receipt")).expect("there is room");
    let (again, last) = (group.clone(), tell(&told));
    let chain = move |counts: Broadcast| {
        assert_eq!(counts.sent, 70);
        again.broadcast_with("three", last).expect("there is room");
    };
    group.broadcast_with("two", chain).expect("there is room");
    for client in &mut clients {
        client.hear(b"onetwothree");
    }
    eventually("each is told", || lock(&told).len() == 2);
    assert_eq!(lock(&told)[1].sent, 70);
}

#[test]
fn a_broadcast_of_on_shutdown_reaches_all_before_they_close() {
    for dispatch in modes() {
        let group = Group::new();
        let (builder, handles) = joining(&group);
        let said = AtomicBool::new(false);
        let room = group.clone();
        let builder = builder.on_shutdown(move |(): &mut (), _: &mut Connection| {
            if !said.swap(true, Ordering::SeqCst) {
                room.broadcast("we close\n")?;
            }
            Ok(())
        });
        let server = Server::start(builder.dispatch(dispatch).loops(1));
        let mut clients: Vec<_> = (0..20).map(|_| member(&server, &handles).0).collect();
        assert_eq!(server.stop().aborted, 0);
        let heard = clients.iter_mut().map(|client| client.rest());
        assert_eq!(heard.filter(|it| it == b"we close\n").count(), 20);
        assert!(group.is_empty());
        group.broadcast("nobody is left").expect("it is no error");
    }
}

/// Members come, go, vanish and are removed while four threads broadcast and send, until the server
/// is shut down by force: what a client hears of each thread is in order, and nothing twice.
#[test]
fn members_come_and_go_under_broadcasts_and_hear_nothing_twice() {
    for dispatch in modes() {
        let seed = Random::seed();
        let group = Group::new();
        let (builder, handles) = joining(&group);
        let server = Server::start(builder.dispatch(dispatch).loops(2));
        let address = server.address;
        let is_over = Arc::new(AtomicBool::new(false));
        let senders: Vec<_> = (0..4).map(|name| sender(&group, name, &is_over)).collect();
        let members: Vec<_> = (0..4)
            .map(|number| {
                let mut random = Random::new(seed + 2 * number);
                thread::spawn(move || {
                    for _ in 0..8 {
                        let some: Vec<_> = (0..40).map(|_| TcpStream::connect(address)).collect();
                        for client in some.into_iter().flatten() {
                            hear_in_order(client, random.below(200), seed);
                        }
                    }
                })
            })
            .collect();
        let mut random = Random::new(seed);
        while !members.iter().all(thread::JoinHandle::is_finished) {
            let Ok(handle) = handles.recv_timeout(Duration::from_millis(10)) else { continue };
            match random.below(4) {
                // Its client would wait for more.
                0 => {
                    group.remove(&handle);
                    handle.close();
                }
                1 => handle.close(),
                2 => {
                    group.remove(&handle);
                    group.add(&handle);
                }
                _ => {}
            }
        }
        for member in members {
            member.join().expect("all was in order");
        }
        drop(server);
        is_over.store(true, Ordering::SeqCst);
        for sender in senders {
            assert!(sender.join().expect("a sender never panics") > 0);
        }
        eventually("all have left", || group.is_empty() && group.stats().pending == 0);
    }
}

fn sender(group: &Group, name: usize, is_over: &Arc<AtomicBool>) -> thread::JoinHandle<usize> {
    let (group, is_over) = (group.clone(), is_over.clone());
    thread::spawn(move || {
        let mut number = 0;
        while !is_over.load(Ordering::SeqCst) {
            let line = format!("{name} {number}\n");
            // It leaves time to others.
            thread::yield_now();
            let sent: Result<()> = match number % 5 {
                0 => group.members().first().map_or(Ok(()), |it| it.send(line)),
                _ => group.broadcast(line),
            };
            match sent {
                Ok(()) | Err(Error::Closed | Error::Io(_) | Error::TimedOut(_)) => number += 1,
                Err(Error::Full) => thread::yield_now(),
                Err(error) => panic!("{error}"),
            }
        }
        number
    })
}

/// Reads so many lines or to the end of the stream; each sender's numbers grow.
fn hear_in_order(client: TcpStream, lines: usize, seed: u64) {
    use std::io::{BufRead, BufReader};
    client.set_read_timeout(Some(PATIENCE)).expect("an option");
    let mut last: HashMap<String, usize> = HashMap::new();
    for line in BufReader::new(client).lines().take(lines) {
        let Ok(line) = line else { return };
        let Some((name, number)) = line.split_once(' ') else { panic!("seed {seed}: {line:?}") };
        // The last line before a reset may be cut.
        let Ok(number) = number.parse() else { panic!("seed {seed}: {line:?}") };
        let before = last.insert(name.to_owned(), number);
        assert!(before.is_none_or(|before| before < number), "seed {seed}: {before:?}, {line}");
    }
}

#[test]
fn memory_of_the_user_that_panics_in_its_drop_ends_no_loop() {
    struct Bomb;
    impl AsRef<[u8]> for Bomb {
        fn as_ref(&self) -> &[u8] {
            b"tick"
        }
    }
    impl Drop for Bomb {
        fn drop(&mut self) {
            panic!("in a drop");
        }
    }
    let group = Group::new();
    let (builder, handles) = joining(&group);
    let server = Server::start(builder);
    let (mut client, _handle) = member(&server, &handles);
    group.broadcast(Bytes::from_owner(Bomb)).expect("there is room");
    client.hear(b"tick");
    group.broadcast("and on").expect("there is room");
    client.hear(b"and on");
    client.write_all(b"hello").expect("it is served");
    client.hear(b"hello");
}
