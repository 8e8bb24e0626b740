//! What hostile clients send: neither a panic nor another client's loss comes of it.

use http::Request;
use hyper::body::Incoming;
use netpoll_hyper::Http;

use crate::frames::{self, GOAWAY, frame, reset};
use crate::util::{Client, builder, modes, start, text};

async fn hello(_: Request<Incoming>) -> crate::util::Answer {
    text("hello")
}

async fn never(_: Request<Incoming>) -> crate::util::Answer {
    std::future::pending().await
}

#[test]
fn streams_that_are_reset_at_once_end_their_connection() {
    for mode in modes() {
        let server = start(builder(Http::new(), never_or_hello).dispatch(mode));
        let mut other = Client::of(&server);
        request_until_the_end(frames::Client::of(&server), 10_000, reset);
        other.get("/hello");
        assert_eq!(other.hear().body, "hello");
    }
}

/// Nothing but the connections that sent it may end.
#[test]
fn nonsense_ends_the_connections_that_send_it() {
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    let http2 = |rest: &[u8]| [&preface[..], rest].concat();
    let cases = [
        vec![0; 100],
        vec![0xff; 100],
        b"\r\n\r\n\r\n".to_vec(),
        b"GET\r\n\r\n".to_vec(),
        b"GET / HTTP/9.9\r\n\r\n".to_vec(),
        b"GET / HTTP/1.1\r\nContent-Length: -1\r\n\r\n".to_vec(),
        b"GET / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n".to_vec(),
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n".to_vec(),
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n".to_vec(),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\rx".to_vec(),
        http2(&[0xff; 100]),
        http2(&frame(4, 0, 0, &[1])),
        http2(&frame(1, 5, 2, &[0x82])),
        http2(&frame(1, 5, 1, &[0xff; 50])),
        http2(&frame(8, 0, 0, &0_u32.to_be_bytes())),
        http2(&frame(0, 0, 1, &[0; 100])),
        http2(&[frame(4, 0, 0, &[]), frame(9, 4, 1, &[])].concat()),
    ];
    for mode in modes() {
        let server = start(builder(Http::new(), hello).dispatch(mode));
        let mut other = Client::of(&server);
        for case in &cases {
            let mut client = Client::of(&server);
            client.send(case);
            client.stream.get_ref().shutdown(std::net::Shutdown::Write).unwrap();
            client.rest();
            other.get("/");
            assert_eq!(other.hear().body, "hello", "after {:?}", case.escape_ascii().to_string());
        }
    }
}

/// More streams at a time than the limit: those above it are refused, the rest is served.
#[test]
fn streams_above_the_limit_are_refused() {
    let http = Http::new().http2(|it| {
        it.max_concurrent_streams(10);
    });
    let server = start(builder(http, never));
    let mut client = frames::Client::of(&server);
    for _ in 0..11 {
        client.get("/");
    }
    let frame = client.next().unwrap();
    assert_eq!((frame.kind, frame.stream), (frames::RST_STREAM, 21));
}

/// What became of a client that sends without end and reads nothing.
#[derive(Debug, PartialEq, Eq)]
enum Flood {
    /// Its connection has ended.
    Ended,
    /// Nothing more is taken from it.
    Stopped,
    /// It was served to its end.
    Taken,
}

/// Sends `first`, and `again` up to so many bytes in all.
fn flood(client: frames::Client, first: &[u8], again: &[u8], most: usize) -> Flood {
    let mut socket = client.socket;
    socket.set_write_timeout(Some(std::time::Duration::from_millis(500))).expect("an option");
    let batch = again.repeat((16 << 10) / again.len() + 1);
    let mut sent = 0;
    let mut next = first;
    while sent < most {
        match std::io::Write::write(&mut socket, next) {
            Ok(written) => sent += written,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return Flood::Stopped,
            Err(_) => return Flood::Ended,
        }
        // Pieces of a frame do not matter: the server ends, stops, or reads them all.
        next = &batch;
    }
    Flood::Taken
}

/// Frames that cost their sender next to nothing. Where each has an answer, the server stops to
/// read when its answers are not read; where a limit of hyper counts them, the connection ends.
#[test]
fn floods_of_http2_are_stopped_or_ended() {
    let (settings, ping) = (frame(4, 0, 0, &[]), frame(6, 0, 0, &[0; 8]));
    let (open, data) = (frame(1, 4, 1, &[0x83, 0x86, 0x84, 0x01, 1, b'a']), frame(0, 0, 1, &[]));
    let (head, more) =
        (frame(1, 1, 1, &[0x82, 0x86, 0x84]), frame(9, 0, 1, &[0, 1, b'a', 1, b'b']));
    let nothing = frame(9, 0, 1, &[]);
    let cases = [
        ("settings", &[][..], &settings, 64 << 20),
        ("pings", &[], &ping, 64 << 20),
        ("continuations", &head, &more, 16 << 20),
        ("empty continuations", &head, &nothing, 16 << 20),
        ("empty data", &open, &data, 16 << 20),
    ];
    for mode in modes() {
        let server = start(builder(Http::new(), never_or_hello).dispatch(mode));
        let mut other = Client::of(&server);
        for (name, first, again, most) in &cases {
            let outcome = flood(frames::Client::of(&server), first, again, *most);
            assert_ne!(outcome, Flood::Taken, "{name}");
            other.get("/hello");
            assert_eq!(other.hear().body, "hello", "after {name}");
        }
        // These have no answer, and cost the server about what they cost the client.
        for again in [frame(2, 0, 1, &[0; 5]), frame(0x42, 0, 0, &[])] {
            flood(frames::Client::of(&server), &[], &again, 1 << 20);
            other.get("/hello");
            assert_eq!(other.hear().body, "hello");
        }
    }
}

/// Opens at most so many streams, each of which `then` ends, until the server takes no more.
fn request_until_the_end(
    mut client: frames::Client,
    streams: usize,
    then: impl Fn(u32) -> Vec<u8>,
) {
    const AT_ONCE: usize = 50;
    for _ in 0..streams / AT_ONCE {
        let mut batch = Vec::new();
        for _ in 0..AT_ONCE {
            let (stream, request) = client.request("/never");
            batch.extend(request);
            batch.extend(then(stream));
        }
        if std::io::Write::write_all(&mut client.socket, &batch).is_err() {
            break;
        }
    }
    let last = std::iter::from_fn(|| client.next()).last().map(|frame| frame.kind);
    assert!(last.is_none_or(|kind| kind == GOAWAY), "{last:?}");
}

async fn never_or_hello(request: Request<Incoming>) -> crate::util::Answer {
    if request.uri().path() == "/hello" { hello(request).await } else { never(request).await }
}

/// Each stream is reset by the server, for a fault of the client, and its handler would go on.
#[test]
fn streams_that_are_reset_for_faults_end_their_connection() {
    for mode in modes() {
        let server = start(builder(Http::new(), never_or_hello).dispatch(mode));
        // A window that grows by nothing is an error of the stream.
        let fault = |stream| frame(8, 0, stream, &0_u32.to_be_bytes());
        request_until_the_end(frames::Client::of(&server), 2_000, fault);
        let mut other = Client::of(&server);
        other.get("/hello");
        assert_eq!(other.hear().body, "hello");
    }
}
