//! TLS on served connections, over sockets, in each dispatch mode; the clients are rustls's own.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use netpoll_core::{CloseReason, Connection, Dispatch, HandOffOptions, Handle, PoolOptions, Wait};
use netpoll_server::{EventLoop, Listener, Running};
use netpoll_tls::rustls::{ClientConnection, StreamOwned, version};
use netpoll_tls::{TlsConfig, TlsConnection, TlsInfo};

use crate::handshake::their_client;
use crate::identities::{OURS, server, server_as};

/// How long a test waits for what must come.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

type Client = StreamOwned<ClientConnection, TcpStream>;

/// An echo that tells what its callbacks see.
pub(crate) struct Echo {
    /// Dropping it ends the server.
    _running: Running,
    pub(crate) address: SocketAddr,
    prepared: Receiver<Option<TlsInfo>>,
    connected: Receiver<(Option<TlsInfo>, Handle)>,
    ended: Receiver<CloseReason>,
}

impl Echo {
    pub(crate) fn start(config: &TlsConfig, dispatch: Dispatch) -> Self {
        let (prepared, prepares) = mpsc::channel();
        let (connected, connects) = mpsc::channel();
        let (ended, ends) = mpsc::channel();
        let listener = Listener::bind("tcp", "127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().inet().unwrap();
        let running = EventLoop::builder()
            .on_prepare(move |conn: &Connection| {
                prepared.send(conn.tls()).unwrap();
                Ok(())
            })
            .on_connect(move |(): &mut (), conn: &mut Connection| {
                connected.send((conn.tls(), conn.handle())).unwrap();
                Ok(())
            })
            .on_request(|(): &mut (), conn: &mut Connection| {
                let (mut reader, mut writer) = conn.split();
                writer.append(reader.slice(reader.len())?);
                writer.flush()
            })
            .on_disconnect(move |(), why: &CloseReason| ended.send(told(why)).unwrap())
            .dispatch(dispatch)
            .build()
            .unwrap()
            .spawn(listener.filter(Arc::new(config.clone())))
            .unwrap();
        let (prepared, connected, ended) = (prepares, connects, ends);
        Self { _running: running, address, prepared, connected, ended }
    }

    fn dial(&self) -> Client {
        let tls = ClientConnection::new(
            their_client(&version::TLS13).into(),
            "localhost".try_into().unwrap(),
        );
        StreamOwned::new(tls.unwrap(), self.raw())
    }

    fn raw(&self) -> TcpStream {
        let socket = TcpStream::connect(self.address).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket
    }

    pub(crate) fn connected(&self) -> (Option<TlsInfo>, Handle) {
        self.connected.recv_timeout(PATIENCE).expect("on_connect runs")
    }

    fn ended(&self) -> CloseReason {
        self.ended.recv_timeout(PATIENCE).expect("on_disconnect runs")
    }
}

/// A reason can't be cloned: one that is told alike.
fn told(why: &CloseReason) -> CloseReason {
    match why {
        CloseReason::Peer => CloseReason::Peer,
        CloseReason::Local => CloseReason::Local,
        CloseReason::Truncated => CloseReason::Truncated,
        CloseReason::Reset => CloseReason::Reset,
        CloseReason::Timeout(wait) => CloseReason::Timeout(*wait),
        CloseReason::Filter(error) => CloseReason::Filter(error.clone()),
        other => panic!("an odd end: {other:?}"),
    }
}

/// Waits for `condition`, with a bound; fails as what is said in `hope`.
pub(crate) fn eventually(hope: &str, mut condition: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < PATIENCE, "in vain, hoped that {hope}");
        // sleep: the pace of looking at a condition that nothing announces
        std::thread::sleep(Duration::from_millis(1));
    }
}

pub(crate) fn modes() -> [Dispatch; 3] {
    [
        Dispatch::Inline,
        Dispatch::HandOff(HandOffOptions::default()),
        Dispatch::Pool(PoolOptions::default()),
    ]
}

fn echoes(client: &mut Client, bytes: &[u8]) {
    client.write_all(bytes).unwrap();
    let mut back = vec![0; bytes.len()];
    client.read_exact(&mut back).unwrap();
    assert!(back == bytes, "the echo of {} bytes differs", bytes.len());
}

#[test]
fn callbacks_see_plain_bytes_and_what_was_agreed_on() {
    for dispatch in modes() {
        let echo = Echo::start(&server().build().unwrap(), dispatch);
        let mut client = echo.dial();
        echoes(&mut client, b"hello");
        echoes(&mut client, &vec![7; 50_000]);
        let before = echo.prepared.recv_timeout(PATIENCE).unwrap();
        assert_eq!(before, None, "on_prepare runs before the handshake");
        let (info, _) = echo.connected();
        assert_eq!(info.unwrap().server_name.as_deref(), Some("localhost"));
        client.conn.send_close_notify();
        client.flush().unwrap();
        assert_eq!(client.read(&mut [0]).unwrap(), 0, "the server ends its stream in order, too");
        assert!(matches!(echo.ended(), CloseReason::Peer));
    }
}

