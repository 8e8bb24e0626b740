//! Checkouts that go on by callback: no thread waits for them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use netpoll_core::{Connection, Error, Handle, Pursuit, Result, clock, later};

use super::address::{AddressPool, Taken, Waiter};
use super::addresses::Addresses;
use super::{Pool, PoolConnection, Pooled};

/// How long a checkout without a deadline sleeps at the most: a grant ends that.
const DAY: Duration = Duration::from_secs(86_400);

impl Pool {
    /// As [`checkout`](Self::checkout), without waiting: `then` is called with the connection, or
    /// with why there is none, as a callback of `asker`. It may be called in any callback and on
    /// any thread; see [`Dialer::dial_then`](crate::Dialer::dial_then).
    ///
    /// A connection that is dialled for it lives on the loop of `asker`; one that was idle stays on
    /// the loop that it has. If `asker` ends first, the checkout ends, `then` is dropped without a
    /// call, and what was granted meanwhile goes to the next. A dialer of your own that has only
    /// `dial_connection` waits on this thread, or in a callback of `asker`.
    ///
    /// ```
    /// use std::time::Duration;
    /// use netpoll_client::Pool;
    /// use netpoll_core::{Connection, Result};
    ///
    /// fn report(pool: &Pool, asker: &Connection) -> Result<()> {
    ///     let time = Duration::from_secs(1);
    ///     pool.checkout_then(&asker.handle(), "tcp", "stats.example:2003", time, |_, conn| {
    ///         let mut conn = conn?;
    ///         conn.writer().write_bytes(b"one more\n");
    ///         conn.writer().flush()?;
    ///         conn.keep(); // it has no answer
    ///         Ok(())
    ///     })
    /// }
    /// ```
    ///
    /// # Errors
    /// [`Error::Closed`] if `asker` has ended; [`Error::Config`] for a network, an address or a
    /// timeout that can't be used, or if `asker` has no callbacks. Then `then` is dropped.
    pub fn checkout_then(
        &self,
        asker: &Handle,
        network: &str,
        address: &str,
        timeout: Duration,
        then: impl FnOnce(&mut Connection, Result<Pooled>) -> Result<()> + Send + 'static,
    ) -> Result<()> {
        let deadline = clock::now().checked_add(timeout);
        let (pool, addresses) =
            (self.inner.addresses.of(network, address), self.inner.addresses.clone());
        let checkout = Checkout {
            pool: self.clone(),
            network: network.into(),
            address: address.into(),
            timeout,
            deadline,
        };
        match pool.take() {
            Taken::Granted(grant) => match Pooled::granted(Some(grant), &pool, &addresses) {
                Some(pooled) => checkout.go_on(asker, pooled, then),
                None => Err(Error::Closed),
            },
            Taken::Wait(waiter) => {
                let place = Place { waiter, pool, addresses };
                let begin = |notify: &Arc<_>| {
                    place.waiter.notify_by(notify);
                    WaitingCheckout { place, checkout, then: Some(then) }
                };
                asker.pursue(begin).map(drop)
            }
        }
    }
}

/// What was asked for.
struct Checkout {
    pool: Pool,
    network: Box<str>,
    address: Box<str>,
    timeout: Duration,
    deadline: Option<Instant>,
}

impl Checkout {
    /// Dials, if what was granted is to be dialled; calls `then` with the connection.
    fn go_on<F>(&self, asker: &Handle, mut pooled: Pooled, then: F) -> Result<()>
    where
        F: FnOnce(&mut Connection, Result<Pooled>) -> Result<()> + Send + 'static,
    {
        if pooled.pooled.is_some() {
            return asker.run(move |asker| then(asker, Ok(pooled)));
        }
        let Self { pool, network, address, timeout, deadline } = self;
        let left = Pool::time_left(*timeout, *deadline);
        // If this is dropped without a call, or panics, the drop of `pooled` counts one less.
        let dialled = move |asker: &mut Connection, dialled: Result<Connection>| {
            pooled.address.count(dialled.is_ok());
            let outcome = dialled.map(|connection| {
                pooled.pooled = Some(PoolConnection::new(connection));
                pooled
            });
            then(asker, outcome)
        };
        let dialer = &pool.inner.dialer;
        dialer.dial_connection_then(asker, network, address, left, Box::new(dialled))
    }
}

/// A place in the queue of an address. Its drop leaves the queue.
pub(super) struct Place {
    pub(super) waiter: Arc<Waiter>,
    pub(super) pool: Arc<AddressPool>,
    pub(super) addresses: Arc<Addresses>,
}

impl Drop for Place {
    fn drop(&mut self) {
        drop(Pooled::granted(self.pool.leave(&self.waiter), &self.pool, &self.addresses));
    }
}

/// A checkout that waits for a connection that comes back.
struct WaitingCheckout<F> {
    place: Place,
    checkout: Checkout,
    then: Option<F>,
}

impl<F> Pursuit for WaitingCheckout<F>
where
    F: FnOnce(&mut Connection, Result<Pooled>) -> Result<()> + Send + 'static,
{
    fn advance(&mut self) -> Option<Instant> {
        let now = clock::now();
        let is_late = self.checkout.deadline.is_some_and(|deadline| now >= deadline);
        if is_late || self.place.waiter.is_granted() {
            return None;
        }
        Some(self.checkout.deadline.unwrap_or_else(|| later(now, DAY)))
    }

    fn finish(&mut self, asker: &mut Connection) -> Result<()> {
        let Self { place, checkout, then } = self;
        let Some(then) = then.take() else { return Ok(()) };
        let granted = place.pool.end_wait(&place.waiter);
        match Pooled::granted(granted, &place.pool, &place.addresses) {
            Some(pooled) if pooled.pooled.is_some() => then(asker, Ok(pooled)),
            Some(pooled) => checkout.go_on(&asker.handle(), pooled, then),
            None => {
                let Checkout { pool, network, address, timeout, .. } = &*checkout;
                then(asker, Err(pool.none_came(network, address, *timeout)))
            }
        }
    }
}
