//! The part of a connection that all threads share: task, output, group and reactor.

use std::sync::Arc;
use std::time::{Duration, Instant};

use netpoll_buffer::LinkBuffer;

use super::callbacks::Service;
use super::extras::{Extras, Timeouts};
use super::filtered::{Filtered, Maker};
use super::group::ConnectionGroup;
use super::job::Job;
use super::mailbox::{Command, Remote};
use super::output::{FollowUp, Output};
use super::relay::Side;
use super::run::Runner;
use super::schedule::schedule;
use super::unflushed::Unflushed;
use crate::base::address::Address;
use crate::base::blocking;
use crate::base::clock;
use crate::base::error::{Error, Result};
use crate::base::proxy::Header;
use crate::base::stats::Work;
use crate::base::sync::{AtomicU16, AtomicU64, Ordering, StaticU64};
use crate::base::waits::{WaitsFor, Wake};
use crate::connection::origin::{Origin, Release};
use crate::io::socket::TcpInfo;
use crate::io::stream::{self, Stream};
use crate::pure::deadlines::{Progress, TimeWatch};
use crate::pure::placement::History;
use crate::pure::slab::Token;
use crate::pure::task::{Events, Task};

/// How often a thread that waits for room checks whether the peer takes any bytes, and whether
/// another callback needs the thread.
const LOOK: Duration = Duration::from_millis(50);

/// One connection, in an `Arc`; `connection.rs` has the picture.
pub(crate) struct Shared {
    /// Of all connections of the process this one alone.
    pub(crate) id: u64,
    pub(crate) task: Task<Runner>,
    pub(crate) output: Output,
    pub(crate) group: Arc<ConnectionGroup>,
    pub(crate) reactor: Arc<Remote>,
    ends: Ends,
    /// The listener that accepted it, which counts it until the socket has closed; `None` for a
    /// dialled one.
    pub(crate) listener: Option<Arc<dyn Release>>,
    /// How many of the sent bytes are in the statistics.
    reported: AtomicU64,
    /// The token that the reactor gave it; [`Token::NONE`] before that.
    token: AtomicU64,
    pub(crate) history: History,
    /// How much a read is expected to bring, for the next scratch; see
    /// [`take_read_hint`](netpoll_buffer::LinkBuffer::take_read_hint). For its owner alone.
    read_hint: AtomicU16,
    /// Which thread has written what is not flushed.
    pub(crate) unflushed: Unflushed,
    /// The number of bytes received. Only the owner writes it.
    received: AtomicU64,
    pub(crate) extras: Extras,
}

/// The addresses of both ends.
enum Ends {
    /// The peer's address; this end's is read from the socket.
    Peer(Address),
    /// With more than that.
    More(Box<More>),
}

/// What few connections have from their start.
struct More {
    /// The address of the socket's peer.
    peer: Address,
    /// What a proxy, which is that peer, said of both ends.
    proxied: Option<Header>,
    filtered: Option<Filtered>,
}

/// How many bytes there are for each connection of a server, most of them idle.
#[cfg(not(loom))]
const SMALL: usize = 248;
#[cfg(not(any(test, loom)))]
const _: () = assert!(size_of::<Shared>() <= SMALL);

impl Shared {
    /// Makes a connection that was accepted. Its loop counts it until its socket closes.
    pub(crate) fn accepted(
        output: Output,
        group: Arc<ConnectionGroup>,
        reactor: Arc<Remote>,
        origin: Origin,
    ) -> Self {
        let Origin { listener, peer, proxied } = origin;
        let maker = listener.filter().map(|server| Maker::Server(server.clone()));
        let ends = Ends::new(peer, proxied, maker);
        let in_pieces = stream::arrives_in_pieces(&listener.info().address);
        Self::new(output, group, reactor, ends, in_pieces, Some(listener))
    }

    /// Makes a connection that was dialled. Its loop counts it until its socket closes.
    pub(crate) fn dialled(
        output: Output,
        group: Arc<ConnectionGroup>,
        reactor: Arc<Remote>,
        peer: Address,
        maker: Option<Maker>,
    ) -> Self {
        let in_pieces = stream::arrives_in_pieces(&peer);
        Self::new(output, group, reactor, Ends::new(peer, None, maker), in_pieces, None)
    }

