//! What a datagram says of itself, and what ICMP says of those that were sent.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr};
use std::time::SystemTime;

use super::*;
use crate::base::sync::Mutex;
use crate::base::sync::lock;

/// What a callback has seen of a datagram.
type Seen = (Option<IpAddr>, Option<u32>, Option<u8>, Option<SystemTime>);

fn telling(bind: &str, features: DatagramFeatures) -> (Serving, mpsc::Receiver<Seen>) {
    let address = Address::Inet(bind.parse().expect("an address"));
    let socket = DatagramSocket::bind(
        &address,
        &DatagramSocketOptions { features, ..DatagramSocketOptions::default() },
    )
    .expect("a socket");
    let (tell, told) = mpsc::channel();
    let serving = Serving::on(
        socket,
        Dispatch::Inline,
        DatagramLimits::default(),
        move |(): &mut (), batch: &DatagramBatch<'_>| {
            for it in batch {
                let _ = tell.send((it.local(), it.interface(), it.ecn(), it.time()));
                it.reply(it.payload())?;
            }
            Ok(())
        },
    );
    (serving, told)
}

#[test]
fn an_answer_comes_from_the_address_that_was_asked() {
    let (serving, told) = telling("0.0.0.0:0", DatagramFeatures::default());
    for last in [1, 2, 77] {
        let asked = Ipv4Addr::new(127, 0, 0, last);
        let client = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        client.connect((asked, serving.address.port())).expect("it is connected");
        client.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        client.send(b"hello").expect("it is sent");
        assert_eq!(receive(&client), b"hello", "a connected socket takes no other address");
        let (local, interface, ..) = told.recv_timeout(PATIENCE).expect("it came");
        assert_eq!((local, interface), (Some(asked.into()), Some(1)), "the number of lo");
    }
}

#[test]
fn a_socket_for_both_families_answers_peers_of_both() {
    let Ok(socket) = DatagramSocket::bind(
        &Address::Inet("[::]:0".parse().expect("an address")),
        &DatagramSocketOptions::default(),
    ) else {
        return; // a machine without IPv6
    };
    let serving = Serving::on(socket, Dispatch::Inline, DatagramLimits::default(), echo);
    for (from, to) in [("127.0.0.1:0", "127.0.0.5"), ("[::1]:0", "::1")] {
        let Ok(client) = UdpSocket::bind(from) else { continue };
        let to: IpAddr = to.parse().expect("an address");
        client.connect((to, serving.address.port())).expect("it is connected");
        client.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        for size in [10, 1200] {
            client.send(&vec![7; size]).expect("it is sent");
            assert_eq!(receive(&client), vec![7; size]);
        }
    }
}

#[test]
fn an_answer_of_another_thread_comes_from_the_address_that_it_names() {
    let (serving, _told) = telling("0.0.0.0:0", DatagramFeatures::default());
    let client = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    client.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let peer = Address::Inet(client.local_addr().expect("an address"));
    let local = IpAddr::from([127, 0, 0, 9]);
    serving.handle.send_from(Some(local), &peer, "later").expect("it is sent");
    let (_, from) = client.recv_from(&mut [0; 9]).expect("it came");
    assert_eq!(from.ip(), local);
    let foreign = IpAddr::from([192, 0, 2, 1]);
    assert!(serving.handle.send_from(Some(foreign), &peer, "x").is_err(), "not an own address");
}

#[test]
fn congestion_marks_and_times_are_told_where_they_are_asked_for() {
    let features =
        DatagramFeatures { receive_tos: true, timestamps: true, ..DatagramFeatures::default() };
    let before = SystemTime::now();
    let (serving, told) = telling("127.0.0.1:0", features);
    let client = serving.client();
    socket2::SockRef::from(&client).set_tos_v4(0b1011).expect("an option");
    client.send(b"x").expect("it is sent");
    let (local, _, ecn, time) = told.recv_timeout(PATIENCE).expect("it came");
    assert_eq!((local, ecn), (None, Some(0b11)), "the address was not asked for");
    let time = time.expect("a time");
    assert!(time >= before - Duration::from_secs(1) && time <= SystemTime::now());
    let (serving, told) = telling("127.0.0.1:0", DatagramFeatures::default());
    serving.client().send(b"x").expect("it is sent");
    let (.., ecn, time) = told.recv_timeout(PATIENCE).expect("it came");
    assert_eq!((ecn, time), (None, None));
}

