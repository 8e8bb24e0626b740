//! Clients of HTTP/2 that are idle, and some that only look so.

use std::convert::Infallible;
use std::future::ready;
use std::io::Write;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::stream;
use http::{Request, Response};
use http_body_util::StreamBody;
use hyper::body::{Frame, Incoming};
use netpoll_hyper::Http;

use crate::frames::{Client, DATA, GOAWAY, HEADERS, SETTINGS, frame};
use crate::util::{builder, endless, modes, signal, start, text};

const SHORT: Duration = Duration::from_millis(100);
const PING: u8 = 6;
const END_HEADERS: u8 = 4;

fn http() -> Http {
    Http::new().http2_idle_timeout(SHORT)
}

async fn path(request: Request<Incoming>) -> crate::util::Answer {
    text(request.uri().path().to_owned())
}

/// What comes until the end, by the kinds of frames.
fn kinds(client: &mut Client) -> Vec<u8> {
    std::iter::from_fn(|| client.next()).map(|frame| frame.kind).collect()
}

#[test]
fn an_idle_client_of_http2_is_told_and_ended() {
    for mode in modes() {
        let server = start(builder(http(), path).dispatch(mode));
        let mut silent = Client::of(&server);
        let mut client = Client::of(&server);
        let stream = client.get("/one");
        assert_eq!(client.bodies(&[stream])[&stream], "/one");
        let begun = Instant::now();
        assert!(kinds(&mut client).iter().all(|kind| *kind == GOAWAY));
        assert!(begun.elapsed() >= SHORT / 2, "after {:?}", begun.elapsed());
        assert_eq!(kinds(&mut silent).first(), Some(&GOAWAY));
    }
}

/// It answers no PING, so hyper would wait for it, and sends them all the time.
#[test]
fn a_client_of_http2_that_only_pings_is_ended() {
    let server = start(builder(http(), path));
    let client = Client::of(&server);
    let mut socket = client.socket;
    let begun = Instant::now();
    let ping = frame(PING, 0, 0, &[0; 8]);
    while socket.write_all(&ping).is_ok() {
        assert!(begun.elapsed() < crate::util::SOON, "it was never ended");
        // sleep: the pace of the pings
        std::thread::sleep(SHORT / 20);
    }
    assert!(begun.elapsed() >= SHORT, "after {:?}", begun.elapsed());
}

/// Neither a handler at work nor a body that is made slowly is the client's silence.
#[test]
fn a_client_of_http2_that_waits_for_an_answer_is_not_idle() {
    let slow = |request: Request<Incoming>| async move {
        netpoll_async::sleep(SHORT * 4).await;
        let path = request.uri().path().to_owned();
        let pieces = stream::unfold(0, move |at| {
            let piece = format!("{path}{at} ");
            async move {
                netpoll_async::sleep(SHORT * 2).await;
                (at < 3).then(|| (Ok::<_, Infallible>(Frame::data(Bytes::from(piece))), at + 1))
            }
        });
        Ok(Response::new(StreamBody::new(pieces)))
    };
    for mode in modes() {
        let server = start(builder(http(), slow).dispatch(mode));
        let mut client = Client::of(&server);
        let stream = client.get("/");
        assert_eq!(client.bodies(&[stream])[&stream], "/0 /1 /2 ");
    }
}

/// Each look finds it without a stream, but it has had some since the last.
#[test]
fn a_client_of_http2_that_asks_now_and_then_is_not_idle() {
    let http = Http::new().http2_idle_timeout(SHORT * 10);
    let server = start(builder(http, path));
    let mut client = Client::of(&server);
    for _ in 0..25 {
        let stream = client.get("/again");
        assert_eq!(client.bodies(&[stream])[&stream], "/again");
        // sleep: a tenth of the limit, for two and a half of it
        std::thread::sleep(SHORT);
    }
}

/// Its window has no room, so nothing is ever queued that the write timeout could see.
#[test]
fn a_client_of_http2_that_opens_no_window_is_ended() {
    for mode in modes() {
        let (ended, has_ended) = signal();
        let endless = move |_: Request<Incoming>| ready(Ok(endless::<1024>(&ended)));
        let server = start(builder(http(), endless).dispatch(mode));
        let mut client = Client::of(&server);
        // SETTINGS_INITIAL_WINDOW_SIZE: 0.
        client.send(&frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0]));
        client.get("/");
        has_ended.wait();
        while client.next().is_some() {}
    }
}

/// A tunnel has no request under way, and may be silent for long.
#[test]
fn a_tunnel_of_http2_is_not_idle() {
    let tunnel = |mut request: Request<Incoming>| async move {
        let upgrade = hyper::upgrade::on(&mut request);
        netpoll_async::spawn(async move {
            let upgraded = upgrade.await.expect("a tunnel");
            echo_once(upgraded).await;
        })
        .detach();
        text("")
    };
    let server = start(builder(http(), tunnel));
    let mut client = Client::of(&server);
    // `:method: CONNECT` and `:authority: a`, which no table keeps.
    let block = [&[0x02, 7][..], b"CONNECT", &[0x01, 1, b'a']].concat();
    client.send(&frame(HEADERS, END_HEADERS, 1, &block));
    assert_eq!(client.next().expect("a head").kind, HEADERS);
    // sleep: several times the limit
    std::thread::sleep(SHORT * 4);
    client.send(&frame(DATA, 0, 1, b"hello"));
    let answer = client.next().expect("the tunnel is there");
    assert_eq!((answer.kind, &answer.payload[..]), (DATA, &b"hello"[..]));
}

async fn echo_once(mut upgraded: hyper::upgrade::Upgraded) {
    use hyper::rt::{Read, ReadBuf, Write};
    use std::future::poll_fn;
    use std::pin::Pin;

    let mut room = [0; 5];
    let mut heard = ReadBuf::new(&mut room);
    poll_fn(|context| Pin::new(&mut upgraded).poll_read(context, heard.unfilled()))
        .await
        .expect("a word");
    let word = heard.filled().to_vec();
    poll_fn(|context| Pin::new(&mut upgraded).poll_write(context, &word))
        .await
        .expect("it is sent");
    poll_fn(|context| Pin::new(&mut upgraded).poll_flush(context)).await.expect("it is sent");
}

#[test]
fn every_length_of_the_idle_timeout_is_taken() {
    for longest in [Some(Duration::MAX), None, Some(Duration::from_secs(3600))] {
        let server = start(builder(Http::new().http2_idle_timeout(longest), path));
        let mut client = Client::of(&server);
        let stream = client.get("/a");
        assert_eq!(client.bodies(&[stream])[&stream], "/a");
    }
    let server = start(builder(Http::new().http2_idle_timeout(Duration::ZERO), path));
    let mut client = Client::of(&server);
    assert!(kinds(&mut client).iter().all(|kind| *kind == GOAWAY));
}