    fn new(
        output: Output,
        group: Arc<ConnectionGroup>,
        reactor: Arc<Remote>,
        ends: Ends,
        in_pieces: bool,
        listener: Option<Arc<dyn Release>>,
    ) -> Self {
        reactor.enter();
        let token = AtomicU64::new(Token::NONE.to_u64());
        let task = Task::new(Runner::default());
        if in_pieces {
            task.word.note(Events::IN_PIECES);
        }
        let output = if ends.filtered().is_some() {
            group.policy.expect_filters();
            output.filtered(&group.policy.memory)
        } else {
            output
        };
        let (received, extras) = (AtomicU64::new(0), Extras::new(group.limits()));
        Self {
            id: next_id(),
            task,
            output,
            group,
            reactor,
            ends,
            listener,
            token,
            history: History::default(),
            read_hint: AtomicU16::new(0),
            unflushed: Unflushed::nothing(),
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

    pub(crate) fn token(&self) -> Token {
        Token::from_u64(self.token.load(Ordering::Acquire))
    }

    pub(crate) fn set_token(&self, token: Token) {
        self.token.store(token.to_u64(), Ordering::Release);
    }

    /// Begins an orderly close, from any thread. A read or flush that waits returns.
    pub(crate) fn request_close(self: &Arc<Self>) {
        if self.group.is_dialled() {
            // Its caller may keep it for long, so the stream ends now.
            self.catch_up();
            self.close_output();
        }
        if self.task.word.notify(Events::CLOSE) {
            schedule(self);
        }
        self.output.interrupt();
        self.tell_if_gone();
    }

    /// Begins a close after the time watch found a time to be over. Waits end. Returns whether the
    /// caller must have it run.
    pub(crate) fn expire(&self) -> bool {
        if self.group.is_dialled() {
            self.close_output();
        }
        let must_run = self.task.word.notify(Events::EXPIRED);
        self.output.interrupt();
        self.tell_if_gone();
        must_run
    }

    /// Begins a close by a reset, from any thread. What is queued is dropped.
    pub(crate) fn request_reset(self: &Arc<Self>) {
        if self.task.word.notify(Events::ABORT | Events::RESET) {
            schedule(self);
        }
        self.output.interrupt();
        self.tell_if_gone();
    }

    /// Begins a close that sends nothing more, from any thread. Returns whether the caller must
    /// have it run.
    pub(crate) fn abort(self: &Arc<Self>) -> bool {
        let must_run = self.task.word.notify(Events::ABORT);
        self.output.interrupt();
        self.tell_if_gone();
        must_run
    }

    pub(crate) fn is_active(&self) -> bool {
        let over = match &self.listener {
            Some(_) => Events::OVER | Events::PEER_GONE,
            // An aged one finishes what is under way; a pool lets it go.
            None => Events::OVER | Events::PEER_GONE | Events::AGED,
        };
        !self.task.word.events().has_any(over)
            && !self.task.word.is_closed()
            && !self.output.is_sealed()
    }

    /// Whether it closes when it has nothing left to serve.
    pub(crate) fn is_shutting_down(&self) -> bool {
        self.group.is_shutting_down() || self.task.word.events().has_any(Events::AGED)
    }

    pub(crate) fn peer(&self) -> &Address {
        match &self.ends {
            Ends::Peer(peer) => peer,
            Ends::More(more) => {
                let told = more.proxied.as_ref().and_then(Header::source);
                told.unwrap_or(&more.peer)
            }
        }
    }

    /// What the proxy said of the connection.
    pub(crate) fn proxy_header(&self) -> Option<&Header> {
        match &self.ends {
            Ends::Peer(_) => None,
            Ends::More(more) => more.proxied.as_ref(),
        }
    }

    /// The filter of the connection, or what will make it.
    pub(crate) fn filtered(&self) -> Option<&Filtered> {
        self.ends.filtered()
    }

    /// Whether the peer came to this process or was dialled: `from` or `to` its address.
    pub(crate) fn direction(&self) -> &'static str {
        if self.listener.is_some() { "from" } else { "to" }
    }

    pub(crate) fn local_addr(&self) -> Result<Address> {
        if let Some(local) = self.proxy_header().and_then(Header::destination) {
            return Ok(local.clone());
        }
        let asked = self.output.with_stream(Stream::local_address).ok_or(Error::Closed)?;
        Ok(asked?)
    }

    pub(crate) fn tcp_info(&self) -> Result<TcpInfo> {
        let asked = self.output.with_stream(Stream::tcp_info).ok_or(Error::Closed)?;
        Ok(asked?)
    }

    /// Whether its owner must not wait any more: a close has begun.
    pub(crate) fn is_interrupted(&self) -> bool {
        self.task.word.events().has_any(Events::OVER)
    }

    /// As [`is_interrupted`](Self::is_interrupted), with the reason.
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

    /// The timeouts that were set, else those of the limits.
    pub(crate) fn timeouts(&self) -> Timeouts {
        self.extras.timeouts().unwrap_or_else(|| self.usual_timeouts())
    }

    pub(crate) fn set_timeouts(&self, change: impl FnOnce(&mut Timeouts)) {
        self.extras.set_timeouts(&self.task.word, self.usual_timeouts(), change);
        self.output.marks.note_waits();
    }

    pub(crate) fn reset_times(self: &Arc<Self>) {
        if self.extras.reset_times(self.group.limits()) {
            drop(self.reactor.post(Command::TimeWatch(self.clone())));
        }
    }

    fn usual_timeouts(&self) -> Timeouts {
        let limits = self.group.limits();
        Timeouts { read: limits.read_timeout, write: limits.write_timeout }
    }

    /// Seals the write side, and ends our stream when all that was accepted is sent. Returns the
    /// events for the owner.
    pub(crate) fn close_output(&self) -> Events {
        let next = self.output.close();
        if next.is_none() { Events::NONE } else { self.go_on_later(next) }
    }

    /// Sends what is written, for the owner, and notes events for it; see [`Output::flush`].
    #[inline]
    pub(crate) fn send(&self, bytes: &mut LinkBuffer) -> Result<()> {
        let next = self.output.flush(bytes, &self.group.policy, &self.unflushed)?;
        if !next.is_none() {
            self.task.word.note(self.go_on_later(next));
        }
        Ok(())
    }

    /// Sends what is queued: the socket takes bytes again, or another burst is due. Returns the
    /// events for the owner; `None` if it need not look.
    #[inline]
    pub(crate) fn writable(&self) -> Option<Events> {
        if !self.output.is_blocked() {
            return None;
        }
        let next = self.output.go_on(self.group.limits().output);
        let events = self.go_on_later(next);
        (next.relieved || events != Events::NONE).then_some(events)
    }

    /// Asks the reactor for another burst if one is due; returns the events for the owner.
    #[cold]
    pub(crate) fn go_on_later(&self, next: FollowUp) -> Events {
        if next.unsent {
            // Without a reactor nothing more is sent. Before the registration there is no token,
            // and the first event is still to come.
            drop(self.reactor.post(Command::Transmit(self.token())));
        }
        next.events
    }

    /// Waits until the output is below its low-water mark, for the write timeout at the most.
    pub(crate) fn wait_for_peer(&self) -> Result<()> {
        let timeout = self.timeouts().write;
        self.wait_below(timeout.and_then(|time| clock::now().checked_add(time)), || Ok(()))
    }

    /// Waits until the output is below its low-water mark, as long as `still` succeeds.
    pub(crate) fn wait_below(
        &self,
        until: Option<Instant>,
        still: impl Fn() -> Result<()>,
    ) -> Result<()> {
        let interrupted = || self.check_over().and_then(|()| still());
        if !self.output.is_congested() {
            return self.output.wait_below(|| until, interrupted);
        }
        let waiting = blocking::begin("wait for the peer to take bytes", self.waits_for(), None)?;
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

    /// Whether callbacks drive it, or a relay.
    pub(crate) fn is_served(&self) -> bool {
        !self.group.is_dialled() || self.task.word.events().has_any(Events::RELAYED)
    }

    /// On what a wait of this connection depends.
    pub(crate) fn waits_for(&self) -> WaitsFor {
        if self.group.is_dialled() { WaitsFor::Elsewhere } else { WaitsFor::Peer }
    }

    /// Adds to the bytes received. For the owner alone, so a load and a store are enough.
    pub(crate) fn count_received(&self, n: usize) {
        self.received.store(self.received() + n as u64, Ordering::Relaxed);
    }

    /// The bytes sent since the last call. For the owner, and for the thread that closes the socket
    /// when there is no owner any more: of two writers at once, one would lose its addition.
    pub(crate) fn sent_since(&self) -> u64 {
        let sent = self.output.sent();
        let before = self.reported.load(Ordering::Relaxed);
        self.reported.store(sent, Ordering::Relaxed);
        sent - before
    }

    pub(crate) fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// Puts a job into the list, unless it is in there; `false` if the connection has ended.
    pub(crate) fn enqueue(&self, job: Arc<Job>) -> bool {
        !job.enqueue() || self.extras.push_job(&self.task.word, job)
    }

    /// For a callback of this connection: when it has returned, `side` takes the place of the
    /// callbacks.
    pub(crate) fn begin_relay(&self, side: Box<Side>) {
        self.extras.set_side(&self.task.word, side);
        self.task.word.clear(Events::PAUSED);
        self.task.word.note(Events::RELAYED);
    }

    /// What a time watch looks at. A dialled connection never counts as busy: what its caller does
    /// between two calls is no work for the peer.
    pub(crate) fn progress(&self) -> Progress {
        let (events, busy) = (self.task.word.events(), self.task.word.is_busy());
        let receives = !events.has_any(Events::NOT_READ)
            && (self.group.reads_when_congested() || !self.output.is_congested());
        let filtered = self.filtered().filter(|_| self.output.is_filtered());
        let partial =
            events.has_any(Events::PARTIAL) || filtered.is_some_and(|it| it.waiting() > 0);
        Progress {
            received: filtered.map_or_else(|| self.received(), Filtered::received),
            sent: self.output.sent(),
            busy: busy && !self.group.is_dialled(),
            held: events.has_any(Events::HELD),
            partial: partial && !busy && receives,
            congested: self.output.is_congested(),
            handshake_only: filtered.is_some() && self.received() == 0,
            rated: filtered.map(|filtered| self.received() + filtered.waiting()),
        }
    }

    /// Changes the time watch, and has the reactor look again. Does nothing if the connection has
    /// ended.
    pub(crate) fn rewatch(self: &Arc<Self>, change: impl FnOnce(&mut TimeWatch)) {
        if self.extras.rewatch(&self.task.word, change) {
            drop(self.reactor.post(Command::TimeWatch(self.clone())));
        }
    }

    /// Begins to watch whether the peer takes anything of an output above its high-water mark.
    pub(crate) fn watch_output(self: &Arc<Self>) {
        let Some(timeout) = self.timeouts().write else { return };
        if self.output.is_congested() {
            let sent = self.output.sent();
            self.rewatch(|watch| watch.set_output(timeout, sent, clock::now()));
        }
    }

    /// Whether the socket closes only after user code has run, or after another holder of it has
    /// closed its descriptor.
    pub(crate) fn close_is_put_off(&self, service: Option<&dyn Service>) -> bool {
        service.is_some_and(Service::disconnect_runs_user_code)
            || self.extras.close_runs_user_code()
            || self.may_outlive_close()
    }

    /// Whether the user may have another descriptor of the socket.
    pub(crate) fn may_outlive_close(&self) -> bool {
        self.task.word.events().has_any(Events::SHOWN) || self.output.is_detached()
    }

    /// Passes the closed connection to its reactor, which closes the socket.
    pub(crate) fn finish(self: &Arc<Self>) {
        if self.reactor.post(Command::Finish(self.clone())).is_err() {
            self.close_stream();
        }
    }

    /// Closes the socket and leaves the group; nothing happens to the connection after that.
    pub(crate) fn close_stream(&self) {
        let (lost, reset) =
            self.output.close_stream(self.task.word.events().has_any(Events::RESET));
        if lost > 0 {
            log::debug!("connection {self}: {lost} accepted bytes were not sent");
        }
        if let Some(filtered) = self.filtered() {
            filtered.close(self);
        }
        if let Err(error) = reset {
            log::debug!("cannot reset connection {self}: {error}");
        }
        self.reactor.traffic.add(Work { sent: self.sent_since(), ..Work::default() });
        self.reactor.leave();
        if let Some(listener) = &self.listener {
            listener.release(self.peer());
        }
        self.group.leave();
    }
}

impl Ends {
    fn new(peer: Address, proxied: Option<Header>, maker: Option<Maker>) -> Self {
        if proxied.is_none() && maker.is_none() {
            return Self::Peer(peer);
        }
        Self::More(Box::new(More { peer, proxied, filtered: maker.map(Filtered::new) }))
    }

    fn filtered(&self) -> Option<&Filtered> {
        match self {
            Self::Peer(_) => None,
            Self::More(more) => more.filtered.as_ref(),
        }
    }
}

/// Ends the wait of a read. A thread that waits for room looks by itself.
impl Wake for Shared {
    fn wake(&self) {
        self.task.word.nudge();
    }
}

/// The next number of a connection, from 1. At a billion a second the numbers last 584 years.
fn next_id() -> u64 {
    static LAST: StaticU64 = StaticU64::new(0);
    LAST.fetch_add(1, Ordering::Relaxed) + 1
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::os::fd::OwnedFd;

    use super::*;

    /// The size without the streams in memory, which only tests have: it is asserted above as well.
    #[test]
    fn a_connection_is_small() {
        let size = size_of::<Shared>() + size_of::<OwnedFd>() - size_of::<Stream>();
        assert!(size <= SMALL + 4, "{size} bytes");
    }
}
