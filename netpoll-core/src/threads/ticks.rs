//! Ticks: what the loops of a manager do again and again.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::base::error::{Error, Result};
use crate::base::sync::{Mutex, lock};
use crate::connection::mailbox::Remote;
use crate::pure::tick::Tick;
use crate::threads::manager::{OnLoop, PollManager};

/// Ticks of a manager's loops, see [`PollManager::run_every`]; dropping it ends them.
pub struct Ticks {
    /// The only strong reference to the tick: the loops' timers have weak ones.
    _on_loop: Arc<OnLoop>,
}

impl PollManager {
    /// Each loop calls `tick` with its number every `period`, on its own thread, from now on and
    /// until the [`Ticks`] are dropped; so do loops that are started later. Loops are numbered in
    /// the order of their start, from 0, as in [`LoopLoad`](crate::LoopLoad). A tick that is late
    /// is skipped, not made up for.
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
            let tick = Arc::new(Tick::new(remote.number(), period, call.clone()));
            remote.tick(&tick);
            lock(&kept).push(tick);
        });
        self.on_each_loop(&on_loop);
        Ok(Ticks { _on_loop: on_loop })
    }
}

impl fmt::Debug for Ticks {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Ticks")
    }
}
