//! Filters of dialled connections: dials, pools, multiplexers and relays over them.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpListener;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use netpoll::{
    Cancel, Client, Connection, DialConnection, Dialer, Dispatch, Error, EventLoop, Pool, relay,
};

use netpoll::proxy::{Header, Version};

use super::{next, serve};
use crate::toy::{HELLO, Toy, ToyClient, Toys};
use crate::util::Client as _;
use crate::util::{Journal, PATIENCE, Serving, echo, modes, noise, quiet};

fn dialer() -> Dialer {
    Dialer::builder().filter(Arc::new(Toys::default())).timeout(PATIENCE).build().expect("options")
}

fn echoing() -> (Serving, String) {
    let (serving, address) = serve(echo(), Toys::default());
    (serving, address.to_string())
}

/// A listener that is not ours, and what its next client is told.
fn host(answer: impl FnOnce(std::net::TcpStream) + Send + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    std::thread::spawn(move || {
        let (client, _) = listener.accept().expect("a client");
        client.set_nodelay(true).expect("an option");
        answer(client);
    });
    address
}

#[test]
fn a_dial_ends_with_the_handshake_and_the_caller_drives_the_connection() {
    let (_serving, address) = echoing();
    let mut conn = dialer().dial("tcp", &address).expect("dialled");
    assert!(conn.filter().expect("a filter").as_any().is::<Toy>());
    for len in [1, 4000, 1 << 20] {
        let (mut reader, mut writer) = conn.split();
        writer.write_bytes(noise(len, len));
        writer.flush().expect("sent");
        assert!(reader.next(len).expect("an echo") == noise(len, len));
    }
    conn.shutdown_write();
    assert!(matches!(conn.reader().read_byte(), Err(Error::EndOfStream)));
}

#[test]
fn a_peer_that_refuses_the_handshake_fails_the_dial_with_its_reason() {
    let address = host(|mut peer| {
        peer.write_all(&[0; 100]).expect("sent");
        let _ = peer.read_to_end(&mut Vec::new());
    });
    let error = dialer().dial("tcp", &address).expect_err("it is no handshake");
    assert_eq!(error.kind(), ErrorKind::InvalidData);
    let expected = format!("cannot dial tcp {address}: record 1 was changed on its way");
    assert_eq!(error.to_string(), expected);
    let told = format!("{error:?}");
    assert!(told.contains("invalid data"), "with the cause: {told}");

    let address = host(drop);
    let error = dialer().dial("tcp", &address).expect_err("it ends at once");
    assert!(
        error.to_string().contains("ended its stream in the handshake")
            || error.kind() == ErrorKind::ConnectionReset,
        "{error}"
    );
}

#[test]
fn the_time_of_a_dial_includes_the_handshake() {
    let (done, wait) = mpsc::channel::<()>();
    let address = host(move |peer| drop((wait.recv(), peer)));
    let error = dialer().dial_connection("tcp", &address, Duration::from_millis(100));
    let error = error.expect_err("the peer says nothing");
    assert_eq!(error.kind(), ErrorKind::TimedOut);
    assert!(error.to_string().contains("timed out after 100ms"), "{error}");
    drop(done);
}

#[test]
fn a_cancellation_ends_a_handshake() {
    let (said, hello) = mpsc::channel();
    let address = host(move |mut peer| {
        peer.read_exact(&mut [0; 7]).expect("a hello");
        said.send(()).expect("the test waits");
        let _ = peer.read_to_end(&mut Vec::new());
    });
    let cancel = Cancel::new();
    let cancelling = cancel.clone();
    let (told, outcome) = mpsc::channel();
    std::thread::spawn(move || {
        let dialled = dialer().dial_with("tcp", &address, 4 * PATIENCE, &cancelling);
        told.send(dialled).expect("the test waits");
    });
    next(&hello);
    quiet(20);
    cancel.cancel();
    let error = next(&outcome).expect_err("it was cancelled");
    assert_eq!(error.kind(), ErrorKind::Interrupted, "{error}");
}

