//! The poll manager: N reactors, each on a thread of its own, and the choice among them.

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::process;
use std::sync::{Arc, OnceLock, Weak};
use std::thread;
use std::time::Duration;

use super::hand_off;
use super::options::Gather;
use super::takeover::LoopThreads;
use super::turn::turn;
use super::waiting_jobs::WaitingJobs;
use crate::base::blocking::Forbidden;
use crate::base::clock;
use crate::base::error::{Error, Result};
use crate::base::panic::guard;
use crate::base::stats::{HandOffStats, LoopStats};
use crate::base::sync::{AtomicBool, AtomicUsize, Mutex, Ordering, lock};
use crate::connection::mailbox::{Call, Command, Remote};
use crate::pure::balance::{Balancer, LoadBalance, LoopLoad};
use crate::pure::spin::Spin;
use crate::reactor::Core;

/// No machine needs more loops than this: a larger number is a mistake.
const LOOPS_AT_MOST: usize = 1024;
/// How long a drop waits for the loops.
const PATIENCE: Duration = Duration::from_secs(5);

/// Owns N reactors ("loops"), each an epoll and an eventfd on a named thread of its own.
///
/// It is a value: two managers in one process share nothing, and dropping one closes its
/// connections and ends its threads. [`PollManager::shared`] is one for the whole process.
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
    /// Held for a few instructions, never while user code runs or a line is logged.
    loops: Mutex<Loops>,
    balancer: Balancer,
    threads: Arc<LoopThreads>,
    spin: Spin,
    patience: Duration,
    started: AtomicUsize,
    jobs: WaitingJobs,
    /// A loop that has ended could not be replaced, and the log says so.
    complained: AtomicBool,
    /// The process in which it was started.
    process: u32,
}

/// Called with a loop that connections may go to.
pub type OnLoop = dyn Fn(&Arc<Remote>) + Send + Sync;

/// How many loops there are by default: one for each core that this process may use.
pub fn default_loops() -> usize {
    thread::available_parallelism().map_or(1, usize::from).min(LOOPS_AT_MOST)
}

