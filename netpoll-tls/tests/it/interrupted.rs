//! A handshake that stops: its client sends no more after a byte, takes no more, or sends a byte at
//! a time; and then the server stops, too.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};
use std::time::Duration;

use netpoll_core::{CloseReason, Connection, Dispatch, Wait};
use netpoll_server::{EventLoop, HandOverOptions, Listener, Running};
use netpoll_tls::TlsConfig;
use netpoll_tls::rustls::client::Resumption;
use netpoll_tls::rustls::version::{TLS12, TLS13};
use netpoll_tls::rustls::{ClientConfig, ClientConnection, StreamOwned};

use crate::handshake::{Version, their_client};
use crate::identities::{OURS, server, server_as};
use crate::served::{PATIENCE, eventually, modes};

/// A server that says which of its connections had `on_connect`, and how each ended.
struct Told {
    running: Running,
    address: SocketAddr,
    connected: Receiver<()>,
    ended: Receiver<String>,
}

fn start(config: &TlsConfig, dispatch: Dispatch) -> Told {
    start_on(Listener::bind("tcp", "127.0.0.1:0").unwrap(), config, dispatch)
}

fn start_on(listener: Listener, config: &TlsConfig, dispatch: Dispatch) -> Told {
    let ((connects, connected), (ends, ended)) = (mpsc::channel(), mpsc::channel());
    let running = EventLoop::builder()
        .on_connect(move |(): &mut (), _: &mut Connection| {
            connects.send(()).unwrap();
            Ok(())
        })
        .on_request(|(): &mut (), conn: &mut Connection| {
            let (mut reader, mut writer) = conn.split();
            writer.append(reader.slice(reader.len())?);
            writer.flush()
        })
        .on_disconnect(move |(), why: &CloseReason| {
            // The test may be over.
            let _ = ends.send(match why {
                CloseReason::Timeout(Wait::Handshake) => "handshake timeout".to_owned(),
                other => other.to_string(),
            });
        })
        // Longer than any wait of a test: what only that ends fails.
        .linger(2 * PATIENCE)
        .dispatch(dispatch)
        .build()
        .unwrap()
        .spawn(listener.filter(Arc::new(config.clone())))
        .unwrap();
    let address = running.address().inet().unwrap();
    Told { running, address, connected, ended }
}

