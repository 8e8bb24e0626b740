//! How the client of hyper-util, which keeps connections for later requests, gets its connections.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use http::Uri;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::connect::{Connected, Connection};
use netpoll_async::AsyncDialer;
use netpoll_client::Dialer;
use tower_service::Service;

use crate::io::NetpollIo;
use crate::service::BoxError;

/// Dials for the client of hyper-util: the host and port of a request's URI, and TLS if its scheme
/// is `https`.
///
/// ```
/// use hyper_util::client::legacy::Client;
/// use netpoll_client::Dialer;
/// use netpoll_hyper::NetpollExecutor;
/// use netpoll_hyper::client::Connector;
///
/// let connector = Connector::new(Dialer::builder().build()?);
/// let client: Client<Connector, String> = Client::builder(NetpollExecutor).build(connector);
/// # Ok::<(), netpoll_core::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Connector {
    http: AsyncDialer,
    /// The dialer of `https`, and whether its connections speak HTTP/2.
    https: Option<(AsyncDialer, bool)>,
}

impl Connector {
    /// Dials `http` by this dialer, and refuses `https`.
    pub fn new(dialer: Dialer) -> Self {
        Self { http: AsyncDialer::new(dialer), https: None }
    }

    /// Dials `https` by a dialer whose connections have TLS. `is_http2`: it offers `h2` alone by
    /// ALPN; else it must offer `http/1.1` or nothing.
    #[must_use]
    pub fn https(mut self, dialer: Dialer, is_http2: bool) -> Self {
        self.https = Some((AsyncDialer::new(dialer), is_http2));
        self
    }

    async fn dial(self, target: Uri) -> Result<ConnectorIo, BoxError> {
        let is_https = target.scheme_str() == Some("https");
        let host = target.host().ok_or("the URI of a request has no host")?;
        let port = target.port_u16().unwrap_or(if is_https { 443 } else { 80 });
        let (dialer, is_http2) = match self.https {
            None if is_https => return Err("this connector has no dialer for https".into()),
            Some(https) if is_https => https,
            _ => (self.http, false),
        };
        let connection = dialer.dial("tcp", &format!("{host}:{port}")).await?;
        Ok(ConnectorIo { io: NetpollIo::new(connection), is_http2 })
    }
}

impl Service<Uri> for Connector {
    type Response = ConnectorIo;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<ConnectorIo, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, target: Uri) -> Self::Future {
        Box::pin(self.clone().dial(target))
    }
}

/// A connection of [`Connector`].
#[derive(Debug)]
pub struct ConnectorIo {
    io: NetpollIo,
    is_http2: bool,
}

impl ConnectorIo {
    /// The connection, after an upgrade.
    pub fn into_inner(self) -> NetpollIo {
        self.io
    }
}

impl Connection for ConnectorIo {
    fn connected(&self) -> Connected {
        let connected = Connected::new();
        if self.is_http2 { connected.negotiated_h2() } else { connected }
    }
}

impl Read for ConnectorIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        out: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(context, out)
    }
}

impl Write for ConnectorIo {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(context, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }
}
