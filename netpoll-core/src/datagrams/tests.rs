//! Datagram sockets that are served, on loopback, with peers of the standard library.

use std::net::{SocketAddr, UdpSocket};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use super::*;
use crate::base::address::Address;
use crate::base::clock;
use crate::base::error::{Error, Result};
use crate::base::limits::Limits;
use crate::base::sync::{AtomicUsize, Ordering};
use crate::connection::group::ConnectionGroup;
use crate::connection::schedule::Dispatcher;
use crate::io::datagram::{DatagramSocket, Envelopes, Message, Places, TOO_LONG};
use crate::io::socket::{BindOptions, ConnectOptions, DatagramFeatures, DatagramSocketOptions};
use crate::pure::balance::LoadBalance;
use crate::threads::manager::PollManager;
use crate::threads::options::{Dispatch, HandOffOptions, PoolOptions};

mod beside;
mod errnos;
mod facts;
mod outbox;

const PATIENCE: Duration = Duration::from_secs(30);

/// A loop with a datagram socket.
struct Serving {
    manager: PollManager,
    group: Arc<ConnectionGroup>,
    handle: DatagramHandle,
    address: SocketAddr,
}

fn any() -> Address {
    Address::Inet("127.0.0.1:0".parse().expect("an address"))
}

fn connect(to: &Address) -> std::io::Result<DatagramSocket> {
    DatagramSocket::connect(to, &ConnectOptions::default(), DatagramFeatures::default())
}

impl Serving {
    fn new(dispatch: Dispatch, limits: DatagramLimits, callback: impl OnDatagrams<()>) -> Self {
        let socket =
            DatagramSocket::bind(&any(), &DatagramSocketOptions::default()).expect("a socket");
        Self::on(socket, dispatch, limits, callback)
    }

    fn on(
        socket: DatagramSocket,
        dispatch: Dispatch,
        limits: DatagramLimits,
        callback: impl OnDatagrams<()>,
    ) -> Self {
        Self::within(socket, dispatch, limits, Limits::default(), callback)
    }

    fn within(
        socket: DatagramSocket,
        dispatch: Dispatch,
        limits: DatagramLimits,
        of_group: Limits,
        callback: impl OnDatagrams<()>,
    ) -> Self {
        let manager = PollManager::new(1, LoadBalance::default()).expect("a loop");
        let dispatcher = Dispatcher::new(dispatch).expect("a mode");
        let group = ConnectionGroup::served(of_group, dispatcher).expect("a group");
        let callbacks = DatagramCallbacks::new(|_: &DatagramHandle| Ok(()), callback);
        let reactor = manager.pick(None);
        let handle =
            serve_datagrams(socket, callbacks, limits, &group, &reactor).expect("it serves");
        let local = handle.local_addr().expect("an address");
        let address = local.inet().unwrap_or_else(|| "127.0.0.1:0".parse().expect("an address"));
        Self { manager, group, handle, address }
    }

    fn echo(dispatch: Dispatch) -> Self {
        Self::new(dispatch, DatagramLimits::default(), echo)
    }

    fn client(&self) -> UdpSocket {
        let client = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        client.connect(self.address).expect("it is connected");
        client.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        client
    }

    fn shut_down(&self) -> usize {
        self.group.begin_shutdown();
        self.manager.pick(None).shut_down(&self.group);
        self.group.wait_empty(clock::now() + PATIENCE)
    }
}

fn echo((): &mut (), batch: &DatagramBatch<'_>) -> Result<()> {
    for datagram in batch {
        datagram.reply(datagram.payload())?;
    }
    Ok(())
}

fn modes() -> [Dispatch; 3] {
    [
        Dispatch::Inline,
        Dispatch::Pool(PoolOptions::default()),
        Dispatch::HandOff(HandOffOptions::default()),
    ]
}

fn receive(client: &UdpSocket) -> Vec<u8> {
    let mut into = vec![0; 1 << 16];
    let n = client.recv(&mut into).expect("a datagram");
    into.truncate(n);
    into
}

/// Waits until something is so.
fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let late = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < late, "{what}");
        std::thread::yield_now();
    }
}

#[test]
fn each_datagram_is_answered_in_every_mode() {
    for mode in modes() {
        let serving = Serving::echo(mode);
        let client = serving.client();
        for size in [1, 0, 64, 1200, 9000, 65_507] {
            let sent: Vec<u8> = (0..size).map(|it: u32| it as u8).collect();
            client.send(&sent).expect("it is sent");
            assert_eq!(receive(&client), sent);
        }
        let stats = serving.handle.stats();
        assert_eq!((stats.received, stats.sent), (6, 6), "an empty datagram is one");
        assert_eq!(serving.shut_down(), 0);
    }
}

