//! What becomes of datagrams where the kernel answers with an errno: each errno, planned.

use std::io::ErrorKind;

use nix::libc;

use super::facts::{Noted, noting};
use super::*;
use crate::base::sync::lock;
use crate::io::datagram::Sent;
use crate::sys::planned::{Answer, Call, Plan};

/// What can be wrong with one datagram, or with the system at the moment: others may be sent.
const OF_ONE: [i32; 14] = [
    libc::ENOBUFS,
    libc::ENOMEM,
    libc::EPERM,
    libc::EACCES,
    libc::ENETDOWN,
    libc::EADDRNOTAVAIL,
    libc::EDESTADDRREQ,
    libc::ENOTCONN,
    libc::EPIPE,
    libc::EBADF,
    libc::EMSGSIZE,
    libc::EINVAL,
    libc::EIO,
    libc::EAFNOSUPPORT,
];
/// What ICMP says of earlier datagrams of a connected socket.
const OF_EARLIER: [i32; 6] = [
    libc::ECONNREFUSED,
    libc::EHOSTUNREACH,
    libc::ENETUNREACH,
    libc::EHOSTDOWN,
    libc::EPROTO,
    libc::ENOPROTOOPT,
];

fn errno(number: i32) -> Answer {
    Answer::Errno(number)
}

/// A sender, and a peer that takes what it sends.
struct Pair {
    from: DatagramSocket,
    peer: UdpSocket,
    to: Address,
}

impl Pair {
    fn new(is_connected: bool) -> Self {
        let peer = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        peer.set_nonblocking(true).expect("a flag");
        let to = Address::Inet(peer.local_addr().expect("an address"));
        let from = if is_connected {
            connect(&to)
        } else {
            DatagramSocket::bind(&any(), &DatagramSocketOptions::default())
        };
        Self { from: from.expect("a socket"), peer, to }
    }

    /// Sends payloads, each as a message of datagrams of `size`, with these answers of the kernel.
    fn send(&self, payloads: &[Vec<u8>], size: usize, answers: &[Answer]) -> Sent {
        let plan = Plan::new(&self.from, Call::Send, answers.iter().copied());
        let sent = self.from.send(&mut Envelopes::default(), payloads.len(), |at| Message {
            peer: Some(&self.to),
            source: None,
            payload: &payloads[at],
            size,
        });
        assert_eq!(plan.left(), 0, "all planned calls were made: {answers:?}");
        sent
    }

    /// The first bytes of all that has arrived.
    fn arrived(&self) -> Vec<u8> {
        let mut into = [0; 2048];
        std::iter::from_fn(|| self.peer.recv(&mut into).ok().map(|_| into[0])).collect()
    }
}

/// Three datagrams of ten bytes, to be told apart.
fn singles() -> Vec<Vec<u8>> {
    (0..3).map(|it| vec![it; 10]).collect()
}

/// A train of five datagrams, and a single one behind it.
fn train() -> Vec<Vec<u8>> {
    vec![(0..50).map(|it| it / 10).collect(), vec![9; 10]]
}

#[test]
fn an_errno_that_is_of_one_datagram_loses_that_one_and_is_told() {
    for number in OF_ONE.into_iter().chain(OF_EARLIER) {
        let pair = Pair::new(false);
        // sendmmsg ends at the bad one, and says what it is when that is the first.
        let sent = pair.send(&singles(), 10, &[Answer::AtMost(1), errno(number)]);
        assert_eq!((sent.done, sent.datagrams, sent.refused), (3, 2, 1), "{number}: {sent:?}");
        assert!(!sent.full, "{number}");
        assert_eq!(sent.error.and_then(|it| it.raw_os_error()), Some(number));
        assert_eq!(pair.arrived(), [0, 2], "{number}");
    }
}

