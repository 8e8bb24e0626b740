//! Signs of life for a service manager's watchdog: one is sent only if every loop has turned.
//!
//! ```text
//!   every quarter of its time   note how often each loop has turned, and wake all of them
//!   a quarter later             each has turned since: WATCHDOG=1, and note again
//!                               one has not: nothing is sent, until it has
//! ```
//! So a loop that gets stuck is noticed a quarter later at the latest, and a manager that hears
//! nothing for the whole time ends the process.

use std::io;
use std::sync::{Arc, Condvar, Mutex, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

use netpoll_core::{OncePer, PollManager, Remote, Result, clock, later, start_thread};

use super::Systemd;
use crate::sync::{lock, wait_while};

/// How many looks there are in the manager's time.
const LOOKS: u32 = 4;
/// At most one line of log in this time says that a loop is stuck.
const LOG_PERIOD: Duration = Duration::from_secs(10);

/// A thread that sends signs of life until this is dropped.
pub(super) struct Watchdog {
    course: Arc<Course>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Course {
    phase: Mutex<Phase>,
    changed: Condvar,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Phase {
    /// The event loop does not serve yet.
    #[default]
    Waiting,
    Watching,
    Ended,
}

/// The loops that must turn.
struct Loops {
    main: Arc<Remote>,
    manager: Weak<PollManager>,
    /// Each loop, and how often it had turned when it was woken.
    noted: Vec<(Arc<Remote>, u64)>,
}

impl Watchdog {
    /// Starts a thread, which waits for [`beginning`](Self::beginning). It sends nothing any more
    /// once this process `has_left` its sockets to another.
    pub(super) fn start(
        systemd: Systemd,
        period: Duration,
        main: Arc<Remote>,
        manager: Weak<PollManager>,
        has_left: impl Fn() -> bool + Send + 'static,
    ) -> Result<Self> {
        let course = Arc::<Course>::default();
        let shared = course.clone();
        let run = move || {
            let loops = Loops { main, manager, noted: Vec::new() };
            shared.run(&systemd, period / LOOKS, loops, has_left);
        };
        let thread = start_thread("netpoll-watchdog", run).map_err(|error| {
            let text = format!("cannot start the thread of the watchdog: {error}");
            io::Error::new(error.kind(), text)
        })?;
        Ok(Self { course, thread: Some(thread) })
    }

    /// What begins the signs of life.
    pub(super) fn beginning(&self) -> impl FnOnce() + Send + use<> {
        let course = self.course.clone();
        move || course.enter(Phase::Watching)
    }
}

impl Course {
    fn run(
        &self,
        systemd: &Systemd,
        pause: Duration,
        mut loops: Loops,
        has_left: impl Fn() -> bool,
    ) {
        let log = OncePer::new(LOG_PERIOD);
        let waiting = self.changed.wait_while(lock(&self.phase), |it| *it == Phase::Waiting);
        drop(waiting);
        loops.note();
        let mut in_vain = 0;
        while !self.rest(pause) {
            if has_left() {
                continue;
            }
            let Some(stuck) = loops.stuck() else {
                systemd.tell("WATCHDOG=1");
                loops.note();
                in_vain = 0;
                continue;
            };
            in_vain += 1;
            if in_vain >= LOOKS / 2 && log.pass(clock::now(), 1).is_some() {
                log::warn!("{stuck} is stuck, so the watchdog is told nothing");
            }
        }
    }

    /// Waits for so long, and says whether it is to end.
    fn rest(&self, pause: Duration) -> bool {
        let until = later(clock::now(), pause);
        let phase = lock(&self.phase);
        *wait_while(&self.changed, phase, until, |it| *it != Phase::Ended) == Phase::Ended
    }

    fn enter(&self, phase: Phase) {
        let mut now = lock(&self.phase);
        if *now != Phase::Ended {
            *now = phase;
        }
        drop(now);
        self.changed.notify_all();
    }
}

impl Loops {
    /// Notes how often each loop has turned, and has all of them turn.
    fn note(&mut self) {
        let of_manager = self.manager.upgrade().map(|it| it.remotes()).unwrap_or_default();
        let all = of_manager.into_iter().chain([self.main.clone()]);
        self.noted = all.map(|each| (each.clone(), each.stats().turns)).collect();
        self.noted.iter().for_each(|(each, _)| each.wake());
    }

    /// The first loop that has not turned since; one that has ended need not. Those that have not
    /// are woken again: a wake that comes in the course of a turn may be answered in that turn.
    fn stuck(&mut self) -> Option<String> {
        self.noted.retain(|(each, turns)| each.stats().turns == *turns && !each.has_ended());
        self.noted.iter().for_each(|(each, _)| each.wake());
        let (stuck, _) = self.noted.first()?;
        if Arc::ptr_eq(stuck, &self.main) {
            return Some("the loop that accepts".into());
        }
        Some(format!("loop {}", stuck.number()))
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.course.enter(Phase::Ended);
        if let Some(thread) = self.thread.take() {
            // It runs no code of the user, but a logger.
            let _ = thread.join();
        }
    }
}
