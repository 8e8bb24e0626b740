//! The options of an event loop: set by name, checked once.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use netpoll_core::{
    Callbacks, Dispatch, Gather, Handler, Limits, LoadBalance, MaxAge, OnPrepare, OutputLimits,
    PollManager, ReceiveRate, Result, Spin, TurnLimits,
};

use crate::admission::{Asked, AtLimit, Incoming, Verdict};
use crate::event_loop::EventLoop;
use crate::settings::Settings;
use crate::systemd::Systemd;

/// Builds an [`EventLoop`]; `S` is the session that each connection has.
///
/// The session's type comes from [`on_prepare`](Self::on_prepare), so that call stands first;
/// without it the session is `()`. Every limit has a default, and [`build`](Self::build) refuses an
/// option that can't be used, with one sentence that names it.
///
/// ```
/// use netpoll_core::{CloseReason, Connection};
/// use netpoll_server::EventLoop;
///
/// struct Session { requests: u64 }
///
/// let event_loop = EventLoop::builder()
///     .on_prepare(|_: &Connection| Ok(Session { requests: 0 }))
///     .on_request(|session: &mut Session, conn: &mut Connection| {
///         session.requests += 1;
///         let (mut reader, mut writer) = conn.split();
///         writer.append(reader.slice(reader.len())?);
///         writer.flush()
///     })
///     .on_disconnect(|session: Session, why: &CloseReason| {
///         println!("{} requests, then {why}", session.requests);
///     })
///     .loops(2)
///     .build()?;
/// # Ok::<(), netpoll_core::Error>(())
/// ```
pub struct EventLoopBuilder<S = ()> {
    callbacks: Callbacks<S>,
    settings: Settings,
}

impl EventLoop {
    /// All options, sessions, and the other callbacks.
    pub fn builder() -> EventLoopBuilder {
        EventLoopBuilder { callbacks: Callbacks::new(), settings: Settings::default() }
    }

    /// As [`builder`](Self::builder), for an event loop that may do without `on_request`: then it
    /// serves [datagrams](crate::Datagrams) alone, and refuses a listener.
    pub fn for_datagrams() -> EventLoopBuilder {
        let settings = Settings { only_datagrams: true, ..Settings::default() };
        EventLoopBuilder { callbacks: Callbacks::new(), settings }
    }
}

impl EventLoopBuilder<()> {
    /// Makes the session of each connection; see [`OnPrepare`]. Set it before the callbacks that
    /// are given the session.
    pub fn on_prepare<S>(self, callback: impl OnPrepare<S>) -> EventLoopBuilder<S> {
        EventLoopBuilder {
            callbacks: self.callbacks.prepared_by(callback),
            settings: self.settings,
        }
    }
}

impl<S> EventLoopBuilder<S> {
    netpoll_core::callback_setters!();

    /// Sets one value as all the callbacks; see [`Handler`]. It replaces callbacks set before.
    pub fn handler<H: Handler>(self, handler: H) -> EventLoopBuilder<H::Session> {
        EventLoopBuilder { callbacks: Callbacks::of_handler(handler), settings: self.settings }
    }

    /// Sets all callbacks at once. It replaces callbacks set before.
    #[doc(hidden)]
    pub fn callbacks<T>(self, callbacks: Callbacks<T>) -> EventLoopBuilder<T> {
        EventLoopBuilder { callbacks, settings: self.settings }
    }

    /// How many loops serve the connections: 1 to 1 024. Default: one for each core that the
    /// process may use. The acceptor is not among them: it runs on the thread that calls
    /// `serve`. A single loop accepts by itself, and that thread sleeps.
    #[must_use]
    pub fn loops(mut self, loops: usize) -> Self {
        self.settings.loops = loops;
        self
    }

    /// How connections spread over the loops. Default: round robin.
    #[must_use]
    pub fn load_balance(mut self, balance: LoadBalance) -> Self {
        self.settings.balance = balance;
        self
    }

    /// Whether a loop that has nothing to do sleeps at once, or first polls for some microseconds.
    /// Default: [`Spin::WhenCheaper`].
    #[must_use]
    pub fn spin(mut self, spin: Spin) -> Self {
        self.settings.spin = spin;
        self
    }

    /// Whether one thread may turn several loops while the load is light. Default:
    /// [`Gather::Never`].
    #[must_use]
    pub fn gather(mut self, gather: Gather) -> Self {
        self.settings.gather = gather;
        self
    }

    /// Serves on the loops of this manager, which outlives the event loop, instead of on its own;
    /// `loops`, `load_balance`, `spin` and `gather` then have no effect.
    #[must_use]
    pub fn manager(mut self, manager: Arc<PollManager>) -> Self {
        self.settings.manager = Some(manager);
        self
    }

