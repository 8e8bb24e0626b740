//! Which requests of an HTTP/2 connection are under way, and when its client has been idle for too
//! long.
//!
//! ```text
//!     service ─► CountedAnswer ─► CountedBody ─► hyper        count in Requests, as they pass
//!     the connection's future ─► IdleWatch                    looks at the counts now and then
//! ```

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::{Method, Request, Response};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::service::Service;
use netpoll_async::{Sleep, sleep};
use netpoll_core::clock;
use pin_project_lite::pin_project;

/// The looks in one idle timeout: a client is told of its end at most one such part late.
const LOOKS: u32 = 4;
const LEAST: Duration = Duration::from_millis(1);

/// The counts of one connection. No other memory depends on them.
#[derive(Debug, Default)]
pub(crate) struct Requests {
    begun: AtomicU64,
    ended: AtomicU64,
    /// Pieces of answers that hyper has taken, and those for which it has asked for the next one.
    pieces: AtomicU64,
    sent: AtomicU64,
}

/// What a look sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Seen {
    begun: u64,
    ended: u64,
    pieces: u64,
    sent: u64,
}

/// One request, from its head to the end of its answer.
struct Counted {
    requests: Arc<Requests>,
    /// hyper has a piece for which the client has no room yet.
    is_held: bool,
}

/// A service whose requests are counted.
#[derive(Debug)]
pub(crate) struct CountedService<S> {
    service: S,
    requests: Arc<Requests>,
}

pin_project! {
    /// See the module.
    pub(crate) struct CountedAnswer<F> {
        #[pin]
        answer: F,
        counted: Option<Counted>,
    }
}

pin_project! {
    /// See the module.
    pub(crate) struct CountedBody<B> {
        #[pin]
        body: B,
        counted: Option<Counted>,
    }
}

/// What is to be done about a client that was idle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Idle {
    No,
    /// It is told to go.
    Told,
    /// It was told, and has not gone in the same time again.
    Over,
}

/// Looks at the counts of a connection.
pub(crate) struct IdleWatch {
    requests: Arc<Requests>,
    period: Duration,
    sleep: Sleep,
    before: Seen,
    quiet_looks: u32,
}

impl Requests {
    fn see(&self) -> Seen {
        let see = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Seen {
            begun: see(&self.begun),
            ended: see(&self.ended),
            pieces: see(&self.pieces),
            sent: see(&self.sent),
        }
    }
}

impl Seen {
    /// Nothing is under way, or an answer waits for its client.
    fn waits_for_client(self) -> bool {
        self.begun == self.ended || self.pieces != self.sent
    }
}

impl Counted {
    fn hold(&mut self) {
        self.is_held = true;
        self.requests.pieces.fetch_add(1, Ordering::Relaxed);
    }

    fn pass_on(&mut self) {
        if std::mem::take(&mut self.is_held) {
            self.requests.sent.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.pass_on();
        self.requests.ended.fetch_add(1, Ordering::Relaxed);
    }
}

impl<S> CountedService<S> {
    pub(crate) fn new(service: S, requests: Arc<Requests>) -> Self {
        Self { service, requests }
    }
}

impl<S, B> Service<Request<Incoming>> for CountedService<S>
where
    S: Service<Request<Incoming>, Response = Response<B>>,
{
    type Response = Response<CountedBody<B>>;
    type Error = S::Error;
    type Future = CountedAnswer<S::Future>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        self.requests.begun.fetch_add(1, Ordering::Relaxed);
        // A tunnel outlives its answer, so its connection is never idle.
        let is_tunnel = request.method() == Method::CONNECT;
        let counted = || Counted { requests: self.requests.clone(), is_held: false };
        let counted = (!is_tunnel).then(counted);
        CountedAnswer { answer: self.service.call(request), counted }
    }
}

impl<F, B, E> Future for CountedAnswer<F>
where
    F: Future<Output = Result<Response<B>, E>>,
{
    type Output = Result<Response<CountedBody<B>>, E>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let answer = ready!(this.answer.poll(context));
        let counted = this.counted.take();
        Poll::Ready(answer.map(|answer| answer.map(|body| CountedBody { body, counted })))
    }
}

impl<B: Body> Body for CountedBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let this = self.project();
        if let Some(counted) = this.counted {
            counted.pass_on();
        }
        let polled = this.body.poll_frame(context);
        if let (Poll::Ready(Some(Ok(_))), Some(counted)) = (&polled, this.counted) {
            counted.hold();
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl IdleWatch {
    pub(crate) fn new(requests: Arc<Requests>, timeout: Duration) -> Self {
        let period = (timeout / LOOKS).max(LEAST);
        let before = requests.see();
        Self { requests, period, sleep: sleep(period), before, quiet_looks: 0 }
    }

    /// For the future of the connection: looks if it is time, and is woken for the next look.
    pub(crate) fn poll(&mut self, context: &mut Context<'_>) -> Idle {
        let mut idle = Idle::No;
        while Pin::new(&mut self.sleep).poll(context).is_ready() {
            self.sleep.reset(clock::later(clock::now(), self.period));
            idle = self.look();
        }
        idle
    }

    fn look(&mut self) -> Idle {
        let now = self.requests.see();
        let is_quiet = now == self.before && now.waits_for_client();
        self.before = now;
        self.quiet_looks = if is_quiet { self.quiet_looks + 1 } else { 0 };
        match self.quiet_looks {
            LOOKS => Idle::Told,
            looks if looks >= 2 * LOOKS => Idle::Over,
            _ => Idle::No,
        }
    }
}
