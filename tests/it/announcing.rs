//! Dials that begin with a header of the PROXY protocol: what the server gets, and when.

use std::io::{ErrorKind, Read};
use std::net::{SocketAddr, TcpListener};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use netpoll::proxy::{Header, Tls, Version};
use netpoll::{
    Address, Cancel, Client as NetpollClient, Connection, Dialer, Error, EventLoop, Listener, Pool,
    ProxyProtocol,
};
use socket2::{Domain, Socket, Type};

use crate::dial::full_listener;
use crate::util::{PATIENCE, Serving, echo_once, inet, modes};

const LINE: &[u8] = b"PROXY TCP4 192.0.2.1 198.51.100.7 51000 443\r\n";

fn header() -> Header {
    let [client, front] = ["192.0.2.1:51000", "198.51.100.7:443"]
        .map(|it| it.parse::<SocketAddr>().expect("an address"));
    Header::between(client, front)
}

fn announcing(version: Version) -> Dialer {
    let dialer = Dialer::builder().timeout(PATIENCE).build().expect("options");
    dialer.proxy_header(&header(), version).expect("a short header")
}

fn listen() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    (listener, address)
}

/// All that the next client sends.
fn heard(by: &TcpListener) -> Vec<u8> {
    let (mut stream, _) = by.accept().expect("a client");
    stream.set_read_timeout(Some(PATIENCE)).expect("an option");
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).expect("the client closes in order");
    bytes
}

#[test]
fn the_header_comes_before_anything_else() {
    let (server, address) = listen();
    for version in [Version::V1, Version::V2] {
        let expected = [header().encode(version).expect("short"), b"hello".to_vec()].concat();
        let dialer = announcing(version);
        let mut conn = dialer.dial("tcp", &address).expect("it listens");
        assert_eq!(conn.bytes_sent(), expected.len() as u64 - 5, "sent as the dial returns");
        conn.writer().write_bytes(b"hello");
        drop(conn);
        assert_eq!(heard(&server), expected);

        let pool = Pool::builder().build(dialer.clone()).expect("options");
        let mut conn = pool.checkout("tcp", &address, PATIENCE).expect("it listens");
        conn.writer().write_bytes(b"hello");
        drop((conn, pool));
        assert_eq!(heard(&server), expected);

        for mode in modes() {
            let client = NetpollClient::builder()
                .on_connect(|(): &mut (), conn: &mut Connection| {
                    conn.writer().write_bytes(b"hello");
                    conn.close();
                    Ok(())
                })
                .on_request(|(): &mut (), _: &mut Connection| Ok(()))
                .dialer(dialer.clone())
                .dispatch(mode)
                .build()
                .expect("options");
            client.dial("tcp", &address, PATIENCE).expect("it listens");
            assert_eq!(heard(&server), expected, "{mode:?}");
        }
    }
}

#[test]
fn a_dial_by_callback_begins_with_it_as_well() {
    let (server, address) = listen();
    for mode in modes() {
        let (dialer, origin) = (announcing(Version::V1), address.clone());
        let event_loop = EventLoop::builder()
            .on_connect(move |(): &mut (), conn: &mut Connection| {
                let then = |_: &mut Connection, dialled: netpoll::Result<Connection>| {
                    dialled?.writer().write_bytes(b"hello");
                    Ok(())
                };
                dialer.dial_then(&conn.handle(), "tcp", &origin, then).map(drop)
            })
            .on_request(|(): &mut (), conn: &mut Connection| echo_once(conn))
            .dispatch(mode)
            .build()
            .expect("options");
        let listener = Listener::bind("tcp", "127.0.0.1:0").expect("a port");
        let at = inet(&listener);
        let _serving = Serving::start(event_loop, listener);
        let _client = crate::util::connect(at);
        assert_eq!(heard(&server), [LINE, b"hello"].concat(), "{mode:?}");
    }
}

