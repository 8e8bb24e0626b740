//! What users implement: the callbacks of a served connection, and its session.
//!
//! Their order is `on_prepare → on_connect → on_request* → on_disconnect`; each runs at most once
//! but `on_request` and those about the output, never two at a time for one connection, and
//! `on_disconnect` exactly once for every connection that `on_prepare` admitted. A callback runs on
//! one thread from start to end; the next one of the same connection may run on another.

use std::fmt;
use std::io;
use std::sync::Arc;

use crate::base::error::{CloseReason, Error, Result};
use crate::base::panic::{Panicked, guard};
use crate::base::sync::{Mutex, lock};
use crate::connection::Connection;

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

impl<S, F> OnHighWater<S> for F
where
    F: Fn(&mut S, &mut Connection) -> Result<()> + Send + Sync + 'static,
{
    fn on_high_water(&self, session: &mut S, connection: &mut Connection) -> Result<()> {
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

impl<S, F> OnDrain<S> for F
where
    F: Fn(&mut S, &mut Connection) -> Result<()> + Send + Sync + 'static,
{
    fn on_drain(&self, session: &mut S, connection: &mut Connection) -> Result<()> {
        self(session, connection)
    }
}

impl<S, F> OnPrepare<S> for F
where
    F: Fn(&Connection) -> Result<S> + Send + Sync + 'static,
{
    fn on_prepare(&self, connection: &Connection) -> Result<S> {
        self(connection)
    }
}

impl<S, F> OnConnect<S> for F
where
    F: Fn(&mut S, &mut Connection) -> Result<()> + Send + Sync + 'static,
{
    fn on_connect(&self, session: &mut S, connection: &mut Connection) -> Result<()> {
        self(session, connection)
    }
}

impl<S, F> OnRequest<S> for F
where
    F: Fn(&mut S, &mut Connection) -> Result<()> + Send + Sync + 'static,
{
    fn on_request(&self, session: &mut S, connection: &mut Connection) -> Result<()> {
        self(session, connection)
    }
}

impl<S, F> OnDisconnect<S> for F
where
    F: Fn(S, &CloseReason) + Send + Sync + 'static,
{
    fn on_disconnect(&self, session: S, reason: &CloseReason) {
        self(session, reason);
    }
}

/// The callbacks of one event loop; `S` is the session that each connection has.
pub struct Callbacks<S> {
    /// Makes the session.
    pub on_prepare: Box<dyn OnPrepare<S>>,
    /// Greets.
    pub on_connect: Option<Box<dyn OnConnect<S>>>,
    /// Serves. Nobody can do without it, see [`validate`](Self::validate).
    pub on_request: Option<Box<dyn OnRequest<S>>>,
    /// Learns that the peer takes less than it is sent.
    pub on_high_water: Option<Box<dyn OnHighWater<S>>>,
    /// Learns that it has caught up.
    pub on_drain: Option<Box<dyn OnDrain<S>>>,
    /// Learns that a shutdown has begun.
    pub on_shutdown: Option<Box<dyn OnShutdown<S>>>,
    /// Takes leave.
    pub on_disconnect: Option<Box<dyn OnDisconnect<S>>>,
    /// `on_prepare` came after a callback, which is lost by it.
    is_misordered: bool,
}

impl Callbacks<()> {
    /// None yet, and `()` for the session.
    pub fn new() -> Self {
        Self::with(Box::new(|_: &Connection| Ok(())))
    }

    /// Makes sessions of another type. Callbacks that were given the former one are lost, which
    /// [`validate`](Self::validate) tells.
    pub fn prepared_by<S>(self, on_prepare: impl OnPrepare<S>) -> Callbacks<S> {
        let is_misordered = self.on_connect.is_some()
            || self.on_request.is_some()
            || self.on_high_water.is_some()
            || self.on_drain.is_some()
            || self.on_shutdown.is_some()
            || self.on_disconnect.is_some();
        Callbacks { is_misordered, ..Callbacks::with(Box::new(on_prepare)) }
    }
}

impl Default for Callbacks<()> {
    fn default() -> Self {
        Self::new()
    }
}

impl<S> Callbacks<S> {
    /// None yet but `on_prepare`.
    pub fn with(on_prepare: Box<dyn OnPrepare<S>>) -> Self {
        Self {
            on_prepare,
            on_connect: None,
            on_request: None,
            on_high_water: None,
            on_drain: None,
            on_shutdown: None,
            on_disconnect: None,
            is_misordered: false,
        }
    }

    /// Checks that they can serve.
    ///
    /// # Errors
    /// [`Error::Config`] where `on_request` is missing, or `on_prepare` came too late.
    pub fn validate(&self) -> Result<()> {
        if self.is_misordered {
            return Err(Error::config(
                "on_prepare was called after a callback whose session it makes: call it first",
            ));
        }
        if self.on_request.is_none() {
            return Err(Error::config("on_request is missing, so nobody would take what arrives"));
        }
        Ok(())
    }
}

impl<S> fmt::Debug for Callbacks<S> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Callbacks").finish_non_exhaustive()
    }
}

