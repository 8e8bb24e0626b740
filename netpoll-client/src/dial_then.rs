//! Dials that go on by callback: no thread waits for them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use netpoll_core::{Attempt, Connection, ConnectionGroup, Error, Handle, Pursuit, Result, Timer};

use crate::dial::{Dial, Loops, Means, Step};
use crate::dialer::Dialer;
use crate::dialling::{Advance, Dialling};
use crate::target::Target;

impl Dialer {
    /// Dials without waiting: `then` is called with the connection, or with why there is none, as a
    /// callback of `asker`, the connection for which this one is dialled. The timeout is that of
    /// this dialer; names, addresses and all else are as in [`dial`](Self::dial).
    ///
    /// It may be called in any callback, also under `Dispatch::Inline`, and on any thread. The
    /// connection lives on the loop of `asker`, whatever manager this dialer has: so what passes
    /// between the two stays on one thread. `then` is a job of `asker`, as those of
    /// [`Handle::run`] are: it has `asker` to itself, its error closes `asker`, and it runs where
    /// the dispatch mode says.
    ///
    /// While the dial is under way, callbacks of `asker` run as always.
    /// [`pause_reading`](Connection::pause_reading) leaves what its peer sends in the kernel
    /// until then. If `asker` ends first, or the [`Timer`] is cancelled, the dial ends, its sockets
    /// are closed, and `then` is dropped without a call. A `Timer` that is dropped cancels nothing.
    ///
    /// ```
    /// use std::io::Read;
    /// use std::time::Duration;
    /// use netpoll_client::{Client, Dialer};
    /// use netpoll_core::{Connection, Dispatch};
    ///
    /// let (asked, origin) = (std::net::TcpListener::bind("127.0.0.1:0")?,
    ///     std::net::TcpListener::bind("127.0.0.1:0")?);
    /// let (dialer, address) = (Dialer::builder().build()?, origin.local_addr()?.to_string());
    /// let client = Client::builder()
    ///     .on_connect(move |_: &mut (), conn: &mut Connection| {
    ///         dialer.dial_then(&conn.handle(), "tcp", &address, |asker, dialled| {
    ///             let mut other = dialled?;
    ///             other.writer().write_string("hello"); // sent as it is dropped
    ///             asker.close();
    ///             Ok(())
    ///         })?;
    ///         Ok(())
    ///     })
    ///     .on_request(|_: &mut (), _: &mut Connection| Ok(()))
    ///     .dispatch(Dispatch::Inline)
    ///     .build()?;
    /// client.dial("tcp", &asked.local_addr()?.to_string(), Duration::from_secs(1))?;
    ///
    /// let mut heard = String::new();
    /// origin.accept()?.0.read_to_string(&mut heard)?;
    /// assert_eq!(heard, "hello");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Config`] for a network or an address that can't be used, or if `asker` was dialled
    /// and has no callbacks; [`Error::Closed`] if `asker` has ended. Then `then` is dropped. All
    /// else is reported to `then`, also what is known at once.
    pub fn dial_then(
        &self,
        asker: &Handle,
        network: &str,
        address: &str,
        then: impl FnOnce(&mut Connection, Result<Connection>) -> Result<()> + Send + 'static,
    ) -> Result<Timer> {
        self.dial_then_within(asker, network, address, self.options.timeout, then)
    }

    /// As [`dial_then`](Self::dial_then), with a timeout of its own.
    ///
    /// # Errors
    /// As there, and [`Error::Config`] for a timeout of 0.
    pub fn dial_then_within(
        &self,
        asker: &Handle,
        network: &str,
        address: &str,
        timeout: Duration,
        then: impl FnOnce(&mut Connection, Result<Connection>) -> Result<()> + Send + 'static,
    ) -> Result<Timer> {
        self.attempt_then(asker, (network, address), timeout, &self.group, |asker, dialled| {
            then(asker, dialled.map(Attempt::into_connection))
        })
    }

    /// Dials a connection that is to belong to `group`.
    pub(crate) fn attempt_then(
        &self,
        asker: &Handle,
        (network, address): (&str, &str),
        timeout: Duration,
        group: &Arc<ConnectionGroup>,
        then: impl FnOnce(&mut Connection, Result<Attempt>) -> Result<()> + Send + 'static,
    ) -> Result<Timer> {
        let (target, kind) = Target::parse(network, address)?;
        target.check_timeout(timeout)?;
        let (options, loops) = (&self.options, Loops::This(asker.remote().clone()));
        let announcement = self.announcement.clone();
        let means = Means { options, loops, group, timeout, cancel: None, announcement };
        asker.pursue(|notify| DialPursuit {
            dialling: Dialling::new(Dial::new(means, target.into_owned(), kind, notify.clone())),
            outcome: None,
            then: Some(then),
        })
    }
}

/// A dial that goes on in steps.
struct DialPursuit<F> {
    dialling: Dialling,
    outcome: Option<Result<Attempt>>,
    then: Option<F>,
}

impl<F> Pursuit for DialPursuit<F>
where
    F: FnOnce(&mut Connection, Result<Attempt>) -> Result<()> + Send + 'static,
{
    fn advance(&mut self) -> Option<Instant> {
        if self.outcome.is_some() {
            return None;
        }
        match self.dialling.advance() {
            Step::Until(Some(next)) => Some(next),
            // A timeout that ends after the end of time: a notification goes on with it.
            Step::Until(None) => {
                Some(netpoll_core::later(netpoll_core::clock::now(), Duration::from_secs(86_400)))
            }
            Step::Over(outcome) => {
                self.outcome = Some(outcome);
                None
            }
        }
    }

    fn finish(&mut self, asker: &mut Connection) -> Result<()> {
        let outcome = self.outcome.take().unwrap_or(Err(Error::Closed));
        self.then.take().map_or(Ok(()), |then| then(asker, outcome))
    }
}
