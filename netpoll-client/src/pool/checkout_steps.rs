//! Checkouts in steps: for code that waits in its own way.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use netpoll_core::{Attempt, Error, Notify, Result, clock};

use super::address::Taken;
use super::checkout_then::Place;
use super::{Pool, PoolConnection, Pooled};
use crate::dial::Step;
use crate::dialling::{Advance, Dialling};

/// A checkout under way. Its drop leaves the queue, or ends the dial; what was granted meanwhile
/// goes to the next.
pub struct Checkout {
    pool: Pool,
    network: Box<str>,
    address: Box<str>,
    timeout: Duration,
    deadline: Option<Instant>,
    notify: Arc<Notify>,
    stage: Stage,
}

enum Stage {
    Waiting(Place),
    Granted(Pooled),
    /// The drop of what was granted counts one open connection less.
    Dialling(Pooled, Box<Dialling>),
    Over,
}

impl Pool {
    /// Begins a checkout; `notify` is told when there is a step to be taken. A dialer of one's own
    /// waits in a step.
    ///
    /// # Errors
    /// [`Error::Closed`] if what was granted is gone. All else ends the steps.
    #[doc(hidden)]
    pub fn begin_checkout(
        &self,
        (network, address): (&str, &str),
        timeout: Duration,
        notify: &Arc<Notify>,
    ) -> Result<Checkout> {
        let addresses = &self.inner.addresses;
        let pool = addresses.of(network, address);
        let stage = match pool.take() {
            Taken::Granted(grant) => match Pooled::granted(Some(grant), &pool, addresses) {
                Some(pooled) => Stage::Granted(pooled),
                None => return Err(Error::Closed),
            },
            Taken::Wait(waiter) => {
                waiter.notify_by(notify);
                Stage::Waiting(Place { waiter, pool, addresses: addresses.clone() })
            }
        };
        Ok(Checkout {
            pool: self.clone(),
            network: network.into(),
            address: address.into(),
            timeout,
            deadline: clock::now().checked_add(timeout),
            notify: notify.clone(),
            stage,
        })
    }
}

impl Checkout {
    fn wait(&mut self, place: Place) -> Step<Result<Pooled>> {
        let is_late = self.deadline.is_some_and(|deadline| clock::now() >= deadline);
        if !is_late && !place.waiter.is_granted() {
            self.stage = Stage::Waiting(place);
            return Step::Until(self.deadline);
        }
        let granted = place.pool.end_wait(&place.waiter);
        let Some(pooled) = Pooled::granted(granted, &place.pool, &place.addresses) else {
            let Self { pool, network, address, timeout, .. } = self;
            return Step::Over(Err(pool.none_came(network, address, *timeout)));
        };
        self.granted(pooled)
    }

    /// Dials, if what was granted is to be dialled.
    fn granted(&mut self, pooled: Pooled) -> Step<Result<Pooled>> {
        if pooled.pooled.is_some() {
            return Step::Over(Ok(pooled));
        }
        let Self { pool, network, address, timeout, deadline, notify, .. } = self;
        let left = Pool::time_left(*timeout, *deadline);
        let dialer = &pool.inner.dialer;
        match dialer.begin_dial_connection((&**network, &**address), left, notify) {
            Some(Ok(dialling)) => self.dial(pooled, Box::new(dialling)),
            Some(Err(error)) => dialled(pooled, Err(error)),
            None => {
                let connection = dialer.dial_connection(network, address, left);
                dialled(pooled, connection)
            }
        }
    }

    fn dial(&mut self, pooled: Pooled, mut dialling: Box<Dialling>) -> Step<Result<Pooled>> {
        match dialling.advance() {
            Step::Until(next) => {
                self.stage = Stage::Dialling(pooled, dialling);
                Step::Until(next)
            }
            Step::Over(outcome) => dialled(pooled, outcome.map(Attempt::into_connection)),
        }
    }
}

fn dialled(
    mut pooled: Pooled,
    connection: Result<netpoll_core::Connection>,
) -> Step<Result<Pooled>> {
    pooled.address.count(connection.is_ok());
    Step::Over(connection.map(|connection| {
        pooled.pooled = Some(PoolConnection::new(connection));
        pooled
    }))
}

impl Advance for Checkout {
    type Output = Result<Pooled>;

    fn advance(&mut self) -> Step<Result<Pooled>> {
        match std::mem::replace(&mut self.stage, Stage::Over) {
            Stage::Waiting(place) => self.wait(place),
            Stage::Granted(pooled) => self.granted(pooled),
            Stage::Dialling(pooled, dialling) => self.dial(pooled, dialling),
            Stage::Over => Step::Over(Err(Error::Closed)),
        }
    }
}

impl fmt::Debug for Checkout {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Checkout").field("address", &self.address).finish_non_exhaustive()
    }
}