#[test]
fn an_interrupted_send_loses_nothing() {
    for is_connected in [false, true] {
        let pair = Pair::new(is_connected);
        let interrupted = errno(libc::EINTR);
        let sent = pair.send(&singles(), 10, &[interrupted, Answer::AtMost(2), interrupted]);
        assert_eq!((sent.done, sent.datagrams, sent.refused), (3, 3, 0));
        assert!(sent.error.is_none() && !sent.full);
        assert_eq!(pair.arrived(), [0, 1, 2]);
    }
}

#[test]
fn a_full_buffer_ends_a_send_and_loses_nothing() {
    for is_connected in [false, true] {
        let pair = Pair::new(is_connected);
        let sent = pair.send(&singles(), 10, &[Answer::AtMost(1), errno(libc::EAGAIN)]);
        assert_eq!((sent.done, sent.datagrams, sent.refused, sent.full), (1, 1, 0, true));
        let rest = pair.send(&singles()[sent.done..], 10, &[]);
        assert_eq!((rest.done, rest.full), (2, false));
        assert_eq!(pair.arrived(), [0, 1, 2]);
        // In the middle of a train that goes one by one.
        let one = Answer::AtMost(1);
        let sent = pair.send(&train(), 10, &[errno(libc::EINVAL), one, one, errno(libc::EAGAIN)]);
        assert_eq!((sent.done, sent.part, sent.datagrams, sent.full), (0, 20, 2, true));
        assert_eq!(pair.arrived(), [0, 1]);
    }
}

#[test]
fn what_icmp_said_of_an_earlier_datagram_costs_a_connected_socket_none() {
    for number in OF_EARLIER.into_iter().chain([libc::EACCES, libc::EMSGSIZE]) {
        let pair = Pair::new(true);
        let sent = pair.send(&singles(), 10, &[Answer::AtMost(1), errno(number)]);
        assert_eq!((sent.done, sent.datagrams, sent.refused), (3, 3, 0), "{number}: {sent:?}");
        assert!(sent.error.is_none(), "{number}: all were sent");
        assert_eq!(pair.arrived(), [0, 1, 2], "{number}");
        // Said twice in a row, it is of the datagram itself.
        let sent = pair.send(&singles(), 10, &[errno(number), errno(number)]);
        assert_eq!((sent.done, sent.datagrams, sent.refused), (3, 2, 1), "{number}: {sent:?}");
        assert_eq!(sent.error.and_then(|it| it.raw_os_error()), Some(number));
        assert_eq!(pair.arrived(), [1, 2], "{number}");
    }
}

#[test]
fn a_train_that_can_not_be_sent_joined_goes_one_by_one() {
    for (number, most) in [
        (libc::EIO, 1), // no such offload: never again
        (libc::EOPNOTSUPP, 1),
        (libc::EMSGSIZE, 1), // longer than the way takes: none of this size
        (libc::EINVAL, 1),
    ] {
        let pair = Pair::new(false);
        assert!(pair.from.segments().most(10) > 1);
        let sent = pair.send(&train(), 10, &[errno(number)]);
        assert_eq!((sent.done, sent.datagrams, sent.refused), (2, 6, 0), "{number}: {sent:?}");
        assert_eq!(pair.arrived(), [0, 1, 2, 3, 4, 9], "{number}");
        assert_eq!(pair.from.segments().most(10), most, "{number}: it is remembered");
        let is_over = matches!(number, libc::EIO | libc::EOPNOTSUPP);
        assert_eq!(pair.from.segments().most(9) == 1, is_over, "{number}: of shorter ones");
    }
}

#[test]
fn a_train_that_is_refused_is_counted_as_what_it_brought() {
    for number in [libc::ENOBUFS, libc::ENOMEM, libc::EPERM, libc::ENETUNREACH] {
        let pair = Pair::new(false);
        let sent = pair.send(&train(), 10, &[errno(number)]);
        assert_eq!((sent.done, sent.datagrams, sent.refused), (2, 1, 5), "{number}: {sent:?}");
        assert_eq!(pair.arrived(), [9], "{number}");
        assert!(pair.from.segments().most(10) > 1, "{number}: says nothing of GSO");
    }
}

