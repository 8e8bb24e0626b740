//! The threads of a pool: those that are there, and those that only have to be joined.

use std::collections::HashMap;
use std::io;
use std::thread::{self, JoinHandle, ThreadId};

use crate::base::clock;
use crate::sys;
use crate::threads::asleep::{StateReader, ThreadClock};

/// How many threads [`Members::all_asleep`] asks the system about.
const SAMPLE: usize = 16;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Members {
    present: HashMap<ThreadId, Member>,
    /// Threads that have nothing left to do but to return.
    gone: Vec<JoinHandle<()>>,
    started: u64,
    closed: bool,
}

#[derive(Debug)]
struct Member {
    handle: JoinHandle<()>,
    /// Its number in the system, once it has shown it.
    number: Option<i32>,
    clock: ThreadClock,
}

impl Members {
    pub(super) fn count(&self) -> usize {
        self.present.len()
    }

    pub(super) fn has_this_thread(&self) -> bool {
        self.present.contains_key(&thread::current().id())
    }

    /// The number of the thread that is started next.
    ///
    /// # Errors
    /// Of kind `BrokenPipe` after [`close`](Self::close).
    pub(super) fn next_number(&mut self) -> io::Result<u64> {
        if self.closed {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        self.forget_finished();
        self.started += 1;
        Ok(self.started)
    }

    /// Adds a thread, which takes itself out under the same lock.
    pub(super) fn add(&mut self, handle: JoinHandle<()>) {
        let id = handle.thread().id();
        let member = Member { handle, number: None, clock: ThreadClock::default() };
        self.present.insert(id, member);
    }

    /// For a member: says which thread it is in the system.
    pub(super) fn show_number(&mut self) {
        if let Some(member) = self.present.get_mut(&thread::current().id()) {
            member.number = Some(sys::thread_number());
        }
    }

    /// For a member: its last act.
    pub(super) fn leave(&mut self) {
        let own = self.present.remove(&thread::current().id());
        self.forget_finished();
        self.gone.extend(own.map(|member| member.handle));
    }

    /// The system keeps the stack of a thread until its handle is dropped or joined.
    fn forget_finished(&mut self) {
        self.gone.retain(|handle| !handle.is_finished());
    }

    /// No thread is started any more.
    pub(super) fn close(&mut self) {
        self.closed = true;
    }

    /// The threads that have left, to be joined.
    pub(super) fn take_gone(&mut self) -> Vec<JoinHandle<()>> {
        std::mem::take(&mut self.gone)
    }

    /// Whether all threads, or as many as one look takes, sleep: none computes, and none waits for
    /// a processor. Where the system does not show that, whether the clocks of all threads have
    /// stood still since the last look.
    pub(super) fn all_asleep(&mut self) -> bool {
        for member in self.present.values().take(SAMPLE) {
            match member.number.map(|number| StateReader::default().is_asleep(number)) {
                Some(Ok(true)) => {}
                Some(Ok(false)) => return false,
                Some(Err(_)) | None => return self.all_still(),
            }
        }
        !self.present.is_empty()
    }

    fn all_still(&mut self) -> bool {
        let now = clock::now();
        let mut all = !self.present.is_empty();
        for member in self.present.values_mut() {
            let computed = member.number.and_then(sys::thread_time);
            all &= member.clock.look(computed, now).is_still();
        }
        all
    }
}
