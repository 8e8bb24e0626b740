//! Connections that are kept for the next caller.
//!
//! ```text
//!   checkout ─┬─► an idle one that is fit ──────────────► Pooled ──drop──► fit? ─► first waiter
//!             ├─► fewer than max_open: dial ────────────►    ▲                 ├─► idle
//!             └─► wait, in order ─► a connection, or: dial now                 └─► closed
//! ```
//! Each address has its own idle connections, limits and waiters ([`AddressPool`]). No lock is held
//! while a connection is dialled, waited for or closed.

mod address;
mod addresses;
mod builder;
mod checkout_steps;
mod checkout_then;
mod reaper;
mod stats;

use std::fmt;
use std::io::{self, ErrorKind};
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use netpoll_core::{Connection, Error, Handle, Result, blocking, clock};

use crate::cancel::{Cancel, cancelled};
use crate::dialer::{DialConnection, DialThen};
use address::{AddressPool, Grant, PoolConnection, Return, Taken};
use addresses::Addresses;
pub use builder::PoolBuilder;
pub use checkout_steps::Checkout;
pub use stats::PoolStats;

/// Keeps connections and hands them out again. Clones are one and the same pool.
///
/// A connection that is handed out is fit: open on both sides, without a byte that answers no
/// request, and without an answer that may still come. To check that costs a receive. The check
/// can't see a peer that closes at that very moment, so a request that fails before any answer may
/// be worth one more try.
///
/// The next caller would read an answer that comes late as the answer to its own question. So a
/// connection comes back only where its exchange is [`Complete`](netpoll_core::Exchange): nothing
/// has failed on it, a read timeout for instance; nothing is unread or unsent; bytes have arrived
/// since the last were sent; and the thread does not panic. That is right for one request and its
/// response at a time. [`keep`](Pooled::keep) is for protocols in which the last message has no
/// answer. [`discard`](Pooled::discard) is for what the pool can't see: a response that made no
/// sense, a part of one that has not arrived yet, or requests sent together of which not all are
/// answered. [`PoolStats`] counts what was closed, by cause.
///
/// Dropping the last clone closes the idle connections; one that is handed out closes when it comes
/// back.
///
/// ```
/// use std::time::Duration;
/// use netpoll_client::{Dialer, Pool};
///
/// let server = std::net::TcpListener::bind("127.0.0.1:0")?;
/// let address = server.local_addr()?.to_string();
/// let pool = Pool::builder().max_open(8).build(Dialer::builder().build()?)?;
///
/// let conn = pool.checkout("tcp", &address, Duration::from_secs(1))?;
/// let port = conn.local_addr()?;
/// drop(conn); // it comes back
/// let again = pool.checkout("tcp", &address, Duration::from_secs(1))?;
/// assert_eq!(again.local_addr()?, port);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Pool {
    inner: Arc<PoolInner>,
}

struct PoolInner {
    dialer: Box<dyn DialConnection + Send + Sync>,
    addresses: Arc<Addresses>,
}

/// A connection of a pool. Dropping it gives it back if its exchange is complete, as [`Pool`]
/// defines that, and closes it otherwise; [`keep`](Self::keep) and [`discard`](Self::discard)
/// decide instead.
pub struct Pooled {
    /// `None` until it is dialled, and once it is detached.
    pooled: Option<PoolConnection>,
    how: Return,
    address: Arc<AddressPool>,
    addresses: Arc<Addresses>,
}

impl Pool {
    /// A builder, which sets the limits.
    pub fn builder() -> PoolBuilder {
        PoolBuilder::default()
    }

    /// A connection to `address`: an idle one, or a new one, or, while as many are open as may be,
    /// the first that comes back; threads that wait are served in order. This thread waits, for
    /// `timeout` at most. See [`DialConnection::dial_connection`] for networks and addresses.
    ///
    /// # Errors
    /// As [`DialConnection::dial_connection`]; of kind `TimedOut` also when none came back in time.
    pub fn checkout(&self, network: &str, address: &str, timeout: Duration) -> Result<Pooled> {
        self.checkout_unless(network, address, timeout, None)
    }

    /// As [`checkout`](Self::checkout), until it is cancelled: the wait for a connection that comes
    /// back, and the dial. What was granted meanwhile goes to the next. A connection that it
    /// returns is not ended by `cancel`; [`Connection::handle`] of it can do that.
    ///
    /// ```
    /// use std::time::Duration;
    /// use netpoll_client::{Cancel, Pool, Pooled};
    /// use netpoll_core::{Connection, Result};
    ///
    /// /// Gives up when the client has gone.
    /// fn server_for(client: &Connection, pool: &Pool) -> Result<Pooled> {
    ///     let cancel = Cancel::new();
    ///     let _watch = client.on_gone({
    ///         let cancel = cancel.clone();
    ///         move || cancel.cancel()
    ///     });
    ///     pool.checkout_with("tcp", "db.example:5432", Duration::from_secs(1), &cancel)
    /// }
    /// ```
    ///
    /// # Errors
    /// As [`checkout`](Self::checkout), and of kind `Interrupted` when it was cancelled.
    pub fn checkout_with(
        &self,
        network: &str,
        address: &str,
        timeout: Duration,
        cancel: &Cancel,
    ) -> Result<Pooled> {
        self.checkout_unless(network, address, timeout, Some(cancel))
    }

