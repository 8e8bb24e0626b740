//! Servers of a test, and clients that send bytes by hand.

use std::convert::Infallible;
use std::future::poll_fn;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::task::{Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http::{Request, Response};
use http_body::Body;
use http_body_util::{Full, StreamBody};
use hyper::body::{Frame, Incoming};
use netpoll_async::AsyncSession;
use netpoll_core::{Dispatch, PoolOptions};
use netpoll_hyper::{BoxError, Http};
use netpoll_server::{EventLoopBuilder, Listener, Running};
use tower::util::ServiceFn;

/// How long a test waits for what must come.
pub(crate) const SOON: Duration = Duration::from_secs(30);

pub(crate) type Answer = Result<Response<Full<Bytes>>, Infallible>;

pub(crate) fn modes() -> [Dispatch; 3] {
    [Dispatch::default(), Dispatch::Inline, Dispatch::Pool(PoolOptions::default())]
}

/// A builder of a server with one loop, whose requests `answer` answers.
pub(crate) fn builder<F, Fut, B>(http: Http, answer: F) -> EventLoopBuilder<AsyncSession>
where
    F: FnMut(Request<Incoming>) -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = Result<Response<B>, Infallible>> + Send + 'static,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    http.event_loop(service(answer)).loops(1)
}

fn service<F>(answer: F) -> ServiceFn<F> {
    tower::service_fn(answer)
}

pub(crate) fn start(builder: EventLoopBuilder<AsyncSession>) -> Running {
    let listener = Listener::bind("tcp", "127.0.0.1:0").expect("a free port");
    builder.build().expect("valid options").spawn(listener).expect("it serves")
}

#[expect(clippy::unnecessary_wraps, reason = "handlers return a result")]
pub(crate) fn text(words: impl Into<Bytes>) -> Answer {
    Ok(Response::new(Full::new(words.into())))
}

/// A client of HTTP/1 by hand.
pub(crate) struct Client {
    pub(crate) stream: BufReader<TcpStream>,
}

/// What came back.
#[derive(Debug)]
pub(crate) struct Heard {
    pub(crate) status: u16,
    pub(crate) body: String,
}

impl Client {
    pub(crate) fn of(server: &Running) -> Self {
        let stream = TcpStream::connect(server.address().to_string()).expect("it listens");
        stream.set_read_timeout(Some(SOON)).expect("a valid time");
        Self { stream: BufReader::new(stream) }
    }

    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.get_mut().write_all(bytes.as_ref()).expect("the server takes it");
    }

    pub(crate) fn get(&mut self, path: &str) {
        self.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"));
    }

    /// The next answer; its body must have a length.
    pub(crate) fn hear(&mut self) -> Heard {
        let head = self.head();
        let status = head.split(' ').nth(1).and_then(|it| it.parse().ok()).expect("a status");
        let length = header(&head, "content-length").map_or(0, |it| it.parse().expect("a number"));
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body).expect("the whole body");
        Heard { status, body: String::from_utf8(body).expect("text") }
    }

    pub(crate) fn head(&mut self) -> String {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            let length = self.stream.read_line(&mut head).expect("a line of the head");
            assert_ne!(length, 0, "the connection has ended after {head:?}");
        }
        head
    }

    /// Ends the connection by a reset.
    pub(crate) fn reset(self) {
        let stream = self.stream.into_inner();
        socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).expect("an option");
    }

    /// What comes until the server ends its stream; an error counts as the end.
    pub(crate) fn rest(&mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        let outcome = self.stream.read_to_end(&mut rest);
        if let Err(error) = outcome {
            assert_ne!(error.kind(), std::io::ErrorKind::WouldBlock, "it was not ended");
        }
        rest
    }
}

fn header<'h>(head: &'h str, name: &str) -> Option<&'h str> {
    let lines = head.lines().filter_map(|line| line.split_once(": "));
    let mut found = lines.filter(|(it, _)| it.eq_ignore_ascii_case(name));
    found.next().map(|(_, value)| value)
}

/// Something that happens in a server, for the thread of the test to wait for.
pub(crate) struct Signal<T>(Receiver<T>);

pub(crate) fn signal<T>() -> (Sender<T>, Signal<T>) {
    let (sender, receiver) = channel();
    (sender, Signal(receiver))
}

impl<T> Signal<T> {
    pub(crate) fn wait(&self) -> T {
        self.0.recv_timeout(SOON).expect("it happens")
    }
}

/// Says when it is dropped, as with the future that holds it.
pub(crate) struct SaysDrop(pub(crate) Sender<()>);

impl Drop for SaysDrop {
    fn drop(&mut self) {
        let _ = self.0.send(());
    }
}

/// An answer whose body has no end, in pieces of `N` bytes. `ended` hears of its drop.
pub(crate) fn endless<const N: usize>(
    ended: &Sender<()>,
) -> Response<impl Body<Data = Bytes, Error = Infallible> + use<N>> {
    let guard = SaysDrop(ended.clone());
    let pieces = stream::repeat_with(move || {
        let _ = &guard;
        Ok(Frame::data(Bytes::from_static(&[b'x'; N])))
    });
    Response::new(StreamBody::new(pieces))
}

/// Futures wait for it until the test opens it.
#[derive(Clone, Default)]
pub(crate) struct Gate(Arc<Mutex<(bool, Vec<Waker>)>>);

impl Gate {
    pub(crate) async fn wait(&self) {
        poll_fn(|context| {
            let mut state = self.0.lock().expect("no lock is poisoned");
            if state.0 {
                return Poll::Ready(());
            }
            state.1.push(context.waker().clone());
            Poll::Pending
        })
        .await;
    }

    pub(crate) fn close(&self) {
        self.0.lock().expect("no lock is poisoned").0 = false;
    }

    pub(crate) fn open(&self) {
        let mut state = self.0.lock().expect("no lock is poisoned");
        state.0 = true;
        state.1.drain(..).for_each(Waker::wake);
    }
}
