//! What a user implements for a datagram socket, and the same with the session's type forgotten.

use std::io;
use std::sync::Arc;

use super::batch::DatagramBatch;
use super::handle::DatagramHandle;
use crate::base::error::Result;

/// Runs when datagrams have come: once for all that one receive brought, in the order in which they
/// came. What the callback [replies](crate::Datagram::reply) is gathered, and leaves when it
/// returns.
///
/// It runs on the thread of a loop or on a worker, as the dispatch mode says, and may block where
/// `on_request` may. One socket's callbacks run one after the other; its session is theirs alone.
///
/// ```
/// use netpoll_core::{DatagramBatch, OnDatagrams, Result};
///
/// fn echo(_: &mut (), batch: &DatagramBatch<'_>) -> Result<()> {
///     for datagram in batch {
///         datagram.reply(datagram.payload())?;
///     }
///     Ok(())
/// }
///
/// fn takes(_: impl OnDatagrams<()>) {}
/// takes(echo);
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not an `OnDatagrams<{S}>`",
    note = "as a closure it is `|session: &mut {S}, batch: &DatagramBatch<'_>| …`, types \
            annotated, and returns a `netpoll::Result<()>`"
)]
pub trait OnDatagrams<S>: Send + Sync + 'static {
    /// See the trait.
    ///
    /// # Errors
    /// An error or a panic does not close the socket, which serves other peers: it is counted and
    /// logged at a bounded rate. What the callback has replied before is sent; the rest of the
    /// batch is lost.
    fn on_datagrams(&self, session: &mut S, batch: &DatagramBatch<'_>) -> Result<()>;
}

impl<S, F> OnDatagrams<S> for F
where
    F: Fn(&mut S, &DatagramBatch<'_>) -> Result<()> + Send + Sync + 'static,
{
    fn on_datagrams(&self, session: &mut S, batch: &DatagramBatch<'_>) -> Result<()> {
        self(session, batch)
    }
}

/// Runs once for each socket, before it receives: makes its session. A server that has a socket for
/// each loop has a session for each.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not an `OnOpen<{S}>`",
    note = "as a closure it is `|handle: &DatagramHandle| …`, types annotated, and returns a \
            `netpoll::Result<{S}>`"
)]
pub trait OnOpen<S>: Send + Sync + 'static {
    /// See the trait.
    ///
    /// # Errors
    /// Closes the socket; it is logged.
    fn on_open(&self, handle: &DatagramHandle) -> Result<S>;
}

impl<S, F> OnOpen<S> for F
where
    F: Fn(&DatagramHandle) -> Result<S> + Send + Sync + 'static,
{
    fn on_open(&self, handle: &DatagramHandle) -> Result<S> {
        self(handle)
    }
}

/// The callbacks of datagram sockets: those of all loops share them.
pub struct DatagramCallbacks<S> {
    on_open: Box<dyn OnOpen<S>>,
    on_datagrams: Box<dyn OnDatagrams<S>>,
}

impl<S: Send + 'static> DatagramCallbacks<S> {
    /// These callbacks.
    pub fn new(on_open: impl OnOpen<S>, on_datagrams: impl OnDatagrams<S>) -> Arc<Self> {
        Arc::new(Self { on_open: Box::new(on_open), on_datagrams: Box::new(on_datagrams) })
    }
}

/// Callbacks without their session type: what sockets are served with.
pub trait PrepareDatagrams: Send + Sync {
    /// Makes what is called for one socket, with its session.
    ///
    /// # Errors
    /// Closes the socket.
    fn open(self: Arc<Self>, handle: &DatagramHandle) -> Result<Box<dyn DatagramService>>;
}

/// One socket's callbacks and session, without its type. All methods run as
/// [`OnDatagrams`] does, and their errors and panics mean the same.
pub trait DatagramService: Send {
    /// Datagrams have come.
    ///
    /// # Errors
    /// The callback's.
    fn received(&mut self, batch: &DatagramBatch<'_>) -> Result<()>;

    /// The time of [`DatagramHandle::wake_at`] has come, or
    /// [`wake`](DatagramHandle::wake) was called. The batch is empty: it is there to send.
    ///
    /// # Errors
    /// The callback's.
    fn woken(&mut self, batch: &DatagramBatch<'_>) -> Result<()> {
        let _ = batch;
        Ok(())
    }

    /// A shutdown has begun: what has been received by now is still to come.
    ///
    /// # Errors
    /// The callback's.
    fn shutdown(&mut self, batch: &DatagramBatch<'_>) -> Result<()> {
        let _ = batch;
        Ok(())
    }

    /// What ICMP said of a datagram that was sent before: `ConnectionRefused` where no socket has
    /// the port, `HostUnreachable`, … Known of connected sockets.
    fn failed(&mut self, error: &io::Error) {
        let _ = error;
    }

    /// The last call: nothing more is received or sent.
    fn closed(self: Box<Self>) {}
}

impl<S: Send + 'static> PrepareDatagrams for DatagramCallbacks<S> {
    fn open(self: Arc<Self>, handle: &DatagramHandle) -> Result<Box<dyn DatagramService>> {
        let session = self.on_open.on_open(handle)?;
        Ok(Box::new(Served { session, callbacks: self }))
    }
}

struct Served<S> {
    session: S,
    callbacks: Arc<DatagramCallbacks<S>>,
}

impl<S: Send + 'static> DatagramService for Served<S> {
    fn received(&mut self, batch: &DatagramBatch<'_>) -> Result<()> {
        self.callbacks.on_datagrams.on_datagrams(&mut self.session, batch)
    }
}

impl<S> std::fmt::Debug for DatagramCallbacks<S> {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("DatagramCallbacks").finish_non_exhaustive()
    }
}
