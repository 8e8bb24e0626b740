//! A shutdown that meets clients of TLS: in their handshake, and with a part of a record here.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

use netpoll_core::{Connection, Dispatch};
use netpoll_server::{EventLoop, Listener, Running};
use netpoll_tls::rustls::version::{TLS12, TLS13};
use netpoll_tls::rustls::{ClientConnection, StreamOwned};

use crate::handshake::{Version, their_client};
use crate::identities::server;
use crate::served::{PATIENCE, eventually, modes};

type Client = StreamOwned<ClientConnection, TcpStream>;

const REQUEST: &[u8] = b"a request";

/// An echo of one loop, with a connection that shows when a shutdown has reached the loop.
struct Echo {
    running: Running,
    address: SocketAddr,
    idle: Client,
}

impl Echo {
    fn start(dispatch: Dispatch) -> Self {
        let listener = Listener::bind("tcp", "127.0.0.1:0").unwrap();
        let running = EventLoop::builder()
            .on_request(|(): &mut (), conn: &mut Connection| {
                let (mut reader, mut writer) = conn.split();
                writer.append(reader.slice(reader.len())?);
                writer.flush()
            })
            .loops(1)
            .memory_budget(64 << 20)
            .dispatch(dispatch)
            .build()
            .unwrap()
            .spawn(listener.filter(Arc::new(server().build().unwrap())))
            .unwrap();
        let address = running.address().inet().unwrap();
        let mut idle = client(address, &TLS13);
        echoes(&mut idle);
        Self { running, address, idle }
    }

    /// Returns when it has reached all connections of before.
    fn shut_down(&mut self) {
        self.running.shutdown(PATIENCE);
        assert_eq!(self.idle.read(&mut [0]).unwrap(), 0, "what is idle ends at once");
    }
}

fn client(address: SocketAddr, version: Version) -> Client {
    let socket = TcpStream::connect(address).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.set_nodelay(true).unwrap();
    let name = "localhost".try_into().unwrap();
    StreamOwned::new(ClientConnection::new(their_client(version).into(), name).unwrap(), socket)
}

fn echoes(client: &mut Client) {
    client.write_all(REQUEST).unwrap();
    let mut heard = [0; REQUEST.len()];
    client.read_exact(&mut heard).unwrap();
    assert_eq!(heard, REQUEST);
}

/// Whether a client is served that has had the server's part of the handshake when a shutdown
/// comes.
fn is_served(version: Version, dispatch: Dispatch) -> bool {
    let mut echo = Echo::start(dispatch);
    let mut client = client(echo.address, version);
    client.conn.write_tls(&mut client.sock).unwrap();
    client.conn.read_tls(&mut client.sock).unwrap();
    echo.shut_down();
    client.conn.process_new_packets().unwrap();
    let mut heard = [0; REQUEST.len()];
    let outcome = client.write_all(REQUEST).and_then(|()| client.read_exact(&mut heard));
    if let Err(error) = outcome {
        let ends = [ErrorKind::UnexpectedEof, ErrorKind::ConnectionReset, ErrorKind::BrokenPipe];
        assert!(ends.contains(&error.kind()), "{error}");
        return false;
    }
    assert_eq!(heard, REQUEST);
    assert_eq!(client.read(&mut [0]).unwrap(), 0, "and then it ends in order");
    assert_eq!(echo.running.wait().unwrap().aborted, 0, "{dispatch:?}");
    true
}

/// It has half a second; on a machine that is busy elsewhere that may be too short once.
#[test]
fn a_shutdown_serves_a_client_whose_handshake_has_begun() {
    for version in [&TLS12, &TLS13] {
        for dispatch in modes() {
            let served = (0..10).any(|_| is_served(version, dispatch));
            assert!(served, "{:?}, {dispatch:?}", version.version);
        }
    }
}

#[test]
fn a_shutdown_waits_for_the_rest_of_a_record() {
    for dispatch in modes() {
        let mut echo = Echo::start(dispatch);
        let mut client = client(echo.address, &TLS13);
        echoes(&mut client);
        let held = || echo.running.event_loop().memory().held;
        eventually("nothing is held", || held() == 0);
        client.conn.writer().write_all(&[7; 3000]).unwrap();
        let mut record = Vec::new();
        client.conn.write_tls(&mut record).unwrap();
        let (part, rest) = record.split_at(2000);
        client.sock.write_all(part).unwrap();
        eventually("the part is here", || held() >= part.len());
        echo.shut_down();
        client.sock.write_all(rest).unwrap();
        let mut heard = [0; 3000];
        client.read_exact(&mut heard).unwrap();
        assert_eq!(heard, [7; 3000]);
        assert_eq!(client.read(&mut [0]).unwrap(), 0, "and then it ends in order");
        assert_eq!(echo.running.wait().unwrap().aborted, 0, "{dispatch:?}");
    }
}

/// A client that never ends its handshake, and one that ends it and never asks.
#[test]
fn a_shutdown_does_not_wait_for_a_client_that_stops() {
    for dispatch in modes() {
        let mut echo = Echo::start(dispatch);
        let [mut stopped, mut silent] = [0, 1].map(|_| client(echo.address, &TLS13));
        for client in [&mut stopped, &mut silent] {
            client.conn.write_tls(&mut client.sock).unwrap();
            client.conn.read_tls(&mut client.sock).unwrap();
        }
        echo.shut_down();
        silent.conn.process_new_packets().unwrap();
        silent.flush().unwrap();
        // Either one is ended; a reset may come before what was sent last.
        for mut socket in [stopped.sock, silent.sock] {
            let _ = socket.read_to_end(&mut Vec::new());
        }
        assert_eq!(echo.running.wait().unwrap().aborted, 0, "{dispatch:?}");
    }
}
