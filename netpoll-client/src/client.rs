//! Dialled connections that callbacks drive on the reactors, as they drive a server's.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use netpoll_core::{
    Callbacks, Connection, ConnectionGroup, Detached, Dispatch, Dispatcher, Error, Handle, Handler,
    Limits, OnPrepare, PollManager, Prepare, Remote, Result, clock,
};

use crate::dialer::Dialer;

/// How long a shutdown waits for connections that it closed by force, and for workers.
const GRACE: Duration = Duration::from_secs(1);

/// Dials connections that callbacks drive. These are the callbacks of a server, in the same order
/// and with the same promises.
///
/// Dropping it closes each connection in order, once that has nothing left to serve, and does not
/// wait for it.
///
/// ```
/// use std::io::{Read, Write};
/// use std::sync::mpsc;
/// use std::time::Duration;
/// use netpoll_core::Connection;
/// use netpoll_client::Client;
///
/// let server = std::net::TcpListener::bind("127.0.0.1:0")?;
/// let address = server.local_addr()?.to_string();
/// let (told, lines) = mpsc::channel();
/// let client = Client::builder()
///     .on_connect(|_: &mut (), conn: &mut Connection| {
///         conn.writer().write_bytes(b"hello");
///         conn.writer().flush()
///     })
///     .on_request(move |_: &mut (), conn: &mut Connection| {
///         told.send(conn.reader().until(b'\n')?.to_vec()).ok();
///         Ok(())
///     })
///     .build()?;
/// let handle = client.dial("tcp", &address, Duration::from_secs(1))?;
///
/// let (mut peer, _) = server.accept()?;
/// peer.read_exact(&mut [0; 5])?;
/// peer.write_all(b"welcome\n")?;
/// assert_eq!(lines.recv()?, b"welcome\n");
/// handle.close();
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// `S` is the session that each connection has: `on_prepare` makes it, or the dial brings it.
pub struct Client<S = ()> {
    dialer: Dialer,
    group: Arc<ConnectionGroup>,
    callbacks: Arc<Callbacks<S>>,
}

impl Client {
    /// Sets callbacks and options.
    pub fn builder() -> ClientBuilder {
        ClientBuilder { callbacks: Callbacks::new(), options: ClientOptions::default() }
    }
}

impl<S: Send + 'static> Client<S> {
    /// Dials, and waits for that on this thread, `timeout` at most; callbacks drive the connection
    /// from then on. They run where the dispatch mode says, `on_prepare` first, and may run before
    /// this returns. A connection that `on_prepare` refuses is closed.
    ///
    /// # Errors
    /// As [`DialConnection::dial_connection`](crate::DialConnection::dial_connection).
    pub fn dial(&self, network: &str, address: &str, timeout: Duration) -> Result<Handle> {
        let callbacks: Arc<dyn Prepare> = self.callbacks.clone();
        let attempt = self.dialer.attempt(network, address, timeout, &self.group, None)?;
        Ok(attempt.serve(&callbacks))
    }

    /// As [`dial`](Self::dial), with a session that the caller brings: that of a proxy, for
    /// instance, names the connection that it was dialled for. `on_prepare` does not run.
    ///
    /// # Errors
    /// As [`dial`](Self::dial); the session is dropped then.
    pub fn dial_with(
        &self,
        network: &str,
        address: &str,
        timeout: Duration,
        session: S,
    ) -> Result<Handle> {
        let attempt = self.dialer.attempt(network, address, timeout, &self.group, None)?;
        Ok(attempt.serve(&self.callbacks.with_session(session)))
    }

    /// Has callbacks drive a connection that was connected elsewhere, as one that it has dialled: a
    /// `TcpStream`, a `UnixStream`, an `OwnedFd`, or a [`Detached`], with the bytes that were read
    /// and not sent before: callbacks see those first. It becomes non-blocking, with `TCP_NODELAY`,
    /// and keeps its other options: those of the dialer have no effect, nor has a filter such as
    /// TLS. Never waits; callbacks may run before this returns.
    ///
    /// # Errors
    /// The stream is closed with each of them. [`Error::Config`] for what is no stream socket, or
    /// has no peer; what the shared manager's start met; [`Error::Closed`] if its loop has ended.
    pub fn adopt(&self, stream: impl Into<Detached>) -> Result<Handle> {
        let callbacks: Arc<dyn Prepare> = self.callbacks.clone();
        Ok(self.dialer.adopted(stream.into(), &self.group)?.serve(&callbacks))
    }

    /// As [`adopt`](Self::adopt), with a session that the caller brings; `on_prepare` does not run.
    ///
    /// # Errors
    /// As [`adopt`](Self::adopt); the session is dropped then.
    pub fn adopt_with(&self, stream: impl Into<Detached>, session: S) -> Result<Handle> {
        let attempt = self.dialer.adopted(stream.into(), &self.group)?;
        Ok(attempt.serve(&self.callbacks.with_session(session)))
    }

    /// How many of its connections are not closed yet.
    pub fn live(&self) -> usize {
        self.group.live()
    }

    /// Closes its connections: each in order, once it has nothing left to serve, and by force those
    /// that are left after `patience`. Waits for all of them, and returns how many were forced.
    pub fn shutdown(self, patience: Duration) -> usize {
        self.for_each_remote(|remote| remote.shut_down(&self.group));
        let forced = self.group.wait_empty(deadline(patience));
        if forced > 0 {
            self.for_each_remote(|remote| remote.abort(&self.group));
            self.group.wait_empty(deadline(GRACE));
        }
        self.group.dispatcher().stop(GRACE);
        forced
    }
}

