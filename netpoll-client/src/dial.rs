//! One dial: its name is resolved and the addresses are raced, within one deadline.
//!
//! ```text
//!     new ──► Asking ──► Racing ──► Announcing ──► Connected, or why not
//!               │          │            │
//!               └──────────┴────────────┴── advance: as far as it goes without a wait
//! ```
//! [`Dial`] never waits. A thread that dials waits between the calls of `advance` ([`Dial::run`]);
//! a dial that goes on by callback is called again as a job of the connection that asks
//! (`dial_then.rs`).

use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use netpoll_core::{
    Address, Attempt, AttemptOutcome, ConnectionGroup, Error, FilterClient, Handshake, Notify,
    PollManager, Remote, Result, clock, socket::ConnectOptions,
};

use crate::announcement::Announcement;
use crate::backoff::Backoff;
use crate::cancel::{Cancel, cancelled};
use crate::eyeballs::{Candidate, Move, Race};
use crate::resolver::{Question, Resolver};
use crate::target::{Kind, Target};

/// The pauses between two connects to a Unix socket while its listener's queue is full. They are
/// not randomised.
const FULL_QUEUE: Backoff =
    Backoff { first: Duration::from_millis(1), most: Duration::from_millis(50) };

/// What a [`DialerBuilder`](crate::DialerBuilder) sets.
#[derive(Debug, Clone)]
pub(crate) struct DialOptions {
    pub(crate) connect: ConnectOptions,
    pub(crate) timeout: Duration,
    pub(crate) stagger: Duration,
    pub(crate) resolver: Resolver,
    pub(crate) filter: Option<Arc<dyn FilterClient>>,
}

/// One dial under way.
pub(crate) struct Dial<'a> {
    options: Arc<DialOptions>,
    loops: Loops,
    /// What the connection will belong to.
    group: Arc<ConnectionGroup>,
    target: Target<'a>,
    timeout: Duration,
    deadline: Option<Instant>,
    cancel: Option<&'a Cancel>,
    /// What the connection begins with.
    announcement: Option<Bytes>,
    notify: Arc<Notify>,
    stage: Stage,
}

/// Which loop watches the attempts.
pub(crate) enum Loops {
    /// One that the manager picks.
    Of(Arc<PollManager>),
    This(Arc<Remote>),
}

enum Stage {
    /// The name is being resolved.
    Asking(Arc<Question>),
    Racing(Box<Racing>),
    /// It is connected, and the socket has yet to take its announcement.
    Announcing(Announcement),
    /// It has ended, and what it ended with was taken or is this.
    Over(Option<Error>),
}

struct Racing {
    race: Race,
    running: Vec<(Candidate, Attempt)>,
    /// How often the queue of a Unix socket's listener was full.
    full: u32,
}

/// How far work in steps has come.
#[derive(Debug)]
pub enum Step<T> {
    /// It has ended.
    Over(T),
    /// It goes on when its `Notify` is notified, and at this time at the latest.
    Until(Option<Instant>),
}

/// How far a dial has come.
pub(crate) type Progress = Step<Result<Attempt>>;

/// What a dial needs beside its target.
pub(crate) struct Means<'m, 'a> {
    pub(crate) options: &'m Arc<DialOptions>,
    pub(crate) loops: Loops,
    pub(crate) group: &'m Arc<ConnectionGroup>,
    pub(crate) timeout: Duration,
    pub(crate) cancel: Option<&'a Cancel>,
    pub(crate) announcement: Option<Bytes>,
}

impl<'a> Dial<'a> {
    /// Begins to dial a target of this kind; `notify` is told when there is a step to be taken.
    pub(crate) fn new(
        means: Means<'_, 'a>,
        target: Target<'a>,
        kind: Kind<'_>,
        notify: Arc<Notify>,
    ) -> Self {
        let Means { options, loops, group, timeout, cancel, announcement } = means;
        if let Some(cancel) = cancel {
            cancel.watch(&notify);
        }
        let deadline = clock::now().checked_add(timeout);
        let (options, group, stage) = (options.clone(), group.clone(), Stage::Over(None));
        let mut dial = Self {
            options,
            loops,
            group,
            target,
            timeout,
            deadline,
            cancel,
            announcement,
            notify,
            stage,
        };
        dial.stage = match kind {
            Kind::Literal(address) => dial.race(vec![address]).unwrap_or_else(Stage::failed),
            Kind::Name(host, port) => match dial.options.resolver.ask(host, port, &dial.notify) {
                Ok(question) => Stage::Asking(question),
                Err(error) => Stage::failed(dial.target.failed(error)),
            },
        };
        dial
    }