#[test]
fn a_batch_of_one_peer_is_answered_in_order() {
    let (go, wait) = crossbeam_channel::bounded::<()>(0);
    let serving = Serving::new(
        Dispatch::Inline,
        DatagramLimits::default(),
        move |(): &mut (), batch: &DatagramBatch<'_>| {
            let _ = wait.recv(); // until all have come
            echo(&mut (), batch)
        },
    );
    let client = serving.client();
    for number in 0..40_u32 {
        client.send(&number.to_ne_bytes().repeat(25)).expect("it is sent");
    }
    drop(go);
    for number in 0..40_u32 {
        assert_eq!(receive(&client), number.to_ne_bytes().repeat(25));
    }
    let stats = serving.handle.stats();
    assert_eq!((stats.received, stats.sent), (40, 40));
    assert!(stats.receives < 15, "{stats:?}");
}

#[test]
fn answers_reach_the_peers_that_asked() {
    let serving = Serving::echo(Dispatch::Inline);
    let clients: Vec<_> = (0..8).map(|_| serving.client()).collect();
    for round in 0..50_u8 {
        for (number, client) in clients.iter().enumerate() {
            client.send(&[number as u8, round]).expect("it is sent");
        }
        for (number, client) in clients.iter().enumerate() {
            assert_eq!(receive(client), [number as u8, round]);
        }
    }
}

#[test]
fn what_came_joined_is_split_and_answered_joined_and_not_copied() {
    let seen = Arc::new(AtomicUsize::new(0));
    let most = seen.clone();
    let serving = Serving::new(
        Dispatch::Inline,
        DatagramLimits::default(),
        move |(): &mut (), batch: &DatagramBatch<'_>| {
            most.fetch_max(batch.len(), Ordering::Relaxed);
            echo(&mut (), batch)
        },
    );
    let client = connect(&serving.address.into()).expect("a socket");
    // 50 of 1 000 bytes, and a shorter one, in one send.
    let payload: Vec<u8> = (0..50_400_u32).map(|it| (it / 1000) as u8).collect();
    let message = Message { peer: None, source: None, payload: &payload, size: 1000 };
    let mut envelopes = Envelopes::default();
    let sent = client.send(&mut envelopes, 1, |_| message);
    assert_eq!((sent.done, sent.datagrams, sent.bytes), (1, 51, 50_400));
    let (mut back, mut sizes) = (Vec::new(), Vec::new());
    let mut places = Places::default();
    until("all come back", || {
        if client.receive(&mut places, 16, 65_536).is_ok() {
            for place in places.used() {
                back.extend_from_slice(place.block.bytes());
                sizes.push((place.stride(), place.count()));
            }
        }
        back.len() >= payload.len()
    });
    assert!(back == payload, "{sizes:?}");
    assert_eq!(seen.load(Ordering::Relaxed), 51, "the kernel hands a train on as it is");
    assert_eq!(serving.handle.stats().sent, 51);
}

#[test]
fn a_longer_datagram_is_cut_and_says_so() {
    let (tell, told) = mpsc::channel();
    let features = DatagramFeatures { receive_joined: false, ..DatagramFeatures::default() };
    let options = DatagramSocketOptions { features, ..DatagramSocketOptions::default() };
    let socket = DatagramSocket::bind(&any(), &options).expect("a socket");
    let limits = DatagramLimits { longest: 100, ..DatagramLimits::default() };
    let serving = Serving::on(
        socket,
        Dispatch::Inline,
        limits,
        move |(): &mut (), batch: &DatagramBatch<'_>| {
            for datagram in batch {
                let _ = tell.send((datagram.payload().len(), datagram.is_truncated()));
            }
            Ok(())
        },
    );
    let client = serving.client();
    for size in [99, 100, 101, 5000] {
        client.send(&vec![1; size]).expect("it is sent");
        let expected = (size.min(100), size > 100);
        assert_eq!(told.recv_timeout(PATIENCE).expect("it came"), expected);
    }
    assert_eq!(serving.handle.stats().truncated, 2);
}

