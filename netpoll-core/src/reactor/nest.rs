//! A nest: several cores that one thread turns.
//!
//! ```text
//!     the thread that holds the nest                the kernel
//!     ┌───────────────────────────────────┐
//!     │ in hand: core 2   deliver, run, … │
//!     │ places:  0  rests until 12:00:01  │         ┌─ epoll of core 0 ── its streams, its eventfd
//!     │          1  rests                 │   set ──┼─ epoll of core 1 ── …
//!     │          2  (in hand)             │         └─ epoll of core 2 ── …
//!     └───────────────────────────────────┘
//!       round: the places that have a turn next
//! ```
//! A round: the set reports which cores have events. Each of them is taken in hand, looks with a
//! wait of its own that never sleeps, and runs its batch as it would alone. Then those cores *lie
//! down*: from there on a wake signals their eventfd, which the set sees as well, and each has said
//! until when its timers let it rest. A core that had no turn still rests from before, so a core
//! without work costs nothing. The thread then waits for the set, until the first of those times.
//!
//! All cores but the one in hand are whole and stand in their places; the one in hand is whole
//! whenever a connection is run. So the nest changes threads as one value, with the core in hand.
//!
//! It is no part of a core and a core does not know of it: a core that leaves is waited for by
//! itself again, and no connection, token or timer moves.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use super::Core;
use super::spinning::spin;
use super::waiting::{reading_of, work_of};
use crate::base::clock;
use crate::base::log_period::OncePer;
use crate::base::stats::Work;
use crate::connection::mailbox::Remote;
use crate::connection::scheduled::Scheduled;
use crate::io::driver_set::DriverSet;
use crate::pure::spin::{Plan, Spinner};

/// How often a core is looked at that the set can't watch, and all of them where the set fails.
const UNWATCHED: Duration = Duration::from_millis(1);
/// One line of log in this time says that the set fails.
const LOG_PERIOD: Duration = Duration::from_secs(10);

/// See the module.
#[derive(Debug)]
pub(crate) struct Nest {
    set: DriverSet,
    places: Vec<Place>,
    /// The place of the core in hand, which is empty meanwhile.
    in_hand: usize,
    /// The places that have a turn, before the next wait.
    round: VecDeque<usize>,
    spinner: Spinner,
    complaint: OncePer,
}

#[derive(Debug)]
struct Place {
    core: Option<Core>,
    rest: Rest,
    /// The set watches it.
    is_watched: bool,
}

/// Whether a core of the nest has to be asked what it has to do before the thread waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rest {
    Up,
    /// It is woken by its driver, and at that time.
    Until(Option<Instant>),
    /// No core stands here, and none is in hand.
    Free,
}

impl Nest {
    /// A nest around the core in hand.
    pub(crate) fn around(core: &Core, set: DriverSet) -> Self {
        let mut nest = Self {
            set,
            places: Vec::new(),
            in_hand: 0,
            round: VecDeque::new(),
            spinner: core.spinner.alike(),
            complaint: OncePer::new(LOG_PERIOD),
        };
        let is_watched = nest.watch(core, 0);
        nest.places.push(Place { core: None, rest: Rest::Up, is_watched });
        nest
    }

    /// Takes a core in. Where the set can't watch it, the nest looks at it each millisecond.
    pub(crate) fn add(&mut self, core: Core) {
        let free = self.places.iter().position(|place| place.rest == Rest::Free);
        let at = free.unwrap_or(self.places.len());
        let is_watched = self.watch(&core, at);
        let place = Place { core: Some(core), rest: Rest::Up, is_watched };
        if at < self.places.len() {
            self.places[at] = place;
        } else {
            self.places.push(place);
        }
        self.spinner.change_threads();
    }

    /// Whether the set watches all its cores.
    pub(crate) fn is_watched(&self) -> bool {
        self.places.iter().all(|place| place.is_watched || place.rest == Rest::Free)
    }

