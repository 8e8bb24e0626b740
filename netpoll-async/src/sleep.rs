//! Sleeping on the wheel of a loop.

use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::LazyLock;
use std::task::{Context, Poll, ready};
use std::thread;
use std::time::{Duration, Instant};

use netpoll_core::{Expiry, LoopTimer, OncePer, PollManager, clock, current_loop, poll_budget};

/// One line of log in this time says that there is no loop for timers.
const LOG_PERIOD: Duration = Duration::from_secs(10);

/// Waits for `duration`, rounded up to a millisecond; for any duration, a century stands for all
/// that are longer.
///
/// It starts now, not at the first poll. See [`Sleep`].
///
/// ```
/// use std::time::{Duration, Instant};
/// use netpoll_async::{block_on, sleep};
///
/// let start = Instant::now();
/// block_on(sleep(Duration::from_millis(5)));
/// assert!(start.elapsed() >= Duration::from_millis(5));
/// ```
pub fn sleep(duration: Duration) -> Sleep {
    sleep_until(clock::later(clock::now(), duration))
}

/// Waits until `deadline`, or not at all if that has passed. See [`Sleep`].
pub fn sleep_until(deadline: Instant) -> Sleep {
    Sleep { deadline, timer: None }
}

/// Gives way to the other tasks of the loop, and to its connections, once.
pub async fn yield_now() {
    let mut has_yielded = false;
    poll_fn(|context| {
        if std::mem::replace(&mut has_yielded, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// A future that waits for a time: see [`sleep`].
///
/// Its timer is on the wheel of the loop that it is first polled on; elsewhere, in any executor, on
/// one of the shared manager. It is armed at the first poll that finds it early, for an allocation
/// and a command to the loop, and cancelled by the drop. A loop that ends passes it on to another.
/// It is never ready early.
pub struct Sleep {
    deadline: Instant,
    timer: Option<LoopTimer>,
}

impl Sleep {
    /// When it is ready.
    pub fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Whether the time has come.
    pub fn is_elapsed(&self) -> bool {
        clock::now() >= self.deadline
    }

    /// Waits until `deadline` instead, also after it was ready. Later ones, as of a timeout that
    /// starts again with each message, cost a short lock. A task that waits for it goes on waiting.
    pub fn reset(&mut self, deadline: Instant) {
        self.deadline = deadline;
        if self.timer.as_ref().is_some_and(|timer| !timer.reset(deadline)) {
            self.timer = None;
        }
    }
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        loop {
            match &self.timer {
                None if self.is_elapsed() => break,
                None => match start(self.deadline, context) {
                    Some(timer) => self.timer = Some(timer),
                    None => break,
                },
                Some(timer) => match ready!(timer.poll(context)) {
                    Expiry::Due => break,
                    Expiry::LoopEnded => self.timer = None,
                },
            }
        }
        poll_budget(context)
    }
}

/// Starts a timer. `None`: no loop can be had, and this thread has waited itself.
fn start(deadline: Instant, context: &Context<'_>) -> Option<LoopTimer> {
    let current = current_loop().filter(|remote| !remote.has_ended());
    let remote = match current.map_or_else(|| Ok(PollManager::shared()?.pick(None)), Ok) {
        Ok(remote) => remote,
        Err(error) => {
            wait_without_loop(deadline, &error);
            return None;
        }
    };
    Some(LoopTimer::start(remote, deadline, context.waker()))
}

/// Descriptors or threads have run out: a thread that waits is better than a time that is not kept.
#[cold]
fn wait_without_loop(deadline: Instant, error: &netpoll_core::Error) {
    static LOG: LazyLock<OncePer> = LazyLock::new(|| OncePer::new(LOG_PERIOD));
    if LOG.pass(clock::now(), 1).is_some() {
        log::warn!("a sleep holds its thread, as there is no loop for its timer: {error}");
    }
    let left = deadline.saturating_duration_since(clock::now());
    // sleep: it is what was asked for
    netpoll_core::block_in_place(|| thread::sleep(left));
}

impl fmt::Debug for Sleep {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Sleep").field("deadline", &self.deadline).finish_non_exhaustive()
    }
}