/// Callbacks whose session type is forgotten: what an acceptor holds.
pub trait Prepare: Send + Sync {
    /// Runs `on_prepare`.
    ///
    /// # Errors
    /// The callback's, or one that says that it panicked.
    #[doc(hidden)]
    fn prepare(self: Arc<Self>, connection: &Connection) -> Result<Box<dyn Service>>;
}

/// One connection's callbacks and session, whose type is forgotten: what its task runs.
#[doc(hidden)]
pub trait Service: Send {
    fn connect(&mut self, connection: &mut Connection) -> Result<(), CloseReason>;
    fn request(&mut self, connection: &mut Connection) -> Result<(), CloseReason>;
    fn high_water(&mut self, connection: &mut Connection) -> Result<(), CloseReason>;
    fn drained(&mut self, connection: &mut Connection) -> Result<(), CloseReason>;
    fn shutdown(&mut self, connection: &mut Connection) -> Result<(), CloseReason>;
    /// Whether `disconnect` runs anything of the user's.
    fn minds_disconnect(&self) -> bool;
    fn disconnect(self: Box<Self>, reason: &CloseReason);
}

impl<S: Send + 'static> Prepare for Callbacks<S> {
    fn prepare(self: Arc<Self>, connection: &Connection) -> Result<Box<dyn Service>> {
        let prepared = guard("on_prepare", || self.on_prepare.on_prepare(connection));
        match prepared {
            Ok(session) => Ok(Box::new(Served { session: session?, callbacks: self })),
            Err(Panicked) => Err(io::Error::other("on_prepare panicked").into()),
        }
    }
}

impl<S: Send + 'static> Callbacks<S> {
    /// These callbacks for one connection whose session is there already: `on_prepare` does not
    /// run for it.
    pub fn with_session(self: &Arc<Self>, session: S) -> Arc<dyn Prepare> {
        Arc::new(Prepared { session: Mutex::new(Some(session)), callbacks: self.clone() })
    }
}

struct Prepared<S> {
    /// Taken by the one connection that it is for.
    session: Mutex<Option<S>>,
    callbacks: Arc<Callbacks<S>>,
}

impl<S: Send + 'static> Prepare for Prepared<S> {
    fn prepare(self: Arc<Self>, _: &Connection) -> Result<Box<dyn Service>> {
        let session = lock(&self.session).take().ok_or(Error::Closed)?;
        Ok(Box::new(Served { session, callbacks: self.callbacks.clone() }))
    }
}

struct Served<S> {
    session: S,
    callbacks: Arc<Callbacks<S>>,
}

impl<S: Send + 'static> Service for Served<S> {
    fn connect(&mut self, connection: &mut Connection) -> Result<(), CloseReason> {
        let Some(on_connect) = &self.callbacks.on_connect else {
            return Ok(());
        };
        verdict(guard("on_connect", || on_connect.on_connect(&mut self.session, connection)))
    }

    fn request(&mut self, connection: &mut Connection) -> Result<(), CloseReason> {
        let Some(on_request) = &self.callbacks.on_request else { return Ok(()) };
        verdict(guard("on_request", || on_request.on_request(&mut self.session, connection)))
    }

    fn high_water(&mut self, connection: &mut Connection) -> Result<(), CloseReason> {
        let Some(callback) = &self.callbacks.on_high_water else { return Ok(()) };
        verdict(guard("on_high_water", || callback.on_high_water(&mut self.session, connection)))
    }

    fn drained(&mut self, connection: &mut Connection) -> Result<(), CloseReason> {
        let Some(callback) = &self.callbacks.on_drain else { return Ok(()) };
        verdict(guard("on_drain", || callback.on_drain(&mut self.session, connection)))
    }

    fn shutdown(&mut self, connection: &mut Connection) -> Result<(), CloseReason> {
        let Some(callback) = &self.callbacks.on_shutdown else { return Ok(()) };
        verdict(guard("on_shutdown", || callback.on_shutdown(&mut self.session, connection)))
    }

    fn minds_disconnect(&self) -> bool {
        self.callbacks.on_disconnect.is_some() || std::mem::needs_drop::<S>()
    }

    fn disconnect(self: Box<Self>, reason: &CloseReason) {
        let Self { session, callbacks } = *self;
        // Without the callback the session is dropped here, and its Drop is user code as well.
        let _ = guard("on_disconnect", || match &callbacks.on_disconnect {
            Some(on_disconnect) => on_disconnect.on_disconnect(session, reason),
            None => drop(session),
        });
    }
}

/// What the outcome of a callback means for its connection.
#[inline]
pub(crate) fn verdict(outcome: Result<Result<()>, Panicked>) -> Result<(), CloseReason> {
    match outcome {
        Ok(Ok(()) | Err(Error::WouldBlock)) => Ok(()),
        Ok(Err(Error::Io(error))) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
        Ok(Err(error)) => Err(CloseReason::Callback(error)),
        Err(Panicked) => Err(CloseReason::Panic),
    }
}