    /// Where callbacks run. Default: [`Dispatch::HandOff`], where they may block.
    #[must_use]
    pub fn dispatch(mut self, dispatch: Dispatch) -> Self {
        self.settings.dispatch = dispatch;
        self
    }

    /// All limits of a connection at once. The methods below set one of them each; `docs/limits.md`
    /// has them in one table.
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Self {
        self.settings.limits = limits;
        self
    }

    /// [`Limits::read_timeout`]: how long one read waits for all the bytes that it asked for.
    /// Default: `None`, for ever.
    #[must_use]
    pub fn read_timeout(mut self, timeout: impl Into<Option<Duration>>) -> Self {
        self.settings.limits.read_timeout = timeout.into();
        self
    }

    /// [`Limits::write_timeout`]: how long a flush waits, and how long a peer may take nothing of
    /// an output above its high-water mark. Default 60 s; `None` is for ever.
    #[must_use]
    pub fn write_timeout(mut self, timeout: impl Into<Option<Duration>>) -> Self {
        self.settings.limits.write_timeout = timeout.into();
        self
    }

    /// [`Limits::idle_timeout`]: how long no byte may pass either way while no callback runs.
    /// Default: `None`, for ever.
    #[must_use]
    pub fn idle_timeout(mut self, timeout: impl Into<Option<Duration>>) -> Self {
        self.settings.limits.idle_timeout = timeout.into();
        self
    }

    /// [`Limits::first_byte_timeout`]: how long a new connection may take to send its first byte.
    /// Default: `None`, for ever.
    #[must_use]
    pub fn first_byte_timeout(mut self, timeout: impl Into<Option<Duration>>) -> Self {
        self.settings.limits.first_byte_timeout = timeout.into();
        self
    }

    /// [`Limits::min_receive_rate`]: how slowly the rest of a request may come once a part of it is
    /// there. Default: `None`, no bound.
    #[must_use]
    pub fn min_receive_rate(mut self, rate: impl Into<Option<ReceiveRate>>) -> Self {
        self.settings.limits.min_receive_rate = rate.into();
        self
    }

    /// [`Limits::input_limit`]: bytes that a connection may have buffered unread. Default 1 MiB.
    #[must_use]
    pub fn input_limit(mut self, bytes: usize) -> Self {
        self.settings.limits.input_limit = bytes;
        self
    }

    /// [`Limits::held_limit`]: bytes of received blocks that slices of a connection's input may
    /// keep alive before no more is received. Default 16 MiB; `None` is no bound.
    #[must_use]
    pub fn held_limit(mut self, bytes: impl Into<Option<usize>>) -> Self {
        self.settings.limits.held_limit = bytes.into();
        self
    }

    /// [`Limits::memory_budget`]: bytes that all connections together may hold. Default: `None`, no
    /// bound.
    #[must_use]
    pub fn memory_budget(mut self, bytes: impl Into<Option<usize>>) -> Self {
        self.settings.limits.memory_budget = bytes.into();
        self
    }

    /// [`Limits::output`]: the water marks of a connection's output queue, in bytes. Default
    /// 256 KiB and 1 MiB.
    #[must_use]
    pub fn output_limits(mut self, low: usize, high: usize) -> Self {
        self.settings.limits.output = OutputLimits { low, high };
        self
    }

    /// [`Limits::linger`]: how long an orderly close may take to send what was accepted. Default
    /// 10 s.
    #[must_use]
    pub fn linger(mut self, time: Duration) -> Self {
        self.settings.limits.linger = time;
        self
    }

    /// Callbacks that take longer are counted in [`EventLoop::stats`] and, once a second at most,
    /// logged with their connection when they return. Default `None`: off, since it reads the clock
    /// twice per callback. A few milliseconds suit callbacks that must not block; how long a
    /// callback may take on a worker depends on the application.
    #[must_use]
    pub fn slow_callback(mut self, limit: impl Into<Option<Duration>>) -> Self {
        self.settings.slow_callback = limit.into();
        self
    }

    /// Connections that may be open at a time. Default `None`: as many as descriptors allow; when
    /// descriptors run out, new connections wait, and one of them is closed each time, so that its
    /// client learns of it.
    #[must_use]
    pub fn max_connections(mut self, connections: impl Into<Option<usize>>) -> Self {
        self.settings.admission.connections = connections.into();
        self
    }

