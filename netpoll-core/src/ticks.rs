//! Ticks: what the loops of a manager do again and again.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::callbacks::guard;
use crate::error::{Error, Result};
use crate::manager::{OnLoop, PollManager};
use crate::reactor::{Command, Remote, later};
use crate::sync::{Mutex, lock};

/// Ticks of a manager's loops, see [`PollManager::run_every`]; dropping it ends them.
pub struct Ticks {
    /// The only lasting hold of the tick: the loops' timers have weak ones.
    _on_loop: Arc<OnLoop>,
}

/// What one loop does.
pub(crate) struct Tick {
    number: usize,
    period: Duration,
    call: Arc<dyn Fn(usize) + Send + Sync>,
}

impl PollManager {
    /// Has each loop call `tick` with its number every `period`, on its own thread, from now on and
    /// until the [`Ticks`] are dropped; loops that are started later as well. Loops are numbered
    /// in the order of their start, from 0, as in [`LoopLoad`](crate::LoopLoad). What can't be done
    /// in time is skipped, not made up for.
    ///
    /// It must not block: all connections of the loop wait for it. A panic in it is logged. For
    /// what belongs to one connection, see [`Handle::run_every`](crate::Handle::run_every).
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
    /// drop(ticks);
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
        let call: Arc<dyn Fn(usize) + Send + Sync> = Arc::new(tick);
        let kept = Mutex::new(Vec::new());
        let on_loop: Arc<OnLoop> = Arc::new(move |remote: &Arc<Remote>| {
            let tick = Arc::new(Tick { number: remote.number(), period, call: call.clone() });
            remote.tick(&tick);
            lock(&kept).push(tick);
        });
        self.on_each_loop(&on_loop);
        Ok(Ticks { _on_loop: on_loop })
    }
}

impl Tick {
    /// Ticks, and says when next.
    pub(crate) fn run(self: Arc<Self>, now: Instant) -> Instant {
        guard("a tick", || (self.call)(self.number)).ok();
        let next = later(now, self.period);
        // This may be the last hold of what the user's closure captured.
        guard("the release of a tick", || drop(self)).ok();
        next
    }
}

impl Remote {
    fn tick(&self, tick: &Arc<Tick>) {
        let first = later(Instant::now(), tick.period);
        drop(self.post(Command::Tick(first, Arc::downgrade(tick))));
    }
}

impl fmt::Debug for Tick {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Tick of loop {}, every {:?}", self.number, self.period)
    }
}

impl fmt::Debug for Ticks {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Ticks")
    }
}