/// In all modes of the asker, and no thread waits: one loop does both.
#[test]
fn a_dial_by_callback_ends_with_the_handshake() {
    for dispatch in modes() {
        let (_serving, address) = echoing();
        let (dialer, journal) = (dialer(), Journal::default());
        let seen = journal.clone();
        let (_asking, asker) = serve(
            EventLoop::builder()
                .on_request(move |(): &mut (), conn: &mut Connection| {
                    let len = conn.reader().len();
                    let text = conn.reader().read_bytes(len)?;
                    let seen = seen.clone();
                    dialer.dial_then(&conn.handle(), "tcp", &address, move |asker, dialled| {
                        let mut other = dialled?;
                        assert!(other.filter().is_some());
                        other.writer().write_bytes(&text);
                        other.writer().flush()?;
                        seen.add("dialled");
                        relay(asker, other)
                    })?;
                    Ok(())
                })
                .dispatch(dispatch)
                .loops(1),
            Toys::default(),
        );
        let mut client = ToyClient::connect(asker);
        client.send(b"over both").expect("sent");
        assert_eq!(client.hear(9).expect("an echo"), b"over both", "{dispatch:?}");
        client.echo(noise(1, 500_000));
        client.finish().expect("an end");
        assert!(client.rest().expect("both ends end in order").is_empty());
        assert_eq!(journal.entries(), ["dialled"]);
    }
}

#[test]
fn a_dial_by_callback_reports_why_there_is_no_handshake() {
    for dispatch in modes() {
        let (hold, held) = mpsc::channel::<()>();
        let silent = host(move |peer| drop((held.recv(), peer)));
        let wrong = host(|mut peer| {
            let _ = peer.write_all(&[0; 100]);
            let _ = peer.read_to_end(&mut Vec::new());
        });
        let (dialer, (told, errors)) = (dialer(), mpsc::channel());
        let (_asking, asker) = serve(
            EventLoop::builder()
                .on_connect(move |(): &mut (), conn: &mut Connection| {
                    for address in [&silent, &wrong] {
                        let told = told.clone();
                        let time = Duration::from_millis(200);
                        let handle = conn.handle();
                        dialer.dial_then_within(&handle, "tcp", address, time, move |_, it| {
                            let _ = told.send(it.expect_err("it fails").kind());
                            Ok(())
                        })?;
                    }
                    Ok(())
                })
                .on_request(|(): &mut (), _: &mut Connection| Ok(()))
                .dispatch(dispatch)
                .loops(1),
            Toys::default(),
        );
        let _client = ToyClient::connect(asker);
        let mut kinds = [next(&errors), next(&errors)];
        kinds.sort();
        let mut expected = [ErrorKind::InvalidData, ErrorKind::TimedOut];
        expected.sort();
        assert_eq!(kinds, expected, "{dispatch:?}");
        drop(hold);
    }
}

/// A pooled connection is fit though the peer has said something that is no answer.
#[test]
fn a_pool_keeps_connections_with_filters() {
    let (_serving, address) = echoing();
    let pool = Pool::builder().build(dialer()).expect("options");
    for round in 0..5 {
        let mut conn = pool.checkout("tcp", &address, PATIENCE).expect("a connection");
        conn.writer().write_bytes(noise(round, 5000));
        conn.writer().flush().expect("sent");
        assert!(conn.reader().next(5000).expect("an echo") == noise(round, 5000));
    }
    assert_eq!(pool.stats().dialled, 1);
}

#[test]
fn a_late_answer_of_the_filter_makes_no_pooled_connection_unfit() {
    let ((said, asked), (heard, answered)) = (mpsc::channel(), mpsc::channel());
    let address = host(move |peer| {
        let mut server = ToyClient::over(peer, Toy::new(false));
        server.shake_hands().expect("a handshake");
        server.hear(5).expect("a request");
        server.send(b"an answer").expect("sent");
        answered.recv().expect("the test goes on");
        server.toy.will_say(crate::toy::ASK);
        server.say().expect("sent");
        said.send(()).expect("the test waits");
        let _ = server.hear(usize::MAX);
    });
    let mut conn = dialer().dial("tcp", &address).expect("dialled");
    conn.writer().write_bytes(b"hello");
    conn.writer().flush().expect("sent");
    assert_eq!(conn.reader().next(9).expect("an answer"), b"an answer");
    heard.send(()).expect("the peer waits");
    next(&asked);
    quiet(20);
    assert_eq!(conn.exchange(), netpoll::Exchange::Complete);
}

