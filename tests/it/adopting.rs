//! Connections that were connected elsewhere are served as accepted and dialled ones are.

use std::io::{BufRead, ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::sync::mpsc;

use netpoll::{
    Client as Dialling, Connection, Detached, Dialer, Dispatch, Error, EventLoop, LinkBuffer,
    Result,
};

use crate::errors::is_a_sentence;
use crate::util::{
    Client, Journal, PATIENCE, Server, connect, echo, echo_once, eventually, fd_count, modes,
};

/// Two ends of a TCP connection that netpoll does not know.
fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let client = connect(listener.local_addr().expect("an address"));
    (client, listener.accept().expect("a connection").0)
}

#[test]
fn an_adopted_stream_is_served_as_an_accepted_one_in_every_mode() {
    for dispatch in modes() {
        let (journal, told) = (Journal::default(), Journal::default());
        let told_of = told.clone();
        let server = Server::start(
            EventLoop::builder()
                .on_prepare(move |conn: &Connection| {
                    let listener = conn.listener().expect("an adopted one has an entry");
                    let text = format!("{} {}", listener.name, listener.index == usize::MAX);
                    told_of.add(text);
                    Ok(conn.peer_addr())
                })
                .on_request(|_: &mut netpoll::Address, conn: &mut Connection| echo_once(conn))
                .on_disconnect(journal.on_disconnect())
                .dispatch(dispatch),
        );
        server.connect().echo(b"it serves"); // so it does
        journal.wait(1);
        let (mut client, ours) = pair();
        let handle = server.event_loop.adopt(ours).expect("it is served");
        assert_eq!(handle.peer_addr().inet(), client.local_addr().ok());
        client.echo(b"hello");
        let (mut local, ours) = UnixStream::pair().expect("two descriptors");
        server.event_loop.adopt(ours).expect("it is served");
        local.write_all(b"by a Unix socket").expect("it is taken");
        local.read_exact(&mut [0; 16]).expect("an echo");
        assert_eq!(told.wait(3)[1..], ["adopted true", "adopted true"]);
        assert_eq!(server.event_loop.stats().connections, 2);
        drop(local);
        assert_eq!(journal.wait(2)[1], "Peer");
        assert_eq!(server.stop().closed_in_order, 1);
        assert_eq!(client.rest(), b"");
    }
}

#[test]
fn an_adopted_stream_counts_for_the_limits_and_gives_its_place_back() {
    let server = Server::start(echo().max_connections(1).max_connections_per_source(1));
    server.connect().echo(b"it serves");
    eventually("the place is free", || server.event_loop.stats().connections == 0);
    let (mut client, ours) = pair();
    server.event_loop.adopt(ours).expect("there is a place");
    client.echo(b"hello");
    let (mut second, ours) = pair();
    let error = server.event_loop.adopt(ours).expect_err("the place is taken");
    assert!(matches!(&error, Error::Io(it) if it.kind() == ErrorKind::QuotaExceeded), "{error}");
    is_a_sentence(&error, &["adopt"]);
    assert_eq!(second.rest(), b"", "what is refused is closed");
    drop(client);
    eventually("the place is free", || server.event_loop.stats().connections == 0);
    server.connect().echo(b"and an accepted one has it");
    assert_eq!(server.event_loop.stats().refused, 1);
}

#[test]
fn what_can_not_be_adopted_is_refused_by_name_and_leaves_no_descriptor() {
    crate::util::alone(
        "adopting::what_can_not_be_adopted_is_refused_by_name_and_leaves_no_descriptor",
        || {
            let event_loop = echo().build().expect("good options");
            let refused = event_loop.adopt(pair().1).expect_err("it does not serve yet");
            assert!(refused.to_string().starts_with("adopt was called"), "{refused}");
            let server = Server::serve(event_loop);
            server.connect().echo(b"it serves");
            let client =
                netpoll::Client::builder().on_request(|(): &mut (), _: &mut Connection| Ok(()));
            let client = client.build().expect("good options");
            let dialer = Dialer::builder().build().expect("good options");
            drop(dialer.adopt(pair().1).expect("a stream")); // starts the shared manager
            eventually("both are closed", || server.event_loop.stats().connections == 0);
            let before = fd_count();
            let wrong: [fn() -> OwnedFd; 5] = [
                || UdpSocket::bind("127.0.0.1:0").expect("a port").into(),
                || UnixDatagram::pair().expect("two descriptors").0.into(),
                || TcpListener::bind("127.0.0.1:0").expect("a port").into(),
                || std::fs::File::open("/dev/null").expect("it is there").into(),
                || not_connected().into(),
            ];
            for make in wrong {
                for refused in [
                    server.event_loop.adopt(make()).map(drop),
                    client.adopt(make()).map(drop),
                    dialer.adopt(make()).map(drop),
                ] {
                    let error = refused.expect_err("it is no connected stream");
                    assert!(matches!(error, Error::Config(_)), "{error}");
                    is_a_sentence(&error, &["adopt"]);
                }
            }
            eventually("no descriptor is left", || fd_count() <= before);
            server.event_loop.shutdown(PATIENCE);
            let refused = server.event_loop.adopt(pair().1).expect_err("it shuts down");
            assert!(matches!(refused, Error::Closed), "{refused}");
        },
    );
}

fn not_connected() -> socket2::Socket {
    socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket")
}

