//! What everybody shares of a connection: its task, its output, and where it belongs.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use netpoll_buffer::LinkBuffer;

use super::mailbox::{Command, Remote};
use super::run::Runner;
use super::schedule::schedule;
use crate::base::address::Address;
use crate::base::blocking;
use crate::base::clock;
use crate::base::error::{Error, Result};
use crate::base::origin::{Origin, Release};
use crate::base::stats::Work;
use crate::base::sync::{AtomicBool, AtomicU16, AtomicU64, Ordering};
use crate::base::waits::{Of, Wake};
use crate::connection::callbacks::Service;
use crate::connection::group::Group;
use crate::io::socket::{Kind, Stream};
use crate::pure::placement::{Behaviour, History, Placement};
use crate::pure::slab::Token;
use crate::pure::task::{Events, Task};

use super::extras::{Extras, Timeouts};
use super::job::Job;
use super::output::{FollowUp, Output};
use crate::pure::deadlines::Progress;

/// The addresses of both ends.
enum Ends {
    /// The peer's; ours is asked of the socket.
    Peer(Address),
    /// The peer's and ours, as a proxy has told them.
    Told(Box<(Address, Address)>),
}

/// How often one who waits for room looks whether the peer takes any bytes, and whether its thread
/// is wanted elsewhere.
const LOOK: Duration = Duration::from_millis(50);

/// See the module.
pub(crate) struct Shared {
    pub(crate) task: Task<Runner>,
    pub(crate) output: Output,
    pub(crate) group: Arc<Group>,
    pub(crate) reactor: Arc<Remote>,
    ends: Ends,
    /// What it came by, which counts it until the socket has closed; a dialled one has none.
    pub(crate) listener: Option<Arc<dyn Release>>,
    /// How many of the bytes sent stand in the statistics.
    reported: AtomicU64,
    /// Under what name the reactor knows it; [`Token::NONE`] before that.
    token: AtomicU64,
    history: History,
    /// What its reads have taught, for the next scratch; see
    /// [`take_read_hint`](netpoll_buffer::LinkBuffer::take_read_hint). For its owner alone.
    read_hint: AtomicU16,
    /// What its socket is.
    pub(crate) kind: Kind,
    /// Its owner is the caller that dialled it. For that owner alone.
    pub(crate) is_callers: AtomicBool,
    /// Bytes received in all. Written by the owner alone.
    received: AtomicU64,
    pub(crate) extras: Extras,
}

impl Shared {
    /// A connection that came in; it counts among those of its loop until its socket closes.
    pub(crate) fn accepted(
        output: Output,
        group: Arc<Group>,
        reactor: Arc<Remote>,
        origin: Origin,
    ) -> Self {
        let Origin { listener, peer, local } = origin;
        let ends = match local {
            Some(local) => Ends::Told(Box::new((peer, local))),
            None => Ends::Peer(peer),
        };
        let kind = Kind::of(&listener.info().address);
        Self::new(output, group, reactor, ends, kind, Some(listener))
    }

    /// A connection that we opened.
    pub(crate) fn dialled(
        output: Output,
        group: Arc<Group>,
        reactor: Arc<Remote>,
        peer: Address,
    ) -> Self {
        let kind = Kind::of(&peer);
        Self::new(output, group, reactor, Ends::Peer(peer), kind, None)
    }

    fn new(
        output: Output,
        group: Arc<Group>,
        reactor: Arc<Remote>,
        ends: Ends,
        kind: Kind,
        listener: Option<Arc<dyn Release>>,
    ) -> Self {
        reactor.enter();
        let token = AtomicU64::new(Token::NONE.to_u64());
        let task = Task::new(Runner::default());
        let (received, extras) = (AtomicU64::new(0), Extras::new(group.limits()));
        Self {
            task,
            output,
            group,
            reactor,
            ends,
            listener,
            token,
            history: History::default(),
            read_hint: AtomicU16::new(0),
            kind,
            is_callers: AtomicBool::new(false),
            received,
            reported: AtomicU64::new(0),
            extras,
        }
    }

    #[inline]
    pub(crate) fn read_hint(&self) -> u16 {
        self.read_hint.load(Ordering::Relaxed)
    }

    #[inline]
    pub(crate) fn set_read_hint(&self, learnt: u16) {
        self.read_hint.store(learnt, Ordering::Relaxed);
    }

    /// Where its next callback should run, by what the last ones did.
    pub(crate) fn place(&self) -> Placement {
        self.history.place(&self.reactor.loop_history)
    }

    /// Notes what a callback of it did.
    pub(crate) fn note(&self, behaviour: Behaviour) {
        self.history.note(behaviour, &self.reactor.loop_history);
    }

    /// Notes what a callback of it did on a pool, which is no news for those that run elsewhere.
    pub(crate) fn note_alone(&self, behaviour: Behaviour) {
        self.history.note_alone(behaviour);
    }

    /// Whether its callbacks have shown that they return.
    pub(crate) fn is_proven(&self) -> bool {
        self.history.is_proven()
    }