#[test]
fn callbacks_of_a_client_drive_connections_with_filters() {
    for dispatch in modes() {
        let (_serving, address) = echoing();
        let (told, heard) = mpsc::channel();
        let client = Client::builder()
            .on_connect(|(): &mut (), conn: &mut Connection| {
                conn.writer().write_bytes(noise(6, 100_000));
                conn.writer().flush()
            })
            .on_request(move |(): &mut (), conn: &mut Connection| {
                let all = conn.reader().read_bytes(100_000)?;
                let _ = told.send(all);
                Ok(())
            })
            .dialer(dialer())
            .dispatch(dispatch)
            .build()
            .expect("options");
        let handle = client.dial("tcp", &address, PATIENCE).expect("dialled");
        assert!(next(&heard) == noise(6, 100_000));
        handle.close();
    }
}

/// One end with a filter, and one without: what passes between them is plain.
#[test]
fn a_relay_joins_ends_with_and_without_filters() {
    for dispatch in modes() {
        let (_origin, origin) = serve(echo().dispatch(dispatch), Toys::default());
        let (dialer, origin) = (dialer(), origin.to_string());
        let proxy = crate::util::Server::start(
            EventLoop::builder()
                .on_connect(move |(): &mut (), conn: &mut Connection| {
                    conn.pause_reading();
                    dialer.dial_then(&conn.handle(), "tcp", &origin, |conn, dialled| {
                        relay(conn, dialled?)
                    })?;
                    Ok(())
                })
                .on_request(|(): &mut (), _: &mut Connection| Ok(()))
                .dispatch(dispatch),
        );
        let mut client = proxy.connect();
        client.echo(noise(8, 3 << 20));
        client.half_close();
        assert!(client.rest().is_empty(), "{dispatch:?}");
    }
}

/// A truncated end is not passed on as one in order.
#[test]
fn a_relay_resets_the_other_end_of_a_truncated_stream() {
    let (told, ends) = mpsc::channel();
    let address = host(move |peer| {
        let mut server = ToyClient::over(peer, Toy::new(false));
        server.shake_hands().expect("a handshake");
        server.send(b"a part").expect("sent");
        server.socket.shutdown(std::net::Shutdown::Write).expect("a FIN");
        let _ = server.hear(usize::MAX);
    });
    let dialer = dialer();
    let proxy = crate::util::Server::start(
        EventLoop::builder()
            .on_connect(move |(): &mut (), conn: &mut Connection| {
                let told = told.clone();
                dialer.dial_then(&conn.handle(), "tcp", &address, move |conn, dialled| {
                    let told = move |it: netpoll::Relayed| drop(told.send(it.reason.to_string()));
                    netpoll::Relay::new().on_end(told).join(conn, dialled?)
                })?;
                Ok(())
            })
            .on_request(|(): &mut (), _: &mut Connection| Ok(())),
    );
    let mut client = proxy.connect();
    let error = client.read_to_end(&mut Vec::new()).expect_err("it is not all");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    assert_eq!(next(&ends), "the peer ended its stream without saying that it is complete");
}

/// The threads of the two halves use the two halves of the filter.
#[test]
fn the_halves_of_a_split_connection_work_at_the_same_time() {
    const MUCH: usize = 8 << 20;
    let (_serving, address) = echoing();
    let conn = dialer().dial("tcp", &address).expect("dialled");
    let (mut read, mut write) = conn.into_split();
    let writing = std::thread::spawn(move || {
        write.write_all(noise(7, MUCH)).expect("sent");
        write.shutdown().expect("sent");
    });
    let mut heard = Vec::new();
    read.read_to_end(&mut heard).expect("an end in order");
    writing.join().expect("no panic");
    assert!(heard == noise(7, MUCH));
}

