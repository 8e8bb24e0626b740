//! The poll manager: N reactors, each on a thread of its own, and the choice among them.

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, OnceLock, Weak};
use std::thread;
use std::time::{Duration, Instant};

use crate::balance::{Balancer, LoadBalance, LoopLoad};
use crate::error::{Error, Result};
use crate::hand_off::{self, Crew};
use crate::reactor::{Reactor, Remote};
use crate::spin::Spin;
use crate::stats::{HandOffStats, LoopStats};
use crate::sync::{Mutex, lock};

/// More loops than this are a mistake, not a machine.
const LOOPS_AT_MOST: usize = 1024;
/// How long a drop waits for the loops.
const PATIENCE: Duration = Duration::from_secs(5);

/// Owns N reactors ("loops"), each an epoll and an eventfd on a named thread of its own.
///
/// It is a value: two managers in one process share nothing, and dropping one closes its
/// connections and ends its threads. [`PollManager::shared`] is one for all who don't care.
///
/// ```
/// use netpoll_core::{LoadBalance, PollManager};
///
/// let manager = PollManager::new(2, LoadBalance::RoundRobin)?;
/// assert_eq!(manager.loops(), 2);
/// manager.set_loops(3)?;
/// assert_eq!(manager.stats().len(), 3);
/// # Ok::<(), netpoll_core::Error>(())
/// ```
pub struct PollManager {
    loops: Mutex<Loops>,
    balancer: Balancer,
    crew: Arc<Crew>,
    spin: Spin,
    patience: Duration,
}

#[derive(Default)]
struct Loops {
    active: Vec<Loop>,
    /// No longer picked; they end with their last connection.
    retired: Vec<Loop>,
    started: usize,
    on_loop: Vec<Weak<OnLoop>>,
}

/// Called with a loop that connections may go to.
pub type OnLoop = dyn Fn(&Arc<Remote>) + Send + Sync;

#[derive(Debug)]
struct Loop {
    number: usize,
    remote: Arc<Remote>,
}

impl PollManager {
    /// Starts `loops` reactors, which spin [where that is cheaper](Spin::WhenCheaper).
    ///
    /// # Errors
    /// [`Error::Config`] for 0 loops or more than 1 024; [`Error::Io`] where descriptors, memory or
    /// threads run out: those that were started have ended.
    pub fn new(loops: usize, balance: LoadBalance) -> Result<Self> {
        Self::with_spin(loops, balance, Spin::default())
    }

    /// Starts `loops` reactors that spin as `spin` says before they sleep.
    ///
    /// # Errors
    /// As [`PollManager::new`].
    pub fn with_spin(loops: usize, balance: LoadBalance, spin: Spin) -> Result<Self> {
        let manager = Self {
            loops: Mutex::new(Loops::default()),
            balancer: Balancer::new(balance),
            crew: Crew::new(),
            spin,
            patience: PATIENCE,
        };
        manager.set_loops(loops)?;
        Ok(manager)
    }

    /// The manager of all who want none of their own: as many loops as [`default_loops`], started
    /// at the first call, running until the process ends.
    ///
    /// # Errors
    /// As [`PollManager::new`]; the next call tries again.
    pub fn shared() -> Result<Arc<Self>> {
        static SHARED: OnceLock<Arc<PollManager>> = OnceLock::new();
        if let Some(manager) = SHARED.get() {
            return Ok(manager.clone());
        }
        let manager = Arc::new(Self::new(default_loops(), LoadBalance::default())?);
        // Of two threads that come here at once, one drops the manager that it made.
        Ok(SHARED.get_or_init(|| manager).clone())
    }

    /// Starts or retires loops until there are `loops`. A retired loop is not picked any more,
    /// serves the connections that it has, and ends with the last of them.
    ///
    /// # Errors
    /// As [`PollManager::new`]; the loops that run go on.
    pub fn set_loops(&self, loops: usize) -> Result<()> {
        Self::validate(loops)?;
        let mut all = lock(&self.loops);
        while all.active.len() < loops {
            let number = all.started;
            let fresh = Loop::start(number, &self.crew, self.spin)?;
            for on_loop in all.on_loop.iter().filter_map(Weak::upgrade) {
                on_loop(&fresh.remote);
            }
            all.active.push(fresh);
            all.started += 1;
        }
        let surplus = all.active.split_off(loops);
        for retired in &surplus {
            retired.remote.retire();
        }
        all.retired.retain(|retired| !retired.remote.has_ended());
        all.retired.extend(surplus);
        Ok(())
    }