#[test]
fn a_client_and_a_dialer_adopt_as_if_they_had_dialled() {
    for dispatch in modes() {
        let (told, lines) = mpsc::channel();
        let client = netpoll::Client::builder()
            .session::<&'static str>()
            .on_request(move |name: &mut &'static str, conn: &mut Connection| -> Result<()> {
                let line = String::from_utf8_lossy(conn.reader().until(b'\n')?).into_owned();
                let _ = told.send(format!("{name} {line}"));
                Ok(())
            })
            .dispatch(dispatch)
            .build()
            .expect("good options");
        let (mut peer, ours) = pair();
        let handle = client.adopt_with(ours, "adopted").expect("it is driven");
        assert!(handle.listener().is_none());
        peer.say(b"hello\n");
        assert_eq!(lines.recv_timeout(PATIENCE).expect("a line"), "adopted hello\n");
        handle.send("and back").expect("it is sent");
        peer.hear(b"and back");
        assert_eq!((client.live(), client.shutdown(PATIENCE)), (1, 0));
        assert_eq!(peer.rest(), b"");
    }
    let (mut peer, ours) = pair();
    let dialer = Dialer::builder().build().expect("good options");
    let mut conn = dialer.adopt(ours).expect("a stream");
    peer.say(b"line\n");
    assert_eq!(conn.reader().until(b'\n').expect("a line"), b"line\n");
    writeln!(conn, "and back").expect("it is sent");
    conn.flush().expect("it is sent");
    let mut line = String::new();
    std::io::BufReader::new(&peer).read_line(&mut line).expect("a line");
    assert_eq!(line, "and back\n");
    drop(conn);
    assert_eq!(peer.rest(), b"");
}

/// What a program did that looked at the first bytes, and had an answer under way.
#[test]
fn what_was_read_and_not_sent_before_comes_first_on_both_sides() {
    for dispatch in modes() {
        let line = |(): &mut (), conn: &mut Connection| -> Result<()> {
            let line = conn.reader().until(b'\n')?.to_vec();
            conn.writer().write_bytes(&line);
            Ok(())
        };
        let server = Server::start(EventLoop::builder().on_request(line).dispatch(dispatch));
        server.connect().echo(b"it serves\n");
        let client = Dialling::builder().on_request(line).dispatch(dispatch).build();
        let client = client.expect("good options");
        let adopts: [&dyn Fn(Detached) -> Result<netpoll::Handle>; 2] =
            [&|it| server.event_loop.adopt(it), &|it| client.adopt(it)];
        for adopt in adopts {
            let (mut peer, ours) = pair();
            let mut detached = Detached::from(ours).with_input(b"first\nsec".to_vec());
            detached.output = b"under way; ".to_vec().into();
            adopt(detached).expect("it is served");
            // Also without a byte in the socket.
            peer.hear(b"under way; first\n");
            peer.say(b"ond\n");
            peer.hear(b"second\n");
        }
    }
    let (mut peer, ours) = pair();
    let dialer = Dialer::builder().build().expect("good options");
    let conn = dialer.adopt(Detached::from(ours).with_input(b"li".to_vec()));
    let mut conn = conn.expect("a stream");
    assert_eq!(conn.bytes_received(), 2);
    peer.say(b"ne\n");
    assert_eq!(conn.reader().until(b'\n').expect("a line"), b"line\n");
}

/// From one event loop to another and back: no byte is lost, in whatever state the socket is.
#[test]
fn a_connection_that_is_detached_is_adopted_as_it_is() {
    const MORE_THAN_A_BURST: usize = 3 << 20;
    for dispatch in modes() {
        let (sender, detached) = mpsc::channel();
        let first = EventLoop::builder()
            .on_request(move |(): &mut (), conn: &mut Connection| {
                conn.reader().skip(1)?;
                conn.writer().append(LinkBuffer::from(vec![b'x'; MORE_THAN_A_BURST]));
                sender.send(conn.detach()?).expect("the test waits for it");
                Ok(())
            })
            .dispatch(dispatch);
        let first = Server::start(first);
        let second = Server::start(echo().dispatch(dispatch));
        second.connect().echo(b"it serves");
        let mut client = first.connect();
        client.say(b"!unread");
        let it = detached.recv_timeout(PATIENCE).expect("it is detached");
        assert_eq!((it.input.len(), it.output.len()), (6, MORE_THAN_A_BURST));
        second.event_loop.adopt(it).expect("it is served");
        client.hear(&[&vec![b'x'; MORE_THAN_A_BURST][..], b"unread"].concat());
        client.echo(b"and so on");
        assert_eq!(second.stop().aborted, 0);
    }
}

/// Nothing of what it has can be sent; its end is told as every other.
#[test]
fn an_adopted_stream_whose_peer_has_gone_is_closed() {
    for dispatch in [modes()[0], Dispatch::default()] {
        let journal = Journal::default();
        let builder = echo().on_disconnect(journal.on_disconnect()).dispatch(dispatch);
        let server = Server::start(builder);
        server.connect().echo(b"it serves");
        journal.wait(1);
        let (peer, ours) = pair();
        peer.reset();
        let mut detached = Detached::from(ours).with_input(b"a request".to_vec());
        detached.output = vec![0; 1 << 20].into();
        if server.event_loop.adopt(detached).is_ok() {
            assert_ne!(journal.wait(2)[1], "Peer");
        }
        assert_eq!(server.event_loop.stats().connections, 0);
    }
}
