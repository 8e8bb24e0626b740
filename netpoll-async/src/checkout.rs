//! Checking a connection out of a pool as a future.

use std::time::Duration;

use netpoll_client::{Checkout, Pool, Pooled};
use netpoll_core::Result;

use crate::steps::Steps;

/// What this crate adds to a [`Pool`].
pub trait AsyncPool {
    /// As [`Pool::checkout`], without a thread that waits for a connection that comes back, or for
    /// the dial. Dropping the future leaves the queue or ends the dial, and what was granted
    /// meanwhile goes to the next.
    ///
    /// What it yields is a connection that its caller drives: reads and flushes of it wait on the
    /// thread. On our loops a future may do that; in the runtime of others it belongs to a thread
    /// that may block. A dialer of one's own, without [`Dialer`](netpoll_client::Dialer), dials on
    /// the thread of the poll.
    ///
    /// ```
    /// use std::time::Duration;
    /// use netpoll_async::{AsyncPool, block_on};
    /// use netpoll_client::{Dialer, Pool};
    ///
    /// let server = std::net::TcpListener::bind("127.0.0.1:0")?;
    /// let pool = Pool::builder().build(Dialer::builder().build()?)?;
    /// let address = server.local_addr()?.to_string();
    /// let conn = block_on(pool.checkout_async("tcp", &address, Duration::from_secs(1)))?;
    /// assert!(conn.is_active());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`Pool::checkout`].
    fn checkout_async(
        &self,
        network: &str,
        address: &str,
        timeout: Duration,
    ) -> impl Future<Output = Result<Pooled>> + Send + use<Self>;
}

impl AsyncPool for Pool {
    fn checkout_async(
        &self,
        network: &str,
        address: &str,
        timeout: Duration,
    ) -> impl Future<Output = Result<Pooled>> + Send + use<> {
        let (pool, to): (_, (Box<str>, Box<str>)) =
            (self.clone(), (network.into(), address.into()));
        async move {
            let begin = |notify: &_| pool.begin_checkout((&to.0, &to.1), timeout, notify);
            Steps::<Checkout>::begin(begin)?.await
        }
    }
}
