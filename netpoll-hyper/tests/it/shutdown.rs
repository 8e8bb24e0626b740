//! What a shutdown does to connections of HTTP.

use std::convert::Infallible;
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http::{Request, Response};
use http_body_util::StreamBody;
use hyper::body::{Frame, Incoming};
use netpoll_hyper::Http;

use crate::util::{Client, Gate, SOON, SaysDrop, builder, modes, signal, start, text};

#[test]
fn a_shutdown_ends_idle_connections_and_sends_answers_that_were_begun() {
    for mode in modes() {
        let (begun, has_begun) = signal();
        let gate = Gate::default();
        let waits = gate.clone();
        let answer = move |_: Request<Incoming>| {
            let (begun, waits) = (begun.clone(), waits.clone());
            async move {
                begun.send(()).expect("the test waits");
                waits.wait().await;
                text("late")
            }
        };
        let server = start(builder(Http::new(), answer).dispatch(mode));
        let (mut fresh, mut used, mut busy) =
            (Client::of(&server), Client::of(&server), Client::of(&server));
        gate.open();
        used.get("/");
        assert_eq!(used.hear().body, "late");
        has_begun.wait();
        gate.close();
        busy.get("/");
        has_begun.wait();
        server.shutdown(SOON);
        assert_eq!(used.rest(), b"");
        assert_eq!(fresh.rest(), b"");
        gate.open();
        // It says `connection: close` where the shutdown has reached it before the answer.
        assert_eq!(busy.hear().body, "late");
        assert_eq!(busy.rest(), b"");
        let report = server.wait().unwrap();
        assert_eq!(report.aborted, 0, "{report:?}");
    }
}

#[test]
fn a_shutdown_lets_a_streaming_body_end() {
    for mode in modes() {
        let gate = Gate::default();
        let waits = gate.clone();
        let (begun, has_begun) = signal();
        let answer = move |_: Request<Incoming>| {
            let (begun, waits) = (begun.clone(), waits.clone());
            let pieces = stream::unfold(0, move |at| {
                let (begun, waits) = (begun.clone(), waits.clone());
                async move {
                    if at == 1 {
                        begun.send(()).expect("the test waits");
                        waits.wait().await;
                    }
                    let piece = Ok::<_, Infallible>(Frame::data(Bytes::from_static(b"piece")));
                    (at < 3).then_some((piece, at + 1))
                }
            });
            async { Ok(Response::new(StreamBody::new(pieces))) }
        };
        let server = start(builder(Http::new(), answer).dispatch(mode));
        let mut client = Client::of(&server);
        client.get("/");
        has_begun.wait();
        server.shutdown(SOON);
        gate.open();
        let all = String::from_utf8(client.rest()).unwrap();
        assert!(all.ends_with("5\r\npiece\r\n5\r\npiece\r\n5\r\npiece\r\n0\r\n\r\n"), "{all}");
        assert_eq!(server.wait().unwrap().aborted, 0);
    }
}

#[test]
fn the_deadline_ends_what_does_not_end_by_itself() {
    for mode in modes() {
        let (begun, has_begun) = signal();
        let (ended, has_ended) = signal();
        let answer = move |_: Request<Incoming>| {
            let (begun, guard) = (begun.clone(), SaysDrop(ended.clone()));
            async move {
                let _guard = guard;
                begun.send(()).expect("the test waits");
                std::future::pending::<()>().await;
                text("never")
            }
        };
        let server = start(builder(Http::new(), answer).dispatch(mode));
        let mut client = Client::of(&server);
        client.get("/");
        has_begun.wait();
        let (done, is_done) = channel();
        thread::spawn(move || {
            server.shutdown(Duration::from_millis(50));
            done.send(server.wait().unwrap()).unwrap();
        });
        assert_eq!(is_done.recv_timeout(SOON).unwrap().aborted, 1);
        has_ended.wait();
        assert_eq!(client.rest(), b"");
    }
}
