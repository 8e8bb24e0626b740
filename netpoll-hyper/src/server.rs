//! Servers of HTTP: the options, and the event loop that serves a service with them.

mod connection;
mod requests;
mod version;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use netpoll_async::{AsyncConnection, AsyncSession, serve_async};
use netpoll_core::Result;
use netpoll_server::{EventLoopBuilder, Listeners, Report};
use tower_service::Service;

use crate::executor::NetpollExecutor;
use crate::service::BoxError;

/// Serves HTTP/1 and HTTP/2 on these listeners with the defaults of [`Http`], until a shutdown.
///
/// It blocks the calling thread. [`Http::event_loop`] has the options of the loops, and the
/// shutdown.
///
/// # Errors
/// Those of [`EventLoop::serve`](netpoll_server::EventLoop::serve).
pub fn serve<S, B>(listeners: impl Into<Listeners>, service: S) -> Result<Report>
where
    S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + Sync + 'static,
    S::Future: Send,
    S::Error: Into<BoxError>,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    Http::new().event_loop(service).build()?.serve(listeners)
}

/// The options of a server of HTTP.
///
/// A connection speaks HTTP/2 if it begins with the preface of HTTP/2, as clients do with prior
/// knowledge and after ALPN, else HTTP/1. Over TLS let the server offer `h2` and `http/1.1` by
/// ALPN.
///
/// The limits that hold without another word:
///
/// | What | Limit |
/// | --- | --- |
/// | the head of a request, and the silence before it | [30 s](Self::header_read_timeout) |
/// | headers of a request of HTTP/1 | 100 |
/// | bytes that HTTP/1 buffers, heads included | 64 KiB |
/// | streams of an HTTP/2 connection at a time | 200 |
/// | bytes of headers of an HTTP/2 request | 16 KiB |
/// | streams that a peer may reset before they were accepted | 20, then the connection ends |
/// | streams that are reset for a fault of the peer | 1024, then the connection ends |
/// | an HTTP/2 client without a stream | [60 s](Self::http2_idle_timeout) |
/// | the body of a request | none: what the handler does not read stays in the kernel |
///
/// axum limits what its extractors collect to 2 MB; elsewhere `http_body_util::Limited` does so. A
/// client that reads nothing is ended by the write timeout of the loop, one that sends a body
/// slowly over HTTP/1 by its [receive rate](EventLoopBuilder::min_receive_rate). That rate, and the
/// read timeout of the loop, say nothing about the streams of HTTP/2: a handler that reads a body
/// takes [`timeout`](netpoll_async::timeout()).
///
/// # What happens to a request
/// - **The handler blocks**: as in a callback. Under `Dispatch::HandOff` another thread goes on
///   with the loop. The requests of one HTTP/1 connection have an order, so those behind it wait;
///   those of an HTTP/2 connection are tasks of their own, and do not.
/// - **The handler panics**: HTTP/1 ends the connection, HTTP/2 resets the stream. All others go
///   on.
/// - **The client resets the connection**: the handler's future is dropped at its next `await`.
/// - **The client ends its stream** (FIN), as `nc -N` does: the answer is sent all the same.
/// - **A shutdown begins**: idle connections end, HTTP/2 says GOAWAY, answers that were begun are
///   sent, and requests that are behind them are not taken. The deadline ends what is left.
#[derive(Clone)]
pub struct Http {
    http1: http1::Builder,
    http2: http2::Builder<NetpollExecutor>,
    header_read_timeout: Option<Duration>,
    http2_idle_timeout: Option<Duration>,
    peer_addr: bool,
}

/// Bytes that HTTP/1 buffers of a connection, and so the longest head.
const BUFFERED_MAX: usize = 64 << 10;
/// hyper adds a timeout to the time, which the longest would overflow.
const A_CENTURY: Duration = Duration::from_secs(100 * 365 * 86_400);
const HEADER_READ_TIMEOUT: Duration = Duration::from_secs(30);
const HTTP2_IDLE_TIMEOUT: Duration = Duration::from_secs(60);
const STREAMS_MAX: u32 = 200;
const HEADERS_MAX: u32 = 16 << 10;
const RESET_BEFORE_ACCEPT_MAX: usize = 20;
const RESET_FOR_FAULTS_MAX: usize = 1024;
/// Bytes of an answer that wait in hyper for the window of their stream.
const SEND_BUFFER_MAX: usize = 400 << 10;

impl Http {
    /// The defaults.
    pub fn new() -> Self {
        let mut http1 = http1::Builder::new();
        http1.half_close(true).max_buf_size(BUFFERED_MAX).header_read_timeout(None);
        // Whatever the defaults of hyper become.
        let mut http2 = http2::Builder::new(NetpollExecutor);
        http2
            .max_concurrent_streams(STREAMS_MAX)
            .max_header_list_size(HEADERS_MAX)
            .max_pending_accept_reset_streams(RESET_BEFORE_ACCEPT_MAX)
            .max_local_error_reset_streams(RESET_FOR_FAULTS_MAX)
            .max_send_buf_size(SEND_BUFFER_MAX);
        Self {
            http1,
            http2,
            header_read_timeout: Some(HEADER_READ_TIMEOUT),
            http2_idle_timeout: Some(HTTP2_IDLE_TIMEOUT),
            peer_addr: false,
        }
    }

