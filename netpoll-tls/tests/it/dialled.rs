//! TLS on dialled connections, over sockets: the blocking dial, the dial by callback, the pool and
//! the multiplexer.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use netpoll_buffer::LinkBuffer;
use netpoll_client::{DialConnection, Dialer, Mux, MuxProtocol, Pool};
use netpoll_core::{Connection, Dispatch, Error, Result};
use netpoll_server::{EventLoop, Listener};
use netpoll_tls::{TlsClient, TlsConnection};

use crate::identities::{OURS, client, server};
use crate::served::{Echo, PATIENCE, modes};

fn dialer(client: TlsClient) -> Dialer {
    Dialer::builder().filter(Arc::new(client)).build().unwrap()
}

fn start(dispatch: Dispatch) -> (Echo, String) {
    let echo = Echo::start(&server().build().unwrap(), dispatch);
    let address = format!("localhost:{}", echo.address.port());
    (echo, address)
}

/// A message there and back.
fn echoes(conn: &mut Connection, bytes: &[u8]) {
    let mut writer = conn.writer();
    writer.write_bytes(bytes);
    writer.flush().unwrap();
    assert!(conn.reader().next(bytes.len()).unwrap() == bytes);
}

#[test]
fn a_dial_ends_with_the_handshake_and_the_next_one_resumes() {
    for dispatch in modes() {
        let (_echo, address) = start(dispatch);
        let dialer = dialer(client().build().unwrap());
        for resumed in [false, true] {
            let mut conn = dialer.dial("tcp", &address).unwrap();
            let tls = conn.tls().unwrap();
            assert_eq!((tls.resumed, tls.peer_certificates.len()), (resumed, 1));
            echoes(&mut conn, b"hello");
            echoes(&mut conn, &vec![5; 300_000]);
        }
    }
}

#[test]
fn a_dial_says_what_is_wrong_with_the_server() {
    let (_echo, address) = start(Dispatch::Inline);
    let by_name = |client: TlsClient, name: &str| {
        let client = client.with_server_name(name).unwrap();
        let error = dialer(client).dial("tcp", &address).unwrap_err();
        assert!(matches!(error, Error::Address { .. }), "{error:?}");
        format!("{error:?}")
    };
    let told = by_name(client().build().unwrap(), "other.example");
    let sentence =
        "the server's certificate is for localhost, 127.0.0.1, and not for other.example";
    assert!(told.starts_with("cannot dial tcp localhost:"), "{told}");
    assert!(told.contains(sentence), "{told}");
    let told = by_name(TlsClient::new().unwrap(), "localhost");
    assert!(told.contains("an issuer that is not trusted here; add its root"), "{told}");
    assert!(told.contains("UnknownIssuer"), "with rustls's own: {told}");
}

#[test]
fn the_deadline_of_a_dial_holds_for_the_handshake() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("localhost:{}", silent.local_addr().unwrap().port());
    let dialer = dialer(client().build().unwrap());
    let error = dialer.dial_connection("tcp", &address, Duration::from_millis(100)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut, "{error}");
}

fn read_record(peer: &mut TcpStream) {
    let mut head = [0; 5];
    peer.read_exact(&mut head).unwrap();
    let mut body = vec![0; usize::from(u16::from_be_bytes([head[3], head[4]]))];
    peer.read_exact(&mut body).unwrap();
}

#[test]
fn a_server_that_leaves_in_the_handshake_fails_the_dial() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("localhost:{}", listener.local_addr().unwrap().port());
    let leaving = std::thread::spawn(move || {
        for said in [&b"HTTP/1.1 400 Bad Request\r\n\r\n"[..], b""] {
            let (mut peer, _) = listener.accept().unwrap();
            // What is closed on unread bytes is reset, and that may overtake what was said.
            read_record(&mut peer);
            peer.write_all(said).unwrap();
        }
    });
    let dialer = dialer(client().build().unwrap());
    let error = dialer.dial("tcp", &address).unwrap_err();
    assert!(error.to_string().ends_with("the server sent bytes that are not TLS"), "{error}");
    let error = dialer.dial("tcp", &address).unwrap_err();
    assert!(error.to_string().ends_with("the peer ended its stream in the handshake"), "{error}");
    leaving.join().unwrap();
}