#[test]
fn any_thread_sends_while_a_callback_is_blocked() {
    for dispatch in [modes()[1], modes()[2]] {
        let (begun, begins) = mpsc::channel::<Handle>();
        let (end, ends) = mpsc::channel::<()>();
        let ends = Mutex::new(ends);
        let listener = Listener::bind("tcp", "127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().inet().unwrap();
        let _running = EventLoop::builder()
            .on_request(move |(): &mut (), conn: &mut Connection| {
                let n = conn.reader().len();
                conn.reader().skip(n)?;
                begun.send(conn.handle()).unwrap();
                ends.lock().unwrap().recv_timeout(PATIENCE).unwrap();
                Ok(())
            })
            .dispatch(dispatch)
            .build()
            .unwrap()
            .spawn(listener.filter(Arc::new(server().build().unwrap())))
            .unwrap();
        let tls = ClientConnection::new(
            their_client(&version::TLS13).into(),
            "localhost".try_into().unwrap(),
        );
        let socket = TcpStream::connect(address).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut client = StreamOwned::new(tls.unwrap(), socket);
        client.write_all(b"block").unwrap();
        let handle = begins.recv_timeout(PATIENCE).unwrap();
        for i in 0..20_u8 {
            handle.send(vec![i; 1000]).unwrap();
            let mut came = [0; 1000];
            client.read_exact(&mut came).unwrap();
            assert_eq!(came, [i; 1000]);
        }
        end.send(()).unwrap();
    }
}

#[test]
fn a_stream_that_is_cut_off_is_told_from_one_that_ended() {
    let echo = Echo::start(&server().build().unwrap(), Dispatch::Inline);
    let mut client = echo.dial();
    echoes(&mut client, b"whole");
    client.sock.shutdown(Shutdown::Write).unwrap();
    assert!(matches!(echo.ended(), CloseReason::Truncated));
}

#[test]
fn an_orderly_close_sends_what_is_queued_and_says_that_it_is_all() {
    for dispatch in modes() {
        let echo = Echo::start(&server().build().unwrap(), dispatch);
        let mut client = echo.dial();
        echoes(&mut client, b"hello");
        let (_, handle) = echo.connected();
        handle.send(vec![9; 200_000]).unwrap();
        handle.close();
        let mut rest = Vec::new();
        // rustls reports an end without close_notify as an error.
        client.read_to_end(&mut rest).unwrap();
        assert_eq!(rest, vec![9; 200_000]);
        assert!(matches!(echo.ended(), CloseReason::Local));
    }
}

#[test]
fn a_silent_peer_is_closed_when_the_handshake_takes_too_long() {
    for dispatch in modes() {
        let config = server().handshake_timeout(Duration::from_millis(100)).build().unwrap();
        let echo = Echo::start(&config, dispatch);
        let mut silent = echo.raw();
        assert_eq!(silent.read(&mut [0]).unwrap_or(0), 0);
        let mut half = echo.raw();
        half.write_all(&[0x16, 3, 1, 2, 0, 1]).unwrap();
        half.read_to_end(&mut Vec::new()).ok();
        for _ in 0..2 {
            assert!(matches!(echo.ended(), CloseReason::Timeout(Wait::Handshake)));
        }
        assert!(echo.connected.try_recv().is_err(), "on_connect comes after the handshake");
    }
}

#[test]
fn a_peer_that_does_not_speak_tls_gets_an_alert_and_the_reason_is_told() {
    for dispatch in modes() {
        let echo = Echo::start(&server().build().unwrap(), dispatch);
        let mut http = echo.raw();
        http.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
        let mut answer = Vec::new();
        http.read_to_end(&mut answer).ok();
        assert_eq!(answer.first(), Some(&0x15), "an alert");
        match echo.ended() {
            CloseReason::Filter(error) => {
                assert_eq!(error.to_string(), "the client sent bytes that are not TLS");
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn one_port_serves_both_where_that_is_asked_for() {
    for dispatch in modes() {
        let echo = Echo::start(&server().also_plain(true).build().unwrap(), dispatch);
        let mut plain = echo.raw();
        plain.write_all(b"plain").unwrap();
        let mut back = [0; 5];
        plain.read_exact(&mut back).unwrap();
        assert_eq!((&back, echo.connected().0), (b"plain", None));
        let mut client = echo.dial();
        echoes(&mut client, b"sealed");
        assert!(echo.connected().0.is_some());
    }
}

#[test]
fn a_server_that_serves_takes_a_new_certificate() {
    let [old, new] = [OURS.sign(&["localhost", "old"]), OURS.sign(&["localhost", "new"])];
    let config = server_as(&old).build().unwrap();
    let echo = Echo::start(&config, Dispatch::Inline);
    let mut before = echo.dial();
    echoes(&mut before, b"x");
    config.replace(&server_as(&new).build().unwrap());
    let mut after = echo.dial();
    echoes(&mut after, b"x");
    echoes(&mut before, b"goes on");
    let of = |client: &Client| client.conn.peer_certificates().unwrap()[0].clone();
    assert_ne!(of(&before), of(&after));
}
