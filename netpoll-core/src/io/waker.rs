//! Waking a reactor from other threads: a word that coalesces, and a signal behind it.

use std::io;

#[cfg(all(test, not(loom)))]
use super::memory::reports;
use crate::base::sync::{AtomicU32, Ordering};
use crate::sys::eventfd::EventFd;

/// Wakes one reactor. A wake costs a system call only when the reactor sleeps and no wake has
/// signalled it since; all others cost one swap.
#[derive(Debug)]
pub(crate) struct Waker {
    state: CallState,
    signal: Signal,
}

/// What ends a driver's wait.
#[derive(Debug)]
pub(crate) enum Signal {
    Event(EventFd),
    #[cfg(all(test, not(loom)))]
    Memory(reports::Signal),
}

impl Signal {
    fn send(&self) -> io::Result<()> {
        match self {
            Self::Event(event) => event.signal(),
            #[cfg(all(test, not(loom)))]
            Self::Memory(signal) => {
                signal.send();
                Ok(())
            }
        }
    }
}

impl From<EventFd> for Signal {
    fn from(event: EventFd) -> Self {
        Self::Event(event)
    }
}

impl Waker {
    /// The waker of a driver whose wait ends when this signal is sent.
    pub(crate) fn new(signal: Signal) -> Self {
        Self { state: CallState::new(), signal }
    }

    /// Makes the reactor's next wait, or the one it is in, return. To be called *after* the work it
    /// should find has been queued.
    pub(crate) fn wake(&self) {
        if self.state.call() && (0..TRIES).all(|_| self.signal.send().is_err()) {
            // Not logged, since the caller may hold locks: the reactor does it when it answers.
            self.state.not_heard();
        }
    }

    /// For the reactor: from now on a wake must signal. Says whether the reactor may sleep: it may
    /// not when there was a wake that it has not answered.
    pub(crate) fn going_to_sleep(&self) -> bool {
        self.state.going_to_sleep()
    }

    /// For the reactor: it is awake, and will ask whether it is called before it sleeps again.
    pub(crate) fn awake(&self) {
        self.state.awake();
    }

    /// For the reactor: whether it will have to answer.
    pub(crate) fn is_called(&self) -> bool {
        self.state.is_called()
    }

    /// Whether the reactor is called, and will answer. A thread that sees this after it has held
    /// the lock of the queue, which the reactor takes after each answer, need not call: an answer
    /// that missed its work would have come before that lock, and the call would not be seen any
    /// more.
    pub(crate) fn is_heard(&self) -> bool {
        self.state.is_heard()
    }

    /// Whether the reactor neither sleeps nor is called.
    pub(crate) fn is_awake(&self) -> bool {
        self.state.0.load(Ordering::Relaxed) == AWAKE
    }

    /// For the reactor: whether there was a wake since the last answer. It must look at its queue
    /// after that.
    #[inline]
    pub(crate) fn answer(&self) -> bool {
        self.state.is_called() && self.answer_call()
    }

    fn answer_call(&self) -> bool {
        if self.state.answer() == UNHEARD {
            log::error!("a loop was not woken, as its eventfd takes no write; it goes on late");
        }
        true
    }
}

/// Whether a reactor sleeps, and whether it is called.
///
/// ```text
///             going_to_sleep               call: signals
///      awake ────────────────► asleep ───────────────────► called ──┐
///       ▲ ▲         awake         │                         ▲ ▲     │ call: nothing
///       │ └───────────────────────┘                         │ └─────┘
///       │ └────────────────────────── call ─────────────────┘
///       └──────────────────────────── answer ───────────────┘
///
///      called ── not_heard: the signal failed ──► unheard ── call: signals again ──► called
///                                                    └─────── answer ───────► awake
/// ```
/// No call is lost. It stays until the answer. The reactor looks at its queue after the answer, and
/// a caller has queued its work before the call. So a reactor that is not called need not look at
/// its queue at all.
#[derive(Debug)]
pub(crate) struct CallState(AtomicU32);

