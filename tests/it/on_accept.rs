//! What decides about accepted connections, by their addresses.

use std::io::{ErrorKind, Read};
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use netpoll::{Connection, EventLoop, Incoming, Listener, ProxyProtocol, Verdict};
use socket2::{Domain, Socket, Type};

use crate::util::{
    Client, Count, Serving, connect, echo, echo_once, eventually, inet, lock, modes,
};

/// A client that comes from 127.0.0.N.
fn from(last: u8, to: std::net::SocketAddr) -> std::net::TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    let ours = std::net::SocketAddr::from((Ipv4Addr::new(127, 0, 0, last), 0));
    socket.bind(&ours.into()).expect("an address of this machine");
    socket.connect(&to.into()).expect("the server accepts");
    let stream = std::net::TcpStream::from(socket);
    stream.set_read_timeout(Some(crate::util::PATIENCE)).expect("an option");
    stream
}

fn verdict(incoming: &Incoming<'_>) -> Verdict {
    match incoming.peer.inet().map(|it| it.ip().to_string()).as_deref() {
        Some("127.0.0.2" | "192.0.2.2") => Verdict::Close,
        Some("127.0.0.3" | "192.0.2.3") => Verdict::Reset,
        Some("127.0.0.4") => panic!("in on_accept"),
        _ => Verdict::Admit,
    }
}

#[test]
fn it_closes_or_resets_before_any_callback_and_before_the_limits() {
    for dispatch in modes() {
        for loops in [1, 2] {
            let prepared = Count::default();
            let count = prepared.clone();
            let event_loop = EventLoop::builder()
                .on_prepare(move |_: &Connection| {
                    count.add();
                    Ok(())
                })
                .on_request(|(): &mut (), conn: &mut Connection| echo_once(conn))
                .on_accept(verdict)
                .max_connections(1)
                .loops(loops)
                .dispatch(dispatch)
                .build()
                .expect("good options");
            let listener = Listener::bind("tcp", "127.0.0.1:0").expect("a port");
            let address = inet(&listener);
            let server = Serving::start(event_loop, listener);
            assert_eq!(from(2, address).rest(), b"");
            let reset = from(3, address).read(&mut [0]).expect_err("a reset");
            assert_eq!(reset.kind(), ErrorKind::ConnectionReset);
            assert_eq!(from(4, address).rest(), b"", "a panic closes");
            let mut client = from(5, address);
            client.echo(b"hello");
            let stats = server.event_loop.stats();
            assert_eq!((stats.refused_on_accept, stats.refused, stats.connections), (3, 3, 1));
            assert_eq!(prepared.get(), 1);
        }
    }
}

/// It waits for its place where the limit says so, and is asked about once.
#[test]
fn a_connection_that_waits_for_a_place_is_asked_about_once() {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    let event_loop = echo()
        .on_accept(move |_| {
            count.fetch_add(1, Ordering::SeqCst);
            Verdict::Admit
        })
        .max_connections(1)
        .build()
        .expect("good options");
    let listener = Listener::bind("tcp", "127.0.0.1:0").expect("a port");
    let address = inet(&listener);
    let server = Serving::start(event_loop, listener);
    for _ in 0..3 {
        let (mut first, mut second) = (connect(address), connect(address));
        first.echo(b"first");
        second.say(b"second");
        drop(first);
        second.hear(b"second");
        drop(second);
        eventually("both are gone", || server.event_loop.stats().connections == 0);
    }
    assert_eq!(asked.load(Ordering::SeqCst), 6);
}

#[test]
fn behind_a_proxy_it_is_asked_about_the_client() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let told = seen.clone();
    let event_loop = echo()
        .on_accept(move |incoming| {
            lock(&told).push(incoming.peer.to_string());
            verdict(incoming)
        })
        .build()
        .expect("good options");
    let listener = Listener::bind("tcp", "127.0.0.1:0").expect("a port");
    let address = inet(&listener);
    let server = Serving::start(event_loop, listener.proxy_protocol(ProxyProtocol::default()));
    let mut refused = connect(address);
    refused.say(b"PROXY TCP4 192.0.2.2 198.51.100.7 51000 443\r\n");
    assert_eq!(refused.rest(), b"");
    let mut reset = connect(address);
    reset.say(b"PROXY TCP4 192.0.2.3 198.51.100.7 51000 443\r\n");
    assert_eq!(reset.read(&mut [0]).expect_err("a reset").kind(), ErrorKind::ConnectionReset);
    let mut client = connect(address);
    client.say(b"PROXY TCP4 192.0.2.1 198.51.100.7 51000 443\r\nhello");
    client.hear(b"hello");
    assert_eq!(*lock(&seen), ["192.0.2.2:51000", "192.0.2.3:51000", "192.0.2.1:51000"]);
    let stats = server.event_loop.stats();
    assert_eq!((stats.refused_on_accept, stats.connections), (2, 1));
}