    /// Checks a number of loops without starting any.
    ///
    /// # Errors
    /// [`Error::Config`] for 0 loops or more than 1 024.
    pub fn validate(loops: usize) -> Result<()> {
        if loops == 0 || loops > LOOPS_AT_MOST {
            return Err(Error::config(format!(
                "loops is {loops}, but must be 1 to {LOOPS_AT_MOST}"
            )));
        }
        Ok(())
    }

    /// How many loops are picked from.
    pub fn loops(&self) -> usize {
        lock(&self.loops).active.len()
    }

    /// The loop for the next connection, from `peer` or to it, as the load balance chooses it. The
    /// loop counts the connection from [`admit`](crate::admit) or `dial` on.
    pub fn pick(&self, peer: Option<IpAddr>) -> Arc<Remote> {
        let all = lock(&self.loops);
        let load = |place: usize| {
            let Loop { number, remote, .. } = &all.active[place];
            LoopLoad { number: *number, connections: remote.load() }
        };
        all.active[self.balancer.pick(peer, all.active.len(), load)].remote.clone()
    }

    /// Has `on_loop` called for each loop that is picked from, now and, while anybody holds it, for
    /// each that is started later; then it runs under the manager's lock, and must not call it.
    pub fn on_each_loop(&self, on_loop: &Arc<OnLoop>) {
        let mut all = lock(&self.loops);
        all.active.iter().for_each(|each| on_loop(&each.remote));
        all.on_loop.retain(|it| it.strong_count() > 0);
        all.on_loop.push(Arc::downgrade(on_loop));
    }

    /// Every loop that may have connections, those that are retired among them.
    pub fn remotes(&self) -> Vec<Arc<Remote>> {
        let all = lock(&self.loops);
        all.active.iter().chain(&all.retired).map(|each| each.remote.clone()).collect()
    }

    /// What each loop that is picked from has done so far.
    pub fn stats(&self) -> Vec<LoopStats> {
        lock(&self.loops).active.iter().map(|each| each.remote.stats()).collect()
    }

    /// What became of the threads that turn the loops.
    pub fn hand_off_stats(&self) -> HandOffStats {
        self.crew.stats()
    }
}

impl PollManager {
    /// Drops the manager, waiting for its threads no longer than `patience`.
    pub fn close(mut self, patience: Duration) {
        self.patience = patience;
    }
}

/// How many loops there are where nobody says: one for each core that this process may use.
pub fn default_loops() -> usize {
    thread::available_parallelism().map_or(1, usize::from).min(LOOPS_AT_MOST)
}

impl Drop for PollManager {
    /// Closes all connections and joins the threads. It waits a few seconds at most: a loop whose
    /// callback doesn't return is left behind, and ends with the callback.
    fn drop(&mut self) {
        let all = std::mem::take(&mut *lock(&self.loops));
        let loops: Vec<Loop> = all.active.into_iter().chain(all.retired).collect();
        for each in &loops {
            // Half of the time for the reactor, and half for its thread.
            each.remote.stop(self.patience / 2);
        }
        let deadline = Instant::now().checked_add(self.patience);
        for each in loops {
            // A callback of a loop that drops its manager doesn't wait for itself: the loop ends
            // when it returns.
            if !hand_off::is_inside(&each.remote) && !each.remote.wait_ended(deadline) {
                log::warn!("a loop is left behind: a callback on it doesn't return");
            }
        }
        let left = self.crew.stop(deadline);
        if left > 0 {
            log::warn!("{left} threads are left behind inside callbacks, and end with them");
        }
    }
}

impl Loop {
    fn start(number: usize, crew: &Arc<Crew>, spin: Spin) -> Result<Self> {
        let reactor = Reactor::new().map_err(with("cannot open a reactor's descriptors"))?;
        let remote = reactor.remote();
        let core = reactor.with_crew(crew.clone(), spin);
        crew.start(format!("netpoll-loop-{number}"), core)
            .map_err(with("cannot start a reactor's thread"))?;
        Ok(Self { number, remote })
    }
}

fn with(doing: &'static str) -> impl Fn(io::Error) -> Error {
    move |error| Error::Io(io::Error::new(error.kind(), format!("{doing}: {error}")))
}

impl fmt::Debug for PollManager {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = lock(&self.loops);
        out.debug_struct("PollManager")
            .field("loops", &all.active)
            .field("retired", &all.retired)
            .field("balance", &self.balancer)
            .finish_non_exhaustive()
    }
}