const AWAKE: u32 = 0;
const ASLEEP: u32 = 1;
const CALLED: u32 = 2;
/// Called, but the signal failed: the next call must send it, or the reactor would sleep through
/// it.
const UNHEARD: u32 = 3;

/// How often a wake sends a signal that fails.
const TRIES: usize = 3;

impl CallState {
    pub(crate) fn new() -> Self {
        Self(AtomicU32::new(AWAKE))
    }

    /// Calls; says whether a signal must be sent.
    pub(crate) fn call(&self) -> bool {
        matches!(self.0.swap(CALLED, Ordering::AcqRel), ASLEEP | UNHEARD)
    }

    /// The signal failed that a call had to send.
    pub(crate) fn not_heard(&self) {
        self.change(CALLED, UNHEARD);
    }

    pub(crate) fn going_to_sleep(&self) -> bool {
        self.change(AWAKE, ASLEEP)
    }

    pub(crate) fn awake(&self) {
        self.change(ASLEEP, AWAKE);
    }

    pub(crate) fn is_called(&self) -> bool {
        self.0.load(Ordering::Relaxed) >= CALLED
    }

    pub(crate) fn is_heard(&self) -> bool {
        self.0.load(Ordering::Relaxed) == CALLED
    }

    /// Answers, for a reactor that is called; returns how it was.
    pub(crate) fn answer(&self) -> u32 {
        self.0.swap(AWAKE, Ordering::AcqRel)
    }

