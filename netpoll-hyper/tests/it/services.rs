//! Services that are not ready at once, or never.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use http::{Request, Response};
use hyper::body::Incoming;
use netpoll_hyper::Http;
use tower::Service;

use crate::util::{Client, Gate, SOON, modes, signal, start};

/// Is ready when the gate is open; after that it fails if it `fails`.
#[derive(Clone)]
struct Gated {
    gate: Gate,
    fails: bool,
    asked: std::sync::mpsc::Sender<()>,
}

impl Service<Request<Incoming>> for Gated {
    type Response = Response<String>;
    type Error = io::Error;
    type Future = std::future::Ready<io::Result<Self::Response>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut opens = Box::pin(self.gate.wait());
        let opened = Pin::new(&mut opens).poll(context);
        drop(opens);
        self.asked.send(()).expect("the test waits");
        match opened {
            Poll::Ready(()) if self.fails => Poll::Ready(Err(io::Error::other("as it should"))),
            Poll::Ready(()) => Poll::Ready(Ok(())),
            Poll::Pending => Poll::Pending,
        }
    }

    fn call(&mut self, _: Request<Incoming>) -> Self::Future {
        std::future::ready(Ok(Response::new("answer".into())))
    }
}

#[test]
fn a_request_waits_until_its_service_is_ready() {
    for mode in modes() {
        let (asked, is_asked) = signal();
        let gate = Gate::default();
        let service = Gated { gate: gate.clone(), fails: false, asked };
        let server = start(Http::new().event_loop(service).loops(1).dispatch(mode));
        let mut client = Client::of(&server);
        client.get("/");
        // Once to see whether it is ready, and once to be woken.
        is_asked.wait();
        is_asked.wait();
        gate.open();
        assert_eq!(client.hear().body, "answer");
        client.get("/");
        assert_eq!(client.hear().body, "answer");
    }
}

#[test]
fn a_service_that_fails_ends_the_connection_alone() {
    for mode in modes() {
        let (asked, _is_asked) = signal();
        let gate = Gate::default();
        gate.open();
        let service = Gated { gate, fails: true, asked };
        let server = start(Http::new().event_loop(service).loops(1).dispatch(mode));
        for _ in 0..2 {
            let mut client = Client::of(&server);
            client.get("/");
            assert_eq!(client.rest(), b"");
        }
        server.shutdown(SOON);
        assert_eq!(server.wait().expect("it served").aborted, 0);
    }
}
