//! Clients: hyper's connections over those that a [`Dialer`](netpoll_client::Dialer) makes.
//!
//! [`http1`] and [`http2`] take a connection and return what sends requests over it. With the
//! feature `client-pool` there is the `Connector` of hyper-util's client, which keeps
//! connections.

#[cfg(feature = "client-pool")]
mod connector;

#[cfg(feature = "client-pool")]
pub use connector::{Connector, ConnectorIo};
use http_body::Body;
use hyper::client::conn;
use netpoll_async::{AsyncConnection, spawn};

use crate::executor::NetpollExecutor;
use crate::io::NetpollIo;
use crate::service::BoxError;
use crate::timer::NetpollTimer;

/// A connection of HTTP/1 whose requests are sent by what this returns, one after the other.
///
/// A task of the loops drives it, until the connection ends, or what this returns is dropped and
/// the last answer was read. Upgrades work.
///
/// # Errors
/// hyper's; none today.
pub async fn http1<B>(connection: AsyncConnection) -> hyper::Result<conn::http1::SendRequest<B>>
where
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    let (sender, driven) = conn::http1::handshake(NetpollIo::new(connection)).await?;
    spawn(async move { note(driven.with_upgrades().await) }).detach();
    Ok(sender)
}

/// A connection of HTTP/2, whose requests go side by side; what this returns can be cloned.
///
/// Tasks of the loops drive it, until the connection ends, or what this returns is dropped, all
/// clones of it, and the last answer was read.
///
/// # Errors
/// hyper's, when the connection breaks before its preface is sent.
pub async fn http2<B>(connection: AsyncConnection) -> hyper::Result<conn::http2::SendRequest<B>>
where
    B: Body + Unpin + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    let mut builder = conn::http2::Builder::new(NetpollExecutor);
    let stream = NetpollIo::new(connection);
    let (sender, driven) = builder.timer(NetpollTimer::new()).handshake(stream).await?;
    spawn(async move { note(driven.await) }).detach();
    Ok(sender)
}

/// The requests that it broke have the error; one that broke none is worth a line only to whoever
/// looks for it.
fn note(outcome: hyper::Result<()>) {
    if let Err(error) = outcome {
        log::debug!("a connection of an HTTP client has failed: {error}");
    }
}