    pub(crate) fn token(&self) -> Token {
        Token::from_u64(self.token.load(Ordering::Acquire))
    }

    pub(crate) fn set_token(&self, token: Token) {
        self.token.store(token.to_u64(), Ordering::Release);
    }

    /// Starts an orderly close, from any thread; whoever waits in a read or a flush of it returns.
    pub(crate) fn request_close(self: &Arc<Self>) {
        if self.group.is_dialled() {
            // Its caller may hold it for long; the peer is told now.
            self.output.close();
        }
        if self.task.word.notify(Events::CLOSE) {
            schedule(self);
        }
        self.output.interrupt();
    }

    /// What the reactor's watch found is over: ends waits, and has the owner close.
    pub(crate) fn expire(&self) -> bool {
        if self.group.is_dialled() {
            self.output.close();
        }
        let must_run = self.task.word.notify(Events::EXPIRED);
        self.output.interrupt();
        must_run
    }

    /// Closes by a reset, from any thread; what is queued is dropped.
    pub(crate) fn request_reset(self: &Arc<Self>) {
        if self.task.word.notify(Events::ABORT | Events::RESET) {
            schedule(self);
        }
        self.output.interrupt();
    }

    /// Closes now, from any thread, whatever is left to send.
    pub(crate) fn abort(self: &Arc<Self>) -> bool {
        let must_run = self.task.word.notify(Events::ABORT);
        self.output.interrupt();
        must_run
    }

    pub(crate) fn is_active(&self) -> bool {
        let over = Events::OVER | Events::PEER_GONE;
        !self.task.word.events().has_any(over)
            && !self.task.word.is_closed()
            && !self.output.is_sealed()
    }

    pub(crate) fn peer(&self) -> &Address {
        match &self.ends {
            Ends::Peer(peer) => peer,
            Ends::Told(told) => &told.0,
        }
    }

    pub(crate) fn local_addr(&self) -> Result<Address> {
        if let Ends::Told(told) = &self.ends {
            return Ok(told.1.clone());
        }
        let asked = self.output.with_stream(Stream::local_address).ok_or(Error::Closed)?;
        Ok(asked?)
    }

    /// Whether its owner has been told to stop waiting.
    pub(crate) fn is_interrupted(&self) -> bool {
        self.task.word.events().has_any(Events::OVER)
    }

    /// The same, with the reason.
    #[inline]
    pub(crate) fn check_over(&self) -> Result<()> {
        if self.is_interrupted() { Err(self.why_over()) } else { Ok(()) }
    }

    #[cold]
    fn why_over(&self) -> Error {
        self.extras.expired().map_or(Error::Closed, Error::TimedOut)
    }

    pub(crate) fn input_limit(&self) -> usize {
        self.group.limits().input_limit
    }

    /// Those of the limits, unless somebody has set them.
    pub(crate) fn timeouts(&self) -> Timeouts {
        self.extras.timeouts().unwrap_or_else(|| self.usual_timeouts())
    }

    pub(crate) fn set_timeouts(&self, change: impl FnOnce(&mut Timeouts)) {
        self.extras.set_timeouts(self.usual_timeouts(), change);
    }

    pub(crate) fn reset_times(self: &Arc<Self>) {
        if self.extras.reset_times(self.group.limits()) {
            drop(self.reactor.post(Command::Watch(self.clone())));
        }
    }

    fn usual_timeouts(&self) -> Timeouts {
        let limits = self.group.limits();
        Timeouts { read: limits.read_timeout, write: limits.write_timeout }
    }

    /// Sends what is written, for the owner, and notes what it should know; see [`Output::send`].
    #[inline]
    pub(crate) fn send(&self, bytes: &mut LinkBuffer) -> Result<()> {
        let next = self.output.send(bytes, &self.group.policy)?;
        if !next.is_none() {
            self.task.word.note(self.go_on_later(next));
        }
        Ok(())
    }

    /// The socket takes bytes again, or another go is due: sends what is queued. Returns what the
    /// owner is to be told; `None` where it need not look.
    #[inline]
    pub(crate) fn writable(&self) -> Option<Events> {
        if !self.output.is_blocked() {
            return None;
        }
        let next = self.output.go_on(self.group.limits().output);
        let events = self.go_on_later(next);
        (next.relieved || events != Events::NONE).then_some(events)
    }

    /// Leaves another go that is due to the reactor; returns what the owner is to be told.
    #[cold]
    pub(crate) fn go_on_later(&self, next: FollowUp) -> Events {
        if next.unsent {
            // Without a reactor nothing is sent any more. Before it knows the connection there is
            // no token, and the first edge is still to come.
            drop(self.reactor.post(Command::Transmit(self.token())));
        }
        next.events
    }

    /// Waits until the peer has taken what stands above the low-water mark, in the write timeout.
    pub(crate) fn wait_for_peer(&self) -> Result<()> {
        let timeout = self.timeouts().write;
        self.wait_below(timeout.and_then(|time| clock::now().checked_add(time)))
    }

