//! What waits because the kernel takes no more: its order, its limits and its end.

use std::os::unix::net::UnixDatagram;

use super::*;
use crate::io::datagram::Message;

/// A connected socket, with a peer that receives nothing until it is asked to.
fn pair() -> (DatagramSocket, UnixDatagram) {
    static NUMBER: AtomicUsize = AtomicUsize::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let name = format!("@netpoll-outbox-{}-{number}", std::process::id());
    let address = Address::unix(&name);
    let peer = DatagramSocket::bind(&address, &DatagramSocketOptions::default()).expect("a socket");
    let peer_fd = std::os::fd::AsFd::as_fd(&peer).try_clone_to_owned().expect("a descriptor");
    let socket = connect(&address);
    (socket.expect("a socket"), UnixDatagram::from(peer_fd))
}

fn limits(queued_datagrams: usize, when_full: WhenFull) -> DatagramLimits {
    DatagramLimits { queued_datagrams, when_full, ..DatagramLimits::default() }
}

/// Takes all that has come, as the number in each.
fn take_all(peer: &UnixDatagram) -> Vec<u32> {
    let mut all = Vec::new();
    let mut number = [0; 4];
    while peer.recv(&mut number).is_ok() {
        all.push(u32::from_ne_bytes(number));
    }
    all
}

/// Sends numbers until the first has to wait; returns how many were given to the kernel.
fn fill(handle: &DatagramHandle) -> u32 {
    for number in 0..100_000_u32 {
        handle.send(number.to_ne_bytes().to_vec()).expect("it is sent, or queued");
        if handle.stats().queued > 0 {
            return number;
        }
    }
    panic!("the queue of a peer that takes nothing has an end");
}

fn serving(limits: DatagramLimits) -> (Serving, UnixDatagram) {
    let (socket, peer) = pair();
    (Serving::on(socket, Dispatch::Inline, limits, echo), peer)
}

#[test]
fn what_waits_is_sent_in_order_when_the_peer_has_room() {
    let (serving, peer) = serving(DatagramLimits::default());
    let first = fill(&serving.handle);
    for number in first + 1..first + 1000 {
        serving.handle.send(number.to_ne_bytes().to_vec()).expect("it is queued");
    }
    assert_eq!(serving.handle.stats().queued, 1000);
    let mut taken = Vec::new();
    until("all arrive", || {
        taken.extend(take_all(&peer));
        taken.len() as u32 >= first + 1000
    });
    assert!(taken.iter().copied().eq(0..first + 1000), "in order, and none twice");
    let stats = serving.handle.stats();
    assert_eq!((stats.queued, stats.queued_bytes, stats.dropped), (0, 0, 0));
    serving.handle.send(7_u32.to_ne_bytes().to_vec()).expect("it is sent at once");
    assert_eq!(take_all(&peer), [7]);
}

#[test]
fn a_full_queue_drops_the_newest_and_says_so() {
    let (serving, peer) = serving(limits(10, WhenFull::DropNewest));
    let first = fill(&serving.handle);
    let mut kept = 1;
    for number in first + 1..first + 50 {
        match serving.handle.send(number.to_ne_bytes().to_vec()) {
            Ok(()) => kept += 1,
            Err(Error::Full) => {}
            Err(other) => panic!("{other}"),
        }
    }
    assert_eq!(kept, 10);
    assert_eq!(serving.handle.stats().dropped, 40);
    let mut taken = Vec::new();
    until("those that were kept arrive", || {
        taken.extend(take_all(&peer));
        taken.len() as u32 >= first + 10
    });
    assert!(taken.iter().copied().eq(0..first + 10));
}

#[test]
fn a_full_queue_drops_the_oldest_where_that_is_asked() {
    let (serving, peer) = serving(limits(10, WhenFull::DropOldest));
    let first = fill(&serving.handle);
    for number in first + 1..first + 50 {
        serving.handle.send(number.to_ne_bytes().to_vec()).expect("an older one is dropped");
    }
    assert_eq!(serving.handle.stats().dropped, 40);
    let mut taken = Vec::new();
    until("the newest arrive", || {
        taken.extend(take_all(&peer));
        taken.len() as u32 >= first + 10
    });
    assert!(taken.iter().copied().eq((0..first).chain(first + 40..first + 50)));
}

#[test]
fn with_no_room_for_any_none_waits() {
    for limits in [
        limits(0, WhenFull::DropNewest),
        limits(0, WhenFull::DropOldest),
        DatagramLimits { queued_bytes: 3, ..DatagramLimits::default() },
    ] {
        let (serving, _peer) = serving(limits);
        let refused = (0..100_000_u32)
            .find_map(|number| serving.handle.send(number.to_ne_bytes().to_vec()).err());
        assert!(matches!(refused, Some(Error::Full)), "{refused:?}");
        assert_eq!(serving.handle.stats().queued, 0);
    }
}

#[test]
fn a_close_sends_what_waits() {
    let (serving, peer) = serving(DatagramLimits::default());
    let first = fill(&serving.handle);
    serving.handle.close();
    until("it takes nothing more", || serving.handle.is_closed());
    let mut taken = Vec::new();
    until("what waited arrives", || {
        taken.extend(take_all(&peer));
        taken.len() as u32 > first
    });
    assert_eq!(serving.group.wait_empty(clock::now() + PATIENCE), 0);
    assert_eq!(serving.handle.stats().dropped, 0);
}

