//! Clients that are slow, silent, or send too much.

use std::future::ready;
use std::io::{ErrorKind, Write};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Request;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use netpoll_core::ReceiveRate;
use netpoll_hyper::Http;

use crate::util::{Client, Gate, builder, endless, modes, signal, start, text};

const SHORT: Duration = Duration::from_millis(100);

async fn hello(_: Request<Incoming>) -> crate::util::Answer {
    text("hello")
}

#[test]
fn a_head_that_does_not_come_ends_its_connection() {
    for mode in modes() {
        for start_of_head in ["", "P", "PRI * HTTP/2.0\r\n\r\nSM", "GET / HTTP/1.1\r\nHost: a\r\n"]
        {
            let http = Http::new().header_read_timeout(SHORT);
            let server = start(builder(http, hello).dispatch(mode));
            let begun = Instant::now();
            let mut client = Client::of(&server);
            client.send(start_of_head);
            client.rest();
            assert!(begun.elapsed() >= SHORT, "{start_of_head:?}: after {:?}", begun.elapsed());
        }
    }
}

/// One byte in each third of the limit: the limit is for the whole head.
#[test]
fn a_head_that_comes_in_drops_ends_its_connection() {
    let server = start(builder(Http::new().header_read_timeout(SHORT), hello));
    let mut client = Client::of(&server);
    let mut sent = 0;
    let head = b"GET / HTTP/1.1\r\nHost: a\r\nA: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
    for byte in head {
        // sleep: a slow client is what the limit is about
        std::thread::sleep(SHORT / 3);
        sent += 1;
        if client.stream.get_mut().write_all(&[*byte]).is_err() {
            break;
        }
    }
    assert!(sent < head.len(), "it was never ended");
}

#[test]
fn an_idle_connection_ends_and_a_busy_one_does_not() {
    // The next request must come in that time on a loaded machine, too.
    const LONGER: Duration = Duration::from_millis(1500);
    let http = Http::new().header_read_timeout(LONGER);
    let slow = |request: Request<Incoming>| async move {
        netpoll_async::sleep(LONGER + SHORT).await;
        hello(request).await
    };
    let server = start(builder(http, slow));
    let mut client = Client::of(&server);
    for _ in 0..2 {
        client.get("/");
        assert_eq!(client.hear().body, "hello");
    }
    assert_eq!(client.rest(), b"");
}

#[test]
fn too_many_or_too_long_headers_are_refused() {
    let server = start(builder(Http::new(), hello));
    let many = "A: x\r\n".repeat(101);
    let mut client = Client::of(&server);
    client.send(format!("GET / HTTP/1.1\r\n{many}\r\n"));
    assert_eq!(client.hear().status, 431);
    let mut client = Client::of(&server);
    client.send(format!("GET / HTTP/1.1\r\nA: {}", "x".repeat(64 << 10)));
    assert_eq!(client.hear().status, 431);
}

/// Its stream is infinite. The write timeout ends it, and the handler's stream is dropped.
#[test]
fn a_client_that_never_reads_is_ended_by_the_write_timeout() {
    for mode in modes() {
        let (ended, has_ended) = signal();
        let endless = move |_: Request<Incoming>| ready(Ok(endless::<{ 16 << 10 }>(&ended)));
        let server = start(builder(Http::new(), endless).dispatch(mode).write_timeout(SHORT));
        let mut client = Client::of(&server);
        client.get("/");
        has_ended.wait();
    }
}

/// What a handler does not read stays in the kernel: the client's writes come to a stop.
#[test]
fn a_body_that_no_handler_reads_stops_its_client() {
    let gate = Gate::default();
    let waits = gate.clone();
    let unread = move |request: Request<Incoming>| {
        let waits = waits.clone();
        async move {
            waits.wait().await;
            hello(request).await
        }
    };
    let server = start(builder(Http::new(), unread));
    let mut client = Client::of(&server);
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000000\r\n\r\n");
    let stream = client.stream.get_mut();
    stream.set_write_timeout(Some(SHORT)).unwrap();
    let mut sent = 0_u64;
    let error = loop {
        match stream.write(&[0; 8 << 10]) {
            Ok(written) => sent += written as u64,
            Err(error) => break error,
        }
        assert!(sent < 64 << 20, "nothing has stopped it");
    };
    assert_eq!(error.kind(), ErrorKind::WouldBlock);
    gate.open();
    assert_eq!(client.hear().body, "hello");
}

#[test]
fn every_length_of_the_limit_is_taken_or_refused_by_name() {
    for longest in [Some(Duration::MAX), None, Some(Duration::from_nanos(1))] {
        let server = start(builder(Http::new().header_read_timeout(longest), hello));
        let mut client = Client::of(&server);
        if longest == Some(Duration::from_nanos(1)) {
            let _ = client.stream.get_mut().write_all(b"GET / HT");
            client.rest();
            continue;
        }
        client.get("/");
        assert_eq!(client.hear().body, "hello");
    }
    let refused = builder(Http::new().header_read_timeout(Duration::ZERO), hello).build();
    let refused = refused.expect_err("0 is no time").to_string();
    assert!(refused.contains("first_byte_timeout"), "{refused}");
}

/// hyper takes the bytes of a body from the connection, and still they count as a part of it.
#[test]
fn a_body_that_trickles_is_cut_by_the_receive_rate_and_silence_between_requests_is_not() {
    let rate = ReceiveRate { bytes: 100, per: SHORT * 3 };
    let collects = |request: Request<Incoming>| async move {
        let body = request.into_body().collect().await;
        text(body.map_or_else(|_| Bytes::new(), |whole| whole.to_bytes()))
    };
    for mode in modes() {
        let server = start(builder(Http::new(), collects).dispatch(mode).min_receive_rate(rate));
        let (mut idle, mut trickles) = (Client::of(&server), Client::of(&server));
        idle.get("/");
        assert_eq!(idle.hear().status, 200);
        trickles.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n");
        let begun = Instant::now();
        while trickles.stream.get_mut().write_all(b"x").is_ok() {
            assert!(begun.elapsed() < crate::util::SOON, "it was never ended");
            // sleep: the pace of the trickle, 15 bytes where 100 are asked for
            std::thread::sleep(SHORT / 5);
        }
        assert!(begun.elapsed() >= rate.per, "after {:?}", begun.elapsed());
        // sleep: two spans without a byte
        std::thread::sleep(SHORT * 7);
        idle.get("/");
        assert_eq!(idle.hear().status, 200);
    }
}
