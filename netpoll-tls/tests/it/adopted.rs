//! TLS on streams that were connected elsewhere, and a configuration that `on_prepare` chooses.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use netpoll_core::{
    CloseReason, Connection, Detached, Dispatch, Error, HandOffOptions, PoolOptions,
};
use netpoll_server::{EventLoop, Listener, Running};
use netpoll_tls::rustls::pki_types::CertificateDer;
use netpoll_tls::rustls::pki_types::pem::PemObject;
use netpoll_tls::rustls::server::{ClientHello, ResolvesServerCert};
use netpoll_tls::rustls::sign::CertifiedKey;
use netpoll_tls::rustls::{ClientConnection, ServerConfig, StreamOwned, version};
use netpoll_tls::{TlsConfig, TlsConnection};

use crate::handshake::{their_client, their_server};
use crate::identities::{OURS, server, server_as};
use crate::served::PATIENCE;

type Client = StreamOwned<ClientConnection, TcpStream>;

fn modes() -> [Dispatch; 3] {
    let (pool, hand_off) = (PoolOptions::default(), HandOffOptions::default());
    [Dispatch::Inline, Dispatch::Pool(pool), Dispatch::HandOff(hand_off)]
}

fn echo(dispatch: Dispatch) -> Running {
    let listener = Listener::bind("tcp", "127.0.0.1:0").unwrap();
    let builder = EventLoop::builder().on_request(|(): &mut (), conn: &mut Connection| {
        let (mut reader, mut writer) = conn.split();
        writer.append(reader.slice(reader.len())?);
        writer.flush()
    });
    let event_loop = builder.dispatch(dispatch).build().unwrap();
    event_loop.spawn(listener).unwrap()
}

/// Two ends of a connection that no event loop knows.
fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    (client, listener.accept().unwrap().0)
}

fn over(socket: TcpStream) -> Client {
    let name = "localhost".try_into().unwrap();
    let tls = ClientConnection::new(their_client(&version::TLS13).into(), name).unwrap();
    StreamOwned::new(tls, socket)
}

fn says_and_hears(client: &mut Client, bytes: &[u8]) {
    client.write_all(bytes).unwrap();
    let mut heard = vec![0; bytes.len()];
    client.read_exact(&mut heard).unwrap();
    assert_eq!(heard, bytes);
}

/// A program that reads the begin to find out the protocol, or answers STARTTLS.
#[test]
fn an_adopted_stream_shakes_hands_with_what_was_read_and_behind_what_was_not_sent() {
    let config = server().build().unwrap();
    for (dispatch, read) in modes().into_iter().flat_map(|it| [0, 1, 5, 100, 4096].map(|n| (it, n)))
    {
        let running = echo(dispatch);
        let (mut socket, mut ours) = pair();
        let reading = std::thread::spawn(move || {
            let mut begin = vec![0; read];
            let length = if read == 4096 { ours.read(&mut begin) } else { Ok(read) };
            begin.truncate(length.unwrap());
            if read < 4096 {
                ours.read_exact(&mut begin).unwrap();
            }
            (ours, begin)
        });
        let mut tls = over(socket.try_clone().unwrap());
        let mut hello = Vec::new();
        tls.conn.write_tls(&mut hello).unwrap();
        socket.write_all(&hello).unwrap();
        let (ours, begin) = reading.join().unwrap();
        let mut detached = Detached::from(ours).with_input(begin);
        detached.output = b"220 go ahead\r\n".to_vec().into();
        running.event_loop().adopt_with(detached, Arc::new(config.clone())).unwrap();
        let mut greeting = [0; 14];
        socket.read_exact(&mut greeting).unwrap();
        assert_eq!(&greeting, b"220 go ahead\r\n");
        says_and_hears(&mut tls, b"a question");
        says_and_hears(&mut tls, &vec![7; 100_000]);
    }
}

#[test]
fn the_first_byte_that_was_read_decides_where_both_are_served() {
    let config = server().also_plain(true).build().unwrap();
    for dispatch in modes() {
        let running = echo(dispatch);
        let adopt = |detached: Detached| {
            running.event_loop().adopt_with(detached, Arc::new(config.clone())).unwrap()
        };
        let (mut client, ours) = pair();
        adopt(Detached::from(ours).with_input(b"plain, ".to_vec()));
        client.write_all(b"and more").unwrap();
        let mut heard = [0; 15];
        client.read_exact(&mut heard).unwrap();
        assert_eq!(&heard, b"plain, and more");

        let (mut socket, ours) = pair();
        let mut client = over(socket.try_clone().unwrap());
        let mut hello = Vec::new();
        client.conn.write_tls(&mut hello).unwrap();
        adopt(Detached::from(ours).with_input(hello[..1].to_vec()));
        socket.write_all(&hello[1..]).unwrap();
        says_and_hears(&mut client, b"by TLS");
    }
}

