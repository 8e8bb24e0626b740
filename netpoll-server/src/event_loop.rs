//! The event loop: serves listeners until it is shut down.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::{Duration, Instant};

use netpoll_core::{
    Callbacks, Connection, ConnectionGroup, Detached, Error, FilterServer, Handle, MemoryStats,
    Moment, PollManager, Prepare, Result, clock,
};

use crate::accept::context::AcceptContext;
use crate::accept::open_listeners::OpenListeners;
use crate::listeners::{Listeners, Served};
use crate::opening::Opening;
use crate::serving::Serving;
use crate::settings::Settings;
use crate::shutdown::{Report, drain_and_close};
use crate::sync::lock;
use crate::systemd::reporting::Reporting;

/// Serves connections: a main reactor accepts on the thread that calls [`serve`](Self::serve) and
/// hands them to the loops of a manager, which run the callbacks as the dispatch mode says. A
/// single loop accepts by itself.
///
/// It is a handle: clones are the same event loop, so one thread serves and another, or a callback,
/// shuts down.
///
/// ```
/// use std::time::Duration;
/// use netpoll_core::Connection;
/// use netpoll_server::{EventLoop, Listener};
///
/// let listener = Listener::bind("tcp", "127.0.0.1:0")?;
/// let event_loop = EventLoop::new(|conn: &mut Connection| {
///     let (mut reader, mut writer) = conn.split();
///     writer.append(reader.slice(reader.len())?);
///     writer.flush()
/// });
/// let server = event_loop.clone();
/// let serving = std::thread::spawn(move || server.serve(listener));
/// event_loop.shutdown(Duration::from_secs(1));
/// assert_eq!(serving.join().unwrap()?.aborted, 0);
/// # Ok::<(), netpoll_core::Error>(())
/// ```
#[derive(Clone)]
pub struct EventLoop {
    inner: Arc<Inner>,
}

struct Inner {
    callbacks: Arc<dyn Prepare>,
    settings: Settings,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    served: bool,
    /// What admits connections, while it accepts.
    context: Option<Arc<AcceptContext>>,
    /// The listeners, while it accepts.
    listeners: Option<(Arc<OpenListeners>, Arc<Opening>)>,
    /// The loops' manager. The thread in `serve` holds it, and so ends it.
    manager: Weak<PollManager>,
    /// When the shutdown, if one was requested, closes connections by force.
    deadline: Option<Instant>,
    /// The connections, from `serve` on.
    group: Option<Arc<ConnectionGroup>>,
}

impl EventLoop {
    /// An event loop with default options, for callbacks without a session.
    ///
    /// `on_request` may block; see [`OnRequest`](netpoll_core::OnRequest).
    pub fn new<F>(on_request: F) -> Self
    where
        F: Fn(&mut Connection) -> Result<()> + Send + Sync + 'static,
    {
        let mut callbacks = Callbacks::new();
        callbacks.set(Moment::Request, move |(): &mut (), connection| on_request(connection));
        Self::with(Arc::new(callbacks), Settings::default())
    }

    pub(crate) fn with(callbacks: Arc<dyn Prepare>, settings: Settings) -> Self {
        let state = Mutex::new(State::default());
        Self { inner: Arc::new(Inner { callbacks, settings, state }) }
    }

    /// How much memory the connections hold, and what the memory limits have put off or refused.
    /// All zero before `serve`. Costs a lock and three loads.
    pub fn memory(&self) -> MemoryStats {
        self.state().group.as_ref().map(|group| group.memory()).unwrap_or_default()
    }

    /// Serves one listener, or several, and sockets of datagrams, on this thread until
    /// [`shutdown`](Self::shutdown), then returns what became of the connections. All threads that
    /// it started have ended by then, except threads inside a callback that outlasts the deadline.
    /// An event loop serves once.
    ///
    /// # Errors
    /// [`Error::Config`] when it is called a second time, without a listener, or with a socket that
    /// doesn't listen; the system's, when descriptors, memory or threads run out at the start; the
    /// listener's, when it was closed or broke while it was served; then the connections are
    /// aborted.
    pub fn serve(&self, listeners: impl Into<Listeners>) -> Result<Report> {
        self.serve_and_tell(listeners.into(), &Arc::default())
    }

