//! What the main reactor does with accepted streams, and with a listener that can't accept.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use netpoll_core::{Accept, Address, Group, PollManager, Prepare, Remote, admit, socket};

/// How long a listener pauses at first when descriptors or memory have run out; each further
/// failure doubles it, a success resets it.
const PAUSE_AT_FIRST: Duration = Duration::from_millis(5);
const PAUSE_AT_MOST: Duration = Duration::from_secs(1);
/// At most one line of log in this time says that accepting fails: a peer must not fill the disk.
const LOG_PERIOD: Duration = Duration::from_secs(5);

/// Why a listener was given up, for `serve` to return.
pub(crate) type Failure = Arc<Mutex<Option<io::Error>>>;

/// Hands accepted streams to the loops of a manager.
pub(crate) struct Acceptor {
    pub(crate) group: Arc<Group>,
    pub(crate) callbacks: Arc<dyn Prepare>,
    pub(crate) manager: Arc<PollManager>,
    /// The reactor that this runs on; it ends with the listener.
    pub(crate) main: Arc<Remote>,
    pub(crate) failure: Failure,
    pub(crate) trouble: Trouble,
}

/// How badly accepting goes.
#[derive(Debug, Default)]
pub(crate) struct Trouble {
    pause: Option<Duration>,
    logged: Option<Instant>,
    unlogged: u64,
}

impl Accept for Acceptor {
    fn accepted(&mut self, stream: OwnedFd, peer: Address) {
        self.trouble.pause = None;
        let home = self.manager.pick();
        if let Err(error) = admit(stream, peer.clone(), &self.group, &self.callbacks, &home) {
            log::debug!("the connection from {peer} was refused: {error}");
        }
    }

    fn failed(&mut self, error: &io::Error) -> Option<Duration> {
        let dead = socket::is_listener_dead(error);
        (!dead).then(|| self.trouble.next_pause(error, Instant::now()))
    }

    fn given_up(self: Box<Self>, error: io::Error) {
        *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
        self.main.stop(Duration::ZERO);
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
