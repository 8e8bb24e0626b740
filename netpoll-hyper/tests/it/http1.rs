//! Requests and answers of HTTP/1.

use std::net::Shutdown;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Duration;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::routing::{get, post};
use bytes::Bytes;
use http::{Request, Response};
use hyper::body::Incoming;
use netpoll_async::sleep;
use netpoll_hyper::{Http, PeerAddr};

use crate::util::{Client, Gate, SaysDrop, builder, modes, signal, start, text};

async fn path(request: Request<Incoming>) -> crate::util::Answer {
    text(request.uri().path().to_owned())
}

#[test]
fn requests_of_one_connection_are_answered_in_each_mode() {
    for mode in modes() {
        let server = start(builder(Http::new(), path).dispatch(mode));
        let mut client = Client::of(&server);
        for at in 0..100 {
            client.get(&format!("/{at}"));
            assert_eq!(client.hear().body, format!("/{at}"));
        }
    }
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    for mode in modes() {
        let slow_then_quick = |request: Request<Incoming>| async move {
            if request.uri().path() == "/0" {
                sleep(Duration::from_millis(20)).await;
            }
            path(request).await
        };
        let server = start(builder(Http::new(), slow_then_quick).dispatch(mode));
        let mut client = Client::of(&server);
        let all = (0..1000).map(|at| format!("GET /{at} HTTP/1.1\r\nHost: a\r\n\r\n"));
        client.send(all.collect::<String>());
        for at in 0..1000 {
            assert_eq!(client.hear().body, format!("/{at}"));
        }
    }
}

#[test]
fn a_half_closed_client_has_its_answer() {
    for mode in modes() {
        let (begun, has_begun) = signal();
        let gate = Gate::default();
        let may_go_on = gate.clone();
        let answer = move |request: Request<Incoming>| {
            let (begun, may_go_on) = (begun.clone(), may_go_on.clone());
            async move {
                begun.send(()).expect("the test waits");
                may_go_on.wait().await;
                path(request).await
            }
        };
        let server = start(builder(Http::new(), answer).dispatch(mode));
        let mut client = Client::of(&server);
        client.get("/half");
        has_begun.wait();
        client.stream.get_ref().shutdown(Shutdown::Write).unwrap();
        gate.open();
        assert_eq!(client.hear().body, "/half");
        assert_eq!(client.rest(), b"");
    }
}

#[test]
fn a_handler_that_blocks_holds_up_no_other_connection() {
    let (begun, has_begun) = signal();
    let (go_on, may_go_on) = channel();
    let may_go_on = Arc::new(std::sync::Mutex::new(may_go_on));
    let answer = move |request: Request<Incoming>| {
        let (begun, may_go_on) = (begun.clone(), may_go_on.clone());
        async move {
            if request.uri().path() == "/blocks" {
                begun.send(()).expect("the test waits");
                may_go_on.lock().unwrap().recv().expect("the test goes on");
            }
            path(request).await
        }
    };
    let server = start(builder(Http::new(), answer));
    let (mut held_up, mut other) = (Client::of(&server), Client::of(&server));
    held_up.get("/blocks");
    has_begun.wait();
    other.get("/other");
    assert_eq!(other.hear().body, "/other");
    go_on.send(()).unwrap();
    assert_eq!(held_up.hear().body, "/blocks");
}

#[test]
fn a_handler_that_panics_ends_its_connection_alone() {
    for mode in modes() {
        let answer = |request: Request<Incoming>| async move {
            assert_ne!(request.uri().path(), "/panics", "as the test wants");
            path(request).await
        };
        let server = start(builder(Http::new(), answer).dispatch(mode));
        let (mut other, mut client) = (Client::of(&server), Client::of(&server));
        other.get("/before");
        assert_eq!(other.hear().body, "/before");
        client.get("/panics");
        assert_eq!(client.rest(), b"");
        other.get("/after");
        assert_eq!(other.hear().body, "/after");
    }
}

#[test]
fn a_client_that_resets_ends_the_future_of_its_handler() {
    for mode in modes() {
        let (begun, has_begun) = signal();
        let (ended, has_ended) = signal();
        let answer = move |request: Request<Incoming>| {
            let (begun, guard) = (begun.clone(), SaysDrop(ended.clone()));
            async move {
                let _guard = guard;
                begun.send(()).expect("the test waits");
                std::future::pending::<()>().await;
                path(request).await
            }
        };
        let server = start(builder(Http::new(), answer).dispatch(mode));
        let mut client = Client::of(&server);
        client.get("/");
        has_begun.wait();
        client.reset();
        has_ended.wait();
    }
}

#[test]
fn an_axum_router_moves_over_as_it_is() {
    let app = Router::new()
        .route("/", get(|| async { "hello" }))
        .route("/length", post(|body: Bytes| async move { body.len().to_string() }))
        .layer(DefaultBodyLimit::max(1000));
    for mode in modes() {
        let server = start(Http::new().event_loop(app.clone()).loops(1).dispatch(mode));
        let mut client = Client::of(&server);
        client.get("/");
        assert_eq!(client.hear().body, "hello");
        client.get("/nothing");
        assert_eq!(client.hear().status, 404);
        let post = |length| {
            format!("POST /length HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n")
        };
        client.send(post(1000) + &"x".repeat(1000));
        assert_eq!(client.hear().body, "1000");
        client.send(post(1001) + &"x".repeat(1001));
        assert_eq!(client.hear().status, 413);
    }
}

#[test]
fn bodies_stream_both_ways() {
    let echo = |request: Request<Incoming>| async move { Ok(Response::new(request.into_body())) };
    for mode in modes() {
        let server = start(builder(Http::new(), echo).dispatch(mode));
        let mut client = Client::of(&server);
        client.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
        let head = client.head();
        assert!(head.contains("transfer-encoding: chunked"), "{head}");
        for _ in 0..10 {
            client.send("5\r\nhello\r\n");
            let mut came = [0; 10];
            std::io::Read::read_exact(&mut client.stream, &mut came).unwrap();
            assert_eq!(&came, b"5\r\nhello\r\n");
        }
        client.send("0\r\n\r\n");
        let mut came = [0; 5];
        std::io::Read::read_exact(&mut client.stream, &mut came).unwrap();
        assert_eq!(&came, b"0\r\n\r\n");
    }
}

#[test]
fn requests_know_the_address_of_their_client() {
    let answer = |request: Request<Incoming>| async move {
        let peer = request.extensions().get::<PeerAddr>();
        text(peer.map_or("none".to_owned(), |PeerAddr(peer)| peer.to_string()))
    };
    let without = start(builder(Http::new(), answer));
    let with = start(builder(Http::new().peer_addr(true), answer));
    let mut client = Client::of(&without);
    client.get("/");
    assert_eq!(client.hear().body, "none");
    let mut client = Client::of(&with);
    client.get("/");
    let own = client.stream.get_ref().local_addr().unwrap().to_string();
    assert_eq!(client.hear().body, own);
}