    /// Serves; `opening` learns when it serves, and when it has ended.
    pub(crate) fn serve_and_tell(
        &self,
        listeners: Listeners,
        opening: &Arc<Opening>,
    ) -> Result<Report> {
        let _ending = opening.ending();
        self.check(&listeners)?;
        if std::mem::replace(&mut self.state().served, true) {
            return Err(Error::config("serve was called again, but an event loop serves once"));
        }
        let callbacks = self.inner.callbacks.clone();
        let mut serving = Serving::new(&self.inner.settings, callbacks, opening.clone())?;
        serving.reporting = self.report(&serving, &listeners, opening)?;
        {
            let mut state = self.state();
            state.group = Some(serving.group());
            state.manager = serving.manager();
            state.listeners = Some((serving.listeners(), opening.clone()));
            if state.deadline.is_some() {
                serving.group().begin_shutdown();
            }
            if state.deadline.is_none() {
                state.context = Some(serving.context.clone());
            }
        }
        let (outcome, deadline) = if self.state().context.is_some() {
            let outcome = serving.accept(listeners);
            let mut state = self.state();
            (state.context, state.listeners) = (None, None);
            (outcome, state.deadline)
        } else {
            (Ok(()), None)
        };
        if let Some(reporting) = &serving.reporting {
            reporting.stopping(serving.listeners.are_given_away());
        }
        let report = drain_and_close(serving, deadline.unwrap_or_else(clock::now));
        outcome.map(|()| report)
    }

    /// Checks that it can serve them.
    fn check(&self, listeners: &Listeners) -> Result<()> {
        if listeners.0.is_empty() {
            return Err(Error::config("serve was given no listener, so no client could connect"));
        }
        let streams = |it: &Served| matches!(it, Served::Streams(_));
        match listeners.0.iter().position(streams) {
            Some(index) if self.inner.settings.only_datagrams => Err(Error::config(format!(
                "listener {index} accepts connections, but the event loop has no on_request: \
                 EventLoop::for_datagrams serves datagrams alone"
            ))),
            _ => Ok(()),
        }
    }

    /// Begins to tell the service manager, if one is to be told.
    fn report(
        &self,
        serving: &Serving,
        listeners: &Listeners,
        opening: &Opening,
    ) -> Result<Option<Reporting>> {
        let Some(systemd) = &self.inner.settings.systemd else { return Ok(None) };
        let took_over = listeners.took_over();
        let (main, manager) = (serving.main(), serving.manager());
        let sockets = serving.listeners();
        let has_left = move || sockets.are_given_away();
        let reporting = Reporting::begin(systemd, took_over, &main, &manager, has_left)?;
        opening.when_serving(reporting.ready(took_over));
        Ok(Some(reporting))
    }

    /// Begins a shutdown and returns at once; `serve` does the rest, and returns when it is done.
    /// It stops accepting, closes connections that have nothing left to serve, waits for the
    /// others, and closes by force what is left at the deadline. Datagrams that have come when it
    /// begins are answered first; later ones are lost with the socket. It may be called from any
    /// thread, also in a callback. After a call before `serve`, `serve` returns at once; a second
    /// call does nothing.
    pub fn shutdown(&self, deadline: Duration) {
        let mut state = self.state();
        if state.deadline.is_some() {
            return;
        }
        // A longer deadline could overflow an instant.
        let year = Duration::from_secs(365 * 24 * 3600);
        state.deadline = Some(clock::now() + deadline.min(year));
        if let Some(group) = &state.group {
            group.begin_shutdown();
        }
        if let Some(context) = &state.context {
            context.main.stop(Duration::ZERO);
        }
    }

