//! The future of one connection: it finds the version, and drives hyper until the connection ends
//! or a shutdown has let it end.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};

use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use hyper::server::conn::http1::UpgradeableConnection;
use hyper::server::conn::http2;
use netpoll_async::{AsyncConnection, Signalled, timeout};
use netpoll_core::Handle;
use tower_service::Service;

use super::Http;
use super::requests::{CountedService, Idle, IdleWatch, Requests};
use super::version::{Version, detect};
use crate::io::NetpollIo;
use crate::service::{BoxError, PeerAddr, of_connection};
use crate::timer::NetpollTimer;

/// Serves one connection.
pub(crate) async fn serve<S, B>(
    mut connection: AsyncConnection,
    http: Arc<Http>,
    service: S,
) -> Result<(), BoxError>
where
    S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Into<BoxError>,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    let version = first(&mut connection, &http).await?;
    let stop = Stop::new(&connection);
    let peer = http.peer_addr.then(|| PeerAddr(connection.peer_addr().clone()));
    let service = of_connection(service, peer);
    // hyper keeps the parts of requests itself. A client of HTTP/2 also sends what has no answer.
    let counts = (version == Version::Http1).then(|| connection.count_taken());
    if version == Version::Http2 {
        // A read always waits, whatever the client does.
        connection.set_read_timeout(None);
    }
    let stream = NetpollIo::new(connection);
    let outcome = match version {
        Version::None => return Ok(()),
        Version::Http1 => {
            let _counts = counts;
            let mut builder = http.http1.clone();
            builder.timer(NetpollTimer::new()).header_read_timeout(http.header_read_timeout);
            let driven = pin!(builder.serve_connection(stream, service).with_upgrades());
            drive(driven, stop, None, UpgradeableConnection::graceful_shutdown).await
        }
        Version::Http2 => {
            let mut builder = http.http2.clone();
            builder.timer(NetpollTimer::new());
            let requests = Arc::<Requests>::default();
            let service = CountedService::new(service, requests.clone());
            let idle = http.http2_idle_timeout.map(|time| Box::new(IdleWatch::new(requests, time)));
            // In a box, so that the future of an HTTP/1 connection is not as large as this.
            let mut driven = Box::pin(builder.serve_connection(stream, service));
            drive(driven.as_mut(), stop, idle, http2::Connection::graceful_shutdown).await
        }
    };
    outcome.map_err(BoxError::from)
}

/// The version, within the time that a head may take. The first byte has a limit of its own, so
/// only a connection that begins as HTTP/2 would, and goes on slowly, costs a timer.
async fn first(connection: &mut AsyncConnection, http: &Http) -> Result<Version, BoxError> {
    connection.fill_buf().await?;
    let mut detected = pin!(detect(connection));
    if let Poll::Ready(version) = poll_once(detected.as_mut()).await {
        return Ok(version?);
    }
    match http.header_read_timeout {
        Some(time) => Ok(timeout(time, detected).await??),
        None => Ok(detected.await?),
    }
}

async fn poll_once<F: Future>(mut future: Pin<&mut F>) -> Poll<F::Output> {
    poll_fn(|context| Poll::Ready(future.as_mut().poll(context))).await
}

/// Polls what drives a connection until it ends. When a shutdown begins, or the client has been
/// idle, `end` has it end after the requests that it has.
async fn drive<F>(
    mut driven: Pin<&mut F>,
    mut stop: Stop,
    mut idle: Option<Box<IdleWatch>>,
    end: impl Fn(Pin<&mut F>),
) -> hyper::Result<()>
where
    F: Future<Output = hyper::Result<()>>,
{
    let mut is_told = false;
    poll_fn(|context| {
        let idle = idle.as_mut().map_or(Idle::No, |idle| idle.poll(context));
        if idle == Idle::Over {
            return Poll::Ready(Ok(()));
        }
        if !is_told && (stop.poll(context) || idle == Idle::Told) {
            is_told = true;
            end(driven.as_mut());
        }
        driven.as_mut().poll(context)
    })
    .await
}

/// Ready when a shutdown has begun. The waker of a connection's own future never changes, so all
/// polls but the first cost two loads.
struct Stop {
    handle: Handle,
    waits: Signalled,
    is_registered: bool,
}

impl Stop {
    fn new(connection: &AsyncConnection) -> Self {
        let (handle, waits) = (connection.handle(), connection.shutting_down());
        Self { handle, waits, is_registered: false }
    }

    fn poll(&mut self, context: &mut Context<'_>) -> bool {
        if self.is_registered {
            return self.handle.is_shutting_down();
        }
        self.is_registered = true;
        Pin::new(&mut self.waits).poll(context).is_ready()
    }
}