#[test]
fn what_the_kernel_drops_is_counted() {
    let bind = BindOptions { receive_buffer: Some(4096), ..BindOptions::default() };
    let options = DatagramSocketOptions { bind, ..DatagramSocketOptions::default() };
    let socket = DatagramSocket::bind(&any(), &options).expect("a socket");
    let (go, wait) = crossbeam_channel::bounded::<()>(0);
    let serving = Serving::on(
        socket,
        Dispatch::Inline,
        DatagramLimits::default(),
        move |(): &mut (), _: &DatagramBatch<'_>| {
            let _ = wait.recv();
            Ok(())
        },
    );
    let client = serving.client();
    for _ in 0..200 {
        client.send(&[0; 1000]).expect("it is sent");
    }
    drop(go);
    // The counter comes with a datagram that is queued after the drop.
    until("the drops are known", || {
        client.send(&[0]).expect("it is sent");
        serving.handle.stats().dropped_by_kernel > 0
    });
    until("all are accounted for", || {
        let stats = serving.handle.stats();
        stats.received > 0 && stats.received + stats.dropped_by_kernel >= 200
    });
}

/// A service that notes what it is told.
struct Noting(Arc<Mutex<Vec<String>>>);

impl PrepareDatagrams for Noting {
    fn open(self: Arc<Self>, _: &DatagramHandle) -> Result<Box<dyn DatagramService>> {
        Ok(Box::new(Self(self.0.clone())))
    }
}

impl Noting {
    fn note(&self, text: impl Into<String>) {
        lock(&self.0).push(text.into());
    }
}

impl DatagramService for Noting {
    fn received(&mut self, batch: &DatagramBatch<'_>) -> Result<()> {
        for datagram in batch {
            self.note(format!("received {:?}", datagram.payload()));
        }
        Ok(())
    }

    fn woken(&mut self, batch: &DatagramBatch<'_>) -> Result<()> {
        self.note(format!("woken with {}", batch.len()));
        Ok(())
    }

    fn failed(&mut self, error: &std::io::Error) {
        self.note(format!("failed: {:?}", error.kind()));
        panic!("a panic here ends nothing");
    }

    fn shutdown(&mut self, batch: &DatagramBatch<'_>) -> Result<()> {
        self.note("shutdown");
        batch.handle().wake(); // is too late to be of use, and does no harm
        Ok(())
    }

    fn closed(self: Box<Self>) {
        self.note("closed");
        panic!("a panic here ends nothing");
    }
}

/// A socket that is served by it.
pub(super) struct Noted {
    pub(super) manager: PollManager,
    pub(super) group: Arc<ConnectionGroup>,
    pub(super) handle: DatagramHandle,
    pub(super) notes: Arc<Mutex<Vec<String>>>,
}

pub(super) fn noting(socket: DatagramSocket) -> Noted {
    let manager = PollManager::new(1, LoadBalance::default()).expect("a loop");
    let dispatcher = Dispatcher::new(Dispatch::Inline).expect("a mode");
    let group = ConnectionGroup::served(Limits::default(), dispatcher).expect("a group");
    let notes = Arc::new(Mutex::new(Vec::new()));
    let callbacks = Arc::new(Noting(notes.clone()));
    let limits = DatagramLimits::default();
    let handle = serve_datagrams(socket, callbacks, limits, &group, &manager.pick(None));
    Noted { manager, group, handle: handle.expect("it serves"), notes }
}

#[test]
fn a_port_without_a_socket_is_told_and_the_client_goes_on() {
    let address = {
        let gone = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        gone.local_addr().expect("an address")
    };
    let socket = connect(&address.into()).expect("one");
    let Noted { handle, notes, manager: _manager, .. } = noting(socket);
    handle.send("is there any?").expect("it is sent");
    until("it is refused", || !lock(&notes).is_empty());
    assert_eq!(lock(&notes)[0], format!("failed: {:?}", ErrorKind::ConnectionRefused));
    let peer = UdpSocket::bind(address).expect("the port is free");
    peer.connect(match handle.local_addr().expect("an address") {
        Address::Inet(it) => it,
        other => panic!("{other}"),
    })
    .expect("it is connected");
    handle.send("now").expect("it is sent, whatever was said of the last one");
    assert_eq!(receive(&peer), b"now");
    peer.send(&[1]).expect("it is sent");
    until("it is received", || lock(&notes).last().is_some_and(|it| it == "received [1]"));
}

#[test]
fn a_send_that_meets_an_earlier_refusal_is_tried_again() {
    let address = {
        let gone = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        gone.local_addr().expect("an address")
    };
    let client = connect(&address.into()).expect("one");
    client.send_one(None, b"refused").expect("it is sent"); // the error now waits in the socket
    let server = UdpSocket::bind(address).expect("the port is free");
    server.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let payload = b"again";
    let sent = client.send(&mut Envelopes::default(), 1, |_| Message {
        peer: None,
        source: None,
        payload,
        size: payload.len(),
    });
    assert_eq!((sent.datagrams, sent.refused, sent.error.is_none()), (1, 0, true), "{sent:?}");
    assert_eq!(receive(&server), payload);
    let fault = client.take_fault().expect("it is still told");
    assert_eq!(std::io::Error::from_raw_os_error(fault.errno).kind(), ErrorKind::ConnectionRefused);
    assert!(fault.from_network && client.take_fault().is_none());
}