    /// How long a connection may take to send the head of a request, from when it is idle: so it
    /// also ends idle connections of HTTP/1. On HTTP/2 it bounds the first bytes of a connection,
    /// and [`http2_idle_timeout`](Self::http2_idle_timeout) what follows. Default 30 s; `None` is
    /// for ever.
    #[must_use]
    pub fn header_read_timeout(mut self, timeout: impl Into<Option<Duration>>) -> Self {
        self.header_read_timeout = timeout.into().map(|timeout| timeout.min(A_CENTURY));
        self
    }

    /// How long a client of HTTP/2 may be idle: it has no stream, or takes nothing of an answer for
    /// which its window has no room. Then it is told so (GOAWAY), and its connection ends after the
    /// same time again, if not before. The connection looks four times in that span, so it may be a
    /// quarter more; 4 ms is the least.
    ///
    /// PINGs of the client do not count. While a handler is at work the client is not idle,
    /// however long that takes; if it has vanished meanwhile, `keep_alive_interval` of
    /// [`http2`](Self::http2) or `TCP_KEEPALIVE` finds out. Default 60 s; `None` is for ever.
    #[must_use]
    pub fn http2_idle_timeout(mut self, timeout: impl Into<Option<Duration>>) -> Self {
        self.http2_idle_timeout = timeout.into();
        self
    }

    /// Whether each request has its client's address, [`PeerAddr`](crate::PeerAddr), among its
    /// extensions; this costs two allocations. Default: no.
    #[must_use]
    pub fn peer_addr(mut self, is_added: bool) -> Self {
        self.peer_addr = is_added;
        self
    }

    /// Sets options of hyper for HTTP/1, beside `timer` and `header_read_timeout`, which are set
    /// here.
    ///
    /// # Panics
    /// As the setters of hyper do.
    #[must_use]
    pub fn http1(mut self, set: impl FnOnce(&mut http1::Builder)) -> Self {
        set(&mut self.http1);
        self
    }

    /// Sets options of hyper for HTTP/2, beside `timer`, which is set here.
    ///
    /// # Panics
    /// As the setters of hyper do.
    #[must_use]
    pub fn http2(mut self, set: impl FnOnce(&mut http2::Builder<NetpollExecutor>)) -> Self {
        set(&mut self.http2);
        self
    }

    /// The builder of an event loop that serves `service`: for the number of loops, the limits of
    /// connections, a shutdown.
    ///
    /// Each connection has a clone of `service`, and each request one more. Its futures are polled
    /// where callbacks run.
    ///
    /// ```
    /// use std::convert::Infallible;
    /// use std::io::{Read, Write};
    /// use std::time::Duration;
    ///
    /// use http::{Request, Response};
    /// use netpoll_hyper::Http;
    ///
    /// # #[derive(Clone)]
    /// # struct Hello;
    /// # impl tower_service::Service<Request<hyper::body::Incoming>> for Hello {
    /// #     type Response = Response<String>;
    /// #     type Error = Infallible;
    /// #     type Future = std::future::Ready<Result<Self::Response, Infallible>>;
    /// #     fn poll_ready(
    /// #         &mut self,
    /// #         _: &mut std::task::Context<'_>,
    /// #     ) -> std::task::Poll<Result<(), Infallible>> {
    /// #         std::task::Poll::Ready(Ok(()))
    /// #     }
    /// #     fn call(&mut self, _: Request<hyper::body::Incoming>) -> Self::Future {
    /// #         std::future::ready(Ok(Response::new("hello".into())))
    /// #     }
    /// # }
    /// let event_loop = Http::new().event_loop(Hello).loops(1).build()?;
    /// let server = event_loop.spawn(netpoll_server::Listener::bind("tcp", "127.0.0.1:0")?)?;
    ///
    /// let mut client = std::net::TcpStream::connect(server.address().to_string())?;
    /// client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")?;
    /// let mut answer = String::new();
    /// client.read_to_string(&mut answer)?;
    /// assert!(answer.ends_with("\r\n\r\nhello"));
    ///
    /// server.shutdown(Duration::from_secs(1));
    /// server.wait()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn event_loop<S, B>(self, service: S) -> EventLoopBuilder<AsyncSession>
    where
        S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + Sync + 'static,
        S::Future: Send,
        S::Error: Into<BoxError>,
        B: Body + Send + 'static,
        B::Data: Send,
        B::Error: Into<BoxError>,
    {
        let first_byte = self.header_read_timeout;
        let http = Arc::new(self);
        serve_async(move |connection: AsyncConnection| {
            connection::serve(connection, http.clone(), service.clone())
        })
        .first_byte_timeout(first_byte)
    }
}

impl Default for Http {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Http {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let timeout = &self.header_read_timeout;
        out.debug_struct("Http").field("header_read_timeout", timeout).finish_non_exhaustive()
    }
}
