//! Dials and checkouts as futures, in our executor and in tokio's.

use std::io::ErrorKind;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::{Duration, Instant};

use netpoll::{Dialer, DialerBuilder, EventLoop, Listener, Pool};
use netpoll_async::{AsyncConnection, AsyncDialer, AsyncPool, block_on, serve_async, timeout};

use super::{echo, server};
use crate::dial::refusing;
use crate::util::{Client, PATIENCE, Serving, connect, eventually, inet, modes, quiet};

fn dialer() -> AsyncDialer {
    AsyncDialer::new(Dialer::builder().build().expect("good options"))
}

/// What a connection does for its user in any executor.
async fn exchange(dialer: &AsyncDialer, address: &str) -> netpoll::Result<()> {
    let mut conn = dialer.dial("tcp", address).await?;
    for size in [1, 1000, 300_000] {
        let sent = vec![b'x'; size];
        conn.write_all(&sent).await?;
        let mut heard = vec![0; size];
        conn.read_exact(&mut heard).await?;
        assert!(heard == sent);
    }
    conn.shutdown().await?;
    assert_eq!(conn.read_bytes().await?, None);
    Ok(())
}

#[test]
fn a_dialled_connection_is_used_by_any_executor() {
    let (server, ends) = server(crate::util::hand_off(), echo);
    let address = server.address.to_string();
    let dialer = dialer();
    block_on(exchange(&dialer, &address)).expect("our executor");
    let tokio = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    tokio.block_on(exchange(&dialer, &address)).expect("tokio's");
    let both = || async {
        let (first, second) = (exchange(&dialer, &address), exchange(&dialer, &address));
        let (first, second) = futures_util::future::join(first, second).await;
        first.and(second)
    };
    tokio.block_on(both()).expect("two at once");
    assert_eq!(ends.wait(4), ["Peer"; 4]);
}

/// A relay: what a future dials lives on its loop, and the two pass bytes on.
#[test]
fn a_future_dials_for_its_client_and_relays() {
    let (origin, _) = server(crate::util::hand_off(), echo);
    for dispatch in modes() {
        let dialer = dialer();
        let address = origin.address.to_string();
        let (front, ends) = server(dispatch, move |conn: AsyncConnection| {
            let (dialer, address) = (dialer.clone(), address.clone());
            async move {
                let (mut read, mut write) = conn.split();
                let (mut answers, mut asks) = dialer.dial("tcp", &address).await?.split();
                let there = async {
                    while let Some(bytes) = read.read_bytes().await? {
                        asks.write_bytes(bytes).await?;
                    }
                    asks.shutdown().await
                };
                let back = async {
                    while let Some(bytes) = answers.read_bytes().await? {
                        write.write_bytes(bytes).await?;
                    }
                    write.shutdown().await
                };
                let (there, back) = futures_util::future::join(there, back).await;
                there.and(back)
            }
        });
        let mut client = front.connect();
        for size in [5, 100_000] {
            client.echo(&vec![b'y'; size]);
        }
        client.half_close();
        assert_eq!(client.rest(), b"");
        assert_eq!(ends.wait(1), ["Peer"], "{dispatch:?}");
    }
}

#[test]
fn a_dial_that_fails_says_why_and_one_that_is_dropped_ends() {
    let dialer = Dialer::builder().timeout(PATIENCE).build().expect("good options");
    let dialer = AsyncDialer::new(dialer);
    let (_bound, address) = refusing();
    let address = address.to_string();
    let error = block_on(dialer.dial("tcp", &address)).expect_err("nobody listens");
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    let error = block_on(dialer.dial("carrier pigeon", &address)).expect_err("no network");
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    // An address that is not answered.
    let start = Instant::now();
    let dial = timeout(Duration::from_millis(30), dialer.dial("tcp", "192.0.2.1:9"));
    if let Ok(answered) = block_on(dial) {
        // This machine's network answers for it.
        answered.expect_err("nobody listens");
    }
    assert!(start.elapsed() < PATIENCE / 2);
    let short = Dialer::builder().timeout(Duration::from_millis(30)).build();
    let short = AsyncDialer::new(short.expect("good options"));
    let error = block_on(short.dial("tcp", "192.0.2.1:9"));
    error.expect_err("nobody listens");
}

