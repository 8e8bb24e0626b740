//! HTTP/2: the streams of a connection are served side by side.

use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};

use http::{Request, Version};
use hyper::body::Incoming;
use netpoll_hyper::Http;

use crate::frames::{Client, GOAWAY, RST_STREAM, reset};
use crate::util::{Gate, SOON, SaysDrop, builder, modes, signal, start, text};

async fn path(request: Request<Incoming>) -> crate::util::Answer {
    assert_eq!(request.version(), Version::HTTP_2);
    text(request.uri().path().to_owned())
}

#[test]
fn streams_of_one_connection_are_answered_in_each_mode() {
    for mode in modes() {
        let server = start(builder(Http::new(), path).dispatch(mode));
        let mut client = Client::of(&server);
        for _ in 0..20 {
            let streams: Vec<u32> = (0..100).map(|at| client.get(&format!("/{at}"))).collect();
            let bodies = client.bodies(&streams);
            for (at, stream) in streams.iter().enumerate() {
                assert_eq!(bodies[stream], format!("/{at}"));
            }
        }
    }
}

/// The others of the same connection are answered while one blocks its thread.
#[test]
fn a_stream_that_blocks_holds_up_no_other_of_its_connection() {
    let (begun, has_begun) = signal();
    let (go_on, may_go_on) = channel();
    let may_go_on = Arc::new(Mutex::new(may_go_on));
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
    let mut client = Client::of(&server);
    let blocked = client.get("/blocks");
    has_begun.wait();
    let others: Vec<u32> = (0..10).map(|_| client.get("/other")).collect();
    assert_eq!(client.bodies(&others).len(), 10);
    go_on.send(()).unwrap();
    assert_eq!(client.bodies(&[blocked])[&blocked], "/blocks");
}

#[test]
fn a_stream_whose_handler_panics_is_reset_alone() {
    for mode in modes() {
        let answer = |request: Request<Incoming>| async move {
            assert_ne!(request.uri().path(), "/panics", "as the test wants");
            path(request).await
        };
        let server = start(builder(Http::new(), answer).dispatch(mode));
        let mut client = Client::of(&server);
        let panics = client.get("/panics");
        let frame = client.next().unwrap();
        assert_eq!((frame.kind, frame.stream), (RST_STREAM, panics));
        let after = client.get("/after");
        assert_eq!(client.bodies(&[after])[&after], "/after");
    }
}

#[test]
fn a_stream_that_is_reset_drops_its_handler() {
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
        let stream = client.get("/");
        has_begun.wait();
        client.send(&reset(stream));
        has_ended.wait();
        // The end of the connection drops those of all its streams.
        client.get("/");
        has_begun.wait();
        drop(client);
        has_ended.wait();
    }
}

#[test]
fn a_shutdown_says_goaway_and_answers_what_was_begun() {
    for mode in modes() {
        let (begun, has_begun) = signal();
        let gate = Gate::default();
        let waits = gate.clone();
        let answer = move |request: Request<Incoming>| {
            let (begun, waits) = (begun.clone(), waits.clone());
            async move {
                begun.send(()).expect("the test waits");
                waits.wait().await;
                path(request).await
            }
        };
        let server = start(builder(Http::new(), answer).dispatch(mode));
        let mut client = Client::of(&server);
        let stream = client.get("/late");
        has_begun.wait();
        server.shutdown(SOON);
        assert_eq!(client.next().unwrap().kind, GOAWAY);
        gate.open();
        let mut said = String::new();
        while let Some(frame) = client.next() {
            if frame.stream == stream && frame.kind == crate::frames::DATA {
                said += std::str::from_utf8(&frame.payload).unwrap();
            }
        }
        assert_eq!(said, "/late");
        assert_eq!(server.wait().unwrap().aborted, 0);
    }
}

/// Neither the executor of hyper nor a task of its own takes a handler elsewhere.
#[test]
fn streams_are_polled_where_the_mode_says() {
    let thread = |_: Request<Incoming>| async move {
        netpoll_async::yield_now().await;
        text(std::thread::current().name().unwrap_or_default().to_owned())
    };
    let [_, inline, pool] = modes();
    for (mode, name) in [(inline, "netpoll-loop"), (pool, "netpoll-work")] {
        let server = start(builder(Http::new(), thread).loops(2).dispatch(mode));
        let mut client = Client::of(&server);
        let streams: Vec<u32> = (0..10).map(|_| client.get("/")).collect();
        for at in client.bodies(&streams).values() {
            assert!(at.starts_with(name), "on {at}, not on a {name}");
        }
    }
}
