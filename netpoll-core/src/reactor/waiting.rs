//! The wait of a turn: awake or asleep, and for how long at the most.

use std::io;
use std::thread;
use std::time::{Duration, Instant};

use super::spinning::spin;
use super::{Core, Ending};
use crate::base::clock;
use crate::base::stats::Work;
use crate::connection::mailbox::Remote;
use crate::pure::spin::{Plan, Reading};
use crate::sys;

/// How often a retired reactor without connections looks whether it may end.
const RETIRED: Duration = Duration::from_millis(100);
/// How often in a row a wait that fails is tried again, with pauses of 1 ms, 2 ms, 4 ms, …
const RETRIES: u32 = 8;

/// How many of the last waits have failed.
#[derive(Debug, Default)]
pub(super) struct FailedWaits {
    /// The last turn in which one failed.
    turn: u64,
    /// How many failed in a row, up to that turn.
    failures: u32,
}

impl FailedWaits {
    /// A wait has failed in this turn. Returns how many have failed in a row.
    fn failed_in(&mut self, turn: u64) -> u32 {
        let is_next = self.failures > 0 && turn == self.turn + 1;
        self.failures = if is_next { self.failures + 1 } else { 1 };
        self.turn = turn;
        self.failures
    }
}

impl Core {
    /// Waits for events, unless there is something to do already.
    pub(super) fn wait(&mut self, mut before_wait: impl FnMut()) {
        self.show_connections();
        let ask_again = self.ask_for_room();
        let idle = self.ready.is_empty() && !self.has_woken() && !self.remote.waker().is_called();
        let timeout = if idle { self.next_deadline(ask_again) } else { Some(Duration::ZERO) };
        before_wait();
        let outcome = self.wait_for_events(timeout);
        self.has_waited(outcome);
    }

    /// Before the wait, so that a loop that sleeps doesn't show connections that have gone.
    #[inline]
    fn show_connections(&self) {
        self.remote.counters.connections.set(self.streams);
        self.remote.counters.queued.set(self.ready.len() + self.woken.len() + self.crowded.len());
    }

    #[inline]
    fn has_waited(&mut self, outcome: io::Result<()>) {
        if let Err(error) = outcome {
            self.wait_failed(error);
        }
        let counters = &self.remote.counters;
        counters.turns.add(1);
        counters.events.add(self.events.len());
    }

    /// In a nest, which waits for it: has it begin a turn with what has happened.
    pub(super) fn look(&mut self) {
        let outcome = self.driver.wait(Some(Duration::ZERO), &mut self.events);
        self.has_waited(outcome);
        self.begin_batch();
    }

    /// In a nest, which is about to wait for it: from now on a wake signals. Returns until when the
    /// reactor may rest; `Err` if it has something to do.
    pub(super) fn lie_down(&mut self) -> Result<Option<Instant>, ()> {
        self.show_connections();
        let ask_again = self.ask_for_room();
        if !self.ready.is_empty() || self.has_woken() || !self.remote.waker().going_to_sleep() {
            return Err(());
        }
        let pause = self.next_deadline(ask_again);
        Ok(pause.and_then(|pause| clock::now().checked_add(pause)))
    }

    /// Tries again for about a quarter of a second. On Linux no error of `epoll_wait` passes by
    /// itself, but a sandbox between this process and the kernel may have errors of its own.
    #[cold]
    fn wait_failed(&mut self, error: io::Error) {
        let failures = self.failed_waits.failed_in(self.remote.counters.turns.read());
        if failures > RETRIES {
            log::error!("a loop can't wait for events, and ends with its connections: {error}");
            self.remote.fail(error);
            self.end = Ending::Failed;
            return;
        }
        if failures == 1 {
            log::warn!("a loop can't wait for events, and tries again: {error}");
        }
        // sleep: a wait that fails returns at once, and would be repeated without a pause
        thread::sleep(Duration::from_millis(1 << (failures - 1)));
    }

    /// Looks once if the timeout is 0. Otherwise it waits, at first awake if that is cheaper.
    fn wait_for_events(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        if timeout == Some(Duration::ZERO) {
            return self.driver.wait(timeout, &mut self.events);
        }
        let remote = &self.remote;
        match self.spinner.plan(|| reading(remote)) {
            Plan::Sleep { timed: false } => self.sleep(timeout),
            Plan::Sleep { timed: true } => {
                let since = clock::now();
                let outcome = self.sleep(timeout);
                self.spinner.slept(clock::now().duration_since(since));
                outcome
            }
            Plan::Spin(limit) => {
                let Self { driver, events, .. } = self;
                let begun = clock::now();
                let spun = spin(timeout.map_or(limit, |timeout| timeout.min(limit)), || {
                    driver.wait(Some(Duration::ZERO), events)?;
                    Ok::<_, io::Error>(!events.is_empty() || remote.waker().is_called())
                })?;
                self.spinner.spun(spun);
                if spun.found {
                    remote.counters.spun.add(1);
                    return Ok(());
                }
                self.sleep(
                    timeout
                        .map(|timeout| timeout.saturating_sub(clock::now().duration_since(begun))),
                )
            }
        }
    }

    /// Waits asleep for events, or for a wake.
    fn sleep(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        // A wake that came before this must not be lost: it may say that there is room, just after
        // an acceptor has said that there is none.
        let called = !self.remote.waker().going_to_sleep();
        let timeout = if called { Some(Duration::ZERO) } else { timeout };
        let outcome = self.driver.wait(timeout, &mut self.events);
        self.remote.waker().awake();
        outcome
    }

    /// Another thread turns the reactor from now on.
    pub(crate) fn change_threads(&mut self) {
        self.spinner.change_threads();
    }

    #[expect(clippy::inline_always, reason = "each wait of a loop without timers asks for it")]
    #[inline(always)]
    fn next_deadline(&self, ask_again: Option<Instant>) -> Option<Duration> {
        let mut next = self.timers.wait(clock::now);
        if let Some(at) = ask_again {
            let pause = at.saturating_duration_since(clock::now());
            next = Some(next.map_or(pause, |next| next.min(pause)));
        }
        match self.end {
            Ending::Stopping { deadline } => {
                let parting = deadline.saturating_duration_since(clock::now());
                Some(next.map_or(parting, |next| next.min(parting)))
            }
            Ending::WhenEmpty if self.is_empty() => {
                Some(next.map_or(RETIRED, |next| next.min(RETIRED)))
            }
            _ => next,
        }
    }
}

/// What the calling thread, which holds the core, has computed, and what its connections did.
fn reading(remote: &Remote) -> Reading {
    reading_of(work_of(remote))
}

pub(super) fn work_of(remote: &Remote) -> Work {
    remote.counters.work() + remote.traffic.work()
}

pub(super) fn reading_of(Work { received, sent, callbacks }: Work) -> Reading {
    Reading { computed: sys::own_time(), moved: received.wrapping_add(sent), sent, callbacks }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn waits_that_fail_in_a_row_are_counted_and_others_are_not() {
        let mut waits = FailedWaits::default();
        let turns = [0, 1, 2, 4, 5, 9];
        assert_eq!(turns.map(|turn| waits.failed_in(turn)), [1, 2, 3, 1, 2, 1]);
    }
}