#[test]
fn a_truncated_stream_is_an_error_of_the_read_and_not_its_end() {
    let address = host(|peer| {
        let mut server = ToyClient::over(peer, Toy::new(false));
        server.shake_hands().expect("a handshake");
        server.send(b"a part").expect("sent");
    });
    let mut conn = dialer().dial("tcp", &address).expect("dialled");
    let mut heard = Vec::new();
    let error = conn.read_to_end(&mut heard).expect_err("it is not all");
    assert_eq!((error.kind(), &heard[..]), (ErrorKind::UnexpectedEof, &b"a part"[..]));
    assert!(matches!(Error::from(error), Error::Truncated));
}

/// It was dropped, or its dialler gave up: no socket is left.
#[test]
fn a_handshake_that_no_one_waits_for_leaves_no_connection() {
    crate::util::alone(
        "filters::dialled::a_handshake_that_no_one_waits_for_leaves_no_connection",
        || {
            let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
            let silent = listener.local_addr().expect("an address").to_string();
            let (dialer, (told, timers)) = (dialer(), mpsc::channel());
            let (_asking, asker) = serve(
                EventLoop::builder()
                    .on_connect(move |(): &mut (), conn: &mut Connection| {
                        let timer =
                            dialer.dial_then(&conn.handle(), "tcp", &silent, |_, _| Ok(()))?;
                        let _ = told.send(timer);
                        Ok(())
                    })
                    .on_request(|(): &mut (), _: &mut Connection| Ok(()))
                    .dispatch(Dispatch::Inline)
                    .loops(1),
                Toys::default(),
            );
            let mut client = ToyClient::connect(asker);
            let timer = next(&timers);
            let (mut peer, _) = listener.accept().expect("a dial");
            let mut hello = [0; 7];
            peer.read_exact(&mut hello).expect("a hello");
            assert_eq!(hello[0], HELLO);
            timer.cancel();
            let end = peer.read(&mut [0]);
            assert!(end.is_err() || matches!(end, Ok(0)), "it goes on: {end:?}");
            client.finish().expect("an end");
            let mut client = ToyClient::connect(asker);
            let _timer = next(&timers);
            let (mut peer, _) = listener.accept().expect("a dial");
            peer.read_exact(&mut hello).expect("a hello");
            client.finish().expect("an end");
            let end = peer.read(&mut [0]);
            assert!(end.is_err() || matches!(end, Ok(0)), "it outlives its asker: {end:?}");
        },
    );
}

#[test]
fn a_proxy_header_of_the_dialer_comes_before_the_handshake() {
    let (told, heard) = mpsc::channel();
    let address = host(move |mut peer| {
        let header = b"PROXY TCP4 192.0.2.1 192.0.2.2 1000 443\r\n";
        let mut first = vec![0; header.len()];
        peer.read_exact(&mut first).expect("a header");
        told.send(first == header).expect("the test waits");
        let mut server = ToyClient::over(peer, Toy::new(false));
        server.shake_hands().expect("a handshake behind it");
        let heard = server.hear(5).expect("a request");
        server.send(&heard).expect("sent");
        let _ = server.hear(usize::MAX);
    });
    let [client, front]: [std::net::SocketAddr; 2] =
        ["192.0.2.1:1000", "192.0.2.2:443"].map(|it| it.parse().expect("an address"));
    let header = Header::between(client, front);
    let dialer = dialer().proxy_header(&header, Version::V1).expect("a header");
    let mut conn = dialer.dial("tcp", &address).expect("dialled");
    assert!(next(&heard), "the header comes first, in plain");
    conn.writer().write_bytes(b"hello");
    conn.writer().flush().expect("sent");
    assert_eq!(conn.reader().next(5).expect("an answer"), b"hello");
}
