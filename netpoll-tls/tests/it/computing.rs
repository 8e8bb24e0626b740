//! Handshakes are computing: the forecast of a loop learns how long they take.

use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use netpoll_core::{Connection, Dispatch, HandOffOptions};
use netpoll_server::{EventLoop, Listener};
use netpoll_tls::TlsConfig;
use netpoll_tls::rustls::server::{ClientHello, ResolvesServerCert};
use netpoll_tls::rustls::sign::CertifiedKey;
use netpoll_tls::rustls::version::TLS13;
use netpoll_tls::rustls::{ClientConnection, ServerConfig};

use crate::handshake::{their_client, their_server};
use crate::served::PATIENCE;

/// As a key that takes long, or a verifier that asks elsewhere.
#[derive(Debug)]
struct Slow(Arc<dyn ResolvesServerCert>, Duration);

impl ResolvesServerCert for Slow {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let begun = Instant::now();
        while begun.elapsed() < self.1 {}
        self.0.resolve(hello)
    }
}

/// Handshakes, each of which takes so long, until workers have done so many runs of them.
fn shake_hands_until_workers_have_done(runs: u64, time: Duration) {
    let mut theirs: ServerConfig = their_server(&TLS13);
    theirs.cert_resolver = Arc::new(Slow(theirs.cert_resolver, time));
    let config = TlsConfig::from_rustls(theirs.into()).unwrap();
    let listener = Listener::bind("tcp", "127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().inet().unwrap();
    let running = EventLoop::builder()
        .on_request(|(): &mut (), _: &mut Connection| Ok(()))
        .dispatch(Dispatch::HandOff(HandOffOptions::default()))
        .loops(1)
        .build()
        .unwrap()
        .spawn(listener.filter(Arc::new(config)))
        .unwrap();
    let client = Arc::new(their_client(&TLS13));
    let by_workers =
        || -> u64 { running.event_loop().stats().loops.iter().map(|it| it.to_workers).sum() };
    let begun = Instant::now();
    while by_workers() < runs {
        assert!(begun.elapsed() < 3 * PATIENCE, "{} runs went to workers", by_workers());
        let mut socket = TcpStream::connect(address).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let name = "localhost".try_into().unwrap();
        let mut tls = ClientConnection::new(client.clone(), name).unwrap();
        while tls.is_handshaking() {
            tls.complete_io(&mut socket).unwrap();
        }
    }
}

#[test]
fn handshakes_that_take_long_go_to_workers() {
    // Each is a new connection: what sends it there is the history of its loop alone.
    shake_hands_until_workers_have_done(50, Duration::from_millis(5));
}
