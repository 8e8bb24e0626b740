//! A timer of a future against its wheel.

use std::time::Duration;

use super::*;
use crate::base::sync::{AtomicUsize, Ordering};

struct Counting(AtomicUsize);

impl std::task::Wake for Counting {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// A loop that has a timer, at 10 ms.
struct Model {
    origin: Instant,
    timers: Timers<Arc<TimerEntry>>,
    entry: Arc<TimerEntry>,
    wakes: Arc<Counting>,
}

impl Model {
    fn posted() -> Self {
        let (origin, wakes) = (Instant::now(), Arc::new(Counting(AtomicUsize::new(0))));
        let entry = TimerEntry::posted(origin + ms(10), Waker::from(wakes.clone()));
        Self { origin, timers: Timers::new(origin), entry, wakes }
    }

    fn armed() -> Self {
        let mut model = Self::posted();
        model.arm();
        model
    }

    fn arm(&mut self) {
        self.entry.clone().arm(&mut self.timers, |entry| entry);
    }

    /// Lets so many milliseconds pass since the origin; returns how many timers have fired.
    fn pass(&mut self, until: u64) -> usize {
        let now = self.origin + ms(until);
        let mut fired = 0;
        while let Some(entry) = self.timers.fire(now) {
            if let Some(waker) = entry.fire(now, &mut self.timers, |entry| entry) {
                waker.wake();
                fired += 1;
            }
        }
        fired
    }

    fn phase(&self) -> Poll<Phase> {
        self.entry.poll(&Context::from_waker(&Waker::from(self.wakes.clone())))
    }

    fn at(&self, millis: u64) -> Instant {
        self.origin + ms(millis)
    }
}

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

#[test]
fn it_fires_once_and_wakes_once() {
    let mut model = Model::armed();
    assert_eq!((model.pass(9), model.phase()), (0, Poll::Pending));
    assert_eq!((model.pass(10), model.phase()), (1, Poll::Ready(Phase::Fired)));
    assert_eq!((model.pass(99), model.wakes.0.load(Ordering::Relaxed)), (0, 1));
    assert_eq!(model.entry.reset(model.at(200)), None);
}

#[test]
fn a_timer_that_is_put_off_costs_no_command() {
    let mut model = Model::armed();
    assert_eq!(model.entry.reset(model.at(20)), Some(false));
    assert_eq!(model.pass(19), 0);
    assert_eq!(model.pass(20), 1);
}

#[test]
fn a_timer_that_is_pulled_forward_is_posted_once() {
    let mut model = Model::armed();
    assert_eq!(model.entry.reset(model.at(5)), Some(true));
    assert_eq!(model.entry.reset(model.at(4)), Some(false), "it is on its way");
    model.arm();
    assert_eq!((model.timers.len(), model.pass(4)), (1, 1));
}

#[test]
fn a_cancelled_timer_leaves_the_wheel_and_its_waker_is_free() {
    let mut model = Model::armed();
    assert_eq!(Arc::strong_count(&model.wakes), 2);
    assert!(model.entry.cancel());
    assert_eq!(Arc::strong_count(&model.wakes), 1);
    assert!(!model.entry.cancel());
    model.arm();
    assert_eq!((model.timers.len(), model.pass(99)), (0, 0));

    // Before the loop has seen it, no command is needed.
    let mut model = Model::posted();
    assert!(!model.entry.cancel());
    model.arm();
    assert_eq!(model.timers.len(), 0);
}

#[test]
fn the_end_of_its_loop_wakes_it() {
    let model = Model::armed();
    model.entry.orphan().expect("it waits").wake();
    assert_eq!(model.phase(), Poll::Ready(Phase::Orphaned));
    assert!(model.entry.orphan().is_none());
}