    fn checkout_unless(
        &self,
        network: &str,
        address: &str,
        timeout: Duration,
        cancel: Option<&Cancel>,
    ) -> Result<Pooled> {
        let is_cancelled = || cancel.is_some_and(Cancel::is_cancelled);
        let give_up = || Err(Error::address("dial", network, address, cancelled()));
        if is_cancelled() {
            return give_up();
        }
        let deadline = clock::now().checked_add(timeout);
        let addresses = self.inner.addresses.clone();
        let pool = addresses.of(network, address);
        let grant = match pool.take() {
            Taken::Granted(grant) => grant,
            Taken::Wait(waiter) => {
                if let Err(error) = blocking::enter(&format!("wait for {network} {address}")) {
                    drop(Pooled::granted(pool.leave(&waiter), &pool, &addresses));
                    return Err(error);
                }
                match pool.wait(&waiter, deadline, cancel) {
                    Some(grant) => grant,
                    None if is_cancelled() => return give_up(),
                    None => return Err(self.none_came(network, address, timeout)),
                }
            }
        };
        let mut pooled = Pooled::granted(Some(grant), &pool, &addresses);
        if let Some(pooled) = pooled.as_mut().filter(|pooled| pooled.pooled.is_none()) {
            // If the dial fails or panics, the drop of `pooled` counts one open connection less.
            let left = Self::time_left(timeout, deadline);
            let dialer = &self.inner.dialer;
            let dialled = match cancel {
                None => dialer.dial_connection(network, address, left),
                Some(cancel) => dialer.dial_connection_with(network, address, left, cancel),
            };
            pool.count(dialled.is_ok());
            pooled.pooled = Some(PoolConnection::new(dialled?));
        }
        pooled.ok_or(Error::Closed)
    }

    /// What the pool has, and what it has done. Locks every address once.
    pub fn stats(&self) -> PoolStats {
        self.inner.addresses.stats()
    }

    /// What is left of the time, for a dial.
    fn time_left(timeout: Duration, deadline: Option<Instant>) -> Duration {
        let left = deadline.map_or(timeout, |it| it.saturating_duration_since(clock::now()));
        // A grant at the last moment leaves no time, and the dialer would refuse a timeout of 0. It
        // must do so only where the caller gave 0.
        if timeout.is_zero() { left } else { left.max(Duration::from_nanos(1)) }
    }

    fn none_came(&self, network: &str, address: &str, timeout: Duration) -> Error {
        let most = self.inner.addresses.limits.max_open.unwrap_or_default();
        let text = format!("all {most} connections are in use, none came back in {timeout:?}");
        Error::address("dial", network, address, io::Error::new(ErrorKind::TimedOut, text))
    }
}

/// An idle connection, or a new one, for good: it doesn't come back, and the pool counts it no
/// more.
impl DialConnection for Pool {
    fn dial_connection(
        &self,
        network: &str,
        address: &str,
        timeout: Duration,
    ) -> Result<Connection> {
        Ok(self.checkout(network, address, timeout)?.detach())
    }

    fn dial_connection_with(
        &self,
        network: &str,
        address: &str,
        timeout: Duration,
        cancel: &Cancel,
    ) -> Result<Connection> {
        Ok(self.checkout_with(network, address, timeout, cancel)?.detach())
    }

    fn dial_connection_then(
        &self,
        asker: &Handle,
        network: &str,
        address: &str,
        timeout: Duration,
        then: DialThen,
    ) -> Result<()> {
        self.checkout_then(asker, network, address, timeout, |asker, pooled| {
            then(asker, pooled.map(Pooled::detach))
        })
    }
}

impl Pooled {
    /// Gives it back although something failed on it or nothing has arrived since the last bytes
    /// were sent: the caller knows that no answer is outstanding. The pool still closes it where
    /// bytes are unread or unsent, or either side has closed.
    ///
    /// ```
    /// # use netpoll_client::Pool;
    /// # use std::time::Duration;
    /// /// A protocol without answers.
    /// fn report(pool: &Pool, line: &[u8]) -> netpoll_core::Result<()> {
    ///     let mut conn = pool.checkout("tcp", "stats.example:2003", Duration::from_secs(1))?;
    ///     conn.writer().write_bytes(line);
    ///     conn.writer().flush()?;
    ///     conn.keep();
    ///     Ok(())
    /// }
    /// ```
    pub fn keep(mut self) {
        self.how = Return::Keep;
    }

    /// Closes it: the caller knows that an answer, or a part of one, may still come.
    pub fn discard(mut self) {
        self.how = Return::Discard;
    }

    /// Takes the connection out of the pool for good: it doesn't come back, and the pool counts it
    /// no more.
    pub fn detach(mut self) -> Connection {
        self.pooled.take().expect(PRESENT).connection
    }

    fn granted(
        grant: Option<Grant>,
        address: &Arc<AddressPool>,
        addresses: &Arc<Addresses>,
    ) -> Option<Self> {
        let pooled = match grant? {
            Grant::Connection(pooled) => Some(*pooled),
            Grant::Dial => None,
        };
        let (address, addresses) = (address.clone(), addresses.clone());
        Some(Self { pooled, how: Return::Inspect, address, addresses })
    }
}

/// A `Pooled` outside of this file has a connection until it is dropped or detached.
const PRESENT: &str = "a pooled connection is there until it is dropped";

impl Deref for Pooled {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        &self.pooled.as_ref().expect(PRESENT).connection
    }
}

impl DerefMut for Pooled {
    fn deref_mut(&mut self) -> &mut Connection {
        &mut self.pooled.as_mut().expect(PRESENT).connection
    }
}

impl Drop for Pooled {
    fn drop(&mut self) {
        let how = match self.how {
            Return::Inspect if thread::panicking() => Return::Panicked,
            said => said,
        };
        if self.address.give_back(self.pooled.take(), how) {
            reaper::ensure(&self.addresses);
        }
    }
}

impl Drop for PoolInner {
    fn drop(&mut self) {
        self.addresses.close();
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Pool").field("stats", &self.stats()).finish_non_exhaustive()
    }
}

impl fmt::Debug for Pooled {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_tuple("Pooled").field(&self.pooled).finish()
    }
}