    /// Resolves and connects, does the handshake of a filter, and waits for that on this thread.
    pub(crate) fn run(mut self) -> Result<Attempt> {
        loop {
            match self.advance() {
                Step::Over(outcome) => {
                    return outcome.and_then(|attempt| self.shake_hands(attempt));
                }
                Step::Until(next) => {
                    let waited = self.notify.wait(next);
                    waited.map_err(|error| self.target.failed(error.into()))?;
                }
            }
        }
    }

    /// The handshake, on this thread; a cancellation closes the connection.
    fn shake_hands(&self, mut attempt: Attempt) -> Result<Attempt> {
        if self.options.filter.is_none() {
            return Ok(attempt);
        }
        let handle = attempt.handle();
        let stop = Arc::new(Notify::calling(move || handle.close()));
        if let Some(cancel) = self.cancel {
            cancel.watch(&stop);
        }
        match self.check().and_then(|()| attempt.shake_hands(self.deadline)) {
            Ok(()) => Ok(attempt),
            Err(error) => Err(self.why_no_handshake(error)),
        }
    }

    /// Whether the dial may go on.
    ///
    /// # Errors
    /// It was cancelled, or its time is over.
    pub(crate) fn check(&self) -> Result<()> {
        Ok(self.check_time(clock::now())?)
    }

