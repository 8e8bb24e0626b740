//! Connections that are kept for the next one who needs them.
//!
//! ```text
//!   checkout ─┬─► an idle one that is fit ──────────────► Pooled ──drop──► fit? ─► first waiter
//!             ├─► fewer than max_open: dial ────────────►    ▲                 ├─► idle
//!             └─► wait, in order ─► a connection, or leave to dial             └─► closed
//! ```
//! All of it stands per address. The pool's lock is never held while something is dialled, waited
//! for or closed.

mod builder;
mod reaper;
mod shelf;

use std::fmt;
use std::io::{self, ErrorKind};
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use netpoll_core::{Connection, Error, Result, blocking};

use crate::dialer::DialConnection;
pub use builder::PoolBuilder;
pub use shelf::PoolStats;
use shelf::{Grant, Kept, Parting, Shelf, Slot, Taken};

/// Keeps connections and hands them out again. Clones are one and the same pool.
///
/// What is handed out is fit: open on both sides, without a byte that nobody has asked for, and
/// without an answer that may still come; to look costs a receive. A peer that closes at the very
/// moment can't be seen; so a request that fails before it was answered may be worth one more try.
///
/// An answer that comes late is read by the next caller, as the answer to another question. So a
/// connection comes back only where its exchange is [`Complete`](netpoll_core::Exchange): nothing
/// has failed on it, a read timeout for instance; nothing is unread or unsent; bytes have arrived
/// since the last were sent; and the thread does not panic. That is right for one request and its
/// response at a time. [`keep`](Pooled::keep) is for protocols in which the last message has no
/// answer. [`discard`](Pooled::discard) is for what can't be seen here: that a response made no
/// sense, that a part of it has not arrived yet, or that of several requests which were sent
/// together not all are answered. [`PoolStats`] counts what was closed, by cause.
///
/// Dropping the last clone closes what is idle; what is out closes when it comes back.
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
    inner: Arc<Inner>,
}

struct Inner {
    dialer: Box<dyn DialConnection + Send + Sync>,
    shelf: Arc<Shelf>,
}

/// A connection of a pool. Dropping it gives it back if its exchange is complete, and closes it
/// otherwise; [`Pool`] says what that means, [`keep`](Self::keep) and [`discard`](Self::discard)
/// say which.
pub struct Pooled {
    /// `None` until it is dialled, and when it has left for good.
    kept: Option<Kept>,
    parting: Parting,
    slot: Arc<Slot>,
    shelf: Arc<Shelf>,
}

impl Pool {
    /// Sets the limits.
    pub fn builder() -> PoolBuilder {
        PoolBuilder::default()
    }

    /// A connection to `address`: an idle one, or a new one, or, while as many are open as may be,
    /// the first that comes back; those who wait are served in order. All of it within `timeout`,
    /// on this thread. See [`DialConnection::dial_connection`] for networks and addresses.
    ///
    /// # Errors
    /// As [`DialConnection::dial_connection`]; of kind `TimedOut` as well when none came back.
    pub fn checkout(&self, network: &str, address: &str, timeout: Duration) -> Result<Pooled> {
        let deadline = Instant::now().checked_add(timeout);
        let shelf = self.inner.shelf.clone();
        let slot = shelf.slot(network, address);
        let grant = match slot.take() {
            Taken::Granted(grant) => grant,
            Taken::Wait(waiter) => {
                if let Err(error) = blocking::enter(&format!("wait for {network} {address}")) {
                    drop(Pooled::granted(slot.leave(&waiter), &slot, &shelf));
                    return Err(error);
                }
                let granted = slot.wait(&waiter, deadline);
                granted.ok_or_else(|| self.none_came(network, address, timeout))?
            }
        };
        let mut pooled = Pooled::granted(Some(grant), &slot, &shelf);
        if let Some(pooled) = pooled.as_mut().filter(|pooled| pooled.kept.is_none()) {
            // If it fails, or panics, the drop of `pooled` gives the place back.
            let dialled = self.dial(network, address, timeout, deadline);
            slot.count(dialled.is_ok());
            pooled.kept = Some(Kept::new(dialled?));
        }
        pooled.ok_or(Error::Closed)
    }

    /// What the pool has, and what it has done.
    pub fn stats(&self) -> PoolStats {
        self.inner.shelf.stats()
    }

    /// Dials with what is left of the time.
    fn dial(
        &self,
        network: &str,
        address: &str,
        timeout: Duration,
        deadline: Option<Instant>,
    ) -> Result<Connection> {
        let left = deadline.map_or(timeout, |it| it.saturating_duration_since(Instant::now()));
        // None is left to who was granted in the last moment; but who gave none is told so.
        let left = if timeout.is_zero() { left } else { left.max(Duration::from_nanos(1)) };
        self.inner.dialer.dial_connection(network, address, left)
    }

    fn none_came(&self, network: &str, address: &str, timeout: Duration) -> Error {
        let most = self.inner.shelf.limits.max_open.unwrap_or_default();
        let text = format!("all {most} connections are in use, none came back in {timeout:?}");
        Error::address("dial", network, address, io::Error::new(ErrorKind::TimedOut, text))
    }
}

/// An idle connection, or a new one, for good: it doesn't come back, and counts no more.
impl DialConnection for Pool {
    fn dial_connection(
        &self,
        network: &str,
        address: &str,
        timeout: Duration,
    ) -> Result<Connection> {
        Ok(self.checkout(network, address, timeout)?.detach())
    }
}

impl Pooled {
    /// Gives it back though something failed on it, or nothing has arrived since the last bytes
    /// were sent: no answer is outstanding. It is still closed where bytes are unread or unsent, or
    /// an end was seen.
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
        self.parting = Parting::Keep;
    }

    /// Closes it: the caller knows that an answer, or a part of one, may still come.
    pub fn discard(mut self) {
        self.parting = Parting::Discard;
    }

    /// Takes the connection out of the pool for good: it doesn't come back, and counts no more.
    pub fn detach(mut self) -> Connection {
        self.kept.take().expect(PRESENT).connection
    }

    fn granted(grant: Option<Grant>, slot: &Arc<Slot>, shelf: &Arc<Shelf>) -> Option<Self> {
        let kept = match grant? {
            Grant::Connection(kept) => Some(*kept),
            Grant::Dial => None,
        };
        let (slot, shelf) = (slot.clone(), shelf.clone());
        Some(Self { kept, parting: Parting::Judge, slot, shelf })
    }
}

/// A `Pooled` that somebody holds has a connection until it is dropped or detached.
const PRESENT: &str = "a pooled connection is there until it is dropped";

impl Deref for Pooled {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        &self.kept.as_ref().expect(PRESENT).connection
    }
}

impl DerefMut for Pooled {
    fn deref_mut(&mut self) -> &mut Connection {
        &mut self.kept.as_mut().expect(PRESENT).connection
    }
}

impl Drop for Pooled {
    fn drop(&mut self) {
        let parting = match self.parting {
            Parting::Judge if thread::panicking() => Parting::Panic,
            said => said,
        };
        if self.slot.give_back(self.kept.take(), parting) {
            reaper::ensure(&self.shelf);
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.shelf.close();
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Pool").field("stats", &self.stats()).finish_non_exhaustive()
    }
}

impl fmt::Debug for Pooled {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_tuple("Pooled").field(&self.kept).finish()
    }
}