    /// Waits until the output is below its low-water mark.
    pub(crate) fn wait_below(&self, until: Option<Instant>) -> Result<()> {
        let interrupted = || self.check_over();
        if !self.output.is_congested() {
            return self.output.wait_below(|| until, interrupted);
        }
        let waiting = blocking::begin("wait for the peer to take bytes", self.of(), None)?;
        loop {
            let sent = self.output.sent();
            let look = waiting.is_listed().then(|| clock::now() + LOOK);
            let end = || [until, self.extras.write_deadline()].into_iter().flatten().min();
            let deadline = || end().into_iter().chain(look).min();
            let outcome = self.output.wait_below(deadline, interrupted);
            let is_late = end().is_some_and(|end| end <= clock::now());
            if is_late || waiting.is_over() || !matches!(outcome, Err(Error::TimedOut(_))) {
                return outcome;
            }
            if self.output.sent() != sent {
                waiting.progressed();
            }
        }
    }

    /// What a wait for it waits for.
    pub(crate) fn of(&self) -> Of {
        if self.group.is_dialled() { Of::Elsewhere } else { Of::Peer }
    }

    /// For the owner alone, which makes an addition a load and a store.
    pub(crate) fn count_received(&self, n: usize) {
        self.received.store(self.received() + n as u64, Ordering::Relaxed);
    }

    /// How many bytes were sent since the last call. For the owner, and for who closes the socket
    /// when there is none any more: of two writers one would lose its addition.
    pub(crate) fn sent_since(&self) -> u64 {
        let sent = self.output.sent();
        let before = self.reported.load(Ordering::Relaxed);
        self.reported.store(sent, Ordering::Relaxed);
        sent - before
    }

    pub(crate) fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// Puts a job into the list, unless it stands there already; false when the connection has
    /// ended.
    pub(crate) fn enqueue(&self, job: Arc<Job>) -> bool {
        !job.enqueue() || self.extras.push_job(job)
    }

    /// What a watch looks at. A dialled connection's caller is never at work for the peer, but may
    /// have stopped waiting for it.
    pub(crate) fn progress(&self) -> Progress {
        let (events, busy) = (self.task.word.events(), self.task.word.is_busy());
        let receives = !events.has_any(Events::PAUSED)
            && (self.group.reads_when_congested() || !self.output.is_congested());
        Progress {
            received: self.received(),
            sent: self.output.sent(),
            busy: busy && !self.group.is_dialled(),
            partial: events.has_any(Events::PARTIAL) && !busy && receives,
            congested: self.output.is_congested(),
        }
    }

    /// Changes what is watched, and has the reactor look anew. Its errors are a closed
    /// connection's.
    pub(crate) fn rewatch(
        self: &Arc<Self>,
        change: impl FnOnce(&mut crate::pure::deadlines::Watch),
    ) {
        if self.extras.rewatch(change) {
            drop(self.reactor.post(Command::Watch(self.clone())));
        }
    }

    /// The output has gone above its high-water mark: watches whether the peer takes any of it.
    pub(crate) fn watch_output(self: &Arc<Self>) {
        let Some(timeout) = self.timeouts().write else { return };
        if self.output.is_congested() {
            let sent = self.output.sent();
            self.rewatch(|watch| watch.set_output(timeout, sent, clock::now()));
        }
    }

    /// Whether the socket is closed only when code of the user's has run, or somebody else lets go
    /// of it.
    pub(crate) fn close_is_put_off(&self, service: Option<&dyn Service>) -> bool {
        service.is_some_and(Service::minds_disconnect)
            || self.extras.minds_close()
            || self.may_outlive_close()
    }

    /// Whether somebody else may have a descriptor of the socket.
    pub(crate) fn may_outlive_close(&self) -> bool {
        self.task.word.events().has_any(Events::SHOWN) || self.output.is_detached()
    }

    /// Hands the closed connection back to its reactor, which closes the socket.
    pub(crate) fn finish(self: &Arc<Self>) {
        if self.reactor.post(Command::Finish(self.clone())).is_err() {
            self.close_stream();
        }
    }

    /// Closes the socket and leaves the group: the last act.
    pub(crate) fn close_stream(&self) {
        let (lost, reset) =
            self.output.close_stream(self.task.word.events().has_any(Events::RESET));
        if lost > 0 {
            log::debug!("{lost} accepted bytes to {} were not sent", self.peer());
        }
        if let Err(error) = reset {
            log::debug!("cannot reset the connection to {}: {error}", self.peer());
        }
        self.reactor.traffic.add(Work { sent: self.sent_since(), ..Work::default() });
        self.reactor.leave();
        if let Some(listener) = &self.listener {
            listener.release(self.peer());
        }
        self.group.leave();
    }
}

/// Ends a read. One who waits for room looks by itself.
impl Wake for Shared {
    fn wake(&self) {
        self.task.word.nudge();
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Connection")
            .field("peer", self.peer())
            .field("task", &self.task)
            .field("pending", &self.output.pending())
            .finish_non_exhaustive()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    /// A server has as many as it has connections, most of them idle.
    #[test]
    fn a_connection_is_small() {
        assert!(size_of::<Shared>() <= 248, "{} bytes", size_of::<Shared>());
    }
}
