//! Dialling: from a network and an address to a connection, within one deadline.

use std::io::{self, ErrorKind};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use netpoll_core::{
    Address, Attempt, Connection, Group, Limits, Notify, Outcome, PollManager, Result, blocking,
    socket::ConnectOptions,
};

use crate::builder::{DialerBuilder, check_user_timeout};
use crate::cancel::Cancel;
use crate::eyeballs::{Candidate, Move, Race};
use crate::resolver::{Question, Resolver};
use crate::target::{Kind, Target};

/// Between two looks at a Unix socket whose listener's queue is full. Each look doubles it.
const PAUSE_AT_FIRST: Duration = Duration::from_millis(1);
const PAUSE_AT_MOST: Duration = Duration::from_millis(50);

/// Everything that dials: a [`Dialer`], a [`Pool`](crate::Pool), a test's double.
pub trait DialConnection {
    /// Connects to `address` over `network`, waiting on this thread for `timeout` at most: names
    /// are resolved and all their addresses tried within that time.
    ///
    /// | network | address |
    /// | --- | --- |
    /// | `"tcp"`, of one family `"tcp4"`, `"tcp6"` | `host:port`, `1.2.3.4:port`, `[::1]:port` |
    /// | `"unix"` | a path, or `@` and a name of Linux's abstract namespace |
    ///
    /// # Errors
    /// [`Error::Config`] for an address, a network or a timeout that can't be used, and in a
    /// callback that must not wait; [`Error::Address`] with the system's answer, of kind
    /// `ConnectionRefused`, `TimedOut`, `NetworkUnreachable`, `NotFound` (no such host, no such
    /// path), …
    ///
    /// [`Error::Config`]: netpoll_core::Error::Config
    /// [`Error::Address`]: netpoll_core::Error::Address
    fn dial_connection(
        &self,
        network: &str,
        address: &str,
        timeout: Duration,
    ) -> Result<Connection>;
}

/// Dials with default options, on the shared manager; see [`DialConnection::dial_connection`].
///
/// The connection is driven by the thread that holds it: its reads and writes wait there. Dropping
/// it closes it in order.
///
/// ```
/// use std::io::{BufRead, Write};
/// use std::time::Duration;
///
/// let server = std::net::TcpListener::bind("127.0.0.1:0")?;
/// let address = server.local_addr()?.to_string();
/// let answering = std::thread::spawn(move || {
///     let (mut stream, _) = server.accept()?;
///     stream.write_all(b"welcome\n")
/// });
///
/// let mut conn = netpoll_client::dial_connection("tcp", &address, Duration::from_secs(1))?;
/// assert_eq!(conn.reader().until(b'\n')?, b"welcome\n");
/// # answering.join().unwrap()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// As [`DialConnection::dial_connection`].
pub fn dial_connection(network: &str, address: &str, timeout: Duration) -> Result<Connection> {
    static DEFAULT: OnceLock<Dialer> = OnceLock::new();
    if let Some(dialer) = DEFAULT.get() {
        dialer.dial_connection(network, address, timeout)
    } else {
        let dialer = Dialer::new(Limits::default())?;
        DEFAULT.get_or_init(|| dialer).dial_connection(network, address, timeout)
    }
}

/// Dials with options of its own, on a manager of its choice. Cheap to clone.
///
/// A name is resolved to all its addresses, which are tried as Happy Eyeballs (RFC 8305) says: the
/// families in turn, each address with a head start over the next, and all within one deadline, so
/// that one that doesn't answer costs 250 ms and not the dial.
///
/// A dial of an address as it is costs six system calls on its socket: `socket`, `setsockopt` (no
/// delay), `connect`, `epoll_ctl`, `getsockopt` (how it went) and `getsockname` (that it didn't
/// meet itself).
#[derive(Debug, Clone)]
pub struct Dialer {
    pub(crate) group: Arc<Group>,
    /// `None`: the shared one, started by the first dial.
    pub(crate) manager: Option<Arc<PollManager>>,
    pub(crate) settings: Arc<Settings>,
}

/// What a builder sets.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) connect: ConnectOptions,
    pub(crate) timeout: Duration,
    pub(crate) stagger: Duration,
    pub(crate) resolver: Resolver,
}

impl Dialer {
    /// A dialer on the shared manager, with these limits for its connections.
    ///
    /// # Errors
    /// [`Error::Config`](netpoll_core::Error::Config) where a limit can't be used.
    pub fn new(limits: Limits) -> Result<Self> {
        Self::builder().limits(limits).build()
    }

    /// Sets more than limits.
    pub fn builder() -> DialerBuilder {
        DialerBuilder::new()
    }

    /// Lets `manager`'s loops watch the connections. Dropping the manager closes them.
    #[must_use]
    pub fn manager(mut self, manager: Arc<PollManager>) -> Self {
        self.manager = Some(manager);
        self
    }

    /// This one with another user timeout.
    pub(crate) fn with_user_timeout(mut self, time: Option<Duration>) -> Result<Self> {
        check_user_timeout(time)?;
        let mut settings = (*self.settings).clone();
        settings.connect.user_timeout = time;
        self.settings = Arc::new(settings);
        Ok(self)
    }

    /// As [`DialConnection::dial_connection`], with the timeout that was set for this dialer.
    ///
    /// # Errors
    /// As there.
    pub fn dial(&self, network: &str, address: &str) -> Result<Connection> {
        self.dial_connection(network, address, self.settings.timeout)
    }

    /// As [`DialConnection::dial_connection`], until it is cancelled.
    ///
    /// # Errors
    /// As there, and of kind `Interrupted` when it was cancelled.
    pub fn dial_with(
        &self,
        network: &str,
        address: &str,
        timeout: Duration,
        cancel: &Cancel,
    ) -> Result<Connection> {
        let attempt = Dial::new(self, &self.group, timeout, Some(cancel)).run(network, address)?;
        Ok(attempt.into_connection())
    }
}

