//! What users implement: the callbacks of a connection, and its session.
//!
//! Their order is `on_prepare → on_connect → on_request* → on_disconnect`. Each runs at most once
//! but `on_request` and those about the output, never two at a time for one connection, and
//! `on_disconnect` exactly once for every connection that `on_prepare` admitted. A callback runs on
//! one thread from start to end; the next one of the same connection may run on another.
//!
//! A new callback that is given the session and the connection is, in this file: a trait and its
//! closures, a [`Moment`], a setter, a method of [`Handler`]. `run/step.rs` says when it is due.

mod service;
mod table;

use std::sync::Arc;

use super::Connection;
use crate::base::error::{CloseReason, Result};

pub use service::Prepare;
pub(crate) use service::{Service, SessionType, verdict};
pub(crate) use table::Call;
pub use table::Callbacks;

/// Makes the session of a connection, before anything else happens to it.
///
/// It runs where the dispatch mode says, and may block where that mode allows it: it never delays
/// accepting. It sees the connection's addresses, its listener and its handle; reading and writing
/// begin with `on_connect`. An error, or a panic, refuses the connection: the socket is closed and
/// no other callback runs.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not an `OnPrepare<{S}>`",
    note = "as a closure it is `|connection: &Connection| -> netpoll::Result<{S}>`, types annotated"
)]
pub trait OnPrepare<S>: Send + Sync + 'static {
    /// See the trait.
    ///
    /// # Errors
    /// Refuses the connection.
    fn on_prepare(&self, connection: &Connection) -> Result<S>;
}

impl<S, F> OnPrepare<S> for F
where
    F: Fn(&Connection) -> Result<S> + Send + Sync + 'static,
{
    fn on_prepare(&self, connection: &Connection) -> Result<S> {
        self(connection)
    }
}

/// Runs once, when the connection is registered, before its first `on_request`.
///
/// It runs where the dispatch mode says, and may block where that mode allows it. An error closes
/// the connection with that reason.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not an `OnConnect<{S}>`",
    note = "as a closure it is `|session: &mut {S}, connection: &mut Connection| …`, types \
            annotated, and returns a `netpoll::Result<()>`"
)]
pub trait OnConnect<S>: Send + Sync + 'static {
    /// See the trait.
    ///
    /// # Errors
    /// Closes the connection with that reason.
    fn on_connect(&self, session: &mut S, connection: &mut Connection) -> Result<()>;
}

impl<S, F> OnConnect<S> for F
where
    F: Fn(&mut S, &mut Connection) -> Result<()> + Send + Sync + 'static,
{
    fn on_connect(&self, session: &mut S, connection: &mut Connection) -> Result<()> {
        self(session, connection)
    }
}

/// Runs when bytes have arrived since it last ran, and when [`Handle::wake`](crate::Handle::wake)
/// asked for it.
///
/// It runs where the dispatch mode says, and may block where that mode allows it. It need not
/// consume everything: it is called again when more arrives, or a last time when the peer ends its
/// stream. What it wrote is flushed when it returns.
///
/// An error closes the connection with that reason, and drops what was written and not flushed. Two
/// errors are no failures: `WouldBlock` means "call me again when there is more", and
/// `UnexpectedEof` at the end of the peer's stream closes with [`CloseReason::Peer`], after what
/// was written is sent.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not an `OnRequest<{S}>`",
    note = "as a closure it is `|session: &mut {S}, connection: &mut Connection| …`, types \
            annotated, and returns a `netpoll::Result<()>`"
)]
pub trait OnRequest<S>: Send + Sync + 'static {
    /// See the trait.
    ///
    /// # Errors
    /// Closes the connection with that reason.
    fn on_request(&self, session: &mut S, connection: &mut Connection) -> Result<()>;
}

impl<S, F> OnRequest<S> for F
where
    F: Fn(&mut S, &mut Connection) -> Result<()> + Send + Sync + 'static,
{
    fn on_request(&self, session: &mut S, connection: &mut Connection) -> Result<()> {
        self(session, connection)
    }
}

/// Runs when more is queued for the peer than the high-water mark allows: the time to stop making
/// more for it, or to give it up. Its own flush would wait here, where waiting is allowed.
///
/// It runs as `on_request` does, and its errors mean the same.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not an `OnHighWater<{S}>`",
    note = "as a closure it is `|session: &mut {S}, connection: &mut Connection| …`, types \
            annotated, and returns a `netpoll::Result<()>`"
)]
pub trait OnHighWater<S>: Send + Sync + 'static {
    /// See the trait.
    ///
    /// # Errors
    /// Closes the connection with that reason.
    fn on_high_water(&self, session: &mut S, connection: &mut Connection) -> Result<()>;
}

