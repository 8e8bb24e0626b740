//! Connected sockets, at which a caller waits: in order, within a timeout, and told what ICMP says.

use std::io::{self, ErrorKind};
use std::net::{SocketAddr, UdpSocket};
use std::os::unix::net::UnixDatagram;
use std::panic::{self, AssertUnwindSafe};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use netpoll::{
    Connection, DatagramBatch, DatagramClient, DatagramHandle, Datagrams, Dialer, Dispatch, Error,
    EventLoop, Listener, Resolve, Wait, connect_datagrams,
};

use super::{any_port, echoing, inet, serve};
use crate::util::{Client, PATIENCE, alone, connect, hand_off, modes, pool};

/// A plain peer, and a client that is connected to it.
fn pair() -> (UdpSocket, DatagramClient) {
    let peer = UdpSocket::bind("127.0.0.1:0").expect("a port");
    peer.set_read_timeout(Some(PATIENCE)).expect("an option");
    let address = peer.local_addr().expect("an address").to_string();
    let client = connected(&address);
    peer.connect(client.local_addr().expect("an address").inet().expect("of UDP")).expect("a peer");
    (peer, client)
}

fn connected(address: &str) -> DatagramClient {
    let mut client = connect_datagrams("udp", address).expect("a route");
    client.set_read_timeout(PATIENCE);
    client.set_write_timeout(PATIENCE);
    client
}

#[test]
fn datagrams_come_whole_and_in_order() {
    let (peer, mut client) = pair();
    client.send(b"question").expect("room");
    let mut room = [0; 16];
    assert_eq!(peer.recv(&mut room).expect("it came"), 8);
    for payload in [&b"one"[..], b"", b"three"] {
        peer.send(payload).expect("room");
    }
    assert_eq!(client.recv(&mut room).expect("it came"), 3);
    assert_eq!(client.recv(&mut room).expect("it came"), 0, "an empty one is one");
    assert_eq!(client.recv_bytes().expect("it came"), "three");
    // One that came while it waits.
    let waiting = thread::spawn(move || client.recv_bytes().map(|it| (it, client)));
    peer.send(b"late").expect("room");
    let (late, mut client) = waiting.join().expect("no panic").expect("it came");
    assert_eq!(late, "late");
    peer.send(b"too long").expect("room");
    let error = client.recv(&mut room[..3]).expect_err("its end is lost");
    assert_eq!((error.kind(), &room[..3]), (ErrorKind::InvalidData, &b"too"[..]));
    peer.send(b"next").expect("room");
    assert_eq!(client.recv_bytes().expect("it came"), "next", "it holds up no other");
}

#[test]
fn batches_are_sent_and_received() {
    let (peer, mut client) = pair();
    let payloads: Vec<Vec<u8>> = (0..50).map(|it| vec![it; 100 + usize::from(it / 20)]).collect();
    client.send_batch(&payloads).expect("room");
    let mut room = [0; 256];
    for payload in &payloads {
        let length = peer.recv(&mut room).expect("it came");
        assert_eq!(room[..length], payload[..]);
    }
    for payload in &payloads {
        peer.send(payload).expect("room");
    }
    let mut heard = vec![client.recv_bytes().expect("it came").to_vec()];
    while heard.len() < payloads.len() {
        heard.extend(client.recv_batch().expect("they came").map(<[u8]>::to_vec));
    }
    assert_eq!(heard, payloads);
    let error = client.send_batch([vec![0; 70_000], b"short".to_vec()]).expect_err("too long");
    assert_eq!(error.kind(), io::Error::from_raw_os_error(nix::libc::EMSGSIZE).kind());
    let length = peer.recv(&mut room).expect("the others are sent");
    assert_eq!(&room[..length], b"short");
}

/// What the kernel joins of a train comes apart again.
#[test]
fn a_train_is_received_one_by_one() {
    let server = any_port().on_datagrams(|(): &mut (), batch: &DatagramBatch<'_>| {
        for datagram in batch {
            (0..40_u8).try_for_each(|number| datagram.reply(&[number; 50]))?;
        }
        Ok(())
    });
    let running = serve(Dispatch::Inline, 1, server);
    let mut client = connected(&running.address().to_string());
    client.send(b"send me a train").expect("room");
    for number in 0..40 {
        assert_eq!(client.recv_bytes().expect("it came"), vec![number; 50]);
    }
}