#[test]
fn a_dial_by_callback_ends_with_the_handshake() {
    for dispatch in modes() {
        let (_echo, address) = start(dispatch);
        let dialer = dialer(client().build().unwrap());
        let (told, tells) = mpsc::channel();
        let listener = Listener::bind("tcp", "127.0.0.1:0").unwrap();
        let front = listener.local_addr().unwrap().to_string();
        let _running = EventLoop::builder()
            .on_connect(move |(): &mut (), conn: &mut Connection| {
                let told = told.clone();
                dialer.dial_then(&conn.handle(), "tcp", &address, move |_, dialled| {
                    told.send(dialled?.tls()).map_err(Error::other)
                })?;
                Ok(())
            })
            .on_request(|(): &mut (), _: &mut Connection| Ok(()))
            .dispatch(dispatch)
            .build()
            .unwrap()
            .spawn(listener)
            .unwrap();
        let _asker = TcpStream::connect(front).unwrap();
        assert!(tells.recv_timeout(PATIENCE).unwrap().is_some());
    }
}

#[test]
fn a_pool_keeps_connections_with_tls() {
    let (_echo, address) = start(Dispatch::Inline);
    let pool = Pool::builder().build(dialer(client().build().unwrap())).unwrap();
    for _ in 0..10 {
        let mut conn = pool.checkout("tcp", &address, PATIENCE).unwrap();
        echoes(&mut conn, b"hello");
    }
    assert_eq!((pool.stats().dialled, pool.stats().reused), (1, 9));
}

/// A byte of id, a byte of length, the body.
struct Frames;

impl MuxProtocol for Frames {
    type Request = Vec<u8>;
    type Response = Vec<u8>;

    fn encode(&self, id: u32, body: Vec<u8>, out: &mut LinkBuffer) -> Result<()> {
        out.write_bytes(&id.to_be_bytes());
        out.write_byte(u8::try_from(body.len()).map_err(io::Error::other)?);
        out.write_bytes(&body);
        Ok(())
    }

    fn decode(&self, input: &mut LinkBuffer) -> Result<Option<(u32, Vec<u8>)>> {
        let Ok(&[a, b, c, d, length]) = input.peek(5) else { return Ok(None) };
        if input.len() < 5 + usize::from(length) {
            return Ok(None);
        }
        input.consume(5);
        let body = input.next(length.into())?.to_vec();
        Ok(Some((u32::from_be_bytes([a, b, c, d]), body)))
    }
}

#[test]
fn a_multiplexer_calls_over_tls() {
    let (_echo, address) = start(Dispatch::Inline);
    let dialer = dialer(client().build().unwrap());
    let mux = Mux::<Frames>::builder().dialer(dialer).build("tcp", &address, Frames).unwrap();
    let mux = Arc::new(mux);
    let callers: Vec<_> = (0..4_u8)
        .map(|caller| {
            let mux = mux.clone();
            std::thread::spawn(move || {
                for i in 0..50 {
                    let call = vec![caller, i];
                    assert_eq!(mux.call(call.clone(), PATIENCE).unwrap(), call);
                }
            })
        })
        .collect();
    for caller in callers {
        caller.join().unwrap();
    }
}

#[test]
fn a_client_certificate_is_seen_by_the_callbacks() {
    let mine = OURS.sign(&["mine"]);
    let config = server().client_certificates(OURS.root.as_bytes()).build().unwrap();
    let echo = Echo::start(&config, Dispatch::Inline);
    let address = format!("localhost:{}", echo.address.port());
    let with = client().certificate(mine.chain.as_bytes(), mine.key.as_bytes()).build().unwrap();
    let mut conn = dialer(with).dial("tcp", &address).unwrap();
    echoes(&mut conn, b"hello");
    assert_eq!(echo.connected().0.unwrap().peer_certificates.len(), 1);
    // In TLS 1.3 the server refuses after the client's handshake, so the first read tells.
    let mut conn = dialer(client().build().unwrap()).dial("tcp", &address).unwrap();
    let error = conn.reader().next(1).unwrap_err();
    assert_eq!(error.to_string(), "the server requires a certificate, and we presented none");
}