#[test]
fn a_callback_that_fails_or_panics_closes_no_socket() {
    let serving = Serving::new(
        Dispatch::Inline,
        DatagramLimits::default(),
        |(): &mut (), batch: &DatagramBatch<'_>| {
            for datagram in batch {
                match datagram.payload() {
                    b"panic" => panic!("as the peer wishes"),
                    b"fail" => return Err(Error::protocol("as the peer wishes")),
                    other => datagram.reply(other)?,
                }
            }
            Ok(())
        },
    );
    let client = serving.client();
    for (before, text) in ["panic", "fail", "panic"].iter().enumerate() {
        client.send(text.as_bytes()).expect("it is sent");
        until("it has failed", || {
            let stats = serving.handle.stats();
            stats.panics + stats.callback_errors > before as u64
        });
        client.send(b"go on").expect("it is sent");
        assert_eq!(receive(&client), b"go on");
    }
    let stats = serving.handle.stats();
    assert_eq!((stats.panics, stats.callback_errors), (2, 1));
}

#[test]
fn other_threads_send_in_order_and_are_told_what_can_not_be_sent() {
    let serving = Serving::echo(Dispatch::Inline);
    let client = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    client.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let peer = Address::Inet(client.local_addr().expect("an address"));
    for number in 0..100_u8 {
        serving.handle.send_to(&peer, vec![number]).expect("it is sent");
    }
    for number in 0..100_u8 {
        assert_eq!(receive(&client), [number]);
    }
    let too_long = serving.handle.send_to(&peer, vec![0; 65_508]).expect_err("it is too long");
    let Error::Io(error) = &too_long else { panic!("{too_long}") };
    assert_eq!(error.raw_os_error(), Some(TOO_LONG));
    let nowhere = Address::Inet("127.0.0.1:0".parse().expect("an address"));
    assert!(serving.handle.send_to(&nowhere, "x").is_err(), "no socket has the port 0");
    assert!(serving.handle.send_to(&Address::Unnamed, "x").is_err());
    assert_eq!(serving.handle.stats().refused, 1);
    serving.handle.close();
    until("it closes", || serving.group.wait_empty(clock::now()) == 0);
    let closed = serving.handle.send_to(&peer, "x").expect_err("it is closed");
    assert!(matches!(closed, Error::Closed), "{closed}");
    assert!(serving.handle.is_closed() && serving.handle.local_addr().is_err());
}

#[test]
fn a_shutdown_answers_what_has_been_received_by_then() {
    for mode in modes() {
        let (go, wait) = crossbeam_channel::bounded::<()>(0);
        let (tell, told) = mpsc::channel();
        let serving = Serving::new(
            mode,
            DatagramLimits::default(),
            move |(): &mut (), batch: &DatagramBatch<'_>| {
                let _ = tell.send(());
                let _ = wait.recv();
                echo(&mut (), batch)
            },
        );
        let client = serving.client();
        client.send(&[0]).expect("it is sent");
        told.recv_timeout(PATIENCE).expect("it has begun");
        for number in 1..30 {
            client.send(&[number]).expect("it is sent");
        }
        serving.group.begin_shutdown();
        serving.manager.pick(None).shut_down(&serving.group);
        drop(go);
        assert_eq!(serving.group.wait_empty(clock::now() + PATIENCE), 0);
        for number in 0..30 {
            assert_eq!(receive(&client), [number]);
        }
    }
}

#[test]
fn an_abort_ends_a_socket_at_once() {
    let serving = Serving::echo(Dispatch::Inline);
    serving.manager.pick(None).abort(&serving.group);
    assert_eq!(serving.group.wait_empty(clock::now() + PATIENCE), 0);
    assert!(serving.handle.is_closed());
    let bound = UdpSocket::bind(serving.address);
    assert!(bound.is_ok(), "the port is free again: {bound:?}");
}

#[test]
fn a_manager_that_is_dropped_closes_its_sockets() {
    let serving = Serving::echo(Dispatch::Inline);
    let client = serving.client();
    client.send(b"x").expect("it is sent");
    assert_eq!(receive(&client), b"x");
    let Serving { manager, handle, address, group } = serving;
    drop(manager);
    assert_eq!(group.wait_empty(clock::now() + PATIENCE), 0);
    assert!(handle.local_addr().is_err() && UdpSocket::bind(address).is_ok());
}

#[test]
fn slices_outlive_their_batch_and_are_charged() {
    let (tell, told) = mpsc::channel();
    let serving = Serving::new(
        Dispatch::Inline,
        DatagramLimits::default(),
        move |(): &mut (), batch: &DatagramBatch<'_>| {
            for datagram in batch {
                let _ = tell.send(datagram.bytes());
            }
            Ok(())
        },
    );
    let client = serving.client();
    let mut kept = Vec::new();
    for number in 0..20_u8 {
        client.send(&vec![number; 2000]).expect("it is sent");
        kept.push(told.recv_timeout(PATIENCE).expect("it came"));
    }
    for (number, bytes) in kept.iter().enumerate() {
        assert_eq!(bytes[..], vec![number as u8; 2000]);
    }
}
