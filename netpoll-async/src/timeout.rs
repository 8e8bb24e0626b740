//! A future that has until a time.

use std::error::Error;
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::task::Poll;
use std::time::{Duration, Instant};

use netpoll_core::clock;

use crate::sleep::sleep_until;

/// The time of a [`timeout`] was over before its future was ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Elapsed(());

/// Waits for `future`, which has `duration` from this call on, and is dropped after that.
///
/// A future that is ready at its first poll arms no timer; one that is ready when the time is over
/// wins. The timer is that of [`sleep`](crate::sleep()).
///
/// ```
/// use std::future::pending;
/// use std::time::Duration;
/// use netpoll_async::{block_on, timeout};
///
/// let soon = Duration::from_millis(1);
/// assert!(block_on(timeout(soon, pending::<()>())).is_err());
/// assert_eq!(block_on(timeout(Duration::ZERO, async { 7 })), Ok(7));
/// ```
///
/// # Errors
/// [`Elapsed`] if the time was over first.
pub fn timeout<F: Future>(
    duration: Duration,
    future: F,
) -> impl Future<Output = Result<F::Output, Elapsed>> {
    timeout_at(clock::later(clock::now(), duration), future)
}

/// As [`timeout`], until a point in time.
///
/// # Errors
/// [`Elapsed`] if the time was over first.
pub async fn timeout_at<F: Future>(deadline: Instant, future: F) -> Result<F::Output, Elapsed> {
    let mut future = pin!(future);
    let mut sleep = pin!(sleep_until(deadline));
    poll_fn(|context| {
        if let Poll::Ready(output) = future.as_mut().poll(context) {
            return Poll::Ready(Ok(output));
        }
        sleep.as_mut().poll(context).map(|()| Err(Elapsed(())))
    })
    .await
}

impl fmt::Display for Elapsed {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("the time for it was over")
    }
}

impl Error for Elapsed {}

impl From<Elapsed> for io::Error {
    fn from(elapsed: Elapsed) -> Self {
        Self::new(io::ErrorKind::TimedOut, elapsed)
    }
}