#[test]
fn more_than_a_message_can_not_have_been_read_before() {
    let (running, config) = (echo(Dispatch::Inline), server().build().unwrap());
    let (_client, ours) = pair();
    let read = Detached::from(ours).with_input(vec![0x16; (64 << 10) + 1]);
    let error = running.event_loop().adopt_with(read, Arc::new(config)).unwrap_err();
    assert!(matches!(error, Error::Config(_)), "{error}");
    assert!(error.to_string().contains("65537"), "{error}");
}

/// What was read is no TLS: the client is told so, as any other.
#[test]
fn what_was_read_and_is_no_handshake_is_refused() {
    for dispatch in modes() {
        let (running, config) = (echo(dispatch), server().build().unwrap());
        let (mut client, ours) = pair();
        let read = Detached::from(ours).with_input(b"GET / HTTP/1.1\r\n\r\n".to_vec());
        running.event_loop().adopt_with(read, Arc::new(config)).unwrap();
        let mut heard = Vec::new();
        client.read_to_end(&mut heard).unwrap();
        assert_eq!((heard.len(), heard[0]), (7, 21), "an alert");
    }
}

#[test]
fn on_prepare_chooses_a_configuration_by_the_address() {
    let [usual, other] = [OURS.sign(&["localhost"]), OURS.sign(&["localhost"])];
    let (listed, chosen) = (server_as(&usual).build().unwrap(), server_as(&other).build().unwrap());
    let from: IpAddr = "127.0.0.9".parse().unwrap();
    for dispatch in modes() {
        let listener = Listener::bind("tcp", "127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().inet().unwrap();
        let (told, late) = mpsc::channel();
        let chosen = chosen.clone();
        let event_loop = EventLoop::builder()
            .on_prepare(move |conn: &Connection| {
                if conn.peer_addr().ip() == Some(from) {
                    conn.choose_tls(chosen.clone())?;
                }
                Ok(())
            })
            .on_connect(move |(): &mut (), conn: &mut Connection| {
                let config = server().build().unwrap();
                told.send(conn.choose_tls(config).unwrap_err().to_string()).unwrap();
                Ok(())
            })
            .on_request(|(): &mut (), _: &mut Connection| Ok(()))
            .dispatch(dispatch)
            .build()
            .unwrap();
        let _running = event_loop.spawn(listener.filter(Arc::new(listed.clone()))).unwrap();
        for (ip, identity) in [("127.0.0.1", &usual), ("127.0.0.9", &other)] {
            let mut client = over(connect_from(ip, address));
            client.flush().unwrap();
            while client.conn.is_handshaking() {
                client.conn.complete_io(&mut client.sock).unwrap();
            }
            let certificate = CertificateDer::from_pem_slice(identity.chain.as_bytes()).unwrap();
            assert_eq!(client.conn.peer_certificates().unwrap()[0], certificate, "{dispatch:?}");
            let error = late.recv_timeout(PATIENCE).unwrap();
            assert!(error.contains("call it in on_prepare"), "{error}");
        }
    }
}

fn connect_from(ip: &str, to: SocketAddr) -> TcpStream {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::new(ip.parse().unwrap(), 0).into()).unwrap();
    socket.connect(&to.into()).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.into()
}

#[test]
fn a_configuration_is_chosen_only_where_there_is_one_to_replace() {
    let (told, errors) = mpsc::channel();
    let config: TlsConfig = server().build().unwrap();
    let event_loop = EventLoop::builder()
        .on_prepare(move |conn: &Connection| {
            told.send(conn.choose_tls(config.clone()).unwrap_err().to_string()).unwrap();
            Ok(())
        })
        .on_request(|(): &mut (), _: &mut Connection| Ok(()))
        .build()
        .unwrap();
    let listener = Listener::bind("tcp", "127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().inet().unwrap();
    let _running = event_loop.spawn(listener).unwrap();
    let _client = TcpStream::connect(address).unwrap();
    let error = errors.recv_timeout(PATIENCE).unwrap();
    assert!(error.contains("has no filter to replace"), "{error}");
}

/// A resolver of certificates that panics.
#[derive(Debug)]
struct Panics;

impl ResolvesServerCert for Panics {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        panic!("on purpose");
    }
}

/// What fails in `on_prepare`, behind `choose_tls`.
#[derive(Debug, Clone, Copy)]
enum Failure {
    OfCallback,
    PanicOfCallback,
    PanicOfConfiguration,
}

