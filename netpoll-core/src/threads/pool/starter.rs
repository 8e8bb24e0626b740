//! Starting threads: after a refusal by the system the next try has to wait, and the log has a line
//! now and then.
//!
//! The system needs some 30 µs to refuse a thread. A reactor that asked for one with each callback
//! would do nothing else.

use std::io;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::base::clock;
use crate::base::log_period::OncePer;
use crate::base::sync::{AtomicBool, Mutex, Ordering, lock};
use crate::threads::start::start_thread;

/// How long a refusal stands: by then a thread may have ended, or the limit may be another.
const PAUSE: Duration = Duration::from_millis(10);
/// At most one line of log in this time.
const LOG_PERIOD: Duration = Duration::from_secs(10);

/// See the module.
#[derive(Debug)]
pub(crate) struct Starter {
    /// What it starts, and what happens without that, for the log.
    what: &'static str,
    /// The last try failed.
    refused: AtomicBool,
    state: Mutex<State>,
    log: OncePer,
    /// It acts as a system that has no more threads.
    #[cfg(test)]
    pub(crate) denies: AtomicBool,
}

#[derive(Debug, Default)]
struct State {
    /// When the last try failed.
    failed: Option<Instant>,
    /// The refusal that is still to be logged.
    untold: Option<io::Error>,
}

impl Starter {
    pub(crate) fn new(what: &'static str) -> Self {
        Self {
            what,
            refused: AtomicBool::new(false),
            state: Mutex::new(State::default()),
            log: OncePer::new(LOG_PERIOD),
            #[cfg(test)]
            denies: AtomicBool::new(false),
        }
    }

    /// Starts a thread. When it holds no lock any more, the caller calls [`tell`](Self::tell).
    ///
    /// # Errors
    /// Those of [`start_thread`].
    pub(crate) fn start(
        &self,
        name: String,
        body: impl FnOnce() + Send + 'static,
    ) -> io::Result<JoinHandle<()>> {
        #[cfg(test)]
        if self.denies.load(Ordering::SeqCst) {
            let error = io::ErrorKind::WouldBlock.into();
            self.note(&error, clock::now());
            return Err(error);
        }
        let outcome = start_thread(name, body);
        match &outcome {
            Ok(_) => self.refused.store(false, Ordering::SeqCst),
            Err(error) => self.note(error, clock::now()),
        }
        outcome
    }

    /// Whether the system has refused a thread just now, so that it need not be asked again.
    pub(crate) fn is_refused(&self) -> bool {
        let is_new = |at: Instant| clock::now().duration_since(at) < PAUSE;
        self.refused.load(Ordering::SeqCst) && lock(&self.state).failed.is_some_and(is_new)
    }

    /// Logs what there is to say of a refusal.
    pub(crate) fn tell(&self) {
        if !self.refused.load(Ordering::SeqCst) {
            return;
        }
        let untold = lock(&self.state).untold.take();
        if let Some(error) = untold {
            log::warn!("cannot start {}: {error}", self.what);
        }
    }

    fn note(&self, error: &io::Error, now: Instant) {
        let mut state = lock(&self.state);
        state.failed = Some(now);
        if self.log.pass(now, 1).is_some() {
            state.untold = Some(io::Error::new(error.kind(), error.to_string()));
        }
        drop(state);
        self.refused.store(true, Ordering::SeqCst);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_stands_for_a_while_and_then_the_system_is_asked_again() {
        let starter = Starter::new("a thread of a test");
        assert!(!starter.is_refused());
        starter.denies.store(true, Ordering::SeqCst);
        assert!(starter.start("refused".into(), || ()).is_err());
        let refused = lock(&starter.state).failed.expect("the time");
        while starter.is_refused() {
            std::thread::yield_now();
        }
        assert!(refused.elapsed() >= PAUSE, "asked again at once");
        starter.denies.store(false, Ordering::SeqCst);
        starter.start("granted".into(), || ()).expect("a thread").join().expect("it returns");
        assert!(!starter.is_refused());
    }

    #[test]
    fn a_row_of_refusals_is_one_line() {
        let starter = Starter::new("a thread of a test");
        let now = Instant::now();
        for _ in 0..3 {
            starter.note(&io::ErrorKind::WouldBlock.into(), now);
        }
        assert!(lock(&starter.state).untold.take().is_some());
        starter.note(&io::ErrorKind::WouldBlock.into(), now + LOG_PERIOD / 2);
        assert!(lock(&starter.state).untold.is_none());
        starter.note(&io::ErrorKind::WouldBlock.into(), now + LOG_PERIOD);
        assert!(lock(&starter.state).untold.is_some());
    }
}
