//! Behind a proxy: whose connection it is, and those that don't say.

use std::io::{ErrorKind, Read};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use netpoll::{Connection, EventLoop, Listener, ProxyProtocol, TrustedProxies};
use socket2::{Domain, Socket, Type};

use crate::util::{
    Client, PATIENCE, Serving, connect, echo_once, eventually, holding, inet, modes,
};

/// A server that sends the address that it has for its client, and then echoes.
fn behind_a_proxy(listener: Listener, proxy: ProxyProtocol) -> (Serving, std::net::SocketAddr) {
    let address = inet(&listener);
    let event_loop = EventLoop::builder()
        .on_prepare(|conn: &Connection| Ok(format!("{} {};", conn.peer_addr(), conn.local_addr()?)))
        .on_connect(|who: &mut String, conn: &mut Connection| {
            conn.writer().write_bytes(who.as_bytes());
            Ok(())
        })
        .on_request(|_: &mut String, conn: &mut Connection| echo_once(conn))
        .max_connections_per_source(1)
        .build()
        .expect("options");
    (Serving::start(event_loop, listener.proxy_protocol(proxy)), address)
}

fn bind() -> Listener {
    Listener::bind("tcp", "127.0.0.1:0").expect("a port")
}

/// The binary header of a client 192.0.2.N:80 of 198.51.100.7:443, with an extension.
fn binary(last: u8) -> Vec<u8> {
    let signature = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x10";
    [&signature[..], &[192, 0, 2, last, 198, 51, 100, 7, 0, 80, 1, 0xBB, 4, 0, 1, b'x']].concat()
}

#[test]
fn callbacks_see_the_client_and_only_its_bytes() {
    for listener in
        [bind(), Listener::options().reuse_port(true).bind("tcp", ":0").expect("a port")]
    {
        let (server, address) = behind_a_proxy(listener, ProxyProtocol::default());
        let address = (std::net::Ipv4Addr::LOCALHOST, address.port()).into();
        let mut client = connect(address);
        client.say(b"PROXY TCP4 192.0.2.1 198.51.100.7 51000 443\r\nhello");
        client.hear(b"192.0.2.1:51000 198.51.100.7:443;hello");
        client.echo(b"PROXY is no header any more");

        let mut slow = connect(address);
        for byte in binary(2) {
            slow.say(&[byte]);
        }
        slow.hear(b"192.0.2.2:80 198.51.100.7:443;");
        let mut third = connect(address);
        third.say(&binary(1));
        assert_eq!(third.rest(), b"", "the limit is on the client's address");
        drop(client);
        assert_eq!(server.stop().refused, 1);
    }
}

#[test]
fn a_proxy_that_speaks_for_itself_is_the_client() {
    let (server, address) = behind_a_proxy(bind(), ProxyProtocol::default());
    let mut check = connect(address);
    check.say(b"PROXY UNKNOWN\r\n");
    let us = check.local_addr().expect("an address");
    check.hear(format!("{us} {address};").as_bytes());
    assert_eq!(server.stop().refused, 0);
}

#[test]
fn what_is_no_header_is_closed_at_once_and_what_is_late_at_the_deadline() {
    let proxy = ProxyProtocol { deadline: 2 * PATIENCE, ..ProxyProtocol::default() };
    let (server, address) = behind_a_proxy(bind(), proxy);
    for wrong in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        b"PROXY TCP4 x\r\n",
        &[0; 5000],
        b"\r\n\r\n\0\r\nQUIT\n\x31",
    ] {
        let mut client = connect(address);
        client.say(wrong);
        client.end();
    }
    assert_eq!(server.stop().refused, 4);

    let deadline = Duration::from_millis(300);
    let (server, address) =
        behind_a_proxy(bind(), ProxyProtocol { deadline, ..ProxyProtocol::default() });
    let begun = Instant::now();
    let mut slow = connect(address);
    slow.say(b"PROXY TCP4 192.0.2.1");
    let silent = connect(address);
    for mut client in [slow, silent] {
        client.end();
        assert!(begun.elapsed() >= deadline, "{:?}", begun.elapsed());
    }
    assert_eq!(server.stop().refused, 2);
}