#[test]
fn a_service_is_woken_and_told_of_its_end_once() {
    let socket = DatagramSocket::bind(&any(), &DatagramSocketOptions::default()).expect("a socket");
    let Noted { manager, group, handle, notes } = noting(socket);
    let begun = Instant::now();
    handle.wake_at(begun + Duration::from_millis(40));
    handle.wake_at(begun + Duration::from_millis(20));
    handle.wake_at(begun + Duration::from_secs(3600)); // later than the one that is kept
    until("it is woken", || !lock(&notes).is_empty());
    assert!(begun.elapsed() >= Duration::from_millis(20));
    lock(&notes).clear();
    handle.wake();
    until("it is woken again", || !lock(&notes).is_empty());
    group.begin_shutdown();
    manager.pick(None).shut_down(&group);
    assert_eq!(group.wait_empty(clock::now() + PATIENCE), 0);
    let notes = lock(&notes);
    assert!(notes.iter().all(|it| !it.starts_with("received")));
    assert_eq!(notes.iter().filter(|it| *it == "shutdown").count(), 1);
    assert_eq!(notes.iter().filter(|it| *it == "closed").count(), 1);
    assert_eq!(notes.last().map(String::as_str), Some("closed"));
}

#[test]
fn a_paused_socket_receives_nothing_and_is_woken_and_sends() {
    let socket = DatagramSocket::bind(&any(), &DatagramSocketOptions::default()).expect("a socket");
    let Noted { manager, group, handle, notes } = noting(socket);
    let address = handle.local_addr().expect("an address").inet().expect("of UDP");
    let client = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    client.connect(address).expect("it is connected");
    client.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    client.send(&[1]).expect("it is sent");
    until("it is received", || lock(&notes).last().is_some_and(|it| it == "received [1]"));
    handle.pause_receiving();
    client.send(&[2]).expect("it is sent");
    for round in 1..4 {
        handle.wake();
        until("it is woken", || lock(&notes).len() == 1 + round);
    }
    assert_eq!(lock(&notes)[1..], ["woken with 0"; 3]);
    let peer = Address::Inet(client.local_addr().expect("an address"));
    handle.send_to(&peer, "sent").expect("it is sent");
    assert_eq!(receive(&client), b"sent");
    handle.resume_receiving();
    until("it is received", || lock(&notes).last().is_some_and(|it| it == "received [2]"));
    // A shutdown leaves what comes to another holder of the socket.
    let fd = handle.socket().expect("it is open");
    handle.pause_receiving();
    client.send(&[3]).expect("it is sent");
    group.begin_shutdown();
    manager.pick(None).shut_down(&group);
    assert_eq!(group.wait_empty(clock::now() + PATIENCE), 0);
    assert!(!lock(&notes).iter().any(|it| it == "received [3]"));
    let mut into = [0; 9];
    assert_eq!((fd.receive_one(&mut into).expect("it waits").0, into[0]), (1, 3));
}

#[test]
fn an_on_open_that_fails_or_panics_closes_the_socket() {
    let failing: [fn(&DatagramHandle) -> Result<()>; 2] =
        [|_| Err(Error::protocol("not today")), |_| panic!("not today")];
    for on_open in failing {
        let manager = PollManager::new(1, LoadBalance::default()).expect("a loop");
        let dispatcher = Dispatcher::new(Dispatch::Inline).expect("a mode");
        let group = ConnectionGroup::served(Limits::default(), dispatcher).expect("a group");
        let socket =
            DatagramSocket::bind(&any(), &DatagramSocketOptions::default()).expect("a socket");
        let callbacks = DatagramCallbacks::new(on_open, echo);
        let limits = DatagramLimits::default();
        let handle = serve_datagrams(socket, callbacks, limits, &group, &manager.pick(None));
        let handle = handle.expect("it begins");
        assert_eq!(group.wait_empty(clock::now() + PATIENCE), 0);
        assert!(handle.is_closed() && handle.local_addr().is_err());
    }
}

#[test]
fn a_loop_that_has_ended_takes_no_socket() {
    let manager = PollManager::new(1, LoadBalance::default()).expect("a loop");
    let dispatcher = Dispatcher::new(Dispatch::Inline).expect("a mode");
    let group = ConnectionGroup::served(Limits::default(), dispatcher).expect("a group");
    let reactor = manager.pick(None);
    drop(manager);
    let socket = DatagramSocket::bind(&any(), &DatagramSocketOptions::default()).expect("a socket");
    let address = socket.local_address().expect("an address").inet().expect("of UDP");
    let callbacks = DatagramCallbacks::new(|_: &DatagramHandle| Ok(()), echo);
    let served = serve_datagrams(socket, callbacks, DatagramLimits::default(), &group, &reactor);
    assert!(matches!(served, Err(Error::Closed)), "{served:?}");
    assert_eq!(group.wait_empty(clock::now()), 0);
    assert!(UdpSocket::bind(address).is_ok(), "it is closed");
}