#[test]
fn what_waits_when_the_linger_time_is_over_is_dropped_and_counted() {
    let (socket, peer) = pair();
    let limits = Limits { linger: Duration::from_millis(30), ..Limits::default() };
    let serving =
        Serving::within(socket, Dispatch::Inline, DatagramLimits::default(), limits, echo);
    fill(&serving.handle);
    let begun = Instant::now();
    serving.handle.close();
    assert_eq!(serving.group.wait_empty(clock::now() + PATIENCE), 0);
    assert!(begun.elapsed() >= Duration::from_millis(30));
    assert_eq!((serving.handle.stats().dropped, serving.handle.stats().queued), (1, 0));
    drop(peer);
}

#[test]
fn a_unix_peer_that_takes_nothing_holds_up_no_other() {
    let address = Address::unix(&format!("@netpoll-slow-{}", std::process::id()));
    let socket =
        DatagramSocket::bind(&address, &DatagramSocketOptions::default()).expect("a socket");
    let serving = Serving::on(socket, Dispatch::Inline, DatagramLimits::default(), echo);
    let name = |which: &str| Address::unix(&format!("@netpoll-{which}-{}", std::process::id()));
    let open = |which: &str| {
        let socket = DatagramSocket::bind(&name(which), &DatagramSocketOptions::default());
        socket.expect("a socket")
    };
    let (_slow, quick) = (open("takes-nothing"), open("takes-all"));
    let refused = (0..100_000)
        .find_map(|_| serving.handle.send_to(&name("takes-nothing"), "x").err())
        .expect("its queue has an end");
    assert!(matches!(refused, Error::Full), "{refused}");
    serving.handle.send_to(&name("takes-all"), "hello").expect("it is sent");
    let mut into = [0; 9];
    assert_eq!(quick.receive_one(&mut into).expect("it came"), (5, false));
    let nobody = serving.handle.send_to(&name("is-not-there"), "x").expect_err("none is there");
    assert!(matches!(&nobody, Error::Io(it) if it.kind() == std::io::ErrorKind::ConnectionRefused));
    // The echo goes back by the name that the sender is bound to.
    quick.send_one(Some(&address), b"echo").expect("it is sent");
    until("it is answered", || quick.receive_one(&mut into).is_ok());
    assert_eq!(&into[..4], b"echo");
}

#[test]
fn messages_that_are_refused_joined_are_sent_one_by_one() {
    let serving = Serving::echo(Dispatch::Inline);
    let client = connect(&serving.address.into()).expect("a socket");
    let segments = client.segments();
    segments.pretend(1000); // more than any kernel takes
    let payload: Vec<u8> = (0..2005_u32).map(|it| (it / 10) as u8).collect();
    let message = Message { peer: None, source: None, payload: &payload, size: 10 };
    let sent = client.send(&mut Envelopes::default(), 2, |_| message);
    assert_eq!((sent.done, sent.datagrams, sent.bytes, sent.refused), (2, 402, 4010, 0));
    assert!(segments.most(10) <= 64, "it is remembered");
    assert!(segments.give_up() && !segments.give_up(), "it is said once");
    assert_eq!(segments.most(10), 1);
    let sent = client.send(&mut Envelopes::default(), 1, |_| message);
    assert_eq!((sent.done, sent.datagrams), (1, 201), "none joined");
}

#[test]
fn what_can_not_be_sent_is_skipped_and_the_rest_goes() {
    let serving = Serving::echo(Dispatch::Inline);
    let client = DatagramSocket::bind(&any(), &DatagramSocketOptions::default()).expect("a socket");
    let (good, nowhere) = (Address::Inet(serving.address), "127.0.0.1:0".parse().expect("one"));
    let nowhere = Address::Inet(nowhere);
    let (short, joined) = (vec![1; 10], vec![2; 100]);
    // An unsendable one at each place: alone, first, last, and joined.
    let all = [
        (&nowhere, &short),
        (&good, &short),
        (&nowhere, &joined),
        (&good, &joined),
        (&Address::Unnamed, &short),
        (&good, &short),
        (&nowhere, &short),
    ];
    let sent = client.send(&mut Envelopes::default(), all.len(), |at| {
        let (peer, payload) = all[at];
        Message { peer: Some(peer), source: None, payload, size: 10 }
    });
    assert_eq!((sent.done, sent.datagrams, sent.refused), (7, 12, 13), "{sent:?}");
    assert!(sent.error.is_some() && !sent.full);
    until("those that can be are answered", || serving.handle.stats().received == 12);
    assert_eq!(client.segments().most(10), 128, "an address that is wrong says nothing of GSO");
}

#[test]
fn memory_that_waited_and_whose_drop_panics_ends_no_loop() {
    struct Lent([u8; 4]);
    impl AsRef<[u8]> for Lent {
        fn as_ref(&self) -> &[u8] {
            &self.0
        }
    }
    impl Drop for Lent {
        fn drop(&mut self) {
            panic!("in a drop");
        }
    }
    let (socket, peer) = pair();
    let limits = Limits { linger: Duration::from_millis(10), ..Limits::default() };
    let serving =
        Serving::within(socket, Dispatch::Inline, DatagramLimits::default(), limits, echo);
    let lend = |number: u32| {
        let lent = bytes::Bytes::from_owner(Lent(number.to_ne_bytes()));
        serving.handle.send(lent).expect("it is queued");
    };
    // Sent by the loop, two in one burst; then given up by the close.
    let first = fill(&serving.handle);
    lend(first + 1);
    lend(first + 2);
    let mut taken = Vec::new();
    until("they arrive", || {
        taken.extend(take_all(&peer));
        taken.len() as u32 >= first + 3
    });
    fill(&serving.handle);
    lend(1);
    lend(2);
    serving.handle.close();
    assert_eq!(serving.group.wait_empty(clock::now() + PATIENCE), 0);
    assert_eq!(serving.handle.stats().dropped, 3);
    assert!(!serving.manager.remotes()[0].has_failed(), "the loop goes on");
}