#[test]
fn a_header_that_is_too_long_is_refused() {
    let proxy = ProxyProtocol { limit: 107, ..ProxyProtocol::default() };
    let (_server, address) = behind_a_proxy(bind(), proxy);
    let mut client = connect(address);
    client.say(b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x10\0");
    client.end();
    let mut client = connect(address);
    client.say(&binary(1));
    client.hear(b"192.0.2.1:80");
}

#[test]
fn a_shutdown_does_not_wait_for_headers_that_do_not_come() {
    for listener in
        [bind(), Listener::options().reuse_port(true).bind("tcp", "127.0.0.1:0").expect("a port")]
    {
        let (sender, seen) = mpsc::channel();
        let address = inet(&listener);
        let event_loop = EventLoop::builder()
            .on_connect(move |(): &mut (), _: &mut Connection| {
                sender.send(()).map_err(|_| netpoll::Error::Closed)
            })
            .on_request(|(): &mut (), conn: &mut Connection| echo_once(conn))
            .dispatch(modes()[0])
            .build()
            .expect("options");
        let proxy = ProxyProtocol { deadline: Duration::from_secs(60), ..ProxyProtocol::default() };
        let server = Serving::start(event_loop, listener.proxy_protocol(proxy));
        let mut silent = connect(address);
        silent.say(b"PROXY ");
        let mut client = connect(address);
        client.say(b"PROXY UNKNOWN\r\n");
        seen.recv().expect("the second is served");
        let begun = Instant::now();
        let report = server.stop();
        assert!(begun.elapsed() < PATIENCE / 2, "{:?}", begun.elapsed());
        assert_eq!((report.closed_in_order, report.aborted), (1, 0));
        let end = silent.read(&mut [0]).map_err(|error| error.kind());
        assert!(matches!(end, Ok(0) | Err(ErrorKind::ConnectionReset)), "{end:?}");
    }
}

/// Its loop is inside a callback when they arrive, and when the shutdown begins.
#[test]
fn a_header_that_has_arrived_is_in_time_for_a_shutdown() {
    for loops in [1, 2] {
        for _ in 0..20 {
            let (builder, gate, held) = holding(EventLoop::builder());
            let event_loop = builder.loops(loops).build().expect("options");
            let listener = bind().proxy_protocol(ProxyProtocol::default());
            let address = inet(&listener);
            let server = Serving::start(event_loop, listener);
            let mut silent = connect(address);
            let mut busy = connect(address);
            busy.say(b"PROXY UNKNOWN\r\n!");
            eventually("a loop is busy", || held.get() == 1);
            silent.say(b"PROXY UNKNOWN\r\nhello");
            server.event_loop.shutdown(PATIENCE);
            gate.open();
            assert_eq!(silent.rest(), b"hello", "{loops}");
            assert_eq!(busy.rest(), b"!");
            assert_eq!(server.join().aborted, 0);
        }
    }
}

/// The deadline is an hour away, so that it ends no test.
#[test]
fn a_peer_that_leaves_behind_a_part_of_its_header_is_let_go_at_once() {
    let proxy = ProxyProtocol { deadline: Duration::from_secs(3600), ..ProxyProtocol::default() };
    for listener in
        [bind(), Listener::options().reuse_port(true).bind("tcp", "127.0.0.1:0").expect("a port")]
    {
        let (server, address) = behind_a_proxy(listener, proxy.clone());
        let (mut resets, mut ends) = (Vec::new(), Vec::new());
        for _ in 0..20 {
            let (mut reset, mut end) = (connect(address), connect(address));
            reset.say(b"PROXY TCP4 192.0.2.1");
            end.say(b"\r\n\r\n\0\r\nQUIT\n\x21\x11");
            resets.push(reset);
            ends.push(end);
        }
        let accepted = || {
            let stats = server.event_loop.stats();
            stats.main.accepted + stats.loops.iter().map(|it| it.accepted).sum::<u64>()
        };
        eventually("all are accepted", || accepted() == 40);
        resets.into_iter().for_each(Client::reset);
        eventually("a reset is heard", || server.event_loop.stats().refused == 20);
        ends.iter().for_each(Client::half_close);
        eventually("an end is heard", || server.event_loop.stats().refused == 40);
        for mut end in ends {
            end.end();
        }
        // A whole header with the end of the stream right behind it is served.
        let mut last = connect(address);
        last.say(&binary(3));
        last.half_close();
        assert!(last.rest().starts_with(b"192.0.2.3:80"));
        assert_eq!(server.stop().refused, 40);
    }
}

/// What a proxy that spoke TLS with its client says: addresses, ALPN, authority, an id, TLS with a
/// valid certificate of `alice`, and a type that nobody knows.
const EXTENDED: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x41\
    \xC0\0\x02\x01\xC6\x33\x64\x07\xC7\x38\x01\xBB\
    \x01\0\x02h2\x02\0\x0Bexample.org\x05\0\x02id\
    \x20\0\x17\x03\0\0\0\0\x21\0\x07TLSv1.3\x22\0\x05alice\xE0\0\0";

/// All that is known of a connection's header, as text.
fn said(conn: &Connection) -> String {
    let Some(header) = conn.proxy_header() else { return "no header".into() };
    let text = |bytes: Option<&[u8]>| bytes.map(|it| it.escape_ascii().to_string());
    let tls = header.tls();
    let tls = tls.as_ref().map(|it| (it.is_verified(), it.version(), it.common_name()));
    let kinds: Vec<u8> = header.tlvs().map(|(kind, _)| kind).collect();
    format!(
        "{:?} {:?} {:?} {tls:?} {kinds:?};",
        text(header.alpn()),
        header.authority(),
        text(header.unique_id()),
    )
}

#[test]
fn extensions_reach_every_callback() {
    let expected = "Some(\"h2\") Some(\"example.org\") Some(\"id\") \
         Some((true, Some(\"TLSv1.3\"), Some(\"alice\"))) [1, 2, 5, 32, 224];";
    for mode in modes() {
        let listener = bind();
        let address = inet(&listener);
        let event_loop = EventLoop::builder()
            .on_prepare(|conn: &Connection| Ok(said(conn)))
            .on_request(|before: &mut String, conn: &mut Connection| {
                let now = said(conn);
                conn.writer().write_bytes(before.as_bytes());
                conn.writer().write_bytes(now.as_bytes());
                echo_once(conn)
            })
            .dispatch(mode)
            .build()
            .expect("options");
        let proxy = ProxyProtocol::default();
        let _server = Serving::start(event_loop, listener.proxy_protocol(proxy));
        let mut client = connect(address);
        client.say(&[EXTENDED, b"hello"].concat());
        client.hear([expected, expected, "hello"].concat().as_bytes());
        // One that is cut off makes the header none.
        let mut cut = EXTENDED.to_vec();
        cut[15] -= 1;
        let mut client = connect(address);
        client.say(&cut);
        client.end();
    }
}

/// A client of this loopback address.
fn connect_from(source: [u8; 4], to: std::net::SocketAddr) -> std::net::TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.bind(&std::net::SocketAddr::from((source, 0)).into()).expect("an address");
    socket.connect(&to.into()).expect("it listens");
    socket.set_read_timeout(Some(PATIENCE)).expect("an option");
    socket.into()
}

