//! Clients of HTTP against servers of HTTP, both on the loops.

use std::net::SocketAddr;

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use netpoll_async::{AsyncConnection, AsyncDialer, block_on};
use netpoll_client::Dialer;
use netpoll_hyper::{Http, client};
use netpoll_server::Running;
use socket2::{Domain, Socket, Type};

use crate::util::{builder, modes, start, text};

type Body = Full<Bytes>;

async fn dial(server: &Running) -> netpoll_core::Result<AsyncConnection> {
    let dialer = AsyncDialer::new(Dialer::builder().build()?);
    dialer.dial("tcp", &server.address().to_string()).await
}

async fn echo(request: Request<Incoming>) -> crate::util::Answer {
    let body = request.into_body().collect().await.expect("the whole body");
    text(body.to_bytes())
}

fn post(body: impl Into<Bytes>) -> Request<Body> {
    let request = Request::post("/").header("host", "a");
    request.body(Full::new(body.into())).expect("a valid request")
}

#[test]
fn requests_go_over_connections_of_both_versions() {
    for mode in modes() {
        let server = start(builder(Http::new(), echo).dispatch(mode));
        block_on(async {
            let mut http1 = client::http1::<Body>(dial(&server).await.unwrap()).await.unwrap();
            let mut http2 = client::http2::<Body>(dial(&server).await.unwrap()).await.unwrap();
            for size in [0, 1, 1_000, 1_000_000] {
                let body = vec![b'x'; size];
                http1.ready().await.unwrap();
                let answers = [
                    http1.send_request(post(body.clone())).await.unwrap(),
                    http2.send_request(post(body.clone())).await.unwrap(),
                ];
                for answer in answers {
                    assert_eq!(answer.status(), StatusCode::OK);
                    assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), body);
                }
            }
        });
    }
}

#[test]
fn a_dial_that_fails_says_why() {
    let dialer = AsyncDialer::new(Dialer::builder().build().unwrap());
    // A socket that does not listen: while it lives, no other has its port.
    let bound = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    bound.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    let refused = bound.local_addr().unwrap().as_socket().unwrap().to_string();
    let error = block_on(dialer.dial("tcp", &refused)).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused, "{error}");
    assert!(block_on(dialer.dial("tcp", "no address")).is_err());
}

#[cfg(feature = "client-pool")]
#[test]
fn the_client_of_hyper_util_keeps_its_connections() {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use hyper_util::client::legacy::Client;
    use netpoll_hyper::NetpollExecutor;
    use netpoll_hyper::client::Connector;

    let accepted = Arc::new(AtomicUsize::new(0));
    let counter = accepted.clone();
    let builder = builder(Http::new(), echo).on_accept(move |_: &netpoll_server::Incoming<'_>| {
        counter.fetch_add(1, Ordering::Relaxed);
        netpoll_server::Verdict::Admit
    });
    let server = start(builder);
    let connector = Connector::new(Dialer::builder().build().unwrap());
    let client: Client<Connector, Body> = Client::builder(NetpollExecutor).build(connector);
    block_on(async {
        for at in 0..100 {
            let uri = format!("http://{}/", server.address());
            let request = Request::post(uri).body(Full::new(at.to_string().into())).unwrap();
            let answer = client.request(request).await.unwrap();
            let body = answer.into_body().collect().await.unwrap().to_bytes();
            assert_eq!(body, at.to_string());
        }
        let refused = Request::get("https://localhost/").body(Full::default()).unwrap();
        assert!(client.request(refused).await.is_err());
    });
    // It dials once more where a request comes before the connection of the last one is back.
    let accepted = accepted.load(Ordering::Relaxed);
    assert!(accepted < 50, "{accepted} connections for 100 requests");
}

/// Whether it is dropped before, while or after the connection comes: nothing keeps that open.
#[test]
fn a_dial_that_is_dropped_closes_its_connection() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let dialer = AsyncDialer::new(Dialer::builder().build().unwrap());
    for polls in 1..20 {
        block_on(async {
            let mut dial = std::pin::pin!(dialer.dial("tcp", &address));
            for _ in 0..polls {
                if futures_util::poll!(dial.as_mut()).is_ready() {
                    break;
                }
                netpoll_async::yield_now().await;
            }
        });
    }
    // A socket of its own, so that the number of those to wait for is known.
    let kept = block_on(dialer.dial("tcp", &address)).unwrap();
    let own = kept.local_addr().unwrap().to_string();
    loop {
        let (mut peer, from) = listener.accept().unwrap();
        if from.to_string() == own {
            break;
        }
        peer.set_read_timeout(Some(crate::util::SOON)).unwrap();
        let read = std::io::Read::read(&mut peer, &mut [0; 10]);
        assert!(
            matches!(read, Ok(0))
                || read.is_err_and(|it| it.kind() != std::io::ErrorKind::WouldBlock)
        );
    }
}