    fn watch(&mut self, core: &Core, at: usize) -> bool {
        let outcome = self.set.add(&*core.driver, at);
        if let Err(error) = &outcome {
            log::debug!("cannot watch a loop together with others: {error}");
        }
        outcome.is_ok()
    }

    /// Takes a core out that is not in hand, the one with the fewest connections.
    pub(crate) fn take(&mut self) -> Option<Core> {
        let load = |place: &Place| place.core.as_ref().map(|core| core.streams);
        let of = |(at, place): (usize, &Place)| load(place).map(|load| (load, at));
        let (_, at) = self.places.iter().enumerate().filter_map(of).min()?;
        let core = self.places[at].core.take()?;
        self.leave(at, &core);
        Some(core)
    }

    /// Puts another core in hand, and takes the one out that was in hand. `None`, and nothing has
    /// changed, where there is no other.
    pub(crate) fn replace(&mut self, in_hand: &mut Core) -> Option<Core> {
        let next = self.places.iter().position(|place| place.core.is_some())?;
        let old = std::mem::replace(in_hand, self.places[next].core.take()?);
        self.leave(self.in_hand, &old);
        self.in_hand = next;
        self.rouse(next, in_hand);
        Some(old)
    }

    /// Whether the core in hand is the only one.
    pub(crate) fn is_single(&self) -> bool {
        self.places.iter().all(|place| place.core.is_none())
    }

    /// The cores that are not in hand.
    pub(crate) fn others(&self) -> impl Iterator<Item = &Core> {
        self.places.iter().filter_map(|place| place.core.as_ref())
    }

    /// Another thread turns the nest from now on, or other cores are in it.
    pub(crate) fn change_threads(&mut self) {
        self.spinner.change_threads();
    }

    /// Turns the cores until a task of the one in hand is to be run; `None` when the core in
    /// hand has ended, or is to pause. It calls `before_wait` before each wait for events.
    pub(crate) fn next(
        &mut self,
        in_hand: &mut Core,
        mut before_wait: impl FnMut(),
    ) -> Option<Scheduled> {
        loop {
            if let Some(scheduled) = in_hand.next_of_batch() {
                return Some(scheduled);
            }
            if !in_hand.end_turn() {
                return None;
            }
            if self.round.is_empty() {
                self.wait(in_hand, &mut before_wait);
            }
            let Some(next) = self.round.pop_front() else { continue };
            self.take_in_hand(in_hand, next);
            in_hand.look();
        }
    }

    /// A core leaves its place, or the hand, for good.
    fn leave(&mut self, at: usize, core: &Core) {
        let place = &mut self.places[at];
        if place.is_watched
            && let Err(error) = self.set.remove(&*core.driver)
        {
            // Its driver is not watched then: it was never added, or is closed.
            log::debug!("cannot take a loop out of a set: {error}");
        }
        core.remote.waker().awake();
        *place = Place { core: None, rest: Rest::Free, is_watched: false };
        self.round.retain(|&other| other != at);
        self.spinner.change_threads();
    }

    fn take_in_hand(&mut self, in_hand: &mut Core, next: usize) {
        if next == self.in_hand {
            return;
        }
        if let Some(core) = self.places[next].core.take() {
            let old = std::mem::replace(in_hand, core);
            self.places[self.in_hand].core = Some(old);
            self.in_hand = next;
        }
    }

    /// From now on the core is asked what it has to do before the thread waits.
    fn rouse(&mut self, at: usize, core: &Core) {
        core.remote.waker().awake();
        self.places[at].rest = Rest::Up;
    }

    /// Waits until a core has something to do, and puts all that have into the round. The one in
    /// hand is there in any case where there is no other.
    fn wait(&mut self, in_hand: &mut Core, before_wait: impl FnOnce()) {
        let until = self.lie_down(in_hand);
        before_wait();
        let outcome = match until {
            Err(()) => self.look(in_hand),
            Ok(until) => self.wait_until(in_hand, until),
        };
        if let Err(error) = outcome {
            self.wait_failed(in_hand, &error);
        }
        if let Ok(Some(until)) = until
            && until <= clock::now()
        {
            self.rouse_due(in_hand);
        }
        if self.round.is_empty() {
            self.put_into_round(self.in_hand, in_hand);
        }
    }