#[test]
fn only_trusted_proxies_are_believed() {
    let trusted = TrustedProxies::new(["127.0.0.0/30", "127.0.0.9"]).expect("networks");
    for reuse_port in [false, true] {
        let listen = || {
            let options = Listener::options().reuse_port(reuse_port);
            options.bind("tcp", "0.0.0.0:0").expect("a port")
        };
        let proxy = |trusted: &TrustedProxies| ProxyProtocol {
            trusted: Some(trusted.clone()),
            ..ProxyProtocol::default()
        };
        let at = |address: std::net::SocketAddr| (std::net::Ipv4Addr::LOCALHOST, address.port());

        let (server, address) = behind_a_proxy(listen(), proxy(&trusted));
        let address = at(address).into();
        for proxy in [[127, 0, 0, 3], [127, 0, 0, 9]] {
            let mut client = connect_from(proxy, address);
            client.say(&binary(proxy[3]));
            client.hear(format!("192.0.2.{}:80 198.51.100.7:443;", proxy[3]).as_bytes());
        }
        let mut stranger = connect_from([127, 0, 0, 4], address);
        let end = stranger.read(&mut [0]).map_err(|error| error.kind());
        assert!(matches!(end, Ok(0) | Err(ErrorKind::ConnectionReset)), "{end:?}");
        assert_eq!(server.stop().refused, 1);

        let clients = proxy(&trusted.clone().others_are_clients());
        let (server, address) = behind_a_proxy(listen(), clients);
        let address = at(address).into();
        let mut client = connect_from([127, 0, 0, 4], address);
        let us = client.local_addr().expect("an address");
        client.hear(format!("{us} {address};").as_bytes());
        // Its header is no header, but what it says.
        client.echo(b"PROXY TCP4 192.0.2.1 198.51.100.7 51000 443\r\n");
        // It counts as a source of its own, and not as the one that it claims.
        assert_eq!(connect_from([127, 0, 0, 4], address).rest(), b"");
        let mut proxied = connect_from([127, 0, 0, 2], address);
        proxied.say(b"PROXY TCP4 192.0.2.1 198.51.100.7 51000 443\r\n");
        proxied.hear(b"192.0.2.1:51000 198.51.100.7:443;");
        assert_eq!(server.stop().refused, 1);
    }
}