    /// Connections from one source that may be open at a time; further ones are closed at once. A
    /// source is an IPv4 address or a /64 of IPv6, see [`source_prefixes`](Self::source_prefixes).
    /// Default `None`: many clients may share one address behind a NAT.
    #[must_use]
    pub fn max_connections_per_source(mut self, connections: impl Into<Option<usize>>) -> Self {
        self.settings.admission.per_source = connections.into();
        self
    }

    /// How many leading bits of an address make its source: 1 to 32 of IPv4, 1 to 128 of IPv6.
    /// Default 32 and 64, since one subscriber of IPv6 has at least a /64, with all its addresses.
    #[must_use]
    pub fn source_prefixes(mut self, v4: u8, v6: u8) -> Self {
        self.settings.admission.prefixes = (v4, v6);
        self
    }

    /// Connections that are accepted per second, and how many at once after a quiet time. Default:
    /// no limit.
    #[must_use]
    pub fn accept_rate(mut self, per_second: u32, burst: u32) -> Self {
        self.settings.admission.rate = Some((per_second, burst));
        self
    }

    /// Decides about each connection as soon as it is accepted, by its peer's address, before it
    /// costs anything but the accept: before it is counted for a limit, and before any callback. It
    /// runs on the thread that accepts, which must not wait: `accept` and often all connections of
    /// a loop wait for it. Where a listener speaks the PROXY protocol it is asked when the header
    /// has come, with the address that the proxy named. A panic in it closes the connection.
    /// `EventLoopStats::refused_on_accept` counts what it refuses. Adopted connections are not
    /// asked about.
    ///
    /// ```
    /// use netpoll_core::Connection;
    /// use netpoll_server::{EventLoop, Incoming, Verdict};
    ///
    /// let event_loop = EventLoop::builder()
    ///     .on_request(|_: &mut (), _: &mut Connection| Ok(()))
    ///     .on_accept(|incoming: &Incoming<'_>| match incoming.peer.ip() {
    ///         Some(ip) if !ip.is_loopback() => Verdict::Reset,
    ///         _ => Verdict::Admit,
    ///     })
    ///     .build()?;
    /// # Ok::<(), netpoll_core::Error>(())
    /// ```
    #[must_use]
    pub fn on_accept(
        mut self,
        on_accept: impl Fn(&Incoming<'_>) -> Verdict + Send + Sync + 'static,
    ) -> Self {
        self.settings.admission.on_accept = Asked(Some(Arc::new(on_accept)));
        self
    }

    /// What happens to new connections when one of these limits is met. Default
    /// [`AtLimit::Queue`].
    #[must_use]
    pub fn at_limit(mut self, at_limit: AtLimit) -> Self {
        self.settings.admission.at_limit = at_limit;
        self
    }

    /// [`Limits::turn`]: how much one connection may use before the next one runs: rounds of one
    /// receive and one callback, and bytes received. Default 16 and 256 KiB.
    #[must_use]
    pub fn turn_limits(mut self, rounds: usize, bytes: usize) -> Self {
        self.settings.limits.turn = TurnLimits { rounds, bytes };
        self
    }

    /// [`Limits::max_age`]: how old a connection may become, before `on_shutdown` tells it to end.
    /// Default: `None`, any age.
    #[must_use]
    pub fn max_age(mut self, age: impl Into<Option<MaxAge>>) -> Self {
        self.settings.limits.max_age = age.into();
        self
    }

    /// [`Limits::half_open`]: whether a connection stays open after its peer has ended its stream,
    /// until it is closed or its own stream is ended. Default: no.
    #[must_use]
    pub fn half_open(mut self, stays: bool) -> Self {
        self.settings.limits.half_open = stays;
        self
    }

    /// Tells this service manager when the event loop serves and stops, and that it lives while
    /// every loop turns; see [`Systemd`]. With a watchdog it has a thread, `netpoll-watchdog`. Of
    /// several event loops of a process one should do so. Default: `None`, nothing is told.
    #[must_use]
    pub fn systemd(mut self, systemd: impl Into<Option<Systemd>>) -> Self {
        self.settings.systemd = systemd.into();
        self
    }

    /// Checks the options and makes the event loop. Nothing is started before `serve`.
    ///
    /// # Errors
    /// [`Error::Config`](netpoll_core::Error::Config), one sentence that names the option.
    pub fn build(mut self) -> Result<EventLoop>
    where
        S: Send + 'static,
    {
        self.settings.only_datagrams &= !self.callbacks.serve_requests();
        if !self.settings.only_datagrams {
            self.callbacks.validate()?;
        }
        self.settings.validate()?;
        Ok(EventLoop::with(Arc::new(self.callbacks), self.settings))
    }
}

impl<S> fmt::Debug for EventLoopBuilder<S> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("EventLoopBuilder")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}