    /// Has the cores lie down that had a turn. Those that have something to do are in the round
    /// then, and it is an `Err`; otherwise returns until when all may rest.
    fn lie_down(&mut self, in_hand: &mut Core) -> Result<Option<Instant>, ()> {
        let mut first: Option<Instant> = None;
        for (at, place) in self.places.iter_mut().enumerate() {
            let core = place.core.as_mut().unwrap_or(in_hand);
            if place.rest == Rest::Up {
                match core.lie_down() {
                    Ok(until) => place.rest = Rest::Until(until),
                    Err(()) => self.round.push_back(at),
                }
            }
            if let Rest::Until(until) = &mut place.rest {
                if !place.is_watched {
                    let soon = clock::now() + UNWATCHED;
                    *until = Some(until.map_or(soon, |until| until.min(soon)));
                }
                first = match (first, *until) {
                    (Some(first), Some(until)) => Some(first.min(until)),
                    (first, until) => first.or(until),
                };
            }
        }
        if self.round.is_empty() { Ok(first) } else { Err(()) }
    }

    fn wait_until(&mut self, in_hand: &Core, until: Option<Instant>) -> io::Result<()> {
        let left = || until.map(|until| until.saturating_duration_since(clock::now()));
        match self.plan(in_hand) {
            Plan::Sleep { timed: false } => self.look_for(in_hand, left()),
            Plan::Sleep { timed: true } => {
                let since = clock::now();
                let outcome = self.look_for(in_hand, left());
                self.spinner.slept(clock::now().duration_since(since));
                outcome
            }
            Plan::Spin(limit) => {
                let limit = left().map_or(limit, |left| left.min(limit));
                let spun = spin(limit, || {
                    self.look(in_hand)?;
                    Ok::<_, io::Error>(!self.round.is_empty())
                })?;
                self.spinner.spun(spun);
                if spun.found {
                    in_hand.remote.counters.spun.add(1);
                    return Ok(());
                }
                self.look_for(in_hand, left())
            }
        }
    }

    fn plan(&mut self, in_hand: &Core) -> Plan {
        let Self { spinner, places, .. } = self;
        spinner.plan(|| {
            let others = places.iter().filter_map(|place| place.core.as_ref());
            let all = others
                .fold(work_of(&in_hand.remote), |sum: Work, core| sum + work_of(&core.remote));
            reading_of(all)
        })
    }

    fn look(&mut self, in_hand: &Core) -> io::Result<()> {
        self.look_for(in_hand, Some(Duration::ZERO))
    }

    /// Waits for the set. Also a core that is called is in the round then, even if its signal has
    /// failed.
    fn look_for(&mut self, in_hand: &Core, timeout: Option<Duration>) -> io::Result<()> {
        let Self { set, places, round, .. } = self;
        let outcome = set.wait(timeout, |at| {
            if let Some(place) = places.get_mut(at) {
                place.has_turn(at, in_hand, round);
            }
        });
        for (at, place) in places.iter_mut().enumerate() {
            let core = place.core.as_ref().unwrap_or(in_hand);
            if place.rest != Rest::Free && core.remote.waker().is_called() {
                place.has_turn(at, in_hand, round);
            }
        }
        outcome
    }

    /// Puts the cores with due timers into the round.
    fn rouse_due(&mut self, in_hand: &Core) {
        let now = clock::now();
        for (at, place) in self.places.iter_mut().enumerate() {
            if matches!(place.rest, Rest::Until(Some(until)) if until <= now) {
                place.has_turn(at, in_hand, &mut self.round);
            }
        }
    }

    fn put_into_round(&mut self, at: usize, in_hand: &Core) {
        self.places[at].has_turn(at, in_hand, &mut self.round);
    }