impl DialConnection for Dialer {
    fn dial_connection(
        &self,
        network: &str,
        address: &str,
        timeout: Duration,
    ) -> Result<Connection> {
        let attempt = Dial::new(self, &self.group, timeout, None).run(network, address)?;
        Ok(attempt.into_connection())
    }
}

/// One dial under way.
pub(crate) struct Dial<'a> {
    dialer: &'a Dialer,
    /// What the connection will belong to.
    group: &'a Arc<Group>,
    timeout: Duration,
    deadline: Option<Instant>,
    cancel: Option<&'a Cancel>,
    bell: Arc<Notify>,
}

impl<'a> Dial<'a> {
    pub(crate) fn new(
        dialer: &'a Dialer,
        group: &'a Arc<Group>,
        timeout: Duration,
        cancel: Option<&'a Cancel>,
    ) -> Self {
        let (deadline, bell) = (Instant::now().checked_add(timeout), Arc::default());
        Self { dialer, group, timeout, deadline, cancel, bell }
    }

    /// Resolves and connects.
    pub(crate) fn run(&self, network: &str, address: &str) -> Result<Attempt> {
        let target = Target::parse(network, address)?;
        if self.timeout.is_zero() {
            return Err(target.wrong("the timeout is 0, so no connection could be made"));
        }
        blocking::check(&format!("dial {network} {address}"))?;
        let manager = match &self.dialer.manager {
            Some(manager) => manager.check_process().map(|()| manager.clone())?,
            None => PollManager::shared()?,
        };
        if let Some(cancel) = self.cancel {
            cancel.watch(&self.bell);
        }
        let addresses = self.local_fits(&target, self.resolve(&target)?)?;
        self.connect(addresses, &manager).map_err(|error| target.failed(error))
    }

    fn resolve(&self, target: &Target<'_>) -> Result<Vec<Address>> {
        let (host, port) = match &target.kind {
            Kind::Literal(address) => return Ok(vec![address.clone()]),
            Kind::Name(host, port) => (*host, *port),
        };
        let asked = self.dialer.settings.resolver.ask(host, port, &self.bell);
        let answer = asked.and_then(|question| self.wait_for(&question));
        target.fitting(answer.map_err(|error| target.failed(error))?)
    }

    fn wait_for(&self, question: &Question) -> io::Result<Vec<std::net::SocketAddr>> {
        loop {
            if let Some(answer) = question.answer() {
                return answer;
            }
            self.check_time(Instant::now())?;
            self.bell.wait(self.deadline)?;
        }
    }

    /// Only addresses of its own family can be reached from a local address.
    fn local_fits(&self, target: &Target<'_>, mut addresses: Vec<Address>) -> Result<Vec<Address>> {
        if let Some(local) = self.dialer.settings.connect.local {
            let fits = |to: &Address| to.inet().is_none_or(|to| to.is_ipv4() == local.is_ipv4());
            addresses.retain(fits);
        }
        if addresses.is_empty() {
            return Err(target.wrong("it has no address of the local address's family"));
        }
        Ok(addresses)
    }

    /// Runs the race. Attempts that have not won are dropped, and so closed, when this returns.
    fn connect(&self, addresses: Vec<Address>, manager: &PollManager) -> io::Result<Attempt> {
        let Settings { connect, stagger, .. } = &*self.dialer.settings;
        let mut race = Race::new(addresses, *stagger, Instant::now());
        let mut running: Vec<(Candidate, Attempt)> = Vec::new();
        let mut pause = PAUSE_AT_FIRST;
        loop {
            let now = Instant::now();
            let mut index = 0;
            while index < running.len() {
                match running[index].1.outcome() {
                    None => index += 1,
                    Some(Outcome::Connected) => return Ok(running.swap_remove(index).1),
                    Some(outcome) => {
                        let (candidate, _) = running.swap_remove(index);
                        lose(&mut race, candidate, outcome, now);
                    }
                }
            }
            self.check_time(now)?;
            match race.next(now) {
                Move::Start(candidate) => {
                    let (to, home) = (&candidate.address, manager.pick(candidate.address.ip()));
                    match Attempt::start(to, connect, self.group, &home, &self.bell) {
                        Ok(attempt) => running.push((candidate, attempt)),
                        Err(Outcome::Failed(error)) if error.kind() == ErrorKind::WouldBlock => {
                            race.postpone(candidate, now + pause);
                            pause = (pause * 2).min(PAUSE_AT_MOST);
                        }
                        Err(outcome) => lose(&mut race, candidate, outcome, now),
                    }
                }
                Move::Wait(next) => {
                    let until = [next, self.deadline].into_iter().flatten().min();
                    self.bell.wait(until)?;
                }
                Move::Lost => return Err(race.into_failure()),
            }
        }
    }

    fn check_time(&self, now: Instant) -> io::Result<()> {
        if self.cancel.is_some_and(Cancel::is_cancelled) {
            return Err(io::Error::new(ErrorKind::Interrupted, "cancelled"));
        }
        if self.deadline.is_some_and(|deadline| now >= deadline) {
            let text = format!("timed out after {:?}", self.timeout);
            return Err(io::Error::new(ErrorKind::TimedOut, text));
        }
        Ok(())
    }
}

fn lose(race: &mut Race, candidate: Candidate, outcome: Outcome, now: Instant) {
    match outcome {
        Outcome::Again(error) => race.again(candidate, error, now),
        Outcome::Failed(error) => race.failed(error, now),
        // Not lost; its caller has looked.
        Outcome::Connected => {}
    }
}