fn connect(address: SocketAddr) -> TcpStream {
    let socket = TcpStream::connect(address).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

/// A client that sends as many bytes of its handshake and no more; `None` if it has no more.
fn stalled(address: SocketAddr, config: &Arc<ClientConfig>, at: usize) -> Option<TcpStream> {
    let mut socket = connect(address);
    let name = "localhost".try_into().unwrap();
    let mut tls = ClientConnection::new(config.clone(), name).unwrap();
    let mut left = at;
    loop {
        let mut out = Vec::new();
        while tls.wants_write() {
            tls.write_tls(&mut out).unwrap();
        }
        if left < out.len() {
            socket.write_all(&out[..left]).unwrap();
            return Some(socket);
        }
        socket.write_all(&out).unwrap();
        left -= out.len();
        if !tls.is_handshaking() {
            return None;
        }
        tls.read_tls(&mut socket).unwrap();
        tls.process_new_packets().unwrap();
    }
}

/// Clients of which each has stopped at another byte of its handshake.
fn at_each_byte(address: SocketAddr, version: Version) -> Vec<TcpStream> {
    let mut config = their_client(version);
    config.resumption = Resumption::disabled();
    let config = Arc::new(config);
    let clients: Vec<_> = (0..).map_while(|at| stalled(address, &config, at)).collect();
    assert!(clients.len() > 200, "{} bytes are no handshake", clients.len());
    clients
}

/// Each of them meets an end, in order or by a reset, and no plain byte before it.
fn all_end(clients: Vec<TcpStream>) {
    for (at, mut client) in clients.into_iter().enumerate() {
        match client.read_to_end(&mut Vec::new()) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
            Err(error) => panic!("stopped at byte {at}: {error}"),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stop {
    InOrder,
    ByForce,
    HandOver,
}

fn stopped(stop: Stop, version: Version) {
    let config = server().handshake_timeout(None).resumption(false).build().unwrap();
    for dispatch in modes() {
        let Told { running, address, connected, ended } = start(&config, dispatch);
        let clients = at_each_byte(address, version);
        // The last one's handshake is over.
        connected.recv_timeout(PATIENCE).unwrap();
        let all = clients.len() + 1;
        let new = (stop == Stop::HandOver).then(|| hand_over(&running, &config, dispatch));
        running.shutdown(if stop == Stop::ByForce { Duration::ZERO } else { PATIENCE });
        let report = running.wait().unwrap();
        if stop != Stop::ByForce {
            assert_eq!(report.aborted, 0, "{stop:?}, {dispatch:?}");
        }
        all_end(clients);
        if stop != Stop::ByForce {
            assert_eq!(ended.try_iter().count(), all, "{stop:?}, {dispatch:?}");
        }
        assert!(connected.try_recv().is_err(), "on_connect comes after the handshake");
        if let Some(new) = new {
            echoes(new.address);
        }
    }
}

/// Another event loop gets the listening socket, as another process would.
fn hand_over(old: &Running, config: &TlsConfig, dispatch: Dispatch) -> Told {
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    let event_loop = old.event_loop().clone();
    let giving = std::thread::spawn(move || {
        event_loop.hand_over_with(&ours, HandOverOptions::default()).unwrap();
    });
    let listener = Listener::take_over(theirs).unwrap().pop().unwrap();
    let new = start_on(listener, config, dispatch);
    giving.join().unwrap();
    new
}

fn echoes(address: SocketAddr) {
    let name = "localhost".try_into().unwrap();
    let tls = ClientConnection::new(their_client(&TLS13).into(), name).unwrap();
    let mut client = StreamOwned::new(tls, connect(address));
    client.write_all(b"served").unwrap();
    client.read_exact(&mut [0; 6]).unwrap();
}

#[test]
fn a_shutdown_in_order_ends_handshakes_at_any_byte_of_them() {
    stopped(Stop::InOrder, &TLS12);
    stopped(Stop::InOrder, &TLS13);
}

#[test]
fn a_shutdown_by_force_ends_handshakes_at_any_byte_of_them() {
    stopped(Stop::ByForce, &TLS12);
    stopped(Stop::ByForce, &TLS13);
}

#[test]
fn a_hand_over_ends_handshakes_at_any_byte_of_them_and_the_new_one_serves() {
    stopped(Stop::HandOver, &TLS13);
}

#[test]
fn an_abort_ends_handshakes_at_any_byte_of_them() {
    let config = server().handshake_timeout(None).resumption(false).build().unwrap();
    for dispatch in modes() {
        let (handles, prepared) = mpsc::channel();
        let (ends, ended) = mpsc::channel();
        let running = EventLoop::builder()
            .on_prepare(move |conn: &Connection| {
                handles.send(conn.handle()).unwrap();
                Ok(())
            })
            .on_request(|(): &mut (), _: &mut Connection| Ok(()))
            .on_disconnect(move |(), why: &CloseReason| ends.send(why.to_string()).unwrap())
            .dispatch(dispatch)
            .build()
            .unwrap()
            .spawn(Listener::bind("tcp", "127.0.0.1:0").unwrap().filter(Arc::new(config.clone())))
            .unwrap();
        let clients = at_each_byte(running.address().inet().unwrap(), &TLS13);
        for _ in 0..=clients.len() {
            prepared.recv_timeout(PATIENCE).unwrap().abort();
        }
        for _ in 0..=clients.len() {
            ended.recv_timeout(PATIENCE).unwrap();
        }
        all_end(clients);
    }
}

/// A timeout of the handshake is of all of it: a byte now and then gains nothing.
#[test]
fn a_handshake_of_single_bytes_ends_at_its_timeout() {
    let config = server().handshake_timeout(Duration::from_millis(200)).build().unwrap();
    for dispatch in modes() {
        let told = start(&config, dispatch);
        let mut client = connect(told.address);
        client.set_nodelay(true).unwrap();
        let name = "localhost".try_into().unwrap();
        let mut tls = ClientConnection::new(their_client(&TLS13).into(), name).unwrap();
        let mut hello = Vec::new();
        tls.write_tls(&mut hello).unwrap();
        for byte in hello {
            if client.write_all(&[byte]).is_err() {
                break;
            }
            // sleep: the pace of the bytes, which all together take longer than the timeout
            std::thread::sleep(Duration::from_millis(5));
        }
        assert_eq!(told.ended.recv_timeout(PATIENCE).unwrap(), "handshake timeout", "{dispatch:?}");
        assert!(told.connected.try_recv().is_err());
    }
}

/// A server whose part of the handshake is longer than what the sockets hold, and a client that has
/// said hello and takes none of it.
fn untaken(dispatch: Dispatch, timeout: Option<Duration>) -> (Told, TcpStream) {
    let mut identity = OURS.sign(&["localhost"]);
    identity.chain.push_str(&OURS.root.repeat(100));
    let config = server_as(&identity).handshake_timeout(timeout).build().unwrap();
    let listener = Listener::options().send_buffer(4096).bind("tcp", "127.0.0.1:0").unwrap();
    let told = start_on(listener, &config, dispatch);
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(2048).unwrap();
    socket.connect(&told.address.into()).unwrap();
    let mut client = TcpStream::from(socket);
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    let name = "localhost".try_into().unwrap();
    let mut tls = ClientConnection::new(their_client(&TLS13).into(), name).unwrap();
    tls.write_tls(&mut client).unwrap();
    // The server has answered, and the rest of that waits.
    client.peek(&mut [0]).unwrap();
    (told, client)
}

/// Takes what is on its way, up to the end; returns how much that was.
fn taken(client: &mut TcpStream) -> usize {
    let mut heard = Vec::new();
    if let Err(error) = client.read_to_end(&mut heard) {
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    }
    heard.len()
}

#[test]
fn a_client_that_takes_nothing_of_the_handshake_ends_at_its_timeout() {
    for dispatch in modes() {
        let (told, mut client) = untaken(dispatch, Some(Duration::from_millis(100)));
        assert_eq!(told.ended.recv_timeout(PATIENCE).unwrap(), "handshake timeout", "{dispatch:?}");
        // Its socket goes at once: nothing of a handshake that has failed is worth a wait. Until
        // then it may take what the client makes room for.
        eventually("its place is free", || told.running.stats().connections == 0);
        assert!(taken(&mut client) < 20_000, "{dispatch:?}");
    }
}

#[test]
fn a_client_that_takes_nothing_of_the_handshake_holds_up_no_shutdown() {
    for dispatch in modes() {
        let (told, mut client) = untaken(dispatch, None);
        told.running.shutdown(PATIENCE);
        assert_eq!(told.running.wait().unwrap().aborted, 0, "{dispatch:?}");
        assert!(taken(&mut client) < 20_000, "{dispatch:?}");
    }
}