/// It ends its connection, and takes no place of the one handshake that may be under way.
#[test]
fn a_failure_behind_the_choice_of_a_configuration_ends_one_connection_alone() {
    use Failure::{OfCallback, PanicOfCallback, PanicOfConfiguration};
    let mut theirs: ServerConfig = their_server(&version::TLS13);
    theirs.cert_resolver = Arc::new(Panics);
    let panics = TlsConfig::from_rustls(theirs.into()).unwrap();
    let chosen = server().max_handshakes(1).build().unwrap();
    let from: IpAddr = "127.0.0.9".parse().unwrap();
    for failure in [OfCallback, PanicOfCallback, PanicOfConfiguration] {
        for dispatch in modes() {
            let (panics, chosen) = (panics.clone(), chosen.clone());
            let (told, ended) = mpsc::channel();
            let event_loop = EventLoop::builder()
                .on_prepare(move |conn: &Connection| {
                    let fails = conn.peer_addr().ip() == Some(from);
                    match failure {
                        PanicOfConfiguration if fails => return conn.choose_tls(panics.clone()),
                        _ => conn.choose_tls(chosen.clone())?,
                    }
                    match failure {
                        PanicOfCallback if fails => panic!("on purpose"),
                        OfCallback if fails => Err(Error::config("on purpose")),
                        _ => Ok(()),
                    }
                })
                .on_request(|(): &mut (), conn: &mut Connection| {
                    let (mut reader, mut writer) = conn.split();
                    writer.append(reader.slice(reader.len())?);
                    writer.flush()
                })
                .on_disconnect(move |(), why: &CloseReason| {
                    let _ = told.send(why.to_string());
                })
                .loops(1)
                .dispatch(dispatch)
                .build()
                .unwrap();
            let listener = Listener::bind("tcp", "127.0.0.1:0").unwrap();
            let address = listener.local_addr().unwrap().inet().unwrap();
            let listed = Arc::new(server().build().unwrap());
            let _running = event_loop.spawn(listener.filter(listed)).unwrap();
            for _ in 0..3 {
                let mut client = over(connect_from("127.0.0.9", address));
                let error = client.write_all(b"x").and_then(|()| client.read_exact(&mut [0]));
                error.unwrap_err();
                if matches!(failure, PanicOfConfiguration) {
                    let why = ended.recv_timeout(PATIENCE).unwrap();
                    assert!(why.contains("panicked"), "{failure:?}, {dispatch:?}: {why}");
                }
            }
            says_and_hears(&mut over(connect_from("127.0.0.1", address)), b"served");
        }
    }
}

/// Bytes that were read before and are no handshake, or the begin of one that never comes.
#[test]
fn whatever_was_read_before_ends_at_once_or_at_the_timeout() {
    let config = server().handshake_timeout(Duration::from_millis(100)).build().unwrap();
    let begins: [&[u8]; 8] = [
        &[0],
        &[0x16],
        &[0x16, 3, 1],
        &[0x16, 3, 1, 0, 0],
        &[0x16, 3, 1, 0xff, 0xff],
        &[0x16, 3, 1, 0x40, 0, 1, 0, 0xff, 0xff],
        &[0x15, 3, 3, 0, 2, 1, 0],
        &vec![0x17; 64 << 10],
    ];
    for dispatch in modes() {
        for begin in begins {
            let running = echo(dispatch);
            let (mut client, ours) = pair();
            let read = Detached::from(ours).with_input(begin.to_vec());
            running.event_loop().adopt_with(read, Arc::new(config.clone())).unwrap();
            let mut heard = Vec::new();
            // What was read before is no more than 64 KiB, and the client sends nothing.
            client.read_to_end(&mut heard).unwrap();
            let is_alert = heard.is_empty() || (heard[0], heard.len()) == (0x15, 7);
            assert!(is_alert, "{begin:x?}: {heard:x?}");
        }
    }
}

#[test]
fn detach_is_refused_by_name_and_the_connection_goes_on() {
    for dispatch in modes() {
        let (told, errors) = mpsc::channel();
        let event_loop = EventLoop::builder()
            .on_request(move |(): &mut (), conn: &mut Connection| {
                let _ = told.send(conn.detach().unwrap_err().to_string());
                let (mut reader, mut writer) = conn.split();
                writer.append(reader.slice(reader.len())?);
                writer.flush()
            })
            .dispatch(dispatch)
            .build()
            .unwrap();
        let listener = Listener::bind("tcp", "127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().inet().unwrap();
        let config = Arc::new(server().build().unwrap());
        let _running = event_loop.spawn(listener.filter(config)).unwrap();
        says_and_hears(&mut over(connect_from("127.0.0.1", address)), b"served");
        let error = errors.recv_timeout(PATIENCE).unwrap();
        assert!(error.contains("cannot detach") && error.contains("TLS"), "{error}");
    }
}