#[test]
fn one_of_a_train_that_goes_one_by_one_is_lost_alone() {
    let pair = Pair::new(false);
    let one = Answer::AtMost(1);
    let sent = pair.send(&train(), 10, &[errno(libc::EINVAL), one, errno(libc::ENOBUFS)]);
    assert_eq!((sent.done, sent.datagrams, sent.refused), (2, 5, 1), "{sent:?}");
    assert_eq!(pair.arrived(), [0, 2, 3, 4, 9]);
}

#[test]
fn a_served_socket_sends_what_waits_after_a_full_buffer_without_an_event() {
    // The second try, behind the mark, finds room: of that no event tells.
    let serving = Serving::echo(Dispatch::Inline);
    let client = serving.client();
    let socket = serving.handle.socket().expect("it is open");
    let plan = Plan::new(&socket, Call::Send, [errno(libc::EAGAIN)]);
    for number in 0..3 {
        client.send(&[number]).expect("it is sent");
        assert_eq!(receive(&client), [number]);
    }
    assert_eq!(plan.left(), 0);
    let stats = serving.handle.stats();
    assert_eq!((stats.sent, stats.dropped, stats.queued), (3, 0, 0));
}

/// A served socket that notes what it is told; answers of the kernel to its receives.
fn receives(answers: &[i32], is_connected: bool) -> (Noted, UdpSocket, Plan) {
    let client = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let peer = Address::Inet(client.local_addr().expect("an address"));
    let socket = if is_connected {
        connect(&peer)
    } else {
        DatagramSocket::bind(&any(), &DatagramSocketOptions::default())
    };
    let socket = socket.expect("a socket");
    let plan = Plan::new(&socket, Call::Receive, answers.iter().map(|&it| errno(it)));
    let address = socket.local_address().expect("an address").inet().expect("of UDP");
    client.connect(address).expect("it is connected");
    (noting(socket), client, plan)
}

#[test]
fn a_receive_that_fails_loses_nothing_that_has_come() {
    let of_memory = [libc::ENOMEM, libc::ENOBUFS, libc::EPERM, libc::EINVAL, libc::ENOTCONN];
    let quiet = [libc::EINTR, libc::ENOSYS];
    for number in OF_EARLIER.into_iter().chain(of_memory).chain(quiet) {
        for is_connected in [false, true] {
            let (noted, client, plan) = receives(&[number], is_connected);
            client.send(&[7]).expect("it is sent");
            until("it is received", || lock(&noted.notes).iter().any(|it| it == "received [7]"));
            assert_eq!(plan.left(), 0, "{number}");
            let failures = u64::from(!quiet.contains(&number));
            assert_eq!(noted.handle.stats().receive_errors, failures, "{number}");
            let told = lock(&noted.notes).iter().filter(|it| it.starts_with("failed")).count();
            assert_eq!(told, usize::from(OF_EARLIER.contains(&number)), "{number}");
        }
    }
}

/// No kernel says so while a datagram waits, and if one did, the next datagram would bring both.
#[test]
fn a_receive_that_finds_nothing_waits_for_the_next_event() {
    let (noted, client, plan) = receives(&[libc::EAGAIN], false);
    client.send(&[7]).expect("it is sent");
    until("it has looked", || plan.left() == 0);
    client.send(&[8]).expect("it is sent");
    until("both are received", || lock(&noted.notes).len() == 2);
    assert_eq!(*lock(&noted.notes), ["received [7]", "received [8]"]);
    assert_eq!(noted.handle.stats().receive_errors, 0);
}

#[test]
fn failures_in_a_row_let_others_have_their_turn() {
    let (noted, client, plan) = receives(&[libc::ECONNREFUSED; 40], true);
    client.send(&[7]).expect("it is sent");
    until("it is received", || lock(&noted.notes).iter().any(|it| it == "received [7]"));
    assert_eq!((plan.left(), noted.handle.stats().receive_errors), (0, 40));
}

