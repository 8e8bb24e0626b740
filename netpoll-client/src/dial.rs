//! One dial: its name is resolved and the addresses are raced, within one deadline.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use netpoll_core::{
    Address, Attempt, AttemptOutcome, Group, Notify, PollManager, Result, blocking, clock,
    socket::ConnectOptions,
};

use crate::backoff::Backoff;
use crate::cancel::Cancel;
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
}

/// One dial under way.
pub(crate) struct Dial<'a> {
    options: &'a DialOptions,
    /// `None`: the shared one.
    manager: Option<&'a Arc<PollManager>>,
    /// What the connection will belong to.
    group: &'a Arc<Group>,
    timeout: Duration,
    deadline: Option<Instant>,
    cancel: Option<&'a Cancel>,
    notify: Arc<Notify>,
}

impl<'a> Dial<'a> {
    pub(crate) fn new(
        options: &'a DialOptions,
        manager: Option<&'a Arc<PollManager>>,
        group: &'a Arc<Group>,
        timeout: Duration,
        cancel: Option<&'a Cancel>,
    ) -> Self {
        let (deadline, notify) = (clock::now().checked_add(timeout), Arc::default());
        Self { options, manager, group, timeout, deadline, cancel, notify }
    }

    /// Resolves and connects.
    pub(crate) fn run(&self, network: &str, address: &str) -> Result<Attempt> {
        let target = Target::parse(network, address)?;
        if self.timeout.is_zero() {
            return Err(target.wrong("the timeout is 0, so no connection could be made"));
        }
        blocking::check(&format!("dial {network} {address}"))?;
        let manager = match self.manager {
            Some(manager) => manager.check_process().map(|()| manager.clone())?,
            None => PollManager::shared()?,
        };
        if let Some(cancel) = self.cancel {
            cancel.watch(&self.notify);
        }
        let addresses = self.local_fits(&target, self.resolve(&target)?)?;
        self.connect(addresses, &manager).map_err(|error| target.failed(error))
    }

    fn resolve(&self, target: &Target<'_>) -> Result<Vec<Address>> {
        let (host, port) = match &target.kind {
            Kind::Literal(address) => return Ok(vec![address.clone()]),
            Kind::Name(host, port) => (*host, *port),
        };
        let asked = self.options.resolver.ask(host, port, &self.notify);
        let answer = asked.and_then(|question| self.wait_for(&question));
        target.fitting(answer.map_err(|error| target.failed(error))?)
    }

    fn wait_for(&self, question: &Question) -> io::Result<Vec<SocketAddr>> {
        loop {
            if let Some(answer) = question.answer() {
                return answer;
            }
            self.check_time(clock::now())?;
            self.notify.wait(self.deadline)?;
        }
    }

    /// Only addresses of its own family can be reached from a local address.
    fn local_fits(&self, target: &Target<'_>, mut addresses: Vec<Address>) -> Result<Vec<Address>> {
        if let Some(local) = self.options.connect.local {
            let fits = |to: &Address| to.inet().is_none_or(|to| to.is_ipv4() == local.is_ipv4());
            addresses.retain(fits);
        }
        if addresses.is_empty() {
            return Err(target.wrong("it has no address of the local address's family"));
        }
        Ok(addresses)
    }

    /// Runs the race. The attempts that have not won are dropped when this returns, which closes
    /// them.
    fn connect(&self, addresses: Vec<Address>, manager: &PollManager) -> io::Result<Attempt> {
        let DialOptions { connect, stagger, .. } = self.options;
        let mut race = Race::new(addresses, *stagger, clock::now());
        let mut running: Vec<(Candidate, Attempt)> = Vec::new();
        let mut failures = 0;
        loop {
            let now = clock::now();
            let mut index = 0;
            while index < running.len() {
                match running[index].1.outcome() {
                    None => index += 1,
                    Some(AttemptOutcome::Connected) => return Ok(running.swap_remove(index).1),
                    Some(outcome) => {
                        let (candidate, _) = running.swap_remove(index);
                        lose(&mut race, candidate, outcome, now);
                    }
                }
            }
            self.check_time(now)?;
            match race.next(now) {
                Move::Start(candidate) => {
                    let (to, reactor) = (&candidate.address, manager.pick(candidate.address.ip()));
                    match Attempt::start(to, connect, self.group, &reactor, &self.notify) {
                        Ok(attempt) => running.push((candidate, attempt)),
                        Err(AttemptOutcome::Failed(error))
                            if error.kind() == ErrorKind::WouldBlock =>
                        {
                            race.postpone(candidate, now + FULL_QUEUE.longest(failures));
                            failures += 1;
                        }
                        Err(outcome) => lose(&mut race, candidate, outcome, now),
                    }
                }
                Move::Wait(next) => {
                    let until = [next, self.deadline].into_iter().flatten().min();
                    self.notify.wait(until)?;
                }
                Move::Lost => return Err(race.into_failure()),
            }
        }
    }

    fn check_time(&self, now: Instant) -> io::Result<()> {
        if self.cancel.is_some_and(Cancel::is_cancelled) {
            return Err(io::Error::new(ErrorKind::Interrupted, "cancelled"));
        }
        if self.deadline.is_some_and(|deadline| now >= deadline) {
            let text = format!("timed out after {:?}", self.timeout);
            return Err(io::Error::new(ErrorKind::TimedOut, text));
        }
        Ok(())
    }
}

fn lose(race: &mut Race, candidate: Candidate, outcome: AttemptOutcome, now: Instant) {
    match outcome {
        AttemptOutcome::Again(error) => race.again(candidate, error, now),
        AttemptOutcome::Failed(error) => race.failed(error, now),
        // The caller has handled it: it is not lost.
        AttemptOutcome::Connected => {}
    }
}