    /// All cores look for themselves, each millisecond. None of the errors of `epoll_wait` passes
    /// by itself on Linux, and none of them is known to come; a sandbox may have others.
    #[cold]
    fn wait_failed(&mut self, in_hand: &Core, error: &io::Error) {
        if self.complaint.pass(clock::now(), 1).is_some() {
            log::error!("a thread can't wait for its loops together, and looks at each: {error}");
        }
        for at in 0..self.places.len() {
            if self.places[at].rest != Rest::Free {
                self.put_into_round(at, in_hand);
            }
        }
        // sleep: a wait that fails returns at once, and would be repeated without a pause
        thread::sleep(UNWATCHED);
    }
}

impl Place {
    /// The core here has a turn next. One that is up is in the round already.
    fn has_turn(&mut self, at: usize, in_hand: &Core, round: &mut VecDeque<usize>) {
        if matches!(self.rest, Rest::Until(_)) {
            self.core.as_ref().unwrap_or(in_hand).remote.waker().awake();
            self.rest = Rest::Up;
            round.push_back(at);
        }
    }
}

/// The mailboxes of the core in hand and of those in its nest.
pub(crate) fn remotes<'a>(
    in_hand: &'a Core,
    nest: Option<&'a Nest>,
) -> impl Iterator<Item = &'a Arc<Remote>> {
    let others = nest.into_iter().flat_map(Nest::others);
    std::iter::once(in_hand).chain(others).map(|core| &core.remote)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::io::memory::Memory;
    use crate::pure::spin::Spin;

    fn cores() -> [Core; 3] {
        let (driver, waker) = Memory::open(false);
        let in_memory = Core::with(2, Spin::Never, driver, waker);
        let core = |number| Core::new(number, Spin::Never).expect("a driver");
        [core(0), core(1), in_memory]
    }

    /// Turns until a core has ended or pauses, and returns its number.
    fn turn(nest: &mut Nest, in_hand: &mut Core) -> usize {
        assert!(nest.next(in_hand, || ()).is_none());
        in_hand.remote.number()
    }

    #[test]
    fn a_wake_of_any_core_ends_the_wait_also_where_the_set_can_not_watch_it() {
        let [mut in_hand, one, two] = cores();
        let remotes = [&in_hand, &one, &two].map(|core| core.remote.clone());
        let mut nest = Nest::around(&in_hand, DriverSet::new().expect("a set"));
        nest.add(one);
        assert!(nest.is_watched());
        nest.add(two);
        assert!(!nest.is_watched(), "the driver in memory has no descriptor");
        thread::scope(|scope| {
            let (sender, next) = std::sync::mpsc::channel();
            let remotes = &remotes;
            scope.spawn(move || next.iter().for_each(|next: usize| assert!(remotes[next].pause())));
            for next in [1, 2, 0, 2, 1, 0, 0] {
                sender.send(next).expect("a thread that pauses the cores");
                assert_eq!(turn(&mut nest, &mut in_hand), next);
                assert!(in_hand.take_pause());
            }
        });
    }

    #[test]
    fn cores_leave_and_the_others_go_on() {
        let [mut in_hand, one, two] = cores();
        let remotes = [&in_hand, &one, &two].map(|core| core.remote.clone());
        let mut nest = Nest::around(&in_hand, DriverSet::new().expect("a set"));
        nest.add(one);
        nest.add(two);
        let left = nest.replace(&mut in_hand).expect("there are others");
        let remaining = remotes.iter().filter(|it| it.number() != left.remote.number());
        for remote in remaining {
            remote.pause();
            assert_eq!(turn(&mut nest, &mut in_hand), remote.number());
            assert!(in_hand.take_pause());
        }
        let taken = nest.take().expect("another one");
        assert!(nest.is_single() && nest.take().is_none());
        assert!(nest.replace(&mut in_hand).is_none());
        nest.add(left);
        taken.remote.pause();
        nest.add(taken);
        assert!(nest.next(&mut in_hand, || ()).is_none());
        assert!(in_hand.take_pause());
    }
}