    /// The error of a dial whose handshake has failed.
    pub(crate) fn why_no_handshake(&self, error: Error) -> Error {
        self.target.failed(self.check_time(clock::now()).err().unwrap_or_else(|| error.into()))
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// Begins the handshake of the filter by callback, if there is one.
    pub(crate) fn begin_handshake(&self, attempt: Attempt) -> Result<Attempt, Handshake> {
        match self.options.filter {
            None => Ok(attempt),
            Some(_) => Err(attempt.shake_hands_then(&self.notify)),
        }
    }

    /// Goes on as far as it can without a wait. Once it is over it must not be called again.
    pub(crate) fn advance(&mut self) -> Progress {
        if let Stage::Asking(question) = &self.stage
            && let Some(answer) = question.answer()
        {
            let found = answer.map_err(|error| self.target.failed(error));
            let found = found.and_then(|all| self.target.fitting(all));
            let raced = found.and_then(|addresses| self.race(addresses));
            self.stage = raced.unwrap_or_else(Stage::failed);
        }
        let next = match &mut self.stage {
            Stage::Over(error) => {
                return Step::Over(Err(error.take().unwrap_or(Error::Closed)));
            }
            Stage::Asking(_) => self.check_time(clock::now()).map(|()| None),
            Stage::Racing(_) | Stage::Announcing(..) => match self.connect() {
                Ok(Raced::Won(attempt)) => return self.end(Ok(attempt)),
                Ok(Raced::Until(next)) => Ok(next),
                Err(error) => Err(error),
            },
        };
        match next {
            Ok(next) => Step::Until([next, self.deadline].into_iter().flatten().min()),
            Err(error) => self.end(Err(self.target.failed(error))),
        }
    }

    /// Attempts that have not won are dropped here, which closes them.
    fn end(&mut self, outcome: Result<Attempt>) -> Progress {
        self.stage = Stage::Over(None);
        Step::Over(outcome)
    }

    /// Only addresses of its own family can be reached from a local address.
    fn race(&self, mut addresses: Vec<Address>) -> Result<Stage> {
        let DialOptions { connect, stagger, .. } = &*self.options;
        if let Some(local) = connect.local {
            let fits = |to: &Address| to.inet().is_none_or(|to| to.is_ipv4() == local.is_ipv4());
            addresses.retain(fits);
        }
        if addresses.is_empty() {
            return Err(self.target.wrong("it has no address of the local address's family"));
        }
        let race = Race::new(addresses, *stagger, clock::now());
        Ok(Stage::Racing(Box::new(Racing { race, running: Vec::new(), full: 0 })))
    }

    /// Races, and then announces. `Ok`: as of [`go_on_racing`](Self::go_on_racing).
    fn connect(&mut self) -> io::Result<Raced> {
        if let Stage::Racing(_) = &self.stage {
            let won = match self.go_on_racing()? {
                Raced::Won(attempt) => attempt,
                Raced::Until(next) => return Ok(Raced::Until(next)),
            };
            let Some(bytes) = self.announcement.take() else { return Ok(Raced::Won(won)) };
            self.stage = Stage::Announcing(Announcement::begin(won, bytes, &self.notify)?);
        }
        let Stage::Announcing(announcement) = &mut self.stage else {
            return Err(Error::Closed.into());
        };
        match announcement.take()? {
            Some(attempt) => Ok(Raced::Won(attempt)),
            None => self.check_time(clock::now()).map(|()| Raced::Until(None)),
        }
    }

    /// Begins attempts that are due. `Ok`: an attempt has won, or the race goes on.
    fn go_on_racing(&mut self) -> io::Result<Raced> {
        let now = clock::now();
        if let Stage::Racing(racing) = &mut self.stage
            && let Some(won) = racing.take_winner(now)
        {
            return Ok(Raced::Won(won));
        }
        self.check_time(now)?;
        let Self { options, loops, group, notify, stage, target, .. } = self;
        let filter = options.filter.as_ref().map(|filter| (filter, target.address()));
        let Stage::Racing(racing) = stage else { return Err(Error::Closed.into()) };
        loop {
            match racing.race.next(now) {
                Move::Start(candidate) => {
                    let (to, reactor) = (&candidate.address, loops.pick(&candidate.address));
                    let started =
                        Attempt::start(to, &options.connect, group, &reactor, notify, filter);
                    racing.started(candidate, started, now);
                }
                Move::Wait(next) => return Ok(Raced::Until(next)),
                Move::Lost => return Err(racing.race.take_failure()),
            }
        }
    }

    fn check_time(&self, now: Instant) -> io::Result<()> {
        if self.cancel.is_some_and(Cancel::is_cancelled) {
            return Err(cancelled());
        }
        if self.deadline.is_some_and(|deadline| now >= deadline) {
            let text = format!("timed out after {:?}", self.timeout);
            return Err(io::Error::new(ErrorKind::TimedOut, text));
        }
        Ok(())
    }
}

enum Raced {
    Won(Attempt),
    Until(Option<Instant>),
}

impl Stage {
    fn failed(error: Error) -> Self {
        Self::Over(Some(error))
    }
}

impl Loops {
    fn pick(&self, to: &Address) -> Arc<Remote> {
        match self {
            Self::Of(manager) => manager.pick(to.ip()),
            Self::This(remote) => remote.clone(),
        }
    }
}

impl Racing {
    /// The attempt that is connected. Those that have failed leave the race.
    fn take_winner(&mut self, now: Instant) -> Option<Attempt> {
        let mut index = 0;
        while index < self.running.len() {
            match self.running[index].1.outcome() {
                None => index += 1,
                Some(AttemptOutcome::Connected) => return Some(self.running.swap_remove(index).1),
                Some(outcome) => {
                    let (candidate, _) = self.running.swap_remove(index);
                    self.lose(candidate, outcome, now);
                }
            }
        }
        None
    }

    fn started(
        &mut self,
        candidate: Candidate,
        started: Result<Attempt, AttemptOutcome>,
        now: Instant,
    ) {
        match started {
            Ok(attempt) => self.running.push((candidate, attempt)),
            Err(AttemptOutcome::Failed(error)) if error.kind() == ErrorKind::WouldBlock => {
                self.race.postpone(candidate, now + FULL_QUEUE.longest(self.full));
                self.full += 1;
            }
            Err(outcome) => self.lose(candidate, outcome, now),
        }
    }

    fn lose(&mut self, candidate: Candidate, outcome: AttemptOutcome, now: Instant) {
        match outcome {
            AttemptOutcome::Again(error) => self.race.again(candidate, error, now),
            AttemptOutcome::Failed(error) => self.race.failed(error, now),
            // The caller has handled it: it is not lost.
            AttemptOutcome::Connected => {}
        }
    }
}
