//! TLS on listeners, on dials and on connections.
//!
//! ```no_run
//! use netpoll::tls::{TlsConfig, TlsConnection, TlsListener};
//! use netpoll::{Connection, EventLoop, Listener};
//!
//! let config = TlsConfig::from_pem("chain.pem", "key.pem")?;
//! let listener = Listener::bind("tcp", "127.0.0.1:7443")?.tls(config);
//! EventLoop::new(|conn: &mut Connection| {
//!     let (mut reader, mut writer) = conn.split();
//!     writer.append(reader.slice(reader.len())?); // plain bytes: the callback does not see TLS
//!     writer.flush()
//! })
//! .serve(listener)?;
//! # Ok::<(), netpoll::Error>(())
//! ```
//!
//! [The page about TLS](crate::guide::tls) has the rest: certificates and their reload, mutual TLS,
//! what is sent when, errors, providers.

use std::sync::Arc;

pub use netpoll_tls::*;

use crate::{Detached, DialerBuilder, EventLoop, Handle, Listener, Result};

/// What TLS adds to a [`Listener`].
pub trait TlsListener {
    /// Speaks TLS with each client, after a header of the PROXY protocol and after `on_prepare`.
    /// The handshake runs where callbacks run; `on_connect` comes after it.
    ///
    /// A handshake costs 0.1 to 0.8 ms of computing, by the kind of the key; a record of 16 KiB
    /// about 5 µs each way.
    #[must_use]
    fn tls(self, config: TlsConfig) -> Self;
}

/// What TLS adds to a [`DialerBuilder`], and so to each dial, pool and multiplexer of its dialer.
pub trait TlsDialer {
    /// Speaks TLS with each server. A dial ends with the handshake, within its one timeout. Where
    /// the handshake fails, the dial's [`Error::Address`](crate::Error::Address) says why.
    #[must_use]
    fn tls(self, client: TlsClient) -> Self;
}

/// What TLS adds to an [`EventLoop`].
pub trait TlsEventLoop {
    /// As [`EventLoop::adopt`], speaking TLS with the client: what was read from the stream is the
    /// begin of the handshake, and what was not sent goes before it.
    ///
    /// # Errors
    /// As [`EventLoop::adopt_with`].
    fn adopt_tls(&self, stream: impl Into<Detached>, config: TlsConfig) -> Result<Handle>;
}

impl TlsListener for Listener {
    fn tls(self, config: TlsConfig) -> Self {
        self.filter(Arc::new(config))
    }
}

impl TlsDialer for DialerBuilder {
    fn tls(self, client: TlsClient) -> Self {
        self.filter(Arc::new(client))
    }
}

impl TlsEventLoop for EventLoop {
    fn adopt_tls(&self, stream: impl Into<Detached>, config: TlsConfig) -> Result<Handle> {
        self.adopt_with(stream, Arc::new(config))
    }
}