    fn change(&self, from: u32, to: u32) -> bool {
        self.0.compare_exchange(from, to, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::os::fd::AsFd;
    use std::time::Duration;

    use super::*;
    use crate::sys::epoll::{EpollFd, RawEvent, RawFlags};

    #[test]
    fn a_wake_up_whose_write_fails_is_written_again() {
        let waker = Waker::new(EventFd::new().unwrap().into());
        let Signal::Event(event) = &waker.signal else { panic!("an eventfd") };
        let epoll = EpollFd::new().unwrap();
        epoll.add(event.as_fd(), RawFlags::EPOLLIN, 0).unwrap();
        let signalled = || epoll.wait(&mut [RawEvent::empty()], Some(Duration::ZERO)).unwrap() == 1;
        let fail = |times| event.failures.store(times, Ordering::Relaxed);

        assert!(waker.going_to_sleep());
        fail(1);
        waker.wake();
        assert!(signalled(), "one failure loses nothing");
        waker.wake();
        assert!(!signalled() && waker.answer(), "it was signalled already");

        assert!(waker.going_to_sleep());
        fail(TRIES);
        waker.wake();
        assert!(!signalled());
        waker.wake();
        assert!(signalled(), "the next wake is not lost");
        assert!(waker.answer() && !waker.answer());

        // It wakes by itself.
        assert!(waker.going_to_sleep());
        fail(TRIES);
        waker.wake();
        waker.awake();
        assert!(waker.is_called() && !waker.going_to_sleep());
        assert!(waker.answer() && waker.going_to_sleep());
    }
}

#[cfg(all(test, loom))]
mod loom_models {
    use loom::sync::Arc;
    use loom::thread;

    use super::{AWAKE, CallState};
    use crate::base::sync::{AtomicUsize, Mutex, Ordering, lock};

    fn answers(call: &CallState) -> bool {
        call.is_called() && call.answer() != AWAKE
    }

    /// The first signal fails, while another thread calls as well. Either that one signals, or the
    /// next call does: the reactor does not sleep through all calls.
    #[test]
    fn loom_a_signal_that_fails_leaves_the_next_call_to_signal() {
        loom::model(|| {
            let shared = Arc::new((CallState::new(), AtomicUsize::new(0), AtomicUsize::new(0)));
            let (call, signals, heard) = &*shared;
            let asleep = call.going_to_sleep();
            assert!(asleep);
            let signal = |call: &CallState, signals: &AtomicUsize, heard: &AtomicUsize| {
                if call.call() {
                    match signals.fetch_add(1, Ordering::SeqCst) {
                        0 => call.not_heard(),
                        _ => drop(heard.fetch_add(1, Ordering::SeqCst)),
                    }
                }
            };
            let other = shared.clone();
            let caller = thread::spawn(move || signal(&other.0, &other.1, &other.2));
            signal(call, signals, heard);
            caller.join().expect("the model's thread");
            let is_heard = heard.load(Ordering::SeqCst) > 0;
            assert!(call.is_called() && (is_heard || call.call()), "no call would signal any more");
            assert!(answers(call));
        });
    }

    /// Two threads queue work and call, while the reactor goes to sleep, and wakes for a reason of
    /// its own. In every interleaving it finds both pieces of work, or is still called; it does not
    /// sleep with a call unanswered; and at most one signal is sent per sleep.
    #[test]
    fn loom_no_wake_is_lost_and_signals_coalesce() {
        loom::model(|| {
            let shared = Arc::new((CallState::new(), Mutex::new(0), AtomicUsize::new(0)));
            let callers: Vec<_> = (0..2)
                .map(|_| {
                    let shared = shared.clone();
                    thread::spawn(move || {
                        *lock(&shared.1) += 1;
                        if shared.0.call() {
                            shared.2.fetch_add(1, Ordering::SeqCst);
                        }
                    })
                })
                .collect();
            let (call, queue, signals) = &*shared;
            let asleep = call.going_to_sleep();
            call.awake();
            let answered = answers(call);
            let found = if answered { *lock(queue) } else { 0 };
            assert!(asleep || found > 0, "neither asleep nor called");
            for caller in callers {
                caller.join().expect("the model's thread");
            }
            let signalled = signals.load(Ordering::SeqCst);
            assert!(signalled <= usize::from(asleep), "{signalled} signals");
            assert!(found == 2 || answers(call), "{found} of 2 found, and not called");
        });
    }

    /// Two threads queue work, and call unless they see a call. The reactor answers, takes the lock
    /// of the queue as it does for commands, and then looks at the flag beside the queue: it finds
    /// both pieces of work, or is still called.
    fn calls_that_are_seen(has_lock_first: bool) {
        loom::model(move || {
            let (queue, flag) = (Mutex::new(0), AtomicUsize::new(0));
            let shared = Arc::new((CallState::new(), queue, flag));
            let add = move |shared: &(CallState, Mutex<i32>, AtomicUsize)| {
                let (call, queue, flag) = shared;
                let is_seen = !has_lock_first && call.is_heard();
                let mut queue = lock(queue);
                *queue += 1;
                flag.store(1, Ordering::Relaxed);
                drop(queue);
                if !(is_seen || has_lock_first && call.is_heard()) {
                    call.call();
                }
            };
            let other = shared.clone();
            let caller = thread::spawn(move || add(&other));
            add(&shared);
            let (call, queue, flag) = &*shared;
            let mut found = 0;
            if answers(call) {
                drop(lock(queue));
                if flag.load(Ordering::Relaxed) == 1 {
                    found = std::mem::take(&mut *lock(queue));
                    flag.store(0, Ordering::Relaxed);
                }
            }
            caller.join().expect("the model's thread");
            let is_asleep = call.going_to_sleep();
            assert!(found == 2 || !is_asleep, "asleep with work in the queue");
        });
    }

    #[test]
    fn loom_a_call_that_is_seen_is_as_good_as_one() {
        calls_that_are_seen(true);
    }

    #[test]
    #[should_panic(expected = "asleep with work in the queue")]
    fn loom_finds_a_call_that_is_looked_for_before_the_lock() {
        calls_that_are_seen(false);
    }

    /// A reactor that sleeps until it is signalled: the caller signals.
    #[test]
    fn loom_a_sleeper_is_signalled() {
        loom::model(|| {
            let shared = Arc::new((CallState::new(), AtomicUsize::new(0)));
            let caller = shared.clone();
            let caller = thread::spawn(move || {
                if caller.0.call() {
                    caller.1.fetch_add(1, Ordering::SeqCst);
                }
            });
            let asleep = shared.0.going_to_sleep();
            caller.join().expect("the model's thread");
            let signalled = shared.1.load(Ordering::SeqCst);
            assert_eq!(signalled, usize::from(asleep), "asleep: {asleep}");
        });
    }
}