impl<S, F> OnHighWater<S> for F
where
    F: Fn(&mut S, &mut Connection) -> Result<()> + Send + Sync + 'static,
{
    fn on_high_water(&self, session: &mut S, connection: &mut Connection) -> Result<()> {
        self(session, connection)
    }
}

/// Runs once after each [`OnHighWater`], when the queue is below its low-water mark again.
///
/// It runs as `on_request` does, and its errors mean the same.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not an `OnDrain<{S}>`",
    note = "as a closure it is `|session: &mut {S}, connection: &mut Connection| …`, types \
            annotated, and returns a `netpoll::Result<()>`"
)]
pub trait OnDrain<S>: Send + Sync + 'static {
    /// See the trait.
    ///
    /// # Errors
    /// Closes the connection with that reason.
    fn on_drain(&self, session: &mut S, connection: &mut Connection) -> Result<()>;
}

impl<S, F> OnDrain<S> for F
where
    F: Fn(&mut S, &mut Connection) -> Result<()> + Send + Sync + 'static,
{
    fn on_drain(&self, session: &mut S, connection: &mut Connection) -> Result<()> {
        self(session, connection)
    }
}

/// Runs once when a shutdown has begun: the last chance to finish what is under way, or to say
/// goodbye.
///
/// A connection that then has nothing unread is closed when what it has written is sent; one that
/// was busy is closed when it comes to that. It runs as `on_request` does, and its errors mean the
/// same.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not an `OnShutdown<{S}>`",
    note = "as a closure it is `|session: &mut {S}, connection: &mut Connection| …`, types \
            annotated, and returns a `netpoll::Result<()>`"
)]
pub trait OnShutdown<S>: Send + Sync + 'static {
    /// See the trait.
    ///
    /// # Errors
    /// Closes the connection with that reason.
    fn on_shutdown(&self, session: &mut S, connection: &mut Connection) -> Result<()>;
}

impl<S, F> OnShutdown<S> for F
where
    F: Fn(&mut S, &mut Connection) -> Result<()> + Send + Sync + 'static,
{
    fn on_shutdown(&self, session: &mut S, connection: &mut Connection) -> Result<()> {
        self(session, connection)
    }
}

/// Runs once, as the last callback, after the output was sent or given up. It is given the session
/// for good, and the reason.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not an `OnDisconnect<{S}>`",
    note = "as a closure it is `|session: {S}, reason: &CloseReason|`, types annotated"
)]
pub trait OnDisconnect<S>: Send + Sync + 'static {
    /// See the trait.
    fn on_disconnect(&self, session: S, reason: &CloseReason);
}

impl<S, F> OnDisconnect<S> for F
where
    F: Fn(S, &CloseReason) + Send + Sync + 'static,
{
    fn on_disconnect(&self, session: S, reason: &CloseReason) {
        self(session, reason);
    }
}

/// All the callbacks of a server or of a client, on one value. It is shared by all connections;
/// what belongs to one connection is its `Session`.
///
/// Each method is the callback of its name: [`OnRequest`] and the other traits say where it runs,
/// whether it may block, and what its errors mean. All but two have a default.
///
/// `EventLoopBuilder::handler` and `ClientBuilder::handler` take it.
///
/// ```
/// use netpoll_core::{Connection, Handler, Result};
///
/// struct Echo;
///
/// impl Handler for Echo {
///     type Session = ();
///
///     fn on_prepare(&self, _: &Connection) -> Result<()> {
///         Ok(())
///     }
///
///     fn on_request(&self, (): &mut (), conn: &mut Connection) -> Result<()> {
///         let (mut reader, mut writer) = conn.split();
///         writer.append(reader.slice(reader.len())?);
///         writer.flush()
///     }
/// }
/// ```
pub trait Handler: Send + Sync + 'static {
    /// What belongs to one connection.
    type Session: Send + 'static;

    /// Makes the session; see [`OnPrepare`].
    ///
    /// # Errors
    /// Refuses the connection.
    fn on_prepare(&self, connection: &Connection) -> Result<Self::Session>;

    /// See [`OnConnect`]. Does nothing by default.
    ///
    /// # Errors
    /// Closes the connection with that reason.
    fn on_connect(&self, session: &mut Self::Session, connection: &mut Connection) -> Result<()> {
        let _ = (session, connection);
        Ok(())
    }

    /// See [`OnRequest`].
    ///
    /// # Errors
    /// Closes the connection with that reason.
    fn on_request(&self, session: &mut Self::Session, connection: &mut Connection) -> Result<()>;

    /// See [`OnHighWater`]. Does nothing by default.
    ///
    /// # Errors
    /// Closes the connection with that reason.
    fn on_high_water(
        &self,
        session: &mut Self::Session,
        connection: &mut Connection,
    ) -> Result<()> {
        let _ = (session, connection);
        Ok(())
    }

    /// See [`OnDrain`]. Does nothing by default.
    ///
    /// # Errors
    /// Closes the connection with that reason.
    fn on_drain(&self, session: &mut Self::Session, connection: &mut Connection) -> Result<()> {
        let _ = (session, connection);
        Ok(())
    }

    /// See [`OnShutdown`]. Does nothing by default.
    ///
    /// # Errors
    /// Closes the connection with that reason.
    fn on_shutdown(&self, session: &mut Self::Session, connection: &mut Connection) -> Result<()> {
        let _ = (session, connection);
        Ok(())
    }

    /// See [`OnDisconnect`]. Drops the session by default.
    fn on_disconnect(&self, session: Self::Session, reason: &CloseReason) {
        let _ = (session, reason);
    }
}

