//! Who works in a pool: its threads, by name and number.

use std::collections::HashMap;
use std::thread::{self, JoinHandle, ThreadId};
use std::time::Duration;

use crate::base::panic::join;
use crate::sys::{self, StateFile};
use crate::threads::starter::Starter;

/// How many workers one look at whether all sleep asks the system about.
const SAMPLE: usize = 16;

/// The threads of a pool.
#[derive(Debug, Default)]
pub(super) struct Staff {
    workers: HashMap<ThreadId, Worker>,
    /// Threads that have no more to do than to end.
    left: Vec<JoinHandle<()>>,
    standby: Option<JoinHandle<()>>,
    hired: u64,
}

#[derive(Debug)]
struct Worker {
    thread: JoinHandle<()>,
    /// Its number in the system; none before it has run.
    number: Option<i32>,
    /// For how long it had had a core at the last look, where looks take that.
    computed: Option<Duration>,
}

impl Staff {
    pub(super) fn workers(&self) -> usize {
        self.workers.len()
    }

    /// All threads that still have something to do.
    pub(super) fn present(&self) -> usize {
        self.workers.len() + usize::from(self.standby.is_some())
    }

    pub(super) fn has_this_thread(&self) -> bool {
        self.workers.contains_key(&thread::current().id())
    }

    pub(super) fn has_standby(&self) -> bool {
        self.standby.is_some()
    }

    /// Starts a worker. It calls `arrived` and `leave` under the lock that the caller holds.
    pub(super) fn hire(&mut self, starter: &Starter, work: impl FnOnce() + Send + 'static) {
        self.left.retain(|thread| !thread.is_finished());
        self.hired += 1;
        let name = format!("netpoll-work-{}", self.hired);
        if let Ok(thread) = starter.start(name, work) {
            let id = thread.thread().id();
            self.workers.insert(id, Worker { thread, number: None, computed: None });
        }
    }

    /// Starts the standby; says whether it could.
    pub(super) fn appoint_standby(
        &mut self,
        starter: &Starter,
        watch: impl FnOnce() + Send + 'static,
    ) -> bool {
        self.standby = starter.start("netpoll-standby".into(), watch).ok();
        self.has_standby()
    }

    /// For a new worker: says which thread it is.
    pub(super) fn arrived(&mut self) {
        if let Some(worker) = self.workers.get_mut(&thread::current().id()) {
            worker.number = Some(sys::thread_number());
        }
    }

    /// For a worker: its last act.
    pub(super) fn leave(&mut self) {
        let worker = self.workers.remove(&thread::current().id());
        self.left.extend(worker.map(|worker| worker.thread));
    }

    /// For the standby: its last act.
    pub(super) fn dismiss_standby(&mut self) {
        self.left.extend(self.standby.take());
    }

    /// Waits until the threads of those who left have ended: they only return any more.
    pub(super) fn join_those_who_left(&mut self) {
        for thread in self.left.drain(..) {
            if thread.thread().id() != thread::current().id() {
                join(thread);
            }
        }
    }

    /// Whether all workers, or as many as one look takes, are asleep in the system: none computes,
    /// and none waits for a core. Where the system does not show that, none of all the workers may
    /// have had a core since the last look.
    pub(super) fn all_asleep(&mut self) -> bool {
        let is_asleep = |worker: &Worker| Some(StateFile::open(worker.number?).ok()?.is_asleep());
        for worker in self.workers.values().take(SAMPLE) {
            match is_asleep(worker) {
                Some(Ok(true)) => {}
                Some(Ok(false)) => return false,
                Some(Err(_)) | None => return self.all_still(),
            }
        }
        !self.workers.is_empty()
    }

    fn all_still(&mut self) -> bool {
        let mut all = !self.workers.is_empty();
        for worker in self.workers.values_mut() {
            let computed = worker.number.and_then(sys::thread_time);
            all &= computed.is_some() && computed == worker.computed;
            worker.computed = computed;
        }
        all
    }
}
