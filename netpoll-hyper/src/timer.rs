//! hyper's timers on the wheels of the loops.
//!
//! hyper makes and drops a timer for the head of each request, and nearly none of them fires. So
//! the timers of a connection use one place on the wheel, one after the other:
//!
//! ```text
//!   NetpollTimer ──► slot: Option<Sleep>      what the last timer has left on the wheel
//!                      ▲ drop    │ first poll, which sets its deadline anew
//!                      └─ NetpollSleep ◄┘
//! ```
//! A later deadline costs the wheel nothing until the earlier one has come.

use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use hyper::rt;
use netpoll_async::{Sleep, sleep_until};
use netpoll_core::clock;

/// Timers for hyper: give each connection one of its own.
///
/// A timer costs one allocation, and the first of a connection a place on the wheel of its loop. A
/// connection that is idle may be woken once for a timer that was dropped.
#[derive(Clone, Default)]
pub struct NetpollTimer {
    slot: Slot,
}

/// What no timer uses.
type Slot = Arc<Mutex<Option<Sleep>>>;

struct NetpollSleep {
    until: Instant,
    /// From the first poll on.
    sleep: Option<Sleep>,
    slot: Slot,
}

impl NetpollTimer {
    /// Timers of one connection.
    pub fn new() -> Self {
        Self::default()
    }
}

impl rt::Timer for NetpollTimer {
    fn sleep(&self, time: Duration) -> Pin<Box<dyn rt::Sleep>> {
        self.sleep_until(clock::later(clock::now(), time))
    }

    fn sleep_until(&self, until: Instant) -> Pin<Box<dyn rt::Sleep>> {
        Box::pin(NetpollSleep { until, sleep: None, slot: self.slot.clone() })
    }

    fn now(&self) -> Instant {
        clock::now()
    }

    fn reset(&self, sleep: &mut Pin<Box<dyn rt::Sleep>>, until: Instant) {
        match sleep.as_mut().downcast_mut_pin::<NetpollSleep>() {
            Some(mut ours) => ours.reset(until),
            None => *sleep = self.sleep_until(until),
        }
    }
}

impl rt::Sleep for NetpollSleep {}

impl Future for NetpollSleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        Pin::new(self.started()).poll(context)
    }
}

impl NetpollSleep {
    fn started(&mut self) -> &mut Sleep {
        let Self { until, sleep, slot } = self;
        sleep.get_or_insert_with(|| {
            let left = lock(slot).take();
            let Some(mut left) = left else { return sleep_until(*until) };
            left.reset(*until); // without the lock: it may drop a waker
            left
        })
    }

    fn reset(&mut self, until: Instant) {
        self.until = until;
        if let Some(sleep) = &mut self.sleep {
            sleep.reset(until);
        }
    }
}

impl Drop for NetpollSleep {
    fn drop(&mut self) {
        let Some(sleep) = self.sleep.take() else { return };
        let before = lock(&self.slot).replace(sleep);
        // Outside of the lock: it takes its place off the wheel.
        drop(before);
    }
}

fn lock(slot: &Slot) -> MutexGuard<'_, Option<Sleep>> {
    // It is locked for a move, so a poisoned one is whole.
    slot.lock().unwrap_or_else(PoisonError::into_inner)
}

impl fmt::Debug for NetpollTimer {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("NetpollTimer").finish_non_exhaustive()
    }
}
