//! Ticks: what the loops of a manager do again and again.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::manager::{OnLoop, PollManager};
use crate::base::error::{Error, Result};
use crate::connection::mailbox::Remote;
use crate::pure::tick::{Series, Tick};

/// Ticks of a manager's loops, see [`PollManager::run_every`]: to cancel them. Dropping this
/// cancels nothing, as dropping a [`Timer`](crate::Timer) does not.
#[derive(Clone)]
pub struct Ticks {
    series: Arc<Series>,
}

impl Ticks {
    /// No tick begins once this has returned; one that runs goes on. What the closure captured is
    /// dropped, here or by the tick that goes on. Never blocks.
    pub fn cancel(&self) {
        self.series.cancel();
    }
}

impl PollManager {
    /// Each loop calls `tick` with its number every `period`, on its own thread, from now on and
    /// until [`Ticks::cancel`] or the end of the manager; so do loops that are started later. Loops
    /// are numbered in the order of their start, from 0, as in [`LoopLoad`](crate::LoopLoad). A
    /// tick that is late is skipped, not made up for.
    ///
    /// It must not block: all connections of the loop wait for it. A panic in it is logged. A tick
    /// that captures the manager keeps it until it is cancelled. For what belongs to one
    /// connection, see [`Handle::run_every`](crate::Handle::run_every).
    ///
    /// ```
    /// use std::sync::mpsc;
    /// use std::time::Duration;
    /// use netpoll_core::{LoadBalance, PollManager};
    ///
    /// let manager = PollManager::new(2, LoadBalance::default())?;
    /// let (sender, receiver) = mpsc::channel();
    /// let ticks = manager.run_every(Duration::from_millis(1), move |number| {
    ///     let _ = sender.send(number);
    /// })?;
    /// let seen: Vec<usize> = receiver.iter().take(20).collect();
    /// assert!(seen.contains(&0) && seen.contains(&1));
    /// ticks.cancel();
    /// # Ok::<(), netpoll_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Config`] for a period under 1 ms.
    pub fn run_every(
        &self,
        period: Duration,
        tick: impl Fn(usize) + Send + Sync + 'static,
    ) -> Result<Ticks> {
        if period < Duration::from_millis(1) {
            return Err(Error::config(format!("cannot tick every {period:?}: the least is 1 ms")));
        }
        let series = Series::new(period, Arc::new(tick));
        let of_loops = Arc::downgrade(&series);
        let on_loop: Arc<OnLoop> = Arc::new(move |remote: &Arc<Remote>| {
            let tick = of_loops.upgrade().and_then(|series| Tick::of(&series, remote.number()));
            if let Some(tick) = tick {
                remote.tick(tick);
            }
        });
        self.on_each_loop(&on_loop);
        series.keep(on_loop);
        Ok(Ticks { series })
    }
}

impl fmt::Debug for Ticks {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Ticks")
    }
}