impl<S> Client<S> {
    /// Calls `what` for every loop that may watch a connection of this client.
    fn for_each_remote(&self, what: impl Fn(&Remote)) {
        let manager = match &self.dialer.manager {
            Some(manager) => manager.clone(),
            None => match PollManager::shared() {
                Ok(manager) => manager,
                Err(_) => return,
            },
        };
        manager.remotes().iter().for_each(|remote| what(remote));
    }
}

impl<S> Drop for Client<S> {
    fn drop(&mut self) {
        if self.group.live() > 0 {
            self.for_each_remote(|remote| remote.shut_down(&self.group));
        }
    }
}

impl<S> fmt::Debug for Client<S> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Client").field("group", &self.group).finish_non_exhaustive()
    }
}

/// Builds a [`Client`]; `S` is the session that each connection has.
///
/// The session's type comes from [`on_prepare`](Self::on_prepare), so that call comes first;
/// without it the session is `()`.
pub struct ClientBuilder<S = ()> {
    callbacks: Callbacks<S>,
    options: ClientOptions,
}

#[derive(Debug, Default)]
struct ClientOptions {
    dialer: Option<Dialer>,
    dispatch: Dispatch,
    limits: Limits,
}

impl ClientBuilder<()> {
    /// Makes the session of each connection; see [`OnPrepare`]. Call it before the setters of
    /// callbacks that take the session.
    pub fn on_prepare<S>(self, callback: impl OnPrepare<S>) -> ClientBuilder<S> {
        ClientBuilder { callbacks: self.callbacks.prepared_by(callback), options: self.options }
    }

    /// Each connection has the session that [`Client::dial_with`] brings; one dialled by
    /// [`Client::dial`] is closed at once. Takes the place of `on_prepare`.
    pub fn session<S: Send + 'static>(self) -> ClientBuilder<S> {
        self.on_prepare(|_: &Connection| {
            Err(Error::config("this client's sessions come with dial_with, but dial was called"))
        })
    }
}

impl<S> ClientBuilder<S> {
    netpoll_core::callback_setters!();

    /// Sets one value as all the callbacks; see [`Handler`]. It replaces callbacks set before.
    pub fn handler<H: Handler>(self, handler: H) -> ClientBuilder<H::Session> {
        ClientBuilder { callbacks: Callbacks::of_handler(handler), options: self.options }
    }

    /// Sets all callbacks at once. It replaces callbacks set before.
    #[doc(hidden)]
    pub fn callbacks<T>(self, callbacks: Callbacks<T>) -> ClientBuilder<T> {
        ClientBuilder { callbacks, options: self.options }
    }

    /// Dials by this dialer, on its manager. Its limits have no effect here, those of
    /// [`limits`](Self::limits) have. Default: a dialer with default options.
    #[must_use]
    pub fn dialer(mut self, dialer: Dialer) -> Self {
        self.options.dialer = Some(dialer);
        self
    }

    /// Where callbacks run. Default: as a server's.
    #[must_use]
    pub fn dispatch(mut self, dispatch: Dispatch) -> Self {
        self.options.dispatch = dispatch;
        self
    }

    /// The limits of the connections.
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Self {
        self.options.limits = limits;
        self
    }

    /// Checks the options and makes the client. Nothing is started before the first dial.
    ///
    /// # Errors
    /// [`Error::Config`], one sentence that names the option.
    pub fn build(self) -> Result<Client<S>>
    where
        S: Send + 'static,
    {
        let Self { callbacks, options } = self;
        callbacks.validate()?;
        let dialer = options.dialer.map_or_else(|| Dialer::builder().build(), Ok)?;
        let dispatcher = Dispatcher::new(options.dispatch)?;
        let group = ConnectionGroup::calling(options.limits, dispatcher, &callbacks)?;
        Ok(Client { dialer, group, callbacks: Arc::new(callbacks) })
    }
}

impl<S> fmt::Debug for ClientBuilder<S> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("ClientBuilder").field("options", &self.options).finish_non_exhaustive()
    }
}

fn deadline(patience: Duration) -> Instant {
    // Longer than a century is for ever; a century can be added to any time.
    clock::now() + patience.min(Duration::from_secs(100 * 365 * 86_400))
}
