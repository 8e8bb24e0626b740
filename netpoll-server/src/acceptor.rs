//! What the main reactor does with accepted streams, and with a listener that can't accept.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use netpoll_core::{
    Accept, Address, Group, ListenerInfo, Origin, PollManager, Prepare, Remote, admit, socket,
};

/// How long a listener pauses at first when descriptors or memory have run out; each further
/// failure doubles it, a success resets it.
const PAUSE_AT_FIRST: Duration = Duration::from_millis(5);
const PAUSE_AT_MOST: Duration = Duration::from_secs(1);
/// At most one line of log in this time says that accepting fails: a peer must not fill the disk.
const LOG_PERIOD: Duration = Duration::from_secs(5);

/// What the acceptors of one event loop have in common.
pub(crate) struct Front {
    pub(crate) group: Arc<Group>,
    pub(crate) callbacks: Arc<dyn Prepare>,
    pub(crate) manager: Arc<PollManager>,
    /// The main reactor; it ends with the first listener that breaks.
    pub(crate) main: Arc<Remote>,
    failure: Mutex<Option<io::Error>>,
}

/// Hands the streams that one listener accepts to the loops of a manager.
pub(crate) struct Acceptor {
    pub(crate) front: Arc<Front>,
    pub(crate) listener: Arc<ListenerInfo>,
    /// The loop that it runs on and accepts for, where each loop has its own socket.
    pub(crate) own: Option<Arc<Remote>>,
    pub(crate) trouble: Trouble,
}

/// How badly accepting goes.
#[derive(Debug, Default)]
pub(crate) struct Trouble {
    pause: Option<Duration>,
    logged: Option<Instant>,
    unlogged: u64,
}

impl Front {
    pub(crate) fn new(
        group: Arc<Group>,
        callbacks: Arc<dyn Prepare>,
        manager: Arc<PollManager>,
        main: Arc<Remote>,
    ) -> Self {
        Self { group, callbacks, manager, main, failure: Mutex::default() }
    }

    /// Why a listener broke, if one did.
    pub(crate) fn take_failure(&self) -> Option<io::Error> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl Acceptor {
    pub(crate) fn new(front: &Arc<Front>, listener: &Arc<ListenerInfo>) -> Self {
        let (front, listener) = (front.clone(), listener.clone());
        Self { front, listener, own: None, trouble: Trouble::default() }
    }

    fn admit(&self, stream: OwnedFd, peer: Address) {
        let Front { group, callbacks, manager, .. } = &*self.front;
        let home = self.own.clone().unwrap_or_else(|| manager.pick());
        let listener = self.listener.clone();
        let origin = Origin { listener, peer, local: None, ticket: None };
        admit(stream, origin, group, callbacks, &home);
    }
}

impl Accept for Acceptor {
    fn accepted(&mut self, stream: OwnedFd, peer: Address) {
        self.trouble.pause = None;
        self.admit(stream, peer);
    }

    fn failed(&mut self, error: &io::Error) -> Option<Duration> {
        let dead = socket::is_listener_dead(error);
        (!dead).then(|| self.trouble.next_pause(error, Instant::now()))
    }

    fn given_up(self: Box<Self>, error: io::Error) {
        let mut failure = self.front.failure.lock().unwrap_or_else(PoisonError::into_inner);
        failure.get_or_insert(error);
        drop(failure);
        self.front.main.stop(Duration::ZERO);
    }
}

impl Trouble {
    fn next_pause(&mut self, error: &io::Error, now: Instant) -> Duration {
        let pause = self.pause.map_or(PAUSE_AT_FIRST, |pause| (pause * 2).min(PAUSE_AT_MOST));
        self.pause = Some(pause);
        if self.logged.is_none_or(|logged| now.duration_since(logged) >= LOG_PERIOD) {
            let before = std::mem::take(&mut self.unlogged);
            log::warn!(
                "cannot accept: {error}; the listener pauses, connections go on ({before} more \
                 times since the last such line); raise the limit (ulimit -n) or close connections"
            );
            self.logged = Some(now);
        } else {
            self.unlogged += 1;
        }
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_second_and_log_once_a_period() {
        let (mut trouble, start) = (Trouble::default(), Instant::now());
        let error = io::Error::from_raw_os_error(24);
        let pauses: Vec<_> =
            (0..10).map(|_| trouble.next_pause(&error, start).as_millis()).collect();
        assert_eq!(pauses, [5, 10, 20, 40, 80, 160, 320, 640, 1000, 1000]);
        assert_eq!(trouble.unlogged, 9);
        trouble.next_pause(&error, start + LOG_PERIOD);
        assert_eq!(trouble.unlogged, 0);
    }
}