#[test]
fn a_receive_ends_at_its_timeout() {
    let (_peer, mut client) = pair();
    client.set_read_timeout(Duration::from_millis(30));
    let began = Instant::now();
    let error = client.recv_bytes().expect_err("nothing comes");
    assert!(matches!(error, Error::TimedOut(Wait::Read)), "{error}");
    assert!(began.elapsed() >= Duration::from_millis(30));
    client.set_read_timeout(Duration::ZERO);
    assert!(matches!(client.recv_bytes(), Err(Error::TimedOut(Wait::Read))), "at once");
    client.set_read_timeout(Duration::MAX);
    client.send(b"the longest timeout").expect("room");
}

/// Once for each datagram that was refused, whichever call comes next.
#[test]
fn a_dead_port_is_told_as_connection_refused() {
    // Where no other test takes the port, or starts a process: that has a copy of each socket until
    // it executes.
    alone("datagrams::client::a_dead_port_is_told_as_connection_refused", || {
        let (peer, mut client) = pair();
        drop(peer);
        for _ in 0..3 {
            client.send(b"is anybody there?").expect("the first send is told of nothing");
            let error = client.recv_bytes().expect_err("no socket has the port");
            assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{error}");
        }
        client.send(b"and here?").expect("the error was taken");
        client.set_read_timeout(Duration::from_millis(50));
        let error = client.recv_batch().expect_err("no socket has the port");
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{error}");
        let error = client.recv_batch().expect_err("told once");
        assert!(matches!(error, Error::TimedOut(Wait::Read)), "{error}");
    });
}

#[test]
fn a_unix_peer_answers_a_client_without_a_name() {
    // As above.
    alone("datagrams::client::a_unix_peer_answers_a_client_without_a_name", || {
        let path = std::env::temp_dir().join(format!("netpoll-client-{}", std::process::id()));
        let path = path.to_str().expect("UTF-8");
        let missing = connect_datagrams("unixgram", path).expect_err("there is none");
        assert_eq!(missing.kind(), ErrorKind::NotFound);
        let running =
            serve(Dispatch::Inline, 1, echoing(Datagrams::bind("unixgram", path).expect("a path")));
        let mut client = connect_datagrams("unixgram", path).expect("it is bound");
        client.set_read_timeout(PATIENCE);
        client.send(b"hello").expect("room");
        assert_eq!(client.recv_bytes().expect("an answer"), "hello");
        drop(running);
        let gone = client.send(b"hello").expect_err("it is gone");
        assert_eq!(gone.kind(), ErrorKind::ConnectionRefused, "{gone}");
        let stale = UnixDatagram::bind(path).expect("it is free again");
        drop(stale);
        let dead = connect_datagrams("unixgram", path).expect_err("it is dead");
        assert_eq!(dead.kind(), ErrorKind::ConnectionRefused);
        let _ = std::fs::remove_file(path);
    });
}

#[derive(Debug)]
struct Fixed(SocketAddr);

impl Resolve for Fixed {
    fn resolve(&self, host: &str, _: u16) -> io::Result<Vec<SocketAddr>> {
        match host {
            "server.test" => Ok(vec![self.0]),
            "slow.test" => {
                // sleep: a resolver that answers late
                thread::sleep(Duration::from_millis(300));
                Ok(vec![self.0])
            }
            _ => Err(ErrorKind::NotFound.into()),
        }
    }
}

#[test]
fn a_name_is_resolved_as_the_dialer_says() {
    let running = serve(Dispatch::Inline, 1, echoing(any_port()));
    let dialer = Dialer::builder()
        .resolver(Fixed(inet(&running)))
        .timeout(Duration::from_millis(50))
        .local_address("127.0.0.9:0".parse().expect("an address"))
        .build()
        .expect("options");
    let mut client = dialer.connect_datagrams("udp", "server.test:1").expect("a route");
    client.set_read_timeout(PATIENCE);
    client.send(b"hello").expect("room");
    assert_eq!(client.recv_bytes().expect("an answer"), "hello");
    let local = client.local_addr().expect("an address").ip();
    assert_eq!(local, Some([127, 0, 0, 9].into()));
    for (address, kind, words) in [
        ("other.test:1", ErrorKind::NotFound, "connect udp other.test:1"),
        ("slow.test:1", ErrorKind::TimedOut, "connect udp slow.test:1"),
        ("127.0.0.1", ErrorKind::InvalidInput, "host:port"),
        ("[::1]:1", ErrorKind::InvalidInput, "local address's family"),
    ] {
        let error = dialer.connect_datagrams("udp", address).expect_err(address);
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains(words), "{error}");
    }
    let error = dialer.connect_datagrams("tcp", "127.0.0.1:1").expect_err("of streams");
    assert!(error.to_string().contains("udp, udp4, udp6 or unixgram"), "{error}");
}