#[test]
fn a_descriptor_that_is_no_socket_any_more_ends_its_service() {
    for number in [libc::EBADF, libc::ENOTSOCK] {
        let (noted, client, plan) = receives(&[number], false);
        client.send(&[7]).expect("it is sent");
        assert_eq!(noted.group.wait_empty(clock::now() + PATIENCE), 0);
        assert_eq!(plan.left(), 0);
        assert!(noted.handle.is_closed());
        assert_eq!(lock(&noted.notes).last().map(String::as_str), Some("closed"));
        let late = noted.handle.send_to(&any(), "x").expect_err("it is closed");
        assert!(matches!(late, Error::Closed), "{late}");
    }
}

#[test]
fn a_client_is_told_of_each_failed_receive_once_and_goes_on() {
    let peer = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let to = Address::Inet(peer.local_addr().expect("an address"));
    let socket = connect(&to).expect("a socket");
    let address = socket.local_address().expect("an address").inet().expect("of UDP");
    let answers = [libc::EINTR, libc::ECONNREFUSED, libc::EAGAIN, libc::ENOMEM].map(errno);
    let plan = Plan::new(&socket, Call::Receive, answers);
    let mut client = DatagramClient::new(socket, to);
    peer.send_to(&[7], address).expect("it is sent");
    for kind in [ErrorKind::ConnectionRefused, ErrorKind::OutOfMemory] {
        let Err(Error::Io(error)) = client.recv(&mut [0; 9]) else { panic!("it is planned") };
        assert_eq!(error.kind(), kind);
    }
    let mut into = [0; 9];
    assert_eq!((client.recv(&mut into).expect("it came"), into[0], plan.left()), (1, 7, 0));
}

#[test]
fn a_socket_that_can_not_be_watched_is_told_and_closed() {
    let socket = DatagramSocket::bind(&any(), &DatagramSocketOptions::default()).expect("a socket");
    let address = socket.local_address().expect("an address").inet().expect("of UDP");
    let plan = Plan::new(&socket, Call::Watch, [errno(libc::ENOSPC)]);
    let manager = PollManager::new(1, LoadBalance::default()).expect("a loop");
    let dispatcher = Dispatcher::new(Dispatch::Inline).expect("a mode");
    let group = ConnectionGroup::served(Limits::default(), dispatcher).expect("a group");
    let (tell, told) = mpsc::channel();
    let on_watched: OnWatched = Box::new(move |outcome| drop(tell.send(outcome)));
    let start = DatagramStart { on_watched: Some(on_watched), ..DatagramStart::default() };
    let callbacks = DatagramCallbacks::new(|_: &DatagramHandle| Ok(()), echo);
    let limits = DatagramLimits::default();
    let reactor = manager.pick(None);
    let handle = serve_datagrams_from(start, socket, callbacks, limits, &group, &reactor);
    let error = told.recv_timeout(PATIENCE).expect("it is told").expect_err("it can't");
    assert_eq!(error.raw_os_error(), Some(libc::ENOSPC));
    drop(plan);
    assert_eq!(group.wait_empty(clock::now() + PATIENCE), 0);
    assert!(handle.expect("it began").is_closed() && UdpSocket::bind(address).is_ok());
}

#[test]
fn what_waits_is_sent_though_the_loop_can_not_watch_for_room() {
    let socket = DatagramSocket::bind(&any(), &DatagramSocketOptions::default()).expect("a socket");
    let watches = [Answer::AtMost(1), errno(libc::EPERM), errno(libc::EPERM)];
    let watched = Plan::new(&socket, Call::Watch, watches);
    let full = [(); 7].map(|()| errno(libc::EAGAIN)); // of the send, then of the loop
    let sends = Plan::new(&socket, Call::Send, full);
    let serving = Serving::on(socket, Dispatch::Inline, DatagramLimits::default(), echo);
    let client = serving.client();
    client.send(b"waits").expect("it is sent");
    assert_eq!(receive(&client), b"waits");
    assert_eq!(watched.left(), 0);
    assert!(sends.left() < 5);
    assert_eq!(serving.handle.stats().queued, 0);
}