#[test]
fn a_checkout_waits_for_what_comes_back_and_a_dropped_one_leaves_the_queue() {
    let server = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = server.local_addr().expect("an address").to_string();
    let pool = Pool::builder()
        .max_open(1)
        .build(Dialer::builder().build().expect("good options"))
        .expect("good options");
    let first = block_on(pool.checkout_async("tcp", &address, PATIENCE)).expect("it is dialled");
    let dropped =
        timeout(Duration::from_millis(20), pool.checkout_async("tcp", &address, PATIENCE));
    block_on(dropped).expect_err("none comes back");
    let late = pool.checkout_async("tcp", &address, Duration::from_millis(20));
    let error = block_on(late).expect_err("none comes back");
    assert_eq!(error.kind(), ErrorKind::TimedOut);
    let waiting = std::thread::spawn({
        let (pool, address) = (pool.clone(), address.clone());
        move || block_on(pool.checkout_async("tcp", &address, PATIENCE)).expect("it comes back")
    });
    quiet(5);
    let id = first.id();
    first.keep();
    let second = waiting.join().expect("it waits");
    assert_eq!(second.id(), id, "the same connection");
    second.discard();
    let third = block_on(pool.checkout_async("tcp", &address, PATIENCE)).expect("it is dialled");
    assert_ne!(third.id(), id);
    assert_eq!(pool.stats().open, 1);
}

#[test]
fn a_dialled_connection_whose_object_is_dropped_closes() {
    let server = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = server.local_addr().expect("an address");
    let dialer = dialer();
    block_on(async {
        let mut conn = dialer.dial("tcp", &address.to_string()).await.expect("it listens");
        conn.write_all(b"last words").await.expect("it is taken");
        let handle = conn.handle();
        drop(conn);
        eventually("it closes", || !handle.is_active());
    });
    let (mut peer, _) = server.accept().expect("it was dialled");
    assert_eq!(peer.rest(), b"last words");
    drop(connect(address));
}

fn tls_dialer(client: netpoll_tls::TlsClient) -> DialerBuilder {
    Dialer::builder().filter(Arc::new(client)).timeout(PATIENCE)
}

/// The handshake is part of the dial, and nothing waits for it on a thread.
#[test]
fn a_dial_with_tls_is_used_by_any_executor_and_says_what_is_wrong() {
    for dispatch in modes() {
        let event_loop: EventLoop =
            serve_async(echo).loops(1).dispatch(dispatch).build().expect("options");
        let listener = Listener::bind("tcp", "127.0.0.1:0").expect("a port");
        let address = format!("localhost:{}", inet(&listener).port());
        let _serving = Serving::start(event_loop, listener.filter(crate::tls::server()));
        let dialer = tls_dialer(crate::tls::client()).build().expect("good options");
        let dialer = AsyncDialer::new(dialer);
        block_on(exchange(&dialer, &address)).expect("our executor");
        let tokio = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        tokio.block_on(exchange(&dialer, &address)).expect("tokio's");
        // It trusts another certificate.
        let names = vec!["localhost".to_owned()];
        let other = rcgen::generate_simple_self_signed(names).expect("a certificate");
        let stranger = netpoll_tls::TlsClient::builder().roots(other.cert.pem().as_bytes());
        let stranger = stranger.build().expect("a client");
        let stranger = tls_dialer(stranger).build().expect("good options");
        let error = block_on(AsyncDialer::new(stranger).dial("tcp", &address));
        let said = error.expect_err("it is not trusted").to_string();
        assert!(said.contains("certificate"), "{said}");
    }
}

/// The server accepts, and says nothing.
#[test]
fn a_dial_with_tls_ends_within_its_timeout_and_when_it_is_dropped() {
    let server = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = format!("localhost:{}", server.local_addr().expect("an address").port());
    let short = tls_dialer(crate::tls::client()).timeout(Duration::from_millis(50));
    let short = AsyncDialer::new(short.build().expect("good options"));
    let error = block_on(short.dial("tcp", &address)).expect_err("no handshake");
    assert_eq!(error.kind(), ErrorKind::TimedOut);
    let long = AsyncDialer::new(tls_dialer(crate::tls::client()).build().expect("good options"));
    let dropped = timeout(Duration::from_millis(50), long.dial("tcp", &address));
    block_on(dropped).expect_err("no handshake");
    for _ in 0..2 {
        let (mut peer, _) = server.accept().expect("it was dialled");
        peer.set_read_timeout(Some(PATIENCE)).expect("an option");
        let mut said = Vec::new();
        // Its end comes, in order or by a reset.
        let ended = std::io::Read::read_to_end(&mut peer, &mut said);
        let is_late = ended.is_err_and(|error| error.kind() == ErrorKind::WouldBlock);
        assert!(!is_late, "its socket is open");
    }
}