/// A callback that waits for an answer hands its loop over; under `Inline` it must not wait.
#[test]
fn a_wait_in_a_callback_holds_up_no_other() {
    for dispatch in [hand_off(), pool()] {
        let (peer, client) = pair();
        let client = std::sync::Mutex::new(client);
        let builder = EventLoop::builder().on_request(move |(): &mut (), conn: &mut Connection| {
            let line = conn.reader().next(1)?.to_vec();
            if line == b"w" {
                let answer = crate::util::lock(&client).recv_bytes()?;
                conn.writer().write_bytes(&answer);
                return conn.writer().flush();
            }
            conn.writer().write_bytes(&line);
            conn.writer().flush()
        });
        let listener = Listener::bind("tcp", "127.0.0.1:0").expect("a port");
        let event_loop = builder.loops(1).dispatch(dispatch).build().expect("options");
        let running = event_loop.spawn(listener).expect("it serves");
        let (mut waiting, mut other) = (connect(inet(&running)), connect(inet(&running)));
        waiting.say(b"w");
        (0..20).for_each(|_| other.echo(b"."));
        peer.send(b"answer").expect("room");
        waiting.hear(b"answer");
    }
    let (_peer, client) = pair();
    let (client, (told, errors)) = (std::sync::Mutex::new(client), mpsc::channel());
    let builder = EventLoop::builder().on_request(move |(): &mut (), conn: &mut Connection| {
        conn.reader().next(1)?;
        let error = crate::util::lock(&client).recv_bytes().expect_err("it must not wait");
        let _ = told.send(error.to_string());
        Ok(())
    });
    let listener = Listener::bind("tcp", "127.0.0.1:0").expect("a port");
    let event_loop = builder.dispatch(Dispatch::Inline).build().expect("options");
    let running = event_loop.spawn(listener).expect("it serves");
    connect(inet(&running)).say(b"w");
    let error = errors.recv_timeout(PATIENCE).expect("it fails");
    assert!(error.starts_with("cannot receive a datagram"), "{error}");
}

#[test]
fn a_connected_socket_is_served_by_callbacks() {
    for dispatch in modes() {
        let running = serve(dispatch, 1, echoing(any_port()));
        let client = connected(&running.address().to_string());
        let (sender, answers) = mpsc::channel();
        let asking = Datagrams::try_from(client)
            .expect("an address")
            .on_open(|handle: &DatagramHandle| handle.send("first"))
            .on_datagrams(move |(): &mut (), batch: &DatagramBatch<'_>| {
                for datagram in batch {
                    let _ = sender.send(datagram.payload().to_vec());
                    if datagram.payload() == b"first" {
                        batch.send(b"second")?;
                    }
                }
                Ok(())
            });
        let client = serve(dispatch, 1, asking);
        assert_eq!(answers.recv_timeout(PATIENCE).expect("an answer"), b"first");
        assert_eq!(answers.recv_timeout(PATIENCE).expect("an answer"), b"second");
        drop(client);
    }
}

#[test]
fn a_batch_that_panics_half_way_leaves_nothing_to_the_next() {
    let (peer, mut client) = pair();
    let payloads = ["first", "never"].map(|it| {
        move || {
            assert_eq!(it, "first", "as the test wants");
            it
        }
    });
    let sent = panic::catch_unwind(AssertUnwindSafe(|| {
        client.send_batch(payloads.iter().map(|payload| payload()))
    }));
    assert!(sent.is_err(), "the iterator panics");
    client.send_batch(["second"]).expect("room");
    let mut room = [0; 16];
    let length = peer.recv(&mut room).expect("it came");
    assert_eq!(&room[..length], b"second");
}