/// From here to a server of ours, with all that a header can say.
#[test]
fn what_a_dialler_says_a_server_hears() {
    let (sender, seen) = mpsc::channel();
    let event_loop = EventLoop::builder()
        .on_prepare(move |conn: &Connection| {
            let said = conn.proxy_header().cloned();
            sender.send((conn.peer_addr(), conn.local_addr()?, said)).map_err(|_| Error::Closed)
        })
        .on_request(|(): &mut (), conn: &mut Connection| echo_once(conn))
        .build()
        .expect("options");
    let listener = Listener::bind("tcp", "127.0.0.1:0").expect("a port");
    let address = inet(&listener);
    let limit = usize::MAX;
    let proxy = ProxyProtocol { limit, ..ProxyProtocol::default() };
    let _serving = Serving::start(event_loop, listener.proxy_protocol(proxy));
    let tls = Tls::new().with_version("TLSv1.3").with_certificate(0).with_common_name("alice");
    let full = header().with_tls(&tls).with_tlv(0xE0, &vec![7; 60_000]).with_checksum();
    for said in [header().with_alpn(b"h2"), full, Header::unknown(), Header::local()] {
        let dialer = Dialer::builder().build().expect("options");
        let dialer = dialer.proxy_header(&said, Version::V2).expect("fits");
        let mut conn = dialer.dial("tcp", &address.to_string()).expect("it listens");
        conn.writer().write_bytes(b"hello");
        conn.writer().flush().expect("it takes it");
        assert_eq!(conn.reader().next(5).expect("an echo"), b"hello");
        let (peer, local, heard) = seen.recv_timeout(PATIENCE).expect("it was prepared");
        let heard = heard.expect("a header");
        let own = conn.local_addr().expect("an address");
        assert_eq!(&peer, said.source().unwrap_or(&own));
        assert_eq!(&local, said.destination().unwrap_or(&Address::from(address)));
        assert_eq!((heard.is_local(), heard.tls()), (said.is_local(), said.tls()));
        assert_eq!((heard.alpn(), heard.tlv(0xE0)), (said.alpn(), said.tlv(0xE0)));
    }
}

/// Only the address that is used in the end gets it, however many are tried.
#[test]
fn an_address_that_loses_the_race_gets_no_header() {
    let (full, silent, _queued) = full_listener();
    let (server, address) = listen();
    let all = vec![silent, address.parse().expect("an address")];
    let dialer = Dialer::builder().resolver(move |_: &str, _: u16| Ok(all.clone()));
    let dialer = dialer.build().expect("options");
    let dialer = dialer.proxy_header(&header(), Version::V1).expect("short");
    drop(dialer.dial("tcp", "a.name:1").expect("the second answers"));
    assert_eq!(heard(&server), LINE);
    drop(full);
}

/// A listener whose sockets take little, a dialler whose sockets do, and a header of 64 KiB.
fn narrow() -> (TcpListener, String, Dialer) {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.set_recv_buffer_size(4096).expect("an option");
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("a port");
    socket.listen(8).expect("it listens");
    let listener = TcpListener::from(socket);
    let address = listener.local_addr().expect("an address").to_string();
    let dialer = Dialer::builder().send_buffer(4096).build().expect("options");
    let long = header().with_tlv(0xE0, &vec![0; 65_000]);
    (listener, address, dialer.proxy_header(&long, Version::V2).expect("it fits"))
}

#[test]
fn the_header_is_a_part_of_the_dials_time() {
    let (listener, address, dialer) = narrow();
    let begun = Instant::now();
    let timeout = Duration::from_millis(300);
    let refused = dialer.dial_with("tcp", &address, timeout, &Cancel::new()).expect_err("it waits");
    assert_eq!(refused.kind(), ErrorKind::TimedOut, "{refused}");
    assert!(begun.elapsed() >= timeout);
    // What is given up there is closed, and not left half said.
    let (mut stream, _) = listener.accept().expect("it had connected");
    stream.set_read_timeout(Some(PATIENCE)).expect("an option");
    let mut part = Vec::new();
    let _ = stream.read_to_end(&mut part);
    assert!(part.len() < 65_000);
}

#[test]
fn a_dial_that_waits_for_its_header_to_leave_can_be_cancelled() {
    let (listener, address, dialer) = narrow();
    let cancel = Cancel::new();
    let cancelled = cancel.clone();
    let dialling = thread::spawn(move || dialer.dial_with("tcp", &address, PATIENCE, &cancelled));
    let (stream, _) = listener.accept().expect("it connects");
    stream.peek(&mut [0]).expect("a part of the header");
    cancel.cancel();
    let failed = dialling.join().expect("no panic").expect_err("it is cancelled");
    assert_eq!(failed.kind(), ErrorKind::Interrupted, "{failed}");
}

#[test]
fn a_header_that_a_server_does_not_take_ends_the_dial() {
    let (listener, address, dialer) = narrow();
    let dialling = thread::spawn(move || dialer.dial("tcp", &address));
    let (stream, _) = listener.accept().expect("it connects");
    stream.peek(&mut [0]).expect("a part of the header");
    drop(stream); // with bytes unread: a reset
    let failed = dialling.join().expect("no panic").expect_err("it is reset");
    let gone = [ErrorKind::ConnectionReset, ErrorKind::BrokenPipe];
    assert!(gone.contains(&failed.kind()), "{failed}");
}