#[derive(Default)]
struct Loops {
    active: Vec<Arc<Remote>>,
    /// These are no longer picked, and end with their last connection.
    retired: Vec<Arc<Remote>>,
    on_loop: Vec<Weak<OnLoop>>,
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
        Self::with(loops, balance, spin, Gather::default())
    }

    /// Starts `loops` reactors that wait as `spin` says, on as many threads as `gather` says.
    ///
    /// # Errors
    /// As [`PollManager::new`].
    pub fn with(loops: usize, balance: LoadBalance, spin: Spin, gather: Gather) -> Result<Self> {
        let manager = Self {
            loops: Mutex::new(Loops::default()),
            balancer: Balancer::new(balance),
            threads: LoopThreads::new(turn, gather),
            spin,
            patience: PATIENCE,
            started: AtomicUsize::new(0),
            jobs: WaitingJobs::default(),
            complained: AtomicBool::new(false),
            process: process::id(),
        };
        manager.set_loops(loops)?;
        Ok(manager)
    }

    /// The manager of all event loops without one of their own: [`default_loops`] loops, started
    /// at the first call, running until the process ends.
    ///
    /// # Errors
    /// As [`PollManager::new`]; the next call tries again.
    pub fn shared() -> Result<Arc<Self>> {
        static SHARED: OnceLock<Arc<PollManager>> = OnceLock::new();
        if let Some(manager) = SHARED.get() {
            manager.check_process()?;
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
        self.check_process()?;
        while self.loops() < loops {
            let fresh = self.start_loop()?;
            let on_loop = {
                let mut all = lock(&self.loops);
                all.active.push(fresh.clone());
                all.on_loop.clone()
            };
            tell(&on_loop, &fresh);
        }
        let mut all = lock(&self.loops);
        let kept = loops.min(all.active.len());
        let surplus = all.active.split_off(kept);
        for retired in &surplus {
            retired.retire();
        }
        all.retired.retain(|retired| !retired.has_ended());
        all.retired.extend(surplus);
        Ok(())
    }

    /// Checks that the loops run in this process. It costs a system call.
    ///
    /// # Errors
    /// [`Error::Config`] after a fork: the child has the manager, and none of its threads.
    pub fn check_process(&self) -> Result<()> {
        if self.process != process::id() {
            return Err(Error::config(format!(
                "the manager's threads are in process {}, from which this one was forked; start a \
                 manager after the fork",
                self.process
            )));
        }
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

    /// Runs `job` on the thread of a loop, which the load balance chooses as for a connection
    /// without an address. It runs soon after: behind the callback that the loop is in, unless that
    /// blocks and another thread goes on with the loop. Returns at once.
    ///
    /// Whatever the dispatch modes on the loop, the job must not block: all
    /// connections of the loop wait for it, and waits of this crate fail in it by name, as in a
    /// tick. A panic in it is logged and ends nothing. What blocks belongs into a callback, for
    /// example by [`Handle::run`](crate::Handle::run), or on a thread of its own. Jobs of one
    /// thread may run on different loops, in any order. Nothing bounds how many wait.
    ///
    /// ```
    /// use std::sync::mpsc;
    /// use netpoll_core::{LoadBalance, PollManager};
    ///
    /// let manager = PollManager::new(2, LoadBalance::default())?;
    /// let (told, name) = mpsc::channel();
    /// manager.execute(move || {
    ///     let _ = told.send(std::thread::current().name().map(str::to_owned));
    /// })?;
    /// assert!(name.recv()?.unwrap().starts_with("netpoll-"));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// A job that is accepted runs once, also where the manager is dropped before. At most 65 536
    /// jobs of a manager wait at a time.
    ///
    /// # Errors
    /// [`Error::Full`] while as many jobs wait as may: the loops take them more slowly than they
    /// come, or one stands still. [`Error::Config`] after a fork, see
    /// [`check_process`](Self::check_process); [`Error::Closed`] if the loop has just ended by
    /// itself and can't be replaced. The job is then dropped.
    pub fn execute(&self, job: impl FnOnce() + Send + 'static) -> Result<()> {
        self.check_process()?;
        let place = self.jobs.take_place().ok_or(Error::Full)?;
        let call = Call::new(move || {
            drop(place);
            let _forbidden = Forbidden::here();
            guard("a job of a loop", job).ok();
        });
        self.pick(None).post(Command::Call(call)).map_err(|_| Error::Closed)
    }

    /// The loop for the next connection, from `peer` or to it, as the load balance chooses it. The
    /// loop counts the connection from [`admit`](crate::admit) or `dial` on.
    ///
    /// A loop that has ended by itself is replaced; where the system refuses that, another one is
    /// picked.
    pub fn pick(&self, peer: Option<IpAddr>) -> Arc<Remote> {
        let picked = self.choose(peer);
        if picked.has_failed() { self.replace(picked) } else { picked }
    }

    fn choose(&self, peer: Option<IpAddr>) -> Arc<Remote> {
        let all = lock(&self.loops);
        if !self.balancer.is_custom() {
            let load = |place: usize| load_of(&all.active[place]);
            return all.active[self.balancer.pick(peer, all.active.len(), load)].clone();
        }
        drop(all);
        loop {
            // It runs the user's code, so not under the lock.
            let loads: Vec<_> = lock(&self.loops).active.iter().map(load_of).collect();
            let chosen = loads[self.balancer.pick(peer, loads.len(), |place| loads[place])].number;
            let all = lock(&self.loops);
            if let Some(remote) = all.active.iter().find(|it| it.number() == chosen) {
                return remote.clone();
            }
            // It has retired meanwhile.
        }
    }

    /// Starts a loop in place of one that has ended by itself.
    #[cold]
    fn replace(&self, dead: Arc<Remote>) -> Arc<Remote> {
        let fresh = match self.start_loop() {
            Ok(fresh) => fresh,
            Err(error) => {
                if !self.complained.swap(true, Ordering::Relaxed) {
                    log::error!("cannot replace a loop that has ended: {error}");
                }
                return self.least_loaded().unwrap_or(dead);
            }
        };
        let on_loop = {
            let mut all = lock(&self.loops);
            let place = all.active.iter_mut().find(|it| Arc::ptr_eq(it, &dead));
            place.map(|place| *place = fresh.clone()).map(|()| all.on_loop.clone())
        };
        let Some(on_loop) = on_loop else {
            // Another thread was faster.
            fresh.stop(Duration::ZERO);
            return self.least_loaded().unwrap_or(dead);
        };
        self.complained.store(false, Ordering::Relaxed);
        log::warn!("loop {} has ended, loop {} takes its place", dead.number(), fresh.number());
        tell(&on_loop, &fresh);
        fresh
    }

    /// The loop that runs and has the fewest connections.
    fn least_loaded(&self) -> Option<Arc<Remote>> {
        let all = lock(&self.loops);
        let running = all.active.iter().filter(|it| !it.has_failed());
        running.min_by_key(|it| it.load()).cloned()
    }

    /// Calls `on_loop` for each loop that is picked from: now, and as long as `on_loop` lives for
    /// each loop that is started later.
    pub fn on_each_loop(&self, on_loop: &Arc<OnLoop>) {
        let active = {
            let mut all = lock(&self.loops);
            all.on_loop.retain(|it| it.strong_count() > 0);
            all.on_loop.push(Arc::downgrade(on_loop));
            all.active.clone()
        };
        for each in &active {
            on_loop(each);
        }
    }

    /// Every loop that may have connections, retired ones included.
    pub fn remotes(&self) -> Vec<Arc<Remote>> {
        let all = lock(&self.loops);
        all.active.iter().chain(&all.retired).cloned().collect()
    }

    /// What each loop that is picked from has done so far.
    pub fn stats(&self) -> Vec<LoopStats> {
        lock(&self.loops).active.iter().map(|each| each.stats()).collect()
    }

    /// What the threads behind the loops have done.
    pub fn hand_off_stats(&self) -> HandOffStats {
        self.threads.stats()
    }

    /// For tests: has so many threads turn the loops from now on, whatever the load.
    #[doc(hidden)]
    pub fn gather_on(&self, threads: usize) {
        self.threads.gatherer().force(threads);
    }

    /// Drops the manager, waiting for its threads no longer than `patience`.
    pub fn close(mut self, patience: Duration) {
        self.patience = patience;
    }

    fn start_loop(&self) -> Result<Arc<Remote>> {
        let number = self.started.fetch_add(1, Ordering::Relaxed);
        let core =
            Core::new(number, self.spin).map_err(with("cannot open a reactor's descriptors"))?;
        let remote = core.remote().clone();
        self.threads.gatherer().allow();
        let started = self.threads.start(format!("netpoll-loop-{number}"), core);
        started.map_err(with("cannot start a reactor's thread"))?;
        Ok(remote)
    }
}

/// Tells the callbacks that there is another loop. It runs the user's code, and may drop the last
/// reference to it.
fn tell(on_loop: &[Weak<OnLoop>], fresh: &Arc<Remote>) {
    for on_loop in on_loop.iter().filter_map(Weak::upgrade) {
        on_loop(fresh);
    }
}

fn load_of(remote: &Arc<Remote>) -> LoopLoad {
    LoopLoad { number: remote.number(), connections: remote.load() }
}

impl Drop for PollManager {
    /// Closes all connections and joins the threads. It waits a few seconds at most: a loop whose
    /// callback doesn't return is left behind, and ends with the callback.
    fn drop(&mut self) {
        if self.process != process::id() {
            // A fork's copy: the loops are the other process's, and nothing here waits for them.
            return;
        }
        // Before the loops: no core is on its way between two threads that both have ended.
        self.threads.gatherer().stop();
        let all = std::mem::take(&mut *lock(&self.loops));
        let loops: Vec<_> = all.active.into_iter().chain(all.retired).collect();
        for each in &loops {
            // Half of the time for the reactor, and half for its thread.
            each.stop(self.patience / 2);
        }
        // A callback that drops its own manager doesn't wait for itself: its loop, and with that
        // the threads, end when it returns.
        let is_inside = loops.iter().any(hand_off::is_inside);
        let now = clock::now();
        let deadline = now.checked_add(self.patience);
        for each in loops {
            if !hand_off::is_inside(&each) && !each.wait_ended(deadline) {
                log::warn!("a loop is left behind: a callback on it doesn't return");
            }
        }
        let left = self.threads.stop(if is_inside { Some(now) } else { deadline });
        if left > 0 && !is_inside {
            log::warn!("{left} threads are left behind inside callbacks, and end with them");
        }
    }
}

fn with(doing: &'static str) -> impl Fn(io::Error) -> Error {
    move |error| Error::Io(io::Error::new(error.kind(), format!("{doing}: {error}")))
}

impl fmt::Debug for PollManager {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Loops { active, retired, .. } = &*lock(&self.loops);
        let (active, retired) = (active.clone(), retired.clone());
        out.debug_struct("PollManager")
            .field("loops", &active)
            .field("retired", &retired)
            .field("balance", &self.balancer)
            .finish_non_exhaustive()
    }
}