    /// Serves a connection that was accepted, dialled or inherited elsewhere, as if it had been
    /// accepted here: on a loop that the balance chooses, with all callbacks and limits. A
    /// `TcpStream`, a `UnixStream` and an `OwnedFd` are streams, and so is a [`Detached`], with the
    /// bytes that were read from it and not sent before: callbacks see those first, and they count
    /// as received. It becomes non-blocking, with `TCP_NODELAY`. Callbacks may run before this
    /// returns.
    ///
    /// It counts for `max_connections`, `max_connections_per_source` and `accept_rate`, not for the
    /// limit of a listener. `on_accept` is not asked, and it has no filter such as TLS, which
    /// [`adopt_with`](Self::adopt_with) gives it. Its
    /// [`ListenerInfo`](netpoll_core::ListenerInfo) has the index `usize::MAX`, the name `adopted`
    /// and the address of this end. Never waits.
    ///
    /// ```
    /// use std::io::{Read, Write};
    /// use std::os::unix::net::UnixStream;
    /// use netpoll_core::Connection;
    /// use netpoll_server::{EventLoop, Listener};
    ///
    /// let echo = EventLoop::new(|conn: &mut Connection| {
    ///     let (mut reader, mut writer) = conn.split();
    ///     writer.append(reader.slice(reader.len())?);
    ///     writer.flush()
    /// });
    /// let running = echo.spawn(Listener::bind("tcp", "127.0.0.1:0")?)?;
    /// let (mut client, ours) = UnixStream::pair()?;
    /// running.event_loop().adopt(ours)?;
    /// client.write_all(b"hello")?;
    /// client.read_exact(&mut [0; 5])?;
    /// # Ok::<(), netpoll_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// The stream is closed with each of them. [`Error::Config`] for what is no stream socket, or
    /// has no peer, and before `serve`; [`Error::Closed`] when a shutdown has begun; [`Error::Io`]
    /// of kind `QuotaExceeded` at a limit, whatever `at_limit` says; [`Error::NoMemory`] when
    /// `memory_budget` is used up.
    pub fn adopt(&self, stream: impl Into<Detached>) -> Result<Handle> {
        self.adopt_filtered(stream.into(), None)
    }

    /// As [`adopt`](Self::adopt), with a filter such as TLS, as a listener's connections have it:
    /// its handshake comes between `on_prepare` and `on_connect`. What was read from the stream is
    /// what the filter opens first, and what was not sent goes before all that it says.
    ///
    /// # Errors
    /// As `adopt`; and [`Error::Config`] where more than 64 KiB were read.
    pub fn adopt_with(
        &self,
        stream: impl Into<Detached>,
        filter: Arc<dyn FilterServer>,
    ) -> Result<Handle> {
        self.adopt_filtered(stream.into(), Some(filter))
    }

    fn adopt_filtered(
        &self,
        stream: Detached,
        filter: Option<Arc<dyn FilterServer>>,
    ) -> Result<Handle> {
        let context = {
            let state = self.state();
            if state.deadline.is_some() {
                return Err(Error::Closed);
            }
            state.context.clone()
        };
        let Some(context) = context else {
            return Err(Error::config("adopt was called, but the event loop does not serve"));
        };
        if self.inner.settings.only_datagrams {
            return Err(Error::config("adopt was called, but the event loop has no on_request"));
        }
        context.adopt(stream.adopt()?, filter)
    }

    /// The listeners, while it serves.
    pub(crate) fn open_listeners(&self) -> Option<Arc<OpenListeners>> {
        let state = self.state();
        let (listeners, opening) = state.listeners.as_ref()?;
        opening.is_serving().then(|| listeners.clone())
    }

    /// The same from the start of `serve` on.
    pub(crate) fn listeners(&self) -> Option<Arc<OpenListeners>> {
        self.state().listeners.as_ref().map(|(listeners, _)| listeners.clone())
    }

    /// What admits connections, and the manager, while it serves.
    pub(crate) fn parts(&self) -> Option<(Arc<AcceptContext>, Weak<PollManager>)> {
        let state = self.state();
        Some((state.context.clone()?, state.manager.clone()))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.inner.state)
    }
}

impl fmt::Debug for EventLoop {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.state();
        out.debug_struct("EventLoop")
            .field("settings", &self.inner.settings)
            .field("serving", &state.context.is_some())
            .field("shutting_down", &state.deadline.is_some())
            .finish()
    }
}