/// The callbacks that are given the session and the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[doc(hidden)]
pub enum Moment {
    Connect,
    Request,
    HighWater,
    Drain,
    Shutdown,
}

impl Moment {
    pub(crate) const ALL: [Self; 5] =
        [Self::Connect, Self::Request, Self::HighWater, Self::Drain, Self::Shutdown];

    /// The callback's name, for the log.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Connect => "on_connect",
            Self::Request => "on_request",
            Self::HighWater => "on_high_water",
            Self::Drain => "on_drain",
            Self::Shutdown => "on_shutdown",
        }
    }

    /// A handler's method for it.
    pub(crate) fn call_of<H: Handler>(self, handler: &Arc<H>) -> Call<H::Session> {
        let it = handler.clone();
        match self {
            Self::Connect => Box::new(move |session, conn| it.on_connect(session, conn)),
            Self::Request => Box::new(move |session, conn| it.on_request(session, conn)),
            Self::HighWater => Box::new(move |session, conn| it.on_high_water(session, conn)),
            Self::Drain => Box::new(move |session, conn| it.on_drain(session, conn)),
            Self::Shutdown => Box::new(move |session, conn| it.on_shutdown(session, conn)),
        }
    }
}

/// The setters of callbacks of a builder, whose field `callbacks` is a [`Callbacks<S>`]. A macro,
/// since the builders of the server and of the client have the same methods.
#[doc(hidden)]
#[macro_export]
macro_rules! callback_setters {
    () => {
        /// Runs once when the connection is established; see
        /// [`OnConnect`](netpoll_core::OnConnect).
        #[must_use]
        pub fn on_connect(mut self, callback: impl $crate::OnConnect<S>) -> Self {
            self.callbacks.set($crate::Moment::Connect, move |session, conn| {
                callback.on_connect(session, conn)
            });
            self
        }

        /// Runs whenever bytes have arrived; see [`OnRequest`](netpoll_core::OnRequest).
        #[must_use]
        pub fn on_request(mut self, callback: impl $crate::OnRequest<S>) -> Self {
            self.callbacks.set($crate::Moment::Request, move |session, conn| {
                callback.on_request(session, conn)
            });
            self
        }

        /// Runs when the output rises above its high-water mark; see
        /// [`OnHighWater`](netpoll_core::OnHighWater).
        #[must_use]
        pub fn on_high_water(mut self, callback: impl $crate::OnHighWater<S>) -> Self {
            self.callbacks.set($crate::Moment::HighWater, move |session, conn| {
                callback.on_high_water(session, conn)
            });
            self
        }

        /// Runs when the output has fallen below its low-water mark again; see
        /// [`OnDrain`](netpoll_core::OnDrain).
        #[must_use]
        pub fn on_drain(mut self, callback: impl $crate::OnDrain<S>) -> Self {
            self.callbacks
                .set($crate::Moment::Drain, move |session, conn| callback.on_drain(session, conn));
            self
        }

        /// Runs once when a shutdown has begun; see [`OnShutdown`](netpoll_core::OnShutdown).
        #[must_use]
        pub fn on_shutdown(mut self, callback: impl $crate::OnShutdown<S>) -> Self {
            self.callbacks.set($crate::Moment::Shutdown, move |session, conn| {
                callback.on_shutdown(session, conn)
            });
            self
        }

        /// Runs once, last, with the session and the reason; see
        /// [`OnDisconnect`](netpoll_core::OnDisconnect).
        #[must_use]
        pub fn on_disconnect(mut self, callback: impl $crate::OnDisconnect<S>) -> Self {
            self.callbacks.set_on_disconnect(callback);
            self
        }
    };
}
